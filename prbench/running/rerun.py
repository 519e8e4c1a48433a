"""Fit finished cells again, from their records alone, and compare the margins: what no digest can find.

A result is made again under the split, parameters, precision and number of threads of its record, in a folder of its
own. On a machine of the type that made it every margin is the same to the bit. Elsewhere rounding moves nearly all of
them, and decisions are compared as where copies are merged (`prbench.sharing.agreement`); where most margins are the
same to the bit and some are not, it was not rounding that moved these.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from prbench import registry
from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData
from prbench.judging import build_backend, recorded_entry
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.splits import Split, make_split
from prbench.registry import targets
from prbench.registry.schema import DatasetEntry, SelectionRule
from prbench.results import cells, scores
from prbench.results.record import CellState, DoneRecord
from prbench.running.job import run_job
from prbench.running.method_job import MethodJob, Variant, planned_job
from prbench.running.open_dataset import Drawing, OpenDataset, open_dataset, open_recorded
from prbench.running.plan import Plan
from prbench.running.request import RunRequest
from prbench.sharing.agreement import ROWS, agreement, rows_agree
from prbench.sharing.merge import starts_of
from prbench.training.compute import compute_threads

Verdict = Literal["identical", "within rounding", "differs"]
HERE = "verify it where its data, encoder and code are"


@dataclass(frozen=True)
class Repeated:
    """How a cell's margins came out again: `moved` of `margins` are others, by at most `largest`."""

    cell: str
    verdict: Verdict
    moved: int
    margins: int
    largest: float
    decisions: float
    said: str = ""


def rerun(
    runs: Path, count: int, *, choose: Callable[[Sequence[Path], int], list[Path]] | None = None
) -> dict[str, Any]:
    """Fit `count` finished cells of `runs` again; returns how many are `identical`, `within_rounding` and `differs`.

    Cells are drawn by the system's own randomness, so that nobody knows beforehand which; `choose` draws otherwise.
    `problems` has a sentence for each cell that differs, `largest` the largest difference of margins within rounding.
    Not drawn, and counted as `not_drawn`, are cells whose splits come from files and those of judge models whose
    answers cost something or are kept: such answers would not be given anew. Raises InputError where a cell cannot
    be made here: it rests on other data, encoder, judge model or code, or its entry is gone.
    """
    every = [(folder, cells.read_record(folder)) for folder in cells.folders(runs)]
    finished = [(folder, record) for folder, record in every if isinstance(record, DoneRecord)]
    asked_anew: dict[str, bool] = {}
    done = [(folder, record) for folder, record in finished if _can_be_drawn(record, folder, asked_anew)]
    if not done:
        raise InputError(
            f"{runs} holds no finished result that can be made again",
            hint="splits from files and judge models whose answers are kept are not; make others with `prbench run`",
        )
    draw = choose or (lambda found, n: secrets.SystemRandom().sample(list(found), n))
    drawn = sorted(draw([folder for folder, _ in done], min(count, len(done))))
    records = dict(done)
    repeated = []
    with progress() as display:
        bar = display.add_task("fitting again", total=len(drawn))
        for folder in drawn:
            repeated.append(_repeat(folder, records[folder], runs))
            display.advance(bar)
    verdicts = [each.verdict for each in repeated]
    rounding = [each.largest for each in repeated if each.verdict == "within rounding"]
    return {
        "cells": [each.cell for each in repeated],
        "not_drawn": len(finished) - len(done),
        "identical": verdicts.count("identical"),
        "within_rounding": verdicts.count("within rounding"),
        "differs": verdicts.count("differs"),
        "largest": max(rounding, default=0.0),
        "problems": [each.said for each in repeated if each.verdict == "differs"],
    }


def _can_be_drawn(record: DoneRecord, folder: Path, asked_anew: dict[str, bool]) -> bool:
    """Whether a cell is made again by fitting alone; `asked_anew` keeps that of each judge model."""
    if record.split_file:
        return False
    if not record.reader:
        return True
    if record.encoder not in asked_anew:
        backend = build_backend(recorded_entry(record.encoder_entry, folder / "cell.json"))
        asked_anew[record.encoder] = backend.instant or not backend.reads_prompts
    return asked_anew[record.encoder]


def _repeat(folder: Path, record: DoneRecord, runs: Path) -> Repeated:
    with tempfile.TemporaryDirectory(prefix="prbench-rerun-") as out, compute_threads(record.threads, 1):
        job, plan = _planned(folder, record, Path(out))
        run_job(job, plan, lambda share: None)
        [cell] = job.cells
        name = folder.relative_to(runs).as_posix()
        if cell.state != CellState.done:
            return Repeated(name, "differs", 0, 0, 0.0, 1.0, f"{name} cannot be made again: {cell.reason}")
        parts = [
            _compared(name, record, cells.scores_file(folder, k), cells.scores_file(cell.folder, k))
            for k in plan.shots
        ]
        return next((part for part in parts if part.verdict == "differs"), max(parts, key=lambda part: part.largest))


def _planned(folder: Path, record: DoneRecord, out: Path) -> tuple[MethodJob, Plan]:
    """The job that makes a cell of this record, under the same key. Raises InputError as `rerun`."""
    where = folder / "cell.json"
    targets.require_recorded("methods", record.entry.name, record.entry.target, where)
    entry = registry.get("methods", record.entry.name)
    setting = _setting(folder, record)
    rule = (record.fit.rule or entry.selection) if record.selection == "tuned" else record.selection
    few = [
        int(match[1]) for path in scores._scores_files(folder) if (match := scores.SHOTS_FILE.fullmatch(path.name))
    ]
    request = RunRequest(
        methods=(entry.name,),
        datasets=(record.dataset,),
        encoder=None if record.reader else record.encoder,
        judge=record.encoder if record.reader else None,
        shots=(ALL_SHOTS, *few),
        device=setting.device,
        out=out,
        precision=record.precision,
    )
    variant = Variant(
        entry, cast(SelectionRule | Literal["tuned"], record.selection), cast(SelectionRule, rule), record.params
    )
    job = planned_job(setting, request, record.command, variant, record.restart)
    if job.cells[0].record.key != record.key:
        raise InputError(
            f"{folder} cannot be made again here: its key is not the one of its record with the present code, entry "
            "and protocol",
            hint=HERE,
        )
    return job, Plan([job], request)


def _setting(folder: Path, record: DoneRecord) -> OpenDataset:
    """The record's data set with its one split. Raises InputError where the data or embeddings are others."""
    device = "cpu" if record.device.startswith("cpu") else "auto"

    def draw(data: PreferenceData, entry: DatasetEntry) -> list[Split]:
        seed = record.seed - record.split
        return [make_split(data, record.protocol, index=record.split, seed=seed, draw=record.draw)]

    if record.reader:
        setting = open_recorded(record, folder / "cell.json", device, Drawing(draw, record.protocol))
    else:
        setting = open_dataset(record.dataset, record.encoder, device, draw, protocol=record.protocol)
    for name, then, now in (
        ("data fingerprint", record.data_fingerprint, setting.data.fingerprint),
        ("embedding fingerprint", record.embedding_fingerprint, setting.embedding_fingerprint),
    ):
        if then != now:
            raise InputError(f"{folder} was made with {name} {then}, here it is {now}", hint=HERE)
    return setting


def _compared(name: str, record: DoneRecord, before: Path, after: Path) -> Repeated:
    """A file of scores and the same made again."""
    old, new = (
        scores.read_scores_file(path, cells.AGAIN).sort_values(ROWS, ignore_index=True) for path in (before, after)
    )
    found = agreement(old, new)
    where = f"{name}, {before.name}"
    if not found.comparable:
        return Repeated(name, "differs", len(old), len(old), found.margin, 1.0, f"{where}: other test choices")
    moved = np.zeros(len(old), dtype=bool)
    for column in ("margin", "cold_margin"):
        moved |= old[column].to_numpy() != new[column].to_numpy()
    count = int(moved.sum())
    changes = f"{count:,} of {len(old):,} margins are others when fitted again, by up to {found.margin:.3g}"
    verdict: Verdict = "identical" if not count else "within rounding"
    said = ""
    if 0 < count <= len(old) / 2:
        verdict, said = "differs", f"{where}: {changes}; the rest is the same to the bit, so it is not rounding"
    elif count and not found.agrees:
        starts = starts_of(record.method)
        if starts is None or not rows_agree([found.accuracy], (starts, starts)):
            verdict = "differs"
            said = f"{where}: {changes}, and {100 * found.decisions:.1f}% of decisions differ"
    return Repeated(name, verdict, count, len(old), found.margin, found.decisions, said)
