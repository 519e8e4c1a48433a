"""Load a data set through its cache, check it against what its entry expects, and describe it."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prbench.comparisons import FloatArray, IntArray, Message, PreferenceData
from prbench.downloads import RawFiles
from prbench.entries import DatasetEntry
from prbench.errors import InputError
from prbench.files import digest, home, write_json, writing_folder
from prbench.sourcecode import code_of

if TYPE_CHECKING:
    from prbench.loaders import Loader

LOADER_VERSION = 1
"""Raise this when a loader or the cache's format changes what is loaded: older caches are then not read."""

COLUMNS = ("user", "chosen", "rejected", "group", "block", "mark", "time")


def load(entry: DatasetEntry) -> PreferenceData:
    """The data set of an entry, from its cache where there is one, else from its raw files.

    Counts that differ from the entry's `[expect]` are reported on stderr and recorded in `counts` ("expected
    users", ...). Raises InputError for a wrong option, a file with a wrong hash, one that can be had neither here
    nor from the network, and whatever the loader finds wrong in the files.
    """
    loader = make_loader(entry)
    if entry.simulated or not getattr(loader, "cached", True):
        return _check(loader.load(RawFiles(entry), entry.name), entry)
    folder = cache_folder(entry)
    data = _read_cache(folder)
    if data is None:
        data = loader.load(RawFiles(entry), entry.name)
        _write_cache(folder, data, entry)
    return _check(replace(data, name=entry.name), entry)


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

    from prbench import registry

    cls = registry.resolve(entry.loader)
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


def measured(data: PreferenceData) -> dict[str, int]:
    """The counts that `[expect]` may name: users, comparisons, prompts, items."""
    return {
        "users": data.n_users,
        "comparisons": len(data),
        "prompts": len(data.contexts),
        "items": data.n_items,
    }


def _check(data: PreferenceData, entry: DatasetEntry) -> PreferenceData:
    """`data`, with every count that is not the expected one reported and recorded."""
    from prbench.console import stderr

    found = measured(data)
    wrong = {}
    for name, expected in entry.expect.items():
        if name not in found:
            raise InputError(
                f"data set {entry.name}: [expect] names {name!r}", hint=f"it may name {', '.join(found)}"
            )
        if found[name] != expected:
            wrong[f"expected {name}"] = expected
            stderr().print(
                f"warning: {entry.name} has {found[name]:,} {name}, its entry expects {expected:,}",
                style="yellow",
                soft_wrap=True,
            )
    return replace(data, counts={**data.counts, **wrong}) if wrong else data


def _write_cache(folder: Path, data: PreferenceData, entry: DatasetEntry) -> None:
    """Tables as parquet; the users' source ids apart, readable by the owner alone."""
    import pandas as pd

    columns = {name: column for name in COLUMNS if (column := getattr(data, name)) is not None}
    messages = [
        (number, message.role, message.content) for number, context in enumerate(data.contexts) for message in context
    ]
    with writing_folder(folder) as temporary:
        pd.DataFrame(columns).to_parquet(temporary / "comparisons.parquet", index=False)
        items = {"context": data.item_context, "response": list(data.responses)}
        pd.DataFrame(items).to_parquet(temporary / "items.parquet", index=False)
        prompts = pd.DataFrame(messages, columns=["context", "role", "content"])
        prompts.to_parquet(temporary / "prompts.parquet", index=False)
        private = temporary / "users.parquet"
        private.touch(mode=0o600)
        pd.DataFrame({"key": list(data.user_keys)}).to_parquet(private, index=False)
        write_json(
            temporary / "data.json",
            {
                "version": LOADER_VERSION,
                "loader": entry.loader,
                "options": entry.options,
                "counts": dict(data.counts),
                "fingerprint": data.fingerprint,
            },
        )


def _read_cache(folder: Path) -> PreferenceData | None:
    """What `_write_cache` wrote, or None where there is nothing; a damaged cache is reported and made again."""
    import pandas as pd

    if not folder.is_dir():
        return None
    try:
        record = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(folder / "comparisons.parquet")
        items = pd.read_parquet(folder / "items.parquet")
        prompts = pd.read_parquet(folder / "prompts.parquet")
        keys = pd.read_parquet(folder / "users.parquet")
        contexts: list[list[Message]] = []
        for number, role, content in zip(prompts["context"], prompts["role"], prompts["content"], strict=True):
            if number == len(contexts):
                contexts.append([])
            contexts[number].append(Message(str(role), str(content)))
        columns: dict[str, Any] = {
            name: table[name].to_numpy(dtype=np.float64 if name == "time" else np.int64)
            for name in COLUMNS
            if name in table
        }
        data = PreferenceData(
            name=folder.parent.name,
            contexts=tuple(map(tuple, contexts)),
            item_context=items["context"].to_numpy(dtype=np.int64),
            responses=tuple(map(str, items["response"])),
            user_keys=tuple(map(str, keys["key"])),
            counts=record["counts"],
            **columns,
        )
        if data.fingerprint == record["fingerprint"]:
            return data
        reason = "its contents do not match its fingerprint"
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    from prbench.console import stderr

    stderr().print(
        f"warning: the cache {folder} is damaged ({reason}); loading again", style="yellow", soft_wrap=True
    )
    return None


def describe(data: PreferenceData, entry: DatasetEntry) -> dict[str, Any]:
    """What `prbench data info` prints, ready for JSON.

    `disagreement` is the probability that two different users who judged the same two items disagree (None where
    no two users did), `pairs_shared` the number of item pairs that at least two users judged. `longer_wins` is the
    share of comparisons in which the longer response (in characters) wins, equally long ones left out.
    `items_per_prompt` and `comparisons_per_item` are what sharing contexts and items saves when embedding.
    """
    per_user = np.bincount(data.user, minlength=data.n_users)
    quartiles = np.percentile(per_user, [0, 25, 50, 75, 100]) if data.n_users else np.zeros(5)
    disagreement, shared = _disagreement(data)
    out: dict[str, Any] = {
        "name": data.name,
        "title": entry.title,
        "family": entry.family,
        "licence": entry.licence,
        "homepage": entry.homepage,
        "citation": entry.citation,
        "encoder": entry.encoder,
        **measured(data),
        "items_per_prompt": data.n_items / len(data.contexts) if data.contexts else None,
        "comparisons_per_item": 2 * len(data) / data.n_items if data.n_items else None,
        "groups": len(np.unique(data.group)),
        "blocks": None if data.block is None else len(np.unique(data.block)),
        "comparisons_per_user": dict(
            zip(("min", "q1", "median", "q3", "max"), (float(q) for q in quartiles), strict=True)
        ),
        "users_with_one_comparison": int((per_user == 1).sum()),
        "disagreement": disagreement,
        "pairs_shared": shared,
    }
    if data.embedded is None:
        lengths = np.array([len(response) for response in data.responses], dtype=np.int64)
        out["mean_characters"] = float(lengths.mean()) if len(lengths) else None
        out["longer_wins"] = _longer_wins(data, lengths)
    else:
        out["dim"] = data.embedded.dim
        out["has_reward"] = data.embedded.reward is not None
    if data.mark is not None:
        out["marked_test"] = int((data.mark == 1).sum())
    out["protocol"] = entry.protocol.model_dump()
    out["counts"] = dict(data.counts)
    out["fingerprint"] = data.fingerprint
    return out


def _longer_wins(data: PreferenceData, lengths: IntArray) -> float | None:
    difference = lengths[data.chosen] - lengths[data.rejected]
    unequal = difference != 0
    return float((difference[unequal] > 0).mean()) if unequal.any() else None


def _disagreement(data: PreferenceData) -> tuple[float | None, int]:
    """Probability that two users differ on a pair both judged, over all such couples of votes; pairs shared."""
    if not len(data):
        return None, 0
    low, high = np.minimum(data.chosen, data.rejected), np.maximum(data.chosen, data.rejected)
    _, pair = np.unique(low * data.n_items + high, return_inverse=True)
    for_low = (data.chosen == low).astype(np.float64)
    by_pair = _votes(pair, for_low)
    cell, judged = np.unique(pair * data.n_users + data.user, return_inverse=True)
    by_cell = _votes(judged, for_low)

    def split_couples(votes: FloatArray) -> float:
        return float((votes[0] * votes[1]).sum())

    def couples(votes: FloatArray) -> float:
        total = votes.sum(axis=0)
        return float((total * (total - 1) / 2).sum())

    shared = int((np.bincount(cell // data.n_users) > 1).sum())
    total = couples(by_pair) - couples(by_cell)
    return ((split_couples(by_pair) - split_couples(by_cell)) / total if total else None), shared


def _votes(unit: NDArray[np.int64], for_low: FloatArray) -> FloatArray:
    """Votes for the lower and for the higher item of each unit, [2, units]."""
    low = np.bincount(unit, weights=for_low)
    return np.stack([low, np.bincount(unit) - low])
