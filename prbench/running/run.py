"""Run a plan and resume it, in this process or in several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.markup import escape

from prbench.base.console import progress, stderr
from prbench.base.files import require_writable
from prbench.base.leftovers import remove_leftovers
from prbench.results import cells as results
from prbench.results.claims import Claims
from prbench.results.record import CellState
from prbench.running.executors import CellEnd, Executor, Local, Processes
from prbench.running.job import set_aside
from prbench.running.open_dataset import InMemory
from prbench.running.plan import MethodJob, Plan, states_table

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


def execute(plan: Plan, *, workers: int = 1) -> Outcome:
    """Do what is missing. A failing method is recorded and the others go on; Ctrl-C ends the run.

    All splits of a method are trained together and written when they are all scored, so an interruption loses at
    most the methods in progress. With several `workers`, processes of this machine share the methods; each computes
    on as many threads as torch has here.
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
            executor: Executor = Local(plan, jobs, memory, claims)
            if workers > 1:
                for setting in {id(job.setting): job.setting for job in jobs}.values():
                    display.update(bar, description=escape(f"{setting.entry.name}: embedding"))
                    memory.take(setting)
                    setting.forget()
                executor = Processes(workers)
            threads = torch.get_num_threads()
            executor.run([plan.describe(job, threads) for job in jobs], _Display(plan, jobs, display, bar))
    finally:
        claims.clear()
    return Outcome(plan, time.perf_counter() - start)


class _Display:
    """The listener that shows the work of all jobs in one bar and takes over how their cells stand."""

    def __init__(self, plan: Plan, jobs: Sequence[MethodJob], display: Progress, bar: TaskID) -> None:
        self._plan, self._jobs, self._display, self._bar = plan, jobs, display, bar
        self._open = [job.open() for job in jobs]
        self._terminal = display.console.is_terminal
        self._busy: dict[int, str] = {}
        self._began: dict[int, float] = {}

    def begin(self, job: int) -> None:
        self._began[job] = time.perf_counter()
        self._busy[job] = self._name(job)
        self._describe()

    def advance(self, job: int, share: float) -> None:
        self._display.advance(self._bar, share * len(self._open[job]))

    def tell(self, line: str) -> None:
        stderr().print(escape(line), soft_wrap=True)

    def end(self, job: int, cells: Sequence[CellEnd]) -> None:
        for cell, (state, reason, shots) in zip(self._jobs[job].cells, cells, strict=True):
            cell.state, cell.reason, cell.shots = state, reason, shots
        if {self._jobs[job].cells[i].state for i in self._open[job]} == {CellState.done} and not self._terminal:
            # A log or a notebook shows no bar: it gets a line for every finished method.
            seconds = time.perf_counter() - self._began[job]
            self.tell(f"{self._name(job)}: {len(self._open[job])} cells in {seconds:,.0f} s")
        self._busy.pop(job, None)
        self._describe()

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
        self._busy.pop(job, None)
        self._describe()

    def _name(self, job: int) -> str:
        return f"{self._jobs[job].title} on {self._jobs[job].setting.entry.name}"

    def _describe(self) -> None:
        self._display.update(self._bar, description=escape(", ".join(self._busy.values())))
