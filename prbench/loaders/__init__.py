"""Loaders: each turns one raw source into comparisons. See `Loader` for what a new one has to offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ConfigDict

if TYPE_CHECKING:
    from prbench.comparisons import PreferenceData


STRICT = ConfigDict(extra="forbid", strict=True)
"""How loaders check their options: unknown names and wrong types are errors."""


class RawSource(Protocol):
    """Local raw files, each checked against its pinned hash. `prbench.data.downloads.RawFiles` is one."""

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
