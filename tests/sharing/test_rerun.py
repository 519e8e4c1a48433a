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
from judged_runs import judge_entry
from judged_runs import registry_folder as judged_registry
from small_runs import registry_folder

from prbench import cli, data, registry
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


# Judge models


@pytest.fixture
def judged(tmp_path: Path, prbench_home: Path) -> Iterator[Path]:
    """Cells of two methods that read texts through a scripted judge, and of one through stored verdicts."""
    own = judged_registry(tmp_path / "own", users=8, splits=1)
    registry.use([own])
    found = data.load(registry.get("datasets", "taste-text"))
    assert found.text is not None
    pairs = {frozenset(pair): pair for pair in zip(found.chosen.tolist(), found.rejected.tolist(), strict=True)}
    with (tmp_path / "verdicts.jsonl").open("w") as file:
        for first, second in pairs.values():
            context = [message._asdict() for message in found.text.context(first)]
            sides = {"first": found.text.response(first), "second": found.text.response(second)}
            file.write(json.dumps({"context": context, **sides, "verdict": "first"}) + "\n")
    rest = f"[options]\nfile = '{tmp_path / 'verdicts.jsonl'}'"
    judge_entry(own, "stored", "prbench.judging.stored:StoredVerdicts", rest)
    judge_entry(own, "kept", "taste_judge:KeptJudge")
    registry.reset()
    shared = ["--dataset", "taste-text", "--out", str(tmp_path / "runs"), "--threads", "1", "--registry", str(own)]
    sample = ["--test-sample", "users=0.5"]
    assert cli.main(["run", "--methods", "judge,judge-icl", "--judge", "taste", *shared]) == 0
    assert cli.main(["run", "--methods", "judge", "--judge", "stored", *sample, *shared]) == 0
    registry.use([own])
    yield tmp_path / "runs"
    registry.reset()


def test_cells_of_stored_verdicts_and_scripted_judges_are_made_again(judged: Path) -> None:
    found = rerun(judged, 9)
    assert (found["identical"], found["differs"], found["not_drawn"]) == (3, 0, 0)
    for name, method in (("stored", "judge"), ("taste", "judge-icl")):
        [folder] = (judged / "taste-text" / name / method).glob("split-0-*")
        margin = pd.read_parquet(cells.scores_file(folder, ALL_SHOTS))["margin"].to_numpy()
        row = int(np.flatnonzero(margin)[0])
        edited(folder, slice(row, row + 1), -1)
    assert verify(judged)["damaged"] == 0
    found = rerun(judged, 9)
    assert (found["identical"], found["differs"]) == (1, 2)
    assert sorted(said.split("/split")[0] for said in found["problems"]) == [
        "taste-text/stored/judge",
        "taste-text/taste/judge-icl",
    ]


def test_answers_that_are_kept_are_not_given_anew(judged: Path, tmp_path: Path) -> None:
    words = ["run", "--methods", "judge", "--judge", "kept", "--dataset", "taste-text", "--registry"]
    assert cli.main([*words, str(tmp_path / "own"), "--out", str(tmp_path / "kept")]) == 0
    with pytest.raises(InputError, match="no finished result that can be made again"):
        rerun(tmp_path / "kept", 1)
    shutil.copytree(tmp_path / "kept" / "taste-text" / "kept", judged / "taste-text" / "kept")
    assert rerun(judged, 1)["not_drawn"] == 1
