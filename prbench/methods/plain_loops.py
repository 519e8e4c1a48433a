"""Plain loops that `prbench bench` times the engine against: one split, one user at a time, autograd, torch's Adam.

They follow the same recipes, draw the same initial values and meet the same users in the same order as the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.training.optimiser import warmup_cosine

if TYPE_CHECKING:
    from torch import Tensor

    from prbench.methods.lore import LoRe
    from prbench.methods.mrm import MRM


def mrm_loop(method: MRM, train: Comparisons, rng: Rng) -> Iterator[dict[str, Tensor]]:
    """MRM's updates: for each user of an update an inner step that autograd goes through, then the query loss.

    Chosen and rejected embeddings are scored apart: on ready-made differences the loop takes about a fifth less time.
    The loop knows the published combination alone: inner Adam, one step, mean losses, softmax weights and the robust
    objective.
    """
    plan = method.plan(train, rng)
    embedding = train.items.embedding
    pairs = [torch.from_numpy(column) for column in (train.chosen, train.rejected)]
    bases, start = (t.to(embedding.dtype).requires_grad_() for t in method.initial(train.items.dim, rng))
    optimiser = torch.optim.Adam([bases, start], lr=method.rate)
    total = np.array([plan.updates * method.epochs])

    def loss(rows: Tensor, weight: Tensor) -> Tensor:
        chosen, rejected = (
            (embedding[column[rows]] * method.input_scale) @ bases.T @ weight.softmax(-1) for column in pairs
        )
        return -logsigmoid(chosen - rejected).mean()

    step = 0
    for number in range(method.epochs):
        epoch = plan.epoch(number)
        for update in range(epoch.updates):
            losses = []
            for slot in range(method.users_per_update):
                places = np.flatnonzero((epoch.update == update) & (epoch.slot == slot))
                if not len(places):
                    continue
                support = torch.from_numpy(epoch.order[places][epoch.support[places] > 0])
                query = torch.from_numpy(epoch.order[places][epoch.query[places] > 0])
                (gradient,) = torch.autograd.grad(loss(support, start), start, create_graph=True)
                adapted = start - method.inner_rate * gradient / (gradient.square().sqrt() + 1e-8)
                losses.append(loss(query, adapted))
            stacked = torch.stack(losses)
            excess = stacked - torch.quantile(stacked, 1 - method.rho)
            objective = (torch.sigmoid(excess / method.gamma) * stacked).sum()
            optimiser.zero_grad()
            torch.autograd.backward(objective)
            torch.nn.utils.clip_grad_norm_([bases, start], method.clip)
            factor = warmup_cosine(np.array([step]), total, warmup=method.warmup)[0]
            optimiser.param_groups[0]["lr"] = method.rate * float(factor)
            optimiser.step()
            step += 1
            yield {"bases": bases.detach(), "start": start.detach()}


def lore_loop(method: LoRe, train: Comparisons, rng: Rng) -> Iterator[dict[str, Tensor]]:
    """LoRe's (and BT's) full-batch steps: one loss term per user, V [d, K] as in the published recipe."""
    differences = train.differences()
    users = [torch.from_numpy(np.flatnonzero(train.user == user)) for user in train.users]
    rows = [differences[index] for index in users]
    bases = torch.randn(method.bases, train.items.dim, generator=rng.child("bases").torch())
    weights = torch.zeros(len(rows), method.bases)
    if method.personal:
        weights = torch.randn(len(rows), method.bases, generator=rng.child("weights").torch())
    bases, weights = (t.to(differences.dtype).contiguous().requires_grad_() for t in (bases.T, weights))
    optimiser = torch.optim.Adam([bases, weights], lr=method.rate)
    for _ in range(method.steps):
        loss = torch.zeros((), dtype=differences.dtype)
        for user_rows, weight in zip(rows, weights, strict=True):
            logits = user_rows @ bases @ weight.softmax(-1) / method.divisor
            loss = loss - logsigmoid(logits).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        yield {"bases": bases.detach().T, "weight": weights.detach()}
