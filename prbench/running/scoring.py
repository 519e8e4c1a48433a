"""Scores a fitted method on held-out choices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.judging.method import PairwiseMethod
from prbench.judging.verdicts import Judged
from prbench.method import ComparedFeatures, Method, UserStates
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.splits import Split
from prbench.running.judged import verdict_counts
from prbench.running.open_dataset import OpenDataset, adapt_rng, support_of


class Margins(NamedTuple):
    """Margins [n] of test choices, and the verdicts in both orders that they were made of, where there are any."""

    margin: torch.Tensor
    judged: Judged | None


def margins_of(
    method: Method, states: UserStates, test: Comparisons, features: ComparedFeatures | None = None
) -> Margins:
    """The margins of a method, with their verdicts where the method compares replies."""
    if isinstance(method, PairwiseMethod):
        judged = method.judge(states, test)
        return Margins(torch.from_numpy(judged.margin), judged)
    return Margins(method.margins(states, test, features), None)


class Scored(NamedTuple):
    """Columns of a scores file, the seconds spent on adapting, and the verdicts of the adapted margins."""

    columns: dict[str, Any]
    seconds: float
    judged: Judged | None = None


def score_unseen(method: Method, setting: OpenDataset, split: Split, shots: int, restart: int) -> Scored:
    """Scores of the unseen users' test choices after `shots` support choices.

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
    margin, judged = margins_of(method, states, test, features)
    cold = _cold(method, setting, split.unseen, test, features, rng)
    return Scored(score_columns("unseen", test, margin, cold), spent, judged)


def _cold(
    method: Method, setting: OpenDataset, users: IntArray, test: Comparisons, features: ComparedFeatures, rng: Rng
) -> torch.Tensor:
    """The margins of `test` before any choice of its users is known; `features` are those of `test` itself."""
    bare = setting.undescribed(test)
    ready = features if bare is test else method.features_of(bare)
    return method.margins(method.cold_start(users, test.items, rng=rng), bare, ready)


def score_split(
    method: Method, setting: OpenDataset, split: Split, shots: Sequence[int], restart: int = 0
) -> tuple[dict[int, dict[str, Any]], dict[str, float], dict[str, Any]]:
    """Columns by number of shots, seconds spent, and what is counted of verdicts in both orders.

    At `ALL_SHOTS`, which must be among them, the seen users' choices come first.
    """
    comparisons = setting.comparisons()
    test = comparisons.take(split.seen_test)
    start = time.perf_counter()
    features = method.features_of(test)
    margin, judged = margins_of(method, method.seen_users(), test, features)
    scoring = time.perf_counter() - start
    cold = _cold(method, setting, split.seen, test, features, adapt_rng(setting, split, restart))
    seen = score_columns("seen", test, margin, cold)
    scores, adapting, unseen = {}, 0.0, None
    for k in shots:
        columns, spent, verdicts = score_unseen(method, setting, split, k, restart)
        if k == ALL_SHOTS:
            adapting, unseen = spent, verdicts
            columns = {name: np.concatenate([seen[name], columns[name]]) for name in columns}
        scores[k] = columns
    counted = verdict_counts({"seen": (test, judged), "unseen": (comparisons.take(split.unseen_test), unseen)})
    return scores, {"adapt": adapting, "score": scoring}, counted


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
