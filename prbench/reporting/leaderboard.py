"""The leaderboard: `prbench report leaderboard --runs runs --out out`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench import metrics, stats
from prbench.console import progress, stdout
from prbench.files import write_text, writing
from prbench.reporting import boardgrids, tables
from prbench.reporting.board import RANKED, Board, Pair, Row, build
from prbench.reporting.options import require_options

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from prbench.results import Results


def leaderboard(
    results: Results,
    out: Path,
    *,
    baseline: str = "bt",
    shots: int = metrics.ALL_SHOTS,
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
    console: Console | None = None,
) -> list[Path]:
    """Print the tables on stdout (or `console`) and write the report's files; returns their paths.

    leaderboard.csv (a row per data set, encoder, method and selection rule; accuracies as fractions),
    comparisons.csv (every pair of rows, per population), adapting.csv (every row against its own cold start),
    worst-k.csv (the figure's numbers), leaderboard.md, leaderboard.tex, worst-k.png, worst-k.pdf, and index.html, the
    page to open first. Each row is compared with `baseline` and, in each population, the best row with the best other
    one. `shots`: support comparisons per user, −1 for all there are.
    Raises InputError for options that cannot be, and where results that do not belong together would share a table.
    """
    require_options(results, baseline=baseline, alpha=alpha, resamples=resamples, shots=shots)
    from prbench.reporting.figures import worst_k_figure
    from prbench.reporting.page import write_page

    with progress() as display:
        task = display.add_task("comparing methods", total=_comparisons_planned(results))
        boards, users = build(
            results,
            baseline=baseline,
            shots=shots,
            alpha=alpha,
            resamples=resamples,
            watch=lambda: display.advance(task),
        )
    grids = [grid for board in boards for grid in boardgrids.grids(board)]
    paths = [
        _write_csv(leaderboard_frame(boards), out / "leaderboard.csv"),
        _write_csv(comparisons_frame(boards), out / "comparisons.csv"),
        _write_csv(adapting_frame(boards), out / "adapting.csv"),
    ]
    for name, writer in (("leaderboard.md", tables.markdown), ("leaderboard.tex", tables.latex)):
        write_text(out / name, "\n".join(writer(grid) for grid in grids))
        paths.append(out / name)
    curves = metrics.worst_k_curves(users) if len(users) else None
    if curves is not None:
        paths.append(_write_csv(metrics.over_splits(curves, by=("k",)), out / "worst-k.csv"))
        paths += worst_k_figure(boards, curves, out / "worst-k")
    options = {"baseline": baseline, "shots": shots, "alpha": alpha, "resamples": resamples}
    paths.append(write_page(out / "index.html", boards, users, results, options=options, curves=curves))
    # Printed last: a reader who stops early, as `head` does, costs no file.
    for table in rich_tables(boards):
        (console or stdout()).print(table)
    return paths


def rich_tables(boards: Sequence[Board]) -> list[Table]:
    """What the terminal shows: per board the accuracies, then the tests."""
    return [tables.rich_table(grid) for board in boards for grid in boardgrids.grids(board)]


def leaderboard_frame(boards: Sequence[Board]) -> pd.DataFrame:
    """leaderboard.csv: one row per data set, encoder, method and selection rule; empty where there is no number.

    `difference`, its interval and the p-values are against `baseline` in the overall population, in fractions.
    """
    import pandas as pd

    return pd.DataFrame([_record(board, row) for board in boards for row in board.rows])


def _record(board: Board, row: Row) -> dict[str, Any]:
    pair = board.against_baseline(row)
    compared = _comparison_record(pair) if pair else dict.fromkeys(_COMPARISON, math.nan)
    return {
        "dataset": board.dataset,
        "encoder": board.encoder,
        "method": row.method,
        "title": row.title,
        "selection": row.selection,
        **{p: row.value(p) for p in RANKED},
        **{f"{p}_std": row.spread(p) for p in RANKED},
        **{f"worst{k}": row.value("overall", f"worst{k}") for k in metrics.WORST},
        **{m: row.value("overall", m) for m in ("flip_rate", "cold_start", "tie_rate", "bt_loss")},
        "n_splits": len(row.splits),
        "complete": row.complete,
        "baseline": pair.b.method if pair else "",
        "baseline_selection": pair.b.selection if pair else "",
        **compared,
        "p_holm": pair.holm_table if pair else math.nan,
        **{f"worst{k}_{p}": row.value(p, f"worst{k}") for p in RANKED[:2] for k in metrics.WORST},
        **{f"{m}_{p}": row.value(p, m) for m in ("flip_rate", "cold_start") for p in RANKED[:2]},
        **{name: bound.value("overall") for name, bound in board.bounds.items()},
        "note": row.note,
    }


_COMPARISON = (
    "difference", "difference_low", "difference_high", "p_plain", "p_corrected", "p_wilcoxon",
    "bootstrap_low", "bootstrap_high", "n_splits_compared", "n_users_compared",
)  # fmt: skip


def _comparison_record(pair: Pair) -> dict[str, float]:
    r = pair.result
    values = (
        r.difference, *r.interval, r.plain.p, r.corrected.p, r.wilcoxon.p, *r.bootstrap, r.n_splits, r.n_users
    )  # fmt: skip
    return dict(zip(_COMPARISON, values, strict=True))


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
            **_comparison_record(pair),
            "p_holm": pair.holm_pairs,
            "p_holm_table": pair.holm_table,
        }
        for board in boards
        for pair in board.pairs
    ]
    keys = ["dataset", "encoder", "population", "a", "a_selection", "b", "b_selection"]
    return pd.DataFrame(records, columns=[*keys, *_COMPARISON, "p_holm", "p_holm_table"])


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
            **_comparison_record(pair),
            "p_holm": pair.holm_table,
        }
        for board in boards
        for pair in board.adapting
    ]
    keys = ["dataset", "encoder", "population", "method", "selection", "cold_start", "adapted", "flip_rate"]
    return pd.DataFrame(records, columns=[*keys, *_COMPARISON, "p_holm"])


def _comparisons_planned(results: Results) -> int:
    rows = {tuple(c[key] for key in metrics.ROW) for c in results.cells if c["status"] == "done"}
    boards = Counter(row[:2] for row in rows)
    return sum(len(RANKED) * n * (n - 1) // 2 for n in boards.values())


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    with writing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
    return path
