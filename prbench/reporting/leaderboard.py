"""The leaderboard: `prbench report leaderboard --runs runs --out out`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.base.console import progress, stdout
from prbench.base.files import write_text
from prbench.protocol import metrics, stats
from prbench.registry import marks
from prbench.reporting import board_tests, writers
from prbench.reporting.board import Board, build
from prbench.reporting.calibration import calibration_frame
from prbench.reporting.frames import (
    _comparisons_planned,
    _write_csv,
    adapting_frame,
    comparisons_frame,
    leaderboard_frame,
)
from prbench.reporting.options import of_methods, require_options

if TYPE_CHECKING:
    from rich.console import Console

    from prbench.base.layout import Sheet
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

    leaderboard.csv (a row per data set, encoder, method and selection rule; accuracies as fractions),
    comparisons.csv (every pair of rows, per population), adapting.csv (every row against its own cold start),
    calibration.csv (`reporting.calibration.CAPTION` says what its columns mean),
    worst-k.csv (the figure's numbers), leaderboard.md, leaderboard.tex, worst-k.png, worst-k.pdf, and index.html, the
    page to open first. Each row is compared with `baseline` and, in each population, the best row with the best other
    one. `methods`: names and patterns, comma-separated, of the rows to report; all others are left out of tables and
    tests, and rows that repeat or vary another one take part in them. `shots`: support comparisons per user, −1 for
    all there are.
    Raises InputError for options that cannot be, and where results that do not belong together would share a table.
    """
    if methods:
        results = of_methods(results, methods)
    require_options(results, baseline=baseline, alpha=alpha, resamples=resamples, shots=shots)
    from prbench.reporting.page import write_page
    from prbench.reporting.worst_k import worst_k_figure

    with progress() as display:
        task = display.add_task("comparing methods", total=_comparisons_planned(results))
        boards, users = build(
            results,
            baseline=baseline,
            shots=shots,
            alpha=alpha,
            resamples=resamples,
            watch=lambda: display.advance(task),
            count_all=bool(methods),
        )
    grids = [grid for board in boards for grid in board_tests.grids(board)]
    paths = [
        _write_csv(leaderboard_frame(boards), out / "leaderboard.csv"),
        _write_csv(comparisons_frame(boards), out / "comparisons.csv"),
        _write_csv(adapting_frame(boards), out / "adapting.csv"),
        _write_csv(calibration_frame(results.scores, shots), out / "calibration.csv"),
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
    paths.append(write_page(out / "index.html", boards, users, results, options=options, curves=curves))
    # Printed last: a reader who stops early, as `head` does, costs no file.
    for table in rich_tables(boards):
        (console or stdout()).print(table)
    return paths


def rich_tables(boards: Sequence[Board]) -> list[Sheet]:
    """What the terminal shows: per board the accuracies, then the tests."""
    return [writers.rich_table(grid) for board in boards for grid in board_tests.grids(board)]
