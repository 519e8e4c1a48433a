"""Whether a user's state tells a category of the person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prbench.protocol import metrics
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.grid import STAR, Grid, TableCell, p_value, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import of_row, over_boards
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of
from prbench.reporting.significance import holm_adjusted

if TYPE_CHECKING:
    import pandas as pd

INFERENCE = (
    "Unseen users, after adapting on their whole support; classes of ten and more users. AUC: the mean over classes "
    "of the AUC in % of one class against the rest, read off a state's margins on 500 fixed pairs by a logistic "
    "regression in five folds; the mean over splits. Lower is better: at 50, as with a method that does nothing, a "
    "state does not tell the class. p: twice the mean over splits of the permutation tests' p-values, which holds "
    "however the splits depend on one another (Vovk and Wang 2020). "
)


@marks.piece
def attributes(evidence: Evidence, piece: Piece) -> PieceResult:
    """How well each attribute is read off the states of each method."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        records: list[dict[str, Any]] = []
        for row in board.rows:
            for attribute, part in of_row(table, row).groupby("attribute", sort=True):
                records.append(
                    {
                        **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
                        "title": row.title,
                        "attribute": str(attribute),
                        "auc": float(part["auc"].mean()),
                        "users": float(part["users"].mean()),
                        "classes": int(part["classes"].max()),
                        "n_splits": len(part),
                        "p": min(1.0, 2 * float(part["p"].mean())),
                    }
                )
        for record, p in zip(records, holm_adjusted([r["p"] for r in records]), strict=True):
            record["p_holm"] = p
        cells = [
            [
                TableCell(r["title"]),
                TableCell(r["attribute"]),
                TableCell(percent(r["auc"]), marks=STAR if r["p_holm"] < evidence.alpha else ""),
                TableCell(p_value(r["p"])),
                TableCell(str(r["classes"])),
                TableCell(f"{r['users']:.0f}"),
                TableCell(str(r["n_splits"])),
            ]
            for r in records
        ]
        header = ("Method", "Attribute", "AUC", "p", "Classes", "Users", "Splits")
        title = f"Attributes read off states on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = INFERENCE + f"{STAR}: p < {evidence.alpha:g}, Holm over the lines of the table ({len(records)})."
        grid = Grid(title, header, cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        return grid, records, _findings(board, records, evidence.alpha)

    return over_boards(evidence, piece, "inference", lines)


def _findings(board: Board, records: list[dict[str, Any]], alpha: float) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    telling = [f"{r['title']} the {r['attribute']}" for r in records if r["p_holm"] < alpha]
    rule = f"labels permuted over users, Holm over the {len(records)} lines, p < {alpha:g}"
    text = (
        f"an adapted state tells an attribute that nobody gave it: {tested.names(telling)} ({rule})"
        if telling
        else f"no method's adapted state tells an attribute beyond noise ({rule})"
    )
    return [Finding("tested", place, text)]
