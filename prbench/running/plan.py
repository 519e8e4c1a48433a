"""What a run will do: from method and data set names to cells, and how each stands in the results store."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

import prbench
from prbench import registry
from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.encoders.base import require_device, resolved_device
from prbench.method import Method
from prbench.protocol import splits
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.selection import parse_selections, validation_rows
from prbench.registry import methods as methods_module
from prbench.registry import set_options
from prbench.registry.code_hash import code_of
from prbench.registry.schema import MethodEntry, Selection, SelectionRule
from prbench.results import cells as cells_module
from prbench.results import scores, superseded
from prbench.running import tuned as tuning_records
from prbench.running.tuned import TuningRecord
from prbench.training.compute import Precision

if TYPE_CHECKING:
    from prbench.base.layout import Sheet

from prbench.protocol import PROTOCOL_VERSION
from prbench.running.open_dataset import OpenDataset, open_datasets, support_of
from prbench.running.record import device_name, split_counts, split_truth

# What a cell may be, in the order of the tables.
STATES = ("done", "missing", "failed", "skipped")


@dataclass(eq=False)
class RunCell:
    """One split of one method on one data set: its record so far, and how it stands.

    `state` is done, missing, failed or skipped; `shots` are the numbers of shots still to be scored.
    """

    record: dict[str, Any]
    folder: Path
    state: str
    reason: str
    shots: list[int]


@dataclass(eq=False)
class MethodJob:
    """All splits of one method on one setting: they are trained together.

    `selection` is what results call it: its `rule`, or "tuned". `skip` says why there is nothing to run.
    """

    name: str
    entry: MethodEntry
    selection: str
    rule: SelectionRule
    setting: OpenDataset
    make: Callable[[], Method]
    skip: str = ""
    cells: list[RunCell] = field(default_factory=list)

    def open(self) -> list[int]:
        """The positions of the cells that still need work."""
        return [i for i, cell in enumerate(self.cells) if cell.state in ("missing", "failed") or cell.shots]


@dataclass(eq=False)
class Plan:
    """What a run will do, cell by cell."""

    jobs: list[MethodJob]
    out: Path
    shots: list[int]
    device: str
    precision: Precision = "highest"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "out": str(self.out),
            "device": self.device,
            "precision": self.precision,
            "shots": ["all" if k == ALL_SHOTS else k for k in self.shots],
            "cells": [
                {
                    **{key: cell.record[key] for key in (*scores.COLUMNS, "split", "key")},
                    "status": cell.state,
                    "reason": cell.reason,
                    "folder": str(cell.folder),
                }
                for job in self.jobs
                for cell in job.cells
            ],
        }

    def table(self) -> Sheet:
        """One row per method and data set: how many cells are done, missing, failed or skipped."""
        return states_table("Plan", self.jobs)


def plan(
    methods: Sequence[str],
    datasets_: Sequence[str],
    *,
    encoder: str | None = None,
    splits: int | None = None,
    seed: int = splits.DEFAULT_SEED,
    shots: Sequence[int] = (ALL_SHOTS,),
    selection: str | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    out: Path = Path("runs"),
    tuned: Path = Path("tuned"),
    precision: Precision = "highest",
    opened: Sequence[OpenDataset] | None = None,
) -> Plan:
    """Resolve names to cells and find out which are done.

    `selection` is a comma-separated list, see `prbench.protocol.selection.parse_selections`; tuned parameters are
    read from the folder `tuned`. Below the highest `precision` (`prbench.training.compute.computing`) a method's
    name gets a suffix, so that its results are never mixed with full-precision ones. `opened` are these
    data sets, where they are open already. Loads the data sets and draws the splits, embeds nothing and fits nothing.
    Raises InputError for unknown names, parameters, devices, for shots that users do
    not have, where nothing can be held out to choose by, and for methods that are to run tuned and are not.
    """
    selections = parse_selections(selection)
    device = resolved_device(device)
    require_device(device)
    cells_module.require_this_version(out)
    wanted = list(dict.fromkeys([ALL_SHOTS, *shots]))

    settings = opened or open_datasets(datasets_, encoder=encoder, splits=splits, seed=seed, device=device)
    changed = set_options.parse_sets(overrides)
    if unused := sorted(set(changed) - set(methods)):
        raise InputError(f"--set {unused[0]}: that method is not run", hint="add it to --methods")
    jobs = []
    for setting in settings:
        for split in setting.splits:
            for k in wanted:
                if k > 0:
                    _ = support_of(setting, split, k)
        found: list[TuningRecord] = []
        for name in methods:
            entry = registry.get("methods", name)
            for each in selections_of(entry, selections):
                if each != "tuned":
                    jobs.append(
                        _job(setting, entry, each, each, changed.get(name, {}), wanted, out, precision=precision)
                    )
                    continue
                if name in changed:
                    raise InputError(
                        f"--set {name}.{next(iter(changed[name]))}: a tuned method runs with its tuned parameters",
                        hint="leave out --set, or tuned from --selection",
                    )
                record = tuning_records.for_run(tuned, setting, entry, PROTOCOL_VERSION, encoder)
                found += [record] if record else []
                jobs.append(_tuned_job(setting, entry, record, wanted, out, precision))
        tuning_records.require_one_budget(found)
        if any(job.setting is setting and job.rule == "validation" and not job.skip for job in jobs):
            for split in setting.splits:
                _ = validation_rows(setting.data, split, setting.entry.protocol)
    command = _command(methods, datasets_, encoder, splits, seed, wanted, selection, device, overrides)
    if precision != "highest":
        command += f" --precision {precision}"
    for cell in (cell for job in jobs for cell in job.cells):
        cell.record["command"] = command
    return Plan(jobs, out, wanted, device, precision)


def selections_of(entry: MethodEntry, wanted: Sequence[Selection]) -> list[SelectionRule | Literal["tuned"]]:
    """What results call the selections `wanted` of a method: `published` by its own rule, and each once."""
    return list(dict.fromkeys(entry.selection if each == "published" else each for each in wanted))


def _command(
    methods: Sequence[str],
    datasets_: Sequence[str],
    encoder: str | None,
    count: int | None,
    seed: int,
    shots: Sequence[int],
    selection: str | None,
    device: str,
    overrides: Sequence[str],
) -> str:
    """The command line that plans the same cells; without folders, which say nothing to another machine."""
    words = ["prbench", "run", "--methods", ",".join(methods), "--dataset", ",".join(datasets_)]
    words += ["--encoder", encoder] if encoder else []
    words += ["--splits", str(count)] if count else []
    words += ["--seed", str(seed), "--shots", ",".join("all" if k == ALL_SHOTS else str(k) for k in shots)]
    words += ["--selection", selection] if selection else []
    words += ["--device", device]
    words += [word for text in overrides for word in ("--set", text)]
    return shlex.join(words)


def _tuned_job(
    setting: OpenDataset,
    entry: MethodEntry,
    record: TuningRecord | None,
    shots: Sequence[int],
    out: Path,
    precision: Precision,
) -> MethodJob:
    trial = record.tuned if record else None
    if record is None or trial is None:
        skip = record.untuned if record else tuning_records.nothing_to_tune(entry)
        return _job(setting, entry, "tuned", entry.selection, {}, shots, out, skip=skip, precision=precision)
    given: dict[str, Any] = {"provenance": record.provenance(), "precision": precision}
    try:
        return _job(setting, entry, "tuned", trial.rule, trial.params, shots, out, **given)
    except InputError as error:
        said = str(error.args[0]).removeprefix(f"--set {entry.name}.")
        message = f"the record of tuning {entry.name} on {setting.entry.name}, trial {trial.number}: {said}"
        raise InputError(message, hint="delete the record and tune again") from error


def _job(
    setting: OpenDataset,
    entry: MethodEntry,
    selection: SelectionRule | Literal["tuned"],
    rule: SelectionRule,
    overrides: dict[str, Any],
    shots: Sequence[int],
    out: Path,
    *,
    skip: str = "",
    provenance: dict[str, Any] | None = None,
    precision: Precision = "highest",
) -> MethodJob:
    def make() -> Method:
        return methods_module.make_method(entry, setting.entry, overrides)

    unfitted = make()
    parameters = unfitted.key_parameters
    # A parameter set by hand makes another method: it gets a name of its own and is never averaged with the entry.
    by_hand = {} if selection == "tuned" else overrides
    lowered: dict[str, str] = {} if precision == "highest" else {"precision": precision}
    changes = ",".join(f"{key}={value}" for key, value in sorted({**by_hand, **lowered}.items()))
    name = f"{entry.name}[{changes}]" if changes else entry.name
    job = MethodJob(name, entry, selection, rule, setting, make, skip)
    code: dict[str, Any] = {"code": digits} if (digits := code_of(entry.target)) else {}
    code |= {"revision": unfitted.revision} if unfitted.revision > 1 else {}
    for split in setting.splits:
        changes_scores = {
            "format": cells_module.FORMAT,
            "protocol_version": PROTOCOL_VERSION,
            "data": setting.data.fingerprint,
            "embedding": setting.embedding_fingerprint,
            "protocol": setting.entry.protocol.model_dump(exclude={"splits"}),
            "split": split.index,
            "seed": split.seed,
            **({"draw": split.draw} if split.draw else {}),
            "target": entry.target,
            **code,
            "params": parameters,
            "selection": selection,
            **({"rule": rule} if selection == "tuned" else {}),
            **lowered,
        }
        record = {
            "key": digest(changes_scores, length=12),
            "dataset": setting.entry.name,
            "encoder": setting.encoder.name,
            "encoder_entry": setting.encoder.model_dump(),
            "method": name,
            "title": f"{entry.title} ({changes})" if changes else entry.title,
            "split": split.index,
            "seed": split.seed,
            **({"draw": split.draw} if split.draw else {}),
            "selection": selection,
            "entry": entry.model_dump(),
            **code,
            "params": parameters,
            "data_fingerprint": setting.data.fingerprint,
            "embedding_fingerprint": setting.embedding_fingerprint,
            "protocol": setting.entry.protocol.model_dump(),
            "protocol_version": PROTOCOL_VERSION,
            "simulated": setting.entry.simulated,
            "truth": split_truth(setting.data, split),
            "counts": split_counts(setting.data, split),
            "device": device_name(setting.device),
            "precision": precision,
            "versions": {
                "prbench": prbench.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            **({"tuned": provenance} if provenance else {}),
        }
        folder = cells_module.cell_folder(out, record)
        state, reason = cells_module.status(folder)
        if skip and state == "missing":
            reason = f"will be skipped: {skip}"
        has = cells_module.has_scores
        left = [k for k in shots if state == "done" and not has(cells_module.scores_file(folder, k))]
        job.cells.append(RunCell(record, folder, state, reason, left))
    if not skip and (older := superseded.older_cells(out, job.cells[0].record)):
        for cell in (cell for cell in job.cells if cell.state == "missing"):
            cell.reason = older.why
    return job


def states_table(title: str, jobs: Sequence[MethodJob]) -> Sheet:
    """One row per method and data set: how many cells are in which state, and why."""
    from prbench.base.layout import Sheet

    rows = []
    for job in jobs:
        states = Counter(cell.state for cell in job.cells)
        shots = sum(bool(cell.shots) for cell in job.cells)
        why = next((cell.reason for cell in job.cells if cell.reason), "")
        rows.append(
            [
                job.name,
                job.setting.entry.name,
                job.setting.encoder.name,
                job.selection,
                *(str(states[state] or "") for state in STATES),
                why or (f"{shots} cells lack some shots" if shots else ""),
            ]
        )
    return Sheet(
        title=title,
        header=("method", "data set", "encoder", "chosen by", *STATES, "why"),
        rows=rows,
        right=frozenset(range(4, 8)),
        prose=frozenset({8}),
        order=(4, 5, 6, 1, 7, 8, 3, 2),
        needed=4,
        whole=True,
        elsewhere="--json",
    )
