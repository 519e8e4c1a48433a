"""What a cell records of a judge model: what was asked, and how its verdicts came about."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from prbench.base.console import stderr
from prbench.comparisons import Comparisons
from prbench.judging.reader import Reader, Tally
from prbench.judging.verdicts import Judged

EVERY = 30.0


class CallNotes:
    """Says on stderr, every half minute at most, how far the calls to a judge model are."""

    def __init__(self, name: str, currency: str, every: float = EVERY) -> None:
        self._name, self._currency, self._every = name, currency, every
        self._began: float | None = None
        self._said = 0.0

    def __call__(self, spent: Tally) -> None:
        """Is told of everything spent so far, after each call."""
        now = time.monotonic()
        if self._began is None:
            self._began = self._said = now
        if now - self._said < self._every:
            return
        self._said = now
        tokens, failed = spent.tokens_in + spent.tokens_out, spent.failures.total()
        parts = [f"{spent.calls:,} calls", f"{tokens:,} tokens"]
        parts += [f"{spent.cost:,.2f} {self._currency}"] if spent.cost else []
        parts += [f"{spent.calls / max(1e-9, now - self._began):,.1f} calls/s", f"{failed:,} failed"]
        stderr().print(f"{self._name}: {', '.join(parts)}", soft_wrap=True)


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
