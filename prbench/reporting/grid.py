"""A table as a grid of cells, and how numbers are printed in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prbench.reporting.rows import Row


DASH = "–"
STAR, DAGGER, STARTS = "*", "†", "‡"


@dataclass(frozen=True)
class TableCell:
    """One entry of a table: its text, `rank` (1 best, 2 second, 0 neither) and the marks of the tests it passed."""

    text: str
    rank: int = 0
    marks: str = ""


@dataclass(frozen=True)
class Grid:
    """A table without its looks. The first column holds names; `rules` are rows with a line above them.

    `first` names the columns that a narrow terminal keeps longest, and `file` the one that has them all.
    """

    title: str
    header: tuple[str, ...]
    rows: list[list[TableCell]]
    rules: tuple[int, ...]
    notes: list[str]
    label: str
    first: tuple[str, ...] = ()
    file: str = "leaderboard.csv"


def percent(value: float, *, signed: bool = False, digits: int = 1) -> str:
    """A fraction in percent, or "–" where there is none."""
    return decimal(100 * value, digits, signed=signed)


def decimal(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with so many digits after its point, or "–" where there is none.

    What rounds to nothing has no sign: neither "-0.00" nor "+0.00" would mean anything.
    """
    if math.isnan(value):
        return DASH
    rounded = round(value, digits)
    return f"{rounded if rounded else 0.0:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with three digits, or "–" where it is undefined."""
    if math.isnan(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float) -> str:
    """Both ends in points, or "–" where undefined."""
    if math.isnan(low) or math.isnan(high):
        return DASH
    return f"[{percent(low, signed=True, digits=2)}, {percent(high, signed=True, digits=2)}]"


def mean_and_spread(row: Row, population: str) -> str:
    """Such as "65.3±0.4"; the spread is "–" for one split."""
    mean = row.value(population)
    return DASH if math.isnan(mean) else f"{percent(mean)}±{percent(row.spread(population))}"
