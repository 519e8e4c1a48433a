"""One-sided feedback: what is left of a gain where only clicks, or only rejections, are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.protocol import metrics
from prbench.protocol.metrics import decisions
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.grid import DASH, Grid, TableCell, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import means, over_boards, present, star_note
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of

if TYPE_CHECKING:
    import pandas as pd

FEEDBACK = (
    "Unseen users, points of user accuracy above the method's own cold start, after adapting on the support choices "
    "(both), on what was chosen against an item drawn from those that seen users judged, of the same context where "
    "there is another (clicks), and on such an item against what was rejected (rejections). Higher is better, 0 is "
    "a method that does nothing. Lost: points of the gain with both that one side alone does not bring; 0 is best, "
    "and that of a method that does nothing. False: % of drawn pairs whose true utilities are the other way round, "
    "where they are known. "
)
SIDES = ("clicks", "rejections")


@marks.piece
def one_sided(evidence: Evidence, piece: Piece) -> PieceResult:
    """The gain with both sides and with each alone, and what one side alone loses."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        right = {name: decisions(table[name]) for name in ("both", *SIDES)}
        gains = {name: values - decisions(table["cold"]) for name, values in right.items()}
        lost = {f"{side}_lost": right["both"] - right[side] for side in SIDES}
        false = {f"{side}_false": table[f"{side}_false"].to_numpy(np.float64) for side in SIDES}
        users = means(table, gains | lost | false)
        rows = present(board, users)
        of_row = {
            name: users[(users["method"] == row.method) & (users["selection"] == row.selection)]
            for name, row in rows.items()
        }
        tests = {
            side: tested.family(
                {name: tested.by_user(part, f"{side}_lost") for name, part in of_row.items()},
                ratio=board.ratio,
                alpha=evidence.alpha,
                resamples=evidence.resamples,
                axes=(piece.name, side, board.dataset, board.encoder),
            )
            for side in SIDES
        }
        records, cells = [], []
        for name, row in rows.items():
            record: dict[str, Any] = {
                **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
                "title": name,
                **{f"gain_{kind}": float(np.nanmean(tested.by_user(of_row[name], kind))) for kind in gains},
            }
            texts = [name, *(percent(record[f"gain_{kind}"], signed=True) for kind in gains)]
            for side in SIDES:
                test = tests[side][name]
                share = float(of_row[name][f"{side}_false"].mean())
                record |= {
                    f"{side}_lost": test.result.difference,
                    f"{side}_p_holm": test.p,
                    f"{side}_low": test.result.bootstrap.low,
                    f"{side}_high": test.result.bootstrap.high,
                    f"{side}_false": share,
                }
                texts += [
                    test.text(evidence.alpha, digits=2),
                    test.over_users,
                    DASH if np.isnan(share) else percent(share),
                ]
            records.append(record)
            cells.append([TableCell(text) for text in texts])
        header = ["Method", "Both", "Clicks", "Rejections"]
        for side in SIDES:
            header += [f"Lost with {side}", "Interval over users", "False"]
        title = f"Clicks or rejections alone on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = FEEDBACK + "Each side is a family of tests. " + star_note(len(rows), evidence.alpha, board.ratio)
        grid = Grid(title, tuple(header), cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        return grid, records, _findings(board, tests, evidence.alpha)

    return over_boards(evidence, piece, "one-sided", lines)


def _findings(board: Board, tests: dict[str, dict[str, tested.RowTest]], alpha: float) -> list[Finding]:
    if any(tested.undefined(family) for family in tests.values()):
        return []
    losing = {side: tested.sorted_by_sign(family, alpha)[0] for side, family in tests.items()}
    parts = [f"with {side} alone by {tested.names(names)}" for side, names in losing.items() if names]
    lost = (
        f"a part of the gain is lost {', and '.join(parts)}"
        if parts
        else "neither side alone loses a part of the gain beyond noise"
    )
    rule = tested.rule_of(len(tests[SIDES[0]]), alpha)
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    return [Finding("tested", place, f"{lost} ({rule})")]
