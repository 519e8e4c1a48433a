"""The worst-k% figure. A method keeps the colour, marker and line of its entry in every figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.base.files import writing
from prbench.protocol import metrics
from prbench.reporting.board import TUNED, Board, Row
from prbench.reporting.looks import DASHES, Marker
from prbench.reporting.own_style import METADATA, own_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


# Inches of the figure, and characters of a title that fit above its three panels.
WIDTH = 10.5
# Inches of a panel's height, and the most rows whose panels stand side by side.
PANEL, BESIDE = 2.5, 16
TITLE_WIDTH = 125
SPARE_MARKERS = "oDs^v<>PXphd8*H"


def worst_k_figure(boards: Sequence[Board], curves: pd.DataFrame, path: Path) -> list[Path]:
    """Write `path`.png and `path`.pdf: one row per board, with the accuracy of the worst k% of all users.

    `curves` is `metrics.worst_k_curves`. Left: k = 10, 20, 50, bars of one standard deviation over splits; middle:
    k from 1 to 100; right: the difference from the baseline, where there is one; of more than `BESIDE` rows the left
    panel stands above the others. Rows that lack splits or were chosen on test data are left out and named. Returns
    no paths where no board has a complete row.
    """
    shown = [board for board in boards if _drawn(board)]
    if not shown:
        return []
    with own_style():
        from matplotlib.figure import Figure

        columns = [_legend_columns(board) for board in shown]
        heights = [
            _height(len(_drawn(b))) + 0.17 * math.ceil(len(_drawn(b)) / n)
            for b, n in zip(shown, columns, strict=True)
        ]
        figure = Figure(figsize=(WIDTH, 0.5 + sum(heights)), layout="constrained")
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.set(w_pad=0.12)  # type: ignore[call-arg]
        parts = figure.subfigures(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, board, ncols in zip(parts, shown, columns, strict=True):
            axes = _panels(part, len(_drawn(board)))
            _draw(board, metrics.over_starts(curves), axes)
            left_out = [row.title for row in board.rows if row not in _drawn(board)]
            note = f"  Not shown: {', '.join(left_out)}." if left_out else ""
            title = f"{board.dataset} ({board.encoder}), mean over {board.splits} splits.{note}"
            part.suptitle(textwrap.fill(title, TITLE_WIDTH), x=0.01, ha="left")
            part.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=ncols)
        # Laid out once, so that both files show the same.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        return [_save(figure, path.with_suffix(f".{kind}"), kind) for kind in ("png", "pdf")]


def _height(rows: int) -> float:
    """Inches of the panels of a board with so many rows."""
    return PANEL if rows <= BESIDE else 2 * PANEL + 0.05 * rows


def _panels(part: SubFigure, rows: int) -> list[Axes]:
    """Three panels: side by side, or of many rows the left one above the others, so that its points stand apart."""
    if rows <= BESIDE:
        return list(part.subplots(1, 3))
    tall = PANEL + 0.05 * rows
    axes = part.subplot_mosaic([["points", "points"], ["curve", "difference"]], height_ratios=[PANEL, tall])
    return [axes[name] for name in ("points", "curve", "difference")]


def _legend_columns(board: Board) -> int:
    """How many columns of the board's names fit the width, at generous inches of a handle and of a letter."""
    longest = max(len(row.title) for row in _drawn(board))
    return min(6, max(1, int(WIDTH / (0.55 + 0.075 * longest))))


def _drawn(board: Board) -> list[Row]:
    return [row for row in board.rows if row.rankable]


def appearances(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[Marker, str]]:
    """Each row's marker and line: its entry's, the marker hollow for a tuned row, unless another row has both.

    Marker and line tell rows apart in grey print, where colours do not. A row that would look like an earlier one (a
    variant made with `--set`, a method of one's own, the tuned row of a marker without a face) gets a marker that no
    row has, else another marker on the same line, else another line. Published rows come first, whoever stands above
    them.
    """
    looks: set[tuple[Marker, str]] = set()
    looks_of: dict[tuple[str, str], tuple[Marker, str]] = {}
    entries = {row.style["marker"] for row in rows}
    for row in sorted(rows, key=lambda row: not row.published):
        marker, line = Marker(row.style["marker"], row.selection == TUNED), row.style["line"]
        if (marker, line) in looks or (marker.hollow and not marker.face):
            taken = entries | {other.shape for other, _ in looks_of.values()}
            lines = [line, *(other for other in DASHES if other != line)]
            free = [(marker._replace(shape=shape), line) for shape in SPARE_MARKERS if shape not in taken]
            free += [(marker._replace(shape=shape), other) for other in lines for shape in SPARE_MARKERS]
            marker, line = next((look for look in free if look not in looks), (marker, line))
        looks.add((marker, line))
        looks_of[row.key] = marker, line
    return looks_of


def _draw(board: Board, curves: pd.DataFrame, axes: Sequence[Axes]) -> None:
    points, curve, difference = axes
    rows = _drawn(board)
    by_split = {row.key: _curves_of(board, row, curves) for row in rows}
    baselines = {row.key: board.baseline[row.key] for row in rows}
    known = [base for base in baselines.values() if base and base.key in by_split]
    zero = next((base for base in known if base.published), next(iter(known), None))
    ks = np.arange(1, 101)
    looks = appearances(rows)
    for i, row in enumerate(rows):
        values = 100 * by_split[row.key]
        mean = values.mean(axis=0)
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(100)
        mark, dashes = looks[row.key]
        filled = mark.face and not mark.hollow
        look: dict[str, Any] = {
            "color": row.style["colour"],
            "marker": mark.shape,
            # A marker without a face, such as x, is its edge.
            "markeredgecolor": "white" if filled else row.style["colour"],
            "markeredgewidth": 0.5 if filled else 1.4,
            **({"markerfacecolor": "white"} if mark.hollow else {}),
        }
        line = {
            **look,
            "linestyle": dashes,
            "markevery": ((4 + 2 * i) % 20, 20),
            "linewidth": 1.4,
            "markersize": 5.5,
        }
        at = np.array(metrics.WORST)
        offset = (i - (len(rows) - 1) / 2) * 0.8 / max(len(rows), 2)
        points.errorbar(
            np.arange(len(at)) + offset, mean[at - 1], yerr=spread[at - 1], linestyle="none", elinewidth=1.2,
            markersize=6, **look,
        )  # fmt: skip
        curve.plot(ks, mean, label=row.title, **line)
        if zero:
            difference.plot(ks, mean - 100 * by_split[zero.key].mean(axis=0), **line)
    points.set_xticks(np.arange(len(metrics.WORST)), [f"{k}%" for k in metrics.WORST])
    points.grid(axis="x", visible=False)
    for edge in np.arange(len(metrics.WORST) - 1) + 0.5:
        points.axvline(edge, color="0.85", linewidth=0.8)
    title = "Worst 10, 20 and 50%" + (", ±1 SD over splits" if board.splits > 1 else "")
    points.set(xlabel="worst k% of users (order of the table)", ylabel="user accuracy (%)", title=title)
    curve.set(xlabel="worst k% of users", ylabel="user accuracy (%)", title="Worst k%", xlim=(0, 101))
    if zero:
        title = f"Worst k%, difference from {zero.title}"
        difference.set(xlabel="worst k% of users", ylabel="difference (points)", title=title, xlim=(0, 101))
    else:
        difference.set_axis_off()


def _curves_of(board: Board, row: Row, curves: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[splits, 100] accuracies of one row, overall population."""
    key = {"dataset": board.dataset, "encoder": board.encoder, "method": row.method, "selection": row.selection}
    key["population"] = "overall"
    mask = np.logical_and.reduce([(curves[column] == value).to_numpy() for column, value in key.items()])
    ordered = curves[mask].sort_values(["split", "k"])["accuracy"].to_numpy(dtype=np.float64)
    return np.asarray(ordered.reshape(-1, 100))


def _save(figure: Figure, path: Path, kind: str) -> Path:
    with writing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, metadata=METADATA[kind])
    return path
