"""Do one job of a plan, or go on with it: fit, adapt, score, store."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.markup import escape

from prbench import registry
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.comparisons import Comparisons
from prbench.method import Method, Watch
from prbench.protocol.selection import fit_problem
from prbench.protocol.splits import Split
from prbench.registry import finder
from prbench.results import cells as results
from prbench.results import own_code, superseded
from prbench.results.claims import Claims
from prbench.results.record import CellState, DoneRecord
from prbench.running.encoder_parts import described
from prbench.running.judged import judged_part
from prbench.running.method_job import MethodJob
from prbench.running.open_dataset import OpenDataset
from prbench.running.plan import Plan, open_settings, reads_text
from prbench.running.plan import plan as make_plan
from prbench.running.request import JobDescription
from prbench.running.scoring import score_split, score_unseen
from prbench.running.watched import WatchedComparisons
from prbench.training.compute import computing, peak_memory
from prbench.training.text_method import TrainedTextMethod


def claimed(jobs: Sequence[MethodJob], plan: Plan, claims: Claims) -> Generator[MethodJob]:
    """Each job that still has work once no other program does it, claimed while it is being done."""
    return claims.each(jobs, name=lambda job: job.work, is_open=lambda job: _is_open(job, plan))


class CellEnd(NamedTuple):
    """How a cell stands after its job; `shots` are still to be scored."""

    state: CellState
    reason: str
    shots: list[int]


def perform(description: JobDescription, watch: Watch, opened: dict[str, list[OpenDataset]]) -> list[CellEnd]:
    """Do a described job and say how its cells stand; `opened` keeps the data set of the last job, for the next."""
    request = description.request
    same = opened_as(description)
    if same not in opened:
        opened.clear()
        opened[same] = open_settings(request)
    plan = make_plan(request, opened=opened[same], command=description.command)
    wanted = description.restart, description.split
    [job] = [job for job in plan.jobs if (job.restart, job.split) == wanted]
    with closing(claimed([job], plan, Claims(plan.out, description.lost))) as claims:
        for mine in claims:
            run_job(mine, plan, watch)
    return ends_of(job)


def opened_as(description: JobDescription) -> str:
    """What jobs have in common that are done on the same open data set."""
    request = description.request
    alike = {"datasets", "encoder", "judge", "test_sample", "splits", "split_files", "limit", "seed", "device"}
    kind = [reads_text(registry.get("methods", name)) for name in request.methods]
    parts = described(request.encoder)
    writing = [text for text in request.overrides if parts and text.startswith(f"{parts.method}.")]
    return f"{kind} {writing} {request.model_dump_json(include=alike)}"


def ends_of(job: MethodJob) -> list[CellEnd]:
    """How the cells of a job stand."""
    return [CellEnd(cell.state, cell.reason, cell.shots) for cell in job.cells]


def _is_open(job: MethodJob, plan: Plan) -> bool:
    """Whether a claimed job still has work, after what other programs have stored since it was planned.

    What another program has just found to fail, or to be skipped, is not tried again.
    """
    settled = 0
    for cell in job.cells:
        planned = cell.state
        cell.state, cell.reason = results.status(cell.folder, with_model=plan.request.refit)
        if cell.state == CellState.done:
            cell.record = results.read_record(cell.folder)
            cell.shots = [k for k in plan.shots if not results.has_scores(results.scores_file(cell.folder, k))]
        settled += planned == CellState.missing and cell.state == CellState.failed
    return len(job.open()) > settled


def set_aside(job: MethodJob, plan: Plan, claims: Claims) -> None:
    """Put results of an earlier state where no report takes them for the present one's, and say so."""
    if job.skip or not superseded.older_cells(plan.out, job.cells[0].record):
        return
    with claims.alone("set-aside"):
        if not (older := superseded.older_cells(plan.out, job.cells[0].record)):
            return
        where = f"{len(older.cells)} older results are now in {superseded.set_aside(older)}"
    stderr().print(escape(f"{job.name} on {job.setting.entry.name}: {older.why}; {where}"), soft_wrap=True)


def run_job(job: MethodJob, plan: Plan, watch: Callable[[float], None]) -> None:
    """Make the cells that are missing and add the shots that are lacking; `watch` hears of shares of the job.

    All splits are trained together and written when they are all scored. Whatever goes wrong is recorded as the
    failure of its cells. Raises InputError, as for a full disk, where going on makes no sense.
    """
    with computing(plan.precision):
        _run(job, plan, watch)


def _run(job: MethodJob, plan: Plan, watch: Callable[[float], None]) -> None:
    missing = [i for i, cell in enumerate(job.cells) if cell.state != CellState.done]
    lacking = [i for i, cell in enumerate(job.cells) if cell.state == CellState.done and cell.shots]
    with _failures(job, [*lacking, *missing], plan):
        reason = job.skip or job.make().unsupported(job.setting.comparisons())
        if reason is not None:
            _skip(job, missing, plan, reason)
            watch(1.0)
            return
    for i in lacking:
        with _failures(job, [i], plan):
            _add_shots(job, i, plan)
    with _failures(job, missing, plan):
        if missing:
            _fit_and_score(job, missing, plan, watch)


@contextlib.contextmanager
def _failures(job: MethodJob, cells: Sequence[int], plan: Plan) -> Iterator[None]:
    """Whatever goes wrong is the failure of these `cells`.

    One method's failure must not cost the others' results; it is recorded, and retried by the next run.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        if line := finder.own_line(error):
            message = f"{line}: {message}"
        told = {cell.reason for cell in job.cells}
        place = ""
        for cell in (job.cells[i] for i in cells):
            # A result that only lacks some shots stays as it is.
            if cell.state != CellState.done:
                trace = traceback.format_exc()
                folder = results.write_undone(plan.out, cell.record, CellState.failed, message, traceback=trace)
                place = place or f"; the traceback is in {folder / 'cell.json'}"
            cell.state, cell.reason = CellState.failed, message
        # What fails in every split alike is said once.
        if message not in told:
            where = f"{job.title} failed on {job.setting.entry.name}"
            stderr().print(f"[red]{escape(where)}[/red]: {escape(message + place)}", soft_wrap=True)


def _skip(job: MethodJob, cells: Sequence[int], plan: Plan, reason: str) -> None:
    for cell in (job.cells[i] for i in cells):
        results.write_undone(plan.out, cell.record, CellState.skipped, reason)
        cell.state, cell.reason = CellState.skipped, reason
    where = f"{job.title} is skipped on {job.setting.entry.name}"
    stderr().print(escape(f"{where}: {reason}"), soft_wrap=True)


def _fit_and_score(job: MethodJob, missing: Sequence[int], plan: Plan, watch: Callable[[float], None]) -> None:
    setting = job.setting
    comparisons = setting.comparisons()
    # Every split is trained, also those already stored: on a GPU rounding depends on the batch, and a resumed run
    # must give the same numbers as an uninterrupted one. A judge model is trained for one split after another.
    entry, kind = setting.entry, type(job.make())
    fitted = list(missing) if issubclass(kind, TrainedTextMethod) else list(range(len(setting.splits)))
    splits = setting.fitting_splits(kind)
    problems = [
        replace(
            fit_problem(job.rule, setting.data, comparisons, splits[i], entry.protocol, job.restart),
            checkpoints=job.cells[i].folder / results.CHECKPOINTS,
        )
        for i in fitted
    ]
    watched = []
    if job.rule == "validation" and job.cells[0].record.code:
        watched = [WatchedComparisons.of_rows(problem.validation) for problem in problems]
        problems = [replace(problem, validation=rows) for problem, rows in zip(problems, watched, strict=True)]
    methods = [job.make() for _ in fitted]
    if plan.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    require_memory(methods[0], comparisons, job.name)
    start = time.perf_counter()
    before = None if setting.reader is None else setting.reader.tally.copy()
    type(methods[0]).fit_splits(methods, problems, device=plan.device, watch=watch)
    seconds = time.perf_counter() - start
    fitting = judged_part(setting.reader, before, len(methods))
    chose = not watched or any(rows.was_read for rows in watched)
    if not chose:
        said = (
            'never looks at `validation`, which is kept from training: selection = "last" in its entry trains on all'
        )
        stderr().print(escape(f"{job.name} on {entry.name} {said}"), soft_wrap=True)
    for i in missing:
        with _failures(job, [i], plan):
            _score_and_store(job, i, methods[fitted.index(i)], plan, seconds / len(methods), fitting, chose)


def require_memory(method: Method, comparisons: Comparisons, name: str) -> None:
    """Raise MemoryError where one copy of what a fit learns is more than the memory of this machine.

    Asked before the fit: a system that hands out more memory than it has ends programs in the middle of their work.
    """
    import psutil

    foretold = method.parameters_for(comparisons.items.dim)
    numbers = 0 if foretold is None else foretold.total(len(comparisons.users))
    needed, there = 4 * numbers, psutil.virtual_memory().total
    if needed > there:
        sizes = f"{needed / 2**30:,.0f} GiB, this machine has {there / 2**30:,.0f} GiB"
        raise MemoryError(f"{name} learns {numbers:,} numbers: {sizes}")


def _score_and_store(
    job: MethodJob, i: int, method: Method, plan: Plan, seconds: float, fitting: dict[str, Any], chose: bool
) -> None:
    cell, setting = job.cells[i], job.setting
    fit = method.fit_record() if chose else {**method.fit_record(), "nothing_chosen": True}
    require_rule(job.name, fit, job.rule)
    before = None if setting.reader is None else setting.reader.tally.copy()
    scores, spent, verdicts = score_split(method, setting, setting.splits[i], plan.shots, job.restart)
    asked = judged_part(setting.reader, before, 1)
    count = method.parameter_count()
    equal = _equal_vectors(setting, setting.splits[i])
    judging = {"judging": {"fit": fitting, "test": asked, **verdicts}} if setting.reader else {}
    record = DoneRecord.ended(
        cell.record,
        CellState.done,
        counts=cell.record.counts.model_copy(update={"equal_vectors": equal}),
        encoder_fingerprint=setting.encoder_fingerprint(),
        seconds={"fit": seconds, **spent},
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        trained_together=1 if isinstance(method, TrainedTextMethod) else len(setting.splits),
        peak_memory_mb=round(peak_memory(plan.device) / 2**20, 1),
        parameters={"shared": count.shared, "per_user": count.per_user},
        fit=fit,
        **judging,
    )
    results.write_done(plan.out, record, method, scores)
    own_code.keep(plan.out, record)
    cell.state, cell.reason, cell.shots, cell.record = CellState.done, "", [], record


def _equal_vectors(setting: OpenDataset, split: Split) -> int:
    """How many test choices are between two replies whose embeddings are the same: no method tells them apart."""
    test = np.concatenate([split.seen_test, split.unseen_test])
    return int(setting.comparisons().take(test).equal_vectors.sum())


def require_rule(name: str, fit: dict[str, Any], rule: str) -> None:
    """Raise RuntimeError where a fit's record says that another rule was followed than was asked for."""
    if fit.get("rule", rule) != rule:
        raise RuntimeError(f"{name} was to choose by {rule}, but its fit says {fit['rule']}")


def _add_shots(job: MethodJob, i: int, plan: Plan) -> None:
    """Adapt a stored method on further numbers of shots."""
    cell, setting = job.cells[i], job.setting
    method = results.load_method(cell.folder, results.read_record(cell.folder))
    split = setting.splits[i]
    for shots in cell.shots:
        columns = score_unseen(method, setting, split, shots, job.restart).columns
        results.add_scores(results.scores_file(cell.folder, shots), columns, plan.out)
    cell.shots = []
