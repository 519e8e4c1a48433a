"""What a run will do: from method and data set names to cells, and how each stands in the results store."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rich.markup import escape

import prbench
from prbench import registry
from prbench.base import provenance
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.screen_text import listed
from prbench.encoders.base import require_device, resolved_device
from prbench.encoders.folder_names import plain_names
from prbench.judging.reader import Budget
from prbench.method import Method
from prbench.protocol import PROTOCOL_VERSION, sentences
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.selection import parse_selections, validation_rows
from prbench.protocol.splits import Split
from prbench.registry import methods as methods_module
from prbench.registry import set_options, targets
from prbench.registry.code_hash import code_of
from prbench.registry.schema import MethodEntry, Selection, SelectionRule
from prbench.results import cells as cells_module
from prbench.results import scores, superseded
from prbench.results.key import CellKey
from prbench.results.record import CellState, PlannedRecord, Recorded
from prbench.running import tuned as tuning_records
from prbench.running.open_dataset import (
    OpenDataset,
    drawing,
    open_datasets,
    open_judge,
    open_judged,
    support_of,
)
from prbench.running.record import device_name, judged, split_counts, split_truth
from prbench.running.request import JobDescription, RunRequest
from prbench.running.tuned import TuningRecord
from prbench.training.compute import Precision

if TYPE_CHECKING:
    from prbench.base.layout import Sheet


@dataclass(eq=False)
class RunCell:
    """One split of one method on one data set: its record so far, and how it stands.

    `shots` are the numbers of shots still to be scored.
    """

    record: PlannedRecord
    folder: Path
    state: CellState
    reason: str
    shots: list[int]


@dataclass(eq=False)
class MethodJob:
    """All splits of one method on one setting, each from its random start `restart`: they are trained together.

    `selection` is what results call it: its `rule`, or "tuned". `skip` says why there is nothing to run.
    """

    name: str
    entry: MethodEntry
    selection: str
    rule: SelectionRule
    setting: OpenDataset
    make: Callable[[], Method]
    restart: int = 0
    skip: str = ""
    cells: list[RunCell] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What to call it in a message: the method, and its further random start."""
        return f"{self.name}, restart {self.restart}" if self.restart else self.name

    def open(self) -> list[int]:
        """The positions of the cells that still need work."""
        return [
            i
            for i, cell in enumerate(self.cells)
            if cell.state in (CellState.missing, CellState.failed) or cell.shots
        ]


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
        own = self.request.model_copy(
            update={
                "methods": (job.entry.name,),
                "datasets": (unlimited(job.setting.entry.name),),
                "selection": job.selection,
                "overrides": tuple(t for t in self.request.overrides if t.startswith(f"{job.entry.name}.")),
            }
        )
        command = job.cells[0].record.command
        return JobDescription(
            request=own, command=command, restart=job.restart, registry=registry.used(), threads=threads
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
    if unused := sorted(set(changed) - set(request.methods)):
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
    if len(texts) < len(entries):
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
    if texts and request.judge is not None:
        reader = open_judge(request.judge, device, Budget(**request.budget.model_dump()))
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
                jobs += _starts(setting, request, command, _Variant(entry, each, each, changed.get(name, {})))
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


@dataclass(frozen=True)
class _Variant:
    """A method as one job runs it: its selection, the rule to choose by and the parameters that differ."""

    entry: MethodEntry
    selection: SelectionRule | Literal["tuned"]
    rule: SelectionRule
    overrides: Mapping[str, Any]
    skip: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def changes(self, precision: Precision) -> str:
        """What makes it another method than its entry: that one has a name of its own and shares no average."""
        by_hand = {} if self.selection == "tuned" else self.overrides
        lowered = {} if precision == "highest" else {"precision": precision}
        return ",".join(f"{key}={value}" for key, value in sorted({**by_hand, **lowered}.items()))


def _tuned_jobs(
    setting: OpenDataset, request: RunRequest, command: str, entry: MethodEntry, record: TuningRecord | None
) -> list[MethodJob]:
    trial = record.tuned if record else None
    if record is None or trial is None:
        skip = record.untuned if record else tuning_records.nothing_to_tune(entry)
        return [_job(setting, request, command, _Variant(entry, "tuned", entry.selection, {}, skip))]
    variant = _Variant(entry, "tuned", trial.rule, trial.params, provenance=record.provenance())
    try:
        return _starts(setting, request, command, variant)
    except InputError as error:
        cause = str(error.args[0]).removeprefix(f"--set {entry.name}.")
        message = f"the record of tuning {entry.name} on {setting.entry.name}, trial {trial.number}: {cause}"
        raise InputError(message, hint="delete the record and tune again") from error


def _starts(setting: OpenDataset, request: RunRequest, command: str, variant: _Variant) -> list[MethodJob]:
    """A job for each random start; one for a method that has none."""
    first = _job(setting, request, command, variant)
    further = range(1, request.restarts if first.make().random_start else 1)
    return [first, *(_job(setting, request, command, variant, restart) for restart in further)]


def _job(setting: OpenDataset, request: RunRequest, command: str, variant: _Variant, restart: int = 0) -> MethodJob:
    """The job of a variant, with every cell's record and how it stands in the folder of results."""

    def make() -> Method:
        return methods_module.make_method(variant.entry, setting.entry, dict(variant.overrides))

    unfitted = make()
    changes = variant.changes(request.precision)
    name = f"{variant.entry.name}[{changes}]" if changes else variant.entry.name
    job = MethodJob(name, variant.entry, variant.selection, variant.rule, setting, make, restart, variant.skip)
    for split in setting.splits:
        key = _key(setting, split, request, variant, unfitted, restart)
        about = _recorded(setting, split, variant, unfitted, changes)
        record = PlannedRecord.of(key, Recorded(method=name, command=command, **about))
        folder = cells_module.cell_folder(request.out, record)
        state, reason = cells_module.status(folder, with_model=request.refit)
        if variant.skip and state == CellState.missing:
            reason = f"will be skipped: {variant.skip}"
        done = state == CellState.done
        left = [k for k in request.shots if done and not cells_module.has_scores(cells_module.scores_file(folder, k))]
        if left and cells_module.is_packed(folder):
            raise InputError(
                f"{folder} was packed without its model: no further shots can be scored", hint=cells_module.REFIT
            )
        job.cells.append(RunCell(record, folder, state, reason, left))
    if not variant.skip and (older := superseded.older_cells(request.out, job.cells[0].record)):
        for cell in (cell for cell in job.cells if cell.state == CellState.missing):
            cell.reason = older.why
    return job


def _key(
    setting: OpenDataset, split: Split, request: RunRequest, variant: _Variant, unfitted: Method, restart: int
) -> CellKey:
    """Exactly what changes the scores of a cell."""
    # A sample concerns methods that read texts, and no key before there were samples had one.
    sampled = setting.reader is not None and setting.entry.protocol.test_sample is not None
    return CellKey(
        protocol_version=PROTOCOL_VERSION,
        data=setting.data.fingerprint,
        embedding=setting.embedding_fingerprint,
        protocol=setting.entry.protocol.model_dump(exclude={"splits"} if sampled else {"splits", "test_sample"}),
        split=split.index,
        seed=split.seed,
        draw=split.draw,
        target=variant.entry.target,
        params=unfitted.key_parameters,
        selection=variant.selection,
        code=code_of(variant.entry.target),
        revision=unfitted.revision,
        rule=variant.rule if variant.selection == "tuned" else "",
        precision=request.precision,
        split_file=split.file,
        restart=restart,
    )


def _recorded(setting: OpenDataset, split: Split, variant: _Variant, method: Method, changes: str) -> dict[str, Any]:
    """What is only recorded of a planned cell, but for its row's name and the command: see `Recorded`."""
    return {
        "dataset": setting.entry.name,
        "encoder": setting.encoder.name,
        "encoder_entry": setting.encoder,
        "title": f"{variant.entry.title} ({changes})" if changes else variant.entry.title,
        "entry": variant.entry.model_dump(),
        "protocol": setting.entry.protocol.model_dump(exclude=None if setting.reader else {"test_sample"}),
        **judged(setting),
        "simulated": setting.entry.simulated,
        "truth": split_truth(setting.data, split),
        "counts": split_counts(setting.data, split),
        "properties": setting.properties,
        "device": device_name(setting.device),
        "threads": torch.get_num_threads(),
        "versions": {
            "prbench": prbench.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            **provenance.versions(),
        },
        **({"commit": commit} if (commit := provenance.commit()) else {}),
        "machine": provenance.machine(),
        "tuned": dict(variant.provenance) if variant.provenance else None,
        "random_start": method.random_start,
    }


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
