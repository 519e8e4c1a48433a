"""How groups of users fare, by what is known of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prbench.protocol import metrics
from prbench.protocol.groups import LEAST
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

GROUPS = (
    "Unseen users, each averaged over the splits in which the user was tested. Gap: the largest minus the smallest "
    "group mean of user accuracy, in points; of gain: the same of accuracy − cold start. Lower is fairer; a method "
    "that treats all alike has a gap above 0 too, as group means are noisy: its p-value permutes the groups' labels "
    "over users, 9,999 times (a gap of gain of a method that does nothing is 0). Groups below "
    f"{LEAST} users are joined or hidden. "
)


@marks.piece
def groups(evidence: Evidence, piece: Piece) -> PieceResult:
    """The gap between groups in accuracy and in what adapting gains, for every attribute."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        most = table.groupby(["method", "selection"], observed=True)["splits"].transform("max")
        table = table[table["splits"] == most].drop_duplicates(["method", "selection", "attribute", "group"])
        records: list[dict[str, Any]] = []
        for row in board.rows:
            row_table = of_row(table, row)
            for attribute, part in row_table.groupby("attribute", sort=True):
                first = part.iloc[0]
                records.append(
                    {
                        **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
                        "title": row.title,
                        "attribute": attribute,
                        "groups": ", ".join(
                            f"{r['group']} {percent(r['accuracy'])} ({r['users']})" for r in part.to_dict("records")
                        ),
                        **{name: float(first[name]) for name in ("gap", "gap_p", "gain_gap", "gain_gap_p")},
                        "n_splits": int(first["splits"]),
                    }
                )
        for name in ("gap", "gain_gap"):
            adjusted = holm_adjusted([r[f"{name}_p"] for r in records])
            for record, p in zip(records, adjusted, strict=True):
                record[f"{name}_p_holm"] = float(p)
        cells = []
        for r in records:
            stars = [STAR if r[f"{name}_p_holm"] < evidence.alpha else "" for name in ("gap", "gain_gap")]
            cells.append(
                [
                    TableCell(r["title"]),
                    TableCell(str(r["attribute"])),
                    TableCell(r["groups"]),
                    TableCell(percent(r["gap"]), marks=stars[0]),
                    TableCell(p_value(r["gap_p"])),
                    TableCell(percent(r["gain_gap"]), marks=stars[1]),
                    TableCell(p_value(r["gain_gap_p"])),
                ]
            )
        header = ("Method", "Attribute", "Groups (users)", "Gap", "p", "Gap of gain", "p of gain")
        title = f"Groups of users on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = GROUPS + f"{STAR}: p < {evidence.alpha:g}, Holm over the lines of the table ({len(records)})."
        grid = Grid(title, header, cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        return grid, records, _findings(board, records, evidence.alpha)

    return over_boards(evidence, piece, "groups", lines)


def _findings(board: Board, records: list[dict[str, Any]], alpha: float) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    unlike = [f"{r['title']} by {r['attribute']}" for r in records if r["gain_gap_p_holm"] < alpha]
    text = (
        f"what adapting gains differs between groups of users for {tested.names(unlike)}, of {len(records)} methods "
        f"and attributes (labels permuted over users, Holm over the lines, p < {alpha:g})"
    )
    return [Finding("tested", place, text)]
