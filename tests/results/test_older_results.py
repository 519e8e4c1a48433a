"""Results made by an earlier prbench stay valid: they are read, reported and not made again.

`fixtures/older-results/runs` was written at version 0.1.0, before prbench was divided into rooms, by the command in its
records. Cells may only be set aside where a method's `revision` or the data changed by intent.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_runs import make_plan

from prbench import cli, results

FIXTURE = Path(__file__).parents[1] / "fixtures" / "older-results"
METHODS = ["bt", "bt-ridge", "mrm", "lore", "user-bt", "bt-offset"]
# LoRe magnifies rounding: training that does not depend on the splits beside it moved its scores.
RAISED = ["lore"]
DONE = [name for name in METHODS if name not in RAISED]
OVERALL = {"bt": 0.71875, "bt-ridge": 0.7142857143}


def number(*key: str | int) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


@pytest.fixture
def older(prbench_home: Path, tmp_path: Path) -> Path:
    """A copy of the older results, with their data imported."""
    items = 2 * sum(map(len, json.loads((FIXTURE / "V2.json").read_text()).values()))
    features = [[(number("x", item, j) % 2001 - 1000) / 500 for j in range(12)] for item in range(items)]
    torch.save(torch.tensor(features), tmp_path / "V2.pt")
    pair = ["--pt", str(tmp_path / "V2.pt"), "--meta", str(FIXTURE / "V2.json")]
    assert cli.main(["data", "import-embeddings", *pair, "--name", "older"]) == 0
    shutil.copytree(FIXTURE / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def test_every_cell_is_found_done(older: Path) -> None:
    for selection, names in (("published", DONE), ("test-oracle", ["bt"])):
        plan = make_plan(names, ["older"], splits=2, shots=(0, 4), selection=selection, out=older)
        cells = [cell for job in plan.jobs for cell in job.cells]
        assert len(cells) == 2 * len(names)
        if selection == "published":
            assert {cell.state for cell in cells} == {"done"}
            assert not any(cell.shots for cell in cells)
        else:
            assert {cell.state for cell in cells} == {"done"}


def test_cells_of_raised_methods_are_made_again(older: Path) -> None:
    plan = make_plan(RAISED, ["older"], splits=2, out=older)
    assert {cell.state for job in plan.jobs for cell in job.cells} == {"missing"}


def test_a_run_on_them_fits_nothing(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prbench.running.job._fit_and_score", lambda *_, **__: pytest.fail("fitted"))
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    command = ["run", "--methods", ",".join(DONE), "--dataset", "older", "--splits", "2", "--shots", "0,4"]
    assert cli.main([*command, "--out", str(older)]) == 0
    assert {path: path.read_bytes() for path in older.rglob("*") if path.is_file()} == before


def test_they_are_reported(older: Path, tmp_path: Path) -> None:
    assert cli.main(["report", "leaderboard", "--runs", str(older), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index(["method", "selection"])
    assert len(table) == len(METHODS) + 2
    for method, accuracy in OVERALL.items():
        own = table.loc[method].drop(index="test-oracle", errors="ignore")
        assert own["overall"].item() == pytest.approx(accuracy, abs=1e-9)
    assert set(results.load(older).scores["shots"]) == {-1, 0, 4}
