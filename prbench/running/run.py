"""Run a plan and resume it, in this process or in several."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prbench.base.console import progress
from prbench.base.files import require_writable
from prbench.base.leftovers import remove_leftovers
from prbench.method import Watch
from prbench.results import cells as results
from prbench.results.claims import Claims
from prbench.results.record import CellState
from prbench.running.display import Display
from prbench.running.execution import HERE, Execution
from prbench.running.executors import Local, Work, executor_for
from prbench.running.job import CellEnd, claimed, ends_of, run_job, set_aside
from prbench.running.method_job import MethodJob
from prbench.running.needs import Needs, fit_needs
from prbench.running.open_dataset import InMemory
from prbench.running.plan import Plan, states_table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from prbench.base.layout import Sheet


@dataclass(eq=False)
class Outcome:
    """How a run ended."""

    plan: Plan
    seconds: float

    @property
    def failed(self) -> int:
        """The number of cells that failed."""
        return sum(cell.state == CellState.failed for job in self.plan.jobs for cell in job.cells)

    def table(self) -> Sheet:
        """As `Plan.table`, after the run."""
        return states_table(f"Results in {self.plan.out}, {self.seconds:,.0f} s", self.plan.jobs)


def execute(plan: Plan, *, execution: Execution = HERE) -> Outcome:
    """Do what is missing. A failing method is recorded and the others go on; Ctrl-C ends the run.

    All splits of a method are trained together and written when they are all scored, so an interruption loses at
    most the methods in progress. Several processes of this machine may share the methods, or a cluster, as
    `execution` says; a process here computes on as many threads as torch has.
    """
    start = time.perf_counter()
    jobs = [job for job in plan.jobs if job.open()]
    if jobs:
        require_writable(plan.out)
        remove_leftovers(plan.out, below=True)
    claims = Claims(plan.out)
    try:
        with progress() as display:
            bar = display.add_task("", total=sum(len(job.cells) for job in plan.jobs))
            memory = InMemory(display, claims)
            for job in plan.jobs:
                set_aside(job, plan, claims)
                display.advance(bar, len(job.cells) - len(job.open()))
            local = Local(_one_by_one(jobs, plan, memory, claims))
            work = Work([job.setting for job in jobs], partial(_needs, jobs), plan.out)
            executor = executor_for(execution, local, work, memory)
            described = [plan.describe(job, execution.job_threads) for job in jobs]
            executor.run(described, _Cells(plan, jobs, display, bar))
    finally:
        claims.clear()
    return Outcome(plan, time.perf_counter() - start)


def _one_by_one(
    jobs: Sequence[MethodJob], plan: Plan, memory: InMemory, claims: Claims
) -> Generator[tuple[int, Callable[[Watch], list[CellEnd]]]]:
    """Each job as its turn comes, in this process."""
    numbers = {id(job): number for number, job in enumerate(jobs)}
    with closing(claimed(jobs, plan, claims)) as mine:
        for job in mine:
            memory.take(job.setting)

            def do(watch: Watch, job: MethodJob = job) -> list[CellEnd]:
                run_job(job, plan, watch)
                return ends_of(job)

            yield numbers[id(job)], do


def _needs(jobs: Sequence[MethodJob], execution: Execution) -> list[Needs]:
    return [fit_needs(job.make(), job.entry.name, job.setting, execution) for job in jobs]


class _Cells(Display):
    """The display of a run, which takes over how the cells of its jobs stand."""

    def __init__(self, plan: Plan, jobs: Sequence[MethodJob], display: Progress, bar: TaskID) -> None:
        names = [f"{job.title} on {job.setting.entry.name}" for job in jobs]
        self._open = [job.open() for job in jobs]
        super().__init__(names, [len(cells) for cells in self._open], display, bar)
        self._plan, self._jobs = plan, jobs
        self._terminal = display.console.is_terminal
        self._began: dict[int, float] = {}

    def begin(self, job: int) -> None:
        self._began[job] = time.perf_counter()
        super().begin(job)

    def end(self, job: int, outcome: Sequence[CellEnd]) -> None:
        for cell, (state, reason, shots) in zip(self._jobs[job].cells, outcome, strict=True):
            cell.state, cell.reason, cell.shots = state, reason, shots
        if {self._jobs[job].cells[i].state for i in self._open[job]} == {CellState.done} and not self._terminal:
            # A log or a notebook shows no bar: it gets a line for every finished method.
            count = len(self._open[job])
            line = f"{self.names[job]}: {count} split{'s' * (count > 1)}"
            # From another machine nobody may have heard when it began.
            began = self._began.get(job)
            self.tell(line if began is None else f"{line} in {time.perf_counter() - began:,.0f} s")
        super().end(job, outcome)

    def hand_over(self, job: int, where: str) -> None:
        for i in self._open[job]:
            self._jobs[job].cells[i].reason = where

    def lose(self, job: int, reason: str) -> None:
        """Record a job without an answer as failed, but for the cells that it had finished."""
        lost = self._jobs[job]
        for cell in lost.cells:
            if cell.state == CellState.done and not cell.shots:
                continue
            if results.status(cell.folder)[0] != CellState.done:
                results.write_undone(self._plan.out, cell.record, CellState.failed, reason)
                cell.state, cell.reason = CellState.failed, reason
            elif cell.state == CellState.done:
                # Its result stays; only further shots failed.
                cell.state, cell.reason = CellState.failed, reason
            else:
                cell.state, cell.reason, cell.shots = CellState.done, "", []
        self.tell(f"{lost.title} failed on {lost.setting.entry.name}: {reason}")
        super().end(job, None)
