"""PReF and RFM: what they compute is what a plain loop computes, and they find a planted subspace."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm, subspace_angles
from scipy.optimize import minimize
from simulated_worlds import NOTHING_PERSONAL, SmallWorld, small_world
from torch.nn.functional import logsigmoid
from trained import measured

from prbench import registry
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.contract import population
from prbench.method import Method
from prbench.methods.lore import BT, LoRe
from prbench.methods.pref import PReF, svd_start
from prbench.methods.rfm import RFM
from prbench.registry import methods
from prbench.training import full_batch
from prbench.training.factorisation import Factorisation, mean_user_first
from prbench.training.gradient import SplitBatch

RNG = Rng("factorisations")


def size(data: Comparisons) -> float:
    return float(data.differences().double().square().sum(1).mean().sqrt())


def plain(method: Factorisation, data: Comparisons, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The joint objective with autograd, one choice at a time in one sum."""
    x = data.differences(dtype=torch.float64) / size(data)
    owner = torch.from_numpy(np.searchsorted(data.users, data.user))
    features, weights = (t.double().requires_grad_() for t in method.start(data, size(data), RNG, "cpu"))
    optimiser = torch.optim.Adam([features, weights], lr=method.rate)
    for _ in range(steps):
        f = x @ features.T
        loss = -logsigmoid((f * weights[owner]).sum(1)).mean() + method.penalty * f.norm(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return features.detach() / size(data), weights.detach()


@pytest.mark.parametrize("way", ["rows", "differences", "items"])
@pytest.mark.parametrize("method", [PReF(features=3, rate=0.02, penalty=0.3), RFM(features=4, rate=0.02)])
def test_the_joint_training_follows_a_plain_loop_for_50_steps(
    method: Factorisation, way: full_batch.Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = population(users=7, seed=4)
    data = replace(data, chosen=data.chosen // 3, rejected=data.rejected // 3 + len(data) // 2)
    # A second split beside it has differences of another size.
    other = data.take(data.user < 4)
    other = replace(other, rejected=np.roll(other.rejected, 1))
    monkeypatch.setattr(full_batch, "make_projections", partial(full_batch.make_projections, way=way))
    other = replace(other, row=other.row + 1000)
    snapshots = {s.split: s for s in method.train_splits(SplitBatch([data, other], [RNG, RNG], [{50}, {50}]))}
    for split, part in enumerate([data, other]):
        features, weights = plain(method, part, 50)
        first, _ = method.start(part, size(part), RNG, "cpu")
        assert (features * size(part) - first).abs().max() > 0.1
        tensors = snapshots[split].tensors
        torch.testing.assert_close(tensors["bases"], features, atol=1e-6, rtol=0)
        torch.testing.assert_close(tensors["weight"], weights, atol=1e-6, rtol=0)
        square = (part.differences() @ features.T).square().mean()
        assert float(tensors["size"]) == pytest.approx(float(square.sqrt()), rel=1e-6)


def test_the_first_fit_is_the_best_of_its_rank() -> None:
    data = population(users=9, dim=6, groups=(2, 6), seed=8)
    ridge = 0.3
    features, weights = svd_start(data, 2, length=size(data), ridge=ridge, rng=RNG, device="cpu")
    x = data.differences().numpy() / size(data)
    metric = x.T @ x / len(x)
    metric += ridge * np.trace(metric) / 6 * np.eye(6)
    means = np.array([x[data.user == user].mean(0) / 2 for user in range(9)])
    # In coordinates in which the metric is the identity, the best fit of rank 2 keeps two singular values.
    root = np.real(sqrtm(metric))
    u, s, v = np.linalg.svd(np.linalg.solve(metric, means.T).T @ root, full_matrices=False)
    best = (u[:, :2] * s[:2]) @ v[:2] @ np.linalg.inv(root)
    np.testing.assert_allclose((weights @ features).numpy(), best, atol=1e-6)
    # Singular values are shared evenly.
    np.testing.assert_allclose(np.linalg.norm(weights.numpy(), axis=0), np.sqrt(s[:2]), rtol=1e-5)


def test_features_left_over_by_few_users_are_drawn_and_not_used_at_first() -> None:
    data = population(users=3, dim=6, seed=8)
    features, weights = svd_start(data, 5, length=1.0, ridge=1.0, rng=RNG, device="cpu")
    assert (weights[:, 3:] == 0).all()
    assert (weights[:, :3] != 0).any()
    assert (features[3:] != 0).all()
    assert bool(torch.isfinite(features).all())


@pytest.mark.parametrize("first", [3.0, -3.0, 0.0])
def test_the_mean_user_comes_first_and_rewards_stay(first: float) -> None:
    draw = Rng("planted", 1).torch()
    features, weights = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 7), (9, 4)))
    weights[:, 0] += first
    turned, own, length = mean_user_first(features, weights)
    torch.testing.assert_close(own @ turned, weights @ features)
    torch.testing.assert_close(own.mean(0), torch.tensor([length, 0, 0, 0], dtype=torch.float64))
    assert length == pytest.approx(float(weights.mean(0).norm()))


def test_a_mean_user_of_nothing_changes_nothing() -> None:
    features, weights = torch.eye(2), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    turned, own, length = mean_user_first(features, weights)
    assert (turned is features, own is weights, length) == (True, True, 1.0)


@pytest.mark.parametrize("method", [PReF(steps=30), RFM(features=6, steps=30)])
def test_seen_users_score_as_trained_and_the_cold_start_is_their_mean(method: Factorisation) -> None:
    data = population(users=7, groups=(2, 6), seed=4)
    (snapshot,) = method.train_splits(SplitBatch([data], [RNG], [{30}]))
    method.accept(snapshot.tensors, data, RNG)
    trained = snapshot.tensors["weight"] @ snapshot.tensors["bases"]
    margins = method.margins(method.seen_users(), data)
    torch.testing.assert_close(margins, (data.differences() * trained[torch.from_numpy(data.user)]).sum(1))
    cold = method.margins(method.cold_start(data.users, data.items, rng=RNG), data)
    mean = data.differences() @ trained.mean(0)
    torch.testing.assert_close(cold / cold.norm(), mean / mean.norm())
    f = method.project(data)
    if isinstance(method, PReF):
        assert float(f.square().mean()) == pytest.approx(1)
    else:
        torch.testing.assert_close(cold, mean)


def test_pref_descends_from_a_drawn_start_as_published() -> None:
    data = population(users=6, groups=(2, 5), seed=2)
    method = PReF(features=3, steps=20).fit_seen(data, data.take([]), rng=RNG)
    assert (method.adapt_rate, method.adapt_steps, method.penalty, PReF().features) == (0.01, 1000, 0.02, 5)
    weights = method.adapt_unseen(data, rng=RNG).tensors["weight"]
    for user in range(6):
        f = method.project(data.of(user)).detach()
        u = torch.randn(3, generator=RNG.child("user", user).torch()).double().requires_grad_()
        optimiser = torch.optim.SGD([u], lr=0.01)
        for _ in range(1000):
            optimiser.zero_grad()
            (-logsigmoid(f @ u).mean()).backward()
            optimiser.step()
        torch.testing.assert_close(weights[user], u.detach(), atol=1e-6, rtol=0)


def test_rfm_solves_the_logistic_regression_it_states() -> None:
    data = population(users=6, groups=(2, 5), seed=2)
    method = RFM(features=8, steps=20, ridge=0.5).fit_seen(data, data.take([]), rng=RNG)
    weights = method.adapt_unseen(data, rng=RNG).tensors["weight"].numpy()
    for user in range(6):
        f = method.project(data.of(user)).numpy()

        def objective(w: NDArray[np.float64], f: Any = f) -> float:
            return float(np.logaddexp(0, -f @ w).sum() + 0.25 * w @ w)

        best = minimize(objective, np.zeros(8), method="BFGS", options={"gtol": 1e-8})
        assert objective(weights[user]) <= best.fun + 1e-9
        np.testing.assert_allclose(weights[user], best.x, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pref", [20_535, 20_985, 25_485, 70_485]), ("rfm", [131_392, 134_272, 163_072, 451_072])],
)
def test_parameters_are_counted_as_in_the_fact_sheet(name: str, expected: list[int]) -> None:
    method = methods.make_method(registry.get("methods", name), None, {})
    count = method.parameters_for(4_096)
    assert count is not None
    assert [count.total(users) for users in (10, 100, 1_000, 10_000)] == expected


def test_a_bias_changes_scores_and_no_decision() -> None:
    data = population(users=6, seed=2)
    method = PReF(features=3, steps=5).fit_seen(data, data.take([]), rng=RNG)
    before = method.margins(method.seen_users(), data)
    tensors = method.learned()
    assert (tensors["bias"] == 0).all()
    again = PReF(features=3).restore({**tensors, "bias": torch.ones(3)})
    torch.testing.assert_close(again.margins(method.seen_users(), data), before, atol=1e-6, rtol=0)
    assert (again.item_features(data.items) - method.item_features(data.items) == 1).double().mean() > 0.5


@pytest.fixture(scope="module")
def three_tastes() -> SmallWorld:
    """60 users who differ in three directions and share nothing."""
    return small_world(
        {
            "shared": 0.0, "low_rank": 1.0, "clustered": 0.0, "idiosyncratic": 0.0,
            "bases": 3, "weights": "gaussian", "spectrum": 0.0, "temperature": 0.2,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared_taste(three_tastes: SmallWorld) -> Method:
    """Bradley-Terry on these users."""
    return three_tastes.fit(BT(), select=False)


def entered(name: str) -> Method:
    return methods.make_method(registry.get("methods", name), None, {})


@pytest.fixture(scope="module")
def personal_gains(three_tastes: SmallWorld, shared_taste: Method) -> dict[str, float]:
    """What the methods gain over Bradley-Terry where users differ."""
    fitted = {name: three_tastes.fit(entered(name)) for name in ("pref", "rfm")}
    return {name: three_tastes.gain(method, shared_taste) for name, method in fitted.items()}


@pytest.mark.trained
@pytest.mark.parametrize(
    "method", [LoRe(bases=5, divisor=1.0, rate=0.1, steps=400), PReF(features=3), RFM(rate=0.003)]
)
def test_the_planted_subspace_is_found(
    three_tastes: SmallWorld, shared_taste: Method, method: LoRe | PReF | RFM
) -> None:
    world = three_tastes
    _, strengths, planted = np.linalg.svd(world.rewards)
    assert strengths[3] < 1e-3 * strengths[2]
    world.fit(method)
    weight = method.seen_users().tensors["weight"].double()
    mixed = weight.softmax(-1) if isinstance(method, LoRe) else weight

    def angle(directions: NDArray[np.float64]) -> float:
        return float(np.degrees(subspace_angles(directions.T, planted[:3].T)).max())

    # What the users' learned rewards span, which has three leading directions for any number of features.
    found = np.linalg.svd((mixed @ method.bases_matrix.double()).numpy(), full_matrices=False)[2]
    drawn = RNG.child("subspace").numpy().normal(size=(3, world.rewards.shape[1]))
    measured("angle", angle(found[:3]), at_most=40, control=angle(drawn))
    cold = world.accuracy(world.cold(method)) - world.accuracy(world.adapted(shared_taste))
    measured("gain", world.gain(method, shared_taste), at_least=0.15, control=cold)


# Free weights that are fitted to a user's 80 choices alone cost something where all users are alike. The published
# recipes have nothing that shrinks users to their mean; a recipe that only overfits loses more than this.
COST = 0.08


@pytest.mark.trained
@pytest.mark.parametrize("name", ["pref", "rfm"])
@pytest.mark.parametrize("permuted", [False, True])
def test_little_is_lost_where_nobody_differs(personal_gains: dict[str, float], name: str, permuted: bool) -> None:
    world = small_world({} if permuted else NOTHING_PERSONAL, permuted=permuted)
    bt = world.fit(BT(), select=False)

    gain = world.gain(world.fit(entered(name)), bt)
    measured("cost", -gain, at_most=COST, control=world.overfitting_cost(bt))
    measured("gain", gain, at_most=0.1, control=personal_gains[name])
