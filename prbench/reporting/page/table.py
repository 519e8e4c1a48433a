"""The page's tables: what each cell says and what it sorts by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prbench.protocol import metrics
from prbench.reporting.board import RANKED, Board, Row
from prbench.reporting.board_grids import SELECTED_ON, baseline_name, marks
from prbench.reporting.grid import DASH, interval, p_value, percent


@dataclass(frozen=True)
class Column:
    """A column: `help` is its meaning in a sentence, `first` the order that a first click sorts in."""

    label: str
    help: str
    first: str = "descending"


@dataclass(frozen=True)
class Field:
    """A cell: what it says, what it sorts by (None sorts last), and why there is nothing."""

    text: str
    value: float | str | None = None
    spread: str = ""
    rank: int = 0
    marks: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Line:
    """A row of the table: the method, what is said of it below its name, and its fields."""

    row: Row
    family: str
    about: str
    fields: list[Field]
    note: str = ""
    search: str = ""


@dataclass(frozen=True)
class Group:
    """Lines that are sorted among themselves."""

    title: str
    lines: list[Line] = field(default_factory=list)


def columns(board: Board) -> list[Column]:
    """The columns after the method's name."""
    base = baseline_name([b for b in board.baseline.values() if b])
    level = f"{100 * (1 - board.alpha):g}%"
    compared = [
        Column(f"Δ {base}", f"overall accuracy minus that of {base}, in points"),
        Column(f"{level} interval", "of the difference, from the corrected resampled t-test, not adjusted"),
        Column("p", "corrected resampled t-test, Holm-adjusted over the table's comparisons", "ascending"),
    ]
    return [
        Column("Seen", "user accuracy in %, users whose comparisons were trained on"),
        Column("Unseen", "user accuracy in %, users that were adapted to"),
        Column("Overall", "user accuracy in %, all users"),
        *(Column(f"Worst {k}%", f"accuracy in % of the {k}% of all users with the lowest") for k in metrics.WORST),
        Column("Cold start", "overall accuracy in % before adaptation"),
        Column("Flips", "% of decisions that adaptation changed"),
        *(compared if base else []),
    ]


def groups(board: Board, families: dict[tuple[str, str], str], papers: dict[tuple[str, str], str]) -> list[Group]:
    """Ranked lines, those that lack splits, those chosen on test data; no group is empty."""
    ranks = {p: board.ranked(p) for p in RANKED}
    rivals = {p: board.best_and_rival(p) for p in RANKED}
    compared = any(board.baseline.values())

    def line(row: Row) -> Line:
        why = row.note or ("" if row.complete else "a population of users is missing")
        fields: list[Field] = []
        for p in RANKED:
            rank = next((i for i, rows in enumerate(ranks[p], 1) if row in rows), 0)
            pair = rivals[p]
            best = board.pair(*pair, p) if pair and row is pair[0] else None
            spread = f"±{percent(row.spread(p))}"
            number = _number(row.value(p), why, spread=spread, rank=rank if rank < 3 else 0)
            fields.append(Field(**{**vars(number), "marks": marks(best, board.alpha)}))
        fields += [_number(row.value("overall", f"worst{k}"), why) for k in metrics.WORST]
        fields += [_number(row.value("overall", name), why) for name in ("cold_start", "flip_rate")]
        if compared:
            fields += _compared(board, row, why)
        note = "" if row.complete else f"{len(row.splits)} of {board.splits} splits: {why}"
        family, chosen = families.get(row.key, ""), SELECTED_ON.get(row.selection, row.selection)
        about = " · ".join(part for part in (family, chosen) if part)
        words = f"{row.title} {row.method} {family} {chosen} {papers.get(row.key, '')}".lower()
        return Line(row, family, about, fields, note, words)

    parts = [
        Group("", [line(row) for row in board.rows if row.rankable]),
        Group(
            "Lack results: shown, not ranked",
            [line(row) for row in board.rows if not row.rankable and not row.oracle],
        ),
        Group("Selected on test data: neither ranked nor compared", [line(row) for row in board.rows if row.oracle]),
    ]
    return [part for part in parts if part.lines]


def bounds(board: Board, count: int) -> list[tuple[Row, list[Field]]]:
    """Ceiling and floor of simulated data, as fields under the first `count` columns."""
    said = []
    for row in board.bounds.values():
        fields = [Field(percent(row.value(p)), row.value(p), f"±{percent(row.spread(p))}") for p in RANKED]
        said.append((row, fields + [Field("")] * (count - len(fields))))
    return said


def _number(value: float, why: str, *, spread: str = "", rank: int = 0) -> Field:
    if math.isnan(value):
        return Field(DASH, missing=why or "no value")
    return Field(percent(value), round(value, 8), spread, rank)


def _compared(board: Board, row: Row, why: str) -> list[Field]:
    """Difference from the baseline, its interval, its p-value."""
    pair = board.against_baseline(row)
    if pair is None:
        if board.baseline[row.key] is None and not row.oracle:
            reason = "this is the baseline" if row.splits else why
        else:
            reason = "chosen on test data: not compared" if row.oracle else why
        return [Field(DASH, missing=reason)] * 3
    result = pair.result
    difference = Field(
        percent(result.difference, signed=True, digits=2),
        round(result.difference, 8),
        marks=marks(pair, board.alpha),
    )
    low = result.interval.low
    undefined = "undefined with these splits"
    return [
        difference,
        Field(DASH, missing=undefined) if math.isnan(low) else Field(interval(*result.interval), round(low, 8)),
        Field(DASH, missing=undefined)
        if math.isnan(pair.holm_table)
        else Field(p_value(pair.holm_table), round(pair.holm_table, 8)),
    ]


def split_table(board: Board, chart: dict[str, Any]) -> list[tuple[Row, list[Field]]]:
    """Overall accuracy of every row in every split, from `pagedata.chart_data`."""
    said: list[tuple[Row, list[Field]]] = []
    for row, values in zip(board.rows, chart["rows"], strict=True):
        by_split: Sequence[float | None] = values["split"]["overall"]
        why = row.note or "no value"
        said.append((row, [Field(DASH, missing=why) if v is None else Field(f"{v:.1f}", v) for v in by_split]))
    return said
