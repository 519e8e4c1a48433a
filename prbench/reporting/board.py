"""A leaderboard's contents: for one data set and one encoder, every method's numbers and their comparisons.

What is refused: rows that rest on different data, embeddings, protocols, seeds or test comparisons.
What is shown but never ranked, starred or compared: rows chosen on test data. What is shown, compared over the
splits it shares with others, but never ranked: rows that lack splits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.protocol import metrics, stats
from prbench.reporting.checks import check_scored, refuse_mixtures, refuse_unlike_tests
from prbench.reporting.judging import mean_of, models_of
from prbench.reporting.looks import style_of
from prbench.reporting.placing import SAMPLE_MARK, placed, sample_of
from prbench.reporting.significance import Family
from prbench.reporting.verdict import Answer
from prbench.reporting.verdict import answer as answer_of

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results

# Called after each comparison.
Watch = Callable[[], None]
# Which pairs of rows are compared: all; all, with a bootstrap over users only of those that the table prints; none.
Compared = Literal["all", "printed", "none"]

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
    a `random_start`. `start_note` says which starts are left out because they lack splits.
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
    results: Results,
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
    if users is None:
        results = placed(results)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in results.cells:
        groups.setdefault((cell["dataset"], cell["encoder"]), []).append(cell)
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
        here = _of_board(mean_users, dataset, encoder)
        rows = _rows(cells, per_split)
        sampled = {row.key for row in rows if row.sampled}
        for tested in _apart(_of_board(users, dataset, encoder), sampled):
            refuse_unlike_tests(tested)
        if not count_all:
            rows = _counted(rows, cells)
        # Beside a sampled row, any other counts on the sampled choices alone.
        small = None if on_sample is None or not sampled else _of_board(on_sample, dataset, encoder)
        boards.append(_board(dataset, encoder, cells, rows, here, small, baseline, alpha, resamples, watch, compared))
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


def planned_splits(cells: list[dict[str, Any]]) -> set[int]:
    """The splits that any row has or was meant to have; ignores rows selected on test data."""
    honest = {cell["split"] for cell in cells if cell["selection"] != ORACLE}
    return honest or {cell["split"] for cell in cells}


def _rows(cells: list[dict[str, Any]], per_split: pd.DataFrame | None) -> list[Row]:
    """The rows of one board in the order of the cells."""
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
                own_method=group[0].get("own_method", method),
                method_title=group[0]["title"],
                family=entry.get("family", ""),
                published=(group[0].get("own_method", method), selection)
                == (entry.get("name"), entry.get("selection")),
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


def _counted(rows: list[Row], cells: list[dict[str, Any]]) -> list[Row]:
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


def _board(
    dataset: str,
    encoder: str,
    cells: list[dict[str, Any]],
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
        ratio=_resampling_ratio(cells),
        splits=len(planned_splits(cells)),
        alpha=alpha,
        bounds=_bounds(cells),
    )
    if compared == "none":
        return bare
    pairs = _adjusted(bare, _compare(bare, users, on_sample, resamples, watch, compared))
    adapting = [
        replace(pair, p_table=p)
        for population in RANKED
        for family in [Family("over these rows", _against_cold_start(bare, users, resamples, population))]
        for pair, p in zip(family.pairs, family.adjusted(), strict=True)
    ]
    return replace(bare, pairs=pairs, adapting=adapting, answer=answer_of(bare, users))


def _adjusted(board: Board, pairs: list[Pair]) -> list[Pair]:
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


def _resampling_ratio(cells: list[dict[str, Any]]) -> float:
    """See `stats.resampling_ratio`; NaN where the data say what is tested, the same in every split."""
    protocols = [cell["protocol"] for cell in cells if cell["status"] == "done"]
    if not protocols or protocols[0]["unit"] == "mark" or protocols[0].get("name") == "chronological":
        return math.nan
    return stats.resampling_ratio(protocols[0]["test_share"])


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


def _in_population(users: pd.DataFrame, population: str) -> pd.DataFrame:
    return users if population == "overall" else users[users["population"] == population]


def _of_row(users: pd.DataFrame, row: Row, metric: str) -> pd.DataFrame:
    """A metric of every user in every split."""
    own = users[(users["method"] == row.method) & (users["selection"] == row.selection)]
    return own.pivot(index="user", columns="split", values=metric)


def _against_cold_start(board: Board, users: pd.DataFrame, resamples: int, population: str) -> list[Pair]:
    """See `Board.adapting`; the largest gains first."""
    pairs = []
    here = _in_population(users, population)
    for row in board.rows:
        adapts = row.value(population, "flip_rate") > 0
        if not row.rankable or not row.counted or row.undecided or not adapts:
            continue
        before = {p: {"accuracy": row.value(p, "cold_start")} for p in row.mean}
        cold = replace(row, title=f"{row.title} at cold start", mean=before, std={}, published=False, start_std={})
        result = stats.compare(
            _of_row(here, row, "accuracy").to_numpy(),
            _of_row(here, row, "cold_start").to_numpy(),
            ratio=board.ratio,
            rng=Rng("bootstrap over users", board.dataset, board.encoder, population, *row.key, "cold start"),
            level=1 - board.alpha,
            resamples=resamples,
        )
        spread = row.gain_start_std.get(population, math.nan), row.starts
        error = stats.start_error([spread], result.n_splits)
        pairs.append(Pair(population, row, cold, result, start_error=error))
    return sorted(pairs, key=lambda pair: -pair.result.difference)


def _compare(
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
        here = _in_population(users, population)
        index, columns = np.unique(here["user"]), np.unique(here["split"])
        accuracy = {
            row.key: _of_row(here, row, "accuracy").reindex(index=index, columns=columns).to_numpy()
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
                one, other = accuracy[a.key], accuracy[b.key]
                if a.sampled != b.sampled:
                    one, other = small.get(a.key, one), small.get(b.key, other)
                result = stats.compare(
                    one,
                    other,
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
    here = _in_population(on_sample, population)
    return {
        row.key: _of_row(here, row, "accuracy").reindex(index=index, columns=columns).to_numpy()
        for row in rows
        if not row.sampled and population in row.mean
    }


def _bounds(cells: list[dict[str, Any]]) -> dict[str, Row]:
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
