"""A sample of the campaigns of `make faults`, which prints their figures; left to `make test-extras`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import campaign
import pytest

HERE = Path(__file__).parent
NOTHING = "tried: lost none, doubled none, silently different none, traceback none"


@pytest.mark.extras
def test_a_sample_finds_nothing() -> None:
    """The campaigns are a program of their own, since they copy themselves: pytest has threads."""
    path = os.pathsep.join(str(folder) for folder in (HERE.parent, HERE, HERE.parent / "loaders"))
    ended = subprocess.run(
        [sys.executable, "-P", str(HERE / "sample.py")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count(NOTHING) == 5


def test_figures_name_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    figures = campaign.Figures("planted", tried=3)
    figures.compare("here", {"a": "1", "b": "9", "e": "5"}, {"a": "1", "b": "2", "c": "3"}, before={"b": "2"})
    figures.twice("here", ["d"])
    assert dict(figures.faults) == {"doubled": 2, "lost": 1, "silently different": 1}
    assert "lost 1, doubled 2, silently different 1, traceback none" in str(figures)
    assert "planted: lost: here: c" in capsys.readouterr().err
