"""Temporary files and folders: named after their writer, so that the next program removes what nobody holds."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from pathlib import Path

from prbench.base.processes import Writer, host, is_gone, this_process

NAME = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)")
OLDER_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
"""As earlier versions named them, without their writer."""
DAY = 86_400.0
EXCHANGE = 2
AT_FDCWD = -100

_seen: set[Path] = set()


def temporary_beside(path: Path, kind: str = "tmp") -> Path:
    """A new name beside `path` that says which process is writing."""
    writer = this_process()
    tag = f"{writer.host}-{writer.pid}-{writer.start}-{secrets.token_hex(4)}"
    return path.parent / f".{path.name}.{tag}.{kind}"


def replace_folder(new: Path, path: Path) -> None:
    """Let the folder `new` take the place of `path`, in one step where the system can; the old one goes.

    A process killed at any point leaves the old or the new folder at `path`, or the old one where
    `remove_leftovers` puts it back from. Raises OSError.
    """
    while True:
        try:
            if not path.exists():
                new.rename(path)
                return
            if _exchange(new, path):
                shutil.rmtree(new, ignore_errors=True)
                return
            old = temporary_beside(path, "old")
            path.rename(old)
            new.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            return
        except OSError as error:
            # Another program was first: its folder is there now, or the one that was there has just gone.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not new.exists():
                raise


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def remove_leftovers_once(folder: Path) -> None:
    """`remove_leftovers` of one folder, the first time that this process writes there."""
    if folder not in _seen:
        _seen.add(folder)
        remove_leftovers(folder)


def remove_leftovers(folder: Path, *, below: bool = False) -> list[Path]:
    """Remove temporary files and folders in `folder`, or anywhere `below` it, whose writer is gone; returns them.

    One of another host is left alone until it is a day older than what is written there now, by the file system's own
    times. What cannot be removed stays.
    """
    removed = []
    for path in sorted(folder.rglob(".*.*") if below else folder.glob(".*.*")):
        match = NAME.fullmatch(path.name)
        if match is None and not OLDER_NAME.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            if match and match["host"] == host():
                if not is_gone(Writer(match["host"], int(match["pid"]), match["start"])):
                    continue
            elif not _is_a_day_old(path):
                continue
            if match and match["kind"] == "old" and not (path.parent / match["name"]).exists():
                path.rename(path.parent / match["name"])
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(path)
    return removed


def _is_a_day_old(path: Path) -> bool:
    now = temporary_beside(path)
    now.touch()
    try:
        newest = max([path.lstat().st_mtime, *(each.lstat().st_mtime for each in path.rglob("*"))])
        return now.stat().st_mtime - newest > DAY
    finally:
        now.unlink(missing_ok=True)
