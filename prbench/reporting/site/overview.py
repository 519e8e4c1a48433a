"""The site's first page: every method on every board, and ranks with their critical difference.

Nothing is averaged over data sets: accuracies of different people and choices have no common mean. Ranks have one,
over boards where all the ranked methods have all splits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prbench.reporting.board import Board
from prbench.reporting.grid import DASH, percent
from prbench.reporting.rows import Row

LEAST_BOARDS = 3


@dataclass(frozen=True)
class Entry:
    """A method on a board: its text, what it sorts by, and why there is no number."""

    text: str
    value: float | None = None
    spread: str = ""
    rank: int = 0
    marks: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over boards, 1 the best; two that differ by less than `critical` are not told apart."""

    boards: Sequence[Board]
    rows: Sequence[tuple[str, float]]
    critical: float


def names(boards: Sequence[Board]) -> list[tuple[str, str]]:
    """(method, selection) of every row of any board, those on most boards first."""
    boards_of: dict[tuple[str, str], int] = {}
    for board in boards:
        for row in board.rows:
            boards_of[row.key] = boards_of.get(row.key, 0) + 1
    return sorted(boards_of, key=lambda key: (-boards_of[key], key))


def row_of(board: Board, key: tuple[str, str]) -> Row | None:
    """A board's row of this name."""
    return next((row for row in board.rows if row.key == key), None)


def entries(boards: Sequence[Board], key: tuple[str, str]) -> list[Entry]:
    """A row's overall accuracy on each board; a missing one is shown as missing, with the reason."""
    cells = []
    for board in boards:
        row = row_of(board, key)
        if row is None:
            cells.append(Entry(DASH, missing="not run"))
        elif math.isnan(row.value("overall")):
            cells.append(Entry(DASH, missing=row.note or "no value"))
        else:
            value = row.value("overall")
            places = [[each.key for each in rows] for rows in board.ranked("overall")[:2]]
            rank = next((i for i, keys in enumerate(places, 1) if key in keys), 0)
            spread = "" if row.complete else f" ({len(row.splits)}/{board.splits} splits)"
            cells.append(Entry(percent(value), value, spread, rank))
    return cells


def ranks(boards: Sequence[Board], alpha: float) -> Ranks | None:
    """Mean ranks of the methods that are complete on all `boards`, with Nemenyi's critical difference.

    Rows chosen on test data and rows that vary another one take no part. None with fewer than two such methods or
    three boards. Source: Demšar, JMLR 7 (2006), 1-30, §3.2.2.
    """
    from scipy.stats import rankdata, studentized_range

    keys = [
        key
        for key in names(boards)
        if all((row := row_of(board, key)) and row.rankable and row.counted for board in boards)
    ]
    n, k = len(boards), len(keys)
    if n < LEAST_BOARDS or k < 2:
        return None
    accuracy = np.array([[_row(board, key).value("overall") for key in keys] for board in boards])
    mean = rankdata(-accuracy, axis=1).mean(axis=0)
    critical = float(studentized_range.ppf(1 - alpha, k, np.inf) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n)))
    titles = {row.key: row.title for board in boards for row in board.rows}
    ordered = sorted(zip(keys, mean.tolist(), strict=True), key=lambda pair: pair[1])
    return Ranks(boards, [(titles[key], rank) for key, rank in ordered], critical)


def _row(board: Board, key: tuple[str, str]) -> Row:
    row = row_of(board, key)
    assert row is not None
    return row
