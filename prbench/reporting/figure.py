"""What the figures of a report share: one panel per data set, the same look for a method everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prbench.base.files import writing
from prbench.reporting.own_style import METADATA, own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from prbench.reporting.paper.evidence import Evidence


# Inches: a panel fills a column of a two-column page, two panels its width.
PANEL = (3.3, 2.5)
MOST_ACROSS = 2
# Laid out at the resolution that it is saved at: the width of text depends on it.
DPI = 200
# As in the paper: squares read a user's choices as input, triangles fit parameters to them.
BY_FAMILY = {
    "personalised input": "sD",
    "personalised parameters": "^v<>",
    "no personalisation": "oXhH",
    "reference": "*",
    "judge": "Pdp8",
}
# How much of a marker is filled, where the shapes of a family do not suffice: without colour too, no two are alike.
FILLS = ("full", "none", "left", "bottom")
SIZES = {
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "font.size": 7.5,
}
CAPS: dict[str, Any] = {"capsize": 2, "elinewidth": 0.8}


@contextmanager
def styled() -> Iterator[None]:
    """The report's own style in the sizes of a page: see `own_style`."""
    with own_style(SIZES):
        yield


def panels(count: int, *, across: int = MOST_ACROSS, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, row by row."""
    from matplotlib.figure import Figure

    columns = min(count, across)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained", dpi=DPI)
    axes = list(np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel())
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def looks(evidence: Evidence, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each method, the same in every figure of the report.

    The marker's shape tells the family; the methods that most pieces show choose first. Where a family has more
    methods than shapes, they differ in how much of the marker is filled.
    """
    shown = Counter(m for piece in evidence.pieces if not piece.parameter for m in piece.methods)
    look_of: dict[str, dict[str, Any]] = {}
    taken: set[tuple[str, str]] = set()
    for method in sorted(dict.fromkeys([*shown, *methods]), key=lambda m: -shown[m]):
        style = evidence.style(method)
        shapes = BY_FAMILY.get(evidence.family(method), "o")
        shapes = (style["marker"] if style["marker"] in shapes else "") + shapes
        free = [(shape, fill) for fill in FILLS for shape in shapes if (shape, fill) not in taken]
        marker, fill = free[0] if free else (shapes[0], "full")
        taken.add((marker, fill))
        look_of[method] = _look(style["colour"], marker, fill, style["line"])
    return {method: look_of[method] for method in methods}


def _look(colour: str, marker: str, fill: str, line: str) -> dict[str, Any]:
    full = fill == "full"
    return {
        "color": colour,
        "marker": marker,
        "linestyle": line,
        "linewidth": 1.2,
        "markersize": 5,
        "markeredgecolor": "white" if full else colour,
        "markeredgewidth": 0.5 if full else 1.0,
        "markerfacecolor": "white" if fill == "none" else colour,
        "markerfacecoloralt": "white",
        "fillstyle": "full" if fill == "none" else fill,
    }


def band(ax: Axes, x: Any, mean: npt.ArrayLike, spread: npt.ArrayLike, look: dict[str, Any], label: str) -> None:
    """A curve in percent with a band of one standard deviation; both given as fractions, missing spreads as none."""
    middle, width = 100 * np.asarray(mean, dtype=float), 100 * np.nan_to_num(np.asarray(spread, dtype=float))
    ax.plot(x, middle, label=label, **look)
    ax.fill_between(x, middle - width, middle + width, color=look["color"], alpha=0.12, linewidth=0)


def legend_below(figure: Figure, axes: Sequence[Axes], order: Sequence[str] = (), *, across: int = 6) -> None:
    """One legend for all panels, each label once, those of `order` first; the figure grows by the room it takes."""
    handle_of: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handle_of.setdefault(label, handle)
    if not handle_of:
        return
    place = {label: i for i, label in enumerate(order)}
    handles = {label: handle_of[label] for label in sorted(handle_of, key=lambda label: place.get(label, len(place)))}
    columns = min(across, len(handles), max(2, round(figure.get_figwidth() / 1.6)))
    figure.set_figheight(figure.get_figheight() + 0.16 * -(-len(handles) // columns) + 0.08)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, columnspacing=1.2)


def save_apart(figure: Figure, stem: Path) -> list[Path]:
    """Write each titled panel of a finished figure as `stem`.<title>.pdf, the title being left out, and the legend.

    For papers, whose captions say what the title says; a single panel has its file too.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # matplotlib ships types, but this function has none.
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    inches = figure.dpi_scale_trans.inverted()
    paths: list[Path] = []

    def save(part: Any, name: str) -> None:
        box = part.get_tightbbox(renderer).transformed(inches).padded(0.02)
        path = stem.with_name(f"{stem.name}.{name}.pdf")
        with styled(), writing(path) as temporary:
            figure.savefig(temporary, format="pdf", bbox_inches=box, metadata=METADATA["pdf"])
        paths.append(path)

    for ax in figure.axes:
        if title := ax.get_title():
            ax.set_title("")
            name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
            save(ax, name[:60].rstrip("-"))
            ax.set_title(title)
    for legend in figure.legends:
        save(legend, "legend")
    return paths


def finished(figure: Figure) -> Figure:
    """Laid out once, so that every file of it shows the same."""
    # The first passes settle the ticks, the last what room their labels need.
    for _ in range(3):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
