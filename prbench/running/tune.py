"""Equal-budget tuning: the same number of trials, on the same held-out choices, for every method.

*Splits.* Tuning splits are drawn by the data set's own protocol, with indices from `TUNING_FROM` on; a run refuses
to report on those. The training side of a tuning split is divided once more: part of each seen user's training
choices and part of each unseen user's support (`validation_share` of the groups, or whole blocks where the
protocol's unit is one) are set aside to judge by. Test rows of a tuning split are used for nothing. Tuning splits
redraw the same users, so a training choice there may be a test choice of a reported split. Only the few tuned numbers
of a [search] pass across, chosen over all tuning splits together, for every method alike.

*Trial.* All tuning splits are fitted together by rule `validation` on what is left, where each method makes the
choices that are its own (when to stop, which strength) on an inner validation part and fits again on both; then
unseen users adapt on their remaining support. The objective is the mean over tuning splits of the mean over all
users, seen and unseen, of the accuracy on the choices set aside: the leaderboard's "overall", on data that no fit
has seen.

*Search.* Trial 0 is the published setting: the entry's parameters under the entry's rule. Where that rule is not
`validation`, trial 1 is the same parameters under `validation`. The others are proposed by optuna's tree-structured
Parzen estimator (Bergstra et al. 2011), which sees all trials so far; each draws from a stream of its own, so that
an interrupted search goes on as if it had not been. The best trial is the tuned setting, the first of equals; it is
never worse than the published one on the choices set aside, which says nothing about the test. A trial that fails
counts, and the estimator is told that it got nothing right; a setting proposed again is not fitted again, and counts
too.
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.markup import escape

import prbench
from prbench import registry
from prbench.base.console import progress, stderr
from prbench.base.errors import InputError
from prbench.base.files import canonical_json, require_writable
from prbench.base.seeds import Rng
from prbench.comparisons import PreferenceData
from prbench.encoders.base import require_device, resolved_device
from prbench.method import Watch
from prbench.protocol import PROTOCOL_VERSION, splits
from prbench.protocol.metrics import user_accuracy
from prbench.protocol.repeats import require_apart
from prbench.protocol.selection import fit_problem, overall_accuracy, test_margins, validation_rows
from prbench.protocol.splits import TUNING_FROM, Split
from prbench.registry import methods as methods_module
from prbench.registry.schema import DatasetEntry, MethodEntry, ProtocolEntry, SearchRange, SelectionRule
from prbench.results.claims import Claims
from prbench.running import tuned
from prbench.running.display import Display
from prbench.running.executors import Local, executor_for
from prbench.running.job import require_rule
from prbench.running.open_dataset import InMemory, OpenDataset, open_dataset
from prbench.running.request import StudyDescription, TuneRequest, registry_words
from prbench.running.tuned import Trial, TuningRecord
from prbench.training.compute import computing

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from rich.progress import Progress, TaskID

    from prbench.base.layout import Sheet


# Proposals are random until there are this many trials.
RANDOM_TRIALS = 10
SAMPLER = f"optuna TPE, random up to trial {RANDOM_TRIALS}"


@dataclass(eq=False)
class Study:
    """The search for one method on one setting, and where its record is."""

    entry: MethodEntry
    setting: OpenDataset
    path: Path
    record: TuningRecord

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"{self.entry.name} on {self.setting.entry.name}"

    def left(self) -> int:
        """The number of trials still to do."""
        return 0 if self.record.finished else self.record.budget - len(self.record.trials)


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


def tuning_splits(data: PreferenceData, protocol: ProtocolEntry, count: int, *, seed: int) -> list[Split]:
    """The first `count` tuning splits; one that divides the choices as an earlier one does is left out, and said.

    Raises InputError as `tuning_split`.
    """
    found: dict[bytes, Split] = {}
    for i in range(count):
        split = tuning_split(data, protocol, index=TUNING_FROM + i, seed=seed)
        found.setdefault(split.same_division(), split)
    if len(found) < count:
        said = f"{data.name}: {count} tuning splits were asked for, and {len(found)} different ones were found"
        stderr().print(escape(f"{said}; each counts once"), soft_wrap=True)
    return list(found.values())


def tuning_split(data: PreferenceData, protocol: ProtocolEntry, *, index: int, seed: int) -> Split:
    """A tuning split: the training side of split `index`, divided once more.

    Its test rows are the choices set aside to judge by; the split's own test rows are in none of its arrays.
    Raises InputError as `make_split`, and where no seen or no unseen user has anything to set aside.
    """
    whole = splits.make_split(data, protocol, index=index, seed=seed)
    rng = Rng(whole.seed, data.name, "tuning", index)
    # Both populations at once: where whole blocks are held out, they are the same blocks for everyone.
    rows = np.concatenate([whole.seen_train, whole.unseen_support])
    kept, aside = splits.hold_out(data, rows, protocol, rng=rng)
    require_apart(data, kept, aside)
    kept_seen, aside_seen = (part[np.isin(data.user[part], whole.seen)] for part in (kept, aside))
    kept_unseen, aside_unseen = (part[np.isin(data.user[part], whole.unseen)] for part in (kept, aside))
    for population, part in (("seen", aside_seen), ("unseen", aside_unseen)):
        if not len(part):
            unit = "blocks" if protocol.unit == "block" else "groups"
            raise InputError(
                f"{data.name}, tuning split {index}: no {population} user has training choices in two {unit}, so "
                "none can be set aside to tune by",
                hint="use users with more comparisons",
            )
    return replace(
        whole, seen_train=kept_seen, seen_test=aside_seen, unseen_support=kept_unseen, unseen_test=aside_unseen
    )


def execute(plan: TuningPlan, *, workers: int = 1) -> None:
    """Do the trials that are missing; every one is on disk before the next begins. Ctrl-C ends the search.

    Programs that tune into one folder, and the processes of several `workers`, share the studies: each is claimed,
    others take the next one.
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
            executor = executor_for(workers, local, [study.setting for study in studies], memory)
            threads = torch.get_num_threads()
            described = [_described(study, plan, threads) for study in studies]
            executor.run(described, _Studies(plan, studies, display, bar))
    finally:
        claims.clear()


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
    same = "tune " + request.model_dump_json(include={"datasets", "encoder", "splits", "seed", "device"})
    if same not in opened:
        opened.clear()
        opened[same] = _open(request.datasets, request.encoder, request.device, request.splits, request.seed)
    studies = _plan(request, opened[same]).studies
    with closing(Claims(request.out).each(studies, name=_work_of, is_open=_is_open)) as mine:
        for study in mine:
            search(study, request.device, watch)


def _described(study: Study, plan: TuningPlan, threads: int) -> StudyDescription:
    names = {"methods": (study.entry.name,), "datasets": (study.setting.entry.name,)}
    request = plan.request.model_copy(update=names)
    return StudyDescription(request=request, registry=registry.used(), threads=threads)


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


def search(study: Study, device: str, watch: Watch) -> None:
    """Do the trials that a study lacks; `watch` hears of shares of them all."""
    method = methods_module.make_method(study.entry, study.setting.entry, {})
    if reason := method.unsupported(study.setting.comparisons()):
        watch(1.0)
        study.record = study.record.model_copy(update={"untuned": reason})
        tuned.write(study.path, study.record)
        stderr().print(escape(f"{study.name} is not tuned: {reason}"), soft_wrap=True)
        return
    for share in [1 / study.left()] * study.left():
        done = 0.0

        def within(part: float, share: float = share) -> None:
            nonlocal done
            done += part
            watch(part * share)

        study.record = study.record.with_trial(_trial(study, device, within))
        watch((1 - done) * share)
        tuned.write(study.path, study.record)


def propose(search: Mapping[str, SearchRange], trials: Sequence[Trial], rng: Rng) -> dict[str, Any]:
    """The next setting to try in the space `search`, after `trials`, by optuna's TPE seeded by `rng`.

    Depends on nothing else, so that a search can stop and go on anywhere.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _distribution(found) for name, found in search.items()}
    sampler = optuna.samplers.TPESampler(seed=rng.seed % 2**32, n_startup_trials=RANDOM_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        point = {name: _coordinate(search[name], trial.params[name]) for name in search}
        # Skip trials outside the search space (the published setting may be) or under another rule.
        if trial.rule == "validation" and all(value is not None for value in point.values()):
            value = trial.objective if trial.objective is not None else 0.0
            study.add_trial(optuna.trial.create_trial(params=point, distributions=space, value=value))
    point = study.ask(space).params
    return {
        name: found.choices[point[name]] if found.choices is not None else point[name]
        for name, found in search.items()
    }


def _distribution(found: SearchRange) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if found.choices is not None:
        # Optuna's own choices may only be plain values; ours may be lists.
        return CategoricalDistribution(range(len(found.choices)))
    assert found.low is not None
    assert found.high is not None
    if found.whole:
        return IntDistribution(int(found.low), int(found.high), log=found.log)
    return FloatDistribution(float(found.low), float(found.high), log=found.log)


def _coordinate(found: SearchRange, value: Any) -> Any:
    """The point of a search space's dimension at a parameter's value, or None where it lies outside."""
    if found.choices is not None:
        plain = [canonical_json(choice) for choice in found.choices]
        return plain.index(canonical_json(value)) if canonical_json(value) in plain else None
    assert found.low is not None
    assert found.high is not None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and found.low <= value <= found.high else None


def _trial(study: Study, device: str, watch: Callable[[float], None]) -> Trial:
    """Do the next trial of a study."""
    record, entry, setting = study.record, study.entry, study.setting
    number = len(record.trials)
    parameters = methods_module.make_method(entry, setting.entry, {}).hyper_parameters
    published = {name: parameters[name] for name in entry.search}
    if number == 0:
        params, rule = published, _published_rule(entry)
    elif number == 1 and _published_rule(entry) != "validation":
        params, rule = published, "validation"
    else:
        rng = Rng("tune", setting.entry.name, setting.encoder.name, entry.name, record.basis.seed, number)
        params, rule = propose(entry.search, record.trials, rng), "validation"
    for other in record.trials:
        if (canonical_json(other.params), other.rule) == (canonical_json(params), rule):
            first = other.number if other.repeats is None else other.repeats
            return other.model_copy(update={"number": number, "repeats": first, "seconds": 0.0})
    start = time.perf_counter()
    try:
        with computing():
            found = _evaluate(study, params, rule, device, watch)
    except InputError:
        raise
    except Exception as error:
        # A setting that cannot be fitted is an answer, not the end of the search.
        found = {"reason": " ".join(f"{type(error).__name__}: {error}".split())}
        where = f"{study.name}, trial {number} ({_shown(params)}) failed"
        stderr().print(f"[red]{escape(where)}[/red]: {escape(found['reason'])}", soft_wrap=True)
    seconds = round(time.perf_counter() - start, 3)
    return Trial(number=number, params=params, rule=rule, seconds=seconds, **found)


def _published_rule(entry: MethodEntry) -> SelectionRule:
    """The entry's rule; `validation` for the rule that looks at test choices, of which tuning has none."""
    return "last" if entry.selection == "last" else "validation"


def _evaluate(
    study: Study, params: dict[str, Any], rule: SelectionRule, device: str, watch: Callable[[float], None]
) -> dict[str, Any]:
    """Fit all tuning splits with `params` and judge them; the fields of a trial."""
    setting, protocol = study.setting, study.setting.entry.protocol
    comparisons = setting.comparisons()
    problems = [fit_problem(rule, setting.data, comparisons, split, protocol) for split in setting.splits]
    methods = [methods_module.make_method(study.entry, setting.entry, params) for _ in setting.splits]
    type(methods[0]).fit_splits(methods, problems, device=device, watch=watch)
    overall, seen, unseen, chosen = [], [], [], []
    for method, split, rng in zip(methods, setting.splits, [p.rng for p in problems], strict=True):
        fit = method.fit_record()
        require_rule(study.entry.name, fit, rule)
        judged = test_margins(method, comparisons, split, rng)
        for population, (margin, _) in zip(("seen", "unseen"), judged, strict=True):
            if not bool(torch.isfinite(margin).all()):
                raise FloatingPointError(
                    f"split {split.index}: {int((~torch.isfinite(margin)).sum())} margins of {population} users are "
                    "not finite"
                )
        overall.append(overall_accuracy(*judged))
        seen.append(user_accuracy(*judged[0]))
        unseen.append(user_accuracy(*judged[1]))
        # As JSON has it: a method may say NumPy's numbers.
        chosen.append(json.loads(canonical_json(fit.get("chosen"))))
    return {
        "objective": float(np.mean(overall)),
        "seen": float(np.mean(seen)),
        "unseen": float(np.mean(unseen)),
        "splits": overall,
        "chosen": chosen,
    }


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


def _shown(params: Mapping[str, Any]) -> str:
    """Parameters on one line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


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
            _shown(found["params"]), remark]  # fmt: skip
