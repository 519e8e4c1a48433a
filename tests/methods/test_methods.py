"""What methods find in data whose truth is planted, and what their recipes come to by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from scipy.special import expit
from torch.nn.functional import logsigmoid
from trained import measured, near

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.contract import population
from prbench.method import FitProblem, Method
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.lore import BT, LoRe
from prbench.methods.mrm import MRM, robust_objective
from prbench.methods.reference import Reference
from prbench.methods.user_bt import UserBT
from prbench.registry import methods, set_options
from prbench.training.linear_bases import LinearBases

RNG = Rng("methods")
DIM = 16


class World(NamedTuple):
    """Planted bases [K, d] and choices: seen users' train and validation, unseen users' support and test.

    `truth` is the true margin of each test choice.
    """

    bases: NDArray[np.float64]
    train: Comparisons
    validation: Comparisons
    support: Comparisons
    test: Comparisons
    truth: NDArray[np.float64]

    def fit(self, method: Method) -> Method:
        type(method).fit_splits([method], [FitProblem(self.train, self.validation, RNG)])
        return method

    def fit_everything(self, method: Method) -> Method:
        everything = FitProblem(self.train, self.train.take([]), RNG)
        type(method).fit_splits([method], [everything])
        return method

    def adapted(self, method: Method) -> torch.Tensor:
        return method.margins(method.adapt_unseen(self.support, rng=RNG), self.test)

    def cold(self, method: Method) -> torch.Tensor:
        return method.margins(method.cold_start(self.test.users, self.test.items, rng=RNG), self.test)

    def accuracy(self, margins: torch.Tensor | NDArray[np.float64]) -> float:
        """The probability that an unseen user agrees with a decision, which has no luck of single test choices in it."""
        right = expit(np.sign(np.asarray(margins)) * self.truth)
        return float(np.mean([right[self.test.user == user].mean() for user in self.test.users]))


def world(*, weights: NDArray[np.float64], bases: NDArray[np.float64], rows: int, seed: int = 0) -> World:
    """Users with rewards e·Vᵀ·w over items from N(0, 1), two to a comparison; the first half is seen."""
    draw = Rng("planted", seed).numpy()
    users = len(weights)
    user = np.repeat(np.arange(users), rows)
    n = len(user)
    embedding = draw.normal(size=(2 * n, bases.shape[1]))
    reward = weights @ bases
    margin = ((embedding[:n] - embedding[n:]) * reward[user]).sum(1)
    wins = draw.random(n) < expit(margin)
    first, second = np.arange(n), np.arange(n, 2 * n)
    everyone = Comparisons(
        items=Items(torch.from_numpy(embedding).float(), identity=torch.arange(2 * n)),
        user=user,
        chosen=np.where(wins, first, second),
        rejected=np.where(wins, second, first),
        group=np.tile(np.arange(rows), users),
        row=np.arange(n),
    )
    seen, place = user < users // 2, everyone.group / rows
    tested = ~seen & (place >= 0.25)
    return World(
        bases,
        everyone.take(seen & (place < 0.8)),
        everyone.take(seen & (place >= 0.8)),
        everyone.take(~seen & (place < 0.25)),
        everyone.take(tested),
        np.where(wins, margin, -margin)[tested],
    )


@pytest.fixture(scope="module")
def personal() -> World:
    """80 users, each a mixture of three base rewards that disagree."""
    draw = Rng("planted", 1).numpy()
    bases = 4 * np.linalg.qr(draw.normal(size=(DIM, 3)))[0].T
    return world(weights=draw.dirichlet(np.full(3, 0.3), 80), bases=bases, rows=160)


@pytest.fixture(scope="module")
def clones() -> World:
    """80 users with one reward, of one length whatever its direction."""
    drawn = Rng("planted", 2).numpy().normal(size=(1, DIM))
    return world(weights=np.ones((80, 1)), bases=1.6 * drawn / np.linalg.norm(drawn), rows=160)


@pytest.mark.trained
def test_lore_finds_the_planted_bases_and_beats_bt_on_unseen_users(personal: World) -> None:
    lore = personal.fit_everything(LoRe(bases=3, divisor=1.0, rate=0.1, steps=400))
    bt = personal.fit_everything(BT(divisor=1.0, rate=0.1, steps=400))
    assert isinstance(lore, LoRe)

    def angle(bases: NDArray[np.float64]) -> float:
        return float(np.degrees(subspace_angles(bases.T, personal.bases.T)).max())

    drawn = Rng("planted", 3).numpy().normal(size=(3, DIM))
    measured("angle", angle(lore.bases_matrix.double().numpy()), at_most=20, control=angle(drawn))
    gain = personal.accuracy(personal.adapted(lore)) - personal.accuracy(personal.adapted(bt))
    # Without adaptation there is nothing to gain: what BT lacks is the user.
    cold = personal.accuracy(personal.cold(lore)) - personal.accuracy(personal.cold(bt))
    measured("gain over BT", gain, at_least=0.06, control=cold)
    measured("gain over BT at cold start", cold, at_most=0.06, control=gain)


# Embeddings here are of length 4, those of an encoder of length 50 to 100 times that: scales are set for these.
PERSONALISED: dict[str, dict[str, Any]] = {
    "lore-early": {"divisor": 1.0},
    "mrm": {"epochs": 30, "rate": 0.05, "input_scale": 0.5},
    "mrm-no-rpo": {"epochs": 30, "rate": 0.05, "input_scale": 0.5},
    "mrm-paper": {"epochs": 30, "input_scale": 0.5},
    "mrm-no-meta": {"divisor": 1.0, "rate": 0.1},
    "mrm-no-basis": {"epochs": 10, "rate": 0.01, "input_scale": 0.5},
}


def behind_the_truth(planted: World, method: Method) -> float:
    """What a method lacks to the best decisions that there are."""
    return planted.accuracy(planted.truth) - planted.accuracy(planted.adapted(planted.fit(method)))


@pytest.mark.trained
def test_on_clones_nothing_is_left_to_gain_over_bradley_terry(clones: World, personal: World) -> None:
    left = behind_the_truth(clones, BTRidge())
    measured("left to gain", left, at_most=0.01, control=behind_the_truth(personal, BTRidge()))


@pytest.mark.trained
@pytest.mark.parametrize("name", PERSONALISED)
def test_on_clones_little_is_lost_by_personalising(clones: World, name: str) -> None:
    method = methods.make_method(registry.get("methods", name), None, PERSONALISED[name])
    # What weights fitted to 40 choices may cost. A reward of the user's own, from these choices alone, costs more.
    alone = behind_the_truth(clones, UserBT())
    measured("behind the truth", behind_the_truth(clones, method), at_most=0.04, control=alone)


def flipped(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(((first > 0) != (second > 0)).double().mean())


def mrm_with_true_bases(planted: World, **changes: Any) -> MRM:
    """MRM that already knows the planted bases and starts in their middle: only adaptation is left to do."""
    made = MRM(bases=3, input_scale=1.0, **changes)
    return made.restore({"bases": torch.from_numpy(planted.bases).float(), "start": torch.zeros(3)})


@pytest.mark.trained
def test_mrms_one_adam_step_changes_no_decision_and_more_or_larger_steps_do(personal: World) -> None:
    cold = personal.cold(mrm_with_true_bases(personal))
    start = personal.accuracy(cold)
    larger = personal.adapted(mrm_with_true_bases(personal, inner_rate=1.0))
    for rate in (1e-3, 5e-3):
        published = personal.adapted(mrm_with_true_bases(personal, inner_rate=rate))
        measured(f"flips at {rate}", flipped(published, cold), at_most=0.01, control=flipped(larger, cold))
        moved = abs(personal.accuracy(published) - start)
        measured(f"change at {rate}", moved, at_most=0.01, control=personal.accuracy(larger) - start)
    for name, changes in {
        "SGD": {"inner": "sgd", "inner_steps": 200, "inner_rate": 0.1},
        "Adam": {"inner_steps": 200, "inner_rate": 0.1},
        "one large step": {"inner_rate": 1.0},
    }.items():
        adapted = personal.adapted(mrm_with_true_bases(personal, **changes))
        measured(f"flips of {name}", flipped(adapted, cold), at_least=0.1, control=flipped(published, cold))
        gain = personal.accuracy(adapted) - start
        measured(f"gain of {name}", gain, at_least=0.05, control=personal.accuracy(published) - start)


@pytest.mark.trained
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_fresh_adam_step_is_at_most_the_step_size_whatever_the_data(
    personal: World, rows: int, scale: float
) -> None:
    """Adam's first step is rate·g / (|g| + 1e-8): the rate itself, unless the slope g is as small as that.

    So small are the slopes of users whose choices the bases explain almost surely.
    """
    entry = registry.get("methods", "mrm")
    method = methods.make_method(entry, None, {})
    assert isinstance(method, MRM)
    assert (method.inner, method.inner_steps, method.inner_rate) == ("adam", 1, 5e-3)
    start = torch.tensor([0.7, -0.4])
    bases = scale * torch.from_numpy(personal.bases[:2]).float()
    method.restore({"bases": bases, "start": start})
    support = personal.support.take(personal.support.group < rows)
    assert np.bincount(support.user)[-1] == rows
    moved = method.adapt_unseen(support, rng=RNG).tensors["weight"] - start
    projected = method.input_scale * (support.differences() @ bases.T).double()
    clear = []
    for user in support.users:
        logits = start.double().requires_grad_()
        loss = -logsigmoid(projected[torch.from_numpy(support.user == user)] @ logits.softmax(0)).mean()
        (slope,) = torch.autograd.grad(loss, logits)
        clear.append(slope.abs() > 1e-4)
        assert clear[-1].all() or not clear[-1].any()
    expected = torch.stack(clear)
    torch.testing.assert_close(moved[expected].abs(), torch.full_like(moved[expected], 5e-3), atol=1e-5, rtol=0)
    assert bool((moved.abs() <= 5e-3 + 1e-5).all())
    measured("share of clear slopes", expected.double().mean(), at_least=0.5)
    # Two bases, one free direction: there are two possible users.
    torch.testing.assert_close(moved[:, 0], -moved[:, 1], atol=1e-5, rtol=0)


def newton(train: Comparisons, strength: float) -> NDArray[np.float64]:
    """The minimiser of BTRidge's objective, in float64, by Newton's method."""
    rows = train.differences(dtype=torch.float64).numpy()
    size = (rows**2).sum(1).mean()
    count = np.bincount(train.user)[train.user]
    share = 1 / (len(train.users) * count)
    v = np.zeros(rows.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(rows @ v))
        gradient = -rows.T @ (share * p) + strength * size * v
        hessian = (rows * (share * p * (1 - p))[:, None]).T @ rows + strength * size * np.eye(len(v))
        v = v - np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-12
    return v


@pytest.mark.trained
@pytest.mark.parametrize("strength", [1.0, 0.01, 1e-4])
def test_bt_ridge_is_the_minimiser_of_its_objective(strength: float) -> None:
    # Users with different numbers of choices, so that their equal weight shows.
    train = population(users=12, dim=6, groups=(1, 9), seed=RNG.child("ragged").seed)
    assert len(set(np.bincount(train.user))) > 3
    method = BTRidge(strength=strength, tolerance=1e-9).fit_seen(train, train.take([]), rng=RNG)
    found, expected = method.learned()["direction"].numpy(), newton(train, strength)
    near("direction", found, expected, at_most=1e-3, control=0 * expected)


@pytest.mark.trained
def test_bt_ridge_in_single_precision_is_near_enough(personal: World) -> None:
    method = BTRidge(strength=0.01).fit_seen(personal.train, personal.train.take([]), rng=RNG)
    found, expected = method.learned()["direction"].numpy(), newton(personal.train, 0.01)
    near("direction", found, expected, at_most=5e-4, control=0 * expected)


def test_the_references_decisions_are_the_signs_of_reward_differences() -> None:
    """A margin is one difference of two stored numbers, which has one rounding everywhere."""
    data = population(users=6, seed=11)
    method = Reference().fit_seen(data, data.take([]), rng=RNG)
    reward = data.items.reward
    assert reward is not None
    expected = [float(reward[c] - reward[r]) for c, r in zip(data.chosen, data.rejected, strict=True)]
    margins = method.margins(method.seen_users(), data)
    np.testing.assert_array_equal(margins.numpy(), np.float32(expected))
    assert method.parameter_count() == (0, 0)
    without = Comparisons(Items(data.items.embedding), data.user, data.chosen, data.rejected, data.group, data.row)
    assert method.unsupported(without) == "the encoder has no reward head"


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def objective(losses: list[float], *, rho: float, gamma: float, present: list[bool] | None = None) -> Any:
    value, gradient = robust_objective(
        torch.tensor([losses], dtype=torch.float64),
        torch.tensor([present or [True] * len(losses)]),
        robust=True,
        rho=rho,
        gamma=gamma,
    )
    return float(value), gradient[0].tolist()


def test_the_robust_objective_of_two_users_by_hand() -> None:
    # Threshold: the median, 1.5. Weights: sigmoid of the excess over 0.5.
    value, gradient = objective([1.0, 2.0], rho=0.5, gamma=0.5)
    low, high = sigmoid(-1), sigmoid(1)
    assert value == pytest.approx(low * 1 + high * 2)
    # Each loss acts through itself, through its weight, and through half of the threshold.
    slope = low * high / 0.5
    through_threshold = -0.5 * (1 * slope + 2 * slope)
    assert gradient == pytest.approx([low + 1 * slope + through_threshold, high + 2 * slope + through_threshold])


def test_the_robust_objective_of_three_users_by_hand() -> None:
    # The 0.7 quantile of 1, 2, 4 lies 0.4 of the way from 2 to 4: 2.8. Order among users does not matter.
    value, gradient = objective([4.0, 1.0, 2.0], rho=0.3, gamma=0.5)
    weights = [sigmoid((loss - 2.8) / 0.5) for loss in (4, 1, 2)]
    assert value == pytest.approx(sum(w * loss for w, loss in zip(weights, (4, 1, 2), strict=True)))
    tilts = [loss * w * (1 - w) / 0.5 for w, loss in zip(weights, (4, 1, 2), strict=True)]
    shares = [0.4, 0.0, 0.6]
    expected = [w + t - share * sum(tilts) for w, t, share in zip(weights, tilts, shares, strict=True)]
    assert gradient == pytest.approx(expected)


def test_a_hard_threshold_is_the_limit_of_soft_ones() -> None:
    assert objective([1.0, 2.0], rho=0.5, gamma=0) == (2.0, [0.0, 1.0])
    assert objective([4.0, 1.0, 2.0], rho=0.3, gamma=0) == (4.0, [1.0, 0.0, 0.0])
    # Of three users the median is the threshold itself, where a weight is 1/2; with rho = 1 it is the best user.
    assert objective([4.0, 1.0, 2.0], rho=0.5, gamma=0) == (4 + 0.5 * 2, [1.0, 0.0, 0.5])
    assert objective([4.0, 1.0, 2.0], rho=1.0, gamma=0) == (4 + 2 + 0.5 * 1, [1.0, 0.5, 1.0])
    for rho in (0.3, 0.5, 1.0):
        (hard, slope), (soft, soft_slope) = (objective([4.0, 1.0, 2.0], rho=rho, gamma=g) for g in (0, 1e-4))
        assert soft == pytest.approx(hard)
        assert soft_slope == pytest.approx(slope)


@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.1, 0])
def test_a_user_alone_counts_half_whatever_gamma_is(gamma: float) -> None:
    assert objective([3.0], rho=0.5, gamma=gamma) == (1.5, [0.5])
    assert objective([3.0, 0.0], rho=0.5, gamma=gamma, present=[True, False]) == (1.5, [0.5, 0.0])


def test_a_user_left_over_gets_half_its_weight_and_padding_none() -> None:
    value, gradient = objective([3.0, 0.0], rho=0.5, gamma=0.5, present=[True, False])
    assert value == pytest.approx(1.5)
    assert gradient == pytest.approx([0.5, 0.0])
    with_padding = objective([1.0, 9.0, 2.0], rho=0.5, gamma=0.5, present=[True, False, True])
    without = objective([1.0, 2.0], rho=0.5, gamma=0.5)
    assert with_padding[0] == pytest.approx(without[0])
    assert with_padding[1] == pytest.approx([without[1][0], 0.0, without[1][1]])


def test_without_the_robust_objective_losses_are_summed() -> None:
    losses, present = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[True, True, False]])
    value, gradient = robust_objective(losses, present, robust=False, rho=0.5, gamma=0.5)
    assert (value.tolist(), gradient.tolist()) == ([3.0], [[1.0, 1.0, 0.0]])


# methods.md, section 0, at d = 4,096 for 10, 100, 1,000 and 10,000 users.
COUNTS: dict[str, tuple[LinearBases, list[int]]] = {
    "BT": (BT(), [4_096, 4_096, 4_096, 4_096]),
    "LoRe K=5": (LoRe(bases=5), [20_530, 20_980, 25_480, 70_480]),
    "LoRe K=10": (LoRe(bases=10), [41_060, 41_960, 50_960, 140_960]),
    "LoRe K=2": (LoRe(bases=2), [8_212, 8_392, 10_192, 28_192]),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_counted_as_in_the_fact_sheet(name: str) -> None:
    method, expected = COUNTS[name]
    bases = method.hyper_parameters.get("bases", 1)
    method.restore({"bases": torch.zeros(bases, 4096)})
    assert [method.parameter_count().total(users) for users in (10, 100, 1_000, 10_000)] == expected


def test_mrm_trains_two_bases_and_two_logits() -> None:
    method = MRM(bases=2).restore({"bases": torch.zeros(2, 4096), "start": torch.zeros(2)})
    # Trained only: 8,194 whatever the number of users; each stores two logits more.
    assert method.parameter_count() == (8_194, 2)


def test_a_released_mrm_checkpoint_scores_as_its_recipe_says(tmp_path: Path) -> None:
    draw = Rng("planted", 0).torch()
    v, w0 = torch.randn(2, 12, generator=draw), torch.tensor([0.3, -0.9])
    torch.save({"shared_weight": w0, "layers.0.weight": v}, tmp_path / "checkpoint.pt")
    released = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    method = methods.make_method(registry.get("methods", "mrm"), None, {}).restore(released)
    e = torch.randn(7, 12, generator=draw)
    states = method.cold_start(np.zeros(1, dtype=np.int64), Items(e), rng=RNG)
    scores = method.score(states, np.zeros(7, dtype=np.int64), Items(e))
    mixed = torch.exp(w0) / torch.exp(w0).sum()
    torch.testing.assert_close(scores, 0.01 * (e @ v.T) @ mixed, atol=1e-6, rtol=1e-5)
    # One published step from there, by hand: the logit of the basis that speaks for the choice goes up by 0.005.
    n = np.zeros(1, dtype=np.int64)
    support = Comparisons(Items(e), n, n, n + 1, n, n)
    adapted = method.adapt_unseen(support, rng=RNG).tensors["weight"][0]
    pull = (e[0] - e[1]) @ v.T
    sign = 1.0 if pull[0] > pull[1] else -1.0
    torch.testing.assert_close(adapted, w0 + 0.005 * sign * torch.tensor([1.0, -1.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "setting",
    [
        "mrm.bases=0", "mrm.rate=-1.0", "mrm.query_share=3", "mrm.epochs=0", "mrm.gamma=-0.5", "mrm.warmup=2",
        "lore.divisor=0", "lore.steps=0", "bt-ridge.strengths=[0.1, -1]", "mrm-no-basis.hidden=0",
    ],
)  # fmt: skip
def test_a_parameter_out_of_its_range_is_one_line(setting: str) -> None:
    name, change = set_options.parse_sets([setting]).popitem()
    with pytest.raises(InputError, match=rf"^--set {setting.partition('=')[0]}: input should be "):
        methods.make_method(registry.get("methods", name), None, change)
