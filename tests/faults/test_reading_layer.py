"""All that is read goes through readers with limits: nowhere else may deep JSON, a pipe or a device end in a traceback.

A call of `json.loads` has to be told of a document that is nested too deeply, which is a RecursionError: inside a `try`
that names it, or inside `loaders.reading.reading`. Whole files are read by `base.reading.read_bytes`, which refuses what
is not a regular file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import prbench

PACKAGE = Path(prbench.__file__).parent
LAYER = {"base/reading.py", "loaders/reading.py"}
# What prbench itself has just written as JSON, and files whose sha256 their entry pins.
OWN = {"canonical_json", "pinned"}
PINNED = {"loaders/table.py", "loaders/mrm_files.py"}
# Files of the system, of a checkout of prbench, code that a registry folder names, and pictures that prbench draws.
TRUSTED = {
    "base/processes.py", "base/provenance.py", "registry/code_hash.py", "results/own_code.py",
    "reporting/page/__init__.py",
}  # fmt: skip


def faults(package: Path) -> list[str]:
    """Every call that reads past the readers."""
    found = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name not in LAYER:
            found += [f"{name}, line {line}: {what}" for line, what in _faults(ast.parse(path.read_bytes()), name)]
    return found


def _faults(tree: ast.AST, name: str, guarded: bool = False) -> Iterator[tuple[int, str]]:
    for node in ast.iter_child_nodes(tree):
        inside = guarded or _guards(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on, method = node.func.value, node.func.attr
            if isinstance(on, ast.Name) and on.id == "json" and method in ("load", "loads"):
                given = node.args[0]
                own = isinstance(given, ast.Call) and isinstance(given.func, ast.Name) and given.func.id in OWN
                if not (inside or own or name in PINNED):
                    yield node.lineno, "JSON that may be nested too deeply"
            elif method in ("read_text", "read_bytes") and name not in TRUSTED | PINNED:
                yield node.lineno, "a file that may be a pipe"
        yield from _faults(node, name, inside)


def _guards(node: ast.AST) -> bool:
    if isinstance(node, ast.Try):
        caught = [part for handler in node.handlers if handler.type for part in ast.walk(handler.type)]
        return any(isinstance(part, ast.Name) and part.id == "RecursionError" for part in caught)
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        return any(isinstance(call.func, ast.Name) and call.func.id == "reading" for call in calls)
    return False


def test_everything_is_read_within_limits() -> None:
    assert faults(PACKAGE) == []


def test_what_reads_past_the_readers_is_found(tmp_path: Path) -> None:
    for text in ("json.loads(text)", "path.read_bytes()", "try:\n    json.load(f)\nexcept ValueError: pass"):
        (tmp_path / "planted.py").write_text(text)
        assert len(faults(tmp_path)) == 1, text
    for text in ("try:\n    json.loads(t)\nexcept (ValueError, RecursionError): pass", "read_bytes(path)"):
        (tmp_path / "planted.py").write_text(text)
        assert not faults(tmp_path), text
