"""What a merge of several results folders leaves to be told: rows that differ between machines, rows kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prbench.reporting.grid import Grid, TableCell, percent
from prbench.results import merged

if TYPE_CHECKING:
    from prbench.reporting.placing import PlacedResults

DIFFERS, KEPT_APART = "merge:differs", "merge:apart"
WORDS = {
    DIFFERS: "Two people's copies of these rows do not agree within what rounding and random starts explain.",
    KEPT_APART: "Results of other data, code or parameters share no table with those above.",
}


def grids(results: PlacedResults) -> list[Grid]:
    """The tables of a merged folder, none where nothing differs and nothing was kept apart."""
    merge = merged.read(results.folder)
    if merge is None:
        return []
    return [grid for grid in (_differs(merge), _apart(merge)) if grid.rows]


def _differs(merge: merged.Merge) -> Grid:
    rows = [
        [
            TableCell(row.row.method),
            TableCell(row.row.selection),
            TableCell(row.row.dataset),
            TableCell(row.row.encoder),
            TableCell(", ".join(f"{source}: {percent(value, digits=2)}" for source, value in row.accuracy.items())),
            TableCell(percent(row.decisions)),
            TableCell(str(row.splits)),
            TableCell(row.used or "neither"),
        ]
        for row in merge.differs
    ]
    return Grid(
        title="Differs between machines, overall user accuracy in %",
        header=("Method", "Selected on", "Data set", "Encoder", "Copies", "Decisions", "Splits", "Used"),
        rows=rows,
        rules=(),
        notes=[
            "Decisions: the largest share of a split's test decisions, in %, that the two copies decide differently.",
            "A row of which neither copy is used is missing above; merging again with --prefer FOLDER chooses one.",
        ],
        label=DIFFERS,
        first=("Copies", "Used", "Decisions"),
        file=f"{merged.FILE} of the results folder",
    )


def _apart(merge: merged.Merge) -> Grid:
    rows = [
        [
            TableCell(row.row.method or "all methods"),
            TableCell(row.row.dataset),
            TableCell(row.row.encoder),
            TableCell(row.source),
            TableCell(row.why),
        ]
        for row in merge.apart
    ]
    return Grid(
        title="Kept apart",
        header=("Method", "Data set", "Encoder", "Source", "Why"),
        rows=rows,
        rules=(),
        notes=[f"Each source's own are a results folder below {merged.APART}/, which a report of its own reads."],
        label=KEPT_APART,
        first=("Why", "Source"),
        file=f"{merged.FILE} of the results folder",
    )
