"""What the code of a target outside prbench is, so that results and caches of edited code are told apart.

prbench's own code is not hashed: `protocol.PROTOCOL_VERSION` and `data.LOADER_VERSION` stand for it.
"""

from __future__ import annotations

import ast
import importlib
import sys
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import ModuleType

from prbench.base.files import digest, file_sha256
from prbench.registry.finder import folders_beside


def code_of(target: str) -> str:
    """12 hex digits that change with the source files behind a target "module:attribute"; "" for one of prbench.

    These are the module's file and those that it imports, directly or not, from its own package and from the folders
    given as `--registry`. They are what they were when this was first asked in a process, as the imported code is.
    """
    name = target.partition(":")[0]
    if _top(name) == "prbench":
        return ""
    return _digest(sys.modules.get(name) or importlib.import_module(name))


def code_before_import(target: str) -> str:
    """As `code_of`, of the files that an import would read, where the module is not imported yet."""
    name = target.partition(":")[0]
    if _top(name) == "prbench" or name in sys.modules:
        return code_of(target)
    return _of_files(name)


def code_has_changed(name: str, target: str, made_by: str) -> bool:
    """Whether a cell's method is one of the user's own whose code is not what made the cell.

    `name` and `target` are those of the cell's entry, `made_by` is its code, "" for a method of prbench's. False
    where its entry is not here or names another target: then there is no code to compare with, and none is looked at
    that only results name.
    """
    from prbench import registry

    if not made_by or name not in registry.names("methods"):
        return False
    present = registry.get("methods", name)
    return present.target == target and code_before_import(present.target) != made_by


def source_files(module: str) -> dict[str, Path]:
    """The source files behind an imported module, by the names of their modules."""
    files: dict[str, Path] = {}
    todo, seen = [module], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or not _is_own(name, module):
            continue
        seen.add(name)
        if name.rpartition(".")[0]:
            todo.append(name.rpartition(".")[0])
        file = _file(name)
        if file is None or not (_top(name) == _top(module) or _lies_beside(file)):
            continue
        files[name] = file
        todo += _imports(name, file)
    return files


@lru_cache(maxsize=256)
def _digest(module: ModuleType) -> str:
    return _of_files(module.__name__)


def _of_files(module: str) -> str:
    return digest({name: file_sha256(file) for name, file in source_files(module).items()}, length=12)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _is_own(name: str, module: str) -> bool:
    """Whether a module may belong to the one whose code is asked for."""
    top = _top(name)
    return top == _top(module) or any(
        (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file() for folder in folders_beside()
    )


def _lies_beside(file: Path) -> bool:
    return any(file.resolve().is_relative_to(folder) for folder in folders_beside())


def _file(name: str) -> Path | None:
    try:
        spec = find_spec(name)
    except Exception:
        # A name imported from a module need not be a module, and parents may fail in what this target never imports.
        return None
    file = Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
    return file if file is not None and file.is_file() else None


def _imports(name: str, file: Path) -> list[str]:
    """The absolute names that a file imports; of `from a import b` both a and a.b, which may be a module."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names
