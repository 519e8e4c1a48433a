"""Equal-budget tuning: the same number of trials, on the same held-out choices, for every method.

The tuning splits are those of `prbench.running.tuning_splits`; what a trial is and how settings are proposed,
`prbench.running.study` says. Here a command's searches are planned, shared among processes and told of.
"""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import prbench
from prbench import registry
from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.base.files import canonical_json, require_writable
from prbench.comparisons import PreferenceData
from prbench.encoders.base import require_device, resolved_device
from prbench.method import Watch
from prbench.protocol import PROTOCOL_VERSION, splits
from prbench.protocol.selection import validation_rows
from prbench.protocol.splits import TUNING_FROM, Split
from prbench.registry import methods as methods_module
from prbench.registry.code_hash import code_of
from prbench.registry.schema import DatasetEntry, MethodEntry
from prbench.results.claims import Claims
from prbench.running import tuned
from prbench.running.display import Display
from prbench.running.execution import HERE, Execution
from prbench.running.executors import Local, Work, executor_for
from prbench.running.needs import Needs, fit_needs
from prbench.running.open_dataset import InMemory, OpenDataset, open_dataset
from prbench.running.request import StudyDescription, TuneRequest, registry_words
from prbench.running.study import SAMPLER, Study, search, shown
from prbench.running.tuned import TuningRecord
from prbench.running.tuning_splits import tuning_splits

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from prbench.base.layout import Sheet


@dataclass(eq=False)
class TuningPlan:
    """Every search that one command asks for."""

    studies: list[Study]
    request: TuneRequest
    lost: int = 0

    @property
    def out(self) -> Path:
        """The folder of the records."""
        return self.request.out

    @property
    def device(self) -> str:
        """Where to compute."""
        return self.request.device

    @property
    def trials(self) -> int:
        """The budget of every method."""
        return self.request.trials

    @property
    def failed(self) -> int:
        """The number of methods of which every trial failed, and of those whose process died."""
        none = sum(s.record.finished and not s.record.untuned and s.record.tuned is None for s in self.studies)
        return none + self.lost

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {"out": str(self.out), "device": self.device, "trials": self.trials,
                "studies": [_summary(study) for study in self.studies]}  # fmt: skip

    def table(self) -> Sheet:
        """One row per method and data set: trials, and the published and the tuned setting's accuracy."""
        from prbench.base.layout import Sheet

        header = ("method", "data set", "encoder", "trials", "failed", "published %", "tuned %", "tuned parameters")
        return Sheet(
            title=f"Tuning in {self.out}",
            header=(*header, "remark"),
            rows=[_line(study) for study in self.studies],
            caption="User accuracy on choices set aside from the training side of tuning splits; tuned is the best "
            "of all trials, so it flatters.",
            right=frozenset(range(3, 7)),
            prose=frozenset({7, 8}),
            order=(6, 5, 3, 1, 8, 4, 7, 2),
            needed=4,
            whole=True,
            elsewhere="--json",
        )


def plan(
    methods: Sequence[str],
    datasets: Sequence[str],
    *,
    trials: int,
    splits_: int = 3,
    encoder: str | None = None,
    seed: int = splits.DEFAULT_SEED,
    device: str = "auto",
    out: Path = Path("tuned"),
) -> TuningPlan:
    """Resolve names to searches and find out how far each has come.

    Loads the data sets and draws the tuning splits; embeds and fits nothing. Raises InputError for unknown names, for
    a [search] that its method cannot take, where nothing can be set aside, and for records in `out` that rest on
    something else or hold more trials already.
    """
    if splits_ > TUNING_FROM:
        raise InputError(f"--splits {splits_:,}: {TUNING_FROM:,} tuning splits are the most")
    device = resolved_device(device)
    require_device(device)
    request = TuneRequest(
        methods=tuple(methods),
        datasets=tuple(datasets),
        trials=trials,
        splits=splits_,
        encoder=encoder,
        seed=seed,
        device=device,
        out=out,
    )
    return _plan(request, _open(datasets, encoder, device, splits_, seed))


def _open(datasets: Sequence[str], encoder: str | None, device: str, count: int, seed: int) -> list[OpenDataset]:
    """The data sets with their tuning splits."""

    def draw(data: PreferenceData, entry: DatasetEntry) -> list[Split]:
        return tuning_splits(data, entry.protocol, count, seed=seed)

    return [open_dataset(name, encoder, device, draw) for name in datasets]


def _plan(request: TuneRequest, settings: Sequence[OpenDataset]) -> TuningPlan:
    """The searches on open data sets, as far as each has come."""
    studies = []
    for setting in settings:
        for split in setting.splits:
            _ = validation_rows(setting.data, split, setting.entry.protocol)
        for name in request.methods:
            entry = registry.get("methods", name)
            _require_search(entry, setting.entry)
            study = _study(setting, entry, request.trials, request.seed, request.out, request.encoder)
            study.record = study.record.model_copy(update={"command": _command(request, name, setting.entry.name)})
            studies.append(study)
    return TuningPlan(studies, request)


def _command(request: TuneRequest, method: str, dataset: str) -> str:
    """The command line that makes one search's record, whatever was searched beside it."""
    words = ["prbench", *registry_words(), "tune", "--methods", method, "--dataset", dataset]
    words += ["--encoder", request.encoder.partition("=")[0]] if request.encoder else []
    words += ["--trials", str(request.trials), "--splits", str(request.splits), "--seed", str(request.seed)]
    return shlex.join(words)


def execute(plan: TuningPlan, *, execution: Execution = HERE) -> None:
    """Do the trials that are missing; every one is on disk before the next begins. Ctrl-C ends the search.

    Programs that tune into one folder, the processes of several workers and a cluster's jobs, as `execution` says,
    share the studies: each is claimed, others take the next one.
    """
    if any(study.left() for study in plan.studies):
        require_writable(plan.out)
    studies = [study for study in plan.studies if study.left()]
    claims = Claims(plan.out)
    try:
        with progress() as display:
            budgets = sum(study.record.budget for study in plan.studies)
            bar = display.add_task("", total=budgets, completed=budgets - sum(study.left() for study in studies))
            memory = InMemory(display, claims)
            local = Local(_one_by_one(studies, plan, memory, claims))
            work = Work([study.setting for study in studies], partial(_needs, studies), plan.out)
            executor = executor_for(execution, local, work, memory)
            described = [_described(study, plan, execution.job_threads) for study in studies]
            executor.run(described, _Studies(plan, studies, display, bar))
    finally:
        claims.clear()


def _needs(studies: Sequence[Study], execution: Execution) -> list[Needs]:
    return [
        fit_needs(
            methods_module.make_method(study.entry, study.setting.entry, {}),
            study.entry.name,
            study.setting,
            execution,
            fits=study.left(),
        )
        for study in studies
    ]


def _one_by_one(
    studies: Sequence[Study], plan: TuningPlan, memory: InMemory, claims: Claims
) -> Generator[tuple[int, Callable[[Watch], None]]]:
    """Each study as its turn comes, in this process."""
    numbers = {id(study): number for number, study in enumerate(studies)}
    with closing(claims.each(studies, name=_work_of, is_open=_is_open)) as mine:
        for study in mine:
            memory.take(study.setting)
            yield numbers[id(study)], partial(search, study, plan.device)


def perform(description: StudyDescription, watch: Watch, opened: dict[str, list[OpenDataset]]) -> None:
    """Do a described search; its record is on disk. `opened` keeps the data set of the last one, for the next."""
    request = description.request
    same = opened_as(description)
    if same not in opened:
        opened.clear()
        opened[same] = _open(request.datasets, request.encoder, request.device, request.splits, request.seed)
    studies = _plan(request, opened[same]).studies
    for study in studies:
        study.record = study.record.model_copy(update={"command": description.command or study.record.command})
    with closing(Claims(request.out, description.lost).each(studies, name=_work_of, is_open=_is_open)) as mine:
        for study in mine:
            search(study, request.device, watch)


def opened_as(description: StudyDescription) -> str:
    """What searches have in common that are done on the same open data set."""
    alike = {"datasets", "encoder", "splits", "seed", "device"}
    return "tune " + description.request.model_dump_json(include=alike)


def _described(study: Study, plan: TuningPlan, threads: int) -> StudyDescription:
    names = {"methods": (study.entry.name,), "datasets": (study.setting.entry.name,)}
    code = code_of(study.entry.target)
    return StudyDescription(
        request=plan.request.model_copy(update=names),
        registry=registry.used(),
        threads=threads,
        title=f"tuning {study.name}",
        work=_work_of(study),
        code={study.entry.target: code} if code else {},
        command=study.record.command,
    )


class _Studies(Display):
    """The display of a search, which takes over the records that the jobs wrote."""

    def __init__(self, plan: TuningPlan, studies: Sequence[Study], display: Progress, bar: TaskID) -> None:
        super().__init__([study.name for study in studies], [study.left() for study in studies], display, bar)
        self._plan, self._studies = plan, studies

    def end(self, job: int, outcome: None) -> None:
        study = self._studies[job]
        study.record = tuned.read(study.path)
        super().end(job, outcome)

    def lose(self, job: int, reason: str) -> None:
        """What was tried before stays on disk."""
        self._plan.lost += 1
        study = self._studies[job]
        study.record = tuned.read(study.path) if study.path.is_file() else study.record
        super().lose(job, reason)


def _work_of(study: Study) -> str:
    """The name under which programs claim a study."""
    record = study.record
    return canonical_json(["tune", record.dataset, record.encoder, record.method])


def _is_open(study: Study) -> bool:
    """Whether a claimed study has trials left, after those that other programs have done since it was planned."""
    if study.path.is_file():
        found = tuned.read(study.path)
        tuned.require_basis(found, study.record.basis, study.path, hint="tune into another folder with --out")
        budget = max(study.record.budget, len(found.trials))
        study.record = found.model_copy(
            update={"budget": budget, "untuned": study.record.untuned, "command": study.record.command}
        )
    return study.left() > 0


def _study(setting: OpenDataset, entry: MethodEntry, trials: int, seed: int, out: Path, encoder: str | None) -> Study:
    """A study with its record as it is on disk, or with a new one."""
    import optuna

    path = tuned.record_file(out, setting.entry.name, setting.encoder.name, entry.name)
    basis = tuned.basis(setting, entry, seed, PROTOCOL_VERSION)
    versions = {
        "prbench": prbench.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "optuna": optuna.__version__,
    }
    record = TuningRecord(
        method=entry.name,
        dataset=setting.entry.name,
        encoder=setting.encoder.name,
        basis=basis,
        sampler=SAMPLER,
        budget=trials,
        untuned=tuned.nothing_to_tune(entry),
        versions=versions,
    )
    if not path.is_file():
        return Study(entry, setting, path, record)
    found = tuned.read(path)
    tuned.require_basis(found, basis, path, hint="delete it, or tune into another folder with --out")
    if len(found.trials) > trials:
        raise InputError(
            f"{path} holds {len(found.trials)} trials already, --trials asks for {trials}",
            hint=f"ask for {len(found.trials)} or more, or tune into another folder with --out",
        )
    # What cannot be tuned is found out anew: it costs nothing, and the reason may have gone.
    untuned = "" if found.untuned and not record.untuned else record.untuned
    return Study(entry, setting, path, found.model_copy(update={"budget": trials, "untuned": untuned}))


def _require_search(entry: MethodEntry, dataset: DatasetEntry) -> None:
    """Raise InputError where a value of the search space is none that the method takes."""
    for name, found in entry.search.items():
        for value in found.choices if found.choices is not None else (found.low, found.high):
            try:
                methods_module.make_method(entry, dataset, {name: value})
            except InputError as error:
                said = str(error.args[0]).removeprefix(f"--set {entry.name}.{name}: ")
                file = registry.source("methods", entry.name)
                raise InputError(f"{file}: search.{name}: {said}", hint=error.hint) from error


def _summary(study: Study) -> dict[str, Any]:
    record = study.record
    best, published = record.tuned, record.published
    return {
        "dataset": record.dataset,
        "encoder": record.encoder,
        "method": record.method,
        "file": str(study.path),
        "trials": len(record.trials),
        "budget": record.budget,
        "failed": record.failed,
        "untuned": record.untuned,
        "published": published.objective if published else None,
        "tuned": best.objective if best else None,
        "best": record.best,
        "params": best.params if best else {},
        "rule": best.rule if best else None,
        "seconds": round(math.fsum(trial.seconds for trial in record.trials), 1),
    }


def _line(study: Study) -> list[str]:
    found, record = _summary(study), study.record
    values = ["" if found[key] is None else f"{100 * found[key]:.2f}" for key in ("published", "tuned")]
    remark = record.untuned
    if not remark and record.trials and record.tuned is None:
        remark = f"every trial failed: {record.trials[0].reason}"
    elif not remark and record.without_effect:
        remark = "every setting scored the same: its [search] has no effect under rule validation"
    elif not remark and record.best == 0:
        remark = "the published setting is the best"
    elif not remark and found["rule"] not in (None, record.basis.rule):
        remark = f"chosen by {found['rule']}, published: {record.basis.rule}"
    trials = "" if record.untuned else f"{found['trials']}/{found['budget']}"
    return [found["method"], found["dataset"], found["encoder"], trials, str(found["failed"] or ""), *values,
            shown(found["params"]), remark]  # fmt: skip
