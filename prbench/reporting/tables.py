"""A board as text: for the terminal (rich), for Markdown and for LaTeX (booktabs).

What a cell says (`Cell`) is decided once, here; the three writers only spell it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prbench import metrics, stats
from prbench.reporting.board import ORACLE, RANKED, TUNED, Board, Pair, Row

if TYPE_CHECKING:
    from rich.table import Table

DASH = "–"
STAR, DAGGER = "*", "†"
# A larger share of undecided choices than this is named below the table.
MANY_TIES = 0.01
SELECTED_ON = {
    "validation": "validation",
    "last": "last epoch",
    TUNED: "tuning splits",
    ORACLE: "test data",
    "truth": "",
}


@dataclass(frozen=True)
class Cell:
    """One entry of a table: its text, `rank` (1 best, 2 second, 0 neither) and the marks of the tests it passed."""

    text: str
    rank: int = 0
    marks: str = ""


@dataclass(frozen=True)
class Grid:
    """A table without its looks. The first column holds names; `rules` are rows with a line above them."""

    title: str
    header: tuple[str, ...]
    rows: list[list[Cell]]
    rules: tuple[int, ...]
    notes: list[str]
    label: str


def percent(value: float, *, signed: bool = False, digits: int = 1) -> str:
    """A fraction in percent, or "–" where there is none."""
    if math.isnan(value):
        return DASH
    text = f"{100 * value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−")


def p_value(p: float) -> str:
    """A p-value with three digits, or "–" where it is undefined."""
    if math.isnan(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float) -> str:
    """Both ends in points, or "–" where undefined."""
    if math.isnan(low) or math.isnan(high):
        return DASH
    return f"[{percent(low, signed=True, digits=2)}, {percent(high, signed=True, digits=2)}]"


def mean_and_spread(row: Row, population: str) -> str:
    """Such as "65.3±0.4"; the spread is "–" for one split."""
    mean = row.value(population)
    return DASH if math.isnan(mean) else f"{percent(mean)}±{percent(row.spread(population))}"


def marks(pair: Pair | None, alpha: float) -> str:
    """The star of the corrected and Holm-adjusted test, the dagger of the plain one."""
    if pair is None:
        return ""
    star = STAR if pair.holm_table < alpha else ""
    return star + (DAGGER if pair.result.plain.p < alpha else "")


def baseline_name(baselines: Sequence[Row]) -> str:
    """The baseline's title; without the rule where rows are compared with it under several of them."""
    titles = {row.title for row in baselines}
    return titles.pop() if len(titles) == 1 else next((row.method_title or row.method for row in baselines), "")


def accuracy_grid(board: Board) -> Grid:
    """The leaderboard proper: accuracies, worst users, flips, the difference from the baseline."""
    ranks = {p: board.ranked(p) for p in RANKED}
    rivals = {p: board.best_and_rival(p) for p in RANKED}
    baselines = [b for b in board.baseline.values() if b]
    several = len({row.selection for row in board.rows}) > 1
    partial = any(not row.complete for row in board.rows)
    header = ["Method", *(["Selected on"] if several else []), *(p.capitalize() for p in RANKED)]
    header += [*(f"Worst {k}%" for k in metrics.WORST), "Flips"]
    header += ["vs " + baseline_name(baselines)] * bool(baselines) + ["Splits"] * partial

    def line(row: Row) -> list[Cell]:
        cells = [Cell(row.title)] + [Cell(SELECTED_ON.get(row.selection, row.selection))] * several
        for p in RANKED:
            rank = next((i for i, rows in enumerate(ranks[p], 1) if row in rows), 0)
            pair = rivals[p]
            best = board.pair(*pair, p) if pair and row is pair[0] else None
            cells.append(Cell(mean_and_spread(row, p), rank if rank < 3 else 0, marks(best, board.alpha)))
        cells += [Cell(percent(row.value("overall", f"worst{k}"))) for k in metrics.WORST]
        cells.append(Cell(percent(row.value("overall", "flip_rate"))))
        if baselines:
            against = board.against_baseline(row)
            difference = against.result.difference if against else math.nan
            cells.append(Cell(percent(difference, signed=True, digits=2), marks=marks(against, board.alpha)))
        if partial:
            cells.append(Cell(f"{len(row.splits)}/{board.splits}"))
        return cells

    rows = [line(row) for row in board.rows if row.rankable]
    rules = [len(rows)]
    rows += [line(row) for row in board.rows if not row.rankable and not row.oracle]
    rules.append(len(rows))
    rows += [line(row) for row in board.rows if row.oracle]
    rules.append(len(rows))
    rows += [line(row) for row in board.bounds.values()]
    rules.append(len(rows))
    if any(rivals.values()):
        improvement = [Cell("% improvement over runner-up")] + [Cell("")] * several
        for p in RANKED:
            pair = rivals[p]
            gain = pair[0].value(p) / pair[1].value(p) - 1 if pair and pair[1].value(p) > 0 else math.nan
            improvement.append(Cell(percent(gain, signed=True)))
        rows.append(improvement + [Cell("")] * (len(header) - len(improvement)))
    return Grid(
        title=f"User accuracy in % on {board.dataset} ({board.encoder})",
        header=tuple(header),
        rows=rows,
        rules=tuple(sorted({r for r in rules if 0 < r < len(rows)})),
        notes=notes(board),
        label=f"leaderboard:{board.dataset}:{board.encoder}",
    )


def notes(board: Board) -> list[str]:
    """What the reader of the table must know, in sentences: the caption."""
    alpha = f"{board.alpha:g}"
    family = board.in_table()
    plural = "split" if board.splits == 1 else "splits"
    said = [f"Mean ± standard deviation over {board.splits} {plural} of the mean over users."]
    selections = {row.selection for row in board.rows}
    if len(selections) == 1:
        said.append(f"Selected on: {SELECTED_ON.get(*selections, *selections)}.")
    said.append("Bold: best; underlined: second.")
    if family:
        said.append(
            f"{STAR} on the best: unlike the runner-up (the best other row, variants of one method included); {STAR} "
            f"on a difference: unlike the baseline. p < {alpha} in {corrected_test(board)}, Holm-adjusted over the "
            f"table's {len(family)} comparisons."
        )
        said.append(
            f"{DAGGER}: p < {alpha} in a plain paired t-test over the splits without adjustment, the criterion that "
            "papers print; it takes overlapping splits for independent ones."
        )
    said.append(
        "Worst k%: the k% of all users with the lowest accuracy. Flips: % of test decisions that adaptation changed "
        "from the same method's cold start; a tie, before or after, counts one half."
    )
    used = {base.title for base in board.baseline.values() if base}
    if not used:
        said.append("No row has a baseline to compare with in these results.")
    if len(used) > 1:
        said.append("Each row is compared with the baseline under its own selection rule where there is one.")
    for row in board.rows:
        if row.oracle:
            said.append(f"{row.title}: chosen by looking at the test data; not ranked, not compared.")
        if len(row.splits) < board.splits:
            over = ", compared over the splits in common" if row.splits and not row.oracle else ""
            said.append(f"{row.title}: {len(row.splits)} of {board.splits} splits ({row.note}); not ranked{over}.")
        elif not row.complete:
            said.append(f"{row.title}: a population of users is missing; not ranked.")
    for row in board.rows:
        if (ties := row.value("overall", "tie_rate")) > MANY_TIES:
            said.append(
                f"{row.title} leaves {percent(ties)}% of choices undecided: each counts one half, which lifts its "
                "worst k%."
            )
    if board.bounds:
        said.append("Ceiling and floor: known, because the data are simulated.")
    return said


def corrected_test(board: Board) -> str:
    """The corrected test's name, and what its correction takes two splits to share."""
    if math.isnan(board.ratio):
        return "the corrected resampled t-test (not defined: every split tests the same choices)"
    shared = board.ratio / (1 + board.ratio)
    return (
        "the corrected resampled t-test (Nadeau and Bengio 2003; on average two splits have "
        f"{100 * shared:g}% of their test choices in common)"
    )


def settings_grid(board: Board) -> Grid:
    """Every method under its published setting, its tuned one and the test-oracle, side by side.

    A row that lacks splits is missing here: its mean would be over other splits than the others'.
    """
    named = {
        "publ.": [row for row in board.rows if row.published],
        "tuned": [row for row in board.rows if row.selection == TUNED],
        "oracle": [row for row in board.rows if row.oracle],
    }
    found = {name: {row.method: row for row in rows if row.complete} for name, rows in named.items()}
    methods = list(dict.fromkeys(row.method for rows in named.values() for row in rows))
    title = {row.method: _plain_title(row) for rows in reversed(named.values()) for row in rows}

    def value(name: str, method: str, population: str) -> float:
        row = found[name].get(method)
        return row.value(population) if row else math.nan

    methods.sort(key=lambda m: -value("publ.", m, "overall") if m in found["publ."] else math.inf)
    pairs = {
        method: board.pair(found["tuned"][method], found["publ."][method], "overall")
        for method in methods
        if method in found["tuned"] and method in found["publ."]
    }
    p = {method: pair.result.corrected.p for method, pair in pairs.items() if pair}
    holm = dict(zip(p, stats.holm(list(p.values())), strict=True))
    rows = []
    for method in methods:
        cells = [Cell(title[method])]
        cells += [Cell(percent(value(name, method, q))) for q in RANKED for name in named]
        for name in ("tuned", "oracle"):
            gain = value(name, method, "overall") - value("publ.", method, "overall")
            star = STAR if name == "tuned" and holm.get(method, math.nan) < board.alpha else ""
            cells.append(Cell(percent(gain, signed=True, digits=2), marks=star))
        rows.append(cells)
    notes = [
        "publ.: the entry's own parameters under its own rule. tuned: parameters from equal-budget tuning on splits "
        "that are not reported. oracle: the entry's own parameters, training stopped where test accuracy is best; it "
        "shows what looking at the test data claims and is no result.",
        f"Differences are in points of overall accuracy. {DASH}: not run, or not on all {board.splits} splits.",
    ]
    if holm:
        notes.append(
            f"{STAR}: p < {board.alpha:g} in the corrected resampled t-test, Holm-adjusted over the {len(holm)} "
            "differences of tuned from published."
        )
    notes += [f"{row.title}: {row.note}." for row in named["tuned"] if not row.complete and row.note]
    return Grid(
        title=f"Published, tuned and test-oracle settings on {board.dataset} ({board.encoder}), user accuracy in %",
        header=(
            "Method",
            *(f"{q.capitalize()} {name}" for q in RANKED for name in named),
            "tuned −publ.",
            "oracle −publ.",
        ),
        rows=rows,
        rules=(),
        notes=notes,
        label=f"settings:{board.dataset}:{board.encoder}",
    )


def _plain_title(row: Row) -> str:
    """A row's title without what tells its selection."""
    for end in (" (tuned)", " (selected on test data)", f" ({row.selection})"):
        if row.title.endswith(end):
            return row.title.removesuffix(end)
    return row.title


def rich_table(grid: Grid) -> Table:
    """The table as a person reads it in a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=grid.title, caption=" ".join(grid.notes), box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False,
        title_justify="left", caption_justify="left", collapse_padding=True,
    )  # fmt: skip
    for i, name in enumerate(grid.header):
        # A number is never broken; its heading may be, between words.
        words = name if i == 0 else name.replace(" ", "\n", 1)
        table.add_column(Text(words), justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")
    for i, row in enumerate(grid.rows):
        texts = [Text(c.text, style={1: "bold", 2: "underline"}.get(c.rank, "")).append(c.marks, "none") for c in row]
        table.add_row(*texts, end_section=i + 1 in grid.rules)
    return table


def markdown(grid: Grid) -> str:
    """The table as GitHub Markdown, with its notes below."""

    def spell(cell: Cell) -> str:
        text = cell.text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.rank, text)
        return text + cell.marks.replace(STAR, "\\*")

    lines = [[spell(Cell(name)) for name in grid.header], ["---"] + ["---:"] * (len(grid.header) - 1)]
    lines += [[spell(cell) for cell in row] for row in grid.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## {spell(Cell(grid.title))}\n\n{body}\n\n{spell(Cell(' '.join(grid.notes)))}\n"


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$",
    "·": r"$\cdot$", "§": r"\S{}", "Σ": r"$\Sigma$",
    "Δ": r"$\Delta$", "ρ": r"$\rho$", "γ": r"$\gamma$", "σ": r"$\sigma$", "λ": r"$\lambda$", "½": r"$\frac12$",
    "…": r"\dots{}", "’": "'", "“": "``", "”": "''",
    STAR: "$^{*}$", DAGGER: r"$^{\dagger}$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text with every character that LaTeX would take for a command spelled out."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(grid: Grid) -> str:
    """The table for a paper, as LaTeX with booktabs."""

    def spell(cell: Cell) -> str:
        text = latex_text(cell.text)
        text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)
        return text + (f"$^{{{cell.marks.replace(DAGGER, chr(92) + 'dagger')}}}$" if cell.marks else "")

    def line(cells: Sequence[Cell]) -> str:
        # A row that starts with "[" would be read as the optional argument of the line break before it.
        text = " & ".join(spell(cell) for cell in cells)
        return ("{}" + text if text.startswith("[") else text) + r" \\"

    body = []
    for i, row in enumerate(grid.rows):
        body += [r"\midrule"] * (i in grid.rules) + [line(row)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{latex_text(grid.title + '. ' + ' '.join(grid.notes))}}}",
            rf"\label{{{grid.label}}}",
            # Wide tables are made as wide as the text; others keep their size.
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"
            rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"\toprule",
            line([Cell(name) for name in grid.header]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
