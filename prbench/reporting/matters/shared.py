"""What pieces made from a probe's table share: they go board by board and name the rows that lack it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.comparisons import FloatArray
from prbench.protocol import metrics
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board, Row
from prbench.reporting.grid import Grid
from prbench.reporting.matters import tested
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, among
from prbench.reporting.placing import results_of

if TYPE_CHECKING:
    import pandas as pd

ONLY = {
    "best-of-n": "only where a user's pools have three and more candidates",
    "policy": "with a language model, and only on data of texts",
    "groups": "only where users' attributes are known",
    "inference": "only where an attribute of the users has two classes of ten unseen users",
    "taxes": "only where replies have a known quality that all users share",
    "updates": "only under the protocol chronological",
    "units": "only for methods with a latent state of known prior",
}
"""What a probe needs of the data or the method; elsewhere it is skipped by name."""
Lines = Callable[[Board, Any], tuple[Grid, list[dict[str, Any]], list[Finding]]]


def over_boards(evidence: Evidence, piece: Piece, kind: str, lines: Lines, *, everyone: bool = False) -> PieceResult:
    """A piece from a probe's table, board by board; rows without it are named as missing.

    Methods without personal state are left out, unless `everyone` takes part.
    """
    import pandas as pd

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    records: list[dict[str, Any]] = []
    for dataset, encoder, board in evidence.boards_of(piece):
        rows = [row for row in board.rows if row.splits and (everyone or personal(evidence, row, board))]
        table = evidence.table(kind, dataset, encoder, piece)
        names = set(zip(table["method"].astype(str), table["selection"].astype(str), strict=True))
        if lacking := [row.title for row in rows if row.key not in names]:
            only = f"; {ONLY[kind]}" if kind in ONLY else ""
            command = f"`prbench probe --kinds {kind}`{only}"
            output.missing.append(f"{dataset} ({encoder}), not probed ({command}): {', '.join(lacking)}")
        table = table[among(table, [(dataset, encoder, *row.key) for row in rows])]
        if not len(table):
            continue
        grid, board_records, findings = lines(board, table)
        if board_records:
            output.grids.append(grid)
            records += board_records
            output.findings += findings
    output.frame = pd.DataFrame(records)
    return output


def personal(evidence: Evidence, row: Row, board: Board) -> bool:
    """Whether a row keeps anything of a user."""
    cells = evidence.cells[board.dataset, board.encoder]
    return any(record.parameters.per_user for record in results_of(c for c in cells if c.row_key == row.key))


def present(board: Board, frame: pd.DataFrame) -> dict[str, Row]:
    """The rows of a board, by title in its order, that have lines in a frame for every one of their splits."""
    rows = {}
    for row in board.rows:
        lines = of_row(frame, row)
        if len(lines) and set(row.splits) <= set(lines["split"].unique()):
            rows[row.title] = row
    return rows


def star_note(count: int, alpha: float, ratio: float) -> str:
    """What a star means, or that none is given."""
    if np.isnan(ratio):
        return (
            "Every split tests the same choices, so that no star is given: the interval over users is the evidence."
        )
    return f"*: unlike 0, {tested.rule_of(count, alpha)}. Interval over users: bootstrap of users' means over splits."


def means(frame: pd.DataFrame, columns: Mapping[str, FloatArray], by: Sequence[str] = ()) -> pd.DataFrame:
    """Each column's mean over a user's lines in every row and split (and `by`): a frame with these keys."""
    import pandas as pd

    keys = [*metrics.ROW, "split", "user", *by]
    table = pd.DataFrame({**{key: frame[key] for key in keys}, **dict(columns)})
    return table.groupby(keys, observed=True, sort=True).mean().reset_index()


def of_row(frame: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The lines of a frame that belong to a row of its board."""
    return frame[(frame["method"] == row.method) & (frame["selection"] == row.selection)]
