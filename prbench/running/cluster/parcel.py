"""Files on their way between machines that share no disk: each with its sha256, and a place that is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from prbench.base.errors import InputError
from prbench.base.files import digest, writing, writing_folder
from prbench.base.reading import read_bytes
from prbench.registry import KINDS

# A folder of entries holds texts; a larger one was meant for something else.
REGISTRY_BYTES = 64 * 2**20


class Parcel(NamedTuple):
    """Contents by their places below a folder, and the digest of all of them."""

    files: Mapping[str, bytes]
    sha256: str

    @staticmethod
    def of(files: Mapping[str, bytes]) -> Parcel:
        """A parcel of these files."""
        return Parcel(files, _digest(files))

    def opened(self) -> Mapping[str, bytes]:
        """The contents. Raises InputError where they are not what was sent, or a place leads out of its folder."""
        for place in self.files:
            path = PurePosixPath(place)
            if (
                path.is_absolute()
                or not path.parts
                or any(part in ("..", ".") or "\\" in part for part in path.parts)
            ):
                raise InputError(f"a parcel of files names {place!r}, which is not a place in its folder")
        if _digest(self.files) != self.sha256:
            raise InputError("a parcel of files was damaged on its way", hint="run the same command again")
        return self.files

    def unpack(self, folder: Path) -> None:
        """Write the files below `folder`. Raises InputError as `opened`, and where they cannot be written."""
        for place, content in self.opened().items():
            path = folder / place
            with writing(path) as temporary:
                temporary.write_bytes(content)


def _digest(files: Mapping[str, bytes]) -> str:
    return digest({place: hashlib.sha256(content).hexdigest() for place, content in files.items()}, length=64)


def registry_parcel(folder: Path) -> Parcel:
    """The entries of a folder of one's own and the files beside them that their code may read.

    Hidden files and caches stay. Raises InputError for a folder that is too large to be one of entries.
    """
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        total += path.stat().st_size
        if total > REGISTRY_BYTES:
            raise InputError(
                f"--registry {folder}: more than {REGISTRY_BYTES // 2**20} MiB of files cannot go to every machine",
                hint="keep entries and their modules in a folder of their own, or put it where every machine sees it",
            )
        files[PurePosixPath(*parts).as_posix()] = read_bytes(path)
    if not any(place.split("/")[0] in KINDS for place in files):
        raise InputError(f"--registry {folder}: without a file of an entry")
    return Parcel.of(files)


def unpacked_registry(parcel: Parcel, home: Path) -> Path:
    """A folder of this machine with the files of a registry parcel: the same for the same files."""
    folder = home / "registries" / parcel.sha256[:16]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there = {place for place in there if "__pycache__" not in place}
    files = parcel.opened()
    if there == set(files) and all(read_bytes(folder / place) == files[place] for place in there):
        return folder.resolve()
    with writing_folder(folder) as temporary:
        for place, content in files.items():
            (temporary / place).parent.mkdir(parents=True, exist_ok=True)
            (temporary / place).write_bytes(content)
    return folder.resolve()


def collected(folder: Path, places: Iterable[Path]) -> dict[str, bytes]:
    """The files below `places`, which lie in `folder`, by their place in it."""
    found: dict[str, bytes] = {}
    for place in places:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
                found[path.relative_to(folder).as_posix()] = read_bytes(path)
    return found
