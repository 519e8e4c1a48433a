"""The search for one method on one data set: its trials, and how the next setting is proposed.

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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.markup import escape

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.base.seeds import Rng
from prbench.method import Watch
from prbench.protocol.metrics import user_accuracy
from prbench.protocol.selection import fit_problem, overall_accuracy, test_margins
from prbench.registry import methods as methods_module
from prbench.registry.schema import MethodEntry, SearchRange, SelectionRule
from prbench.running import tuned
from prbench.running.job import require_rule
from prbench.running.open_dataset import OpenDataset
from prbench.running.tuned import Trial, TuningRecord
from prbench.training.compute import computing

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


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
        where = f"{study.name}, trial {number} ({shown(params)}) failed"
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


def shown(params: Mapping[str, Any]) -> str:
    """Parameters on one line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )
