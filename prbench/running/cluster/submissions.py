"""What was handed to a cluster from a folder of results, and how far it has come.

    runs/.jobs/<submission>/submission.json    the command and its jobs, written when they are handed over
    runs/.jobs/<submission>/<n>.json           how job n stands, written by itself
    runs/.jobs/<submission>/                   the logs beside them

Nothing else in a folder of results depends on these files: they may be deleted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, write_json
from prbench.base.processes import Writer, is_gone, this_process
from prbench.base.reading import parse_json, read_json, sealed, unsealed
from prbench.running.request import PlainRecord

FOLDER = ".jobs"
FILE = "submission.json"

Record = TypeVar("Record", bound=PlainRecord)
State = Literal["queued", "running", "done", "failed"]
Scheduler = Literal["slurm", "local", "ray"]


class SubmittedJob(PlainRecord):
    """A job as it was handed over: what people and programs call it, the scheduler's number of it, and its log."""

    title: str
    work: str
    job_id: str = ""
    log: str = ""


class Submission(PlainRecord):
    """The jobs that one command handed over together, when, and the program that did it."""

    format: Literal[1] = 1
    scheduler: Scheduler
    submitted: str
    writer: tuple[str, int, str]
    jobs: tuple[SubmittedJob, ...]


class Note(PlainRecord):
    """How a job stands, as it says itself; `done` also where cells failed, which `reason` then says."""

    state: State
    writer: tuple[str, int, str] | None = None
    reason: Annotated[str, Field(max_length=10_000)] = ""


class JobState(PlainRecord):
    """A job of a submission and how it stands."""

    title: str
    work: str
    state: State
    job_id: str
    log: str
    reason: str
    submitted: str


def new_folder(runs: Path) -> Path:
    """A new folder for a submission, that only its owner can read: what a scheduler starts lies in it."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = runs.absolute() / FOLDER / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}", hint="choose another folder") from error
    return folder


def write(folder: Path, scheduler: Scheduler, jobs: Sequence[SubmittedJob]) -> None:
    """Record what was handed over."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = Submission(scheduler=scheduler, submitted=now, writer=this_process(), jobs=tuple(jobs))
    write_json(folder / FILE, sealed(parse_json(record.model_dump_json())))


def write_note(folder: Path, number: int, note: Note) -> None:
    """Record how job `number` stands."""
    write_json(folder / f"{number}.json", sealed(parse_json(note.model_dump_json())))


def states(runs: Path) -> list[JobState]:
    """Every job that was handed over from `runs`, the latest submission of each, oldest first.

    Raises InputError for a record that is damaged.
    """
    latest: dict[str, JobState] = {}
    for folder, submission in _all(runs):
        asked = _Scheduler(folder, submission)
        for number, job in enumerate(submission.jobs):
            latest.pop(job.work, None)
            latest[job.work] = _state(folder, number, job, submission, asked)
    return list(latest.values())


def _all(runs: Path) -> Iterator[tuple[Path, Submission]]:
    for path in sorted((runs / FOLDER).glob(f"*/{FILE}")):
        yield path.parent, _read(path, Submission)


def _read(path: Path, kind: type[Record]) -> Record:
    hint = f"delete {path.parent}: results do not depend on it"
    table, has_digest = unsealed(read_json(path, hint=hint), path, hint=hint)
    try:
        if not has_digest:
            raise ValueError("it lacks its sha256")
        return kind.model_validate_json(canonical_json(table))
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}", hint=hint) from error


def _state(folder: Path, number: int, job: SubmittedJob, submission: Submission, asked: _Scheduler) -> JobState:
    path = folder / f"{number}.json"
    note = _read(path, Note) if path.is_file() else Note(state="queued")
    state: State = note.state
    reason = note.reason
    if state in ("queued", "running") and (over := asked.ended(job, note)):
        state, reason = "failed", over
    elif state == "queued" and asked.runs(job):
        state = "running"
    return JobState(
        title=job.title,
        work=job.work,
        state=state,
        job_id=job.job_id,
        log=_log(job, folder),
        reason=reason,
        submitted=submission.submitted,
    )


def _log(job: SubmittedJob, folder: Path) -> str:
    return str(folder / job.log) if job.log and (folder / job.log).exists() else ""


class _Scheduler:
    """Asks what runs the jobs of a submission how they stand: Slurm by one call of `sacct` for all of them."""

    def __init__(self, folder: Path, submission: Submission) -> None:
        self._folder, self._submission = folder, submission
        self._found: dict[str, str] | None = None

    def ended(self, job: SubmittedJob, note: Note) -> str:
        """Why a job that has not said that it is over is over all the same; "" where it may go on."""
        if note.writer is not None and is_gone(Writer(*note.writer)):
            return "its process is gone; its log may say why"
        if self._submission.scheduler == "slurm":
            word = self._words().get(job.job_id, "")
            waiting = ("", "PENDING", "RUNNING", "REQUEUED", "COMPLETING", "PREEMPTED", "SUSPENDED", "RESIZING")
            return "" if word in waiting else f"Slurm says {word}; its log may say why"
        if self._submission.scheduler == "ray":
            return "the program that had started it is gone" if is_gone(Writer(*self._submission.writer)) else ""
        return "" if note.writer is not None or self._lives(job) else "it ended before it began; its log may say why"

    def runs(self, job: SubmittedJob) -> bool:
        """Whether Slurm says that a job runs that has not said so yet."""
        return self._submission.scheduler == "slurm" and self._words().get(job.job_id) == "RUNNING"

    def _lives(self, job: SubmittedJob) -> bool:
        """Whether the process that submitit started for a job here is there, or is one of another machine."""
        pid, _, start = job.job_id.partition("-")
        host = self._submission.writer[0]
        return not pid.isdigit() or not is_gone(Writer(host, int(pid), start))

    def _words(self) -> dict[str, str]:
        """Slurm's words for the jobs' states, by job; none where it does not answer."""
        if self._found is None:
            from prbench.running.cluster.slurm import states_of

            self._found = states_of([job.job_id for job in self._submission.jobs])
        return self._found


def waiting(runs: Path) -> dict[str, JobState]:
    """The jobs handed over from `runs` that are queued or running, by the name under which programs claim them."""
    return {each.work: each for each in states(runs) if each.state in ("queued", "running")}
