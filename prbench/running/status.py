"""How the work in a folder of results stands: from its cells, its claims and what was handed to a cluster."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prbench.base.errors import InputError
from prbench.base.processes import host
from prbench.base.reading import parse_json
from prbench.results import cells as results
from prbench.results import scores
from prbench.results.claims import Claims
from prbench.results.record import CellState
from prbench.running.cluster import submissions
from prbench.running.cluster.submissions import JobState, State

if TYPE_CHECKING:
    from prbench.base.layout import Sheet

STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Row:
    """The finished and failed cells of a row."""

    names: tuple[str, ...]
    states: Counter[CellState]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        counts = {state.value: self.states[state] for state in CellState if state != CellState.missing}
        return {**dict(zip(scores.COLUMNS, self.names, strict=True)), **counts, "reason": self.reason}


@dataclass(frozen=True)
class Status:
    """The jobs that were handed over or are being done, and the cells that there are."""

    runs: Path
    jobs: list[JobState]
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        counts = Counter(job.state for job in self.jobs)
        return {
            "runs": str(self.runs),
            **{state: counts[state] for state in STATES},
            "jobs": [job.model_dump(exclude={"work"}) for job in self.jobs],
            "cells": [row.as_dict() for row in self.rows],
        }

    def table(self) -> Sheet:
        """A line for each job, then one for each row of results that is not done by a job listed above."""
        from prbench.base.layout import Sheet

        listed = [
            [job.title, job.state, job.job_id.partition("-")[0], job.submitted, ", ".join(filter(None, said))]
            for job in self.jobs
            for said in [(job.reason, job.log if job.state in ("running", "failed") or job.reason else "")]
        ]
        for row in self.rows:
            states = ", ".join(f"{row.states[state]} {state}" for state in CellState if row.states[state])
            names = dict(zip(scores.COLUMNS, row.names, strict=True))
            title = f"{names['method']} on {names['dataset']}, {names['selection']}"
            listed.append([title, states, "", "", row.reason])
        counts = Counter(job.state for job in self.jobs)
        total = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        return Sheet(
            title=f"Work in {self.runs}",
            header=("job or row", "state", "number", "handed over", "reason, log"),
            rows=listed,
            caption=f"Jobs: {total}." if total else "",
            prose=frozenset({4}),
            order=(1, 4, 2, 3),
            needed=2,
            whole=True,
            elsewhere="--json",
        )


def status(runs: Path) -> Status:
    """How the work in a folder stands. Raises InputError where there is no such folder, and for damaged records."""
    if not runs.is_dir():
        raise InputError(f"there is no folder {runs}", hint="name the folder of a run with --runs")
    jobs = submissions.states(runs)
    known = {job.work for job in jobs if job.state == "running"}
    for claim in Claims(runs).held():
        if claim.name not in known:
            place = f"process {claim.writer.pid}" if claim.writer.host == host() else "another machine"
            jobs.append(
                JobState(
                    title=_title(claim.name),
                    work=claim.name,
                    state="running",
                    job_id="",
                    log="",
                    reason=f"done by {place}",
                    submitted="",
                )
            )
    return Status(runs, jobs, _rows(runs))


def _rows(runs: Path) -> list[Row]:
    states: dict[tuple[str, ...], Counter[CellState]] = {}
    reasons: dict[tuple[str, ...], str] = {}
    for folder in results.folders(runs):
        record = results.read_record(folder)
        state, reason = results.status(folder)
        states.setdefault(record.row, Counter())[state] += 1
        if reason:
            reasons.setdefault(record.row, reason)
    return [Row(names, found, reasons.get(names, "")) for names, found in sorted(states.items())]


def _title(work: str) -> str:
    """What to call claimed work: programs claim a row by the names of its columns, as JSON, or by a sentence."""
    try:
        parts = parse_json(work)
    except ValueError:
        return work
    if not isinstance(parts, list):
        return work
    if len(parts) >= len(scores.COLUMNS) and parts[0] != "tune":
        names = dict(zip(scores.COLUMNS, parts, strict=False))
        start = f", restart {parts[-1]}" if len(parts) > len(scores.COLUMNS) else ""
        return f"{names['method']}{start} on {names['dataset']}"
    return " ".join(str(part) for part in parts)
