"""The boards of results as a report's options ask for them, with progress: every report begins here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prbench.base.console import progress
from prbench.reporting.board import RANKED, Board, build
from prbench.reporting.options import of_methods, require_options
from prbench.reporting.placing import PlacedResults, placed

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results


def compare(
    results: Results, *, baseline: str, methods: str, shots: int, alpha: float, resamples: int
) -> tuple[PlacedResults, list[Board], pd.DataFrame]:
    """The results that the report is about, their boards, and the per-user metrics that these rest on.

    Options as those of the leaderboard. Raises InputError for options that cannot be, and where results that do not
    belong together would share a table.
    """
    if methods:
        results = of_methods(results, methods)
    standing = placed(results)
    require_options(standing, baseline=baseline, alpha=alpha, resamples=resamples, shots=shots)
    with progress() as display:
        task = display.add_task("comparing methods", total=_comparisons_planned(standing))
        boards, users = build(
            standing,
            baseline=baseline,
            shots=shots,
            alpha=alpha,
            resamples=resamples,
            watch=lambda: display.advance(task),
            count_all=bool(methods),
        )
    return standing, boards, users


def _comparisons_planned(results: PlacedResults) -> int:
    rows = {cell.row for cell in results.cells if cell.result}
    boards = Counter(row[:2] for row in rows)
    return sum(len(RANKED) * n * (n - 1) // 2 for n in boards.values())
