"""The leaderboard's CSV files as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.base.files import writing
from prbench.protocol import metrics
from prbench.reporting import columns
from prbench.reporting.board import Board, Pair
from prbench.reporting.significance import starts_mark

if TYPE_CHECKING:
    import pandas as pd


STARTS = ("start_error", "within_starts")


def leaderboard_frame(boards: Sequence[Board]) -> pd.DataFrame:
    """leaderboard.csv: one row per data set, encoder, method and selection rule; empty where there is no number.

    `difference`, its interval and the p-values are against `baseline` in the overall population, in fractions.
    """
    import pandas as pd

    stored = columns.stored(boards)
    views = [columns.View(board) for board in boards]
    return pd.DataFrame([columns.record(view, row, stored) for view in views for row in view.board.rows])


def comparisons_frame(boards: Sequence[Board]) -> pd.DataFrame:
    """comparisons.csv: a − b for every pair of rows and every population.

    `p_holm` adjusts `p_corrected` over all pairs of a data set, encoder and population; `p_holm_table` over the
    comparisons that the table prints, and is empty for the others.
    """
    import pandas as pd

    records = [
        {
            "dataset": board.dataset,
            "encoder": board.encoder,
            "population": pair.population,
            "a": pair.a.method,
            "a_selection": pair.a.selection,
            "b": pair.b.method,
            "b_selection": pair.b.selection,
            **columns.comparison_record(pair.result),
            "p_holm": pair.p_all_pairs,
            "p_holm_table": pair.p_table,
            **_of_starts(pair),
        }
        for board in boards
        for pair in board.pairs
    ]
    keys = ["dataset", "encoder", "population", "a", "a_selection", "b", "b_selection"]
    return pd.DataFrame(records, columns=[*keys, *columns.COMPARISON, "p_holm", "p_holm_table", *STARTS])


def adapting_frame(boards: Sequence[Board]) -> pd.DataFrame:
    """adapting.csv: accuracy after adaptation minus that at cold start, as fractions, per row and population.

    Rows whose decisions adaptation does not change, and those that decide nothing at cold start, are left out.
    `p_holm` adjusts `p_corrected` over the rows of a data set, encoder and population.
    """
    import pandas as pd

    records = [
        {
            "dataset": board.dataset,
            "encoder": board.encoder,
            "population": pair.population,
            "method": pair.a.method,
            "selection": pair.a.selection,
            "cold_start": pair.b.value(pair.population),
            "adapted": pair.a.value(pair.population),
            "flip_rate": pair.a.value(pair.population, "flip_rate"),
            **columns.comparison_record(pair.result),
            "p_holm": pair.p_table,
            **_of_starts(pair),
        }
        for board in boards
        for pair in board.adapting
    ]
    keys = ["dataset", "encoder", "population", "method", "selection", "cold_start", "adapted", "flip_rate"]
    return pd.DataFrame(records, columns=[*keys, *columns.COMPARISON, "p_holm", *STARTS])


def _of_starts(pair: Pair) -> dict[str, float | bool]:
    """What random starts leave in a difference: `start_error` in fractions, empty where it is not known."""
    return dict(zip(STARTS, (pair.start_error, bool(starts_mark(pair))), strict=True))


def splits_frame(users: pd.DataFrame) -> pd.DataFrame:
    """splits.csv: one row per row of the leaderboard, split, random start and population; accuracies as fractions.

    `users` as `metrics.user_metrics` makes them; `reporting.dictionary` says what the columns hold.
    """
    import pandas as pd

    from prbench.reporting.dictionary import FILES

    names = list(FILES["splits.csv"])
    if not len(users):
        return pd.DataFrame(columns=names)
    lines = metrics.split_metrics(users)
    return (lines if "restart" in lines else lines.assign(restart=0))[names]


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    with writing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
    return path
