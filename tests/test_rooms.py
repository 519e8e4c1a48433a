"""The rooms of the package: which there are, and that imports go one way."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prbench

PACKAGE = Path(prbench.__file__).parent

ROOMS = (
    "base",
    "errors seeds comparisons",
    "method hyperparameters parameters",
    "registry",
    "protocol",
    "loaders",
    "data",
    "encoders judging",
    "embedding",
    "training",
    "methods",
    "results",
    "contract",
    "sharing",
    "running policy",
    "reporting",
    "user",
    "serving",
    "timing",
    "evaluation",
    "commands cli __main__",
)
"""From bottom to top; a line is one level. A module imports from its own room and from levels above its own."""

LEVEL = {room: level for level, line in enumerate(ROOMS) for room in line.split()}
STRANGERS = {("running", "reporting"), ("reporting", "running")}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, module: str) -> set[str]:
    """The modules of prbench that a file imports, lazily and for type checking too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            found |= {f"{source}.{alias.name}" for alias in node.names} if source == "prbench" else {source}
    return {name for name in found if name.split(".")[0] == "prbench"}


def faults(package: Path) -> list[str]:
    """Every file in an unknown room, and every import against the order of the rooms."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = ("prbench", *path.relative_to(package).with_suffix("").parts)
        module = ".".join(parts).removesuffix(".__init__")
        room = room_of(module)
        if room == "":
            continue
        if room not in LEVEL:
            found.append(f"{module} is in no room of the list")
            continue
        for target in sorted(imports(path, module)):
            other = room_of(target)
            if other in ("", "__version__"):
                continue
            if other not in LEVEL:
                found.append(f"{module} imports {target}, which is in no room of the list")
            elif other != room and (LEVEL[other] > LEVEL[room] or (room, other) in STRANGERS):
                found.append(f"{module} imports {target}")
    return found


def test_imports_go_one_way() -> None:
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("base/errors.py", "from prbench.registry import get"),
        ("protocol/stats.py", "from ..running.run import execute"),
        ("reporting/board.py", "def late():\n    import prbench.running.plan"),
        ("running/run.py", "if TYPE_CHECKING:\n    from prbench.reporting import board"),
        ("attic/old.py", "x = 1"),
        ("leftover.py", "x = 1"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, file: str, line: str) -> None:
    copy = tmp_path / "prbench"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / file
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + f"\n{line}\n")
    (fault,) = faults(copy)
    assert fault.startswith(f"prbench.{file.removesuffix('.py').replace('/', '.')} ")


@pytest.mark.parametrize(
    "module", ["results", "reporting", "registry", "protocol.metrics", "protocol.stats", "reporting.leaderboard"]
)
def test_reading_and_reporting_results_does_not_import_torch(module: str) -> None:
    code = f"import sys, prbench.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
