"""The rows of a board: one method under one selection rule, from its cells and its fits' metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.protocol import metrics, stats
from prbench.registry.code_hash import code_has_changed
from prbench.reporting.judging import mean_of, models_of
from prbench.reporting.looks import style_of
from prbench.reporting.makings import rounding_of
from prbench.reporting.placing import SAMPLE_MARK, sample_of
from prbench.results.record import NOTHING_CHOSEN

if TYPE_CHECKING:
    import pandas as pd

ORACLE, TUNED = "test-oracle", "tuned"
RANKED = ("seen", "unseen", "overall")
BOUNDS = {"ceiling": "Ceiling: the true rewards", "floor": "Floor: best without personalisation"}


@dataclass(frozen=True)
class Row:
    """One method under one selection rule: means and standard deviations [population][metric], as fractions.

    `splits` are those with results. `note` says why the others are missing. `published` is true of an entry's own
    parameters under its own rule. `method_title` is the title without the rule. `family` is the entry's. Rows
    that are not `counted` repeat or vary another row (trials with --set, tuning that ended at the published
    parameters): they are shown, and take part in no family of tests. Means are over `splits` and their `starts`
    random starts. `start_std` [population] is the standard deviation over starts, pooled within splits, of one fit's
    accuracy and `gain_start_std` that of its gain over cold start: NaN for a single start, 0 for a method without
    a `random_start`. `start_note` says which starts are left out because they lack splits. `rounding` is the share of
    test decisions that change where the embeddings do by one unit in the last place, and `rounding_on` says where
    that was measured.
    """

    method: str
    selection: str
    title: str
    style: Mapping[str, str]
    splits: tuple[int, ...]
    complete: bool
    mean: Mapping[str, Mapping[str, float]]
    std: Mapping[str, Mapping[str, float]]
    note: str = ""
    published: bool = False
    method_title: str = ""
    # The method without the judge model's name, which follows where several judge models read for one method.
    own_method: str = ""
    family: str = ""
    counted: bool = True
    # The method was given choices to choose by and looked at none.
    chose_nothing: bool = False
    # The code of the method, one of the user's own, is not what made the row.
    older_code: bool = False
    starts: int = 1
    random_start: bool = True
    start_std: Mapping[str, float] = field(default_factory=dict)
    gain_start_std: Mapping[str, float] = field(default_factory=dict)
    start_note: str = ""
    # The encoder or judge model that reads the texts; whether only a sample of the test choices was judged; and
    # whether the judge model may have seen the data when it was trained.
    reader: str = ""
    sampled: bool = False
    known_before: bool = False
    # Means over splits of what judge models cost and how their verdicts came about, see `reporting.judging`.
    judging: Mapping[str, float] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    rounding: float = math.nan
    rounding_on: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What names the row within its board."""
        return self.method, self.selection

    @property
    def oracle(self) -> bool:
        """Whether the row was chosen on test data."""
        return self.selection == ORACLE

    @property
    def rankable(self) -> bool:
        """Whether the row may be best or second."""
        return self.complete and not self.oracle and not self.sampled

    @property
    def undecided(self) -> bool:
        """Whether the cold start ties everywhere: an accuracy of one half to the last digit."""
        return abs(self.value("overall", "cold_start") - 0.5) <= stats.ROUNDING

    def value(self, population: str, metric: str = "accuracy") -> float:
        """A mean over splits, NaN where missing."""
        return self.mean.get(population, {}).get(metric, math.nan)

    def start_spread(self, population: str = "overall") -> tuple[float, int]:
        """The standard deviation over starts of one fit's accuracy, and the number of starts."""
        return self.start_std.get(population, math.nan), self.starts

    def spread(self, population: str, metric: str = "accuracy") -> float:
        """A standard deviation over splits, NaN where missing."""
        return self.std.get(population, {}).get(metric, math.nan)


def planned_splits(cells: list[dict[str, Any]]) -> set[int]:
    """The splits that any row has or was meant to have; ignores rows selected on test data."""
    honest = {cell["split"] for cell in cells if cell["selection"] != ORACLE}
    return honest or {cell["split"] for cell in cells}


def rows_of(
    cells: list[dict[str, Any]], per_split: pd.DataFrame | None, probed: Mapping[tuple[str, ...], float] | None = None
) -> list[Row]:
    """The rows of one board in the order of the cells; `probed` as `Results.rounding`."""
    planned = planned_splits(cells)
    by_row: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        by_row.setdefault((cell["method"], cell["selection"]), []).append(cell)
    readers = Counter((g[0]["title"], g[0]["selection"]) for g in by_row.values() if "model" in g[0])

    def named(group: list[dict[str, Any]]) -> str:
        """The title, with the judge model's name where several read for one method."""
        first = group[0]
        several = readers[first["title"], first["selection"]] > 1
        return f"{first['title']} by {first['model']}" if several and "model" in first else str(first["title"])

    titles = [named(group) for group in by_row.values() if group[0]["selection"] not in (ORACLE, TUNED)]
    rows = []
    for (method, selection), group in by_row.items():
        by_start = _done_splits(group)
        splits = tuple(sorted(by_start[0]))
        starts = sum(by_start[0] <= done for done in by_start.values()) if splits else 1
        random_start = all(cell.get("random_start", True) for cell in group)
        start_std: dict[str, float] = {}
        gain_start_std: dict[str, float] = {}
        title, entry = named(group), group[0]["entry"]
        if selection == ORACLE:
            title += " (selected on test data)"
        elif selection == TUNED:
            title += " (tuned)"
        elif titles.count(title) > 1:
            title += f" ({selection})"
        if sampled := sample_of(group[0]) is not None:
            title += f" {SAMPLE_MARK}"
        mean: dict[str, dict[str, float]] = {}
        std: dict[str, dict[str, float]] = {}
        if splits and per_split is not None:
            first = group[0]
            mask = np.logical_and.reduce([(per_split[key] == first[key]).to_numpy() for key in metrics.ROW])
            start_std = _start_spreads(per_split[mask], "accuracy", random_start)
            gains = per_split[mask].assign(gain=per_split["accuracy"] - per_split["cold_start"])
            gain_start_std = _start_spreads(gains, "gain", random_start)
            for record in metrics.over_splits(per_split[mask]).to_dict("records"):
                if record["n_splits"] < len(splits):
                    continue  # a population that some splits lack
                mean[record["population"]] = {m: float(record[m]) for m in metrics.METRICS}
                std[record["population"]] = {m: float(record[f"{m}_std"]) for m in metrics.METRICS}
        own_method = group[0].get("own_method", method)
        published = (own_method, selection) == (entry.get("name"), entry.get("selection"))
        rounding, rounding_on = rounding_of(entry) if published else (math.nan, "")
        own = (probed or {}).get((group[0]["dataset"], group[0]["encoder"], method, selection))
        if own is not None:
            rounding, rounding_on = own, "measured here"
        rows.append(
            Row(
                method=method,
                selection=selection,
                title=title,
                style=style_of(entry),
                splits=splits,
                complete=planned <= set(splits) and all(p in mean for p in RANKED),
                mean=mean,
                std=std,
                note=_why_missing([c for c in group if not c.get("restart", 0)], planned - set(splits)),
                own_method=own_method,
                method_title=group[0]["title"],
                family=entry.get("family", ""),
                published=published,
                rounding=rounding,
                rounding_on=rounding_on,
                reader=group[0].get("model", group[0]["encoder"]),
                sampled=sampled,
                known_before=bool(group[0].get("known_before")),
                models=models_of(group),
                judging=mean_of([cell["judging"] for cell in group if "judging" in cell], group),
                starts=starts,
                random_start=random_start,
                start_std=start_std,
                gain_start_std=gain_start_std,
                start_note=_incomplete_starts(group, by_start),
                chose_nothing=any((cell.get("fit") or {}).get(NOTHING_CHOSEN) for cell in group),
                older_code=any(code_has_changed(cell) for cell in group),
            )
        )
    return rows


def _done_splits(cells: list[dict[str, Any]]) -> dict[int, set[int]]:
    """The splits with results of each of a row's random starts."""
    done: dict[int, set[int]] = {0: set()}
    for cell in cells:
        splits = done.setdefault(cell.get("restart", 0), set())
        splits |= {cell["split"]} if cell["status"] == "done" else set()
    return done


def _start_spreads(per_split: pd.DataFrame, metric: str, random_start: bool) -> dict[str, float]:
    """The spread over starts of one row's fits by population; 0 where the method has no random start."""
    table = metrics.spread_over_starts(per_split, metric=metric)
    return {
        str(population): float(spread) if random_start else 0.0
        for population, spread in zip(table["population"], table["spread"], strict=True)
    }


def _incomplete_starts(cells: list[dict[str, Any]], done: Mapping[int, set[int]]) -> str:
    """One phrase for the starts that lack some of the row's splits, and why."""
    phrases = []
    for restart, splits in sorted(done.items()):
        if lacking := done[0] - splits:
            why = _why_missing([cell for cell in cells if cell.get("restart", 0) == restart], lacking)
            phrases.append(f"restart {restart} has {len(done[0] & splits)} of {len(done[0])} splits ({why})")
    return "; ".join(phrases)


def counted(rows: list[Row], cells: list[dict[str, Any]]) -> list[Row]:
    """The rows, those marked that repeat or vary another row of their entry."""
    entry = {(c["method"], c["selection"]): c["entry"].get("name", c["method"]) for c in cells}
    params = {(c["method"], c["selection"]): c.get("params") for c in cells}

    def repeats(row: Row) -> bool:
        own = [r for r in rows if r.method == entry[row.key] and r is not row and not r.oracle]
        if row.method != entry[row.key]:
            return bool(own)
        return row.selection == TUNED and any(
            r.selection != TUNED and params[r.key] == params[row.key] and r.mean == row.mean for r in own
        )

    return [replace(row, counted=not repeats(row)) for row in rows]


def _why_missing(cells: list[dict[str, Any]], missing: set[int]) -> str:
    """One phrase for the splits a row lacks."""
    if not missing:
        return ""
    told = {cell["split"]: f"{cell['status']}: {cell.get('reason') or 'no reason given'}" for cell in cells
            if cell["status"] != "done" and cell["split"] in missing}  # fmt: skip
    reasons = sorted(set(told.values()))
    if missing - told.keys():
        reasons.append("not run")
    return "; ".join(reasons)


def bounds_of(cells: list[dict[str, Any]]) -> dict[str, Row]:
    """Ceiling and floor of a simulated data set, over the board's splits; nothing where a split has none."""
    planned = planned_splits(cells)
    truth = {cell["split"]: cell["truth"] for cell in cells if cell.get("truth") and cell["split"] in planned}
    if planned != set(truth):
        return {}
    bounds = {}
    for name, title in BOUNDS.items():
        values = {p: np.array([truth[s][p][name] for s in sorted(truth)], dtype=float) for p in RANKED}
        bounds[name] = Row(
            method=name,
            selection="truth",
            title=title,
            style={},
            splits=tuple(sorted(truth)),
            complete=True,
            mean={p: {"accuracy": float(v.mean())} for p, v in values.items()},
            std={p: {"accuracy": float(v.std(ddof=1)) if len(v) > 1 else math.nan} for p, v in values.items()},
        )
    return bounds
