"""What variants of MRM and plain MAML find on populations whose truth is known, and what published MRM does not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.nn.functional import logsigmoid
from trained import measured, near

from prbench import registry
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items
from prbench.contract import population
from prbench.method import Method, UserStates
from prbench.methods.linear_maml import LinearMAML
from prbench.methods.mrm import MRM
from prbench.registry import methods
from prbench.training.gradient import SplitBatch
from prbench.training.optimiser import warmup_cosine

RNG = Rng("variants")
# Enough inner steps for a logit to go where the data say, and half of a user's choices to say it. With steps of 0.5, the
# softmax saturates on the way and second-order training leaves some starts with a single base function.
MORE: dict[str, Any] = {
    "inner_steps": 10,
    "inner_rate": 0.2,
    "query_share": 0.5,
    "epochs": 25,
    "rate": 0.1,
    "users_per_update": 6,
    "input_scale": 0.3,
}
# The entry's own inner steps, with fewer and larger outer ones. Where tastes differ, larger inner steps than the entry's 3
# personalise more.
QUICK: dict[str, Any] = {"users_per_update": 6, "epochs": 150, "rate": 0.01}


@dataclass(frozen=True, eq=False)
class Population:
    """A population with the users' true weights of two true bases [2, d], cut into the parts of a split.

    `truth` holds the true margin of each choice.
    """

    data: Comparisons
    bases: FloatArray
    share: FloatArray
    truth: FloatArray
    train: Comparisons
    seen_test: Comparisons
    support: Comparisons
    test: Comparisons


def cut(data: Comparisons, groups: int) -> tuple[Comparisons, Comparisons, Comparisons, Comparisons]:
    """The first half of the users is seen, the first half of everyone's groups is for training."""
    seen, first = data.user < len(data.users) // 2, data.group < groups // 2
    return data.take(seen & first), data.take(seen & ~first), data.take(~seen & first), data.take(~seen & ~first)


@cache
def two_bases(dim: int = 8, groups: int = 60, users: int = 80) -> Population:
    """Users with rewards 3·e·(π a + (1 − π) b), orthonormal a and b, most of them near one or the other."""
    draw = RNG.child("two bases").numpy()
    bases = np.linalg.qr(draw.normal(size=(dim, 2)))[0].T
    share = draw.beta(0.3, 0.3, size=users)
    user = np.repeat(np.arange(users), groups)
    embedding = draw.normal(size=(len(user), 2, dim))
    truth = 3 * (share[user, None] * bases[0] + (1 - share[user, None]) * bases[1])
    margin = np.einsum("nd,nd->n", embedding[:, 0] - embedding[:, 1], truth)
    wins = draw.random(len(user)) < 1 / (1 + np.exp(-margin))
    first = 2 * np.arange(len(user))
    data = Comparisons(
        items=Items(torch.from_numpy(embedding.reshape(-1, dim)).float()),
        user=user,
        chosen=np.where(wins, first, first + 1),
        rejected=np.where(wins, first + 1, first),
        group=np.tile(np.arange(groups), users),
        row=np.arange(len(user)),
    )
    return Population(data, bases, share, np.where(wins, margin, -margin), *cut(data, groups))


def fit(name: str, train: Comparisons, **params: Any) -> Method:
    method = methods.make_method(registry.get("methods", name), None, params)
    return method.fit_seen(train, train.take([]), rng=RNG)


def unseen_accuracy(method: Method, support: Comparisons, test: Comparisons, truth: FloatArray) -> float:
    """The probability that an unseen user agrees with a decision, which has no luck of single test choices in it.

    `truth` holds the true margin of each row of the population.
    """
    margins = method.margins(method.adapt_unseen(support, users=test.users, rng=RNG), test)
    return agreement(margins, test, truth)


def agreement(margins: torch.Tensor, test: Comparisons, truth: FloatArray) -> float:
    return float(expit(np.sign(margins.numpy()) * truth[test.row]).mean())


def flips(method: Method, support: Comparisons, test: Comparisons) -> float:
    """The share of decisions that differ between the adapted states and the cold start."""
    adapted = method.margins(method.adapt_unseen(support, rng=RNG), test) > 0
    cold = method.margins(method.cold_start(test.users, test.items, rng=RNG), test) > 0
    return float((adapted != cold).float().mean())


@cache
def more_steps() -> Method:
    return fit("mrm", two_bases().train, **MORE)


def accuracy(method: Method, world: Population) -> float:
    return unseen_accuracy(method, world.support, world.test, world.truth)


@cache
def published() -> Method:
    return fit("mrm", two_bases().train)


@cache
def shared_alone() -> float:
    return accuracy(fit("bt-ridge", two_bases().train), two_bases())


def base_weight(states: UserStates) -> FloatArray:
    return states.tensors["weight"].softmax(-1)[:, 0].double().numpy()


@pytest.mark.trained
def test_more_inner_steps_find_the_users_base_weights() -> None:
    world, method = two_bases(), more_steps()
    v = method.learned()["bases"].double().numpy()
    direction = (v[0] - v[1]) / np.linalg.norm(v[0] - v[1])
    true = (world.bases[0] - world.bases[1]) / np.sqrt(2)
    # Which of the two learned bases is the first is arbitrary; what must agree is the line between them.
    sign = np.sign(direction @ true)
    # The root mean square of the cosine of a direction drawn at random.
    measured("cosine", abs(direction @ true), at_least=0.7, control=len(true) ** -0.5)
    for name, states in {
        "seen": method.seen_users(),
        "unseen": method.adapt_unseen(world.support, rng=RNG),
    }.items():
        found, share = sign * base_weight(states), world.share[states.users]
        dealt = RNG.child("dealt").numpy().permutation(share)
        measured(name, np.corrcoef(found, share)[0, 1], at_least=0.87, control=np.corrcoef(found, dealt)[0, 1])


@pytest.mark.trained
def test_more_inner_steps_beat_bradley_terry() -> None:
    world, method = two_bases(), more_steps()
    cold = method.margins(method.cold_start(world.test.users, world.test.items, rng=RNG), world.test)
    gain = accuracy(method, world) - shared_alone()
    measured("gain", gain, at_least=0.044, control=agreement(cold, world.test, world.truth) - shared_alone())
    flipped = flips(method, world.support, world.test)
    measured("flips", flipped, at_least=0.1, control=flips(published(), world.support, world.test))


@pytest.mark.trained
def test_published_mrm_does_not_personalise_even_there() -> None:
    """One fresh Adam step moves a logit by no more than its step size, whatever the data say."""
    world, more, method = two_bases(), more_steps(), published()
    flipped = flips(method, world.support, world.test)
    measured("flips", flipped, at_most=0.03, control=flips(more, world.support, world.test))

    def adapted(method: Method) -> float:
        cold = method.margins(method.cold_start(world.test.users, world.test.items, rng=RNG), world.test)
        return accuracy(method, world) - agreement(cold, world.test, world.truth)

    measured("gain over the cold start", adapted(method), at_most=0.02, control=adapted(more))
    moved = method.adapt_unseen(world.support, rng=RNG).tensors["weight"] - method.learned()["start"]
    further = more.adapt_unseen(world.support, rng=RNG).tensors["weight"] - more.learned()["start"]
    measured("moved", moved.abs().max(), at_most=0.0051, control=further.abs().max())


@pytest.mark.trained
def test_first_order_gradients_find_the_same_as_second_order_ones() -> None:
    world = two_bases()
    method = fit("mrm-first-order", world.train, **MORE)
    without = accuracy(published(), world) - shared_alone()
    measured("gain", accuracy(method, world) - shared_alone(), at_least=0.03, control=without)


@pytest.mark.trained
def test_one_base_function_is_nothing_personal() -> None:
    world = two_bases()
    method = fit("mrm-k1", world.train, epochs=30, rate=0.05, input_scale=0.3)
    assert flips(method, world.support, world.test) == 0
    away = abs(accuracy(method, world) - shared_alone())
    measured("away from BT", away, at_most=0.03, control=accuracy(more_steps(), world) - shared_alone())


@pytest.mark.trained
def test_maml_adapts_to_each_user() -> None:
    world = two_bases(32, 120, users=160)
    method = fit("maml", world.train, **QUICK, inner_rate=10.0)
    shared = accuracy(fit("bt-ridge", world.train), world)
    nobody = method.cold_start(world.test.users, world.test.items, rng=RNG)
    states = method.adapt_unseen(world.support, rng=RNG)
    strangers = UserStates(states.users, {"weight": states.tensors["weight"].roll(1, 0)})

    def gain(states: UserStates) -> float:
        return agreement(method.margins(states, world.test), world.test, world.truth) - shared

    measured("gain", gain(states), at_least=0.0115, control=gain(strangers))
    share = world.share[nobody.users, None]
    true = share * world.bases[0] + (1 - share) * world.bases[1]

    def alike(states: UserStates) -> FloatArray:
        return cosine(states.tensors["weight"].double().numpy(), true)

    nearer = alike(states) - alike(nobody)
    # The cold start is no nearer to anyone than itself.
    measured("nearer", nearer.mean(), at_least=0.015, control=0)
    measured("share of users nearer", (nearer > 0).mean(), at_least=0.6, control=0)


def cosine(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.einsum("nd,nd->n", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def clones(users: int = 60, groups: int = 60, dim: int = 64) -> tuple[Comparisons, FloatArray]:
    """Users with one reward, whose choices are noisy, and the true margin of each choice."""
    draw = RNG.child("clones").numpy()
    n = users * groups
    embedding, reward = draw.normal(size=(n, 2, dim)), draw.normal(size=dim)
    margin = 2 * (embedding[:, 0] - embedding[:, 1]) @ (reward / np.linalg.norm(reward))
    wins = draw.random(n) < expit(margin)
    first = 2 * np.arange(n)
    items = Items(torch.from_numpy(embedding.reshape(-1, dim)).float())
    data = Comparisons(
        items=items,
        user=np.repeat(np.arange(users), groups),
        chosen=np.where(wins, first, first + 1),
        rejected=np.where(wins, first + 1, first),
        group=np.tile(np.arange(groups), users),
        row=np.arange(n),
    )
    return data, np.where(wins, margin, -margin)


@pytest.mark.trained
@pytest.mark.parametrize(("name", "params"), [("maml", QUICK), ("mrm", MORE)])
def test_among_clones_adapting_costs_little(name: str, params: dict[str, Any]) -> None:
    data, truth = clones()
    train, _, support, test = cut(data, 60)

    def behind(method: Method) -> float:
        return float(expit(np.abs(truth[test.row])).mean()) - unseen_accuracy(method, support, test, truth)

    # A reward from a user's own choices alone.
    alone = behind(fit("user-bt", train))
    measured("Bradley-Terry behind the truth", behind(fit("bt-ridge", train)), at_most=0.1, control=alone)
    measured("behind the truth", behind(fit(name, train, **params)), at_most=0.1, control=alone)


@pytest.mark.trained
def test_choices_dealt_to_the_wrong_users_cost_little() -> None:
    world = two_bases(64)
    dealt: IntArray = RNG.child("dealt").numpy().permutation(world.data.user)
    train, _, support, test = cut(replace(world.data, user=dealt), 60)
    maml, shared, alone = (
        unseen_accuracy(fit(name, train, **params), support, test, world.truth)
        for name, params in (("maml", QUICK), ("bt-ridge", {}), ("user-bt", {}))
    )
    measured("cost", shared - maml, at_most=0.03, control=shared - alone)


def test_the_sweeps_vary_one_thing_each() -> None:
    expected: dict[str, dict[str, Any]] = {
        **{f"mrm-k{k}": {"bases": k} for k in (1, 4, 8)},
        **{f"mrm-rho-{text}": {"rho": rho} for text, rho in (("0_1", 0.1), ("0_2", 0.2), ("0_3", 0.3), ("0_8", 0.8))},
        **{f"mrm-gamma-{text}": {"gamma": g} for text, g in (("0", 0.0), ("0_1", 0.1), ("0_25", 0.25), ("1", 1.0))},
        **{f"mrm-batch-{batch}": {"users_per_update": batch} for batch in (4, 8, 16, 32)},
        **{f"mrm-steps-{steps}": {"inner_steps": steps} for steps in (5, 20)},
        "mrm-first-order": {"second_order": False},
    }
    assert len(expected) == 18
    prism = registry.get("datasets", "sim-prism")
    looks = set()
    for name, change in expected.items():
        entry = registry.get("methods", name)
        assert not entry.default
        assert name not in registry.select("methods", "all")
        for dataset in (None, prism):
            varied, base = (methods.make_method(registry.get("methods", n), dataset, {}) for n in (name, "mrm"))
            assert isinstance(varied, MRM)
            assert varied.hyper_parameters == base.hyper_parameters | change != base.hyper_parameters
        # A tuned variant must not leave the value that it is named after.
        for key, value in change.items():
            assert key not in entry.search or entry.search[key].choices == [value]
        assert entry.search["bases"].choices == [change.get("bases", 2)]
        looks.add((entry.style.colour, entry.style.marker))
    assert len(looks) == len(expected)


def plain_maml(method: LinearMAML, data: Comparisons, rng: Rng, updates: int) -> torch.Tensor:
    """One weight vector per user and update, autograd for both loops."""
    plan = method.plan(data, rng)
    differences = data.differences(dtype=torch.float64)
    differences = differences / differences.square().sum(1).mean().sqrt()
    shared = method.initial(data.items.dim, rng).double().requires_grad_()
    optimiser = torch.optim.Adam([shared], lr=method.rate)
    total = np.array([plan.updates * method.epochs])

    def loss(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        losses = -logsigmoid(differences[rows] @ weights)
        return losses.mean() if method.reduction == "mean" else losses.sum()

    done = 0
    for number in itertools.count():
        epoch = plan.epoch(number)
        for update, _ in itertools.groupby(epoch.update):
            objective = torch.zeros((), dtype=torch.float64)
            for slot in range(method.users_per_update):
                here = (epoch.update == update) & (epoch.slot == slot)
                if not here.any():
                    continue
                support, query = (torch.from_numpy(epoch.order[here & (w > 0)]) for w in (epoch.support, epoch.query))
                weights = shared
                first, second = torch.zeros_like(shared), torch.zeros_like(shared)
                for step in range(1, method.inner_steps + 1):
                    (slope,) = torch.autograd.grad(loss(weights, support), weights, create_graph=method.second_order)
                    if method.inner == "sgd":
                        weights = weights - method.inner_rate * slope
                        continue
                    first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
                    size = (second / (1 - 0.999**step)).sqrt() + 1e-8
                    weights = weights - method.inner_rate * first / (1 - 0.9**step) / size
                objective = objective + loss(weights, query)
            optimiser.zero_grad()
            objective.backward()
            torch.nn.utils.clip_grad_norm_([shared], method.clip)
            optimiser.param_groups[0]["lr"] = method.rate * warmup_cosine(np.array([done]), total, warmup=0.05)[0]
            optimiser.step()
            done += 1
            if done == updates:
                return shared.detach()
    raise AssertionError


MAML_VARIANTS: dict[str, dict[str, Any]] = {
    "as entered": {},
    "first order": {"second_order": False},
    "one step": {"inner_steps": 1, "inner_rate": 3.0},
    "no step": {"inner_steps": 0},
    "three users, sums": {"users_per_update": 3, "reduction": "sum", "inner_rate": 0.3},
    "Adam": {"inner": "adam", "inner_rate": 0.05, "inner_steps": 2},
    "half support": {"query_share": 0.5, "clip": 0.05},
}


@pytest.mark.trained
@pytest.mark.parametrize("variant", MAML_VARIANTS)
def test_linear_maml_follows_a_plain_loop_for_50_updates(variant: str) -> None:
    data = population(users=9, groups=(1, 7), seed=RNG.child("ragged").seed)
    method = LinearMAML(epochs=50, rate=0.05, **MAML_VARIANTS[variant])
    rng = Rng("test", 1)
    per_epoch = method.plan(data, rng).updates
    epochs = -(-50 // per_epoch)
    (snapshot,) = method.train_splits(SplitBatch([data], [rng], [{epochs}]))
    plain = plain_maml(method, data, rng, epochs * per_epoch)
    near("start", snapshot.tensors["start"], plain, at_most=1e-6, control=method.initial(6, rng))


def test_linear_maml_does_not_depend_on_the_scale_of_embeddings() -> None:
    data = population(users=8, groups=(3, 6), seed=2)
    larger = replace(data, items=replace(data.items, embedding=data.items.embedding * 37))
    margins = []
    for train in (data, larger):
        method = fit("maml", train, epochs=5)
        margins.append(method.margins(method.seen_users(), train))
    torch.testing.assert_close(margins[0], margins[1], atol=1e-8, rtol=0)


def test_many_users_adapt_in_portions_as_they_do_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = two_bases()
    method = fit("maml", world.train, epochs=1)
    whole = method.adapt_unseen(world.support, rng=RNG)
    monkeypatch.setattr("prbench.methods.linear_maml.ROWS_AT_ONCE", 100)
    portions = method.adapt_unseen(world.support, rng=RNG)
    torch.testing.assert_close(portions.tensors["weight"], whole.tensors["weight"])
    assert len(set(np.round(whole.tensors["weight"][:, 0].numpy(), 4))) == len(whole)
