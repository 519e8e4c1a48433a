"""What a user's state gives away: `prbench report privacy --runs runs --out out`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.comparisons import FloatArray
from prbench.protocol import metrics, stats
from prbench.protocol.leaks import auc
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.grid import Grid, TableCell, interval, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import of_row, over_boards, personal, present, star_note
from prbench.reporting.matters.tested import RowTest
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper import write_pieces
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of
from prbench.results.probes import SUPPORT

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results

WHERE = "reports/privacy.toml"
MEMBERSHIP = (
    "Unseen users, after adapting on their whole support. Membership: the chance in % that the margin of a choice "
    "that the state was adapted on is above that of one of the user's test choices, ties one half; the mean over "
    "users. Lower is better: at 50 nothing leaks, as with a method that does nothing. Leak: points above 50. "
)
IDENTITY = (
    "Unseen users with five and more choices in both halves of their support, cut by groups. First: % of users whose "
    "state from one half is closest to their own state from the other (1 − correlation of margins on 500 fixed "
    "pairs; equal distances share the place). Lower is better; chance, which a method that does nothing has, is 1 "
    "over the number of users. Above chance: the difference in points. Rank: the mean rank of the user's own other "
    "half, 1 the closest. "
)


@marks.report
def privacy(
    results: Results,
    out: Path,
    *,
    pieces: Sequence[Any],
    baseline: str = "bt",
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
) -> list[Path]:
    """Write every piece and a page with all of them; returns the paths. Raises InputError as the paper's report."""
    title = "What a user's state gives away"
    return write_pieces(results, out, pieces, WHERE, baseline, alpha, resamples, title=title)


@marks.piece
def membership(evidence: Evidence, piece: Piece) -> PieceResult:
    """Whether a state tells which choices it was adapted on."""
    import pandas as pd

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    records: list[dict[str, Any]] = []
    for dataset, encoder, board in evidence.boards_of(piece):
        values = {
            row.title: (row.key, matrix)
            for row in board.rows
            if row.splits and personal(evidence, row, board)
            for matrix in [_aucs(evidence, (dataset, encoder, *row.key))]
            if matrix is not None and matrix.shape[1] >= len(row.splits)
        }
        if not values:
            output.missing.append(f"{dataset} ({encoder}): not probed (`prbench probe --support`)")
            continue
        tests = tested.family(
            {name: matrix - 0.5 for name, (_, matrix) in values.items()},
            ratio=board.ratio,
            alpha=evidence.alpha,
            resamples=evidence.resamples,
            axes=(piece.name, dataset, encoder),
        )
        for name, (key, _) in values.items():
            records.append(_record(board, key, name, tests[name], 0.5))
        header = ("Method", "Membership", "Leak", "Interval over users")
        cells = [
            [
                TableCell(name),
                TableCell(percent(0.5 + tests[name].result.difference)),
                TableCell(tests[name].text(evidence.alpha)),
                TableCell(tests[name].over_users),
            ]
            for name in values
        ]
        title = f"Membership on {dataset} ({encoder}), {splits_of(board)}"
        note = MEMBERSHIP + star_note(len(tests), evidence.alpha, board.ratio)
        output.grids.append(Grid(title, header, cells, (), [note], f"{piece.name}:{dataset}:{encoder}"))
        output.findings += _findings(board, tests, evidence.alpha, "a state tells which choices it was adapted on")
    output.frame = pd.DataFrame(records)
    return output


def _aucs(evidence: Evidence, row: tuple[str, ...]) -> FloatArray | None:
    """Each unseen user's AUC in each split, [users, splits]; None where the support was not scored."""
    import pandas as pd

    def of(frame: pd.DataFrame) -> pd.DataFrame:
        of_row = np.logical_and.reduce([(frame[k] == v).to_numpy() for k, v in zip(metrics.ROW, row, strict=True)])
        unseen = frame[of_row & (frame["population"] == "unseen").to_numpy()]
        first: pd.DataFrame = unseen[unseen["restart"] == 0] if "restart" in unseen else unseen
        return first

    probed = evidence.probes
    inside = of(probed[probed["probe"] == SUPPORT])
    if not len(inside):
        return None
    scores = evidence.results.scores
    outside = of(scores[scores["shots"] == ALL_SHOTS])
    keys = ["split", "user"]
    tests = {key: part["margin"].to_numpy(np.float64) for key, part in outside.groupby(keys, observed=True)}
    lines = [
        {"split": key[0], "user": key[1], "auc": auc(part["margin"].to_numpy(np.float64), tests[key])}
        for key, part in inside.groupby(keys, observed=True)
        if key in tests
    ]
    return tested.by_user(pd.DataFrame(lines), "auc") if lines else None


@marks.piece
def identity(evidence: Evidence, piece: Piece) -> PieceResult:
    """Whether a user is found again by the state that other choices of the same person give."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        table = table.assign(above=table["first"].astype(float) - 1 / table["users"])
        rows = present(board, table)
        row_tables = {name: of_row(table, row) for name, row in rows.items()}
        tests = tested.family(
            {name: tested.by_user(part, "above") for name, part in row_tables.items()},
            ratio=board.ratio,
            alpha=evidence.alpha,
            resamples=evidence.resamples,
            axes=(piece.name, board.dataset, board.encoder),
        )
        records, cells = [], []
        for name, part in row_tables.items():
            chance = float((1 / part["users"]).mean())
            rank = float(part["rank"].mean())
            record = _record(board, rows[name].key, name, tests[name], chance) | {"rank": rank}
            records.append(record)
            texts = [
                name,
                percent(record["value"]),
                percent(chance),
                tests[name].text(evidence.alpha),
                interval(*tests[name].result.bootstrap),
                f"{rank:.1f} of {part['users'].mean():.0f}",
            ]
            cells.append([TableCell(text) for text in texts])
        header = ("Method", "First", "Chance", "Above chance", "Interval over users", "Rank")
        title = f"Re-identification on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = IDENTITY + star_note(len(tests), evidence.alpha, board.ratio)
        grid = Grid(title, header, cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        return grid, records, _findings(board, tests, evidence.alpha, "a person is found again by the state")

    return over_boards(evidence, piece, "halves", lines)


def _record(board: Board, key: tuple[str, str], name: str, test: RowTest, nothing: float) -> dict[str, Any]:
    return {
        **dict(zip(metrics.ROW, (board.dataset, board.encoder, *key), strict=True)),
        "title": name,
        "value": nothing + test.result.difference,
        "nothing": nothing,
        "leak": test.result.difference,
        "p": test.result.corrected.p,
        "p_holm": test.p,
        "low": test.result.bootstrap.low,
        "high": test.result.bootstrap.high,
    }


def _findings(board: Board, tests: dict[str, RowTest], alpha: float, what: str) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    if tested.undefined(tests):
        above = [name for name, test in tests.items() if test.result.bootstrap.low > 0]
        text = f"{what} for {tested.names(above)} of {len(tests)} methods, by the interval over users alone"
        return [Finding("measured", place, text)]
    leaking, _, _ = tested.sorted_by_sign(tests, alpha)
    text = f"{what} for {tested.names(leaking)} of {len(tests)} methods ({tested.rule_of(len(tests), alpha)})"
    return [Finding("tested", place, text)]
