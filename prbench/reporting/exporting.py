"""Rows as other projects' formats take them: accuracies with their uncertainty over splits.

Rows that were chosen on test data, that rest on a sample of the test choices or that lack splits are left out, and
said so: a reader of another format would not see the mark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.protocol import metrics, stats
from prbench.reporting.board import RANKED, Board, Row, build
from prbench.reporting.options import rows_named
from prbench.reporting.placing import PlacedCell, PlacedResults, placed, results_of
from prbench.results.record import DoneRecord

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results


@dataclass(frozen=True)
class Number:
    """A population's mean over splits of a metric, as a fraction, with its standard deviation and 95% interval.

    The interval is that of the corrected resampled t-test; ends are NaN where there is none.
    """

    population: str
    metric: str
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class ExportedRow:
    """A row with all of its splits on one data set, and the record of its first cell."""

    board: Board
    row: Row
    cells: Sequence[PlacedCell]
    numbers: Sequence[Number]

    @property
    def record(self) -> DoneRecord:
        """The record of its first cell."""
        return self.records[0]

    @property
    def records(self) -> list[DoneRecord]:
        """The records of its cells."""
        return results_of(self.cells)

    @property
    def reader(self) -> str:
        """The encoder or judge model that read the texts."""
        return self.cells[0].reader

    @property
    def finished(self) -> str:
        """When the last of its cells was done, "" where no cell says so."""
        return max(record.finished for record in self.records)


def exported(results: Results, methods: str = "") -> list[ExportedRow]:
    """The rows that can be exported, by data set, with a line on stderr for each that cannot.

    `methods`: names and patterns, comma-separated; "" for all. Raises InputError where none is left, and as
    `prbench.reporting.board.build`.
    """
    standing = placed(results)
    # Whether a row has all splits is seen beside the others, so these are left out only now.
    named_rows = rows_named(results, methods, "--methods") if methods else []
    boards, users = build(
        standing, baseline="bt", shots=metrics.ALL_SHOTS, alpha=0.05, resamples=1, compared="none", count_all=True
    )
    table = metrics.over_starts(metrics.split_metrics(users)) if len(users) else None
    exports = []
    for board in boards:
        for row in board.rows:
            if methods and not {row.method, row.own_method} & set(named_rows):
                continue
            if reason := _unfit(row):
                stderr().print(f"{row.title} on {board.dataset} is left out: {reason}", markup=False, soft_wrap=True)
                continue
            assert table is not None
            exports.append(ExportedRow(board, row, _cells(standing, board, row), _numbers(table, board, row)))
    if not exports:
        raise InputError("no row can be exported", hint="see `prbench report leaderboard` for the rows there are")
    return exports


def _unfit(row: Row) -> str:
    if row.oracle:
        return "it was chosen on test data"
    if row.sampled:
        return "it rests on a sample of the test choices"
    return "" if row.complete else f"it lacks splits ({row.note})" if row.note else "it lacks splits"


def _cells(results: PlacedResults, board: Board, row: Row) -> list[PlacedCell]:
    name = (board.dataset, board.encoder, *row.key)
    return [cell for cell in results.cells if cell.result and cell.row == name]


def _numbers(table: pd.DataFrame, board: Board, row: Row) -> list[Number]:
    numbers = []
    of_row = (table["dataset"] == board.dataset) & (table["encoder"] == board.encoder)
    of_row &= (table["method"] == row.method) & (table["selection"] == row.selection)
    for population in RANKED:
        part = table[of_row & (table["population"] == population)]
        for metric in ("accuracy", "worst10") if population == "overall" else ("accuracy",):
            values = part[metric].to_numpy()
            if len(values):
                low, high = stats.mean_interval(values, board.ratio)
                spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                numbers.append(Number(population, metric, float(values.mean()), spread, low, high))
    return numbers
