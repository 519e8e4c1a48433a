"""Whether a row's budget sufficed, whether it trained at all, and for whom adapting changes nothing.

All of it is read from stored cells: the moments (or strengths) that were judged, the one chosen, and the margins
before and after adapting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prbench.protocol import metrics
from prbench.reporting.grid import DASH, Grid, TableCell, percent
from prbench.reporting.placing import PlacedCell
from prbench.results.record import DoneRecord
from prbench.results.record_parts import Fit

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "At the end: in how many fits the chosen moment was the last that was judged (more training might do better), or "
    "the chosen strength at an end of its grid; 0 is good, and rows trained to their end choose nothing. Untrained: "
    "in how many fits the best value of the validation curve lies within two standard errors over users of one "
    "half; 0 is good, – where no curve or no error is stored. Unchanged: % of unseen users none of whose test "
    "decisions adapting changes, with the median number of these decisions; 100 is a method that does nothing, – one "
    "without personal state."
)
"""The meaning, unit and direction of each column, and its value for a method that does nothing."""
NOT_CHOSEN = "not chosen"
ERRORS = 2.0


def at_the_end(fit: Fit) -> bool | None:
    """Whether a fit chose the last of its judged moments, or a strength at an end of its grid.

    None where nothing was chosen: rule `last`, no curve, or a single candidate.
    """
    curve, chosen = fit.curve, fit.chosen
    if fit.rule == "last" or not curve or len(curve) < 2 or chosen is None:
        return None
    if isinstance(chosen, int):
        return chosen == max(map(int, curve))
    strengths = chosen if isinstance(chosen, list) else [chosen]
    grids = list(zip(*([float(part) for part in name.split()] for name in curve), strict=True))
    # A penalty with one strength to choose from is not chosen.
    ends = [(min(g), max(g)) for g in grids]
    return any(low < high and s in (low, high) for s, (low, high) in zip(strengths, ends, strict=True))


def untrained(fit: Fit) -> bool | None:
    """Whether the best value of the validation curve lies within two standard errors of one half; None if unknown."""
    curve, errors = fit.curve, fit.curve_error
    if not curve or not errors:
        return None
    best = max(curve, key=curve.__getitem__)
    return abs(curve[best] - 0.5) <= ERRORS * errors[best] if best in errors else None


def budget_frame(cells: Iterable[PlacedCell], users: pd.DataFrame) -> pd.DataFrame:
    """budget.csv: one row per row of the leaderboard.

    `at_end` and `untrained` count splits among `judged` and `measured` ones. `unchanged` is the share of unseen users
    none of whose decisions changed, the mean over splits, and `decisions` the median number of their test choices;
    NaN for methods without personal state. `users` are `metrics.user_metrics`.
    """
    import pandas as pd

    unseen = users[(users["population"] == "unseen") & (users["shots"] == metrics.ALL_SHOTS)]
    still = _unchanged(unseen) if len(unseen) else {}
    by_row: dict[tuple[str, ...], list[DoneRecord]] = {}
    for cell in cells:
        if cell.result:
            by_row.setdefault(cell.row, []).append(cell.result)
    records = []
    for row, cells_of_row in sorted(by_row.items()):
        ends = [end for record in cells_of_row if (end := at_the_end(record.fit)) is not None]
        flat = [none for record in cells_of_row if (none := untrained(record.fit)) is not None]
        personal = any(record.parameters.per_user for record in cells_of_row)
        share, decisions = still.get(row, (math.nan, math.nan)) if personal else (math.nan, math.nan)
        records.append(
            {
                **dict(zip(metrics.ROW, row, strict=True)),
                "at_end": sum(ends),
                "judged": len(ends),
                "untrained": sum(flat),
                "measured": len(flat),
                "unchanged": share,
                "decisions": decisions,
                "n_splits": len(cells_of_row),
            }
        )
    columns = [*metrics.ROW, "at_end", "judged", "untrained", "measured", "unchanged", "decisions", "n_splits"]
    return pd.DataFrame(records, columns=columns)


def _unchanged(unseen: pd.DataFrame) -> dict[tuple[str, ...], tuple[float, float]]:
    """By row: the share of users without a changed decision, the mean over splits, and their median test choices."""
    shares = {}
    for row, row_users in unseen.groupby(metrics.ROW, observed=True):
        still = row_users["flip_rate"] == 0
        share = still.groupby(row_users["split"]).mean().mean()
        shares[tuple(map(str, row))] = (float(share), float(np.median(row_users["comparisons"])))
    return shares


def budget_grid(frame: pd.DataFrame, titles: Mapping[tuple[str, ...], str], title: str, label: str) -> Grid:
    """The table of some of `budget_frame`'s rows; `titles` by `metrics.ROW`."""
    lines = []
    for r in frame.to_dict("records"):
        row = tuple(str(r[key]) for key in metrics.ROW)
        lines.append(
            [
                TableCell(titles.get(row, row[2])),
                TableCell(f"{r['at_end']} of {r['judged']}" if r["judged"] else NOT_CHOSEN),
                TableCell(f"{r['untrained']} of {r['measured']}" if r["measured"] else DASH),
                TableCell(percent(r["unchanged"])),
                TableCell(DASH if math.isnan(r["decisions"]) else f"{r['decisions']:g}"),
            ]
        )
    header = ("Method", "At the end", "Untrained", "Unchanged", "Decisions")
    return Grid(title, header, lines, (), [CAPTION], label)


def titles_of(cells: Sequence[PlacedCell]) -> dict[tuple[str, ...], str]:
    """What rows are called, by `metrics.ROW`; two selections of one method are told apart."""
    rows: dict[tuple[str, ...], str] = {cell.row: cell.record.title for cell in cells}
    several = {row[:3] for row in rows if sum(other[:3] == row[:3] for other in rows) > 1}
    return {row: f"{title} ({row[3]})" if row[:3] in several else title for row, title in rows.items()}
