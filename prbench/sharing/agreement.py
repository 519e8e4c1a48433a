"""Whether two copies of a cell agree: judged on decisions, since rounding differs between machines.

At most 1% of a split's test decisions differ, and its user accuracies differ by at most 0.5 points. A method that is
known to magnify rounding is judged on its row instead: the means over splits differ by less than twice the
uncertainty that random starts leave in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.protocol.metrics import decisions

if TYPE_CHECKING:
    import pandas as pd

DECISIONS, POINTS = 0.01, 0.5
ROWS = ["population", "user", "comparison"]


@dataclass(frozen=True)
class Agreement:
    """How far two copies of a cell are apart.

    `decisions` is the share of test decisions that differ, `accuracy` the user accuracies of both, as fractions,
    `margin` the largest difference of two margins. Copies of other test comparisons are not `comparable`.
    """

    decisions: float
    accuracy: tuple[float, float]
    margin: float
    identical: bool = False
    comparable: bool = True

    @property
    def agrees(self) -> bool:
        """Whether they are one result, by the rule for a single cell."""
        a, b = self.accuracy
        points = 100 * abs(a - b)
        return self.comparable and self.decisions <= DECISIONS + 1e-12 and points <= POINTS + 1e-9


def agreement(a: pd.DataFrame, b: pd.DataFrame) -> Agreement:
    """Compare two tables of scores of one cell at one number of shots, whatever the order of their rows."""
    a, b = (frame.sort_values(ROWS, ignore_index=True) for frame in (a, b))
    accuracy = (_overall(a), _overall(b))
    if len(a) != len(b) or not a[ROWS].astype(str).equals(b[ROWS].astype(str)):
        return Agreement(1.0, accuracy, math.inf, comparable=False)
    apart = [np.abs(a[name].to_numpy(float) - b[name].to_numpy(float)) for name in ("margin", "cold_margin")]
    differing = float((decisions(a["margin"]) != decisions(b["margin"])).mean())
    largest = float(max(column.max() for column in apart))
    return Agreement(differing, accuracy, largest, identical=largest == 0)


def _overall(frame: pd.DataFrame) -> float:
    # The rule itself needs no results: `prbench.timing.gpu` applies it to margins in memory.
    from prbench.results import digests

    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in ("margin", "user")}
    return digests.accuracies({**columns, "population": frame["population"].astype(str).to_numpy()})["overall"]


def rows_agree(accuracies: Sequence[tuple[float, float]], starts: tuple[float, float]) -> bool:
    """Whether the means of two copies of a row differ by less than random starts explain.

    accuracies: one pair for each split and restart, as fractions. starts: each copy's standard deviation of one fit's
    accuracy over random starts, in points.
    """
    a, b = np.array(accuracies, dtype=float).T
    uncertainty = math.hypot(*starts) / math.sqrt(len(a))
    return bool(100 * abs(a.mean() - b.mean()) < 2 * uncertainty)


def spread_of_starts(accuracies: Sequence[tuple[int, float]]) -> float | None:
    """The standard deviation over restarts, pooled within splits, in points; None where a split has one start.

    accuracies: (split, accuracy as a fraction) of each fit.
    """
    splits: dict[int, list[float]] = {}
    for split, accuracy in accuracies:
        splits.setdefault(split, []).append(accuracy)
    if not splits or min(map(len, splits.values())) < 2:
        return None
    freedom = sum(len(split_accuracies) - 1 for split_accuracies in splits.values())
    squares = sum(float(np.var(split_accuracies) * len(split_accuracies)) for split_accuracies in splits.values())
    return 100 * math.sqrt(squares / freedom)
