"""What a judge model's rows cost, and how its verdicts came about, averaged over splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prbench.reporting.grid import percent
from prbench.reporting.placing import SAMPLE_MARK

if TYPE_CHECKING:
    from prbench.reporting.board import Board

MANY_FAILURES = 0.05
"""A row with a larger share of failed orders is flagged."""

NUMBERS = ("calls_per_user", "tokens_per_user", "seconds_per_user", "cost_per_user")
SHARES = ("failed_orders", "contradicted", "first_share", "strict_accuracy")


def mean_of(parts: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means over cells of what a judge model did: requests, tokens, seconds and cost per user, and of verdicts in
    both orders the shares of failed orders and contradictions, how often the first reply was taken, and the accuracy
    with failed orders wrong. Empty without cells of a judge model; NaN for what a method does not have.
    """
    if not parts:
        return {}
    counts = [cell["counts"] for cell in cells if "judging" in cell]
    people = [max(1, count["seen_users"] + count["unseen_users"]) for count in counts]
    found: dict[str, float] = {}
    for name, keys in zip(NUMBERS, (("asked",), ("tokens_in", "tokens_out"), ("seconds",), ("cost",)), strict=True):
        totals = [
            sum(part.get(stage, {}).get(key, 0.0) for stage in ("fit", "test") for key in keys) for part in parts
        ]
        found[name] = _mean([total / users for total, users in zip(totals, people, strict=True)])
    for name in SHARES:
        values = [part.get("verdicts", {}).get("overall", {}).get(name) for part in parts]
        found[name] = _mean([value for value in values if value is not None])
    return found


def models_of(cells: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The models that answered, as they or their servers name themselves."""
    parts = [cell["judging"] for cell in cells if "judging" in cell]
    stages = [part.get(stage, {}).get("models", {}) for part in parts for stage in ("fit", "test")]
    return tuple(sorted({name for names in stages for name in names}))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def said_of_judges(board: Board) -> list[str]:
    """What a reader of the table must know of rows that read texts through a judge model; empty without any."""
    if not board.judged:
        return []
    said = [
        "Failed: % of verdicts in one order that were refused, unreadable or lost; each counts as undecided in that "
        "order. Strict: the accuracy over single orders, where failures and ties are wrong."
    ]
    if any(row.sampled for row in board.rows):
        said.append(
            f"{SAMPLE_MARK}: on a sample of the test choices; not ranked, and compared with other rows on the "
            "sampled choices alone."
        )
    if known := sorted({row.reader for row in board.rows if row.known_before}):
        said.append(
            f"*: the data were public before {' and '.join(known)} came out, so their texts and labels may have been "
            "in its training."
        )
    for row in board.rows:
        if len(row.models) > 1:
            said.append(f"{row.title}: answers of several models under one name: {', '.join(row.models)}.")
        if row.judging.get("failed_orders", 0.0) > MANY_FAILURES:
            said.append(f"{row.title}: {percent(row.judging['failed_orders'])}% of verdicts failed.")
    return said
