"""Tables 1 and 2 of arXiv 2601.18731: accuracy and ablations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting import board_grids, columns
from prbench.reporting import grid as grid_module
from prbench.reporting.board import RANKED, Board, Row
from prbench.reporting.grid import DASH, Grid, TableCell
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of
from prbench.reporting.paper.printed_numbers import OVERALL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prbench.reporting.paper.printed_numbers import PrintedAccuracy


TABLE_1 = (
    "dataset", "encoder", "method", "selection", *RANKED, *(f"{p}_std" for p in RANKED), "n_splits", "difference",
    "p_corrected", "p_holm", "p_plain", "note",
)  # fmt: skip
COLUMNS = ("overall", "worst10", "worst20", "worst50")


@marks.piece
def accuracy(evidence: Evidence, piece: Piece) -> PieceResult:
    """Table 1: seen, unseen and overall accuracy with tests, and the papers' own numbers where they apply.

    Beside each published number stands the difference ours − theirs in units of our standard deviation over splits.
    """
    import pandas as pd

    records: list[dict[str, Any]] = []
    grids, boards = [], []
    for dataset, encoder, board in evidence.boards_of(piece, "printed"):
        boards.append(board)
        printed = {
            paper.source: rows
            for paper in evidence.published
            if (rows := paper.rows(dataset, encoder, judged=board.judged))
        }
        others = {paper.source: paper.elsewhere(dataset, encoder) for paper in evidence.published}
        grids.append(_accuracy_grid(board, piece, printed, others))
        records += [_record(board, row, printed) for row in board.rows]
    return PieceResult(pd.DataFrame(records), grids, missing=evidence.missing_notes(piece), boards=boards)


def _record(board: Board, row: Row, printed: Mapping[str, Mapping[str, PrintedAccuracy]]) -> dict[str, Any]:
    record: dict[str, Any] = columns.record(columns.View(board), row, columns.by_key(*TABLE_1))
    for source, rows in printed.items() if row.published else ():
        theirs = rows.get(row.own_method)
        if theirs is not None and theirs.other(row.reader):
            record[f"published_judge: {source}"] = theirs.judge
        for i, p in enumerate(RANKED if theirs else ()):
            assert theirs is not None
            record[f"published_{p}: {source}"] = theirs.means[i] / 100
            if theirs.spreads:
                record[f"published_{p}_std: {source}"] = theirs.spreads[i] / 100
            record[f"in_sd_{p}: {source}"] = in_spreads(row, p, theirs.means[i] / 100)
    return record


def in_spreads(row: Row, population: str, theirs: float) -> float:
    """(ours − theirs) / our standard deviation over splits; NaN where there is no spread."""
    spread = row.spread(population)
    return (row.value(population) - theirs) / spread if spread > 0 else math.nan


def _accuracy_grid(
    board: Board,
    piece: Piece,
    printed: Mapping[str, Mapping[str, PrintedAccuracy]],
    others: Mapping[str, Mapping[str, Sequence[str]]],
) -> Grid:
    """`others`: by paper, the methods that it prints on this data set with other encoders alone, and with which."""
    grid = board_grids.accuracy_grid(board)
    if gain := _gain_over_baselines(board, piece):
        grid.rows.append(gain)
    header = list(grid.header)
    notes = list(grid.notes)
    by_title = {row.title: row for row in board.rows if row.published}
    for source, rows in printed.items():
        short = source.split(",")[0]
        apart_in = "Δ in SD" if len(printed) == 1 else f"Δ in SD, {short}"
        header += [short, apart_in]
        notes.append(
            f"{short}: overall accuracy in {source}, on this data set and encoder. {apart_in}: ours less theirs, in "
            "standard deviations of ours over splits."
        )
        doubtful = [
            row.title for row in board.rows if row.published and (r := rows.get(row.own_method)) and r.doubtful
        ]
        if doubtful:
            notes.append(
                f"As printed: the overall value of {' and '.join(doubtful)} in {source} lies outside of its seen and "
                "unseen ones and cannot be their mean."
            )
        for line in grid.rows:
            row = by_title.get(line[0].text)
            theirs = rows.get(row.own_method) if row else None
            if row is None or theirs is None:
                elsewhere = others[source].get(row.method, []) if row else []
                only = f"{', '.join(elsewhere)} only" if elsewhere else DASH
                line += [TableCell("" if row is None else only), TableCell("" if row is None else DASH)]
                continue
            apart = in_spreads(row, "overall", theirs.means[OVERALL] / 100)
            line += [
                TableCell(theirs.text(OVERALL, row.reader)),
                TableCell(DASH if theirs.other(row.reader) else grid_module.percent(apart / 100, signed=True)),
            ]
    for source, rows_elsewhere in others.items():
        encoders = sorted({encoder for encoders_of in rows_elsewhere.values() for encoder in encoders_of})
        if encoders and source not in printed:
            notes.append(
                f"{source} prints numbers on this data set with {' and '.join(encoders)} only: none compares with "
                f"{board.encoder}."
            )
    return Grid(
        grid.title, tuple(header), grid.rows, grid.rules, notes, f"{piece.name}:{board.dataset}:{board.encoder}"
    )


def _gain_over_baselines(board: Board, piece: Piece) -> list[TableCell]:
    """The paper's last line: % improvement of its own best row over the best row of others."""
    our_rows = [row for row in board.rows if row.rankable and row.method in piece.ours]
    rest = [row for row in board.rows if row.rankable and not row.method.startswith(tuple(piece.ours))]
    if not our_rows or not rest:
        return []
    gains = {p: max(row.value(p) for row in our_rows) / max(row.value(p) for row in rest) - 1 for p in RANKED}
    return board_grids.summary_row(board, f"% improvement of {our_rows[0].title} over the best other", gains)


@marks.piece
def ablation(evidence: Evidence, piece: Piece) -> PieceResult:
    """Table 2: overall accuracy and that of the worst 10, 20 and 50% of seen and of unseen users."""
    import pandas as pd

    grids: list[Grid] = []
    records: list[dict[str, Any]] = []
    for dataset, encoder, board in evidence.boards_of(piece):
        printed = [theirs for paper in evidence.published if (theirs := paper.robustness_rows(dataset, encoder))]
        order = {name: i for i, name in enumerate(piece.methods)}
        rows = sorted(board.rows, key=lambda row: order[row.method])
        header = ["Method"] + [
            f"{p.capitalize()} {'all' if c == 'overall' else 'worst ' + c[5:] + '%'}"
            for p in RANKED[:2]
            for c in COLUMNS
        ]
        lines = [[TableCell(row.title), *_ablation_cells(board, row)] for row in rows]
        notes = [
            f"User accuracy in %, mean over {splits_of(board)}; worst k%: the k% of the users with the lowest. "
            "Bold: best; underlined: second, of the rows with all splits and as printed: no test stands behind these "
            "marks. The CSV file has the standard deviations."
        ]
        notes += [f"{row.title}: {len(row.splits)} of {board.splits} splits." for row in rows if not row.complete]
        rules = []
        if printed:
            rules = [len(lines)]
            notes.append("Published: " + "; ".join(paper.source for paper in evidence.published if paper.robustness))
            for row in rows:
                for paper_rows in printed:
                    if line := paper_rows.get(row.method):
                        values = zip(
                            [*line.seen, *line.unseen],
                            [*(line.seen_std or [math.nan] * 4), *(line.unseen_std or [math.nan] * 4)],
                            strict=True,
                        )
                        texts = [f"{v:.1f}" + ("" if math.isnan(s) else f"±{s:.1f}") for v, s in values]
                        lines.append([TableCell(f"{line.label}, published"), *map(TableCell, texts)])
        label = f"{piece.name}:{dataset}:{encoder}"
        grids.append(
            Grid(f"{piece.title} on {dataset} ({encoder})", tuple(header), lines, tuple(rules), notes, label)
        )
        records += [
            {
                "dataset": dataset,
                "encoder": encoder,
                "method": row.method,
                "selection": row.selection,
                **{
                    f"{p}_{c}": row.value(p, "accuracy" if c == "overall" else c) for p in RANKED[:2] for c in COLUMNS
                },
                **{
                    f"{p}_{c}_std": row.spread(p, "accuracy" if c == "overall" else c)
                    for p in RANKED[:2]
                    for c in COLUMNS
                },
                "n_splits": len(row.splits),
            }
            for row in rows
        ]
    return PieceResult(pd.DataFrame(records), grids, missing=evidence.missing_notes(piece))


def _ablation_cells(board: Board, row: Row) -> list[TableCell]:
    cells = []
    for population in RANKED[:2]:
        for column in COLUMNS:
            metric = "accuracy" if column == "overall" else column
            value = round(row.value(population, metric), 3)
            values = {round(r.value(population, metric), 3) for r in board.rows if r.rankable and r.mean}
            ranked = sorted(values, reverse=True)
            rank = ranked.index(value) + 1 if row.rankable and value in ranked[:2] else 0
            cells.append(TableCell(grid_module.percent(row.value(population, metric)), rank))
    return cells
