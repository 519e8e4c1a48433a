"""Importing what lies beside the entries of a `--registry` folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import get_args

from prbench.entries import Kind


class _Beside(MetaPathFinder):
    """Finds modules in `folders`, after everything that is installed.

    The folders are no part of sys.path: a registry's folder `datasets` would be taken for Hugging Face's package.
    """

    folders: tuple[Path, ...] = ()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or fullname in get_args(Kind):
            return None
        found = PathFinder.find_spec(fullname, [str(folder) for folder in self.folders])
        return found if found is not None and found.loader is not None else None


_finder = _Beside()


def importable_from(folders: Sequence[Path]) -> None:
    """Let modules and packages in `folders` be imported; replaces the folders of an earlier call."""
    _finder.folders = tuple(folders)
    importlib.invalidate_caches()
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
