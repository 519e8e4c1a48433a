"""Jobs handed to Slurm through submitit: one array for all of them, and the command ends when it is queued."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.console import stderr
from prbench.base.errors import InputError, near
from prbench.base.files import home
from prbench.base.processes import start_of
from prbench.running.cluster import submissions
from prbench.running.cluster.batch import Task
from prbench.running.cluster.submissions import SubmittedJob
from prbench.running.execution import STAND_INS, Execution
from prbench.running.needs import GIB, Needs
from prbench.running.request import AnyDescription

if TYPE_CHECKING:
    from prbench.running.executors import Listener

CLUSTER = "cluster"
WHOLE = ("nodes", "ntasks_per_node", "cpus_per_task", "gpus_per_node", "gpus_per_task", "time", "array_parallelism")
"""Options of sbatch that submitit takes as whole numbers; others are texts."""


class Slurm:
    """Hands jobs over to Slurm, each with what the largest of them needs; what is queued already is left alone."""

    def __init__(self, execution: Execution, runs: Path, needs: Sequence[Needs]) -> None:
        self._execution, self._runs, self._needs = execution, runs, needs

    def run(self, jobs: Sequence[AnyDescription], listener: Listener) -> None:
        """As `Executor.run`, but for the doing: each job is handed over."""
        there = submissions.waiting(self._runs)
        for number, job in enumerate(jobs):
            if job.work in there:
                before = there[job.work]
                listener.hand_over(number, f"is {before.state} already as job {before.job_id.partition('-')[0]}")
        fresh = [number for number, job in enumerate(jobs) if job.work not in there]
        if fresh:
            needs = Needs.largest([self._needs[number] for number in fresh])
            device = "cuda" if self._execution.device.startswith("cuda") else "cpu"
            described = [jobs[n].on(device).model_copy(update={"memory": needs.memory}) for n in fresh]
            titles = [(job.title, job.work) for job in described]
            texts = [job.model_dump_json() for job in described]
            for number, job_id in zip(fresh, self._submit(texts, titles, needs), strict=True):
                listener.hand_over(number, f"is queued as job {job_id}")

    def _submit(self, texts: Sequence[str], titles: Sequence[tuple[str, str]], needs: Needs) -> list[str]:
        folder = submissions.new_folder(self._runs)
        tasks = [Task(str(folder), n, text, str(Path.cwd()), str(home().absolute())) for n, text in enumerate(texts)]
        try:
            ids = submit(folder, tasks, needs, self._execution)
        except BaseException:
            with contextlib.suppress(OSError):
                for path in sorted(folder.rglob("*"), reverse=True):
                    path.unlink()
                folder.rmdir()
                folder.parent.rmdir()
            raise
        record = [
            SubmittedJob(title=title, work=work, job_id=job_id, log=f"{job_id.partition('-')[0]}_0_log.err")
            for job_id, (title, work) in zip(ids, titles, strict=True)
        ]
        submissions.write(folder, "local" if stand_in(self._execution) else "slurm", record)
        stderr().print(
            f"{len(ids)} jobs of at most {needs.cpus} cores, {needs.memory / GIB:.1f} GiB and"
            f" {needs.seconds / 60:,.0f} minutes each were handed over; `prbench status --runs {self._runs}` shows"
            " them, logs and reasons",
            soft_wrap=True,
            markup=False,
        )
        return [job_id.partition("-")[0] for job_id in ids]


def stand_in(execution: Execution) -> str:
    """What of submitit takes Slurm's place; "" where nothing does. Raises InputError for an unknown name."""
    named = dict(execution.slurm).get(CLUSTER, "slurm")
    if named not in ("slurm", *STAND_INS):
        raise InputError(f"--slurm {CLUSTER}={named}: unknown", hint=f"one of slurm, {', '.join(STAND_INS)}")
    return "" if named == "slurm" else named


def require(execution: Execution) -> Any:
    """submitit's executor class. Raises InputError, in one line, where submitit or Slurm is not here."""
    try:
        import submitit
    except ImportError:
        raise InputError(
            "--executor slurm needs submitit, which is not installed", hint="pip install 'prbench[slurm]'"
        ) from None
    if stand_in(execution):
        return submitit.LocalExecutor
    if submitit.SlurmExecutor.affinity() <= 0:
        raise InputError(
            "there is no srun on this machine: Slurm's programs are not in PATH",
            hint="run on a login node of the cluster; --slurm cluster=local tries the same with processes here",
        )
    return submitit.SlurmExecutor


def submit(folder: Path, tasks: Sequence[Task], needs: Needs, execution: Execution) -> list[str]:
    """Hand tasks over as one array and return their numbers.

    Of a process of this machine the number is followed by its start. Raises InputError for options that sbatch does
    not have and where Slurm refuses, as for an unknown partition.
    """
    kind = require(execution)
    # It logs that a command failed, which the error says too.
    logging.getLogger("submitit").setLevel(logging.ERROR)
    executor = kind(folder)
    executor.update_parameters(**_parameters(executor, needs, execution))
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jobs = executor.submit_array(tasks)
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
        said = lines[-1].removeprefix("sbatch: ").removeprefix("error: ")
        raise InputError(
            f"Slurm refused the jobs: {said}",
            hint="`sinfo -s` lists the partitions; --slurm partition=NAME, account=NAME or qos=NAME names others",
        ) from error
    for job in jobs:
        # They live on when this program ends, and are no children to wait for.
        if (process := getattr(job, "_process", None)) is not None:
            process.returncode = 0
    return [f"{job.job_id}-{start_of(int(job.job_id))}" if stand_in(execution) else str(job.job_id) for job in jobs]


def _parameters(executor: Any, needs: Needs, execution: Execution) -> dict[str, Any]:
    minutes, cores = max(1, round(needs.seconds / 60)), needs.cpus
    if stand_in(execution):
        return {"timeout_min": minutes, "gpus_per_node": 0}
    values: dict[str, Any] = {
        "job_name": "prbench",
        "time": minutes,
        "mem": f"{max(1, round(needs.memory / 2**20))}M",
        "cpus_per_task": cores,
        **({"gpus_per_node": max(1, round(needs.gpus))} if needs.gpus else {}),
        "wckey": None,
    }
    known = sorted(set(executor._valid_parameters()) - {"job_name", "teardown", "srun_args", "additional_parameters"})
    for name, value in execution.slurm:
        if name == CLUSTER:
            continue
        if name not in known:
            raise InputError(
                f"--slurm {name}={value}: sbatch has no such option here{near(name, known)}",
                hint=f"one of {', '.join(known)}",
            )
        if name in WHOLE and not value.isdigit():
            raise InputError(f"--slurm {name}={value}: expected a whole number")
        values[name] = int(value) if name in WHOLE else [value] if name == "setup" else value
    return values


def states_of(job_ids: Sequence[str]) -> dict[str, str]:
    """Slurm's words for the states of jobs, such as PENDING or TIMEOUT; without those that it does not know."""
    arrays = sorted({job_id.partition("_")[0] for job_id in job_ids})
    command = ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(arrays)]
    try:
        from submitit.slurm.slurm import SlurmInfoWatcher

        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=os.environ)
        found = SlurmInfoWatcher().read_info("JobID|State\n" + told.stdout)
    except ImportError:
        return {}
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        stderr().print(f"Slurm does not say how its jobs stand: {said.strip()}", markup=False, soft_wrap=True)
        return {}
    # "CANCELLED by 1000" and the like.
    return {job_id: info["State"].split()[0] for job_id, info in found.items() if info.get("State")}
