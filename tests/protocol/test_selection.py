"""Rules for choosing epochs and strengths: each does what its name says, by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted_methods
import pytest
import torch
from small_runs import registry_folder

from prbench import data as datasets
from prbench import registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items, PreferenceData, concatenate
from prbench.method import FitProblem, Method
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.lore import LoRe
from prbench.methods.mrm import MRM
from prbench.methods.reference import Reference
from prbench.protocol import selection, splits
from prbench.protocol.splits import Split
from prbench.registry.schema import ProtocolEntry, SelectionRule
from prbench.training.gradient import candidates


@pytest.fixture
def tiny(prbench_home: Path, tmp_path: Path) -> Iterator[PreferenceData]:
    """A small data set in which every item is on one side of a split only."""
    registry.reset()
    registry.use([registry_folder(tmp_path / "registry")])
    yield datasets.load(registry.get("datasets", "own-prompts"))
    registry.reset()


PROTOCOL = ProtocolEntry()


def parts(data: PreferenceData) -> tuple[Comparisons, Split]:
    assert data.embedded is not None
    identity = torch.arange(data.n_items)
    comparisons = data.comparisons(replace(data.embedded, identity=identity))
    return comparisons, splits.make_split(data, PROTOCOL, index=0)


def problem(rule: SelectionRule, data: PreferenceData) -> FitProblem:
    comparisons, split = parts(data)
    return selection.fit_problem(rule, data, comparisons, split, PROTOCOL)


def accuracy(margin: torch.Tensor, user: np.ndarray[Any, Any]) -> float:
    """Mean over users of the share of positive margins, a tie one half."""
    right = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margin.tolist()]
    per_user = [np.mean([r for r, u in zip(right, user, strict=True) if u == number]) for number in np.unique(user)]
    return float(np.mean(per_user))


def fit(method: Method, *problems: FitProblem) -> Method:
    type(method).fit_splits([method], list(problems))
    return method


def test_last_trains_on_everything_and_holds_nothing_out(tiny: PreferenceData) -> None:
    _, split = parts(tiny)
    last = problem("last", tiny)
    assert last.train.row.tolist() == split.seen_train.tolist()
    assert len(last.validation) == 0
    assert last.choose is None


def test_validation_divides_the_train_rows_alone(tiny: PreferenceData) -> None:
    _, split = parts(tiny)
    given = problem("validation", tiny)
    assert sorted([*given.train.row, *given.validation.row]) == sorted(split.seen_train)
    assert given.choose is None
    assert given.train.users.tolist() == split.seen.tolist()
    assert 0.1 < len(given.validation) / len(split.seen_train) < 0.4
    for user in split.seen:
        groups = set(given.train.of(user).group)
        assert not groups & set(given.validation.of(user).group)


def test_every_method_gets_the_same_rows_and_every_split_its_own(tiny: PreferenceData) -> None:
    comparisons, split = parts(tiny)
    rows = [
        selection.fit_problem("validation", tiny, comparisons, split, PROTOCOL).validation.row.tolist()
        for _ in range(2)
    ]
    assert rows[0] == rows[1]
    assert selection.validation_rows(tiny, split, PROTOCOL)[1].tolist() == rows[0]
    moved = replace(split, seed=split.seed + 1)
    assert selection.validation_rows(tiny, moved, PROTOCOL)[1].tolist() != rows[0]


def test_validation_stops_lore_where_the_held_out_choices_say_and_fits_again(tiny: PreferenceData) -> None:
    """The held-out choices are what LoRe itself prefers after some of its steps, so that there is where it stops.

    A fit of fewer steps is the beginning of a longer one, to the bit: both take the same steps on the same rows.
    """
    given = problem("validation", tiny)
    right = next(steps for steps in candidates(200) if 20 <= steps <= 60)

    def trained(steps: int, train: Comparisons) -> LoRe:
        method = LoRe(bases=3, steps=steps, rate=0.05, divisor=1.0)
        fit(method, FitProblem(train, train.take([]), given.rng))
        return method

    model = trained(right, given.train)
    against = (model.margins(model.seen_users(), given.validation) < 0).numpy()
    held = replace(
        given.validation,
        chosen=np.where(against, given.validation.rejected, given.validation.chosen),
        rejected=np.where(against, given.validation.chosen, given.validation.rejected),
    )
    method = LoRe(bases=3, steps=200, rate=0.05, divisor=1.0)
    fit(method, replace(given, validation=held))
    # By hand: a fit of every length on the fit rows, judged on the validation rows.
    trials = {steps: trained(steps, given.train) for steps in candidates(200)}
    curve = {steps: accuracy(trial.margins(trial.seen_users(), held), held.user) for steps, trial in trials.items()}
    chosen = max(curve, key=lambda steps: (curve[steps], -steps))
    assert curve[right] == 1 > curve[1]
    record = method.fit_record()
    assert record["curve"] == pytest.approx({str(steps): value for steps, value in curve.items()})
    assert record["chosen"] == chosen
    assert record["rule"] == "validation"
    assert 1 < chosen <= right < 200
    again = trained(chosen, concatenate([given.train, held]))
    torch.testing.assert_close(method.bases_matrix, again.bases_matrix, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        method.seen_users().tensors["weight"], again.seen_users().tensors["weight"], atol=1e-5, rtol=1e-5
    )


def minimiser(train: Comparisons, strength: float) -> torch.Tensor:
    """Ridge Bradley–Terry's v at one strength, without any choosing."""
    method = BTRidge(strength=strength).fit_seen(train, train.take([]), rng=Rng("unused"))
    return method.learned()["direction"]


def test_validation_chooses_bt_ridges_strength_and_fits_again(tiny: PreferenceData) -> None:
    given = problem("validation", tiny)
    strengths = (1.0, 0.1, 0.01, 0.001)
    method = BTRidge(strengths=strengths)
    fit(method, given)
    by_hand = {}
    for strength in strengths:
        direction = minimiser(given.train, strength)
        by_hand[str(strength)] = accuracy(given.validation.differences() @ direction, given.validation.user)
    record = method.fit_record()
    assert record["curve"] == pytest.approx(by_hand)
    # Of equals the strongest penalty.
    chosen = next(s for s in strengths if by_hand[str(s)] == max(by_hand.values()))
    assert (record["rule"], record["chosen"]) == ("validation", chosen)
    expected = minimiser(concatenate([given.train, given.validation]), chosen)
    torch.testing.assert_close(method.learned()["direction"], expected, atol=1e-4, rtol=1e-3)


def test_last_trains_the_whole_budget(tiny: PreferenceData) -> None:
    given = problem("last", tiny)
    lore, ridge = fit(LoRe(bases=2, steps=25), given), fit(BTRidge(strength=0.3), given)
    assert lore.fit_record() == {"rule": "last", "chosen": 25, "independent_of_batch": True}
    assert ridge.fit_record() == {"rule": "last", "chosen": 0.3}


@pytest.mark.parametrize("method", [LoRe(bases=2, steps=40, divisor=1.0), MRM(epochs=6, rate=0.05)])
def test_the_test_oracle_keeps_the_candidate_that_is_best_on_test(tiny: PreferenceData, method: LoRe | MRM) -> None:
    comparisons, split = parts(tiny)
    given = problem("test-oracle", tiny)
    assert given.train.row.tolist() == split.seen_train.tolist()
    fit(method, given)
    record = method.fit_record()
    assert record["rule"] == "test-oracle"
    assert record["curve"][str(record["chosen"])] == max(record["curve"].values())
    judged = len(method.strengths) if isinstance(method, BTRidge) else len(candidates(method.budget))
    assert len(record["curve"]) == judged
    assert len(set(record["curve"].values())) > 1
    # The kept candidate's accuracy over all test users, by hand, is what the curve says.
    seen, unseen = comparisons.take(split.seen_test), comparisons.take(split.unseen_test)
    support = comparisons.take(split.unseen_support)
    states = method.adapt_unseen(support, users=split.unseen, rng=given.rng.child("adapt"))
    margins = torch.cat([method.margins(method.seen_users(), seen), method.margins(states, unseen)])
    user = np.concatenate([seen.user, unseen.user])
    assert accuracy(margins, user) == pytest.approx(max(record["curve"].values()))


def poisoned(comparisons: Comparisons, rows: np.ndarray[Any, Any]) -> Comparisons:
    items = comparisons.items
    some = comparisons.take(rows)
    embedding = items.embedding.clone()
    embedding[torch.from_numpy(np.concatenate([some.chosen, some.rejected]))] = torch.nan
    return replace(comparisons, items=Items(embedding, items.reward, items.head, items.length, items.identity))


@pytest.mark.parametrize("rule", ["last", "validation", "test-oracle"])
@pytest.mark.parametrize("method", [LoRe(bases=2, steps=10), MRM(epochs=3)])
def test_only_the_test_oracle_reads_test_rows(tiny: PreferenceData, method: LoRe | MRM, rule: SelectionRule) -> None:
    """The same computation on the same numbers, twice in one process: test rows would be the only difference."""
    comparisons, split = parts(tiny)
    test = np.concatenate([split.seen_test, split.unseen_test])
    clean = fit(method.fresh(), selection.fit_problem(rule, tiny, comparisons, split, PROTOCOL))
    other = fit(method.fresh(), selection.fit_problem(rule, tiny, poisoned(comparisons, test), split, PROTOCOL))
    if rule == "test-oracle":
        # No margin is positive and none a tie: every candidate is wrong on everything.
        assert set(other.fit_record()["curve"].values()) == {0.0}
        assert max(clean.fit_record()["curve"].values()) > 0
    else:
        assert clean.fit_record() == other.fit_record()
        for name, tensor in clean.learned().items():
            assert torch.equal(tensor, other.learned()[name])


def test_the_oracle_weighs_seen_and_unseen_users_by_their_number(tiny: PreferenceData) -> None:
    comparisons, split = parts(tiny)
    # One seen user, all the unseen ones.
    one = replace(split, seen=split.seen[:1], seen_test=split.seen_test[tiny.user[split.seen_test] == split.seen[0]])
    judge = selection.oracle(comparisons, one, planted_methods.Rng("oracle"))
    train = comparisons.take(split.seen_train)
    method = Reference().fit_seen(train, train.take([]), rng=planted_methods.Rng("fit"))
    reward = comparisons.items.reward
    assert reward is not None
    test = comparisons.take(np.concatenate([one.seen_test, one.unseen_test]))
    margin = reward[torch.from_numpy(test.chosen)] - reward[torch.from_numpy(test.rejected)]
    assert judge(method) == pytest.approx(accuracy(margin, test.user))


def test_nothing_to_hold_out_is_refused(tiny: PreferenceData) -> None:
    comparisons, split = parts(tiny)
    first = np.unique(tiny.user[split.seen_train], return_index=True)[1]
    single = replace(split, seen_train=split.seen_train[first])
    with pytest.raises(InputError, match="no seen user has training choices in two groups") as caught:
        selection.fit_problem("validation", tiny, comparisons, single, PROTOCOL)
    assert caught.value.hint == "--selection last trains every recipe to its end"
    assert len(selection.fit_problem("last", tiny, comparisons, single, PROTOCOL).train) == len(split.seen)
