"""One page for each two methods: where they differ, by split and by user, and what could be told at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prbench.reporting.board import Board
from prbench.reporting.grid import Grid, TableCell, interval, p_value, percent
from prbench.reporting.pairs import Pair

if TYPE_CHECKING:
    import pandas as pd

POWER = 0.8


@dataclass(frozen=True)
class Meeting:
    """Two methods on one board: the test, the smallest difference that it could show, every split and every user."""

    board: Board
    pair: Pair
    smallest: float
    splits: Grid
    users: Grid
    better: int
    worse: int


def meetings(
    boards: Sequence[Board], users: pd.DataFrame
) -> dict[tuple[tuple[str, str], tuple[str, str]], list[Meeting]]:
    """By the names of both rows: each board where both have results of the same choices; overall population."""
    by_names: dict[tuple[tuple[str, str], tuple[str, str]], list[Meeting]] = {}
    for board in boards:
        board_users = users[(users["dataset"] == board.dataset) & (users["encoder"] == board.encoder)]
        tables = {
            row.key: board_users[
                (board_users["method"] == row.method) & (board_users["selection"] == row.selection)
            ].pivot_table(index="user", columns="split", values="accuracy")
            for row in board.rows
            if row.splits and not row.oracle
        }
        for pair in board.pairs:
            # A row tested on a sample of the choices is compared on these alone, which no table of users says.
            if pair.population == "overall" and pair.a.sampled == pair.b.sampled:
                ordered = pair if pair.a.key <= pair.b.key else pair.reversed()
                meeting = _meeting(board, ordered, tables[ordered.a.key], tables[ordered.b.key])
                by_names.setdefault((ordered.a.key, ordered.b.key), []).append(meeting)
    return by_names


def smallest_difference(pair: Pair, alpha: float) -> float:
    """The difference that the corrected test finds with a chance of 80%, from the width of its interval; NaN without.

    With J splits and standard error s it is (t(1 - alpha/2) + t(0.8)) s, on J - 1 degrees of freedom.
    """
    from scipy.stats import t as student

    low, high = pair.result.interval
    freedom = pair.result.n_splits - 1
    if math.isnan(low) or freedom < 1:
        return math.nan
    at = float(student.ppf(1 - alpha / 2, freedom))
    return (high - low) / 2 / at * (at + float(student.ppf(POWER, freedom)))


def _meeting(board: Board, pair: Pair, a: pd.DataFrame, b: pd.DataFrame) -> Meeting:
    import pandas as pd

    common = sorted(set(a.columns) & set(b.columns))
    a, b = a[common], b[common]
    by_split = [(int(split), float(a[split].mean()), float(b[split].mean())) for split in common]
    both = pd.DataFrame({"a": a.mean(axis=1), "b": b.mean(axis=1), "difference": (a - b).mean(axis=1)}).dropna()
    people = both.assign(splits=(a - b).notna().sum(axis=1)).sort_values("difference", ascending=False).reset_index()
    titles = (pair.a.title, pair.b.title)
    where = f"{board.dataset} ({board.encoder})"
    splits = Grid(
        title=f"Every split of {where}, user accuracy in %",
        header=("Split", *titles, "Difference"),
        rows=[
            [
                *map(
                    TableCell,
                    (str(i), percent(x, digits=2), percent(y, digits=2), percent(x - y, signed=True, digits=2)),
                )
            ]
            for i, x, y in by_split
        ],
        rules=(),
        notes=["Means over the users of the split. Splits overlap: they are not independent experiments."],
        label=f"splits:{board.dataset}:{board.encoder}",
    )
    users = Grid(
        title=f"Every user of {where}, difference of accuracies in points",
        header=("User", titles[0], titles[1], "Difference", "Splits"),
        rows=[
            [
                TableCell(str(user)),
                *map(TableCell, (percent(of_a), percent(of_b), percent(apart, signed=True), str(count))),
            ]
            for user, of_a, of_b, apart, count in people.itertuples(index=False)
        ],
        rules=(),
        notes=["Means over the splits in which the user was tested. Numbers say nothing of who they are."],
        label=f"users:{board.dataset}:{board.encoder}",
    )
    return Meeting(
        board=board,
        pair=pair,
        smallest=smallest_difference(pair, board.alpha),
        splits=splits,
        users=users,
        better=int((people["difference"] > 0).sum()),
        worse=int((people["difference"] < 0).sum()),
    )


def summary(meetings_of_pair: Sequence[Meeting]) -> Grid:
    """The table of a page: one line for each board."""
    level = f"{100 * (1 - meetings_of_pair[0].board.alpha):g}%"
    rows = []
    for each in meetings_of_pair:
        result = each.pair.result
        cells = [
            f"{each.board.dataset} ({each.board.encoder})",
            percent(result.difference, signed=True, digits=2),
            interval(*result.interval),
            *map(p_value, (result.plain.p, result.corrected.p, each.pair.p_all_pairs)),
            percent(each.smallest, digits=2),
            f"{each.better} / {each.worse}",
            f"{result.n_splits}/{each.board.splits}",
        ]
        rows.append([TableCell(text) for text in cells])
    return Grid(
        title=f"{meetings_of_pair[0].pair.a.title} minus {meetings_of_pair[0].pair.b.title}, points of user accuracy",
        header=(
            "Data set",
            "Difference",
            f"{level} interval",
            "p plain",
            "p corr.",
            "p Holm",
            "Could show",
            "Users better / worse",
            "Splits",
        ),
        rows=rows,
        rules=(),
        notes=[
            "All users, over the splits that both have. p corr.: corrected resampled t-test, to which the interval "
            "belongs; p Holm adjusts it over all pairs of the data set. p plain takes splits for independent.",
            f"Could show: the smallest difference that this test finds with a chance of {POWER:.0%} on splits that "
            "vary as these do. A difference that is not significant says little where this number is large.",
        ],
        label="comparison",
    )
