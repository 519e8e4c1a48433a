"""MRM's outer gradient through one inner step is written out by hand: autograd must find the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from prbench.methods.mrm import MRM
from prbench.training.episodes import Episodes
from prbench.training.steady import ROWS

SPLITS, USERS, BASES, CHOICES = 2, 3, 2, 2 * ROWS


def update(seed: int) -> tuple[torch.Tensor, torch.Tensor, Episodes]:
    """Projections [S, K, R], w0 [S, K] and an update in which the last split lacks a user."""
    draw = torch.Generator().manual_seed(seed)
    owner = torch.randint(0, USERS, (SPLITS, CHOICES), generator=draw)
    owner[-1] %= USERS - 1
    slots = torch.nn.functional.one_hot(owner, USERS).transpose(1, 2).double()
    is_query = torch.rand(SPLITS, 1, CHOICES, generator=draw) < 0.5
    weight = torch.rand(SPLITS, USERS, CHOICES, generator=draw, dtype=torch.float64)
    present = torch.ones(SPLITS, USERS, dtype=torch.bool)
    present[-1, -1] = False
    episodes = Episodes(
        where=torch.zeros(SPLITS, CHOICES, dtype=torch.int64),
        slots=slots,
        support=slots * weight * ~is_query,
        query=slots * weight * is_query,
        present=present,
    )
    z = torch.randn(SPLITS, BASES, CHOICES, generator=draw, dtype=torch.float64)
    return z, torch.randn(SPLITS, BASES, generator=draw, dtype=torch.float64), episodes


@pytest.mark.parametrize(
    ("link", "inner", "second_order", "robust"),
    list(itertools.product(("softmax", "identity"), ("adam", "sgd"), (True, False), (True, False))),
)
def test_the_hand_made_derivative_is_that_of_autograd(
    link: Any, inner: Any, second_order: bool, robust: bool
) -> None:
    method = MRM(link=link, inner=inner, inner_rate=0.3, second_order=second_order, robust=robust)
    for seed in range(3):
        z, start, episodes = update(seed)
        objective, by_z, by_start = method.outer_gradient(z, start, episodes)
        z, start = z.requires_grad_(), start.requires_grad_()
        traced = method.outer_objective(z, start, episodes)
        wanted = torch.autograd.grad(traced.sum(), (z, start))
        torch.testing.assert_close(objective, traced.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(by_z, wanted[0], rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(by_start, wanted[1], rtol=1e-8, atol=1e-11)
    # The second order is a part of the gradient that is there to be missed.
    other = MRM(link=link, inner=inner, inner_rate=0.3, second_order=not second_order, robust=robust)
    if inner == "sgd":
        assert not torch.allclose(other.outer_gradient(z.detach(), start.detach(), episodes)[2], by_start, rtol=1e-3)
