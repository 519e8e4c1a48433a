"""Small populations with planted preferences, for tests of methods and of the engine."""

from __future__ import annotations

import numpy as np
import torch

from prbench.comparisons import Comparisons, Items


def population(
    *,
    users: int = 8,
    dim: int = 6,
    groups: tuple[int, int] = (1, 6),
    pairs: tuple[int, int] = (1, 3),
    seed: int = 0,
    personal: float = 1.0,
    noise: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Comparisons:
    """Users with rewards e·(shared + personal · own), ragged numbers of groups and of comparisons in each."""
    draw = np.random.default_rng(seed)
    shared, own = draw.normal(size=dim), draw.normal(size=(users, dim)) * personal
    rows: list[tuple[int, int]] = []
    for user in range(users):
        for group in range(int(draw.integers(groups[0], groups[1] + 1))):
            rows += [(user, group)] * int(draw.integers(pairs[0], pairs[1] + 1))
    user, group = np.array(rows, dtype=np.int64).T
    embedding = draw.normal(size=(2 * len(rows), dim))
    first, second = np.arange(0, 2 * len(rows), 2), np.arange(1, 2 * len(rows), 2)
    margin = ((embedding[first] - embedding[second]) * (shared + own[user])).sum(1) / noise
    wins = draw.random(len(rows)) < 1 / (1 + np.exp(-margin))
    return Comparisons(
        items=Items(torch.from_numpy(embedding).to(dtype)),
        user=user.copy(),
        chosen=np.where(wins, first, second),
        rejected=np.where(wins, second, first),
        group=group.copy(),
        row=np.arange(len(rows), dtype=np.int64),
    )
