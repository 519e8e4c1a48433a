"""Side effects: what adapting costs of a quality that all users share, beyond what tossed labels cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.protocol import metrics
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.grid import Grid, TableCell, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import of_row, over_boards, present, star_note
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of

if TYPE_CHECKING:
    import pandas as pd

WORST = 0.1
TAXES = (
    "Unseen users. Shared quality: % of all pairs of a prompt's replies on which a state prefers the one of higher "
    "quality, "
    "before adapting; higher is better, 50 is a reward that ignores it. Tax: points that adapting to the user costs "
    "of it, "
    "the mean over users, ± its standard error over prompts; lower is better, 0 is a method that does nothing. "
    "Worst: the "
    "same of the worst 10% of users. Tossed: the tax of the same support with each label tossed; only the excess "
    "over it is "
    "an effect of the user's choices. "
)


def tax_of(table: pd.DataFrame) -> dict[str, float]:
    """One row's numbers, means over splits: `quality`, `tax`, its `error` over prompts, `worst`, and `tossed`."""
    by_user = table.groupby(["split", "user"])[["cold", "adapted", "tossed"]].mean().astype(float)
    cold = by_user["cold"].groupby("split").mean()
    worst = []
    for split, split_users in by_user.groupby("split"):
        ordered = np.sort(split_users["adapted"].to_numpy())
        worst.append(cold[split] - ordered[: max(1, int(np.ceil(WORST * len(ordered))))].mean())
    lost = (table["cold"] - table["adapted"]).astype(float).groupby(table["prompt"]).mean()
    return {
        "quality": float(cold.mean()),
        "tax": float((by_user["cold"] - by_user["adapted"]).groupby("split").mean().mean()),
        "error": float(lost.std(ddof=1) / np.sqrt(len(lost))) if len(lost) > 1 else float("nan"),
        "worst": float(np.mean(worst)),
        "tossed": float((by_user["cold"] - by_user["tossed"]).groupby("split").mean().mean()),
    }


@marks.piece
def taxes(evidence: Evidence, piece: Piece) -> PieceResult:
    """The tax on a shared quality, and its excess over that of tossed labels."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        table = table.assign(excess=table["tossed"].astype(float) - table["adapted"].astype(float))
        rows = present(board, table)
        row_tables = {name: of_row(table, row) for name, row in rows.items()}
        matrices = {
            name: tested.by_user(part.groupby(["split", "user"])["excess"].mean().reset_index(), "excess")
            for name, part in row_tables.items()
        }
        tests = tested.family(
            matrices,
            ratio=board.ratio,
            alpha=evidence.alpha,
            resamples=evidence.resamples,
            axes=(piece.name, board.dataset, board.encoder),
        )
        records, cells = [], []
        for name, part in row_tables.items():
            numbers = tax_of(part)
            test = tests[name]
            keys = dict(zip(metrics.ROW, (board.dataset, board.encoder, *rows[name].key), strict=True))
            records.append(
                {
                    **keys,
                    "title": name,
                    **numbers,
                    "excess": test.result.difference,
                    "excess_p_holm": test.p,
                    "excess_low": test.result.bootstrap.low,
                    "excess_high": test.result.bootstrap.high,
                }
            )
            spread = percent(numbers["error"])
            texts = [
                name,
                percent(numbers["quality"]),
                f"{percent(numbers['tax'], signed=True)}±{spread}",
                percent(numbers["worst"], signed=True),
                percent(numbers["tossed"], signed=True),
                test.text(evidence.alpha),
                test.over_users,
            ]
            cells.append([TableCell(text) for text in texts])
        header = ("Method", "Shared quality", "Tax", "Worst", "Tossed", "Excess", "Interval over users")
        title = f"Tax on a shared quality on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = TAXES + star_note(len(tests), evidence.alpha, board.ratio)
        grid = Grid(title, header, cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        costly, sparing, _ = tested.sorted_by_sign(tests, evidence.alpha)
        text = (
            f"the user's choices cost of a quality that all users share for {tested.names(costly)} and add to it for "
            f"{tested.names(sparing)}, of {len(tests)} methods, beyond what tossed labels do "
            f"({tested.rule_of(len(tests), evidence.alpha)})"
        )
        place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
        return grid, records, [] if tested.undefined(tests) else [Finding("tested", place, text)]

    return over_boards(evidence, piece, "taxes", lines)
