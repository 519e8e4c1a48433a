"""Pointers that Git LFS leaves in place of files that it has not fetched."""

from __future__ import annotations

from pathlib import Path

from prbench.base.errors import InputError

POINTER = b"version https://git-lfs.github.com/spec/"


def require_contents(path: Path) -> None:
    """Raise InputError where a file is a pointer that Git LFS left in place of the contents."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise InputError(
                f"{path} is a pointer of Git LFS, not the file itself",
                hint=f"run `git lfs pull` in {path.parent}, or download the file",
            )
