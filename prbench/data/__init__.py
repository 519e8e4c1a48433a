"""Load a data set through its cache, check it against what its entry expects, and describe it."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.base.errors import InputError
from prbench.base.files import digest, home
from prbench.comparisons import PreferenceData
from prbench.data.cache import LOADER_VERSION, read_cache, write_cache
from prbench.data.describe import measured
from prbench.data.downloads import RawFiles
from prbench.protocol.repeats import divide_pairs, join_repeats
from prbench.registry.code_hash import code_of
from prbench.registry.schema import DatasetEntry

if TYPE_CHECKING:
    from prbench.loaders import Loader


def load(entry: DatasetEntry) -> PreferenceData:
    """The data set of an entry, from its cache where there is one, else from its raw files.

    Counts that differ from the entry's `[expect]` are reported on stderr and recorded in `counts` ("expected
    users", ...). Equal comparisons of one person are in one group, whatever the loader said, and where everybody has
    one group alone, groups are the pairs (`prbench.protocol.repeats`); `counts` says both.

    Raises InputError for a wrong option, a file with a wrong hash, one that can be had neither here nor from the
    network, and whatever the loader finds wrong in the files.
    """
    data = join_repeats(_loaded(entry))
    # Whole blocks and the source's own marks divide people with one group too.
    return _check(divide_pairs(data) if entry.protocol.unit == "group" else data, entry)


def _loaded(entry: DatasetEntry) -> PreferenceData:
    loader = make_loader(entry)
    if entry.simulated or not getattr(loader, "cached", True):
        return loader.load(RawFiles(entry), entry.name)
    folder = cache_folder(entry)
    data = read_cache(folder)
    if data is None:
        data = loader.load(RawFiles(entry), entry.name)
        write_cache(folder, data, entry)
    return replace(data, name=entry.name)


def cache_folder(entry: DatasetEntry) -> Path:
    """Where the loaded data are kept; settings of one family that differ only in protocol share it."""
    hashes = RawFiles(entry).identity()
    made_by = {"loader": entry.loader, "options": entry.options, "files": hashes, "version": LOADER_VERSION}
    code = code_of(entry.loader)
    key = digest({**made_by, "code": code} if code else made_by)
    return home() / "datasets" / entry.family / key


def make_loader(entry: DatasetEntry) -> Loader:
    """The entry's loader with its options.

    Raises InputError naming the data set and the option when one is unknown or has a wrong type or value.
    """
    from pydantic import ValidationError

    from prbench.registry import targets

    cls = targets.load_target("datasets", entry)
    known = list(inspect.signature(cls).parameters)
    for option in entry.options:
        if option not in known:
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"data set {entry.name}: its loader has no option {option!r}", hint=have)
    try:
        loader: Loader = cls(**entry.options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        raise InputError(f"data set {entry.name}, option {option}: {first['msg']}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"data set {entry.name}, [options]: {error}") from error
    return loader


def _check(data: PreferenceData, entry: DatasetEntry) -> PreferenceData:
    """`data`, with every count that is not the expected one reported and recorded."""
    from prbench.base.console import stderr

    sizes = measured(data)
    wrong = {}
    for name, expected in entry.expect.items():
        if name not in sizes:
            raise InputError(
                f"data set {entry.name}: [expect] names {name!r}", hint=f"it may name {', '.join(sizes)}"
            )
        if sizes[name] != expected:
            wrong[f"expected {name}"] = expected
            stderr().print(
                f"warning: {entry.name} has {sizes[name]:,} {name}, its entry expects {expected:,}",
                style="yellow",
                soft_wrap=True,
            )
    return data.regrouped(data.group, {**data.counts, **wrong}) if wrong else data
