"""Samples of the campaigns of `make faults`, which prints their figures; the longer one is left to `make test-extras`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import campaign
import flips
import pytest

from prbench.base.errors import InputError

HERE = Path(__file__).parent
NOTHING = "tried: lost none, doubled none, silently different none, traceback none"
CAMPAIGNS = ("kills", "side by side", "surroundings", "by commands", "fuzz")


def sample(which: str) -> str:
    """What a sample prints, which finds nothing but what it plants.

    The campaigns are a program of their own, since they copy themselves: pytest has threads.
    """
    path = os.pathsep.join(str(folder) for folder in (HERE.parent, HERE, HERE.parent / "loaders"))
    ended = subprocess.run(
        [sys.executable, "-P", str(HERE / "sample.py"), which],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_quick_sample_finds_what_is_planted_and_nothing_else() -> None:
    said = sample("quick").splitlines()
    for name in CAMPAIGNS:
        (line,) = (line for line in said if line.startswith(f"{name} "))
        assert NOTHING in line
        assert " 0 tried" not in line
    found = [line for line in said if line.startswith("planted ")]
    assert [line.split("  ")[0] for line in found] == [f"planted {name}" for name in CAMPAIGNS]
    assert not [line for line in found if NOTHING in line]


@pytest.mark.extras
def test_a_long_sample_finds_nothing() -> None:
    assert sample("long").count(NOTHING) == len(CAMPAIGNS)


def test_flips_find_what_is_planted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"whole")

    def outcome(read: object) -> str:
        kind = flips.Kind("planted", file, read)  # type: ignore[arg-type]
        return flips.outcome_of(kind, b"other", "bit 0", b"whole").partition(":")[0]

    def refuses() -> None:
        raise InputError("damaged")

    def raises() -> None:
        raise KeyError("a")

    kinds = (file.read_bytes, lambda: b"whole", refuses, raises)
    assert [outcome(read) for read in kinds] == ["silent", "without effect", "found", "traceback"]


def test_figures_name_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    figures = campaign.Figures("planted", tried=3)
    figures.compare("here", {"a": "1", "b": "9", "e": "5"}, {"a": "1", "b": "2", "c": "3"}, before={"b": "2"})
    figures.twice("here", ["d"])
    assert dict(figures.faults) == {"doubled": 2, "lost": 1, "silently different": 1}
    assert "lost 1, doubled 2, silently different 1, traceback none" in str(figures)
    assert "planted: lost: here: c" in capsys.readouterr().err
