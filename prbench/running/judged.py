"""What a cell records of a judge model: what was asked, and how its verdicts came about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from prbench.comparisons import Comparisons
from prbench.judging.reader import Reader, Tally
from prbench.judging.verdicts import Judged


def judged_part(reader: Reader | None, before: Tally | None, splits: int) -> dict[str, Any]:
    """What was asked since `before`, as plain values; of work done for several splits together, a split's share."""
    if reader is None or before is None:
        return {}
    found = reader.tally.since(before)
    shares = ("asked", "calls", "tokens_in", "tokens_out", "cost", "seconds", "shortened")
    return {name: round(value / splits, 6) if name in shares else value for name, value in found.items()}


def verdict_counts(parts: Mapping[str, tuple[Comparisons, Judged | None]]) -> dict[str, Any]:
    """Of verdicts in both orders, by population: the shares of failed orders and of pairs whose orders contradict one
    another, how often the reply shown first was taken, and the user accuracy with every failed order wrong.

    Empty for methods that do not compare replies.
    """
    whole = {name: (test, judged) for name, (test, judged) in parts.items() if judged is not None}
    if not whole:
        return {}
    found = {name: _counts(test.user, judged) for name, (test, judged) in whole.items()}
    user = np.concatenate([test.user for test, _ in whole.values()])
    straight = np.concatenate([judged.straight for _, judged in whole.values()])
    turned = np.concatenate([judged.turned for _, judged in whole.values()])
    return {"verdicts": {**found, "overall": _counts(user, Judged(straight, turned))}}


def _counts(user: Any, judged: Judged) -> dict[str, Any]:
    users, where = np.unique(user, return_inverse=True)
    each = np.bincount(where, judged.strict, len(users)) / np.bincount(where, minlength=len(users))
    first = judged.first_share
    return {
        "pairs": len(user),
        "failed_orders": float(judged.failed.sum() / (2 * max(1, len(user)))),
        "contradicted": float(judged.contradicted.mean()) if len(user) else 0.0,
        "first_share": None if math.isnan(first) else first,
        "strict_accuracy": float(each.mean()) if len(users) else None,
    }
