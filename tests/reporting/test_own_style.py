"""No setting of a person's matplotlib reaches the report: equal results give equal files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from fake_results import HEAVY, one_board, population
from prbench.protocol import metrics
from prbench.reporting.worst_k import worst_k_figure
fake = population({"bt": 0.0, "mrm": 0.05}, splits=2)
for cell in fake.cells:
    if cell["method"] == "mrm":
        cell["title"] = "MRM \\U0001f600"
curves = metrics.worst_k_curves(metrics.user_metrics(fake.scores))
assert worst_k_figure([one_board(fake, resamples=10)], curves, Path(sys.argv[2]) / "worst-k")
"""
HOSTILE = """
backend: nosuchbackend
text.usetex: True
font.family: monospace
font.size: 30
figure.dpi: 30
savefig.dpi: 30
savefig.bbox: tight
savefig.transparent: True
axes.grid: False
lines.linewidth: 9
"""


def digests(folder: Path, **environment: str) -> tuple[dict[str, str], str]:
    """The figures' sha256 as a process with this environment makes them, and its stderr."""
    out = folder / "out"
    out.mkdir(parents=True)
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tests), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}, done.stderr


def test_a_hostile_matplotlib_changes_no_byte(tmp_path: Path) -> None:
    plain, said = digests(tmp_path / "plain")
    assert set(plain) == {"worst-k.png", "worst-k.pdf"}
    assert "Glyph" not in said, "an emoji in a title leaves no warning of matplotlib"
    theirs = tmp_path / "matplotlibrc"
    theirs.write_text(HOSTILE)
    hostile, _ = digests(
        tmp_path / "hostile", MATPLOTLIBRC=str(theirs), MPLBACKEND="module://matplotlib_inline.backend_inline"
    )
    assert hostile == plain
