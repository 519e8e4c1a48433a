"""A board as text: for the terminal (rich), for Markdown and for LaTeX (booktabs).

What a cell says (`TableCell`) is decided once, here; the three writers only spell it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prbench.reporting import columns
from prbench.reporting.board import RANKED, TUNED, Board, Row
from prbench.reporting.grid import DASH, STAR, Grid, TableCell, percent
from prbench.reporting.judging import judge_notes
from prbench.reporting.makings import rounding_note
from prbench.reporting.significance import TEST, Family, dagger_note, star_note, starts_mark, starts_rule
from prbench.reporting.verdict import sentences as verdict

# A larger share of undecided choices than this is named below the table.
MANY_TIES = 0.01


def accuracy_grid(board: Board) -> Grid:
    """The leaderboard proper: accuracies, worst users, flips, the difference from the baseline."""
    view, shown = columns.View(board), columns.shown(board, "table")
    parts = [
        [row for row in board.rows if row.rankable],
        [row for row in board.rows if not row.rankable and not row.oracle],
        [row for row in board.rows if row.oracle],
        list(board.bounds.values()),
    ]
    rows: list[list[TableCell]] = []
    rules = []
    for part in parts:
        rows += [[_cell(column.entry(view, row)) for column in shown] for row in part]
        rules.append(len(rows))
    if any(view.rivals.values()):
        gains = {p: pair[0].value(p) / pair[1].value(p) - 1 for p, pair in view.rivals.items()
                 if pair and pair[1].value(p) > 0}  # fmt: skip
        rows.append(summary_row(board, "% improvement over runner-up", gains))
    return Grid(
        title=f"User accuracy in % on {board.dataset} ({board.encoder})",
        header=tuple(column.heading(view, "table") for column in shown),
        rows=rows,
        rules=tuple(sorted({r for r in rules if 0 < r < len(rows)})),
        notes=notes(board),
        label=f"leaderboard:{board.dataset}:{board.encoder}",
        first=("Overall", f"vs {view.baseline}", "Splits", "Selected on", "Unseen", "Seen", "Flips"),
    )


def summary_row(board: Board, name: str, gains: Mapping[str, float]) -> list[TableCell]:
    """A last line: a name and, below the accuracy of each population, a relative gain; "–" where there is none."""
    cells = [
        TableCell(percent(gains.get(column.population, math.nan), signed=True) if column.population else "")
        for column in columns.shown(board, "table")
    ]
    return [TableCell(name), *cells[1:]]


def _cell(entry: columns.Entry) -> TableCell:
    return TableCell(entry.text + entry.spread, entry.rank, entry.marks)


def notes(board: Board) -> list[str]:
    """What the reader of the table must know, in sentences: the caption."""
    family = board.in_table()
    plural = "split" if board.splits == 1 else "splits"
    sentences = [*verdict(board), f"Mean ± standard deviation over {board.splits} {plural} of the mean over users."]
    sentences += _start_notes(board)
    selections = {row.selection for row in board.rows}
    if len(selections) == 1:
        sentences.append(f"Selected on: {columns.selected_on(board.rows[0])}.")
    sentences.append("Bold: best; underlined: second.")
    if family:
        sentences.append(
            f"{STAR} on the best: unlike the runner-up (the best other row, variants of one method included); {STAR} "
            "on a difference: unlike the baseline."
        )
        sentences.append(star_note(board.alpha, f"the table's {len(family)} comparisons", corrected_test(board)))
        sentences.append(dagger_note(board.alpha))
    sentences.append(
        "Worst k%: the k% of all users with the lowest accuracy. Flips: % of test decisions that adaptation changed "
        "from the same method's cold start; a tie, before or after, counts one half."
    )
    used = {base.title for base in board.baseline.values() if base}
    if not used:
        sentences.append("No row has a baseline to compare with in these results.")
    if len(used) > 1:
        sentences.append("Each row is compared with the baseline under its own selection rule where there is one.")
    sentences += [f"{row.title}: {row.start_note}; left out." for row in board.rows if row.start_note]
    for row in board.rows:
        if row.oracle:
            sentences.append(f"{row.title}: chosen by looking at the test data; not ranked, not compared.")
        if len(row.splits) < board.splits:
            over = ", compared over the splits in common" if row.splits and not row.oracle else ""
            sentences.append(
                f"{row.title}: {len(row.splits)} of {board.splits} splits ({row.note}); not ranked{over}."
            )
        if row.older_code:
            sentences.append(f"{row.title}: made by other code than its file has now; `prbench run` makes it again.")
        if not row.counted:
            sentences.append(
                f"{row.title}: repeats or varies another row; in no family of tests (--methods names it in)."
            )
        elif not row.complete and len(row.splits) == board.splits:
            sentences.append(f"{row.title}: a population of users is missing; not ranked.")
    for row in board.rows:
        if (ties := row.value("overall", "tie_rate")) > MANY_TIES:
            sentences.append(
                f"{row.title} leaves {percent(ties)}% of choices undecided: each counts one half, which lifts its "
                "worst k%."
            )
    sentences += judge_notes(board)
    rows = [(row.title, row.rounding, row.rounding_on) for row in board.rows if row.splits]
    sentences += [sentence for sentence in (rounding_note(rows),) if sentence]
    sentences += board.makings
    if board.bounds:
        sentences.append("Ceiling and floor: known, because the data are simulated.")
    return sentences


def _start_notes(board: Board) -> list[str]:
    """How many random starts the rows have; nothing where every split was fitted from one."""
    counts = {row.starts for row in board.rows if row.splits and row.random_start}
    if max(counts, default=1) == 1:
        return []
    several = "every split" if len(counts) == 1 else f"every split, {min(counts)} of some rows,"
    return [
        f"Each value of a split is the mean over its random starts: {max(counts)} of {several} one of methods "
        "without a random start. SD starts: standard deviation over starts of one fit's overall accuracy, pooled "
        "within splits, in points.",
        *([starts_rule()] if marked_for_starts(board) else []),
    ]


def marked_for_starts(board: Board) -> bool:
    """Whether other random starts may explain any difference of the board."""
    return any(starts_mark(pair) for pair in (*board.pairs, *board.adapting))


def corrected_test(board: Board) -> str:
    """The corrected test's name, and what its correction takes two splits to share."""
    if math.isnan(board.ratio):
        return f"the {TEST} (not defined: every split tests the same choices)"
    shared = board.ratio / (1 + board.ratio)
    return (
        f"the {TEST} (Nadeau and Bengio 2003; on average two splits have "
        f"{100 * shared:g}% of their test choices in common)"
    )


def settings_grid(board: Board) -> Grid:
    """Every method under its published setting, its tuned one and the test-oracle, side by side.

    A row that lacks splits is missing here: its mean would be over other splits than the others'.
    """
    settings = {
        "publ.": [row for row in board.rows if row.published],
        "tuned": [row for row in board.rows if row.selection == TUNED],
        "oracle": [row for row in board.rows if row.oracle],
    }
    complete = {name: {row.method: row for row in rows if row.complete} for name, rows in settings.items()}
    titles = {row.method: _plain_title(row) for rows in reversed(settings.values()) for row in rows}
    marks = _tuning_marks(board, complete)
    lines = [
        [TableCell(titles[method]), *_setting_cells(complete, method, marks.get(method, ""))]
        for method in _by_published_accuracy(settings, complete)
    ]
    notes = [
        "publ.: the entry's own parameters under its own rule. tuned: parameters from equal-budget tuning on splits "
        "that are not reported. oracle: the entry's own parameters, training stopped where test accuracy is best; it "
        "shows what looking at the test data claims and is not a result.",
        f"Differences are in points of overall accuracy. {DASH}: not run, or not on all {board.splits} splits.",
    ]
    if marks:
        notes.append(star_note(board.alpha, "the differences of tuned from published"))
    notes += [f"{row.title}: {row.note}." for row in settings["tuned"] if not row.complete and row.note]
    return Grid(
        title=f"Published, tuned and test-oracle settings on {board.dataset} ({board.encoder}), user accuracy in %",
        header=(
            "Method",
            *(f"{q.capitalize()} {name}" for q in RANKED for name in settings),
            "tuned −publ.",
            "oracle −publ.",
        ),
        rows=lines,
        rules=(),
        notes=notes,
        label=f"settings:{board.dataset}:{board.encoder}",
        first=(*(f"Overall {name}" for name in settings), "tuned −publ.", "oracle −publ."),
    )


# A board's rows by setting (publ., tuned, oracle) and method.
Settings = Mapping[str, Mapping[str, Row]]


def _value(complete: Settings, setting: str, method: str, population: str) -> float:
    row = complete[setting].get(method)
    return row.value(population) if row else math.nan


def _by_published_accuracy(settings: Mapping[str, Sequence[Row]], complete: Settings) -> list[str]:
    """The methods of any setting, the best one under its published setting first."""
    methods = dict.fromkeys(row.method for rows in settings.values() for row in rows)
    published = complete["publ."]
    return sorted(methods, key=lambda m: -published[m].value("overall") if m in published else math.inf)


def _tuning_marks(board: Board, complete: Settings) -> dict[str, str]:
    """The marks of each method's difference of tuned from published, where both can be compared."""
    tuned, published = complete["tuned"], complete["publ."]
    compared = {
        method: board.pair(tuned[method], published[method], "overall") for method in tuned.keys() & published
    }
    pairs = {method: pair for method in published if (pair := compared.get(method))}
    family = Family("over the differences of tuned from published", list(pairs.values()))
    return {
        method: (STAR if verdict.sign(board.alpha) else "") + starts_mark(pairs[method])
        for method, verdict in zip(pairs, family.verdicts(), strict=True)
    }


def _setting_cells(complete: Settings, method: str, tuning_marks: str) -> list[TableCell]:
    """A method's accuracy under each setting, then the differences of tuned and oracle from published."""
    cells = [TableCell(percent(_value(complete, name, method, q))) for q in RANKED for name in complete]
    for name, marks in (("tuned", tuning_marks), ("oracle", "")):
        gain = _value(complete, name, method, "overall") - _value(complete, "publ.", method, "overall")
        cells.append(TableCell(percent(gain, signed=True, digits=2), marks=marks))
    return cells


def _plain_title(row: Row) -> str:
    """A row's title without what tells its selection."""
    for end in (" (tuned)", " (selected on test data)", f" ({row.selection})"):
        if row.title.endswith(end):
            return row.title.removesuffix(end)
    return row.title
