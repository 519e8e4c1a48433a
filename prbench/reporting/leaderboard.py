"""The leaderboard: `prbench report leaderboard --runs runs --out out`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.base.console import stdout
from prbench.base.files import write_text
from prbench.protocol import metrics, stats
from prbench.registry import marks
from prbench.reporting import board_tests, merging, submitted, writers
from prbench.reporting.board import Board
from prbench.reporting.budget import budget_frame, budget_grid, titles_of
from prbench.reporting.calibration import calibration_frame, calibration_grid, calibration_records
from prbench.reporting.comparing import compare
from prbench.reporting.data_table import properties_frame, properties_grid
from prbench.reporting.frames import (
    _write_csv,
    adapting_frame,
    comparisons_frame,
    leaderboard_frame,
    splits_frame,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from prbench.base.layout import Sheet
    from prbench.reporting.page import Extra
    from prbench.reporting.placing import PlacedCell
    from prbench.results import Results


@marks.report
def leaderboard(
    results: Results,
    out: Path,
    *,
    baseline: str = "bt",
    methods: str = "",
    shots: int = metrics.ALL_SHOTS,
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
    console: Console | None = None,
) -> list[Path]:
    """Print the tables on stdout (or `console`) and write the report's files; returns their paths.

    leaderboard.csv (a row per data set, encoder, method and selection rule; accuracies as fractions), splits.csv (the
    same of each split and population),
    comparisons.csv (every pair of rows, per population), adapting.csv (every row against its own cold start),
    calibration.csv, properties.csv (the data sets') and budget.csv, with their meaning in the `CAPTION` of the
    module of `reporting` that makes each,
    worst-k.csv (the figure's numbers), leaderboard.md, leaderboard.tex, worst-k.png, worst-k.pdf, and index.html, the
    page to open first. Each row is compared with `baseline` and, in each population, the best row with the best other
    one. `methods`: names and patterns, comma-separated, of the rows to report; all others are left out of tables and
    tests, and rows that repeat or vary another one take part in them. `shots`: support comparisons per user, −1 for
    all there are.
    Raises InputError for options that cannot be, and where results that do not belong together would share a table.
    """
    from prbench.reporting.page import Extra, write_page
    from prbench.reporting.worst_k import worst_k_figure

    standing, boards, users = compare(
        results, baseline=baseline, methods=methods, shots=shots, alpha=alpha, resamples=resamples
    )
    shared = [*submitted.grids(standing), *merging.grids(standing)]
    grids = [*(grid for board in boards for grid in board_tests.grids(board)), *shared]
    stored = {
        "calibration": calibration_frame(calibration_records(standing.scores, shots)),
        "properties": properties_frame(standing.cells),
        "budget": budget_frame(standing.cells, users),
    }
    paths = [
        _write_csv(leaderboard_frame(boards), out / "leaderboard.csv"),
        _write_csv(splits_frame(users), out / "splits.csv"),
        _write_csv(comparisons_frame(boards), out / "comparisons.csv"),
        _write_csv(adapting_frame(boards), out / "adapting.csv"),
        *(_write_csv(frame, out / f"{name}.csv") for name, frame in stored.items()),
    ]
    for name, writer in (("leaderboard.md", writers.markdown), ("leaderboard.tex", writers.latex)):
        write_text(out / name, "\n".join(writer(grid) for grid in grids))
        paths.append(out / name)
    curves = metrics.worst_k_curves(users) if len(users) else None
    if curves is not None:
        paths.append(_write_csv(metrics.over_splits(curves, by=("k",)), out / "worst-k.csv"))
        paths += worst_k_figure(boards, curves, out / "worst-k")
    options = {
        "baseline": baseline,
        **({"methods": methods} if methods else {}),
        "shots": shots,
        "alpha": alpha,
        "resamples": resamples,
    }
    extras = _extras(boards, stored, standing.cells) + [
        Extra(title=grid.title, text=merging.WORDS.get(grid.label, submitted.WORDS), grid=grid) for grid in shared
    ]
    paths.append(
        write_page(out / "index.html", boards, users, standing, options=options, curves=curves, extras=extras)
    )
    # Printed last: a reader who stops early, as `head` does, costs no file.
    for table in (*rich_tables(boards), *map(writers.rich_table, shared)):
        (console or stdout()).print(table)
    return paths


def _extras(boards: Sequence[Board], stored: Mapping[str, pd.DataFrame], cells: Sequence[PlacedCell]) -> list[Extra]:
    """The page's sections on the data, on calibration and on budgets."""
    from prbench.reporting.page import Extra

    titles = titles_of(cells)
    calibrated, budgets = [], []
    for board in boards:
        where = f"{board.dataset} ({board.encoder})"
        frames = {
            name: frame[(frame["dataset"] == board.dataset) & (frame["encoder"] == board.encoder)]
            for name, frame in stored.items()
        }
        if len(frames["calibration"]):
            label = f"Calibration of unseen users' decisions on {where}"
            calibrated.append(calibration_grid(frames["calibration"], titles, label, f"calibration:{where}"))
        if len(frames["budget"]):
            label = f"Budgets and unchanged users on {where}"
            budgets.append(budget_grid(frames["budget"], titles, label, f"budget:{where}"))
    return [
        Extra("The data", grid=properties_grid(stored["properties"])),
        *([Extra("Calibration", more=calibrated)] if calibrated else []),
        *([Extra("Budgets", more=budgets)] if budgets else []),
    ]


def rich_tables(boards: Sequence[Board]) -> list[Sheet]:
    """What the terminal shows: per board the accuracies, then the tests."""
    return [writers.rich_table(grid) for board in boards for grid in board_tests.grids(board)]
