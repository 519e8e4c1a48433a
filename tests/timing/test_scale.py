"""`prbench bench scale`: a grid with several workers, and the paper's grid on several machines."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from prbench import cli
from prbench.base.errors import InputError
from prbench.timing import scale


@pytest.mark.extras
def test_a_grid_is_timed_with_one_worker_and_more(prbench_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", "scale", "--workers", "2", "--methods", "bt-ridge,length", "--splits", "2"]
    args += ["--projected", "bt-ridge,mrm", "--shape", "simulated", "--projected-splits", "2", "--seconds", "0.05"]
    assert cli.main([*args, "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["grid"]["rows"]
    assert [row["workers"] for row in rows] == [1, 2]
    assert (rows[0]["speed_up"], rows[0]["efficiency"]) == (1, 1)
    assert rows[1]["efficiency"] == pytest.approx(rows[0]["seconds"] / rows[1]["seconds"] / 2)
    assert found["grid"]["same_scores"]
    projected = found["projection"]
    assert [row["machines"] for row in projected["rows"]] == [1, 8, 64]
    # Two methods on three data sets with two encoders.
    assert len(projected["jobs"]) == 12
    alone = projected["rows"][0]
    work = sum(job["seconds"] for job in projected["jobs"])
    assert alone["seconds"] == pytest.approx(work + 2 * sum(set(projected["opening"].values())))
    assert projected["shapes"] == "simulated"


def test_the_paper_asks_for_its_methods_and_for_no_judge() -> None:
    names = [entry.name for entry in scale.paper_methods()]
    assert {"bt", "mrm", "gpo", "vpl", "pal", "lore", "mrm-rho-0_8", "mrm-no-meta"} <= set(names)
    assert not {"judge", "synthesizeme"} & set(names)
    assert len(names) == len(set(names))


def test_a_grid_that_fails_gives_no_numbers(prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale.run, "execute", lambda plan, execution: SimpleNamespace(failed=3, seconds=1.0))
    with pytest.raises(InputError, match="3 results of the grid failed with 1 workers"):
        scale.grid([1], methods=["length"])


def test_other_scores_with_more_workers_are_seen(prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = iter([4.0, 2.5])
    monkeypatch.setattr(scale.run, "execute", lambda plan, execution: SimpleNamespace(failed=0, seconds=next(ended)))
    monkeypatch.setattr(scale, "_scores", lambda outcome: str(outcome.seconds))
    found = scale.grid([2], methods=["length"])
    assert not found.same_scores
    assert [(row.workers, row.speed_up, row.efficiency) for row in found.rows] == [(1, 1, 1), (2, 1.6, 0.8)]


@pytest.mark.parametrize("text", ["", "0", "two", "1,-1"])
def test_numbers_that_are_none_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "scale", "--machines", text]) == 2
    assert "expected numbers of 1 and more" in capsys.readouterr().err
