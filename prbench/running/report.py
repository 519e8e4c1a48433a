"""What a report's pieces need, as one plan: cells by data set and selection, then probes of the finished ones.

Cells that several pieces share are made once. Further numbers of shots are run only for the methods of pieces that
ask for them, and only as far as every unseen user of the data set has the choices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from prbench import registry
from prbench.base.console import stderr
from prbench.base.errors import InputError, nearest
from prbench.encoders.base import require_device, resolved_device
from prbench.judging.reader import Budget
from prbench.protocol import splits
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.selection import parse_selections
from prbench.registry.pieces import Piece, read_pieces
from prbench.registry.schema import DatasetEntry, ReportEntry, TestSample
from prbench.results import cells, probes, scores
from prbench.results.probes import Probe
from prbench.results.record import CellState
from prbench.running import open_dataset, run
from prbench.running import plan as plan_module
from prbench.running import probe as probe_module
from prbench.running.execution import HERE, Execution
from prbench.running.open_dataset import OpenDataset
from prbench.running.plan import Plan, selections_of
from prbench.running.probe import ProbeTask
from prbench.running.probes.makers import MAKERS, applies
from prbench.running.request import CallBudget, RunRequest

if TYPE_CHECKING:
    from prbench.base.layout import Sheet


@dataclass(eq=False)
class ReportPlan:
    """All that a report needs on some data sets: `plans` share their settings, `probes` follow the cells."""

    report: str
    out: Path
    plans: list[Plan]
    probes: list[ProbeTask]

    def counts(self) -> list[dict[str, Any]]:
        """Per data set and encoder: its cells by state and its probes, done and not."""
        rows: dict[tuple[str, str], Counter[str]] = {}
        for plan in self.plans:
            for cell in (cell for job in plan.jobs for cell in job.cells):
                row = rows.setdefault((cell.record.dataset, cell.record.encoder), Counter())
                row.update(["cells", cell.state, *(["lacking some shots"] if cell.shots else [])])
        for task in self.probes:
            row = rows[task.record.dataset, task.record.encoder]
            row.update(["probes", "probes done" if task.done else "probes missing"])
        names = ("cells", *CellState, "lacking some shots", "probes", "probes done", "probes missing")
        return [{"dataset": d, "encoder": e, **{name: row[name] for name in names}} for (d, e), row in rows.items()]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        plans = [plan.as_dict() for plan in self.plans]
        counts = self.counts()
        return {
            "report": self.report,
            "out": str(self.out),
            "counts": {name: sum(row[name] for row in counts) for name in counts[0] if name not in scores.COLUMNS},
            "datasets": counts,
            "cells": [{**cell, "shots": plan["shots"]} for plan in plans for cell in plan["cells"]],
            "probes": [
                {
                    **dict(zip(scores.COLUMNS, task.record.row, strict=True)),
                    "split": task.record.split,
                    "restart": task.record.restart,
                    "probe": task.probe.name,
                    "status": CellState.done if task.done else CellState.missing,
                }
                for task in self.probes
            ],
        }

    def table(self, title: str) -> Sheet:
        """One row per data set, and their sum."""
        from prbench.base.layout import Sheet

        counts = self.counts()
        names = [name for name in counts[0] if name not in scores.COLUMNS]
        rows = [
            [row["dataset"], row["encoder"], *(f"{row[name]:,}" if row[name] else "" for name in names)]
            for row in counts
        ]
        if len(counts) > 1:
            rows.append(["all", "", *(f"{sum(row[name] for row in counts):,}" for name in names)])
        return Sheet(
            title=title,
            header=("data set", "encoder", *names),
            rows=rows,
            right=frozenset(range(2, 2 + len(names))),
            rules=frozenset({len(counts)} if len(counts) > 1 else ()),
            order=(*range(2, 2 + len(names)), 1),
            needed=4,
            whole=True,
            elsewhere="--json",
        )


def plan(
    report: str,
    datasets_: Sequence[str],
    *,
    encoder: str | None = None,
    splits: int | None = None,
    restarts: int = 1,
    seed: int = splits.DEFAULT_SEED,
    device: str = "auto",
    out: Path = Path("runs"),
    split_files: Path | None = None,
    judge: str | None = None,
    test_sample: TestSample | None = None,
    budget: CallBudget | None = None,
) -> ReportPlan:
    """What `report` needs on these data sets. Loads them and draws the splits; fits and embeds nothing.

    Methods that read texts are part of it where `judge` names a judge model.

    Numbers of shots that some unseen users do not have are left out, with a line on stderr. Raises InputError for a
    report whose pieces name no methods, and as `plan_module.plan`.
    """
    wanted = needs_of(registry.get("reports", report))
    device = resolved_device(device)
    require_device(device)
    settings = open_dataset.open_datasets(
        datasets_, encoder=encoder, splits=splits, seed=seed, device=device, split_files=split_files
    )
    if judge is not None:
        limits = Budget(**(budget or CallBudget()).model_dump())
        reader = open_dataset.open_judge(judge, device, limits)
        draw = open_dataset.drawing(datasets_, splits, seed, split_files)
        settings += [
            open_dataset.open_judged(s.entry.name, reader, test_sample, device, draw, s.data) for s in settings
        ]
    plans = []
    for setting in settings:
        for (selection, counts), methods in _groups(wanted, setting).items():
            plans.append(
                plan_module.plan(
                    RunRequest(
                        methods=tuple(methods),
                        datasets=(setting.entry.name,),
                        encoder=encoder,
                        judge=judge,
                        test_sample=test_sample,
                        splits=splits,
                        split_files=split_files,
                        restarts=restarts,
                        seed=seed,
                        shots=counts,
                        selection=None if selection == "published" else selection,
                        device=device,
                        out=out,
                    ),
                    opened=[setting],
                )
            )
    return ReportPlan(report, out, plans, _probes(wanted, plans, datasets_))


def planned_fits(report: str, dataset: DatasetEntry, splits: int | None) -> dict[str, int]:
    """The number of fits by method that a report needs on a data set that need not be here."""
    rows: dict[str, set[str]] = {}
    for selection, method in needs_of(registry.get("reports", report)).shots:
        rules = selections_of(registry.get("methods", method), parse_selections(selection))
        rows.setdefault(method, set()).update(rules)
    return {method: len(rules) * (splits or dataset.protocol.splits) for method, rules in rows.items()}


def needs_of(entry: ReportEntry) -> RunNeeds:
    """What a report's entry needs. Raises InputError where it has no pieces."""
    tables = entry.options.get("pieces")
    if not tables:
        raise InputError(
            f"the report {entry.name} is made from whatever results there are: it plans no runs",
            hint="prbench run --methods all --dataset ...",
        )
    where = str(registry.source("reports", entry.name))
    baseline = entry.options.get("baseline", "")
    if not isinstance(baseline, str):
        raise InputError(
            f"{where}: baseline is {baseline!r}, not the name of a method", hint="see `prbench list methods`"
        )
    return needs(read_pieces(tables, where), baseline)


def _groups(wanted: RunNeeds, setting: OpenDataset) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    """Methods by selection and numbers of shots; each under one name of its rule only."""
    most = most_shots(setting)
    left_out = sorted({k for counts in wanted.shots.values() for k in counts if k > most})
    if left_out:
        said = f"{setting.entry.name}: some unseen users have no more than {most} support comparisons"
        stderr().print(escape(f"{said}; shots {', '.join(map(str, left_out))} are left out"), soft_wrap=True)
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    rules: dict[tuple[str, str], set[int]] = {}
    names: dict[tuple[str, str], str] = {}
    for (selection, method), counts in wanted.shots.items():
        [rule] = selections_of(registry.get("methods", method), parse_selections(selection))
        rules.setdefault((rule, method), set()).update(k for k in counts if k <= most)
        names.setdefault((rule, method), selection)
    for row, found in rules.items():
        groups.setdefault((names[row], (ALL_SHOTS, *sorted(found - {ALL_SHOTS}))), []).append(row[1])
    return groups


def most_shots(setting: OpenDataset) -> int:
    """The largest number of support comparisons that every unseen user has in every split."""
    users = setting.data.user
    return min(int(np.unique(users[s.unseen_support], return_counts=True)[1].min()) for s in setting.splits)


def _probes(wanted: RunNeeds, plans: Sequence[Plan], datasets_: Sequence[str]) -> list[ProbeTask]:
    """The probes of the published rows, of cells that are there or are to be made."""
    found = []
    for plan in plans:
        for job in plan.jobs:
            # What is probed is how methods adapt on vectors.
            if job.selection != job.entry.selection or job.skip or job.setting.reader is not None:
                continue
            each = [Probe("noise", noise=share) for share in wanted.noise.get(job.entry.name, ())]
            each += [
                Probe(kind)
                for kind in wanted.tables.get(job.entry.name, ())
                if applies(kind, job.make(), job.setting)
            ]
            each += [Probe(probes.SUPPORT)] if job.entry.name in wanted.support else []
            if job.entry.name in wanted.transfer:
                others = transfer_targets(job.setting.entry, job.setting.encoder.name, datasets_)
                each += [Probe("on", on=name) for name in others]
            found += [
                ProbeTask(cell.folder, cell.record, probe)
                for cell in job.cells
                if cell.state != CellState.skipped
                for probe in each
                if probe.kind not in MAKERS or not cell.record.restart
            ]
    return found


def transfer_targets(entry: DatasetEntry, encoder: str, datasets_: Sequence[str]) -> list[str]:
    """The data sets on which a fit on `entry` is tested too: other people and texts, read by the same encoder.

    They are those of the run, and of the default ones those that come with this encoder anyway: no data set is
    embedded by another encoder only for this.
    """
    return [
        other.name
        for other in registry.load_all("datasets")
        if not other.simulated
        and probe_module.can_transfer(entry.name, encoder, other)
        and (other.name in datasets_ or (other.default and other.encoder == encoder))
    ]


def execute(planned: ReportPlan, *, execution: Execution = HERE) -> int:
    """Make what is missing, cells first, then the probes of finished ones; returns how many failed.

    A failing method or probe is recorded or told, and the others go on.
    """
    failed = 0
    for i, each in enumerate(planned.plans):
        failed += run.execute(each, execution=execution).failed
        settings = [job.setting for job in each.jobs]
        after = [job.setting for job in planned.plans[i + 1].jobs] if i + 1 < len(planned.plans) else []
        for setting in settings:
            if setting not in after:
                setting.forget()
    todo = [task for task in planned.probes if cells.status(task.folder)[0] == CellState.done]
    # The records of cells made just now say more than their plans.
    todo = [ProbeTask(task.folder, cells.read_record(task.folder), task.probe) for task in todo]
    return failed + probe_module.execute(todo, device=planned.plans[0].device, execution=execution)[1]


@dataclass(frozen=True)
class RunNeeds:
    """What a run must make: numbers of shots by (selection, method), and each probe's methods."""

    shots: dict[tuple[str, str], tuple[int, ...]]
    noise: dict[str, tuple[float, ...]]
    support: tuple[str, ...]
    transfer: tuple[str, ...]
    tables: dict[str, tuple[str, ...]]

    def methods(self, selection: str) -> list[str]:
        """The methods to run under a selection."""
        return [method for found, method in self.shots if found == selection]


def needs(pieces: Sequence[Piece], baseline: str = "") -> RunNeeds:
    """What a run must make for `pieces`, and of the method that they compare with: each cell and probe once.

    All the support there is belongs to every row; further numbers of shots only to methods of pieces that ask.
    """
    shots: dict[tuple[str, str], set[int]] = {("published", baseline): set()} if baseline else {}
    for piece in pieces:
        for selection in piece.selections:
            for method in piece.methods:
                shots.setdefault((selection, method), set()).update(piece.shots)
    noise: dict[str, set[float]] = {}
    for piece in pieces:
        for method in piece.methods if piece.noise else ():
            noise.setdefault(method, set()).update(piece.noise)
    tables: dict[str, dict[str, None]] = {}
    for piece in pieces:
        if unknown := [kind for kind in piece.probes if kind not in MAKERS]:
            raise nearest(
                unknown[0], list(MAKERS), noun=f"probe of piece {piece.name}", listing="prbench probe --help"
            )
        for method in piece.methods if piece.probes else ():
            tables.setdefault(method, {}).update(dict.fromkeys(piece.probes))
    return RunNeeds(
        tables={method: tuple(kinds) for method, kinds in tables.items()},
        shots={row: (ALL_SHOTS, *sorted(counts - {ALL_SHOTS})) for row, counts in shots.items()},
        noise={method: tuple(sorted(found)) for method, found in noise.items()},
        support=tuple(dict.fromkeys(method for piece in pieces if piece.support for method in piece.methods)),
        transfer=tuple(dict.fromkeys(method for piece in pieces if piece.transfer for method in piece.methods)),
    )
