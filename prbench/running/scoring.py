"""Scores a fitted method on held-out choices."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from prbench.comparisons import Comparisons
from prbench.method import Method, UserStates
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng, support_of


def score_unseen(
    method: Method, setting: OpenDataset, split: Split, shots: int, restart: int
) -> tuple[dict[str, Any], float]:
    """Scores of the unseen users' test choices after `shots` support choices, and the seconds spent on adapting.

    `restart` is the random start that the method was fitted from.
    """
    comparisons = setting.comparisons()
    test = comparisons.take(split.unseen_test)
    rng = adapt_rng(setting, split, restart)
    support = comparisons.take(support_of(setting, split, shots))
    start = time.perf_counter()
    states: UserStates = method.adapt_unseen(support, users=split.unseen, rng=rng)
    spent = time.perf_counter() - start
    features = method.features_of(test)
    margin = method.margins(states, test, features)
    cold = method.margins(method.cold_start(split.unseen, comparisons.items, rng=rng), test, features)
    return score_columns("unseen", test, margin, cold), spent


def score_columns(population: str, test: Comparisons, margin: torch.Tensor, cold: torch.Tensor) -> dict[str, Any]:
    """The columns of a scores file. Raises FloatingPointError when a margin is not finite."""
    for name, values in (("margin", margin), ("cold-start margin", cold)):
        if not bool(torch.isfinite(values).all()):
            raise FloatingPointError(
                f"{int((~torch.isfinite(values)).sum())} {name}s of {population} users are not finite"
            )
    return {
        "population": np.full(len(test), population),
        "user": test.user.astype(np.int32),
        "comparison": test.row,
        "margin": margin.float().numpy(),
        "cold_margin": cold.float().numpy(),
    }
