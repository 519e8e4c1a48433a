"""What Windows lacks is asked of nobody: prbench imports, locks and stores without the modules of POSIX systems."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LACKING = "fcntl grp posix pty pwd resource termios tty"

PROGRAM = f'''
import builtins, importlib, pkgutil, sys
from pathlib import Path

lacking, real, asked = set("{LACKING}".split()), builtins.__import__, []

def blocked(name, globals=None, locals=None, fromlist=(), level=0):
    """Only imports of prbench are stopped: its libraries have their own ways on Windows."""
    if name in lacking and str((globals or {{}}).get("__name__")).partition(".")[0] == "prbench":
        asked.append(f"{{globals['__name__']}} imports {{name}}")
        raise ImportError(name)
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = blocked
import prbench

modules = [m.name for m in pkgutil.walk_packages(prbench.__path__, "prbench.") if m.name != "prbench.__main__"]
for name in modules:
    importlib.import_module(name)

import torch
from prbench.base.locks import alone
from prbench.embedding.store import EmbeddingStore
from prbench.results.claims import Claims

folder = Path(sys.argv[1])
store = EmbeddingStore(folder / "store", {{"model": "planted"}}, None)
with store.writer():
    store.append([bytes(32)], torch.ones(1, 4))
assert EmbeddingStore.open(folder / "store").known.keys() == {{bytes(32)}}
with Claims(folder / "runs").hold("work") as mine:
    assert mine
Claims(folder / "runs").clear()
assert not asked, asked
sys.platform = sys.argv[2]
from prbench.base.files import write_text
write_text(folder / "text", "written")
print(len(modules))
'''


def test_every_module_imports_and_stores_lock_without_posix_modules(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), "win32"], capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert int(made.stdout.split()[-1]) > 200


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    """The control: a module of prbench that asks for fcntl fails under the same program."""
    planted = PROGRAM.replace(
        "import prbench\n\nmodules",
        "import prbench\nexec(compile('import fcntl', 'planted', 'exec'), {'__name__': 'prbench.planted'})\nmodules",
    )
    made = subprocess.run([sys.executable, "-c", planted, str(tmp_path), "win32"], capture_output=True, text=True)
    assert made.returncode != 0
    assert "ImportError: fcntl" in made.stderr
