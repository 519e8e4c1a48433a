"""Mean ranks of methods over splits, and the groups of methods that no test tells apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.protocol import metrics
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting import grid
from prbench.reporting.board import Board, Row
from prbench.reporting.figure import finished, panels, styled
from prbench.reporting.paper.evidence import Evidence, PieceResult, heading
from prbench.reporting.significance import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@marks.piece
def ranks(evidence: Evidence, piece: Piece) -> PieceResult:
    """Mean rank of each method over splits, Friedman's test, and bars over methods that no test tells apart.

    A bar's dots mark methods whose corrected resampled t-tests (Nadeau and Bengio 2003), Holm-adjusted over all pairs
    of the table, find no difference between any two; every such largest group has a bar. Ranks and these tests need
    not agree: a group may leave out a method that ranks between its members. Demšar 2006 draws such bars with
    Nemenyi's test, which takes splits for independent data sets; here they overlap. Friedman's p has the same fault
    and is given for comparison only.
    """
    import pandas as pd
    from scipy.stats import friedmanchisquare, rankdata

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    shown: list[tuple[Board, list[Row], np.ndarray[Any, Any], list[tuple[int, ...]], float]] = []
    records = []
    for dataset, encoder, board in evidence.boards_of(piece, "all"):
        rows = [row for row in board.rows if row.rankable]
        if len(rows) < 2:
            continue
        accuracy = _by_split(evidence, board, rows)
        rank = rankdata(-accuracy, axis=0).mean(axis=1)
        order = np.argsort(rank, kind="stable")
        rows, rank, accuracy = [rows[i] for i in order], rank[order], accuracy[order]
        p = float(friedmanchisquare(*accuracy).pvalue) if len(rows) > 2 and accuracy.shape[1] > 1 else math.nan
        cliques = indistinguishable_groups(board, rows)
        shown.append((board, rows, rank, cliques, p))
        for i, row in enumerate(rows):
            records.append(
                {
                    "dataset": dataset,
                    "encoder": encoder,
                    "method": row.method,
                    "selection": row.selection,
                    "mean_rank": rank[i],
                    "groups": " ".join(str(n) for n, group in enumerate(cliques, start=1) if i in group),
                    "friedman_p": p,
                    "n_splits": len(row.splits),
                }
            )
    output.frame = pd.DataFrame(records)
    if not shown:
        return output
    most = max(len(rows) for _, rows, _, _, _ in shown)
    with styled():
        figure, axes = panels(len(shown), size=(3.3, 0.8 + 0.19 * most))
        for ax, (board, rows, rank, cliques, p) in zip(axes, shown, strict=True):
            _ranked(ax, board, rows, rank, cliques, p)
        output.figure = finished(figure)
    return output


def _by_split(evidence: Evidence, board: Board, rows: list[Row]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Overall accuracy [rows, splits]."""
    frame = metrics.over_starts(evidence.per_split)
    of_board = (frame["dataset"] == board.dataset) & (frame["encoder"] == board.encoder)
    frame = frame[of_board & (frame["population"] == "overall") & (frame["shots"] == metrics.ALL_SHOTS)]
    return np.stack(
        [
            frame[(frame["method"] == row.method) & (frame["selection"] == row.selection)]
            .sort_values("split")["accuracy"]
            .to_numpy(dtype=np.float64)
            for row in rows
        ]
    )


def indistinguishable_groups(board: Board, rows: list[Row]) -> list[tuple[int, ...]]:
    """Maximal groups of at least two rows with no significant difference inside, as sorted places in `rows`.

    Two rows are told apart where the Holm-adjusted p of their comparison is below the board's level. Rows whose
    comparison has no p (a single split) are in no group together: no test was made.
    """
    import networkx

    graph = networkx.Graph()
    for i, a in enumerate(rows):
        for j in range(i + 1, len(rows)):
            pair = board.pair(a, rows[j], "overall")
            if pair is not None and Verdict(pair, pair.p_all_pairs).undecided(board.alpha):
                graph.add_edge(i, j)
    return sorted(tuple(sorted(group)) for group in networkx.find_cliques(graph))


def _ranked(
    ax: Axes, board: Board, rows: list[Row], rank: np.ndarray[Any, Any], cliques: list[tuple[int, ...]], p: float
) -> None:
    y = np.arange(len(rows))
    ax.scatter(rank, y, color="black", s=12, zorder=3)
    for i, (row, value) in enumerate(zip(rows, rank, strict=True)):
        # Towards the middle: there is room for any name.
        after = value <= (1 + len(rows)) / 2
        ax.annotate(
            f"{row.title}  {value:.1f}" if after else f"{value:.1f}  {row.title}",
            (value, i),
            xytext=(6 if after else -6, 0),
            textcoords="offset points",
            ha="left" if after else "right",
            va="center",
        )
    step = 0.032 * len(rows)
    for number, group in enumerate(cliques, start=1):
        at = 0.75 - step * number
        ax.plot([at] * len(group), group, color="0.3", linewidth=0.9, marker="o", markersize=3.4)
    ax.set(xlim=(0.75 - step * (len(cliques) + 1), len(rows) + 0.6), ylim=(len(rows) - 0.4, -0.6), yticks=[])
    ax.set_xticks(range(1, len(rows) + 1, 2 if len(rows) > 6 else 1))
    ax.set_xlabel("mean rank over splits, 1 is best")
    friedman = "" if math.isnan(p) else f"\nFriedman p = {grid.p_value(p)}".replace("= <", "< ")
    ax.set_title(f"{heading(board)}{friedman}")
    ax.grid(axis="y", visible=False)
