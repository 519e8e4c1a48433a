"""Jobs handed to Slurm: what sbatch is told, what is queued twice, what status says; Slurm's programs are planted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import registry_folder, short

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.base.processes import this_process
from prbench.running.cluster import submissions
from prbench.running.cluster.batch import Task, failure, noted
from prbench.running.cluster.submissions import Note, SubmittedJob
from prbench.running.execution import Resources, read_resources, read_slurm
from prbench.running.job import CellEnd
from prbench.running.needs import Needs

pytest.importorskip("submitit", reason="submitit is not installed")

SBATCH = """#!/bin/sh
grep -q partition=nowhere "$1" && {{ echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }}
cp "$1" "{folder}/told"
echo "Submitted batch job 77"
"""
SACCT = """#!/bin/sh
echo "$@" > "{folder}/asked"
cat "{folder}/states"
"""


@pytest.fixture
def cluster(prbench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Planted sbatch, srun and sacct; `states` holds what sacct says, `told` what sbatch was given last."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("sacct", SACCT), ("srun", "#!/bin/sh\n")):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    (folder / "states").write_text("")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.chdir(tmp_path)
    registry_folder(tmp_path / "own")
    yield folder
    registry.reset()


def given(*more: str) -> list[str]:
    names = ["bt", "user-bt"]
    sets = [word for text in short(*names) for word in ("--set", text)]
    words = ["--registry", "own", "run", "--methods", ",".join(names), "--dataset", "tiny", "--splits", "2", *sets]
    return [*words, "--executor", "slurm", "--json", *more]


def status(capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert cli.main(["status", "--runs", "runs", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_array_is_told_time_and_memory(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--slurm", "partition=long", "--slurm", "account=lab", "--resources", "memory=3,minutes=90,cpus=2")
    assert cli.main(given(*more)) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {cell["status"] for cell in cells} == {"missing"}
    told = (cluster / "told").read_text()
    for line in ("array=0-1%2", "time=90", "mem=3072M", "cpus-per-task=2", "partition=long", "account=lab"):
        assert f"#SBATCH --{line}\n" in told
    # Without --resources the estimate says it: of small fits, the least of memory and time.
    (Path("runs") / ".jobs").rename("earlier")
    assert cli.main(given()) == 0
    told = (cluster / "told").read_text()
    assert "#SBATCH --time=10\n" in told
    assert "#SBATCH --mem=960M\n" in told or "#SBATCH --mem=961M\n" in told


def test_what_is_queued_is_not_queued_again(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(given()) == 0
    (cluster / "told").unlink()
    (cluster / "states").write_text("77_0|RUNNING\n77_1|PENDING\n")
    states = {job["title"]: (job["state"], job["job_id"]) for job in status(capsys)["jobs"]}
    assert states == {"bt[steps=30] on tiny": ("running", "77_0"), "user-bt on tiny": ("queued", "77_1")}
    assert cli.main(given()) == 0
    assert not (cluster / "told").exists()
    # One ran out of time: only that one is handed over again.
    (cluster / "states").write_text("77_0|TIMEOUT\n77_1|PENDING\n")
    found = {job["title"]: job for job in status(capsys)["jobs"]}
    assert found["bt[steps=30] on tiny"]["state"] == "failed"
    assert "TIMEOUT" in found["bt[steps=30] on tiny"]["reason"]
    assert cli.main(given()) == 0
    assert "--array" not in (cluster / "told").read_text()
    assert len(list(Path("runs").glob(".jobs/*/submission.json"))) == 2


def test_a_task_does_its_job_where_it_was_planned(
    cluster: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Task] = []

    def take(folder: Path, tasks: list[Task], needs: Needs, execution: Any) -> list[str]:
        handed.extend(tasks)
        return [f"77_{n}" for n in range(len(tasks))]

    monkeypatch.setattr("prbench.running.cluster.slurm.submit", take)
    assert cli.main(given("--threads", "1")) == 0
    (cluster / "states").write_text("77_0|RUNNING\n77_1|PENDING\n")
    handed[0]()
    found = status(capsys)
    assert [(job["title"], job["state"]) for job in found["jobs"]] == [
        ("bt[steps=30] on tiny", "done"),
        ("user-bt on tiny", "queued"),
    ]
    assert [(row["method"], row["done"]) for row in found["cells"]] == [("bt[steps=30]", 2)]
    # A method edited after it was handed over is refused, and nothing is stored.
    text = json.loads(handed[1].description)
    text["code"] = {"planted_methods:Good": "000000000000"}
    handed[1].description = json.dumps(text)
    handed[1]()
    (job,) = [job for job in status(capsys)["jobs"] if job["state"] == "failed"]
    assert "planted_methods:Good has other code where user-bt on tiny is done" in job["reason"]
    assert len(list(Path("runs").rglob("DONE"))) == 2


@pytest.mark.parametrize(
    ("more", "said", "hint"),
    [
        (("--slurm", "partition=nowhere"), "Slurm refused the jobs: invalid partition specified: nowhere", "sinfo"),
        (("--slurm", "partitoin=x"), "--slurm partitoin=x: sbatch has no such option", "partition"),
        (("--slurm", "partition"), "--slurm partition: expected NAME=VALUE", "partition=gpu"),
        (("--slurm", "time=soon"), "--slurm time=soon: expected a whole number", ""),
        (("--slurm", "cluster=moon"), "--slurm cluster=moon: unknown", "local"),
        (("--resources", "memory=-1"), "--resources memory=-1", "GiB"),
        (("--workers", "2"), "--workers is for this machine", "array_parallelism"),
        (("--max-calls", "3"), "several workers share no budget", ""),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    cluster: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str, hint: str
) -> None:
    assert cli.main(given(*more)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert hint in told
    assert "Traceback" not in told
    assert len([line for line in told.splitlines() if line.startswith("error")]) == 1
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_without_slurm_or_submitit_one_line_says_so(
    cluster: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster / "srun").unlink()
    assert cli.main(given()) == 2
    assert "there is no srun on this machine" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(given()) == 2
    assert "pip install 'prbench[slurm]'" in capsys.readouterr().err


def test_texts_are_embedded_before_jobs_are_handed_over(
    cluster: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prbench.running.open_dataset.OpenDataset.texts_to_embed", lambda self: 7)
    assert cli.main(given()) == 2
    told = capsys.readouterr().err
    assert "7 texts of tiny have no embeddings by own yet" in told
    assert "--executor slurm" in told


def test_options_as_text() -> None:
    assert read_resources("memory=8, cpus=2,gpus=0.25") == Resources(memory=8, cpus=2, gpus=0.25)
    assert read_resources(None) == Resources()
    assert read_slurm(["partition=a,b", "setup=module load x=1"]) == (
        ("partition", "a,b"),
        ("setup", "module load x=1"),
    )
    for wrong in ("memory", "cpus=0", "cpus=1.5", "space=3", "memory=nan"):
        with pytest.raises(InputError, match="--resources"):
            read_resources(wrong)


def test_a_job_whose_process_is_gone_has_failed(tmp_path: Path) -> None:
    folder = submissions.new_folder(tmp_path)
    job = SubmittedJob(title="bt on tiny", work="bt", job_id="1-1")
    submissions.write(folder, "local", [job])
    assert submissions.states(tmp_path)[0].reason.startswith("it ended before it began")
    submissions.write_note(folder, 0, Note(state="running", writer=this_process()))
    assert [each.state for each in submissions.states(tmp_path)] == ["running"]
    gone = this_process()._replace(start="1")
    submissions.write_note(folder, 0, Note(state="running", writer=gone))
    (state,) = submissions.states(tmp_path)
    assert (state.state, state.reason) == ("failed", "its process is gone; its log may say why")
    (folder / "0.json").write_text('{"state": "done"}')
    with pytest.raises(InputError, match="is damaged"):
        submissions.states(tmp_path)


def test_what_a_note_says() -> None:
    def wrong() -> str:
        raise InputError("a is wrong", hint="take b")

    assert noted(wrong) == Note(state="failed", reason="a is wrong (take b)")
    assert noted(lambda: "") == Note(state="done")
    ends = [CellEnd("done", "", []), CellEnd("failed", "it diverged", [])]
    assert failure(ends) == "1 of 2 cells failed: it diverged"
    assert failure(None) == ""
