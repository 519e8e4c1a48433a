"""`prbench run --report`: exactly what the report's pieces need, each cell and probe once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from paper_results import files
from small_runs import registry_folder

from prbench import cli, registry, results
from prbench.registry.schema import DatasetEntry
from prbench.running import report as reportruns

HEAD = """
title = "Small"
target = "prbench.reporting.paper:paper"
summary = "small"
[options]
baseline = "bt-ridge"
resamples = 199
"""
PIECE = """
[[options.pieces]]
name = "{name}"
target = "prbench.reporting.paper.{target}"
title = "{name}"
shows = "{name}"
{rest}
"""
SMALL = HEAD + "".join(
    PIECE.format(name=name, target=target, rest=rest)
    for name, target, rest in (
        ("table", "tables:accuracy", 'methods = ["bt-ridge", "length"]'),
        ("shots", "curves:few_shot", 'methods = ["bt-ridge", "bt-offset"]\nshots = [0, 2, 5000]'),
        ("oracle", "optimism:oracle", 'methods = ["bt-ridge"]\nselections = ["published", "test-oracle"]'),
        ("noise", "curves:noise", 'methods = ["bt-offset"]\nnoise = [0.2]'),
        ("gap", "personal:gap", 'methods = ["bt-ridge", "bt-offset"]\nsupport = true'),
        ("transfer", "transfer:transfer", 'methods = ["bt-offset"]\ntransfer = true'),
    )
)
FAILING = HEAD + PIECE.format(name="table", target="tables:accuracy", rest='methods = ["bt-ridge", "raises"]')


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(prbench_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs prbench with small data sets, planted methods and the reports `small` and `failing`."""
    registry.reset()
    folder = registry_folder(tmp_path / "registry")
    (folder / "reports").mkdir()
    (folder / "reports" / "small.toml").write_text(SMALL)
    (folder / "reports" / "failing.toml").write_text(FAILING)

    def call(*args: str) -> Outcome:
        capsys.readouterr()
        code = cli.main(["--registry", str(folder), *args])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    yield call
    registry.reset()


def test_a_dry_run_counts_every_cell_and_probe_once(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "runs")
    planned = run(
        "run", "--report", "small", "--dataset", "tiny", "--splits", "2", "--out", out, "--dry-run", "--json"
    )
    assert planned.code == 0
    found = json.loads(planned.out)
    assert not (tmp_path / "runs").exists()
    cells = {(c["method"], c["selection"], c["split"]): c for c in found["cells"]}
    rows = [("bt-ridge", "validation"), ("bt-ridge", "test-oracle"), ("bt-offset", "validation"), ("length", "last")]
    assert set(cells) == {(*row, split) for row in rows for split in range(2)}
    assert len(found["cells"]) == len(cells)
    shots = {row: cells[(*row, 0)]["shots"] for row in rows}
    assert [shots[row] for row in rows] == [["all", 0, 2], ["all"], ["all", 0, 2], ["all"]]
    probed = sorted((p["method"], p["probe"], p["split"]) for p in found["probes"])
    assert probed == sorted(
        (method, probe, split)
        for method, probe in (("bt-offset", "noise-0.2"), ("bt-offset", "support"), ("bt-ridge", "support"))
        for split in range(2)
    )
    counts = found["counts"]
    assert (counts["cells"], counts["missing"], counts["probes"], counts["probes missing"]) == (8, 8, 6, 6)
    assert "tiny: some unseen users have no more than" in planned.err
    assert "shots 5000 are left out" in planned.err
    table = run("run", "--report", "small", "--dataset", "tiny", "--splits", "2", "--out", out, "--dry-run")
    assert [part.strip() for part in table.out.splitlines() if "tiny" in part]


def test_one_command_makes_it_all_and_a_second_makes_nothing(run: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    args = ("run", "--report", "small", "--dataset", "tiny,tiny2", "--splits", "2", "--out", str(runs))
    first = run(*args, "--json")
    assert first.code == 0
    found = json.loads(first.out)
    assert found["failed"] == 0
    assert (found["counts"]["cells"], found["counts"]["done"], found["counts"]["probes done"]) == (16, 16, 12)
    stamps = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    assert run(*args).code == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()} == stamps
    assert sorted(p.name for p in next(runs.glob("tiny/own/bt-offset/split-0-*")).iterdir()) == [
        "DONE", "cell.json", "model.safetensors", "probe-noise-0.2.parquet", "probe-support.parquet",
        "scores-0.parquet", "scores-2.parquet", "scores-all.parquet",
    ]  # fmt: skip
    report = run("report", "small", "--runs", str(runs), "--out", str(tmp_path / "out"))
    assert report.code == 0
    made = {name for name in files(tmp_path / "out") if name.endswith(".csv")}
    assert made == {"table.csv", "splits.csv", "shots.csv", "oracle.csv", "noise.csv", "gap.csv"}


def test_a_failing_method_is_recorded_and_the_others_go_on(run: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = run("run", "--report", "failing", "--dataset", "tiny", "--splits", "2", "--out", str(runs))
    assert done.code == 1
    states = {(c.method, c.status) for c in results.load(runs).cells}
    assert states == {("bt-ridge", "done"), ("raises", "failed")}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give --methods or --report"),
        (("--methods", "bt", "--report", "small"), "give one of --methods and --report, not both"),
        (("--report", "smal"), "unknown report 'smal'; did you mean small"),
        (("--report", "leaderboard"), "leaderboard is made from whatever results there are"),
        (("--report", "small", "--shots", "5"), "small says itself what to run: leave out --shots"),
        (("--report", "small", "--selection", "last"), "leave out --selection"),
        (("--report", "small", "--set", "bt.steps=1"), "leave out --set"),
        (("--report", "small", "--precision", "high"), "leave out --precision"),
    ],
)
def test_what_does_not_go_together_is_one_line(run: Run, args: tuple[str, ...], message: str) -> None:
    refused = run("run", "--dataset", "tiny", *args)
    assert refused.code == 2
    error, *hint = refused.err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert len(hint) <= 1


def entry(name: str, **changes: Any) -> DatasetEntry:
    return registry.get("datasets", name).model_copy(update=changes)


def test_transfer_goes_to_other_people_that_the_encoder_reads_anyway(run: Run) -> None:
    targets = reportruns.transfer_targets
    # convarg-topics are the same people; prism comes with another encoder and is only taken where it is run.
    assert targets(entry("convarg"), "minilm", ["convarg"]) == ["crowdrag"]
    assert targets(entry("crowdrag"), "minilm", []) == ["convarg", "convarg-topics"]
    assert targets(entry("convarg"), "minilm", ["prism"]) == ["crowdrag", "prism"]
    assert targets(entry("prism"), "skywork-v2", ["prism", "reddit100"]) == ["reddit100"]
    assert targets(entry("simulated"), "own", ["convarg"]) == []
