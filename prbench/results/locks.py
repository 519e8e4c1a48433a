"""Locks of a results folder: one program at a time, and nothing left when the last one goes.

    runs/.claims/<name>.lock     empty; held while a program is alone

A lock that is removed could let in two programs, one with the old file open and one with a new one. So only who holds
a lock removes it, and who gets one looks whether it is still the file that was there before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prbench.base.errors import InputError

SHARED = ".claims"
"""Beside the data sets of a results folder: what its programs tell one another."""


@contextlib.contextmanager
def alone(folder: Path, name: str, *, timeout: float = -1) -> Iterator[None]:
    """Wait until no other program is inside `alone` of this folder and name, and keep the others out.

    Raises InputError without permission, and filelock's Timeout after `timeout` seconds where it is not negative.
    """
    path = folder / f"{name}.lock"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.touch()
            before = path.stat().st_ino
            lock = FileLock(path)
            lock.acquire(timeout=timeout)
        except PermissionError as error:
            raise InputError(f"no permission to write {folder}", hint="choose another folder") from error
        except FileNotFoundError:
            # Another program was the last one and has just cleared the folder.
            continue
        try:
            if _number(path) == before:
                yield
                return
        finally:
            lock.release()


def clear(folder: Path) -> None:
    """Remove the locks of `folder` that nobody holds, and the folder, where no claim is left in it."""
    if not folder.is_dir():
        return
    with contextlib.suppress(OSError, InputError), alone(folder, "claims"):
        if any(folder.glob("*.json")):
            return
        for path in folder.glob("*.lock"):
            if path.stem != "claims":
                with contextlib.suppress(Timeout), alone(folder, path.stem, timeout=0):
                    path.unlink()
        (folder / "claims.lock").unlink()
        folder.rmdir()


def _number(path: Path) -> int | None:
    """The file system's number of a file; None where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
