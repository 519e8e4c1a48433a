"""Rows of which only margins were handed in: a group of their own, without ranks, marks and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prbench.protocol.metrics import decisions, flips
from prbench.reporting.board import RANKED
from prbench.reporting.grid import DASH, Grid, TableCell, percent
from prbench.results import submitted
from prbench.results.cells import SCORES
from prbench.results.digests import accuracies
from prbench.results.submitted import SubmittedRow

if TYPE_CHECKING:
    from prbench.reporting.placing import PlacedResults

LABEL = "submitted"
WORDS = "Nobody here fitted these methods: their margins were handed in, and only the choices tested were checked."


def grids(results: PlacedResults) -> list[Grid]:
    """One table for each data set with submitted rows; a row on other data than the results here says so."""
    if results.folder is None:
        return []
    rows = submitted.load(results.folder)
    fingerprints = {cell.dataset: cell.record.data_fingerprint for cell in results.cells}
    return [
        _grid(dataset, [row for row in rows if row.record.dataset == dataset], fingerprints.get(dataset))
        for dataset in sorted({row.record.dataset for row in rows})
    ]


def _grid(dataset: str, rows: list[SubmittedRow], fingerprint: str | None) -> Grid:
    rated = sorted(((_accuracy(row), row) for row in rows), key=lambda pair: pair[1].record.name)
    lines = []
    strange = []
    for accuracy, row in rated:
        cold = row.margins.assign(margin=row.margins["cold_margin"])
        before = _means([_overall(split_margins) for _, split_margins in cold.groupby("split")])
        changed = float(flips(row.margins["margin"], row.margins["cold_margin"]).mean())
        ties = float((decisions(row.margins["margin"]) == 0.5).mean())
        cells = [row.record.name, *accuracy, before, percent(changed), percent(ties), str(len(row.record.choices))]
        lines.append([TableCell(text) for text in cells])
        if fingerprint not in (None, row.record.data_fingerprint):
            strange.append(f"{row.record.name} rests on other data (fingerprint {row.record.data_fingerprint}).")
    return Grid(
        title=f"Scores submitted, not rerun, on {dataset}: user accuracy in %",
        header=("Method", *(p.capitalize() for p in RANKED), "Cold start", "Flips", "Ties", "Splits"),
        rows=lines,
        rules=(),
        notes=[
            "By name. Mean ± standard deviation over the splits handed in, of the mean over users; not ranked, not "
            "compared, and in no family of tests.",
            *strange,
        ],
        label=f"{LABEL}:{dataset}",
        first=("Overall", "Splits", "Unseen", "Seen"),
        file=f"{submitted.FOLDER}/ of the results folder",
    )


def _accuracy(row: SubmittedRow) -> list[str]:
    """Mean and spread of each population; "–" where a split lacks it."""
    splits = list(row.accuracies().values())
    return [_means([split[p] for split in splits]) if all(p in split for split in splits) else DASH for p in RANKED]


def _means(values: list[float]) -> str:
    spread = percent(float(np.std(values, ddof=1))) if len(values) > 1 else DASH
    return f"{percent(float(np.mean(values)))}±{spread}"


def _overall(frame: object) -> float:
    return accuracies({name: frame[name].to_numpy() for name in SCORES})["overall"]  # type: ignore[index]
