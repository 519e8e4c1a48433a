"""What the figures of a report share: one panel per data set, the same look for a method everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.reporting.figures import SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from prbench.reporting.evidence import Evidence

# Inches: a panel is as wide as half a column pair, so that two stand side by side in print.
PANEL = (3.6, 2.8)
MOST_ACROSS = 3
# As in the paper: squares read a user's choices as input, triangles fit parameters to them.
BY_FAMILY = {
    "personalised input": "sDpP",
    "personalised parameters": "^v<>",
    "no personalisation": "oX",
    "reference": "*",
}


@contextmanager
def styled() -> Iterator[None]:
    """seaborn's paper style, with the settings that make equal results give equal files."""
    import seaborn as sns
    from matplotlib import rc_context

    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **SETTINGS}
    with rc_context(style):
        yield


def panels(count: int, *, across: int = MOST_ACROSS, size: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, row by row."""
    from matplotlib.figure import Figure

    # Four stand two by two.
    columns = 2 if count == 4 else min(count, across)
    rows = -(-count // columns)
    # Room for the legend below.
    figure = Figure(figsize=(size[0] * columns, size[1] * rows + 0.6), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel())
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def looks(evidence: Evidence, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each method, the same in every figure. The marker's shape tells its family."""
    found: dict[str, dict[str, Any]] = {}
    for method in methods:
        style = evidence.style(method)
        shapes = BY_FAMILY.get(evidence.family(method), "o")
        marker = style["marker"] if style["marker"] in shapes else shapes[0]
        found[method] = {"color": style["colour"], "marker": marker, "linestyle": style["line"]}
    return found


def legend_below(figure: Figure, axes: Sequence[Axes], *, across: int = 6) -> None:
    """One legend for all panels, each label once."""
    handles: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        columns = min(across, max(2, round(figure.get_figwidth() / 1.7)))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def finished(figure: Figure) -> Figure:
    """Laid out once, so that every file of it shows the same."""
    # The first pass settles the ticks, the second what room their labels need.
    figure.draw_without_rendering()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
