"""Archives `.tar.zst`: written the same for the same files, and unpacked with nothing taken on trust.

A member must be a regular file whose name has the form that `allowed` says; links, devices, absolute names and ".."
are refused. The bytes that come out are limited by a multiple of those that go in.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from prbench.base.errors import InputError
from prbench.base.files import writing

SUFFIX = ".tar.zst"
RATIO, LEAST, MEMBERS = 200, 2**26, 2_000_000
"""Bytes out for each byte in, the bytes that are always allowed, and the most files."""
CHUNK = 2**20
# Names that a system could take for something else: hidden ones, and those with characters of control, \\ or a colon.
PART = re.compile(r"(?!\.)[^/\\:\x00-\x1f\x7f]{1,200}")


class Bytes(Protocol):
    """What is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def write_archive(folder: Path, path: Path) -> None:
    """Pack every file below `folder` into the archive `path`: sorted by name, without owners and times."""
    import pyarrow as pa

    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    with (
        writing(path) as temporary,
        pa.output_stream(str(temporary), compression="zstd") as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, file in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(member, content)


def unpack_archive(path: Path, folder: Path, allowed: Callable[[tuple[str, ...]], bool]) -> None:
    """Unpack the archive `path` into the empty `folder`; `allowed` is asked of every member's parts.

    Raises InputError, naming the member, for what is refused, and for an archive that is damaged.
    """
    import pyarrow as pa

    try:
        with pa.input_stream(str(path), compression="zstd") as stream:
            source: Any = _Limited(stream, max(LEAST, RATIO * path.stat().st_size), path)
            with tarfile.open(fileobj=source, mode="r|") as archive:
                for number, member in enumerate(archive):
                    if number >= MEMBERS:
                        raise InputError(
                            f"{path} has more than {MEMBERS:,} files", hint="it is not a pack of results"
                        )
                    _unpack(archive, member, folder, path, allowed)
    except (tarfile.TarError, EOFError, pa.ArrowException, OSError, ValueError) as error:
        fault = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is not a whole {SUFFIX} archive: {fault}", hint="get the file again") from error


def _unpack(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    folder: Path,
    path: Path,
    allowed: Callable[[tuple[str, ...]], bool],
) -> None:
    shown = ascii(member.name)[:200]
    hint = "it was not written by `prbench results pack`; nothing of it was kept"
    if member.isdir():
        return
    if not member.isreg():
        raise InputError(f"{path}: {shown} is not a regular file", hint=hint)
    parts = tuple(member.name.split("/"))
    if not all(PART.fullmatch(part) for part in parts) or not allowed(parts):
        raise InputError(f"{path}: {shown} is not the name of a file of results", hint=hint)
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None
    try:
        with target.open("xb") as file:
            while chunk := content.read(CHUNK):
                file.write(chunk)
    except FileExistsError as error:
        raise InputError(f"{path}: {shown} is there twice", hint=hint) from error
    if target.stat().st_size != member.size:
        raise InputError(f"{path}: {shown} is cut off", hint="get the file again")


class _Limited(io.RawIOBase):
    """A stream that ends in an error once more bytes have come out than a pack of results of its size can hold."""

    def __init__(self, stream: Bytes, most: int, path: Path) -> None:
        self._stream, self._left, self._path = stream, most, path

    def read(self, size: int = -1, /) -> bytes:
        """As the stream's. Raises InputError past the limit."""
        content = self._stream.read(CHUNK if size < 0 else size)
        self._left -= len(content)
        if self._left < 0:
            raise InputError(
                f"{self._path} unpacks to more than {RATIO} times its size", hint="it is not a pack of results"
            )
        return content
