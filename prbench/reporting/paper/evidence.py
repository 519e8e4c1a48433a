"""What the pieces of a report are made from, and what a piece is.

A piece is one table or figure: an entry in a report's file, and a function that reads the evidence and gives
numbers, tables and a picture. Nothing here fits or adapts anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench import registry
from prbench.protocol import metrics
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry.pieces import Piece
from prbench.reporting import board as boards
from prbench.reporting.board import Board, Compared
from prbench.reporting.grid import Grid
from prbench.reporting.looks import style_of
from prbench.reporting.naming import renamed
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.printed_numbers import PaperNumbers
from prbench.reporting.placing import PlacedCell, PlacedResults
from prbench.results import probe_tables, probes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass
class PieceResult:
    """A finished piece: its numbers, tables and pictures, and one phrase for everything it lacks.

    `boards` are those of a piece that the page is built around; `findings` are sentences that follow from its
    numbers.
    """

    frame: pd.DataFrame
    grids: list[Grid] = field(default_factory=list)
    figure: Figure | None = None
    missing: list[str] = field(default_factory=list)
    boards: list[Board] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(eq=False)
class Evidence:
    """The results of a runs folder as pieces read them. `shots` = all the support there is, unless said otherwise.

    A row is one method under one selection on one data set and encoder. Figures draw rows that have all the splits
    that any of a piece's rows has or was meant to have; the others are named as missing.
    """

    results: PlacedResults
    baseline: str
    alpha: float
    resamples: int
    published: Sequence[PaperNumbers] = ()
    pieces: Sequence[Piece] = ()
    _boards: dict[tuple[Any, ...], Board] = field(default_factory=dict)
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def cells(self) -> dict[tuple[str, str], list[PlacedCell]]:
        """The cells of each (data set, encoder), sorted by these."""
        by_board: dict[tuple[str, str], list[PlacedCell]] = {}
        for cell in sorted(self.results.cells, key=lambda cell: cell.board):
            by_board.setdefault(cell.board, []).append(cell)
        return by_board

    @property
    def settings(self) -> list[tuple[str, str]]:
        """(data set, encoder) of every cell, sorted."""
        return list(self.cells)

    @cached_property
    def fits(self) -> pd.DataFrame:
        """`metrics.user_metrics` of every fit, at every number of shots."""
        return metrics.user_metrics(self.results.scores)

    @cached_property
    def users(self) -> pd.DataFrame:
        """`fits` of the random starts that have all splits of their rows."""
        return metrics.complete_starts(self.fits)

    @cached_property
    def per_split(self) -> pd.DataFrame:
        """`metrics.split_metrics` of `users`: one line for each fit."""
        return metrics.split_metrics(self.users)

    @cached_property
    def probes(self) -> pd.DataFrame:
        """Every probe's scores; see `probes.load`."""
        scores = probes.load(self.results.folder) if self.results.folder else probes.nothing()
        return renamed(scores, self.results.shown)

    def table(self, kind: str, dataset: str, encoder: str, piece: Piece) -> pd.DataFrame:
        """A probe's table (`probe_tables.read`): the lines of a piece's rows on one data set and encoder."""
        if kind not in self._tables:
            folder = self.results.folder
            lines = probe_tables.read(folder, kind) if folder else probe_tables.nothing(kind)
            self._tables[kind] = renamed(lines, self.results.shown)
        rows = {cell.row for cell in self.cells_of(dataset, encoder, piece)}
        return self._tables[kind][among(self._tables[kind], rows)]

    def board(self, dataset: str, encoder: str, piece: Piece, compared: Compared = "none") -> Board:
        """The board of a piece's methods on one data set; with intervals over users for printed pairs only."""
        key = (dataset, encoder, compared, *piece.methods, *piece.selections)
        if key not in self._boards:
            cells = self.cells_of(dataset, encoder, piece)
            rows = {cell.row for cell in cells}
            users = self.fits[self.fits["shots"] == ALL_SHOTS]
            [board], _ = boards.build(
                PlacedResults(
                    self.results.scores.iloc[:0],
                    cells,
                    on_sample=self.results.on_sample,
                    rounding=self.results.rounding,
                ),
                baseline=self.baseline,
                shots=ALL_SHOTS,
                alpha=self.alpha,
                resamples=self.resamples if compared == "printed" else 0,
                users=users[among(users, rows)],
                compared=compared,
            )
            self._boards[key] = board
        return self._boards[key]

    def cells_of(self, dataset: str, encoder: str, piece: Piece) -> list[PlacedCell]:
        """The cells that a piece is about; `published` are those under the rule that the method's entry asks for."""
        return [
            cell
            for cell in self.cells.get((dataset, encoder), ())
            if cell.record.method in piece.methods
            and (
                cell.selection in piece.selections
                or ("published" in piece.selections and cell.selection == cell.record.entry.selection)
            )
        ]

    def boards_of(self, piece: Piece, compared: Compared = "none") -> Iterator[tuple[str, str, Board]]:
        """(data set, encoder, board) wherever one of the piece's methods has results."""
        for dataset, encoder in self.settings:
            if any(cell.result for cell in self.cells_of(dataset, encoder, piece)):
                yield dataset, encoder, self.board(dataset, encoder, piece, compared)

    def complete_rows(self, piece: Piece) -> dict[tuple[str, str, str, str], int]:
        """The rows that have all their splits, and how many these are."""
        return {
            (dataset, encoder, *row.key): board.splits
            for dataset, encoder, board in self.boards_of(piece)
            for row in board.rows
            if row.complete
        }

    def complete_lines(self, frame: pd.DataFrame, piece: Piece) -> pd.DataFrame:
        """The part of a frame with the columns `metrics.ROW` that belongs to rows with all their splits."""
        return frame[among(frame, self.complete_rows(piece))]

    def lines_with_all_splits(self, table: pd.DataFrame, piece: Piece, missing: list[str], what: str) -> pd.DataFrame:
        """The lines of `metrics.over_splits` that have all splits of their rows; `missing` gets the others' names."""
        if not len(table):
            return table
        planned = self.complete_rows(piece)
        rows = list(zip(*(table[key].astype(str) for key in metrics.ROW), strict=True))
        full = np.array([n == planned[row] for n, row in zip(table["n_splits"], rows, strict=True)])
        lost = sorted({row for row, kept in zip(rows, full, strict=True) if not kept})
        missing += [f"{d} ({e}), {what}: not for every split of {method}" for d, e, method, _ in lost]
        return table[full]

    def missing_notes(self, piece: Piece) -> list[str]:
        """A phrase for each data set and reason why methods of the piece have no, or not all, results there."""
        notes: list[str] = []
        for dataset, encoder in self.settings:
            reasons: dict[str, list[str]] = {}
            cells = self.cells_of(dataset, encoder, piece)
            rows = self.board(dataset, encoder, piece).rows if cells else []
            for method in piece.methods:
                rows_of_method = [row for row in rows if row.method == method]
                if not rows_of_method:
                    reasons.setdefault("not run", []).append(method)
                for row in rows_of_method:
                    if not row.splits:
                        reasons.setdefault(row.note, []).append(method)
                    elif not row.complete:
                        planned = self.board(dataset, encoder, piece).splits
                        reasons.setdefault(f"{len(row.splits)} of {planned} splits ({row.note})", []).append(method)
            notes += [f"{dataset} ({encoder}), {reason}: {', '.join(names)}" for reason, names in reasons.items()]
        return notes

    def style(self, method: str) -> dict[str, str]:
        """Colour, marker and line of a method; see `style_of`."""
        for cell in self.results.cells:
            if cell.method == method:
                return style_of(cell.record.entry)
        return registry.get("methods", method).style.model_dump()

    def title(self, method: str) -> str:
        """What a method is called."""
        for cell in self.results.cells:
            if cell.method == method:
                return cell.record.title
        return registry.get("methods", method).title

    def family(self, method: str) -> str:
        """A method's family: reference, no personalisation, personalised input, personalised parameters."""
        for cell in self.results.cells:
            if cell.method == method and cell.record.entry.family:
                return cell.record.entry.family
        return registry.get("methods", method).family


def among(
    frame: pd.DataFrame, rows: Collection[tuple[str, ...]], keys: Sequence[str] = metrics.ROW
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which lines of a frame with the columns `keys` belong to these rows of text, [lines] bool."""
    if not len(frame):
        return np.zeros(0, dtype=bool)
    number = frame.groupby(list(keys), observed=True, sort=False).ngroup()
    first = ~number.duplicated()
    names = zip(*(frame.loc[first, key].astype(str) for key in keys), strict=True)
    inside = [int(n) for n, name in zip(number[first], names, strict=True) if name in rows]
    return np.isin(number.to_numpy(), inside)


def heading(board: Board) -> str:
    """What a panel is about: data set, encoder and number of splits."""
    return f"{board.dataset} ({board.encoder}), {splits_of(board)}"


def setting_heading(dataset: str, encoder: str, splits: int) -> str:
    """As `heading`, for panels without a board."""
    return f"{dataset} ({encoder}), {counted(splits)}"


def splits_of(board: Board) -> str:
    """Such as "20 splits"."""
    return counted(board.splits)


def counted(splits: int) -> str:
    """Such as "1 split"."""
    return f"{splits} split{'' if splits == 1 else 's'}"
