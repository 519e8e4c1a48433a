"""What may be claimed: ranks, the optimism of choosing on test data, and transfer to other people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.protocol import metrics
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting import grid
from prbench.reporting.board import ORACLE, Board, Row
from prbench.reporting.figure import CAPS, finished, legend_below, looks, panels, styled
from prbench.reporting.grid import Grid, TableCell
from prbench.reporting.paper.evidence import Evidence, PieceResult, counted, heading, splits_of
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
    here = (frame["dataset"] == board.dataset) & (frame["encoder"] == board.encoder)
    frame = frame[here & (frame["population"] == "overall") & (frame["shots"] == metrics.ALL_SHOTS)]
    return np.stack(
        [
            frame[(frame["method"] == row.method) & (frame["selection"] == row.selection)]
            .sort_values("split")["accuracy"]
            .to_numpy(dtype=np.float64)
            for row in rows
        ]
    )


def indistinguishable_groups(board: Board, rows: list[Row]) -> list[tuple[int, ...]]:
    """The largest groups of rows of which no test tells any two apart: places in `rows`, two at least, sorted.

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


@marks.piece
def oracle(evidence: Evidence, piece: Piece) -> PieceResult:
    """Overall accuracy under the honest choice and with the epoch chosen on test accuracy, and the difference."""
    import pandas as pd

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    records = []
    for dataset, encoder, board in evidence.boards_of(piece):
        lines, unchosen = [], []
        if not any(row.oracle for row in board.rows):
            output.missing.append(f"{dataset} ({encoder}): run with --selection {ORACLE}")
            continue
        for method in piece.methods:
            honest = [row for row in board.rows if row.method == method and not row.oracle and row.complete]
            chosen = [row for row in board.rows if row.method == method and row.oracle and row.complete]
            for row in honest:
                best = chosen[0] if chosen else None
                claim = best.value("overall") if best else math.nan
                if best is None:
                    unchosen.append(method)
                records.append(
                    {
                        "dataset": dataset,
                        "encoder": encoder,
                        "method": method,
                        "selection": row.selection,
                        "accuracy": row.value("overall"),
                        "accuracy_on_test_choice": claim,
                        "optimism": claim - row.value("overall"),
                        "n_splits": len(row.splits),
                    }
                )
                own = (row.value("overall"), claim)
                gain = grid.percent(claim - row.value("overall"), signed=True, digits=2)
                lines.append(
                    [
                        TableCell(row.title),
                        *(TableCell(grid.percent(value, digits=2)) for value in own),
                        TableCell(gain),
                    ]
                )
        if unchosen:
            output.missing.append(f"{dataset} ({encoder}), run with --selection {ORACLE}: {', '.join(unchosen)}")
        notes = [
            f"Overall user accuracy in %, mean over {splits_of(board)}. Chosen on test: of the same candidates, the "
            "one with the best accuracy on the test choices of seen and unseen users, the rule of the published MRM "
            "code. It is not a result."
        ]
        header = ("Method", "Chosen honestly", "Chosen on test", "Optimism")
        title = f"{piece.title}, {dataset} ({encoder})"
        output.grids.append(Grid(title, header, lines, (), notes, f"{piece.name}:{dataset}:{encoder}"))
    output.frame = pd.DataFrame(records)
    return output


@marks.piece
def transfer(evidence: Evidence, piece: Piece) -> PieceResult:
    """Accuracy of another data set's unseen users, adapted (markers) and before any choice of theirs (crosses).

    For comparison, the same method fitted on that data set where the results hold it (bars).
    """
    import pandas as pd

    found = evidence.probes
    found = evidence.complete_lines(found[found["probe"] == "on"], piece)
    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    if not len(found):
        output.missing.append("transfer: run `prbench probe --transfer all` on fits with a text encoder")
        return output
    parts = []
    for on, part in found.groupby("on"):
        table = metrics.over_splits(metrics.split_metrics(metrics.complete_starts(metrics.user_metrics(part))))
        table = evidence.lines_with_all_splits(table, piece, output.missing, f"transfer to {on}")
        parts.append(table[table["population"] == "unseen"].assign(on=on))
    table = pd.concat(parts, ignore_index=True).rename(columns={"dataset": "fitted_on", "on": "tested_on"})
    home = metrics.over_splits(evidence.complete_lines(evidence.per_split, piece))
    home = home[(home["population"] == "unseen") & (home["shots"] == metrics.ALL_SHOTS)]
    keys = ["encoder", "method", "selection"]
    home = home.rename(columns={"dataset": "tested_on", "accuracy": "fitted_there"})
    table = table.merge(home[["tested_on", *keys, "fitted_there"]], how="left", on=["tested_on", *keys])
    columns = ["fitted_on", "tested_on", *keys, "accuracy", "accuracy_std", "cold_start", "flip_rate", "fitted_there"]
    output.frame = table[[*columns, "n_splits"]].sort_values(columns[:5]).reset_index(drop=True)
    if not len(table):
        return output
    ways = sorted(set(zip(table["fitted_on"], table["tested_on"], table["encoder"], strict=True)))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(ways))
        told: set[str] = set()
        for ax, way in zip(axes, ways, strict=True):
            source, target, encoder = way
            keyed = zip(output.frame["fitted_on"], output.frame["tested_on"], output.frame["encoder"], strict=True)
            here = output.frame[[key == way for key in keyed]]
            names = [name for name in piece.methods if (here["method"] == name).any()]
            for i, name in enumerate(names):
                row = here[here["method"] == name].iloc[0]
                style = {**look[name], "linestyle": "none"}
                ax.errorbar(i, 100 * row["accuracy"], yerr=100 * row["accuracy_std"], **style, **CAPS)
                before: dict[str, Any] = {"label": "before adapting"} if not i else {}
                ax.plot(i, 100 * row["cold_start"], marker="x", color="0.35", linestyle="none", **before)
                if not math.isnan(row["fitted_there"]):
                    place: dict[str, Any] = {"marker": "_", "markersize": 14, "color": "0.1", "linestyle": "none"}
                    place |= {"label": f"fitted on {target}"} if target not in told else {}
                    told.add(target)
                    ax.plot(i, 100 * row["fitted_there"], **place)
            ax.axhline(50, color="0.6", linestyle=":", linewidth=0.9)
            ax.set_xticks(range(len(names)), [evidence.title(n) for n in names], rotation=30, ha="right")
            ax.set(ylabel="accuracy, unseen users (%)")
            ax.set_title(f"{source} → {target} ({encoder}), {counted(int(here['n_splits'].max()))}")
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output
