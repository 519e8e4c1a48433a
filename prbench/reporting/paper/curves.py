"""Curves of arXiv 2601.18731: worst-k% robustness (Figure 3), sweeps (4 and 5), few shots (6), and label noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prbench import registry
from prbench.protocol import metrics
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting import grid
from prbench.reporting.figure import CAPS, band, finished, legend_below, looks, panels, styled
from prbench.reporting.grid import Grid, TableCell
from prbench.reporting.paper.evidence import Evidence, PieceResult, among, heading, setting_heading, splits_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from prbench.reporting.board import Board


SWEPT = {"rho": "ρ", "gamma": "γ", "users_per_update": "users in an update", "bases": "base functions K"}


@marks.piece
def robustness(evidence: Evidence, piece: Piece) -> PieceResult:
    """Figure 3: mean accuracy of the worst k% of all users, k = 1 … 100; markers at the paper's 10, 20 and 50%.

    Bands are one standard deviation over splits.
    """
    boards = list(evidence.boards_of(piece))
    kept = evidence.complete_lines(evidence.users, piece)
    kept = kept[kept["shots"] == ALL_SHOTS]
    curves = metrics.worst_k_curves(kept) if len(kept) else kept.assign(k=[])
    curves = curves[curves["population"] == "overall"]
    table = metrics.over_splits(curves, by=("k",)) if len(curves) else curves
    output = PieceResult(table, missing=evidence.missing_notes(piece))
    if not len(table):
        return output
    output.grids = [_worst_grid(board, table, piece, evidence) for _, _, board in boards]
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(boards))
        for ax, (dataset, encoder, board) in zip(axes, boards, strict=True):
            panel = table[(table["dataset"] == dataset) & (table["encoder"] == encoder)]
            for method in piece.methods:
                curve = panel[panel["method"] == method].sort_values("k")
                if len(curve):
                    line = {**look[method], "markevery": [k - 1 for k in metrics.WORST]}
                    band(ax, curve["k"], curve["accuracy"], curve["accuracy_std"], line, evidence.title(method))
            ax.set(xlabel="worst k% of users", ylabel="user accuracy (%)", xlim=(0, 101))
            ax.set_title(heading(board))
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output


def _worst_grid(board: Board, table: pd.DataFrame, piece: Piece, evidence: Evidence) -> Grid:
    """The marked points of the figure as a table."""
    shown = (*metrics.WORST, 100)
    points = table[(table["dataset"] == board.dataset) & (table["encoder"] == board.encoder) & table["k"].isin(shown)]
    lines = []
    for method in piece.methods:
        curve = points[points["method"] == method].set_index("k")
        if len(curve):
            cells = (
                TableCell(
                    f"{grid.percent(float(curve['accuracy'][k]))}±{grid.percent(float(curve['accuracy_std'][k]))}"
                )
                for k in shown
            )
            lines.append([TableCell(evidence.title(method)), *cells])
    header = ("Method", *(f"Worst {k}%" for k in metrics.WORST), "All users")
    notes = [f"User accuracy in %, mean ± standard deviation over {splits_of(board)}."]
    return Grid(f"{piece.title}, {board.dataset} ({board.encoder})", header, lines, (), notes,
                f"{piece.name}:{board.dataset}:{board.encoder}")  # fmt: skip


@marks.piece
def sweep(evidence: Evidence, piece: Piece) -> PieceResult:
    """Figures 4 and 5: overall accuracy and that of the worst 10% against one parameter, ±1 SD over splits.

    Methods whose values rise again start a new curve. A value of 0 of gamma is the hard filter, shown as 0*.
    """
    import pandas as pd

    curves = _runs_of(piece)
    boards = list(evidence.boards_of(piece))
    records = []
    for dataset, encoder, board in boards:
        for number, curve in enumerate(curves):
            for method, value in curve:
                for row in board.rows:
                    if row.method == method and row.complete:
                        records.append(
                            {
                                "dataset": dataset,
                                "encoder": encoder,
                                "curve": number,
                                "method": method,
                                "selection": row.selection,
                                piece.parameter: value,
                                "overall": row.value("overall"),
                                "overall_std": row.spread("overall"),
                                "worst10": row.value("overall", "worst10"),
                                "worst10_std": row.spread("overall", "worst10"),
                                "n_splits": len(row.splits),
                            }
                        )
    output = PieceResult(pd.DataFrame(records), missing=evidence.missing_notes(piece))
    # One value is not a sweep.
    points = Counter((r["dataset"], r["encoder"], r["curve"]) for r in records)
    swept = [item for item in boards if any(points[(*item[:2], n)] > 1 for n in range(len(curves)))]
    if not swept:
        return PieceResult(output.frame.iloc[:0], missing=output.missing)
    with styled():
        figure, axes = panels(2 * len(swept))
        for i, (dataset, encoder, board) in enumerate(swept):
            panel = output.frame[(output.frame["dataset"] == dataset) & (output.frame["encoder"] == encoder)]
            for ax, metric, name in zip(
                axes[2 * i : 2 * i + 2], ("overall", "worst10"), ("all users", "worst 10%"), strict=True
            ):
                _swept(ax, panel, metric, evidence, piece, curves)
                ax.set(xlabel=SWEPT.get(piece.parameter, piece.parameter), ylabel=f"accuracy, {name} (%)")
                ax.set_title(heading(board))
        if len(curves) > 1:
            legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output


def _runs_of(piece: Piece) -> list[list[tuple[str, float]]]:
    curves: list[list[tuple[str, float]]] = []
    for method, value in zip(piece.methods, piece.values, strict=True):
        if not curves or value <= curves[-1][-1][1]:
            curves.append([])
        curves[-1].append((method, value))
    return curves


def _swept(
    ax: Axes,
    panel: pd.DataFrame,
    metric: str,
    evidence: Evidence,
    piece: Piece,
    curves: list[list[tuple[str, float]]],
) -> None:
    # Evenly spaced: published grids are neither linear nor geometric.
    ticks = sorted(set(piece.values))
    # A curve looks like its entry without a value in the name, such as mrm among mrm-k1, mrm-k4 and mrm-k8.
    names = [_family_of([method for method, _ in curve]) for curve in curves]
    look = looks(evidence, names)
    for number, name in enumerate(names):
        points = panel[panel["curve"] == number].sort_values(piece.parameter)
        if not len(points):
            continue
        label = piece.labels[number] if number < len(piece.labels) else evidence.title(name)
        # Curves of one figure stand beside one another, so that their bars do not cover each other.
        at = np.array([ticks.index(value) for value in points[piece.parameter]]) + 0.06 * (
            number - (len(curves) - 1) / 2
        )
        spread = 100 * points[f"{metric}_std"].fillna(0).to_numpy()
        ax.errorbar(at, 100 * points[metric].to_numpy(), yerr=spread, label=label, **look[name], **CAPS)
    labels = ["0*" if piece.parameter == "gamma" and tick == 0 else f"{tick:g}" for tick in ticks]
    ax.set_xticks(range(len(ticks)), labels)
    ax.set_xlim(-0.4, len(ticks) - 0.6)


def _family_of(methods: Sequence[str]) -> str:
    """The method that most of these extend; the first, where none extends another."""
    parents = Counter(parent for method in methods if (parent := registry.get("methods", method).extends))
    return parents.most_common(1)[0][0] if parents else methods[0]


@marks.piece
def few_shot(evidence: Evidence, piece: Piece) -> PieceResult:
    """Figure 6: accuracy of unseen users against the number of their choices, cold start at 0, all support last.

    The baseline, which does not adapt, is a line across. Bands are one standard deviation over splits.
    """
    frame = evidence.per_split
    kept = evidence.complete_lines(frame[frame["population"] == "unseen"], piece)
    table = metrics.few_shot_curve(kept) if len(kept) else kept
    missing = evidence.missing_notes(piece)
    table = evidence.lines_with_all_splits(table, piece, missing, "few shots")
    several = table[table["shots"] != ALL_SHOTS] if len(table) else table
    curved = sorted(set(zip(several["dataset"], several["encoder"], strict=True)))
    for dataset, encoder in evidence.settings:
        if (dataset, encoder) not in curved:
            missing.append(f"{dataset} ({encoder}): run with --shots {_listed(piece.shots)},all")
    output = PieceResult(table, missing=missing)
    if not curved:
        return PieceResult(table.iloc[:0], missing=missing)
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(curved))
        for ax, (dataset, encoder) in zip(axes, curved, strict=True):
            panel = table[(table["dataset"] == dataset) & (table["encoder"] == encoder)]
            order = [*sorted(k for k in set(panel["shots"]) if k != ALL_SHOTS), ALL_SHOTS]
            for method in piece.methods:
                curve = panel[panel["method"] == method].set_index("shots")
                if not len(curve):
                    continue
                if method == evidence.baseline:
                    level = 100 * float(curve.loc[ALL_SHOTS, "accuracy"])
                    ax.axhline(level, color="0.25", linestyle="--", linewidth=1, label=evidence.title(method))
                    continue
                curve = curve.loc[[k for k in order if k in curve.index]]
                at = [order.index(k) for k in curve.index]
                band(ax, at, curve["accuracy"], curve["accuracy_std"], look[method], evidence.title(method))
            ax.set_xticks(range(len(order)), ["all" if k == ALL_SHOTS else str(k) for k in order])
            ax.set(xlabel="choices of the unseen user", ylabel="accuracy, unseen users (%)")
            ax.set_title(setting_heading(dataset, encoder, int(panel["n_splits"].max())))
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output


@marks.piece
def noise(evidence: Evidence, piece: Piece) -> PieceResult:
    """Accuracy of unseen users against the share of their support labels that is flipped, ±1 SD over splits."""
    import pandas as pd

    lines = evidence.probes
    lines = evidence.complete_lines(lines[lines["probe"] == "noise"], piece)
    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    if not len(lines):
        output.missing.append(f"label noise: run `prbench probe --noise {_listed(piece.noise)}`")
        return output
    clean = evidence.per_split
    clean = evidence.complete_lines(clean[(clean["shots"] == ALL_SHOTS) & (clean["population"] == "unseen")], piece)
    clean = clean[among(clean, set(zip(*(lines[key] for key in metrics.ROW), strict=True)))]
    parts = [clean.assign(noise=0.0)]
    for share, part in lines.groupby("noise"):
        per_split = metrics.split_metrics(metrics.complete_starts(metrics.user_metrics(part)))
        parts.append(per_split[per_split["population"] == "unseen"].assign(noise=share))
    table = metrics.over_splits(pd.concat(parts, ignore_index=True), by=("noise",))
    output.frame = evidence.lines_with_all_splits(table, piece, output.missing, "label noise")
    if not len(output.frame):
        return output
    settings = sorted(set(zip(output.frame["dataset"], output.frame["encoder"], strict=True)))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for ax, (dataset, encoder) in zip(axes, settings, strict=True):
            panel = output.frame[(output.frame["dataset"] == dataset) & (output.frame["encoder"] == encoder)]
            for method in piece.methods:
                curve = panel[panel["method"] == method].sort_values("noise")
                if len(curve):
                    x = 100 * curve["noise"]
                    band(ax, x, curve["accuracy"], curve["accuracy_std"], look[method], evidence.title(method))
            ax.set(xlabel="flipped support labels (%)", ylabel="accuracy, unseen users (%)")
            ax.set_title(setting_heading(dataset, encoder, int(panel["n_splits"].max())))
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output


def _listed(values: list[int] | list[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
