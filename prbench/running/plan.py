"""What a run will do: from method and data set names to cells, and how each stands in the results store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from prbench import registry
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.screen_text import listed
from prbench.encoders.base import require_device, resolved_device
from prbench.encoders.folder_names import plain_names
from prbench.judging.reader import Budget
from prbench.protocol import PROTOCOL_VERSION, sentences
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.selection import parse_selections, validation_rows
from prbench.registry import set_options, targets
from prbench.registry.schema import MethodEntry, Selection, SelectionRule
from prbench.results import cells as cells_module
from prbench.results import scores
from prbench.results.record import CellState
from prbench.running import tuned as tuning_records
from prbench.running.described import open_described
from prbench.running.encoder_parts import described
from prbench.running.method_job import MethodJob, Variant, planned_job
from prbench.running.open_dataset import (
    OpenDataset,
    drawing,
    open_datasets,
    open_judge,
    open_judged,
    support_of,
)
from prbench.running.request import JobDescription, RunRequest
from prbench.running.tuned import TuningRecord
from prbench.training.compute import Precision

if TYPE_CHECKING:
    from prbench.base.layout import Sheet


@dataclass(eq=False)
class Plan:
    """What a run will do, cell by cell."""

    jobs: list[MethodJob]
    request: RunRequest

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.request.out

    @property
    def shots(self) -> tuple[int, ...]:
        """The numbers of support comparisons, `ALL_SHOTS` first."""
        return self.request.shots

    @property
    def device(self) -> str:
        """Where to compute."""
        return self.request.device

    @property
    def precision(self) -> Precision:
        """How exact products are."""
        return self.request.precision

    def describe(self, job: MethodJob, threads: int) -> JobDescription:
        """A job of this plan as plain data, to be run on `threads` compute threads."""
        parts = described(self.request.encoder)
        named = {job.entry.name, *([parts.method] if parts else [])}
        own = self.request.model_copy(
            update={
                "methods": (job.entry.name,),
                "datasets": (unlimited(job.setting.entry.name),),
                "selection": job.selection,
                "overrides": tuple(
                    t for t in self.request.overrides if t.startswith(tuple(f"{name}." for name in named))
                ),
            }
        )
        record, title = job.cells[0].record, f"{job.title} on {job.setting.entry.name}"
        return JobDescription(
            request=own,
            command=record.command,
            restart=job.restart,
            split=job.split,
            registry=registry.used(),
            threads=threads,
            title=title,
            work=job.work,
            code={job.entry.target: record.code} if record.code else {},
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "out": str(self.out),
            "device": self.device,
            "precision": self.precision,
            "shots": ["all" if k == ALL_SHOTS else k for k in self.shots],
            "cells": [
                {
                    **dict(zip(scores.COLUMNS, cell.record.row, strict=True)),
                    "split": cell.record.split,
                    "restart": cell.record.restart,
                    "key": cell.record.key,
                    "status": cell.state,
                    "reason": cell.reason,
                    "folder": str(cell.folder),
                }
                for job in self.jobs
                for cell in job.cells
            ],
        }

    def table(self) -> Sheet:
        """One row per method and data set: how many cells are done, missing, failed or skipped.

        Below it, how each data set is divided.
        """
        said = {job.setting.entry.name: self._divided(job) for job in self.jobs}
        caption = " ".join(f"{name}: {'; '.join(each)}." for name, each in said.items() if each)
        return states_table("Plan", self.jobs, caption=caption)

    @staticmethod
    def _divided(job: MethodJob) -> list[str]:
        """Who is left out of a job's splits, what repeats, and what of the test is in training too."""
        counts = [cell.record.counts.model_dump() for cell in job.cells]
        found = (sentences.left_out(counts), sentences.repeated(counts), sentences.shared(counts))
        return [sentence for sentence in found if sentence]


def plan(request: RunRequest, *, opened: Sequence[OpenDataset] | None = None, command: str = "") -> Plan:
    """Resolve names to cells and find out which are done.

    Below the highest precision (`prbench.training.compute.computing`) a method's name gets a suffix, so that its
    results are never mixed with full-precision ones. `opened` are the request's data sets, where they are open
    already. Records name `command`, by default the request's own. Loads the data sets and draws the splits, embeds
    nothing and fits nothing. Raises InputError for unknown names, parameters, devices, for shots that users do not
    have, where nothing can be held out to choose by, and for methods that are to run tuned and are not.
    """
    device = resolved_device(request.device)
    require_device(device)
    shots = tuple(dict.fromkeys([ALL_SHOTS, *request.shots]))
    request = request.model_copy(update={"device": device, "shots": shots})
    selections = parse_selections(request.selection)
    cells_module.require_this_version(request.out)

    settings = opened or open_settings(request)
    changed = set_options.parse_sets(request.overrides)
    parts = described(request.encoder)
    if unused := sorted(set(changed) - {*request.methods, *([parts.method] if parts else [])}):
        raise InputError(f"--set {unused[0]}: that method is not run", hint="add it to --methods")
    command = command or request.command()
    jobs = [job for setting in settings for job in _jobs_on(setting, request, selections, changed, command)]
    return Plan(jobs, request)


def open_settings(request: RunRequest) -> list[OpenDataset]:
    """The request's data sets, each with the encoder and with the judge model that its methods read by.

    Methods that read texts need `--judge`: without it they are left out, with one line on stderr. Raises InputError
    where nothing is left to run, and as `open_datasets` and `open_judge`.
    """
    entries = [registry.get("methods", name) for name in request.methods]
    texts = [entry.name for entry in entries if reads_text(entry)]
    device = resolved_device(request.device)
    settings: list[OpenDataset] = []
    parts = described(request.encoder)
    reader = None
    if request.judge is not None and (texts or parts):
        reader = open_judge(request.judge, device, Budget(**request.budget.model_dump()))
    if len(texts) < len(entries) and parts:
        settings = open_described(request, parts, device, reader)
    elif len(texts) < len(entries):
        settings = open_datasets(
            request.datasets,
            encoder=request.encoder,
            splits=request.splits,
            seed=request.seed,
            device=device,
            split_files=request.split_files,
            limit=request.limit,
        )
    if texts and request.judge is not None and request.limit:
        raise InputError(
            "--limit is for methods that read embeddings", hint="--test-sample is for those that read texts"
        )
    if texts and request.judge is None:
        said, hint = f"{listed(texts)}: reading texts needs a judge model", "add --judge, see `prbench list judges`"
        if not settings:
            raise InputError(said, hint=hint)
        stderr().print(escape(f"skipped: {said} ({hint})"), soft_wrap=True)
    if texts and reader is not None:
        draw = drawing(request.datasets, request.splits, request.seed, request.split_files)
        data = {setting.entry.name: setting.data for setting in settings}
        settings += [
            open_judged(name, reader, request.test_sample, device, draw, data.get(name)) for name in request.datasets
        ]
    return settings


def reads_text(entry: MethodEntry) -> bool:
    """Whether a method reads texts, through a judge model."""
    return bool(targets.load_target("methods", entry).reads_text)


def _jobs_on(
    setting: OpenDataset,
    request: RunRequest,
    selections: Sequence[Selection],
    changed: Mapping[str, Mapping[str, Any]],
    command: str,
) -> list[MethodJob]:
    """The jobs on one data set; `changed` are parameters set by hand, by method."""
    for split in setting.splits:
        for k in request.shots:
            if k > 0:
                _ = support_of(setting, split, k)
    jobs: list[MethodJob] = []
    records: list[TuningRecord] = []
    for name in request.methods:
        entry = registry.get("methods", name)
        if reads_text(entry) != (setting.reader is not None):
            continue
        for each in selections_of(entry, selections):
            if each != "tuned":
                jobs += _starts(setting, request, command, Variant(entry, each, each, changed.get(name, {})))
                continue
            if name in changed:
                raise InputError(
                    f"--set {name}.{next(iter(changed[name]))}: a tuned method runs with its tuned parameters",
                    hint="leave out --set, or tuned from --selection",
                )
            record = tuning_records.for_run(request.tuned, setting, entry, PROTOCOL_VERSION, request.encoder)
            records += [record] if record else []
            jobs += _tuned_jobs(setting, request, command, entry, record)
    tuning_records.require_one_budget(records)
    if any(job.rule == "validation" and not job.skip for job in jobs):
        for split in setting.splits:
            _ = validation_rows(setting.data, split, setting.entry.protocol)
    return jobs


def selections_of(entry: MethodEntry, wanted: Sequence[Selection]) -> list[SelectionRule | Literal["tuned"]]:
    """What results call the selections `wanted` of a method: `published` by its own rule, and each once."""
    return list(dict.fromkeys(entry.selection if each == "published" else each for each in wanted))


def unlimited(dataset: str) -> str:
    """The entry's name of a data set that was opened with a limit."""
    return dataset.partition("[")[0]


def _tuned_jobs(
    setting: OpenDataset, request: RunRequest, command: str, entry: MethodEntry, record: TuningRecord | None
) -> list[MethodJob]:
    trial = record.tuned if record else None
    if record is None or trial is None:
        skip = record.untuned if record else tuning_records.nothing_to_tune(entry)
        return [planned_job(setting, request, command, Variant(entry, "tuned", entry.selection, {}, skip))]
    variant = Variant(entry, "tuned", trial.rule, trial.params, provenance=record.provenance())
    try:
        return _starts(setting, request, command, variant)
    except InputError as error:
        cause = str(error.args[0]).removeprefix(f"--set {entry.name}.")
        message = f"the record of tuning {entry.name} on {setting.entry.name}, trial {trial.number}: {cause}"
        raise InputError(message, hint="delete the record and tune again") from error


def _starts(setting: OpenDataset, request: RunRequest, command: str, variant: Variant) -> list[MethodJob]:
    """A job for each random start; one for a method that has none."""
    first = planned_job(setting, request, command, variant)
    further = range(1, request.restarts if first.make().random_start else 1)
    return [first, *(planned_job(setting, request, command, variant, restart) for restart in further)]


def states_table(title: str, jobs: Sequence[MethodJob], *, caption: str = "") -> Sheet:
    """One row per method and data set: how many cells are in which state, and why."""
    from prbench.base.layout import Sheet

    rows = []
    shown = plain_names({job.setting.encoder.name: job.setting.encoder.title for job in jobs})
    # All starts of a method stand in one row.
    groups: dict[tuple[str, ...], list[MethodJob]] = {}
    for job in jobs:
        groups.setdefault((job.name, job.setting.entry.name, job.setting.encoder.name, job.selection), []).append(job)
    for group in groups.values():
        job, cells = group[0], [cell for job in group for cell in job.cells]
        states = Counter(cell.state for cell in cells)
        shots = sum(bool(cell.shots) for cell in cells)
        why = next((cell.reason for cell in cells if cell.reason), "")
        rows.append(
            [
                job.name,
                job.setting.entry.name,
                shown[job.setting.encoder.name],
                job.selection,
                *(str(states[state] or "") for state in CellState),
                why or (f"{shots} cells lack some shots" if shots else ""),
            ]
        )
    return Sheet(
        title=title,
        caption=caption,
        header=("method", "data set", "encoder or judge", "chosen by", *CellState, "why"),
        rows=rows,
        right=frozenset(range(4, 8)),
        prose=frozenset({8}),
        order=(4, 5, 6, 1, 7, 8, 3, 2),
        needed=4,
        whole=True,
        elsewhere="--json",
    )
