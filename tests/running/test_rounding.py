"""How far a method magnifies rounding: fits on embeddings that differ in the last place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import make_plan, registry_folder, without_digests

from prbench import cli, registry, results
from prbench.results import cells
from prbench.running import run
from prbench.running.rounding import last_place


@pytest.fixture
def runs(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """Three splits of a method that nothing but rounding decides, and of one that rounding cannot move."""
    registry.reset()
    registry.use([registry_folder(tmp_path / "registry")])
    out = tmp_path / "runs"
    run.execute(make_plan(["lastbit", "length", "bt-ridge"], ["tiny"], out=out, splits=3))
    yield out
    registry.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_move_by_one_unit_in_the_last_place(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 0.1, -0.1, -3e8, 1e-30, 0.0, -0.0], dtype=dtype)
    moved, before = last_place(values).numpy(), values.numpy()
    for old, new in zip(before[:5], moved[:5], strict=True):
        assert new in (np.nextafter(old, np.inf), np.nextafter(old, -np.inf))
    assert (moved[5:] == 0).all()
    twice = last_place(torch.tensor([0.3, 0.3], dtype=dtype))
    assert twice[0] == twice[1]


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_method_of_rounding_alone_reverses_every_decision(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = call(capsys, "probe", "--rounding", "--runs", runs, "--json")
    rows = {record.method for record in results.load(runs).cells if record.status == "done"}
    assert counted["made"] == 2 * len(rows)
    found = results.load(runs)
    shares = {row[2]: share for row, share in found.rounding.items()}
    scores = found.scores[(found.scores["method"] == "lastbit") & found.scores["split"].isin([0, 1])]
    decided = [(part["margin"] != 0).mean() for _, part in scores.groupby("split")]
    assert 0.3 < np.mean(decided) < 0.7  # the last bits of two numbers are equal every other time
    assert shares["lastbit"] == pytest.approx(np.mean(decided))
    assert shares["bt-ridge"] < 0.01
    # Nothing is fitted a second time.
    assert call(capsys, "probe", "--rounding", "--runs", runs, "--json")["made"] == 0


def test_the_table_names_a_row_that_rounding_decides(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "probe", "--rounding", "--runs", runs, "--methods", "lastbit,bt-ridge", "--json")
    out = runs.parent / "out"
    assert cli.main(["report", "leaderboard", "--runs", str(runs), "--out", str(out)]) == 0
    said = "One unit in the last place of the embeddings changes this share of test decisions: LastBit"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (out / "leaderboard.md").read_text()
    assert said in (out / "index.html").read_text()
    table = pd.read_csv(out / "leaderboard.csv").set_index("method")
    assert table.loc["lastbit", "rounding"] > 0.3
    assert table.loc["bt-ridge", "rounding"] < 0.01


def test_a_cell_of_an_earlier_revision_is_not_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in cells.folders(runs):
        record = json.loads((folder / "cell.json").read_text())
        if record["method"] == "lastbit":
            (without_digests(folder) / "cell.json").write_text(json.dumps(record | {"revision": 1}))
    assert cli.main(["probe", "--rounding", "--runs", str(runs), "--methods", "lastbit"]) == 2
    assert "is of revision 1 of lastbit, now it has 2" in capsys.readouterr().err
