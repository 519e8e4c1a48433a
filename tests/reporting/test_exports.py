"""Results in the formats of others, and in experiment trackers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_results import Fake, population
from huggingface_hub import parse_eval_result_entries

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.registry import arguments, targets
from prbench.reporting import tracking
from prbench.reporting.eval_results import eval_results, hub_id
from prbench.reporting.every_eval_ever import every_eval_ever

ON_HUB = "mt-bench-human"


def world(dataset: str = ON_HUB, *further: str) -> Fake:
    methods = {"bt": 0.0, "mrm": 0.05} | dict.fromkeys(further, 0.0)
    fake = population(methods, users=12, splits=4, dataset=dataset)
    for number, cell in enumerate(fake.cells):
        cell |= {"key": f"key{number}", "versions": {"prbench": "0.2.0"}, "finished": f"2026-11-0{1 + cell['split']}"}
        cell["counts"] = {"seen_users": 6, "unseen_users": 6}
        cell["entry"] = {**cell["entry"], "name": cell["method"], "selection": "validation", "paper": "Somebody 2026"}
    return fake


def accuracy(fake: Fake, method: str, population: str | None = None) -> np.ndarray[Any, Any]:
    """The mean user accuracy of each split, counted by hand."""
    scores = fake.scores
    scores = scores[scores["method"] == method]
    if population:
        scores = scores[scores["population"] == population]
    users = (scores["margin"] > 0).groupby([scores["split"], scores["user"]]).mean()
    return users.groupby("split").mean().to_numpy()


def exported(fake: Fake, out: Path) -> list[Path]:
    return every_eval_ever(fake.results(), out)


def test_every_eval_ever_has_the_numbers_and_their_uncertainty(tmp_path: Path) -> None:
    fake = world()
    paths = exported(fake, tmp_path)
    assert [path.parent.relative_to(tmp_path).as_posix() for path in paths] == [
        "data/prbench/prbench/bt-minilm",
        "data/prbench/prbench/mrm-minilm",
    ]
    log = json.loads(paths[1].read_text())
    assert (log["model_info"]["id"], log["eval_library"]["version"]) == ("prbench/mrm-minilm", "0.2.0")
    assert log["evaluation_timestamp"] == "2026-11-04"
    found = {result["evaluation_result_id"]: result for result in log["evaluation_results"]}
    for name, part in (("seen", "seen"), ("unseen", "unseen"), ("overall", None)):
        values, details = accuracy(fake, "mrm", part), found[f"{ON_HUB}/{name}/accuracy"]["score_details"]
        assert details["score"] == pytest.approx(values.mean())
        assert details["uncertainty"]["standard_deviation"] == pytest.approx(values.std(ddof=1))
        interval = details["uncertainty"]["confidence_interval"]
        assert (interval["lower"] + interval["upper"]) / 2 == pytest.approx(values.mean())
        assert details["details"]["users"] == {"overall": "12"}.get(name, "6")
    assert found[f"{ON_HUB}/overall/worst10"]["score_details"]["score"] < accuracy(fake, "mrm").mean()
    # The same results have the same file name; other results another.
    assert [p.name for p in exported(fake, tmp_path)] == [p.name for p in paths]
    fake.cells[-1]["key"] = "other"
    assert [p.name for p in exported(fake, tmp_path)] != [p.name for p in paths]


def test_rows_that_would_lose_their_mark_are_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fake = world(ON_HUB, "lore")
    # LoRe lacks all splits but the first.
    fake.cells = [cell for cell in fake.cells if (cell["method"], cell["split"] > 0) != ("lore", True)]
    fake.frames = [f for f in fake.frames if (f["method"].iloc[0], f["split"].iloc[0] > 0) != ("lore", True)]
    more = population({"bt": 0.1}, users=12, splits=4, dataset=ON_HUB, selection="test-oracle")
    for number, cell in enumerate(more.cells):
        cell |= {"key": f"oracle{number}"}
    fake.cells += more.cells
    fake.frames += more.frames
    assert len(exported(fake, tmp_path)) == 2
    said = capfd.readouterr().err
    assert f"LORE on {ON_HUB} is left out" in said
    assert "is left out: it was chosen on test data" in said
    with pytest.raises(InputError, match="no row can be exported"):
        every_eval_ever(fake.results(), tmp_path, methods="lore")
    with pytest.raises(InputError, match="developer is 'a/b'"):
        every_eval_ever(fake.results(), tmp_path, developer="a/b")


@pytest.mark.extras
def test_the_validator_of_every_eval_ever_finds_nothing(tmp_path: Path) -> None:
    for dataset in (ON_HUB, "simulated", "somebodys-own"):
        paths = exported(world(dataset), tmp_path / dataset)
        words = [sys.executable, "-m", "every_eval_ever.validate", *map(str, paths)]
        made = subprocess.run(words, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
    # The control: it does look.
    log = json.loads(paths[0].read_text())
    log["evaluation_results"][0]["score_details"]["score"] = 2.0
    paths[0].write_text(json.dumps(log))
    assert subprocess.run(words, capture_output=True).returncode != 0


def test_a_model_repositorys_yaml_reads_back_by_the_hubs_own_reader(tmp_path: Path) -> None:
    fake = world()
    paths = eval_results(fake.results(), tmp_path, methods="mrm")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [f"mrm-minilm/.eval_results/{ON_HUB}.yaml"]
    entries = parse_eval_result_entries(yaml.safe_load(paths[0].read_text()))
    assert {entry.dataset_id for entry in entries} == {"lmsys/mt_bench_human_judgments"}
    by_task = {entry.task_id: entry for entry in entries}
    assert set(by_task) == {f"{ON_HUB}-{population}" for population in ("seen", "unseen", "overall")}
    whole = by_task[f"{ON_HUB}-overall"]
    assert whole.value == round(100 * accuracy(fake, "mrm").mean(), 2)
    assert (whole.date, "mean over 4 random splits" in str(whole.notes)) == ("2026-11-04", True)


def test_data_that_the_hub_does_not_have_need_a_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert hub_id(ON_HUB) == "lmsys/mt_bench_human_judgments"
    assert hub_id("simulated") == hub_id("somebodys-own") == ""
    fake = world("simulated")
    with pytest.raises(InputError, match="the hub has none of these data sets"):
        eval_results(fake.results(), tmp_path)
    assert "simulated is left out: its entry names no data set of the hub" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
    [path, _] = eval_results(fake.results(), tmp_path, dataset_ids={"simulated": "me/sim"})
    assert yaml.safe_load(path.read_text())[0]["dataset"]["id"] == "me/sim"


@pytest.mark.parametrize("name", ["every-eval-ever", "eval-results"])
def test_their_entries_give_options_that_the_reports_take(name: str) -> None:
    entry = registry.get("reports", name)
    arguments.options(targets.load_target("reports", entry), entry.options, positional=2, where=name)


# Trackers


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A table with a text that is missing, a figure and a page."""
    import matplotlib.figure

    row = {
        "dataset": "data 1",
        "encoder": "minilm",
        "method": "bt",
        "selection": "last",
        "overall": 0.7,
        "seen": None,
    }
    pd.DataFrame([{**row, "note": "a note"}, {**row, "method": "mrm", "overall": 0.8, "note": None}]).to_csv(
        tmp_path / "leaderboard.csv", index=False
    )
    matplotlib.figure.Figure(figsize=(1, 1)).savefig(tmp_path / "worst-k.png")
    (tmp_path / "index.html").write_text("<p>page</p>")
    return [tmp_path / name for name in ("leaderboard.csv", "worst-k.png", "index.html")]


NUMBERS = {"data_1/minilm/bt/last/overall": 0.7, "data_1/minilm/mrm/last/overall": 0.8}


class Recorder:
    """A module whose calls are written down; what it returns writes its own down too."""

    def __init__(self, calls: list[tuple[str, Any]], name: str = "") -> None:
        self.calls, self.name = calls, name

    def __getattr__(self, name: str) -> Recorder:
        return Recorder(self.calls, f"{self.name}.{name}".strip("."))

    def __call__(self, *args: Any, **kwargs: Any) -> Recorder:
        self.calls.append((self.name, (args, kwargs)))
        return self

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("exit", None))


@pytest.mark.parametrize("tracker", tracking.TRACKERS)
def test_a_report_is_logged_by_the_documented_calls(
    tracker: tracking.Tracker, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    planted = types.ModuleType(tracker)
    planted.__getattr__ = Recorder(calls).__getattr__  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, tracker, planted)
    tracking.log("leaderboard", files, tracker)
    names = [name for name, _ in calls]
    found = dict(calls)
    if tracker == "mlflow":
        assert names.count("log_artifact") == 3
        assert found["log_table"][0][1] == "tables/leaderboard.json"
        assert found["log_metrics"][0][0] == pytest.approx(NUMBERS)
        assert names[-1] == "exit"
    else:
        assert found["init"][1]["project"] == "prbench"
        assert names.count("Artifact.add_file") == 3
        assert set(found["init.log"][0][0]) == {"tables/leaderboard", "figures/worst-k"}
        assert found["init.summary.update"][0][0] == pytest.approx(NUMBERS)
        assert names[-1] == "init.finish"


def test_a_tracker_that_is_not_installed_is_one_line(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="mlflow is not installed") as error:
        tracking.log("leaderboard", files, "mlflow")
    assert error.value.hint == "pip install 'prbench[mlflow]'"


MLFLOW = """
import sys
from pathlib import Path
from prbench.reporting import tracking
import mlflow
run = tracking.log("leaderboard", [Path(p) for p in sys.argv[1:]], "mlflow")
client = mlflow.MlflowClient()
print(client.get_run(run).data.metrics)
print(sorted(f.path for folder in ("", "tables", "figures") for f in client.list_artifacts(run, folder) if not f.is_dir))
print(len(mlflow.load_table("tables/leaderboard.json", run_ids=[run])))
"""


@pytest.mark.extras
def test_mlflow_gives_back_what_was_logged(files: list[Path], tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-c", MLFLOW, *map(str, files)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "MLFLOW_TRACKING_URI": (tmp_path / "store").as_uri(),
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
    )
    assert made.returncode == 0, made.stderr[-2000:]
    metrics, artifacts, rows = made.stdout.strip().splitlines()[-3:]
    assert eval(metrics) == pytest.approx(NUMBERS)
    assert eval(artifacts) == ["figures/worst-k.png", "index.html", "leaderboard.csv", "tables/leaderboard.json"]
    assert rows == "2"


@pytest.mark.extras
def test_wandb_keeps_a_run_without_a_network(files: list[Path], tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from prbench.reporting import tracking; print(tracking.log('leaderboard', [Path(p) for p in sys.argv[1:]], 'wandb'))"
    made = subprocess.run(
        [sys.executable, "-c", program, *map(str, files)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"WANDB_MODE": "offline", "WANDB_SILENT": "true", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        timeout=120,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    run = made.stdout.split()[-1]
    [folder] = (tmp_path / "wandb").glob(f"offline-run-*-{run}")
    assert any(file.suffix == ".wandb" and file.stat().st_size for file in folder.iterdir())
    media = sorted(path.suffix for path in (folder / "files" / "media").rglob("*.*"))
    assert media == [".json", ".png"]


def test_the_command_takes_a_tracker(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "leaderboard", "--log", "tensorboard"]) == 2
    assert "'mlflow', 'wandb'" in capsys.readouterr().err
