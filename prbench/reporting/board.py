"""A leaderboard's contents: for one data set and one encoder, every method's numbers and their comparisons.

What is refused: rows that rest on different data, embeddings, protocols, seeds or test comparisons.
What is shown but never ranked, starred or compared: rows chosen on test data. What is shown, compared over the
splits it shares with others, but never ranked: rows that lack splits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from prbench.base.errors import InputError
from prbench.protocol import metrics, stats
from prbench.reporting.checks import check_scored, refuse_mixtures, refuse_unlike_tests
from prbench.reporting.makings import making_notes
from prbench.reporting.pairs import Compared, Pair, Watch, adjusted, against_cold_start, compare
from prbench.reporting.placing import PlacedCell, PlacedResults, placed, results_of
from prbench.reporting.rows import ORACLE, RANKED, TUNED, Row, bounds_of, counted, planned_splits, rows_of
from prbench.reporting.significance import Family
from prbench.reporting.verdict import Answer
from prbench.reporting.verdict import answer as answer_of

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results

__all__ = ["ORACLE", "RANKED", "TUNED", "Board", "Compared", "Pair", "Row", "build", "planned_splits"]


@dataclass(frozen=True)
class Board:
    """One table. Rows by falling overall accuracy: complete ones, those that lack splits, test-oracle ones."""

    dataset: str
    encoder: str
    rows: list[Row]
    baseline: Mapping[tuple[str, str], Row | None]
    pairs: list[Pair]
    # See `stats.resampling_ratio`; NaN where no corrected test can be made.
    ratio: float
    splits: int
    alpha: float
    bounds: Mapping[str, Row] = field(default_factory=dict)
    # A row against its own cold start in each population, where it decides something there and adaptation changes
    # it; `p_table` adjusts over these rows within a population.
    adapting: list[Pair] = field(default_factory=list)
    # Whether personalising pays; None where nothing is compared.
    answer: Answer | None = None
    # How the cells were made: sentences.
    makings: Sequence[str] = ()

    def ranked(self, population: str) -> list[list[Row]]:
        """Rankable rows by falling accuracy in a population, rows of equal accuracy together."""
        rows = [r for r in self.rows if r.rankable and not math.isnan(r.value(population))]
        rows.sort(key=lambda r: -r.value(population))
        ranks: list[list[Row]] = []
        for row in rows:
            if ranks and ranks[-1][0].value(population) - row.value(population) <= stats.ROUNDING:
                ranks[-1].append(row)
            else:
                ranks.append([row])
        return ranks

    def best_and_rival(self, population: str) -> tuple[Row, Row] | None:
        """The best rankable row and the best of the others, or None with fewer than two."""
        rows = [row for rank in self.ranked(population) for row in rank if row.counted]
        return (rows[0], rows[1]) if len(rows) > 1 else None

    @property
    def judged(self) -> bool:
        """Whether any row is a judge model's."""
        return any(row.judging for row in self.rows)

    def pair(self, a: Row, b: Row, population: str) -> Pair | None:
        """The comparison of a with b, or None where there is none (rows without numbers, or chosen on test data)."""
        for pair in self.pairs:
            if pair.population == population and {pair.a.key, pair.b.key} == {a.key, b.key}:
                return pair if pair.a.key == a.key else pair.reversed()
        return None

    def against_baseline(self, row: Row) -> Pair | None:
        """The comparison of a row with its baseline in the overall population."""
        baseline = self.baseline.get(row.key)
        return self.pair(row, baseline, "overall") if baseline else None

    def in_table(self) -> list[Pair]:
        """The comparisons that the table prints, each once: rows against the baseline, best against runner-up."""
        printed = self.printed()
        return [pair for pair in self.pairs if (pair.population, frozenset((pair.a.key, pair.b.key))) in printed]

    def printed(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        """(population, the two rows' keys) of the comparisons that the table prints."""
        printed = {
            ("overall", frozenset((row.key, base.key)))
            for row in self.rows
            if row.counted and (base := self.baseline[row.key])
        }
        for population in RANKED:
            if rivals := self.best_and_rival(population):
                printed.add((population, frozenset(row.key for row in rivals)))
        return printed


def build(
    results: Results | PlacedResults,
    *,
    baseline: str,
    shots: int,
    alpha: float,
    resamples: int,
    watch: Watch | None = None,
    users: pd.DataFrame | None = None,
    compared: Compared = "all",
    count_all: bool = False,
) -> tuple[list[Board], pd.DataFrame]:
    """Every (data set, encoder)'s board, and the per-user metrics they rest on, of every fit that counts.

    `users` spares making those metrics again: `metrics.user_metrics` of the results' scores at `shots`. Tests take
    the mean over the starts of each split.
    `count_all` lets rows that repeat or vary another one take part in the families of tests.
    Raises InputError when there are no results or when results that do not belong together would share a table.
    """
    results = placed(results)
    groups: dict[tuple[str, str], list[PlacedCell]] = {}
    for cell in results.cells:
        groups.setdefault(cell.board, []).append(cell)
    if not groups:
        raise InputError("there are no results to report", hint="make some with `prbench run`")
    for cells in groups.values():
        refuse_mixtures(cells)
    if users is None:
        scores = results.scores
        users = metrics.user_metrics(scores[scores["shots"] == shots])
    check_scored(users, results.cells, shots)
    users = metrics.complete_starts(users)
    per_split = metrics.split_metrics(users) if len(users) else None
    mean_users = metrics.over_starts(users)
    on_sample = results.on_sample
    if on_sample is not None:
        on_sample = metrics.over_starts(
            metrics.complete_starts(metrics.user_metrics(on_sample[on_sample["shots"] == shots]))
        )
    boards = []
    for (dataset, encoder), cells in sorted(groups.items()):
        board_users = _of_board(mean_users, dataset, encoder)
        rows = rows_of(cells, per_split, results.rounding)
        sampled = {row.key for row in rows if row.sampled}
        for tested in _apart(_of_board(users, dataset, encoder), sampled):
            refuse_unlike_tests(tested)
        if not count_all:
            rows = counted(rows, cells)
        # Beside a sampled row, any other counts on the sampled choices alone.
        small = None if on_sample is None or not sampled else _of_board(on_sample, dataset, encoder)
        boards.append(
            _board(dataset, encoder, cells, rows, board_users, small, baseline, alpha, resamples, watch, compared)
        )
    return boards, users


def _of_board(users: pd.DataFrame, dataset: str, encoder: str) -> pd.DataFrame:
    return users[(users["dataset"] == dataset) & (users["encoder"] == encoder)]


def _apart(users: pd.DataFrame, sampled: set[tuple[str, str]]) -> list[pd.DataFrame]:
    """The metrics of rows tested on all choices, and those of rows tested on a sample."""
    if not sampled:
        return [users]
    rows = zip(users["method"].astype(object), users["selection"].astype(object), strict=True)
    small = np.array([row in sampled for row in rows], dtype=bool)
    return [part for part in (users[~small], users[small]) if len(part)]


def _board(
    dataset: str,
    encoder: str,
    cells: list[PlacedCell],
    rows: list[Row],
    users: pd.DataFrame,
    on_sample: pd.DataFrame | None,
    baseline: str,
    alpha: float,
    resamples: int,
    watch: Watch | None,
    compared: Compared,
) -> Board:
    rows = sorted(rows, key=lambda r: (r.oracle, not r.complete, -r.value("overall") if r.mean else math.inf))
    bare = Board(
        dataset=dataset,
        encoder=encoder,
        rows=rows,
        baseline={row.key: _baseline_of(row, rows, baseline) for row in rows},
        pairs=[],
        ratio=resampling_ratio(cells),
        splits=len(planned_splits(cells)),
        alpha=alpha,
        bounds=bounds_of(cells),
        makings=making_notes(cells),
    )
    if compared == "none":
        return bare
    pairs = adjusted(bare, compare(bare, users, on_sample, resamples, watch, compared))
    adapting = [
        replace(pair, p_table=p)
        for population in RANKED
        for family in [Family("over these rows", against_cold_start(bare, users, resamples, population))]
        for pair, p in zip(family.pairs, family.adjusted(), strict=True)
    ]
    return replace(bare, pairs=pairs, adapting=adapting, answer=answer_of(bare, users))


def resampling_ratio(cells: list[PlacedCell]) -> float:
    """See `stats.resampling_ratio`; NaN where the data say what is tested, the same in every split."""
    protocol = next((record.protocol for record in results_of(cells)), None)
    if protocol is None or protocol.unit == "mark" or protocol.name == "chronological":
        return math.nan
    return stats.resampling_ratio(protocol.test_share)


def _baseline_of(row: Row, rows: list[Row], baseline: str) -> Row | None:
    """The baseline method under the row's own selection rule, else as published, else under the rule it was run with.

    A row that is not tuned is compared with a tuned baseline only where there is no other.
    """
    if row.oracle or row.method == baseline:
        return None
    candidates = [r for r in rows if r.method == baseline and not r.oracle and r.splits]
    candidates.sort(key=lambda r: r.selection, reverse=True)
    candidates.sort(key=lambda r: (r.selection != row.selection, not r.published, r.selection == TUNED))
    return next(iter(candidates), None)
