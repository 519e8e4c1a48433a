"""Several processes give what one gives; one that fails or dies costs its own job; an interruption leaves none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import METHOD, assert_same_scores, make_plan, registry_folder, short

from prbench import cli, registry, results
from prbench.running.request import JobDescription

NAMES = ["bt", "mrm", "lore"]
SETS = [word for text in short(*NAMES) for word in ("--set", text)]

# Writes the number of its process, and then is killed, or waits, while it is fitted.
OWN = """
import os, signal, time
from pathlib import Path
from prbench.methods.user_bt import UserBT

class Killed(UserBT):
    @classmethod
    def fit_splits(cls, methods, problems, **options):
        os.kill(os.getpid(), signal.SIGKILL)

class Waits(UserBT):
    @classmethod
    def fit_splits(cls, methods, problems, **options):
        Path(os.environ["PLANTED"], str(os.getpid())).touch()
        time.sleep(600)
"""


@pytest.fixture
def entries(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    folder = registry_folder(tmp_path / "own")
    (folder / "planted_deaths.py").write_text(OWN)
    for name in ("Killed", "Waits"):
        text = METHOD.format(target=name).replace("planted_methods:", "planted_deaths:")
        (folder / "methods" / f"{name.lower()}.toml").write_text(text)
    yield folder
    registry.reset()


def words(entries: Path, methods: list[str], out: Path, *more: str) -> list[str]:
    given = ["--registry", str(entries), "run", "--methods", ",".join(methods), "--dataset", "tiny"]
    return [*given, "--splits", "2", "--threads", "1", "--out", str(out), *more]


def without_times(text: str) -> list[str]:
    return sorted(re.split(" splits? in ", line)[0] for line in text.splitlines())


def test_two_workers_give_the_bits_of_one_process(
    entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All processes compute with one thread (--threads 1), on one machine."""
    threads = torch.get_num_threads()
    one, two = tmp_path / "one", tmp_path / "two"
    methods = [*NAMES, "raises", "unsupported"]
    assert cli.main(words(entries, methods, one, "--shots", "2,all", *SETS)) == 1
    told = capsys.readouterr().err
    assert cli.main(words(entries, methods, two, "--shots", "2,all", *SETS, "--workers", "2")) == 1
    assert torch.get_num_threads() == threads
    assert_same_scores(one, two)
    # The same lines reach the user, in the order in which the jobs end.
    assert without_times(capsys.readouterr().err.replace(str(two), str(one))) == without_times(told)
    a, b = ({c.key: c.stored() for c in results.load(folder).cells} for folder in (one, two))
    assert a.keys() == b.keys()
    for key, cell in a.items():
        differing = {name for name in cell if cell[name] != b[key][name]}
        assert differing <= {"seconds", "finished", "peak_memory_mb", "traceback"}
        assert cell["threads"] == 1


def test_a_killed_worker_costs_its_own_job_only(
    entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    given = words(entries, ["killed", "bt", "user-bt"], out, *SETS[:2], "--workers", "2", "--json")
    assert cli.main(given) == 1
    shown = capsys.readouterr()
    cells = json.loads(shown.out)["cells"]
    assert [cell["status"] for cell in cells] == ["failed"] * 2 + ["done"] * 4
    reason = "its worker process was ended by SIGKILL; the system does this where memory runs out"
    assert {cell["reason"] for cell in cells} == {reason, ""}
    assert f"killed failed on tiny: {reason}" in shown.err


def test_ctrl_c_ends_all_processes_and_keeps_what_is_finished(entries: Path, tmp_path: Path) -> None:
    out, planted = tmp_path / "runs", tmp_path / "planted"
    planted.mkdir()
    given = words(entries, ["user-bt", "waits"], out, "--workers", "2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PLANTED": str(planted)}
    program = [sys.executable, "-m", "prbench", *given]
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (list(planted.iterdir()) and len(list(out.rglob("DONE"))) == 2):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "interrupted; finished work is kept, run the same command to go on"
    assert "Traceback" not in told
    (worker,) = (int(path.name) for path in planted.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    registry.use([entries])
    plan = make_plan(["user-bt", "waits"], ["tiny"], splits=2, out=out)
    assert [cell.state for job in plan.jobs for cell in job.cells] == ["done"] * 2 + ["missing"] * 2


def test_a_job_is_the_same_after_a_way_through_json(entries: Path, tmp_path: Path) -> None:
    registry.use([entries])
    options: dict[str, Any] = {"overrides": short("bt", "mrm"), "shots": (2,), "precision": "high"}
    plan = make_plan(["bt", "mrm"], ["tiny"], splits=2, out=tmp_path / "runs", **options)
    described = plan.describe(plan.jobs[0], 3)
    again = JobDescription.model_validate_json(described.model_dump_json())
    assert again == described
    assert again.threads == 3
    assert again.registry == (entries.resolve(),)
    assert again.request.overrides == ("bt.steps=30",)
    assert [job.name for job in make_plan(**dict(again.request)).jobs] == [plan.jobs[0].name]
