"""The strong simple baselines: each is the minimum of what it says it minimises, and finds what is planted."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from simulated_worlds import NOTHING_PERSONAL, SmallWorld, small_world
from trained import measured, near

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.contract import population
from prbench.method import FitProblem, Method
from prbench.methods.bt_offset import BTOffset
from prbench.methods.item_bt import ItemBT
from prbench.methods.length import Length
from prbench.methods.user_bt import UserBT
from prbench.registry import methods
from prbench.training.convex import ConvexMethod
from prbench.training.gradient import validation_accuracy
from prbench.training.user_ridge import BLOCK_BYTES, UserRidge

RNG = Rng("baselines")
Floats = NDArray[np.float64]
# Weights are of the order of 0.01 to 10; both minimisers stop long before the end of float64.
NEAR = 1e-5


def few_users(dim: int = 6) -> Comparisons:
    """Users with fewer and with more choices than dimensions."""
    data = population(users=7, dim=dim, groups=(dim + 1, dim + 8), pairs=(1, 1), seed=RNG.child("few users").seed)
    # Every other user keeps fewer.
    return data.take((data.user % 2 == 0) | (data.group < 2 + data.user // 2))


def pairs(chosen: list[int], rejected: list[int], items: Items, user: list[int] | None = None) -> Comparisons:
    n = np.arange(len(chosen))
    who = np.zeros_like(n) if user is None else np.array(user)
    return Comparisons(items, who, np.array(chosen), np.array(rejected), n, n)


def minimiser(objective: Any, size: int) -> Floats:
    """By scipy, with its own finite differences replaced by autograd in float64."""

    def value(flat: Floats) -> tuple[float, Floats]:
        x = torch.from_numpy(flat).requires_grad_()
        loss = objective(x)
        (gradient,) = torch.autograd.grad(loss, x)
        return float(loss.detach()), gradient.numpy()

    options = {"gtol": 1e-10, "ftol": 1e-16, "maxiter": 5000}
    return minimize(value, np.zeros(size), jac=True, method="L-BFGS-B", options=options).x


def log_loss(margin: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softplus(-margin).sum()


def fit(method: Method, data: Comparisons) -> Method:
    return method.fit_seen(data, data.take([]), rng=RNG)


@pytest.mark.trained
@pytest.mark.parametrize("strength", [100.0, 1.0, 0.01])
def test_user_bt_is_the_minimiser_of_its_objective_for_every_user(strength: float) -> None:
    data = few_users()
    method = fit(UserBT(strength=strength), data)
    difference = data.differences()
    variance = float((difference**2).sum(1).mean())
    seen = method.seen_users().tensors["weight"].numpy()
    # The penalty is in units of the seen users' differences also where other users adapt.
    fewer = data.take(data.user > 3)
    unseen = method.adapt_unseen(fewer, users=np.arange(3, 7), rng=RNG).tensors["weight"].numpy()
    assert (unseen[0] == 0).all()
    expected = np.stack(
        [
            minimiser(lambda w, x=x: log_loss(x @ w) + 0.5 * strength * variance * (w @ w), 6)
            for x in (difference[torch.from_numpy(data.user == user)] for user in range(7))
        ]
    )
    near("seen", seen, expected, at_most=NEAR, control=0 * expected)
    near("unseen", unseen[1:], expected[4:], at_most=NEAR, control=0 * expected[4:])


def test_a_users_reward_from_scratch_is_a_combination_of_the_users_own_differences() -> None:
    data = few_users()
    weights = fit(UserBT(strength=0.1), data).seen_users().tensors["weight"]
    user = int(np.argmin(np.bincount(data.user)))
    own = data.of(user).differences()
    assert len(own) < 6
    residual = weights[user] - own.T @ torch.linalg.lstsq(own.T, weights[user]).solution
    assert float(residual.abs().max()) < 1e-9
    other = weights[(user + 1) % 7]
    assert float((other - own.T @ torch.linalg.lstsq(own.T, other).solution).abs().max()) > 0.01


def test_bt_per_user_ties_without_shots_and_bt_offset_scores_by_the_shared_reward() -> None:
    data = few_users()
    alone, offset = fit(UserBT(), data), fit(BTOffset(), data)
    assert (alone.margins(alone.cold_start(data.users, data.items, rng=RNG), data) == 0).all()
    cold = offset.margins(offset.cold_start(data.users, data.items, rng=RNG), data)
    torch.testing.assert_close(cold, data.differences() @ offset.learned()["direction"])
    assert (cold != 0).all()


@pytest.mark.trained
@pytest.mark.parametrize(("shared", "own"), [(10.0, 30.0), (1.0, 1.0), (0.1, 0.3)])
def test_bt_offset_is_the_joint_minimiser_of_its_objective(shared: float, own: float) -> None:
    data = few_users()
    difference = data.differences()
    variance = float((difference**2).sum(1).mean())
    owner = torch.from_numpy(data.user)

    def objective(flat: torch.Tensor) -> torch.Tensor:
        v, o = flat[:6], flat[6:].view(7, 6)
        margin = (difference * (v + o[owner])).sum(1)
        return log_loss(margin) + 0.5 * variance * (shared * v @ v + own * (o * o).sum())

    expected = minimiser(objective, 48)
    method = fit(BTOffset(shared_strength=shared, offset_strength=own, tolerance=1e-10), data)
    # The objective is flat where penalties are weak: its last digits in float64 are the third ones of a weight.
    near("shared", method.learned()["direction"], expected[:6], at_most=3e-3, control=0 * expected[:6])
    offsets = method.seen_users().tensors["offset"].numpy()
    near("offsets", offsets, expected[6:].reshape(7, 6), at_most=3e-3, control=0 * offsets)
    # The seen users' offsets are also the most probable ones given v: adapting to the same choices finds them again.
    again = method.adapt_unseen(data, rng=RNG).tensors["offset"].numpy()
    near("offsets again", again, offsets, at_most=NEAR, control=0 * offsets)


@pytest.mark.trained
def test_an_unseen_users_offset_is_the_most_probable_one_given_the_shared_reward() -> None:
    data = few_users()
    seen, other = data.take(data.user < 4), data.take(data.user >= 4)
    method = fit(BTOffset(shared_strength=3.0, offset_strength=2.0), seen)
    v = method.learned()["direction"]
    variance = float((seen.differences() ** 2).sum(1).mean())
    offsets = method.adapt_unseen(other, rng=RNG).tensors["offset"].numpy()
    expected = np.stack(
        [
            minimiser(lambda o, x=x: log_loss(x @ (v + o)) + 0.5 * 2.0 * variance * (o @ o), 6)
            for x in (other.of(int(user)).differences() for user in other.users)
        ]
    )
    near("offsets", offsets, expected, at_most=NEAR, control=0 * expected)


@pytest.mark.trained
def test_a_strong_offset_penalty_leaves_the_shared_reward_alone() -> None:
    data = few_users()
    offset, weak = (
        fit(BTOffset(offset_strength=strength), data).seen_users().tensors["offset"] for strength in (1e6, 1.0)
    )
    direction = fit(BTOffset(offset_strength=1e6), data).learned()["direction"]
    largest, largest_weak, shared = (float(tensor.abs().max().log10()) for tensor in (offset, weak, direction))
    measured("log10 of the offsets", largest, at_most=-4, control=largest_weak)
    measured("log10 of what is shared", shared, at_least=-3, control=largest)


def test_newton_reaches_the_minimum_from_anywhere() -> None:
    draw = Rng("planted", 0).torch()
    rows = torch.randn(40, 5, generator=draw, dtype=torch.float64)
    ridge = UserRidge(rows, np.repeat([0, 1], 20), 2)
    base = 50 * torch.randn(40, generator=draw, dtype=torch.float64)
    near, _ = ridge.solve(base, 0.01, ridge.start())
    # Far out every choice is certain and the curvature is that of the penalty alone: plain Newton steps overshoot.
    far, _ = ridge.solve(base, 0.01, [1e3 * torch.ones_like(z) for z in ridge.start()])
    torch.testing.assert_close(ridge.vectors(near), ridge.vectors(far), atol=1e-6, rtol=0)


def test_users_are_solved_alike_in_one_block_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    data = few_users()
    rows, owner = data.differences(), data.user
    together = UserRidge(rows, owner, 7)
    monkeypatch.setattr("prbench.training.user_ridge.BLOCK_BYTES", 1)
    apart = UserRidge(rows, owner, 7)
    assert len(apart.blocks) == 7 > len(together.blocks)
    assert BLOCK_BYTES > 1
    base = torch.linspace(-1, 1, len(rows), dtype=torch.float64)
    solutions = [(ridge, *ridge.solve(base, 0.5, ridge.start())) for ridge in (together, apart)]
    (a, z, margins), (b, y, others) = solutions
    torch.testing.assert_close(a.vectors(z), b.vectors(y), atol=1e-8, rtol=0)
    torch.testing.assert_close(margins, others, atol=1e-8, rtol=0)
    torch.testing.assert_close(margins, base + (rows * a.vectors(z)[torch.from_numpy(owner)]).sum(1))


@pytest.mark.parametrize(
    "method",
    [
        UserBT(strengths=(30.0, 1.0, 0.03)),
        BTOffset(shared_strengths=(10.0, 1.0), offset_strengths=(100.0, 1.0)),
        ItemBT(strengths=(10.0, 0.1)),
    ],
)
def test_strengths_are_chosen_on_validation_choices_and_all_choices_are_solved_again(method: ConvexMethod) -> None:
    data = population(users=8, groups=(4, 8), seed=5, recurring=9)
    train, validation = data.take(data.group > 1), data.take(data.group <= 1)
    chosen = method.fresh().fit_seen(train, validation, rng=RNG)
    record = chosen.fit_record()
    assert record["rule"] == "validation"
    values = []
    for strengths, tensors in zip(method.grid(), method.solutions(train, method.grid(), "cpu"), strict=True):
        values.append(validation_accuracy(method.fresh().accept(tensors, train), validation))
        assert record["curve"][" ".join(map(str, strengths))] == values[-1]
    assert len(set(values)) > 1
    best = method.grid()[int(np.argmax(values))]
    assert record["chosen"] == (best[0] if len(best) == 1 else list(best))
    (again,) = method.solutions(data, [best], "cpu")
    for name, tensor in chosen.learned().items():
        torch.testing.assert_close(tensor, again[name], atol=1e-4, rtol=1e-4)


def test_without_validation_choices_the_stated_strengths_are_used() -> None:
    data = few_users()
    for method, chosen in (
        (UserBT(strength=7.0), 7.0),
        (BTOffset(shared_strength=2.0, offset_strength=5.0), [2.0, 5.0]),
    ):
        assert fit(method, data).fit_record() == {"rule": "last", "chosen": chosen}


def test_the_test_oracle_keeps_the_candidate_it_likes_best() -> None:
    data = few_users()
    method = UserBT(strengths=(100.0, 1.0, 0.1))
    asked: list[float] = []

    def choose(candidate: Method) -> float:
        asked.append(float(candidate.learned()["penalty"]))
        return -abs(len(asked) - 2)

    UserBT.fit_splits([method], [FitProblem(data, data.take([]), RNG, choose=choose)])
    assert asked == sorted(asked, reverse=True)
    assert float(method.learned()["penalty"]) == asked[1]
    assert (method.fit_record()["rule"], method.fit_record()["chosen"]) == ("test-oracle", 1.0)


def test_item_strengths_by_hand() -> None:
    # Item 0 beats item 1 twice and loses once; item 2 is never compared, item 3 not even known. With s0 = -s1 = s the
    # objective's slope is -4 sigma(-2s) + 2 sigma(2s) + 2 lambda s: zero at s = ln(4/3) / 2 for this lambda.
    s = 0.5 * math.log(4 / 3)
    strength = (4 * (3 / 7) - 2 * (4 / 7)) / (2 * s)
    items = Items(torch.zeros(3, 2), identity=torch.tensor([0, 1, 2]))
    method = fit(ItemBT(strength=strength), pairs([0, 1, 0], [1, 0, 1], items))
    states = method.seen_users()
    other = Items(torch.zeros(4, 2), identity=torch.tensor([1, 0, 2, 7]))
    scores = method.score(states, np.zeros(4, dtype=np.int64), other)
    np.testing.assert_allclose(scores.numpy(), [-s, s, 0.0, 0.0], atol=1e-6)
    assert method.parameter_count() == (2, 0)
    with pytest.raises(InputError, match="not known which items"):
        method.score(states, np.zeros(1, dtype=np.int64), Items(torch.zeros(1, 2)))


def test_memorised_strengths_carry_over_chains_of_comparisons() -> None:
    items = Items(torch.zeros(3, 1), identity=torch.arange(3))
    method = fit(ItemBT(strength=0.1), pairs([0, 1], [1, 2], items))
    assert float(method.margins(method.seen_users(), pairs([0], [2], items))) > 0


def test_items_recur_only_across_users_or_groups() -> None:
    method = ItemBT()
    recurring, fresh = population(users=6, recurring=8), population(users=6)
    assert method.unsupported(recurring) is None
    reason = "items do not recur: 0% of the comparisons have an item of another user or group"
    assert method.unsupported(fresh) == reason
    # One pick against several others of its turn recurs, but no split divides the turn.
    items = Items(torch.zeros(8, 1), identity=torch.arange(8))
    turns = replace(pairs([0, 0, 4, 4], [1, 2, 5, 6], items), group=np.array([0, 0, 1, 1]))
    assert method.unsupported(turns) == reason
    assert method.unsupported(replace(turns, user=np.array([0, 1, 2, 2]))) is None
    unknown = replace(fresh, items=Items(fresh.items.embedding))
    assert method.unsupported(unknown) == "it is not known which items are the same"


def test_the_length_coefficient_by_hand() -> None:
    # The longer response, log-longer by ln 3, wins three of four times: sigma(beta ln 3) = 3/4, so beta = 1.
    items = Items(torch.zeros(2, 3), length=torch.tensor([299, 99]))
    method = fit(Length(), pairs([0, 0, 0, 1], [1, 1, 1, 0], items))
    assert method.fit_record()["coefficient"] == pytest.approx(1.0, abs=1e-4)
    assert method.parameter_count() == method.parameters_for(3) == (1, 0)
    # Where the shorter wins more often, the sign turns.
    method = fit(Length(), pairs([1, 1, 1, 0], [0, 0, 0, 1], items))
    assert method.fit_record()["coefficient"] == pytest.approx(-1.0, abs=1e-4)
    assert float(method.margins(method.seen_users(), pairs([1], [0], items))) > 0


def test_every_user_has_the_same_weight_in_the_length_coefficient() -> None:
    # Nine choices of one user for the shorter and one each of two users for the longer response.
    items = Items(torch.zeros(2, 3), length=torch.tensor([299, 99]))
    data = pairs([1] * 9 + [0, 0], [0] * 9 + [1, 1], items, user=[0] * 9 + [1, 2])
    # sigma(beta ln 3) = 2/3.
    assert fit(Length(), data).fit_record()["coefficient"] == pytest.approx(math.log(2) / math.log(3), abs=1e-4)


def test_length_stays_finite_where_the_longer_always_wins_and_is_zero_where_nothing_differs() -> None:
    items = Items(torch.zeros(3, 3), length=torch.tensor([299, 99, 99]))
    always = fit(Length(), pairs([0], [1], items)).fit_record()["coefficient"]
    assert 5 < always < 100
    assert fit(Length(), pairs([1], [2], items)).fit_record()["coefficient"] == 0


def test_length_needs_lengths() -> None:
    data = population(users=3)
    assert Length().unsupported(data) is None
    without = replace(data, items=Items(data.items.embedding))
    assert Length().unsupported(without) == "the lengths of the responses are not known"
    with pytest.raises(InputError, match="lengths of these items are not known"):
        fit(Length(), data).item_features(without.items)


def made(name: str) -> Method:
    return methods.make_method(registry.get("methods", name), None, {})


@pytest.fixture(scope="module")
def idiosyncratic() -> SmallWorld:
    """Users who share part of what they like and share the rest with nobody."""
    return small_world(
        {"shared": 0.4, "low_rank": 0.0, "clustered": 0.0, "idiosyncratic": 0.6, "spectrum": 0.0, "temperature": 0.3}
    )


@pytest.fixture(scope="module")
def mostly_shared() -> SmallWorld:
    """Users who share most of what they like: few choices tell little of a user, others' choices tell much."""
    return small_world(
        {"shared": 0.7, "low_rank": 0.0, "clustered": 0.0, "idiosyncratic": 0.3, "spectrum": 0.0, "temperature": 0.3}
    )


@pytest.fixture(scope="module")
def shared_and_own(idiosyncratic: SmallWorld) -> tuple[Method, Method]:
    """Bradley-Terry, and Bradley-Terry with offsets, on these users."""
    return idiosyncratic.fit(made("bt"), select=False), idiosyncratic.fit(made("bt-offset"))


@pytest.mark.trained
def test_offsets_are_found_and_beat_what_is_shared_and_what_is_not(
    idiosyncratic: SmallWorld, mostly_shared: SmallWorld, shared_and_own: tuple[Method, Method]
) -> None:
    world, (bt, offset) = idiosyncratic, shared_and_own
    found = offset.seen_users().tensors["offset"].double().numpy()
    truth = world.rewards[world.everything.train.users] - world.rewards.mean(0)

    def correlation(rewards: Floats) -> float:
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(found, rewards, strict=True)]))

    measured("correlation", correlation(truth), at_least=0.5, control=correlation(np.roll(truth, 1, axis=0)))
    cold = world.accuracy(world.cold(offset)) - world.accuracy(world.adapted(bt))
    measured("gain over what is shared", world.gain(offset, bt), at_least=0.04, control=cold)
    # With a few choices of a user; with many a reward of the user's own needs nothing that is shared.
    world = mostly_shared
    offset, alone = world.fit(made("bt-offset")), world.fit(made("user-bt"))
    few = float(np.mean([world.gain(offset, alone, shots=4, first=first) for first in range(0, 40, 4)]))
    many = world.gain(offset, alone)
    measured("gain over what is not, from four choices", few, at_least=0.1, control=many)


# user-bt, length and item-bt are not here: one learns nothing from others, the others read nothing but length or
# names, so each is worse than BT by its nature where all users are alike.
@pytest.mark.trained
@pytest.mark.parametrize("permuted", [False, True])
def test_offsets_cost_nothing_where_nobody_differs(
    idiosyncratic: SmallWorld, shared_and_own: tuple[Method, Method], permuted: bool
) -> None:
    world = small_world({} if permuted else NOTHING_PERSONAL, permuted=permuted)
    bt = world.fit(made("bt"), select=False)
    gain = world.gain(world.fit(made("bt-offset")), bt)
    measured("cost", -gain, at_most=0.04, control=world.overfitting_cost(bt))
    # And nothing is gained: there is nothing to gain.
    shared, own = shared_and_own
    measured("gain", gain, at_most=0.03, control=idiosyncratic.gain(own, shared))
