"""Heads and their weights: the rule by hand, the fits against plain ones, and the tastes that they find."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_clusters import World, dealt, rand_index, world
from scipy.optimize import minimize
from torch.nn.functional import logsigmoid, softplus
from trained import measured, near

from prbench import registry
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.contract import population
from prbench.method import Method
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.drm import DRM, RandomHeads
from prbench.methods.em_k import EMK
from prbench.methods.hyre import HyRe
from prbench.methods.lore import LoRe
from prbench.methods.rfm import RFM
from prbench.registry import methods
from prbench.training.differences import Differences
from prbench.training.reweighting import head_losses, posterior_logits, posterior_mean
from prbench.training.user_ridge import unit_rows

RNG = Rng("heads")
D = 4096


@pytest.fixture(scope="module")
def three() -> World:
    return world(clusters=3)


@pytest.fixture(scope="module")
def pooled(three: World) -> float:
    """The accuracy of one reward for all, which the clusters' rewards leave nothing to."""
    return three.accuracy(three.fit(BTRidge()))


def fit(method: Any, data: Comparisons) -> Any:
    return method.fit_seen(data, data.take([]), rng=RNG)


def cold_margins(method: Method, data: Comparisons) -> torch.Tensor:
    return method.margins(method.cold_start(data.users, data.items, rng=RNG), data)


def test_the_posterior_over_heads_by_hand() -> None:
    # Two users, two heads: odds of 3 : 1 for a margin of ln 3, of 1 : 1 for 0.
    margins = torch.tensor([[math.log(3), 0.0], [math.log(3), -math.log(3)], [0.0, math.log(3)]]).double()
    owner = torch.tensor([0, 0, 1])
    losses = head_losses(margins, owner, 3)
    expected = [[-2 * math.log(3 / 4), math.log(2) - math.log(1 / 4)], [math.log(2), -math.log(3 / 4)], [0.0, 0.0]]
    assert losses.tolist() == [pytest.approx(row) for row in expected]
    assert head_losses(margins, owner, 3, "mean")[0].tolist() == pytest.approx([x / 2 for x in expected[0]])
    weights = posterior_logits(margins, owner, 3).softmax(-1)
    # (3/4)² against (1/2)(1/4); (1/2) against (3/4); nothing known.
    assert weights[:, 0].tolist() == pytest.approx([0.5625 / 0.6875, 0.4, 0.5])
    cool = posterior_logits(margins, owner, 3, temperature=0.5).softmax(-1)
    assert cool[0, 0].item() == pytest.approx(0.5625**2 / (0.5625**2 + 0.125**2))


def test_the_posterior_mean_over_seen_users_by_hand() -> None:
    hypotheses = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).double()
    projected = torch.tensor([[math.log(3), 0.0]]).double()
    found = posterior_mean(projected, torch.tensor([1]), 2, hypotheses)
    # Likelihoods 3/4, 1/2 and 1/4.
    assert found.tolist() == [pytest.approx([0.0, 1 / 3]), pytest.approx([1 / 3, 1 / 3])]


@pytest.mark.parametrize("made", [DRM(components=3), DRM(components=3, original_head=True), RandomHeads(heads=5)])
def test_untrained_heads_are_weighed_as_the_formula_says(made: Any) -> None:
    data = population(users=5, seed=3)
    method = fit(made, data)
    states = method.adapt_unseen(data, rng=RNG)
    features = method.item_features(data.items)
    margins = method.margins(states, data)
    for user in range(5):
        mine = data.of(user)
        both = features[np.concatenate([mine.chosen, mine.rejected])]
        scores = (features - both.mean(0)) / both.std(0)
        loss = -logsigmoid(scores[mine.chosen] - scores[mine.rejected]).sum(0)
        weights = torch.exp(-loss) / torch.exp(-loss).sum()
        expected = ((scores[mine.chosen] - scores[mine.rejected]) * weights).sum(1)
        torch.testing.assert_close(margins[torch.from_numpy(data.user == user)], expected)
    # Ties, but for the encoder's own head.
    cold = cold_margins(method, data)
    assert data.items.reward is not None
    reward = (data.items.reward[data.chosen] - data.items.reward[data.rejected]).double()
    torch.testing.assert_close(cold, reward if getattr(made, "original_head", False) else 0 * cold)


def test_a_head_that_says_the_same_of_all_items_is_harmless() -> None:
    data = population(users=2, seed=4)
    flat = replace(data, items=replace(data.items, embedding=0 * data.items.embedding))
    margins = [fit(made, flat).margins(fit(made, flat).seen_users(), flat) for made in (DRM(), RandomHeads())]
    assert all((margin == 0).all() for margin in margins)


def test_drms_heads_are_the_principal_directions() -> None:
    draw = np.random.default_rng(0)
    # Differences whose variances are 9, 4 and 1 around a mean of 5 along the last axis.
    delta = torch.from_numpy(draw.normal(size=(400, 3)) * [3.0, 2.0, 1.0] + [0.0, 0.0, 5.0])
    n = np.arange(400)
    data = Comparisons(Items(torch.cat([delta, 0 * delta])), n % 4, n, n + 400, n, n)
    heads = fit(DRM(components=2), data).learned()["heads"]
    assert heads.shape == (4, 3)
    torch.testing.assert_close(heads[:2], -heads[2:])
    _, _, components = torch.linalg.svd(delta - delta.mean(0))
    torch.testing.assert_close((heads[:2] @ components[:2].T).abs(), torch.eye(2).double(), atol=1e-9, rtol=0)
    # With its mean the direction of consensus comes first.
    first = fit(DRM(components=1, centred=False), data).learned()["heads"][0]
    assert abs(float(first[2])) > 0.99
    assert "no reward head" in str(DRM(original_head=True).unsupported(data))


@pytest.mark.trained
def test_every_head_of_hyre_is_the_minimiser_around_its_own_prior() -> None:
    data = population(users=6, dim=4, groups=(3, 8), pairs=(1, 1), seed=RNG.child("hyre").seed)
    x, length = unit_rows(data, "cpu")
    share = torch.from_numpy(1 / (np.bincount(data.user)[data.user] * 6))
    weak, strong = (fit(HyRe(heads=3, strength=strength), data).learned()["heads"] for strength in (0.02, 1e6))
    priors = strong * length

    def alone(k: int) -> Any:
        def value(flat: Any) -> tuple[float, Any]:
            v = torch.from_numpy(flat).requires_grad_()
            loss = (softplus(-(x @ (v + priors[k]))) * share).sum() + 0.01 * v @ v
            (gradient,) = torch.autograd.grad(loss, v)
            return float(loss.detach()), gradient.numpy()

        own = minimize(value, np.zeros(4), jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 1e-16}).x
        return torch.from_numpy(own) + priors[k]

    expected = torch.stack([alone(k) for k in range(3)])
    near("heads", weak * length, expected, at_most=1e-2, control=priors)


@pytest.mark.trained
def test_em_with_one_kind_is_ridge_bradley_terry() -> None:
    data = population(users=6, dim=4, groups=(3, 8), pairs=(1, 1), seed=RNG.child("one kind").seed)
    x, length = unit_rows(data, "cpu")

    def value(flat: Any) -> tuple[float, Any]:
        v = torch.from_numpy(flat).requires_grad_()
        loss = softplus(-(x @ v)).sum() + 0.5 * 3.0 * v @ v
        (gradient,) = torch.autograd.grad(loss, v)
        return float(loss.detach()), gradient.numpy()

    expected = minimize(value, np.zeros(4), jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 1e-16}).x
    for hard in (False, True):
        method = fit(EMK(kind=1, strength=3.0, hard=hard), data)
        near(f"head, {hard}", method.learned()["heads"][0] * length, expected, at_most=1e-3, control=0 * expected)
        assert method.learned()["shares"].tolist() == [1.0]


@pytest.mark.parametrize("recurring", [0, 5])
def test_products_with_differences_are_those_of_the_matrix(recurring: int) -> None:
    data = population(users=4, seed=6, recurring=recurring)
    if recurring:
        assert data.items.identity is not None
        first = np.unique(data.items.identity.numpy(), return_index=True)[1]
        chosen, rejected = (first[data.items.identity.numpy()[side]] for side in (data.chosen, data.rejected))
        data = replace(data, chosen=chosen, rejected=rejected)
    x, length = unit_rows(data, "cpu")
    rows = Differences(data, "cpu")
    assert (rows.sides is None) == (recurring == 0)
    draw = RNG.child("products").torch()
    heads = torch.randn(3, 6, generator=draw).double()
    weights = torch.randn(len(data), 3, generator=draw).double()
    assert rows.length == pytest.approx(length)
    torch.testing.assert_close(rows.times(heads), x @ heads.T)
    torch.testing.assert_close(rows.pull_back(weights), weights.T @ x)


@pytest.mark.parametrize("hard", [False, True])
def test_no_round_of_em_raises_the_objective(hard: bool, three: World) -> None:
    method = EMK(hard=hard, starts=3)
    method.stream = RNG
    data = three.train.take(three.train.user < 20)
    rows = Differences(replace(data, items=Items(data.items.embedding.double())), "cpu")
    rounds = list(method.improve(rows, np.searchsorted(data.users, data.user), 20, 3, 3.0))
    objectives = torch.stack([mixture.objective for mixture in rounds])
    assert len(rounds) > 3
    assert (objectives.diff(dim=0) <= 1e-9 * objectives[0]).all()
    assert (objectives[-1] < objectives[0]).all()
    last = rounds[-1]
    torch.testing.assert_close(last.responsible.sum(-1), torch.ones_like(last.responsible[..., 0]))
    if hard:
        assert ((last.responsible == 0) | (last.responsible == 1)).all()


@pytest.mark.trained
@pytest.mark.parametrize("hard", [False, True])
def test_em_finds_the_planted_kinds(hard: bool, three: World, pooled: float) -> None:
    method = three.fit(EMK(kinds=(3,), kind=3, strengths=(3.0,), starts=10, hard=hard))
    for name, states in {"seen": method.seen_users(), "unseen": method.adapt_unseen(three.support, rng=RNG)}.items():
        found, cluster = states.tensors["weight"].argmax(-1).numpy(), three.cluster[states.users]
        measured(name, rand_index(found, cluster), at_least=0.4, control=rand_index(dealt(cluster), cluster))
    measured("accuracy", three.accuracy(method), at_least=0.7, control=pooled)
    measured("accuracy at cold start", three.cold(method), at_most=0.7, control=three.accuracy(method))


@pytest.mark.trained
def test_validation_chooses_as_many_kinds_as_there_are(three: World) -> None:
    """One kind where users are alike, and more where they are not."""
    alike = world(clusters=1, users=30, rows=40)
    grid = {"kinds": (1, 3), "strengths": (3.0,), "starts": 6}
    scores = {}
    for name, data in (("three", three), ("alike", alike)):
        curve = data.fit(EMK(**grid)).fit_record()["curve"]
        scores[name] = curve["3.0 3.0"] - curve["1.0 3.0"]
    measured("gain of more kinds", scores["three"], at_least=0.1, control=scores["alike"])


@pytest.mark.trained
def test_weighing_ready_heads_finds_tastes_without_a_gradient(three: World, pooled: float) -> None:
    lore = three.fit(LoRe(bases=6, steps=60, divisor=1.0, rate=0.2, adapt="reweight"))
    rfm = three.fit(RFM(features=4, steps=60, rate=0.05, adapt="reweight"))
    for name, method in {"lore": lore, "rfm": rfm, "hyre": three.fit(HyRe(heads=50, prior_scale=5.0))}.items():
        measured(f"{name}'s accuracy", three.accuracy(method), at_least=0.6, control=three.cold(method))
    measured("accuracy of a seen user's taste", three.accuracy(rfm), at_least=0.7, control=pooled)


@pytest.mark.trained
def test_drm_finds_tastes_that_lie_where_choices_vary_most() -> None:
    """Two kinds of users differ along the widest of 40 axes: random heads hardly know it."""
    draw = RNG.child("wide").numpy()
    user = np.repeat(np.arange(300), 24)
    n = len(user)
    embedding = draw.normal(size=(2 * n, 40)) * np.where(np.arange(40) < 1, 4.0, 1.0)
    margin = 1.5 * np.where(user % 2, 1, -1) * (embedding[:n, 0] - embedding[n:, 0])
    wins = draw.random(n) < 1 / (1 + np.exp(-margin))
    first, second = np.arange(n), np.arange(n, 2 * n)
    data = Comparisons(
        Items(torch.from_numpy(embedding).float()),
        user,
        np.where(wins, first, second),
        np.where(wins, second, first),
        np.tile(np.arange(24), 300),
        np.arange(n),
    )
    seen, support = data.user < 20, data.group < 4
    test = data.take(~seen & ~support)

    def accuracy(method: Method, rng: Rng = RNG) -> float:
        method.fit_seen(data.take(seen), data.take([]), rng=rng)
        margins = method.margins(method.adapt_unseen(data.take(~seen & support), rng=rng), test)
        return float(((margins > 0).double() + 0.5 * (margins == 0)).mean())

    # One draw of six heads may happen to lie along that axis.
    random = np.mean([accuracy(RandomHeads(heads=6), RNG.child("random", draw)) for draw in range(12)])
    measured("accuracy", accuracy(DRM(components=3)), at_least=0.74, control=random)


COUNTS = {
    "hyre": (20 * D, 20),
    "drm": (100 * D, 100),
    "drm-uncentred": (100 * D, 100),
    "drm-head": (100 * D, 101),
    "random-heads": (100 * D, 100),
    "lore-reweight": (5 * D, 5),
}


@pytest.mark.parametrize("name", COUNTS)
def test_heads_count_as_their_formula_says(name: str) -> None:
    method = methods.make_method(registry.get("methods", name), None, {})
    assert method.parameters_for(D) == COUNTS[name]


def test_counts_that_the_data_decide() -> None:
    data = population(users=6, dim=4, seed=2)
    # Few dimensions have few principal directions.
    assert DRM().parameters_for(4) == (8 * 4, 8) == fit(DRM(), data).parameter_count()
    assert EMK().parameters_for(4) is None
    assert EMK(kinds=(3,), kind=3).parameters_for(4) == (3 * 4 + 3, 3) == fit(EMK(kind=3), data).parameter_count()
    reweighted = RFM(features=3, steps=5, adapt="reweight")
    assert reweighted.parameters_for(4) is None
    assert fit(reweighted, data).parameter_count() == (3 * 4 + 6 * 3, 3)
    assert RFM(features=3).parameters_for(4) == (12, 3)


def test_reweighting_leaves_stored_results_their_keys() -> None:
    for name in ("lore", "rfm", "pref"):
        method = methods.make_method(registry.get("methods", name), None, {})
        assert not {"adapt", "temperature"} & method.key_parameters.keys()
    changed = methods.make_method(registry.get("methods", "rfm-reweight"), None, {})
    assert changed.key_parameters["adapt"] == "reweight"
