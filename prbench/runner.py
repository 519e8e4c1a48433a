"""Plan, run and resume: from method and data set names to cells of the results store."""

from __future__ import annotations

import platform
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import prbench
from prbench import data as datasets
from prbench import registry, results, splits
from prbench.comparisons import Comparisons, IntArray, Items, PreferenceData
from prbench.console import progress, stderr
from prbench.embedding import embed, encoder_entry_for, plan_embedding
from prbench.encoders import OWN
from prbench.encoders.base import require_device, resolved_device
from prbench.entries import DatasetEntry, EncoderEntry, MethodEntry, SelectionRule
from prbench.errors import InputError
from prbench.files import digest
from prbench.method import Method, UserStates
from prbench.results import ALL
from prbench.seeds import Rng
from prbench.selection import problem
from prbench.splits import Split

if TYPE_CHECKING:
    from rich.table import Table

# Raised whenever a change of code changes scores, so that old results are not taken for new ones.
PROTOCOL_VERSION = 1


@dataclass(eq=False)
class Cell:
    """One split of one method on one data set: its record so far, and how it stands.

    `state` is done, missing, failed or skipped; `shots` are the numbers of shots still to be scored.
    """

    record: dict[str, Any]
    folder: Path
    state: str
    reason: str
    shots: list[int]


@dataclass(eq=False)
class Setting:
    """A data set with an encoder, and the splits to run on it."""

    entry: DatasetEntry
    encoder: EncoderEntry
    data: PreferenceData
    embedding_fingerprint: str
    splits: list[Split]
    device: str
    _comparisons: Comparisons | None = None

    @property
    def embedded(self) -> bool:
        """Whether the comparisons are in memory, with embeddings."""
        return self._comparisons is not None

    def comparisons(self) -> Comparisons:
        """The comparisons with their embeddings, made at the first call."""
        if self._comparisons is None:
            items = embed(self.data, self.encoder, family=self.entry.family, device=self.device)
            rows = torch.arange(len(items)) if items.identity is None else items.identity
            floats = items.embedding if items.embedding.dtype == torch.float64 else items.embedding.float()
            items = Items(floats, items.reward, items.head, items.length, rows)
            self._comparisons = self.data.comparisons(items)
        return self._comparisons

    def forget(self) -> None:
        """Let the embeddings go."""
        self._comparisons = None


@dataclass(eq=False)
class Job:
    """All splits of one method on one setting: they are trained together."""

    name: str
    entry: MethodEntry
    selection: SelectionRule
    setting: Setting
    make: Callable[[], Method]
    cells: list[Cell] = field(default_factory=list)

    def open(self) -> list[int]:
        """The positions of the cells that still need work."""
        return [i for i, cell in enumerate(self.cells) if cell.state in ("missing", "failed") or cell.shots]


@dataclass(eq=False)
class Plan:
    """What a run will do, cell by cell."""

    jobs: list[Job]
    out: Path
    shots: list[int]
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "out": str(self.out),
            "device": self.device,
            "shots": ["all" if k == ALL else k for k in self.shots],
            "cells": [
                {
                    **{key: cell.record[key] for key in (*results.COLUMNS, "split", "key")},
                    "status": cell.state,
                    "reason": cell.reason,
                    "folder": str(cell.folder),
                }
                for job in self.jobs
                for cell in job.cells
            ],
        }

    def table(self) -> Table:
        """One row per method and data set: how many cells are done, missing, failed or skipped."""
        return _states_table("Plan", self.jobs)


@dataclass(eq=False)
class Outcome:
    """How a run ended."""

    plan: Plan
    seconds: float

    @property
    def failed(self) -> int:
        """The number of cells that failed."""
        return sum(cell.state == "failed" for job in self.plan.jobs for cell in job.cells)

    def table(self) -> Table:
        """As `Plan.table`, after the run."""
        return _states_table(f"Results in {self.plan.out}, {self.seconds:,.0f} s", self.plan.jobs)


def plan(
    methods: Sequence[str],
    datasets_: Sequence[str],
    *,
    encoder: str | None = None,
    splits: int | None = None,
    seed: int = splits.DEFAULT_SEED,
    shots: Sequence[int] = (ALL,),
    selection: SelectionRule | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    out: Path = Path("runs"),
) -> Plan:
    """Resolve names to cells and find out which are done.

    Loads the data sets and draws the splits, embeds nothing and fits nothing. Raises InputError for unknown names,
    parameters, devices, and for shots that users do not have.
    """
    device = resolved_device(device)
    require_device(device)
    wanted = list(dict.fromkeys([ALL, *shots]))
    settings = [_setting(name, encoder, splits, seed, device) for name in datasets_]
    changed = registry.parse_sets(overrides)
    if unused := sorted(set(changed) - set(methods)):
        raise InputError(f"--set {unused[0]}: that method is not run", hint="add it to --methods")
    jobs = []
    for setting in settings:
        for split in setting.splits:
            for k in wanted:
                if k > 0:
                    _ = _shots(setting, split, k)
        for name in methods:
            entry = registry.get("methods", name)
            jobs.append(_job(setting, entry, selection or entry.selection, changed.get(name, {}), wanted, out))
    return Plan(jobs, out, wanted, device)


def execute(plan: Plan) -> Outcome:
    """Do what is missing. A failing method is recorded and the others go on; Ctrl-C ends the run.

    All splits of a method are trained together and written when they are all scored, so an interruption loses at
    most the method in progress.
    """
    start = time.perf_counter()
    total = sum(len(job.cells) for job in plan.jobs)
    with progress() as display:
        bar = display.add_task("", total=total)
        previous: Setting | None = None
        for job in plan.jobs:
            open_cells = job.open()
            display.advance(bar, len(job.cells) - len(open_cells))
            if not open_cells:
                continue
            if previous is not None and previous is not job.setting:
                previous.forget()
            previous = job.setting
            name = f"{job.name} on {job.setting.entry.name}"
            display.update(bar, description=f"{name}: embedding" if not job.setting.embedded else name)
            if not job.setting.embedded:
                # The embedding stage has a progress bar of its own.
                display.stop()
                job.setting.comparisons()
                display.start()
            display.update(bar, description=name)

            def watch(share: float, cells: int = len(open_cells)) -> None:
                display.advance(bar, share * cells)

            _run(job, plan, watch)
    return Outcome(plan, time.perf_counter() - start)


def _run(job: Job, plan: Plan, watch: Callable[[float], None]) -> None:
    comparisons = job.setting.comparisons()
    reason = job.make().unsupported(comparisons)
    if reason is not None:
        for cell in job.cells:
            results.write_undone(plan.out, cell.record, "skipped", reason)
            cell.state, cell.reason = "skipped", reason
        stderr().print(f"{job.name} is skipped on {job.setting.entry.name}: {reason}")
        watch(1.0)
        return
    missing = [i for i, cell in enumerate(job.cells) if cell.state != "done"]
    try:
        for i in set(job.open()) - set(missing):
            _add_shots(job, i, plan)
        if missing:
            _fit_and_score(job, missing, plan, watch)
    except InputError:
        raise
    except Exception as error:
        # One method's failure must not cost the others' results; it is recorded, and retried by the next run.
        message = f"{type(error).__name__}: {error}"
        for i in missing:
            cell = job.cells[i]
            record = {**cell.record, "traceback": traceback.format_exc()}
            results.write_undone(plan.out, record, "failed", message)
            cell.state, cell.reason = "failed", message
        stderr().print(f"[red]{job.name} failed on {job.setting.entry.name}[/red]: {message}", markup=True)


def _fit_and_score(job: Job, missing: Sequence[int], plan: Plan, watch: Callable[[float], None]) -> None:
    setting = job.setting
    comparisons = setting.comparisons()
    # Every split is trained, also those already stored: what shares a batch with what is then always the same,
    # and a resumed run gives the same numbers as an uninterrupted one.
    entry = setting.entry
    problems = [problem(job.selection, setting.data, comparisons, s, entry.protocol) for s in setting.splits]
    methods = [job.make() for _ in setting.splits]
    cuda = plan.device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    type(methods[0]).fit_splits(methods, problems, device=plan.device, watch=watch)
    seconds = time.perf_counter() - start
    for i in missing:
        cell, method, split = job.cells[i], methods[i], setting.splits[i]
        scores, spent = _score(method, setting, split, plan.shots)
        peak = torch.cuda.max_memory_allocated() if cuda else _peak_memory()
        count = method.parameter_count()
        record = {
            **cell.record,
            "seconds": {"fit": seconds / len(methods), **spent},
            "trained_together": len(methods),
            "peak_memory_mb": round(peak / 2**20, 1),
            "parameters": {"shared": count.shared, "per_user": count.per_user},
            "fit": method.fit_record(),
        }
        results.write_done(plan.out, record, method, scores)
        cell.state, cell.reason, cell.shots, cell.record = "done", "", [], record


def _add_shots(job: Job, i: int, plan: Plan) -> None:
    """Adapt a stored method on further numbers of shots."""
    cell, setting = job.cells[i], job.setting
    method = job.make().load(cell.folder / "model.safetensors")
    split = setting.splits[i]
    for shots in cell.shots:
        results.write_scores(results.scores_file(cell.folder, shots), _unseen(method, setting, split, shots)[0])
    cell.shots = []


def _score(
    method: Method, setting: Setting, split: Split, shots: Sequence[int]
) -> tuple[dict[int, dict[str, Any]], dict[str, float]]:
    comparisons = setting.comparisons()
    test = comparisons.take(split.seen_test)
    start = time.perf_counter()
    features = method.features_of(test)
    margin = method.margins(method.seen_users(), test, features)
    scoring = time.perf_counter() - start
    cold = method.margins(
        method.cold_start(split.seen, comparisons.items, rng=_adapt_rng(setting, split)), test, features
    )
    seen = _columns("seen", test, margin, cold)
    scores, adapting = {}, 0.0
    for k in shots:
        columns, spent = _unseen(method, setting, split, k)
        if k == ALL:
            adapting = spent
            columns = {name: np.concatenate([seen[name], columns[name]]) for name in columns}
        scores[k] = columns
    return scores, {"adapt": adapting, "score": scoring}


def _unseen(method: Method, setting: Setting, split: Split, shots: int) -> tuple[dict[str, Any], float]:
    comparisons = setting.comparisons()
    test = comparisons.take(split.unseen_test)
    rng = _adapt_rng(setting, split)
    support = comparisons.take(_shots(setting, split, shots))
    start = time.perf_counter()
    states: UserStates = method.adapt_unseen(support, users=split.unseen, rng=rng)
    spent = time.perf_counter() - start
    features = method.features_of(test)
    margin = method.margins(states, test, features)
    cold = method.margins(method.cold_start(split.unseen, comparisons.items, rng=rng), test, features)
    return _columns("unseen", test, margin, cold), spent


def _columns(population: str, test: Comparisons, margin: torch.Tensor, cold: torch.Tensor) -> dict[str, Any]:
    for name, values in (("margin", margin), ("cold-start margin", cold)):
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError(
                f"{int((~torch.isfinite(values)).sum())} {name}s of {population} users are not finite"
            )
    return {
        "population": np.full(len(test), population),
        "user": test.user.astype(np.int32),
        "comparison": test.row,
        "margin": margin.float().numpy(),
        "cold_margin": cold.float().numpy(),
    }


def _adapt_rng(setting: Setting, split: Split) -> Rng:
    return Rng(split.seed, setting.data.name, "fit", split.index).child("adapt")


def _shots(setting: Setting, split: Split, k: int) -> IntArray:
    return split.unseen_support if k == ALL else splits.shots(setting.data, split, k)


def _setting(name: str, encoder: str | None, count: int | None, seed: int, device: str) -> Setting:
    entry = registry.get("datasets", name)
    data = datasets.load(entry)
    chosen = encoder_entry_for(OWN if data.embedded is not None and encoder is None else encoder or entry.encoder)
    fingerprint = plan_embedding(data, chosen, family=entry.family, device=device).fingerprint
    drawn = [
        splits.make_split(data, entry.protocol, index=i, seed=seed) for i in range(count or entry.protocol.splits)
    ]
    return Setting(entry, chosen, data, fingerprint, drawn, device)


def _job(
    setting: Setting,
    entry: MethodEntry,
    selection: SelectionRule,
    overrides: dict[str, Any],
    shots: Sequence[int],
    out: Path,
) -> Job:
    def make() -> Method:
        return registry.make_method(entry, setting.entry, overrides)

    parameters = make().hyper_parameters
    # A parameter set by hand makes another method: it gets a name of its own and is never averaged with the entry.
    changes = ",".join(f"{key}={value}" for key, value in sorted(overrides.items()))
    name = f"{entry.name}[{changes}]" if changes else entry.name
    job = Job(name, entry, selection, setting, make)
    for split in setting.splits:
        changes_scores = {
            "format": results.FORMAT,
            "protocol_version": PROTOCOL_VERSION,
            "data": setting.data.fingerprint,
            "embedding": setting.embedding_fingerprint,
            "protocol": setting.entry.protocol.model_dump(exclude={"splits"}),
            "split": split.index,
            "seed": split.seed,
            "target": entry.target,
            "params": parameters,
            "selection": selection,
        }
        record = {
            "key": digest(changes_scores, length=12),
            "dataset": setting.entry.name,
            "encoder": setting.encoder.name,
            "method": name,
            "title": f"{entry.title} ({changes})" if changes else entry.title,
            "split": split.index,
            "seed": split.seed,
            "selection": selection,
            "entry": entry.model_dump(),
            "params": parameters,
            "data_fingerprint": setting.data.fingerprint,
            "embedding_fingerprint": setting.embedding_fingerprint,
            "protocol": setting.entry.protocol.model_dump(),
            "protocol_version": PROTOCOL_VERSION,
            "simulated": setting.entry.simulated,
            "truth": _truth(setting.data, split),
            "counts": _counts(split),
            "device": _device_name(setting.device),
            "versions": {
                "prbench": prbench.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }
        folder = results.cell_folder(out, record)
        state, reason = results.status(folder)
        left = [k for k in shots if state == "done" and not results.scores_file(folder, k).is_file()]
        job.cells.append(Cell(record, folder, state, reason, left))
    return job


def _counts(split: Split) -> dict[str, int]:
    return {
        "seen_users": len(split.seen),
        "unseen_users": len(split.unseen),
        "seen_train": len(split.seen_train),
        "seen_test": len(split.seen_test),
        "unseen_support": len(split.unseen_support),
        "unseen_test": len(split.unseen_test),
        **{f"dropped_{name}": count for name, count in split.dropped.items()},
    }


def _truth(data: PreferenceData, split: Split) -> dict[str, dict[str, float]] | None:
    """Mean ceiling and floor of the split's users, where they are simulated."""
    if data.truth is None:
        return None
    populations = {"seen": split.seen, "unseen": split.unseen, "overall": np.concatenate([split.seen, split.unseen])}
    bounds = {"ceiling": data.truth.ceiling, "floor": data.truth.floor}
    return {
        population: {name: float(values[users].mean()) for name, values in bounds.items()}
        for population, users in populations.items()
    }


def _device_name(device: str) -> str:
    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    )


def _peak_memory() -> int:
    """The most memory this process has held, in bytes (Linux counts kibibytes, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _states_table(title: str, jobs: Sequence[Job]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("data set", "encoder", "method", "chosen by"):
        table.add_column(column)
    for column in ("done", "missing", "failed", "skipped"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for job in jobs:
        states = Counter(cell.state for cell in job.cells)
        shots = sum(bool(cell.shots) for cell in job.cells)
        why = next((cell.reason for cell in job.cells if cell.reason), "")
        table.add_row(
            job.setting.entry.name,
            job.setting.encoder.name,
            job.name,
            job.selection,
            *(str(states[state] or "") for state in ("done", "missing", "failed", "skipped")),
            why or (f"{shots} cells lack some shots" if shots else ""),
        )
    return table
