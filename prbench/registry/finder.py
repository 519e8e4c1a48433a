"""Importing what lies beside the entries of a `--registry` folder."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import get_args

from prbench.registry.schema import Kind


class _Beside(MetaPathFinder):
    """Finds modules in `folders`, after everything that is installed.

    The folders are not part of sys.path: a registry's folder `datasets` would be taken for Hugging Face's package.
    """

    folders: tuple[Path, ...] = ()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or fullname in get_args(Kind):
            return None
        spec = PathFinder.find_spec(fullname, [str(folder) for folder in self.folders])
        return spec if spec is not None and spec.loader is not None else None


_finder = _Beside()


def folders_beside() -> tuple[Path, ...]:
    """The folders in use."""
    return _finder.folders


def importable_from(folders: Sequence[Path]) -> None:
    """Let modules and packages in `folders` be imported; replaces the folders of an earlier call."""
    _finder.folders = tuple(folders)
    importlib.invalidate_caches()
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)


def place_of(error: BaseException, module: str) -> str:
    """ "FILE line N: " of the innermost line of a module's own folder that an error comes from; "" where unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename} line {error.lineno}: "
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        return ""
    folder = Path(spec.origin).resolve().parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve().is_relative_to(folder)
    ]
    return f"{frames[-1].filename} line {frames[-1].lineno}: " if frames else f"{spec.origin}: "


def own_line(error: BaseException) -> str:
    """ "FILE line N" of the innermost line in a folder given as `--registry` that an error passed; "" for none."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).resolve().is_relative_to(folder) for folder in folders_beside())
    ]
    return f"{frames[-1].filename} line {frames[-1].lineno}" if frames else ""


def message_of(error: BaseException) -> str:
    """What an error says, without the place that a syntax error repeats."""
    return str(error.msg) if isinstance(error, SyntaxError) else str(error)
