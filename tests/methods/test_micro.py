"""MiCRo: its loss by hand, what the prompt tells, and what a user's choices add."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from planted_clusters import World, world
from trained import measured

from prbench import registry
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.contract import population
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.micro import NO_CONTEXT, MiCRo
from prbench.registry import methods
from prbench.training.networks import Network
from prbench.training.side_by_side import SplitBatch

RNG = Rng("micro")


def shares(logits: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def by_hand(personal: bool) -> tuple[MiCRo, Comparisons]:
    """Two heads on one number, a router on the prompt's one number, and one choice of item 0 over item 1."""
    method = MiCRo(heads=2, personal=personal, temperature=2.0)
    network: Network = {
        "heads.weight": torch.tensor([[1.0], [-1.0]]),
        "router.weight": torch.tensor([[0.5], [0.0]]),
        "router.bias": torch.tensor([0.0, 1.0]),
    }
    zero = np.array([0])
    items = Items(torch.tensor([[2.0], [0.5]]), context=torch.tensor([[4.0], [4.0]]))
    return method.restore(network), Comparisons(items, zero, zero, zero + 1, zero, zero)


def test_a_users_weights_by_hand() -> None:
    method, choice = by_hand(True)
    cold = method.margins(method.cold_start(choice.users, choice.items, rng=RNG), choice)
    f = shares([2.0, 1.0])
    assert cold.item() == pytest.approx(1.5 * f[0] - 1.5 * f[1])
    warm = method.margins(method.adapt_unseen(choice, rng=RNG), choice)
    losses = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.5))]
    w = shares([2.0 - losses[0] / 2, 1.0 - losses[1] / 2])
    assert warm.item() == pytest.approx(1.5 * w[0] - 1.5 * w[1])
    alone, _ = by_hand(False)
    states = alone.adapt_unseen(choice, rng=RNG)
    assert not states.tensors
    assert alone.margins(states, choice).item() == pytest.approx(cold.item())


@pytest.mark.parametrize("routing", ["context", "static"])
def test_training_follows_autograd_on_the_loss_as_it_is_written(routing: Any) -> None:
    data = population(users=3, seed=2)
    method = MiCRo(heads=3, routing=routing, epochs=3, choices_per_batch=len(data), clip=0.0, warmup=0.0)
    (snapshot,) = method.train_splits(SplitBatch([data], [RNG], [{3}]))
    network = {name: value.double().requires_grad_() for name, value in method.start(6, 6, RNG).items()}
    used = np.unique(np.concatenate([data.chosen, data.rejected]))
    scale = 1 / float(data.items.embedding[used].square().mean().sqrt())
    assert data.items.context is not None
    delta = data.differences() * scale
    optimiser = torch.optim.Adam(network.values(), lr=method.rate)
    for step in range(3):
        for group in optimiser.param_groups:
            group["lr"] = method.rate * 0.5 * (1 + math.cos(math.pi * step / 3))
        if routing == "static":
            log_share = network["static"].log_softmax(0)[None]
        else:
            context = data.items.context[data.chosen] * scale
            log_share = (context @ network["router.weight"].T + network["router.bias"]).log_softmax(1)
        agreed = (log_share.exp() * torch.sigmoid(delta @ network["heads.weight"].T)).sum(1).log()
        loss = (0.5 * (log_share.exp() * log_share).sum(-1) - agreed).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    expected = {name: value.detach() for name, value in network.items()}
    for name in ("heads.weight", "router.weight"):
        if name in expected:
            expected[name] = expected[name] * scale
    for name, value in snapshot.tensors.items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)


def routed() -> World:
    """Choices whose reward has the sign of the prompt's first number, whoever chooses."""
    draw = RNG.child("routed").numpy()
    made = world(clusters=1, users=30, rows=60, dim=4)
    items = made.train.items
    assert items.context is not None
    context = torch.from_numpy(np.tile(np.where(draw.random(len(items) // 2) < 0.5, -1.0, 1.0), 2)).float()
    turned = items.embedding * context[:, None]
    changed = Items(turned, identity=items.identity, context=context[:, None] * torch.ones(1, 4))
    parts = [
        Comparisons(changed, p.user, p.chosen, p.rejected, p.group, p.row)
        for p in (made.train, made.validation, made.support, made.test)
    ]
    return World(made.cluster, *parts, made.truth)


@pytest.mark.trained
def test_the_router_finds_what_the_prompt_decides() -> None:
    by_prompt = routed()
    accuracy = by_prompt.accuracy(by_prompt.fit(MiCRo(personal=False, heads=4, rate=0.05, epochs=6)))
    measured("on prompts", accuracy, at_least=0.65, control=by_prompt.accuracy(by_prompt.fit(BTRidge())))


def test_micros_counts_and_where_it_runs() -> None:
    data = population(users=3, seed=2)
    none = Comparisons(Items(data.items.embedding), data.user, data.chosen, data.rejected, data.group, data.row)
    counts = {
        "micro": (10 * 4096 + 10 * 4097, 10),
        "micro-static": (10 * 4096 + 10, 10),
        "micro-router-only": (10 * 4096 + 10 * 4097, 0),
    }
    for name, count in counts.items():
        method = methods.make_method(registry.get("methods", name), None, {})
        assert method.parameters_for(4096) == count
        assert method.unsupported(data) is None
        assert method.unsupported(none) == (None if name == "micro-static" else NO_CONTEXT)
