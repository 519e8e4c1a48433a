"""Transfer: methods fitted on one data set, adapted to and tested on the people of another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from prbench.protocol import metrics
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.figure import CAPS, finished, legend_below, looks, panels, styled
from prbench.reporting.paper.evidence import Evidence, PieceResult, counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@marks.piece
def transfer(evidence: Evidence, piece: Piece) -> PieceResult:
    """Accuracy of another data set's unseen users, adapted (markers) and before any choice of theirs (crosses).

    For comparison, the same method fitted on that data set where the results hold it (bars).
    """
    import pandas as pd

    lines = evidence.complete_lines(evidence.probes[evidence.probes["probe"] == "on"], piece)
    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    if not len(lines):
        output.missing.append("transfer: run `prbench probe --transfer all` on fits with a text encoder")
        return output
    output.frame = _transfer_table(evidence, piece, lines, output.missing)
    if len(output.frame):
        output.figure = _drawn(evidence, piece, output.frame)
    return output


def _transfer_table(evidence: Evidence, piece: Piece, lines: pd.DataFrame, missing: list[str]) -> pd.DataFrame:
    """Means over splits of each row on each other data set, and of its own fits there; `missing` gets notes."""
    import pandas as pd

    parts = []
    for on, part in lines.groupby("on"):
        table = metrics.over_splits(metrics.split_metrics(metrics.complete_starts(metrics.user_metrics(part))))
        table = evidence.lines_with_all_splits(table, piece, missing, f"transfer to {on}")
        parts.append(table[table["population"] == "unseen"].assign(on=on))
    table = pd.concat(parts, ignore_index=True).rename(columns={"dataset": "fitted_on", "on": "tested_on"})
    home = metrics.over_splits(evidence.complete_lines(evidence.per_split, piece))
    home = home[(home["population"] == "unseen") & (home["shots"] == metrics.ALL_SHOTS)]
    keys = ["encoder", "method", "selection"]
    home = home.rename(columns={"dataset": "tested_on", "accuracy": "fitted_there"})
    table = table.merge(home[["tested_on", *keys, "fitted_there"]], how="left", on=["tested_on", *keys])
    columns = ["fitted_on", "tested_on", *keys, "accuracy", "accuracy_std", "cold_start", "flip_rate", "fitted_there"]
    return table[[*columns, "n_splits"]].sort_values(columns[:5]).reset_index(drop=True)


def _drawn(evidence: Evidence, piece: Piece, table: pd.DataFrame) -> Figure:
    """A panel for each pair of data sets and encoder."""
    panel_keys = list(zip(table["fitted_on"], table["tested_on"], table["encoder"], strict=True))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(set(panel_keys)))
        labelled: set[str] = set()
        for ax, key in zip(axes, sorted(set(panel_keys)), strict=True):
            source, target, encoder = key
            rows = table[[other == key for other in panel_keys]]
            names = [name for name in piece.methods if (rows["method"] == name).any()]
            for i, name in enumerate(names):
                row = rows[rows["method"] == name].iloc[0]
                style = {**look[name], "linestyle": "none"}
                ax.errorbar(i, 100 * row["accuracy"], yerr=100 * row["accuracy_std"], **style, **CAPS)
                before: dict[str, Any] = {"label": "before adapting"} if not i else {}
                ax.plot(i, 100 * row["cold_start"], marker="x", color="0.35", linestyle="none", **before)
                if not math.isnan(row["fitted_there"]):
                    _bar(ax, i, 100 * row["fitted_there"], "" if target in labelled else f"fitted on {target}")
                    labelled.add(target)
            ax.axhline(50, color="0.6", linestyle=":", linewidth=0.9)
            ax.set_xticks(range(len(names)), [evidence.title(n) for n in names], rotation=30, ha="right")
            ax.set(ylabel="accuracy, unseen users (%)")
            ax.set_title(f"{source} → {target} ({encoder}), {counted(int(rows['n_splits'].max()))}")
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        return finished(figure)


def _bar(ax: Axes, x: int, percent: float, label: str) -> None:
    """The accuracy of the method fitted on the data set itself; the label goes into the legend where it is new."""
    legend: dict[str, Any] = {"label": label} if label else {}
    ax.plot(x, percent, marker="_", markersize=14, color="0.1", linestyle="none", **legend)
