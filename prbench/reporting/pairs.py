"""Two rows of a board compared, and a row with its own cold start: over users and splits, with adjusted tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prbench.base.seeds import Rng
from prbench.protocol import stats
from prbench.reporting.rows import RANKED, Row
from prbench.reporting.significance import Family

if TYPE_CHECKING:
    import pandas as pd

    from prbench.reporting.board import Board

# Called after each comparison.
Watch = Callable[[], None]
# Which pairs of rows are compared: all; all, with a bootstrap over users only of those that the table prints; none.
Compared = Literal["all", "printed", "none"]


@dataclass(frozen=True)
class Pair:
    """Row a against row b in one population; the adjusted p-values are NaN outside their family.

    `p_all_pairs` is adjusted over all pairs of the population, `p_table` over the comparisons that the table prints
    (or, of a row against its cold start, over these rows). `start_error` is the standard error that random starts
    leave in the difference, NaN where it is not known.
    """

    population: str
    a: Row
    b: Row
    result: stats.Comparison
    p_all_pairs: float = math.nan
    p_table: float = math.nan
    start_error: float = math.nan

    @property
    def counted(self) -> bool:
        """Whether both rows take part in families of tests."""
        return self.a.counted and self.b.counted

    def reversed(self) -> Pair:
        """The same comparison seen from the other side."""
        return replace(self, a=self.b, b=self.a, result=self.result.reversed())


def adjusted(board: Board, pairs: list[Pair]) -> list[Pair]:
    """The pairs with their p-values adjusted over all pairs of a population, and over those that the table prints."""
    printed = board.printed()
    families = [[i for i, pair in enumerate(pairs) if pair.population == q and pair.counted] for q in RANKED]
    table = [i for i, pair in enumerate(pairs) if (pair.population, frozenset((pair.a.key, pair.b.key))) in printed]
    over_all = {i: p for family in families for i, p in zip(family, _holm(pairs, family), strict=True)}
    in_table = dict(zip(table, _holm(pairs, table), strict=True))
    return [
        replace(pair, p_all_pairs=over_all.get(i, math.nan), p_table=in_table.get(i, math.nan))
        for i, pair in enumerate(pairs)
    ]


def _holm(pairs: list[Pair], family: list[int]) -> list[float]:
    return Family("", [pairs[i] for i in family]).adjusted()


def _in_population(users: pd.DataFrame, population: str) -> pd.DataFrame:
    return users if population == "overall" else users[users["population"] == population]


def user_values(users: pd.DataFrame, row: Row, metric: str) -> pd.DataFrame:
    """A metric of every user in every split."""
    row_users = users[(users["method"] == row.method) & (users["selection"] == row.selection)]
    return row_users.pivot(index="user", columns="split", values=metric)


def against_cold_start(board: Board, users: pd.DataFrame, resamples: int, population: str) -> list[Pair]:
    """See `Board.adapting`; the largest gains first."""
    pairs = []
    population_users = _in_population(users, population)
    for row in board.rows:
        adapts = row.value(population, "flip_rate") > 0
        if not row.rankable or not row.counted or row.undecided or not adapts:
            continue
        before = {p: {"accuracy": row.value(p, "cold_start")} for p in row.mean}
        cold = replace(row, title=f"{row.title} at cold start", mean=before, std={}, published=False, start_std={})
        result = stats.compare(
            user_values(population_users, row, "accuracy").to_numpy(),
            user_values(population_users, row, "cold_start").to_numpy(),
            ratio=board.ratio,
            rng=Rng("bootstrap over users", board.dataset, board.encoder, population, *row.key, "cold start"),
            level=1 - board.alpha,
            resamples=resamples,
        )
        spread = row.gain_start_std.get(population, math.nan), row.starts
        error = stats.start_error([spread], result.n_splits)
        pairs.append(Pair(population, row, cold, result, start_error=error))
    return sorted(pairs, key=lambda pair: -pair.result.difference)


def compare(
    board: Board,
    users: pd.DataFrame,
    on_sample: pd.DataFrame | None,
    resamples: int,
    watch: Watch | None,
    compared: Compared,
) -> list[Pair]:
    """The pairs of rows with numbers, in every population; the row that stands higher in the table comes first."""
    rows = [row for row in board.rows if row.splits and not row.oracle]
    printed = board.printed()
    pairs = []
    for population in RANKED if compared != "none" else ():
        population_users = _in_population(users, population)
        index, columns = np.unique(population_users["user"]), np.unique(population_users["split"])
        accuracy = {
            row.key: user_values(population_users, row, "accuracy").reindex(index=index, columns=columns).to_numpy()
            for row in rows
            if population in row.mean
        }
        small = {} if on_sample is None else _sampled_accuracy(rows, on_sample, population, index, columns)
        for i, a in enumerate(rows):
            for b in rows[i + 1 :]:
                if a.key not in accuracy or b.key not in accuracy:
                    continue
                bootstrapped = compared == "all" or (population, frozenset((a.key, b.key))) in printed
                rng = Rng("bootstrap over users", board.dataset, board.encoder, population, *sorted([*a.key, *b.key]))
                first, second = accuracy[a.key], accuracy[b.key]
                if a.sampled != b.sampled:
                    first, second = small.get(a.key, first), small.get(b.key, second)
                result = stats.compare(
                    first,
                    second,
                    ratio=board.ratio,
                    rng=rng,
                    level=1 - board.alpha,
                    resamples=resamples if bootstrapped else 0,
                )
                error = stats.start_error([row.start_spread(population) for row in (a, b)], result.n_splits)
                pairs.append(Pair(population, a, b, result, start_error=error))
                if watch:
                    watch()
    return pairs


def _sampled_accuracy(
    rows: list[Row], on_sample: pd.DataFrame, population: str, index: Any, columns: Any
) -> dict[tuple[str, str], Any]:
    """The accuracies of rows tested on all choices, on the sampled ones: users by splits, NaN outside the sample."""
    population_users = _in_population(on_sample, population)
    return {
        row.key: user_values(population_users, row, "accuracy").reindex(index=index, columns=columns).to_numpy()
        for row in rows
        if not row.sampled and population in row.mean
    }
