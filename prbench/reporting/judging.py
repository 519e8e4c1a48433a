"""What a judge model's rows cost, and how its verdicts came about, averaged over splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from prbench.reporting.grid import percent
from prbench.reporting.placing import SAMPLE_MARK
from prbench.results.record import DoneRecord
from prbench.results.record_parts import Calls, VerdictShares

if TYPE_CHECKING:
    from prbench.reporting.board import Board

MANY_FAILURES = 0.05
"""A row with a larger share of failed orders is flagged."""

NUMBERS: Mapping[str, Callable[[Calls], float]] = {
    "calls_per_user": lambda calls: calls.asked,
    "tokens_per_user": lambda calls: calls.tokens_in + calls.tokens_out,
    "seconds_per_user": lambda calls: calls.seconds,
    "cost_per_user": lambda calls: calls.cost,
}
SHARES: Mapping[str, Callable[[VerdictShares], float | None]] = {
    "failed_orders": lambda shares: shares.failed_orders,
    "contradicted": lambda shares: shares.contradicted,
    "first_share": lambda shares: shares.first_share,
    "strict_accuracy": lambda shares: shares.strict_accuracy,
}


def mean_of(cells: Sequence[DoneRecord]) -> dict[str, float]:
    """The means over cells of what a judge model did: requests, tokens, seconds and cost per user, and of verdicts in
    both orders the shares of failed orders and contradictions, how often the first reply was taken, and the accuracy
    with failed orders wrong. Empty without cells of a judge model; NaN for what a method does not have.
    """
    records = [(cell.judging, max(1, cell.counts.users)) for cell in cells if cell.judging]
    if not records:
        return {}
    means: dict[str, float] = {}
    for name, number_of in NUMBERS.items():
        means[name] = _mean([sum(map(number_of, judging.stages)) / users for judging, users in records])
    shares = [judging.verdicts.get("overall", VerdictShares()) for judging, _ in records]
    for name, share_of in SHARES.items():
        means[name] = _mean([value for each in shares if (value := share_of(each)) is not None])
    return means


def models_of(cells: Sequence[DoneRecord]) -> tuple[str, ...]:
    """The models that answered, as they or their servers name themselves."""
    return tuple(
        sorted({name for cell in cells if cell.judging for calls in cell.judging.stages for name in calls.models})
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def judge_notes(board: Board) -> list[str]:
    """What a reader of the table must know of rows that read texts through a judge model; empty without any."""
    if not board.judged:
        return []
    sentences = [
        "Failed: % of verdicts in one order that were refused, unreadable or lost; each counts as undecided in that "
        "order. Strict: the accuracy over single orders, where failures and ties are wrong."
    ]
    if any(row.sampled for row in board.rows):
        sentences.append(
            f"{SAMPLE_MARK}: on a sample of the test choices; not ranked, and compared with other rows on the "
            "sampled choices alone."
        )
    if public_before := sorted({row.reader for row in board.rows if row.known_before}):
        sentences.append(
            f"*: the data were public before {' and '.join(public_before)} came out, so their texts and labels may "
            "have been in its training."
        )
    for row in board.rows:
        if len(row.models) > 1:
            sentences.append(f"{row.title}: answers of several models under one name: {', '.join(row.models)}.")
        if row.judging.get("failed_orders", 0.0) > MANY_FAILURES:
            sentences.append(f"{row.title}: {percent(row.judging['failed_orders'])}% of verdicts failed.")
    return sentences
