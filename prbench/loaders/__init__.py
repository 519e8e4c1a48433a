"""Loaders: each turns one raw source into comparisons. See `Loader` for what a new one has to offer."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from pydantic import ConfigDict

from prbench.errors import InputError

if TYPE_CHECKING:
    from prbench.comparisons import PreferenceData

K = TypeVar("K", bound=Hashable)

STRICT = ConfigDict(extra="forbid", strict=True)
"""How loaders check their options: unknown names and wrong types are errors."""


class RawSource(Protocol):
    """Local raw files, each checked against its pinned hash. `prbench.downloads.RawFiles` is one."""

    def path(self, path: str) -> Path:
        """The local file of one upstream path."""
        ...

    def paths(self) -> list[Path]:
        """Every local file, in the sorted order of their upstream paths."""
        ...


class Loader(Protocol):
    """One raw source. The entry's `[options]` are its keyword-only constructor arguments.

    A class attribute `cached = False` says that loading is as fast as reading a cache would be.
    """

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The data set called `name` from its raw files, always the same; touches no network.

        Raises InputError with one line that names the file and what is wrong in it.
        """
        ...


class Numbering(dict[K, int]):
    """Numbers keys 0, 1, ... in the order in which they are first asked for."""

    def __missing__(self, key: K) -> int:
        number = self[key] = len(self)
        return number


def keep_frequent(data: PreferenceData, least: int) -> PreferenceData:
    """Only the users with at least `least` comparisons; how many are dropped is added to the counts."""
    from dataclasses import replace

    import numpy as np

    if least <= 1:
        return data
    per_user = np.bincount(data.user, minlength=data.n_users)
    keep = np.flatnonzero(per_user >= least)
    if not len(keep):
        raise InputError(
            f"{data.name}: no user has {least} comparisons; the most that one user has is {per_user.max(initial=0)}",
            hint="lower min_comparisons",
        )
    kept = data.select_users(keep)
    dropped = {
        f"users with fewer than {least} comparisons dropped": data.n_users - kept.n_users,
        "comparisons of dropped users": len(data) - len(kept),
    }
    return replace(kept, counts={**data.counts, **dropped})


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file, gzipped or not; blank lines are passed over.

    Raises InputError naming file and line for what is no JSON object, for NaN and for a truncated file.
    """
    number = 0
    decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                value = decode(line)
                if not isinstance(value, dict):
                    raise InputError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}")
                yield number, value
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: no valid JSON: {error.msg} at column {error.colno}") from error
    except _NotJSONError as error:
        raise InputError(f"{path}, line {number}: {error} is no JSON value", hint="leave the row out") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after line {number}: no valid UTF-8: {error.reason}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or damaged after line {number}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


class _NotJSONError(ValueError):
    """JSON text holds NaN or Infinity, which JSON does not have."""


def _refuse_constant(text: str) -> NoReturn:
    raise _NotJSONError(text)
