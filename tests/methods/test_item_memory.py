"""Methods that learn items by heart: what they minimise and pass on, and the tastes that memory alone finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.nn.functional import leaky_relu
from trained import measured

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.contract import population
from prbench.method import Method
from prbench.methods.copl import CoPL
from prbench.methods.item_bt import ItemBT
from prbench.methods.item_mf import ItemMF
from prbench.training.choice_graph import make_edges
from prbench.training.item_memory import rows_of

RNG = Rng("item memory")
SMALL_COPL: dict[str, Any] = {"width": 16, "layers": 2, "epochs": 40, "rate": 0.01, "choices_per_batch": 256}


def opposed(users: int = 40, items: int = 24, choices: int = 40, *, dim: int = 3) -> Comparisons:
    """Half of the users like what the other half dislikes, among items that all compare; embeddings say it too."""
    draw = RNG.child("opposed").numpy()
    coordinate = draw.normal(size=items)
    user = np.repeat(np.arange(users), choices)
    n = len(user)
    first = draw.integers(items, size=n)
    second = (first + draw.integers(1, items, size=n)) % items
    margin = 3 * np.where(user % 2, 1, -1) * (coordinate[first] - coordinate[second])
    wins = draw.random(n) < expit(margin)
    embedding = np.column_stack([coordinate, draw.normal(size=(items, dim - 1))])
    return Comparisons(
        Items(torch.from_numpy(embedding), identity=torch.arange(items)),
        user,
        np.where(wins, first, second),
        np.where(wins, second, first),
        np.tile(np.arange(choices), users),
        np.arange(n),
    )


@pytest.fixture(scope="module")
def world() -> Comparisons:
    return opposed()


def fit(method: Any, data: Comparisons) -> Any:
    return method.fit_seen(data, data.take([]), rng=RNG)


def accuracy(method: Method, world: Comparisons, shots: int = 10) -> float:
    """On unseen users' choices after the first `shots` of them."""
    unseen = world.user >= 20
    test = world.take(unseen & (world.group >= 10))
    states = method.adapt_unseen(world.take(unseen & (world.group < shots)), users=test.users, rng=RNG)
    margin = method.margins(states, test)
    return float(((margin > 0).double() + 0.5 * (margin == 0)).mean())


@pytest.mark.trained
def test_memory_of_items_finds_opposed_tastes(world: Comparisons) -> None:
    seen = world.take(world.user < 20)
    plain = accuracy(fit(ItemBT(), seen), world)
    for name, method in {"item-mf": fit(ItemMF(rank=2), seen), "copl": fit(CoPL(**SMALL_COPL), seen)}.items():
        measured(f"{name}'s accuracy", accuracy(method, world), at_least=0.65, control=plain)
        measured(f"{name}'s cold start", accuracy(method, world, 0), at_most=0.65, control=accuracy(method, world))


def test_a_strong_penalty_of_tastes_leaves_the_items_strengths() -> None:
    data = population(users=6, seed=5, recurring=9)
    plain = fit(ItemBT(strength=0.5), data)
    method = fit(ItemMF(item_strength=0.5, taste_strength=1e3), data)
    torch.testing.assert_close(
        method.margins(method.seen_users(), data), plain.margins(plain.seen_users(), data), atol=5e-3, rtol=0
    )


def test_item_mf_is_at_a_minimum_of_its_objective() -> None:
    data = population(users=8, groups=(5, 9), seed=6, recurring=9)
    method = fit(ItemMF(rank=2, item_strength=0.5, taste_strength=0.4), data)
    table = method.learned()["table"].clone().requires_grad_()
    taste = method.seen_users().tensors["taste"].clone().requires_grad_()
    assert data.items.identity is not None
    identity = data.items.identity.numpy()
    difference = table[identity[data.chosen]] - table[identity[data.rejected]]
    margin = difference[:, 0] + (difference[:, 1:] * taste[torch.from_numpy(data.user)]).sum(1)
    penalty = 0.5 * table[:, 0].square().sum() + 0.4 * (table[:, 1:].square().sum() + taste.square().sum())
    loss = torch.nn.functional.softplus(-margin).sum() + 0.5 * penalty
    by_table, by_taste = torch.autograd.grad(loss, [table, taste])
    assert float(by_table.abs().max().detach()) < 0.01
    assert float(by_taste.abs().max().detach()) < 1e-6
    # There is something personal to it, and adapting to the same choices finds the same tastes.
    assert float(taste.detach().abs().max()) > 0.1
    again = method.adapt_unseen(data, rng=RNG).tensors["taste"]
    torch.testing.assert_close(again, taste.detach())
    assert method.parameter_count() == (9 * 3 + 1, 2)


@pytest.mark.parametrize("made", [ItemMF(), CoPL(epochs=2), ItemBT()])
def test_items_that_nobody_compared_are_ties(made: Any) -> None:
    data = population(users=6, seed=5, recurring=9)
    assert made.unsupported(population(users=6, seed=5)) is not None
    assert made.unsupported(data) is None
    method = fit(made, data)
    beyond = replace(data, items=replace(data.items, identity=torch.arange(len(data.items)) + 100))
    assert (method.margins(method.seen_users(), beyond) == 0).all()


def test_rows_by_item_numbers() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    items = Items(torch.zeros(4, 1), identity=torch.tensor([1, 0, 2, -1]))
    assert rows_of(table, items).tolist() == [[3.0, 4.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]


def test_messages_are_those_of_plain_dense_matrices() -> None:
    data = population(users=4, groups=(3, 5), seed=9, recurring=6)
    assert data.items.identity is not None
    identity = data.items.identity.numpy()
    owner, sides = data.user, [identity[data.chosen], identity[data.rejected]]
    edges = [make_edges(owner, side, (4, 6), "cpu") for side in sides]
    copl = CoPL(width=3, layers=2)
    network = copl.start(4, 6, RNG)
    for tensor in network.values():
        tensor.requires_grad_()
    users, items = copl.propagate(network, edges)

    dense = []
    for side in sides:
        count = torch.zeros(4, 6)
        for u, i in zip(owner.tolist(), side.tolist(), strict=True):
            count[u, i] += 1
        dense.append(count / (count.sum(1, keepdim=True).clamp_min(1) * count.sum(0).clamp_min(1)).sqrt())
    x, y = network["users"], network["items"]
    for layer in range(2):

        def node(own: torch.Tensor, good: torch.Tensor, bad: torch.Tensor, layer: int = layer) -> torch.Tensor:
            def through(name: str, value: torch.Tensor) -> torch.Tensor:
                return value @ network[f"{layer}.{name}.weight"].T + network[f"{layer}.{name}.bias"]

            signed = good + through("chosen", good * own) - bad - through("rejected", bad * own)
            return leaky_relu(signed + through("self", own), 0.2)

        x, y = node(x, dense[0] @ y, dense[1] @ y), node(y, dense[0].T @ x, dense[1].T @ x)
    torch.testing.assert_close(users, x)
    torch.testing.assert_close(items, y)
    # The gradients too, which the sparse products have of their own.
    values = list(network.values())
    found, expected = (
        torch.autograd.grad(a.square().sum() + b.square().sum(), values) for a, b in ((users, items), (x, y))
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    # 2 free tables, 3 layers with biases for each of 2 rounds.
    assert sum(value.numel() for value in values) == (4 + 6) * 3 + 2 * 3 * (3 * 3 + 3)


def test_edges_that_are_left_out_are_made_up_for() -> None:
    draw = RNG.child("edges").numpy()
    user, item = draw.integers(50, size=4000), draw.integers(60, size=4000)
    edges = make_edges(user, item, (50, 60), "cpu")
    thin = edges.thinned(0.25, RNG.child("thin").torch())
    kept = thin.from_users.values() / edges.from_users.values()
    assert {round(value, 5) for value in kept.tolist()} == {0.0, round(4 / 3, 5)}
    assert float(kept.mean()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(thin.from_items.to_dense(), thin.from_users.to_dense().T)


def test_an_unseen_user_of_copl_is_a_weighted_mean_of_neighbours() -> None:
    method = CoPL(width=2, temperature=0.5)
    # Three seen users: two have chosen item 0, one only item 1.
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    items = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    method.restore({"users": users, "items": items, "chosen": torch.tensor([[0, 1, 2], [0, 0, 1]])})
    zero = np.array([0])
    support = Comparisons(Items(torch.zeros(2, 1), identity=torch.arange(2)), zero, zero, zero + 1, zero, zero)
    found = method.adapt_unseen(support, users=np.array([0, 3]), rng=RNG).tensors["vector"]
    likelihood = torch.sigmoid(torch.tensor([1.0, 0.5])).log() / 0.5
    weight = likelihood.softmax(0)
    torch.testing.assert_close(found[0], weight[0] * users[0] + weight[1] * users[1])
    # Without a choice, and without anybody who chose the same item: the mean of all.
    torch.testing.assert_close(found[1], users.mean(0))
    other = replace(support, chosen=zero + 1, rejected=zero)
    method.restore({"users": users, "items": items, "chosen": torch.tensor([[0, 1, 2], [0, 0, 0]])})
    torch.testing.assert_close(method.adapt_unseen(other, rng=RNG).tensors["vector"][0], users.mean(0))


def test_copl_places_unknown_items_by_their_texts(world: Comparisons) -> None:
    seen = world.take((world.user < 20) & (world.chosen > 3) & (world.rejected > 3))
    method = fit(CoPL(**{**SMALL_COPL, "epochs": 10}, unknown="text", ridge=1e-9), seen)
    features = method.item_features(world.items)
    known = method.learned()["known"]
    assert known.tolist() == [False] * 4 + [True] * 20
    expected = torch.linalg.lstsq(world.items.embedding[4:], features[4:].double()).solution
    torch.testing.assert_close(features[:4].double(), world.items.embedding[:4] @ expected, atol=1e-3, rtol=1e-3)
