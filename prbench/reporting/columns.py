"""The leaderboard's columns: one record each, which every form of the table reads.

The terminal's table, Markdown and LaTeX show the columns marked `table`, the page those marked `page`, and
leaderboard.csv has those marked `csv`. To add a column, add a record to `COLUMNS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from prbench.protocol import metrics, stats
from prbench.reporting.board import ORACLE, RANKED, TUNED, Board, Pair, Row
from prbench.reporting.grid import DASH, interval, p_value, percent
from prbench.reporting.judging import MANY_FAILURES
from prbench.reporting.significance import marks, starts_may_explain

Surface = Literal["csv", "table", "page"]
Value = float | int | str | bool

CSV: tuple[Surface, ...] = ("csv",)
TABLE: tuple[Surface, ...] = ("csv", "table")
PAGE: tuple[Surface, ...] = ("csv", "page")
EVERYWHERE: tuple[Surface, ...] = ("csv", "table", "page")

SELECTED_ON = {
    "validation": "validation",
    "last": "last epoch",
    TUNED: "tuning splits",
    ORACLE: "test data",
    "truth": "",
}


class View:
    """A board as its columns read it: ranks, best rows and the baseline's name, each worked out once."""

    def __init__(self, board: Board) -> None:
        self.board = board

    @cached_property
    def ranks(self) -> dict[str, list[list[Row]]]:
        """`Board.ranked` by population."""
        return {population: self.board.ranked(population) for population in RANKED}

    @cached_property
    def rivals(self) -> dict[str, tuple[Row, Row] | None]:
        """The best row and the best of the others by population."""
        return {population: self.board.best_and_rival(population) for population in RANKED}

    @cached_property
    def baseline(self) -> str:
        """What the baseline is called, "" where no row has one."""
        return baseline_name([row for row in self.board.baseline.values() if row])

    @property
    def level(self) -> str:
        """The level of the intervals, such as "95%"."""
        return f"{100 * (1 - self.board.alpha):g}%"

    def rank(self, row: Row, population: str) -> int:
        """1 for a best row, 2 for a second, else 0."""
        place = next((i for i, rows in enumerate(self.ranks[population], 1) if row in rows), 0)
        return place if place < 3 else 0

    def lead(self, row: Row, population: str) -> Pair | None:
        """The best row against its rival, None for every other row."""
        rivals = self.rivals[population]
        return self.board.pair(*rivals, population) if rivals and row is rivals[0] else None

    def against_baseline(self, row: Row) -> Pair | None:
        """As `Board.against_baseline`; None for rows that do not belong to a method, such as the ceiling."""
        return self.board.against_baseline(row) if row.key in self.board.baseline else None

    def absence(self, row: Row) -> str:
        """Why a row may lack numbers."""
        return row.note or ("" if row.complete else "a population of users is missing")


@dataclass(frozen=True)
class Entry:
    """What stands in a table: the text, what it sorts by (None sorts last), and why there is nothing.

    `spread` follows the text in smaller print; `rank` is 1 for the best, 2 for the second, 0 else.
    """

    text: str
    value: float | str | None = None
    spread: str = ""
    rank: int = 0
    marks: str = ""
    missing: str = ""


def _always(_: Board) -> bool:
    return True


def _several_rules(board: Board) -> bool:
    return len({row.selection for row in board.rows}) > 1


def _incomplete(board: Board) -> bool:
    return any(not row.complete for row in board.rows)


def _has_baseline(board: Board) -> bool:
    return any(board.baseline.values())


@dataclass(frozen=True)
class Column:
    """One column. `key` is its name in leaderboard.csv, which is public, and `help` says in a phrase what it holds.

    `value` is the number (accuracies and shares as fractions) or text of a row; a missing number is NaN. The tables
    print it in percent with `digits`, with a sign where `signed`, unless `text` says otherwise. `label`, `page_label`
    (where the page's differs) and `help` may hold {baseline} and {level}. Tables show columns by rising `place`,
    those of a board that `shown` accepts; the CSV file has them in the order of `COLUMNS`, those that `exists` on any
    board. `population` names the ranking that the column shows. `first` is the order that a first click sorts in.
    """

    key: str
    help: str
    value: Callable[[View, Row], Value]
    where: tuple[Surface, ...] = CSV
    label: str = ""
    page_label: str = ""
    place: int = 0
    digits: int = 1
    signed: bool = False
    text: Callable[[View, Row], str] | None = None
    spread: Callable[[View, Row], float] | None = None
    marks: Callable[[View, Row], str] | None = None
    missing: Callable[[View, Row], str] | None = None
    population: str = ""
    first: Literal["ascending", "descending"] = "descending"
    shown: Callable[[Board], bool] = _always
    exists: Callable[[Board], bool] = _always

    def heading(self, view: View, surface: Surface) -> str:
        """What stands above the column."""
        label = self.page_label if surface == "page" and self.page_label else self.label
        return label.format(baseline=view.baseline, level=view.level)

    def explained(self, view: View) -> str:
        """`help` for this board."""
        return self.help.format(baseline=view.baseline, level=view.level)

    def entry(self, view: View, row: Row) -> Entry:
        """What the tables show of a row."""
        value = self.value(view, row)
        if isinstance(value, float) and math.isnan(value):
            return Entry(DASH, missing=(self.missing(view, row) if self.missing else "") or "no value")
        if self.text:
            text = self.text(view, row)
        else:
            text = value if isinstance(value, str) else percent(value, signed=self.signed, digits=self.digits)
        return Entry(
            text=text,
            value=round(value, 8) if isinstance(value, float) else value,
            spread=f"±{percent(self.spread(view, row))}" if self.spread else "",
            rank=view.rank(row, self.population) if self.population else 0,
            marks=self.marks(view, row) if self.marks else "",
        )


def shown(board: Board, surface: Surface) -> list[Column]:
    """The columns of one board's table, by place."""
    columns = [c for c in COLUMNS if surface in c.where and c.exists(board) and c.shown(board)]
    return sorted(columns, key=lambda column: column.place)


def stored(boards: Sequence[Board]) -> list[Column]:
    """The columns of leaderboard.csv."""
    return [c for c in COLUMNS if "csv" in c.where and any(c.exists(board) for board in boards)]


def record(view: View, row: Row, columns: Iterable[Column]) -> dict[str, Value]:
    """A row's values by the columns' keys."""
    return {column.key: column.value(view, row) for column in columns}


def by_key(*keys: str) -> list[Column]:
    """The columns of these keys, in this order."""
    columns = {column.key: column for column in COLUMNS}
    return [columns[key] for key in keys]


def baseline_name(baselines: Sequence[Row]) -> str:
    """The baseline's title; without the rule where rows are compared with it under several of them."""
    titles = {row.title for row in baselines}
    return titles.pop() if len(titles) == 1 else next((row.method_title or row.method for row in baselines), "")


def selected_on(row: Row) -> str:
    """What a row's epochs and hyper-parameters were chosen on."""
    return "nothing chosen" if row.chose_nothing else SELECTED_ON.get(row.selection, row.selection)


# What a comparison gives to a CSV file: name, meaning, value.
COMPARISON: dict[str, tuple[str, Callable[[stats.Comparison], float]]] = {
    "difference": ("mean difference over the splits in common", lambda c: c.difference),
    "difference_low": ("lower end of the corrected test's interval of the difference", lambda c: c.interval.low),
    "difference_high": ("upper end of the corrected test's interval of the difference", lambda c: c.interval.high),
    "p_plain": ("p-value of the plain paired t-test over splits", lambda c: c.plain.p),
    "p_corrected": ("p-value of the corrected resampled t-test, not adjusted", lambda c: c.corrected.p),
    "p_wilcoxon": ("p-value of Wilcoxon's signed-rank test over splits", lambda c: c.wilcoxon.p),
    "bootstrap_low": ("lower end of the bootstrap interval over users", lambda c: c.bootstrap.low),
    "bootstrap_high": ("upper end of the bootstrap interval over users", lambda c: c.bootstrap.high),
    "n_splits_compared": ("splits that both rows have", lambda c: c.n_splits),
    "n_users_compared": ("users whom both rows were tested on", lambda c: c.n_users),
}


def comparison_record(result: stats.Comparison) -> dict[str, float]:
    """A comparison's numbers by the names of `COMPARISON`."""
    return {name: value(result) for name, (_, value) in COMPARISON.items()}


def _metric(population: str, metric: str) -> Callable[[View, Row], float]:
    return lambda _, row: row.value(population, metric)


def _spread(population: str) -> Callable[[View, Row], float]:
    return lambda _, row: row.spread(population)


def _compared(name: str) -> Callable[[View, Row], float]:
    def value(view: View, row: Row) -> float:
        pair = view.against_baseline(row)
        return COMPARISON[name][1](pair.result) if pair else math.nan

    return value


def _adjusted(view: View, row: Row) -> float:
    pair = view.against_baseline(row)
    return pair.p_table if pair else math.nan


def _baseline_marks(view: View, row: Row) -> str:
    return marks(view.against_baseline(row), view.board.alpha)


def _lead_marks(population: str) -> Callable[[View, Row], str]:
    return lambda view, row: marks(view.lead(row, population), view.board.alpha)


def _not_compared(view: View, row: Row) -> str:
    """Why a row has no difference, interval or p-value."""
    if view.against_baseline(row):
        return "undefined with these splits"
    if row.oracle:
        return "chosen on test data: not compared"
    if view.board.baseline.get(row.key) is None:
        return "this is the baseline" if row.splits else view.absence(row)
    return view.absence(row)


def _interval_text(view: View, row: Row) -> str:
    pair = view.against_baseline(row)
    return interval(*pair.result.interval) if pair else DASH


def _of_baseline(name: Literal["method", "selection"]) -> Callable[[View, Row], str]:
    def value(view: View, row: Row) -> str:
        pair = view.against_baseline(row)
        return str(getattr(pair.b, name)) if pair else ""

    return value


def _start_std(_: View, row: Row) -> float:
    return row.start_spread()[0] if row.random_start else math.nan


def _no_start_std(view: View, row: Row) -> str:
    """Why a row has no spread over starts."""
    if not row.splits:
        return view.absence(row)
    if not row.random_start:
        return "the method has no random start"
    return "fitted from one start: --restarts 3 of `prbench run` adds two" if row.starts == 1 else view.absence(row)


def _within_starts(view: View, row: Row) -> bool:
    pair = view.against_baseline(row)
    return pair is not None and starts_may_explain(pair.result, pair.start_error)


def _judged(name: str) -> Callable[[View, Row], float]:
    return lambda _, row: row.judging.get(name, math.nan)


def _has_judges(board: Board) -> bool:
    return board.judged


def _several_readers(board: Board) -> bool:
    return len({row.reader for row in board.rows if row.reader}) > 1


def _no_judge(view: View, row: Row) -> str:
    return view.absence(row) if row.judging else "it reads no texts through a judge model"


def _number(name: str) -> Callable[[View, Row], str]:
    def text(_: View, row: Row) -> str:
        value = row.judging.get(name, math.nan)
        return DASH if math.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    return text


def _failures(view: View, row: Row) -> str:
    value = row.judging.get("failed_orders", math.nan)
    if math.isnan(value):
        return DASH
    return percent(value) + (" (many)" if value > MANY_FAILURES else "")


def _bound(name: str) -> Callable[[View, Row], float]:
    return lambda view, _: view.board.bounds[name].value("overall") if name in view.board.bounds else math.nan


def _has_bound(name: str) -> Callable[[Board], bool]:
    return lambda board: name in board.bounds


_USERS = {
    "seen": "users whose comparisons were trained on",
    "unseen": "users that were adapted to",
    "overall": "all users",
}
# The columns of the comparison with the baseline that the tables show.
_SHOWN_COMPARISON = {
    "difference": Column(
        "difference", "overall accuracy minus that of {baseline}, in points", _compared("difference"), EVERYWHERE,
        "vs {baseline}", "Δ {baseline}", place=70, digits=2, signed=True,
        marks=_baseline_marks, missing=_not_compared, shown=_has_baseline,
    ),
    "difference_low": Column(
        "difference_low", "of the difference, from the corrected resampled t-test, not adjusted",
        _compared("difference_low"), PAGE, "{level} interval", place=71,
        text=_interval_text, missing=_not_compared, shown=_has_baseline,
    ),
}  # fmt: skip

COLUMNS: tuple[Column, ...] = (
    Column("dataset", "data set", lambda view, _: view.board.dataset),
    Column("encoder", "encoder of the embeddings", lambda view, _: view.board.encoder),
    Column("method", "the method's name", lambda _, row: row.method),
    Column("title", "the row's title", lambda _, row: row.title, TABLE, "Method", place=0),
    Column(
        "selection", "the rule that chose epochs and hyper-parameters", lambda _, row: row.selection, TABLE,
        "Selected on", place=1, text=lambda _, row: selected_on(row), shown=_several_rules,
    ),
    *(
        Column(
            p, f"user accuracy in %, {_USERS[p]}", _metric(p, "accuracy"), EVERYWHERE, p.capitalize(), place=10 + i,
            population=p, spread=_spread(p), marks=_lead_marks(p), missing=View.absence,
        )
        for i, p in enumerate(RANKED)
    ),
    *(
        Column(f"{p}_std", f"standard deviation over splits of {p}", _spread(p))
        for p in RANKED
    ),
    *(
        Column(
            f"worst{k}", f"accuracy in % of the {k}% of all users with the lowest", _metric("overall", f"worst{k}"),
            EVERYWHERE, f"Worst {k}%", place=20 + i, missing=View.absence,
        )
        for i, k in enumerate(metrics.WORST)
    ),
    Column(
        "flip_rate", "% of decisions that adaptation changed", _metric("overall", "flip_rate"), EVERYWHERE, "Flips",
        place=60, missing=View.absence,
    ),
    Column(
        "cold_start", "overall accuracy in % before adaptation", _metric("overall", "cold_start"), PAGE, "Cold start",
        place=50, missing=View.absence,
    ),
    Column("tie_rate", "share of decisions that are ties", _metric("overall", "tie_rate")),
    Column("bt_loss", "mean Bradley–Terry loss in nats", _metric("overall", "bt_loss")),
    Column(
        "n_splits", "splits with results", lambda _, row: len(row.splits), TABLE, "Splits", place=80,
        text=lambda view, row: f"{len(row.splits)}/{view.board.splits}", shown=_incomplete,
    ),
    Column("complete", "whether the row has all splits and populations", lambda _, row: row.complete),
    Column("baseline", "the method compared with", _of_baseline("method")),
    Column("baseline_selection", "the rule of the row compared with", _of_baseline("selection")),
    *(
        _SHOWN_COMPARISON.get(name, Column(name, f"{help_} (row minus baseline, all users)", _compared(name)))
        for name, (help_, _) in COMPARISON.items()
    ),
    Column(
        "p_holm", "corrected resampled t-test, Holm-adjusted over the table's comparisons", _adjusted, PAGE, "p",
        place=72, first="ascending", text=lambda view, row: p_value(_adjusted(view, row)), missing=_not_compared,
        shown=_has_baseline,
    ),
    Column("starts", "random starts of every split that the means are over", lambda _, row: row.starts),
    Column(
        "start_std", "standard deviation over random starts of one fit's overall accuracy, pooled within splits, in "
        "points", _start_std, EVERYWHERE, "SD starts", place=40, digits=2, missing=_no_start_std,
    ),
    Column(
        "within_starts", "whether the difference is below twice the standard error that random starts leave in it",
        _within_starts,
    ),
    *(
        Column(f"worst{k}_{p}", f"accuracy of the {k}% of {p} users with the lowest", _metric(p, f"worst{k}"))
        for p in RANKED[:2] for k in metrics.WORST
    ),
    *(Column(f"flip_rate_{p}", f"flip_rate of {p} users", _metric(p, "flip_rate")) for p in RANKED[:2]),
    *(Column(f"cold_start_{p}", f"cold_start of {p} users", _metric(p, "cold_start")) for p in RANKED[:2]),
    Column(
        "reader", "the encoder or judge model that reads the texts; * where it is younger than the public data",
        lambda _, row: row.reader, EVERYWHERE, "Read by", place=2, shown=_several_readers, exists=_has_judges,
        text=lambda _, row: row.reader + ("*" if row.known_before else ""),
    ),
    Column(
        "sampled", "whether only a sample of the test choices was judged", lambda _, row: row.sampled,
        exists=_has_judges,
    ),
    Column(
        "known_before", "whether the data were public before the judge model's release",
        lambda _, row: row.known_before, exists=_has_judges,
    ),
    Column(
        "failed_orders", "% of verdicts in one order that failed", _judged("failed_orders"), EVERYWHERE, "Failed",
        place=90, text=_failures, missing=_no_judge, first="ascending", exists=_has_judges,
    ),
    Column(
        "strict_accuracy", "user accuracy in %, orders one by one, failures and ties wrong",
        _judged("strict_accuracy"), EVERYWHERE, "Strict", place=91, missing=_no_judge, exists=_has_judges,
    ),
    Column(
        "contradicted", "% of pairs whose two orders contradict one another", _judged("contradicted"), PAGE,
        "Contradicted", place=92, missing=_no_judge, exists=_has_judges,
    ),
    Column(
        "first_share", "% of orders that took the reply shown first", _judged("first_share"), PAGE, "First taken",
        place=93, missing=_no_judge, exists=_has_judges,
    ),
    *(
        Column(
            f"{what}_per_user", f"{said} per user, of a split", _judged(f"{what}_per_user"), PAGE, label,
            place=94 + i, text=_number(f"{what}_per_user"), missing=_no_judge, exists=_has_judges,
        )
        for i, (what, said, label) in enumerate((
            ("calls", "requests to the judge model", "Calls/user"),
            ("tokens", "tokens to and from the judge model", "Tokens/user"),
            ("seconds", "seconds of the judge model's answers", "s/user"),
            ("cost", "cost by the judge model's prices", "Cost/user"),
        ))
    ),
    Column("ceiling", "overall accuracy of the true rewards", _bound("ceiling"), exists=_has_bound("ceiling")),
    Column("floor", "the best overall accuracy without personalisation", _bound("floor"), exists=_has_bound("floor")),
    Column(
        "rounding", "share of test decisions that one unit in the last place of the embeddings changes",
        lambda _, row: row.rounding,
    ),
    Column("note", "why splits are missing", lambda _, row: row.note),
    Column("start_note", "which random starts lack splits and are left out", lambda _, row: row.start_note),
)  # fmt: skip
