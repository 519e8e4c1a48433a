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
from prbench.reporting.placing import SAMPLE_MARK, PlacedCell, results_of

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


def planned_splits(cells: list[PlacedCell]) -> set[int]:
    """The splits that any row has or was meant to have; ignores rows selected on test data."""
    honest = {cell.record.split for cell in cells if cell.selection != ORACLE}
    return honest or {cell.record.split for cell in cells}


def rows_of(
    cells: list[PlacedCell], per_split: pd.DataFrame | None, probed: Mapping[tuple[str, ...], float] | None = None
) -> list[Row]:
    """The rows of one board in the order of the cells; `probed` as `Results.rounding`."""
    planned = planned_splits(cells)
    by_row: dict[tuple[str, str], list[PlacedCell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row_key, []).append(cell)
    firsts = [group[0] for group in by_row.values()]
    readers = Counter((first.record.title, first.selection) for first in firsts if first.judged)

    def title_of(first: PlacedCell) -> str:
        """The title, with the judge model's name where several read for one method."""
        title = first.record.title
        return f"{title} by {first.reader}" if first.judged and readers[title, first.selection] > 1 else title

    titles = {first.row_key: title_of(first) for first in firsts}
    others = [titles[first.row_key] for first in firsts if first.selection not in (ORACLE, TUNED)]
    numbers = _numbers(per_split)
    rows = []
    for first, group in zip(firsts, by_row.values(), strict=True):
        title = titles[first.row_key] + _mark_of(first, others.count(titles[first.row_key]) > 1)
        rows.append(_row(title, group, planned, numbers.get(first.row), (probed or {}).get(first.row)))
    return rows


def _mark_of(first: PlacedCell, several: bool) -> str:
    """What follows a row's title: how it was chosen, where `several` rows of one title tell by it, and on what."""
    rules = {ORACLE: " (selected on test data)", TUNED: " (tuned)"}
    rule = rules.get(first.selection, f" ({first.selection})" if several else "")
    return rule + (f" {SAMPLE_MARK}" if first.sample else "")


def _row(
    title: str, group: list[PlacedCell], planned: set[int], found: RowNumbers | None, measured: float | None
) -> Row:
    """One row from its cells; `measured` is the share of decisions that rounding probes changed."""
    first, record = group[0], group[0].record
    by_start = _done_splits(group)
    splits = tuple(sorted(by_start[0]))
    random_start = all(cell.record.random_start for cell in group)
    numbers = (found if splits and found else RowNumbers()).of(len(splits), random_start)
    rounding, rounding_on = rounding_of(record.entry) if record.published else (math.nan, "")
    if measured is not None:
        rounding, rounding_on = measured, "measured here"
    done = results_of(group)
    return Row(
        method=first.method,
        selection=first.selection,
        title=title,
        style=style_of(record.entry),
        splits=splits,
        complete=planned <= set(splits) and all(p in numbers.mean for p in RANKED),
        mean=numbers.mean,
        std=numbers.std,
        note=_why_missing([cell for cell in group if not cell.record.restart], planned - set(splits)),
        own_method=record.method,
        method_title=record.title,
        family=record.entry.family,
        published=record.published,
        rounding=rounding,
        rounding_on=rounding_on,
        reader=first.reader,
        sampled=first.sample is not None,
        known_before=record.known_before,
        models=models_of(done),
        judging=mean_of(done),
        starts=sum(by_start[0] <= split_numbers for split_numbers in by_start.values()) if splits else 1,
        random_start=random_start,
        start_std=numbers.start_std,
        gain_start_std=numbers.gain_start_std,
        start_note=_incomplete_starts(group, by_start),
        chose_nothing=any(cell.fit.nothing_chosen for cell in done),
        older_code=any(code_has_changed(record.entry.name, record.entry.target, c.record.code) for c in group),
    )


@dataclass(frozen=True)
class RowNumbers:
    """Means and spreads of a row, [population][metric], and the spreads over starts, [population]; see `Row`.

    `n_splits` [population] are the splits that a mean is over.
    """

    mean: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    std: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n_splits: Mapping[str, int] = field(default_factory=dict)
    start_std: Mapping[str, float] = field(default_factory=dict)
    gain_start_std: Mapping[str, float] = field(default_factory=dict)

    def of(self, n_splits: int, random_start: bool) -> RowNumbers:
        """These, without the populations that one of `n_splits` lacks; spreads are 0 without a random start."""
        whole = [population for population, count in self.n_splits.items() if count >= n_splits]
        spreads, gain_spreads = (
            values if random_start else dict.fromkeys(values, 0.0) for values in (self.start_std, self.gain_start_std)
        )
        return RowNumbers(
            mean={population: self.mean[population] for population in whole},
            std={population: self.std[population] for population in whole},
            n_splits=self.n_splits,
            start_std=spreads,
            gain_start_std=gain_spreads,
        )


def _numbers(per_split: pd.DataFrame | None) -> dict[tuple[str, ...], RowNumbers]:
    """The numbers of every row, by `metrics.ROW`, from its fits' metrics."""
    if per_split is None:
        return {}
    gains = per_split.assign(gain=per_split["accuracy"] - per_split["cold_start"])
    spreads, gain_spreads = (
        _by_row(metrics.spread_over_starts(table, metric=metric))
        for table, metric in ((per_split, "accuracy"), (gains, "gain"))
    )
    return {
        row: RowNumbers(
            mean={line["population"]: {m: float(line[m]) for m in metrics.METRICS} for line in lines},
            std={line["population"]: {m: float(line[f"{m}_std"]) for m in metrics.METRICS} for line in lines},
            n_splits={line["population"]: int(line["n_splits"]) for line in lines},
            start_std={line["population"]: float(line["spread"]) for line in spreads[row]},
            gain_start_std={line["population"]: float(line["spread"]) for line in gain_spreads[row]},
        )
        for row, lines in _by_row(metrics.over_splits(per_split)).items()
    }


def _by_row(table: pd.DataFrame) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    by_row: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in table.to_dict("records"):
        record = {str(name): value for name, value in line.items()}
        by_row.setdefault(tuple(str(record[key]) for key in metrics.ROW), []).append(record)
    return by_row


def _done_splits(cells: list[PlacedCell]) -> dict[int, set[int]]:
    """The splits with results of each of a row's random starts."""
    done: dict[int, set[int]] = {0: set()}
    for cell in cells:
        splits = done.setdefault(cell.record.restart, set())
        splits |= {cell.record.split} if cell.result else set()
    return done


def _incomplete_starts(cells: list[PlacedCell], done: Mapping[int, set[int]]) -> str:
    """One phrase for the starts that lack some of the row's splits, and why."""
    phrases = []
    for restart, splits in sorted(done.items()):
        if lacking := done[0] - splits:
            reason = _why_missing([cell for cell in cells if cell.record.restart == restart], lacking)
            phrases.append(f"restart {restart} has {len(done[0] & splits)} of {len(done[0])} splits ({reason})")
    return "; ".join(phrases)


def counted(rows: list[Row], cells: list[PlacedCell]) -> list[Row]:
    """The rows, those marked that repeat or vary another row of their entry."""
    entry = {cell.row_key: cell.record.entry.name for cell in cells}
    params = {cell.row_key: cell.record.params for cell in cells}

    def repeats(row: Row) -> bool:
        relatives = [r for r in rows if r.method == entry[row.key] and r is not row and not r.oracle]
        if row.method != entry[row.key]:
            return bool(relatives)
        return row.selection == TUNED and any(
            r.selection != TUNED and params[r.key] == params[row.key] and r.mean == row.mean for r in relatives
        )

    return [replace(row, counted=not repeats(row)) for row in rows]


def _why_missing(cells: list[PlacedCell], missing: set[int]) -> str:
    """One phrase for the splits a row lacks."""
    if not missing:
        return ""
    ends = {
        record.split: f"{record.status}: {record.reason or 'no reason given'}"
        for record in (cell.record for cell in cells)
        if not record.done and record.split in missing
    }
    reasons = sorted(set(ends.values()))
    if missing - ends.keys():
        reasons.append("not run")
    return "; ".join(reasons)


def bounds_of(cells: list[PlacedCell]) -> dict[str, Row]:
    """Ceiling and floor of a simulated data set, over the board's splits; nothing where a split has none."""
    planned = planned_splits(cells)
    records = [cell.record for cell in cells if cell.record.split in planned]
    truth = {record.split: record.truth.table() for record in records if record.truth}
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
