"""The page's tables: what each cell says and what it sorts by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prbench.reporting import columns
from prbench.reporting.board import Board, Row
from prbench.reporting.columns import Entry
from prbench.reporting.grid import DASH


@dataclass(frozen=True)
class Heading:
    """A column's head: `help` is its meaning in a phrase, `first` the order that a first click sorts in."""

    label: str
    help: str
    first: str


@dataclass(frozen=True)
class Line:
    """A row of the table: the method, what is said of it below its name, and its fields."""

    row: Row
    family: str
    about: str
    fields: list[Entry]
    note: str = ""
    search: str = ""


@dataclass(frozen=True)
class Group:
    """Lines that are sorted among themselves."""

    title: str
    lines: list[Line] = field(default_factory=list)


def headings(board: Board) -> list[Heading]:
    """The columns after the method's name."""
    view = columns.View(board)
    return [Heading(c.heading(view, "page"), c.explained(view), c.first) for c in columns.shown(board, "page")]


def groups(board: Board, families: dict[tuple[str, str], str], papers: dict[tuple[str, str], str]) -> list[Group]:
    """Ranked lines, those that lack splits, those chosen on test data; no group is empty."""
    view, shown = columns.View(board), columns.shown(board, "page")

    def line(row: Row) -> Line:
        note = "" if row.complete else f"{len(row.splits)} of {board.splits} splits: {view.absence(row)}"
        family, chosen = families.get(row.key, ""), columns.selected_on(row)
        about = " · ".join(part for part in (family, chosen) if part)
        words = f"{row.title} {row.method} {family} {chosen} {papers.get(row.key, '')}".lower()
        return Line(row, family, about, [column.entry(view, row) for column in shown], note, words)

    parts = [
        Group("", [line(row) for row in board.rows if row.rankable]),
        Group(
            "Lack results: shown, not ranked",
            [line(row) for row in board.rows if not row.rankable and not row.oracle],
        ),
        Group("Selected on test data: neither ranked nor compared", [line(row) for row in board.rows if row.oracle]),
    ]
    return [part for part in parts if part.lines]


def bounds(board: Board) -> list[tuple[Row, list[Entry]]]:
    """Ceiling and floor of simulated data; columns that they have no number for stay empty."""
    view, shown = columns.View(board), columns.shown(board, "page")
    entries = {row.key: [column.entry(view, row) for column in shown] for row in board.bounds.values()}
    return [(row, [Entry("") if e.missing else e for e in entries[row.key]]) for row in board.bounds.values()]


def split_table(board: Board, chart: dict[str, Any]) -> list[tuple[Row, list[Entry]]]:
    """Overall accuracy of every row in every split, from `chart_data.chart_data`."""
    lines: list[tuple[Row, list[Entry]]] = []
    for row, values in zip(board.rows, chart["rows"], strict=True):
        by_split: Sequence[float | None] = values["split"]["overall"]
        reason = row.note or "no value"
        lines.append((row, [Entry(DASH, missing=reason) if v is None else Entry(f"{v:.1f}", v) for v in by_split]))
    return lines
