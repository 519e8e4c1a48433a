"""What a run will do: from method and data set names to cells, and how each stands in the results store."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

import prbench
from prbench import data as datasets
from prbench import registry, results, splits, superseded, tunedentries
from prbench.comparisons import Comparisons, IntArray, PreferenceData
from prbench.embedding import embed, encoder_entry_for, plan_embedding
from prbench.encoders import OWN
from prbench.encoders.base import require_device, resolved_device
from prbench.entries import DatasetEntry, EncoderEntry, MethodEntry, Selection, SelectionRule
from prbench.errors import InputError
from prbench.files import digest
from prbench.method import Method
from prbench.results import ALL
from prbench.seeds import Rng
from prbench.selection import held_out, requested
from prbench.sourcecode import code_of
from prbench.splits import Split
from prbench.store import EmbeddingStore
from prbench.training import Precision
from prbench.tunedentries import TunedEntry

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
    store: Path | None
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
            items = replace(items, embedding=floats, identity=rows)
            self._comparisons = self.data.comparisons(items)
        return self._comparisons

    def encoder_fingerprint(self) -> dict[str, Any] | None:
        """What made the embeddings, as their store says; None for data that come with embeddings."""
        return None if self.store is None else EmbeddingStore.open(self.store).encoder

    def forget(self) -> None:
        """Let the embeddings go."""
        self._comparisons = None


@dataclass(eq=False)
class Job:
    """All splits of one method on one setting: they are trained together.

    `selection` is what results call it: its `rule`, or "tuned". `skip` says why there is nothing to run.
    """

    name: str
    entry: MethodEntry
    selection: str
    rule: SelectionRule
    setting: Setting
    make: Callable[[], Method]
    skip: str = ""
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
    precision: Precision = "highest"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "out": str(self.out),
            "device": self.device,
            "precision": self.precision,
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
        return states_table("Plan", self.jobs)


def plan(
    methods: Sequence[str],
    datasets_: Sequence[str],
    *,
    encoder: str | None = None,
    splits: int | None = None,
    seed: int = splits.DEFAULT_SEED,
    shots: Sequence[int] = (ALL,),
    selection: str | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    out: Path = Path("runs"),
    tuned: Path = Path("tuned"),
    precision: Precision = "highest",
    opened: Sequence[Setting] | None = None,
) -> Plan:
    """Resolve names to cells and find out which are done.

    `selection` is a comma-separated list, see `prbench.selection.requested`; tuned parameters are read from the
    folder `tuned`. A `precision` below the highest, see `prbench.training.computing`, makes methods of
    another name. `opened` are these data sets, where they are open already. Loads the data sets and draws the splits,
    embeds nothing and fits nothing. Raises InputError for unknown names, parameters, devices, for shots that users do
    not have, where nothing can be held out to choose by, and for methods that are to run tuned and are not.
    """
    selections = requested(selection)
    device = resolved_device(device)
    require_device(device)
    results.require_this_version(out)
    wanted = list(dict.fromkeys([ALL, *shots]))

    settings = opened or open_settings(datasets_, encoder=encoder, splits=splits, seed=seed, device=device)
    changed = registry.parse_sets(overrides)
    if unused := sorted(set(changed) - set(methods)):
        raise InputError(f"--set {unused[0]}: that method is not run", hint="add it to --methods")
    jobs = []
    for setting in settings:
        for split in setting.splits:
            for k in wanted:
                if k > 0:
                    _ = support_of(setting, split, k)
        found: list[TunedEntry] = []
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
                record = tunedentries.for_run(tuned, setting, entry, PROTOCOL_VERSION, encoder)
                found += [record] if record else []
                jobs.append(_tuned_job(setting, entry, record, wanted, out, precision))
        tunedentries.require_one_budget(found)
        if any(job.setting is setting and job.rule == "validation" and not job.skip for job in jobs):
            for split in setting.splits:
                _ = held_out(setting.data, split, setting.entry.protocol)
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
    words += ["--seed", str(seed), "--shots", ",".join("all" if k == ALL else str(k) for k in shots)]
    words += ["--selection", selection] if selection else []
    words += ["--device", device]
    words += [word for text in overrides for word in ("--set", text)]
    return shlex.join(words)


def support_of(setting: Setting, split: Split, k: int) -> IntArray:
    """The unseen users' support rows at `k` shots, `ALL` for all there are."""
    return split.unseen_support if k == ALL else splits.shots(setting.data, split, k)


def adapt_rng(setting: Setting, split: Split) -> Rng:
    """The stream that adaptation on a split draws from."""
    return Rng(split.seed, setting.data.name, "fit", split.index).child("adapt")


def open_setting(
    name: str, encoder: str | None, device: str, draw: Callable[[PreferenceData, DatasetEntry], list[Split]]
) -> Setting:
    """A data set with its encoder and the splits that `draw` gives; nothing is embedded yet."""
    entry = registry.get("datasets", name)
    data = datasets.load(entry)
    chosen = encoder_entry_for(OWN if data.embedded is not None and encoder is None else encoder or entry.encoder)
    embedding = plan_embedding(data, chosen, family=entry.family, device=device)
    return Setting(entry, chosen, data, embedding.fingerprint, embedding.folder, draw(data, entry), device)


def open_settings(
    names: Sequence[str], *, encoder: str | None, splits: int | None, seed: int, device: str
) -> list[Setting]:
    """The data sets with the splits that results are reported on. Raises InputError as `plan`."""

    def reported(data: PreferenceData, entry: DatasetEntry) -> list[Split]:
        return _reported(data, entry, splits or entry.protocol.splits, seed)

    return [open_setting(name, encoder, device, reported) for name in names]


def _reported(data: PreferenceData, entry: DatasetEntry, count: int, seed: int) -> list[Split]:
    if count > splits.TUNING_FROM:
        raise InputError(
            f"{entry.name}: {count:,} splits reach into those from number {splits.TUNING_FROM:,} on, which are for "
            "tuning and never reported",
            hint=f"--splits {splits.TUNING_FROM} is the most",
        )
    return [splits.make_split(data, entry.protocol, index=i, seed=seed) for i in range(count)]


def _tuned_job(
    setting: Setting,
    entry: MethodEntry,
    record: TunedEntry | None,
    shots: Sequence[int],
    out: Path,
    precision: Precision,
) -> Job:
    trial = record.tuned if record else None
    if record is None or trial is None:
        skip = record.untuned if record else tunedentries.nothing_to_tune(entry)
        return _job(setting, entry, "tuned", entry.selection, {}, shots, out, skip=skip, precision=precision)
    given: dict[str, Any] = {"provenance": record.provenance(), "precision": precision}
    try:
        return _job(setting, entry, "tuned", trial.rule, trial.params, shots, out, **given)
    except InputError as error:
        said = str(error.args[0]).removeprefix(f"--set {entry.name}.")
        message = f"the record of tuning {entry.name} on {setting.entry.name}, trial {trial.number}: {said}"
        raise InputError(message, hint="delete the record and tune again") from error


def _job(
    setting: Setting,
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
) -> Job:
    def make() -> Method:
        return registry.make_method(entry, setting.entry, overrides)

    parameters = make().hyper_parameters
    # A parameter set by hand makes another method: it gets a name of its own and is never averaged with the entry.
    by_hand = {} if selection == "tuned" else overrides
    lowered: dict[str, str] = {} if precision == "highest" else {"precision": precision}
    changes = ",".join(f"{key}={value}" for key, value in sorted({**by_hand, **lowered}.items()))
    name = f"{entry.name}[{changes}]" if changes else entry.name
    job = Job(name, entry, selection, rule, setting, make, skip)
    code = {"code": digits} if (digits := code_of(entry.target)) else {}
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
            "selection": selection,
            "entry": entry.model_dump(),
            **code,
            "params": parameters,
            "data_fingerprint": setting.data.fingerprint,
            "embedding_fingerprint": setting.embedding_fingerprint,
            "protocol": setting.entry.protocol.model_dump(),
            "protocol_version": PROTOCOL_VERSION,
            "simulated": setting.entry.simulated,
            "truth": _truth(setting.data, split),
            "counts": _counts(split),
            "device": _device_name(setting.device),
            "precision": precision,
            "versions": {
                "prbench": prbench.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            **({"tuned": provenance} if provenance else {}),
        }
        folder = results.cell_folder(out, record)
        state, reason = results.status(folder)
        if skip and state == "missing":
            reason = f"will be skipped: {skip}"
        left = [k for k in shots if state == "done" and not results.scores_file(folder, k).is_file()]
        job.cells.append(Cell(record, folder, state, reason, left))
    if not skip and superseded.older(out, job.cells[0].record):
        for cell in (cell for cell in job.cells if cell.state == "missing"):
            cell.reason = superseded.WHY
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


def states_table(title: str, jobs: Sequence[Job]) -> Table:
    """One row per method and data set: how many cells are in which state, and why."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for column in ("data set", "encoder", "method", "chosen by"):
        table.add_column(column)
    for column in ("done", "missing", "failed", "skipped"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for job in jobs:
        states = Counter(cell.state for cell in job.cells)
        shots = sum(bool(cell.shots) for cell in job.cells)
        why = next((cell.reason for cell in job.cells if cell.reason), "")
        row = (
            job.setting.entry.name,
            job.setting.encoder.name,
            job.name,
            job.selection,
            *(str(states[state] or "") for state in ("done", "missing", "failed", "skipped")),
            why or (f"{shots} cells lack some shots" if shots else ""),
        )
        table.add_row(*map(escape, row))
    return table
