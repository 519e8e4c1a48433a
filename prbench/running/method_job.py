"""A method on one data set: what it is run with, the record of each of its cells, and how these stand."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import prbench
from prbench.base import provenance
from prbench.base.errors import InputError
from prbench.base.files import canonical_json, digest
from prbench.judging.method import TextMethod
from prbench.method import Method
from prbench.protocol import PROTOCOL_VERSION
from prbench.protocol.splits import Split
from prbench.registry import methods as methods_module
from prbench.registry.code_hash import code_of
from prbench.registry.schema import MethodEntry, SelectionRule
from prbench.results import cells as cells_module
from prbench.results import superseded
from prbench.results.key import CellKey
from prbench.results.record import CellState, PlannedRecord, Recorded
from prbench.running.described import DescribedDataset
from prbench.running.open_dataset import OpenDataset
from prbench.running.record import device_name, judged, split_counts, split_truth
from prbench.running.request import RunRequest
from prbench.training.compute import Precision


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

    @property
    def work(self) -> str:
        """The name under which programs claim it: all splits of a method from one start, trained together."""
        record = self.cells[0].record
        apart = [] if self.split is None else [f"split {self.split}"]
        return canonical_json([*record.row, *([self.restart] if self.restart else []), *apart])

    @property
    def split(self) -> int | None:
        """The split's number where the setting is one split's own; None where it holds all."""
        return self.setting.splits[0].index if isinstance(self.setting, DescribedDataset) else None

    def open(self) -> list[int]:
        """The positions of the cells that still need work."""
        return [
            i
            for i, cell in enumerate(self.cells)
            if cell.state in (CellState.missing, CellState.failed) or cell.shots
        ]


@dataclass(frozen=True)
class Variant:
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


def planned_job(
    setting: OpenDataset, request: RunRequest, command: str, variant: Variant, restart: int = 0
) -> MethodJob:
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
    setting: OpenDataset, split: Split, request: RunRequest, variant: Variant, unfitted: Method, restart: int
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
        models=_further_models(setting, unfitted),
    )


def _further_models(setting: OpenDataset, method: Method) -> str:
    if setting.reader is None or not isinstance(method, TextMethod):
        return ""
    found = method.further_models(setting.reader)
    return digest(found) if found else ""


def _recorded(setting: OpenDataset, split: Split, variant: Variant, method: Method, changes: str) -> dict[str, Any]:
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
