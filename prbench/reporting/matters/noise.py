"""Noisy feedback: what a method loses when hard choices are labelled wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.comparisons import FloatArray
from prbench.protocol import metrics
from prbench.protocol.metrics import decisions
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.grid import Grid, TableCell, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import means, of_row, over_boards, present, star_note
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of

if TYPE_CHECKING:
    import pandas as pd

NOISE = (
    "Unseen users, points of user accuracy above the method's own cold start, where a share of the support labels is "
    "flipped; pairs that bt finds close are flipped more often, each at most half of the time. Higher is better, 0 "
    "is a method that does nothing. Slope: points per 10% of flipped labels, least squares over the rates; 0 is "
    "best, and that of a method that does nothing. "
)


def slopes(rates: FloatArray, gain: FloatArray) -> FloatArray:
    """Least-squares slope of the gain on the rate, [users, splits, rates] -> [users, splits], per 10% of labels."""
    centred = rates - rates.mean()
    return np.asarray(0.1 * (gain @ centred) / (centred @ centred))


@marks.piece
def mistakes(evidence: Evidence, piece: Piece) -> PieceResult:
    """The gain at each rate of flipped labels, and its slope."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        table = table.assign(percent=np.rint(100 * table["rate"].to_numpy(float)).astype(int))
        users = means(table, {"gain": decisions(table["margin"]) - decisions(table["cold"])}, by=["percent"])
        rows = present(board, users)
        rates = sorted(int(rate) for rate in users["percent"].unique())
        each: dict[str, FloatArray] = {}
        for name, row in rows.items():
            row_users = of_row(users, row)
            each[name] = np.stack(
                [tested.by_user(row_users[row_users["percent"] == rate], "gain") for rate in rates], axis=-1
            )
        tests = tested.family(
            {name: slopes(np.array(rates) / 100, gain) for name, gain in each.items()},
            ratio=board.ratio,
            alpha=evidence.alpha,
            resamples=evidence.resamples,
            axes=(piece.name, board.dataset, board.encoder),
        )
        records, cells = [], []
        for name, row in rows.items():
            gains = np.nanmean(np.nanmean(each[name], axis=0), axis=0)
            records.append(
                {
                    **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
                    "title": name,
                    **{f"gain_{rate}": float(gain) for rate, gain in zip(rates, gains, strict=True)},
                    "slope": tests[name].result.difference,
                    "slope_p_holm": tests[name].p,
                    "slope_low": tests[name].result.bootstrap.low,
                    "slope_high": tests[name].result.bootstrap.high,
                }
            )
            texts = [percent(float(gain), signed=True) for gain in gains]
            slope = tests[name].text(evidence.alpha, digits=2)
            cells.append([TableCell(text) for text in (name, *texts, slope, tests[name].over_users)])
        header = ("Method", *(f"{rate}%" for rate in rates), "Slope", "Interval over users")
        title = f"Wrong labels on hard pairs on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = NOISE + star_note(len(tests), evidence.alpha, board.ratio)
        grid = Grid(title, header, cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        _, losing, _ = tested.sorted_by_sign(tests, evidence.alpha)
        place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
        text = (
            f"wrong labels on hard pairs cost {tested.names(losing)} accuracy, and {len(tests) - len(losing)} of "
            f"{len(tests)} methods none beyond noise ({tested.rule_of(len(tests), evidence.alpha)})"
        )
        return grid, records, [Finding("tested", place, text)] if not tested.undefined(tests) else []

    return over_boards(evidence, piece, "mistakes", lines)
