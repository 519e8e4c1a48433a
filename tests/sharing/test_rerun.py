"""`results verify --rerun N`: an edited margin whose digest was renewed is found by fitting again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import registry_folder

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, digests
from prbench.results.verify import verify
from prbench.running.rerun import rerun


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three cells: a plain one with few shots, one with parameters set by hand, one chosen otherwise."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(folder / "home"))
        shared = [
            "--dataset",
            "tiny",
            "--registry",
            str(registry_folder(folder / "own")),
            "--out",
            str(folder / "runs"),
        ]
        for words in (
            ["--methods", "user-bt", "--shots", "all,2", "--threads", "1"],
            ["--methods", "mrm", "--set", "mrm.epochs=4", "--threads", "1"],
            ["--methods", "bt", "--set", "bt.steps=30", "--selection", "validation", "--threads", "2"],
        ):
            assert cli.main(["run", *words, "--splits", "1", "--seed", "7", *shared]) == 0
        registry.reset()
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PRBENCH_HOME", str(made / "home"))
    shutil.copytree(made / "runs", tmp_path / "runs")
    registry.use([made / "own"])
    yield tmp_path / "runs"
    registry.reset()


def edited(folder: Path, rows: slice, factor: float) -> None:
    path = cells.scores_file(folder, ALL_SHOTS)
    frame = pd.read_parquet(path)
    margin = frame["margin"].to_numpy().copy()
    margin[rows] *= np.float32(factor)
    frame.assign(margin=margin).to_parquet(path, index=False)
    digests.write(folder, list(digests.of(folder).shots), digests.accuracies(dict(frame.assign(margin=margin))))


def cell(runs: Path, method: str) -> Path:
    (found,) = (runs / "tiny" / "own").glob(f"{method}*/split-0-*")
    return found


def test_what_nobody_edited_comes_out_again_to_the_bit(runs: Path) -> None:
    threads = torch.get_num_threads()
    found = rerun(runs, 3)
    assert (found["identical"], found["within_rounding"], found["differs"]) == (3, 0, 0)
    assert found["problems"] == []
    assert torch.get_num_threads() == threads


def test_an_edited_margin_with_a_renewed_digest_is_found(
    runs: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(cell(runs, "user-bt"), slice(5, 6), -1)
    assert verify(runs)["damaged"] == 0
    words = ["results", "verify", str(runs), "--registry", str(made / "own"), "--json"]
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main([*words, "--rerun", "3"]) == 1
    found = json.loads(capsys.readouterr().out)["rerun"]
    assert (found["identical"], found["differs"]) == (2, 1)
    [said] = found["problems"]
    assert "user-bt" in said
    assert "scores-all.parquet: 1 of " in said
    assert "the rest is the same to the bit, so it is not rounding" in said


@pytest.mark.parametrize(("factor", "verdict"), [(1 + 1e-6, "within_rounding"), (-1, "differs")])
def test_where_every_margin_moves_decisions_decide(runs: Path, factor: float, verdict: str) -> None:
    """As on another machine, where rounding is another; no machine turns all decisions."""
    edited(cell(runs, "user-bt"), slice(None), factor)
    mine = [cell(runs, "user-bt")]
    found = rerun(runs, 1, choose=lambda found, n: mine)
    assert found[verdict] == 1
    assert bool(found["problems"]) == (verdict == "differs")


def test_another_key_other_data_and_a_foreign_target_are_refused(runs: Path) -> None:
    folder = cell(runs, "user-bt")
    path = folder / "cell.json"
    record = json.loads(path.read_text())
    for change, message in (
        ({"params": {**record["params"], "reg": 3.0}}, "cannot be made again here|has no parameter"),
        ({"data_fingerprint": "other"}, "was made with data fingerprint other"),
        ({"entry": {**record["entry"], "target": "subprocess:run"}}, "subprocess:run"),
    ):
        path.write_text(json.dumps({**record, **change}))
        edited(folder, slice(0, 0), 1)
        with pytest.raises(InputError, match=message):
            rerun(runs, 1, choose=lambda found, n: [folder])
