"""Locks on folders: one program at a time.

    <folder>/<name>.lock     empty; held while a program is alone

A lock that is removed could let in two programs, one with the old file open and one with a new one. So only who holds
a lock removes it, and who gets one looks whether it is still the file that was there before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prbench.base.errors import InputError


@contextlib.contextmanager
def alone(folder: Path, name: str, *, timeout: float = -1) -> Iterator[None]:
    """Wait until no other program is inside `alone` of this folder and name, and keep the others out.

    Raises InputError where nothing can be written there, and filelock's Timeout after `timeout` seconds where it is
    not negative.
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
        except Timeout:
            raise
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
        try:
            if _number(path) == before:
                yield
                return
        finally:
            lock.release()


def _number(path: Path) -> int | None:
    """The file system's number of a file; None where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
