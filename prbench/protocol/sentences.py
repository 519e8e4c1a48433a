"""What a reader must know of how people and choices were divided, in sentences: for plans, tables and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEFT_OUT = "dropped_users_without_train_or_test"
SINGLE = "users_with_one_comparison"


def left_out(counts: Sequence[Mapping[str, int]]) -> str | None:
    """Who is in no split, from the counts of every split; None where everybody is in."""
    dropped = [c.get(LEFT_OUT, 0) for c in counts]
    if not any(dropped):
        return None
    people = max(c["seen_users"] + c["unseen_users"] + c.get(LEFT_OUT, 0) for c in counts)
    single = {c.get(SINGLE) for c in counts} == set(dropped)
    reason = "one choice each" if single else "they have nothing to train on or nothing to test"
    return f"{_span(dropped)} of {people:,} people are left out ({reason})"


def shared(counts: Sequence[Mapping[str, int]]) -> str | None:
    """How much of the test occurs in training too, from the counts of every split; None where that is not known."""
    shares = []
    for unit in ("items", "pairs"):
        known = [c for c in counts if c.get(f"test_{unit}")]
        if not known:
            return None
        each = [100 * c[f"test_{unit}_trained_on"] / c[f"test_{unit}"] for c in known]
        shares.append(f"{sum(each) / len(each):.0f}% of the test {unit}")
    return f"{' and '.join(shares)} occur in training choices too, whoever made them"


def repeated(counts: Sequence[Mapping[str, int]]) -> str | None:
    """How often a person judged the same pair again; None where nobody did."""
    same, opposite = (max((c.get(name, 0) for c in counts), default=0) for name in ("repeats", "opposite_repeats"))
    if not same and not opposite:
        return None
    return (
        f"{same:,} comparisons repeat an earlier one of the same person and {opposite:,} choose its other side; both "
        "stand on one side of every split"
    )


def equal_vectors(counts: Sequence[Mapping[str, int]]) -> str | None:
    """How many test choices no method can decide, since both replies have one vector; None where there are none."""
    per_split = [c.get("equal_vectors", 0) for c in counts]
    if not any(per_split):
        return None
    return f"{_span(per_split)} test choices a split are between equal vectors, which no method tells apart: ties"


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
