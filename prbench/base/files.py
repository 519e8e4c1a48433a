"""Where files live, and writing them so that nothing is ever half there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.base.leftovers import remove_leftovers_once, replace_folder, temporary_beside


def home() -> Path:
    """The folder of caches: `PRBENCH_HOME`, else the platform's cache folder.

    Raises InputError where the user's home cannot be determined.
    """
    value = os.environ.get("PRBENCH_HOME") or ""
    # Where the system knows no home, as in a container with an unknown uid, platformdirs raises or leaves "~/...".
    try:
        if not value:
            import platformdirs

            value = platformdirs.user_cache_dir("prbench", appauthor=False)
        return Path(value).expanduser()
    except RuntimeError as error:
        who = value.partition("/")[0] or "of this user"
        raise InputError(f"there is no home folder {who}", hint="set PRBENCH_HOME to a folder for caches") from error


def expanded(path: str | Path) -> Path:
    """`path` with "~" and "~name" as folders. Raises InputError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        who = str(path).partition("/")[0]
        raise InputError(f"there is no home folder {who}", hint="write the whole path") from error


def raw_data_folder() -> Path | None:
    """The folder of raw downloads already at hand (`PRBENCH_DATA`), or None."""
    value = os.environ.get("PRBENCH_DATA")
    if not value:
        return None
    try:
        folder = Path(value).expanduser()
    except RuntimeError as error:
        raise InputError(f"PRBENCH_DATA names {value}: {error}", hint="unset PRBENCH_DATA to download") from error
    if not folder.is_dir():
        raise InputError(f"PRBENCH_DATA names {folder}, which is not a folder", hint="unset PRBENCH_DATA to download")
    return folder


def require_writable(folder: Path) -> None:
    """Raise InputError where `folder`, or the nearest folder above it that there is, cannot be written to.

    Long work asks this first, so that it does not end with results that have no place.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise InputError(f"cannot write to {folder}: {there} is not a folder", hint="choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write to {folder}", hint="choose another folder")


@contextlib.contextmanager
def writing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`.

    Whatever goes wrong, `path` is either as it was or complete. Who may read it is what the umask says, or with
    `private` its owner alone. A full disk and a folder without write permission raise `InputError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers_once(path.parent)
        temporary = temporary_beside(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, which is never missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers_once(path.parent)
        temporary = temporary_beside(path)
        temporary.mkdir()
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        replace_folder(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write `text` atomically; with `private`, for its owner alone."""
    with writing(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, private: bool = False) -> None:
    """Write `value` as JSON atomically as `write_text`; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    write_text(path, text, private=private)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def digest(value: Any, *, length: int = 16) -> str:
    """The first `length` hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex. Raises OSError, also for a pipe or device, which could never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_git_blob(path: Path) -> str:
    """The id that git gives a file's bytes: the sha1 of "blob <size>", a zero byte and the bytes, in hex.

    Raises OSError as `file_sha256` does.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        head = b"blob %d\0" % path.stat().st_size
        # Not for secrecy: it is the only hash that is published of some files.
        return hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False)).hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _sync_folder(folder: Path) -> None:
    # Windows opens no folders; NTFS keeps a journal of its names.
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"the disk is full: {path} was not written", hint="free some space and run again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return InputError(f"no permission to write {path}", hint="choose another folder")
    return InputError(f"cannot write {path}: {error.strerror or error}")
