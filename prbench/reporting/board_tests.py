"""The tables of a board: accuracies, settings, tests, and what adapting does."""

from __future__ import annotations

from prbench.reporting.board import ORACLE, TUNED, Board, Pair
from prbench.reporting.board_grids import accuracy_grid, corrected_test, settings_grid
from prbench.reporting.grid import Grid, TableCell, interval, p_value, percent
from prbench.reporting.significance import dagger_note, listed_here, marks, star_note, starts_mark, starts_rule


def grids(board: Board) -> list[Grid]:
    """All tables of a board: the settings side by side only where a method was run under more than its own."""
    tests = tests_grid(board)
    adapting = adapting_grid(board)
    several = any(row.selection in (TUNED, ORACLE) for row in board.rows)
    return [
        accuracy_grid(board),
        *([settings_grid(board)] if several else []),
        *(grid for grid in (tests, adapting) if grid.rows),
    ]


def tests_grid(board: Board) -> Grid:
    """Every comparison that the accuracy table prints a verdict on: the family of its Holm adjustment."""
    family = board.in_table()
    partial = any(pair.result.n_splits < board.splits for pair in family)
    level = f"{100 * (1 - board.alpha):g}%"
    header = ["Comparison", f"Difference, {level} interval", "p plain", "p corr.", "p Holm", "p Wilc."]
    header += [f"Bootstrap {level}"] + ["Splits"] * partial

    def oriented(pair: Pair) -> Pair:
        """The row first, its baseline second; else the better one first."""
        return pair.reversed() if board.baseline[pair.b.key] is pair.a else pair

    rows = []
    for pair in map(oriented, family):
        result = pair.result
        cells = [
            f"{pair.a.title} − {pair.b.title}" + ("" if pair.population == "overall" else f", {pair.population}"),
            f"{percent(result.difference, signed=True, digits=2)}{starts_mark(pair)} {interval(*result.interval)}",
            *map(p_value, (result.plain.p, result.corrected.p, pair.p_table, result.wilcoxon.p)),
            interval(*result.bootstrap),
        ]
        rows.append([TableCell(text) for text in cells + [str(result.n_splits)] * partial])
    return Grid(
        title=f"Tests on {board.dataset} ({board.encoder}), differences in points of user accuracy",
        header=tuple(header),
        rows=rows,
        rules=(),
        notes=[
            "Differences are means over the splits that both methods have; all users unless seen or unseen is said.",
            "The interval belongs to the corrected resampled t-test (p corr.); p plain and p Wilc. (Wilcoxon "
            "signed-rank) take splits for independent.",
            f"p Holm adjusts p corr. over {listed_here(len(rows), 'comparison')}.",
            "Bootstrap: BCa interval over users, each user's difference averaged over splits.",
            *([starts_rule()] if any(map(starts_mark, family)) else []),
        ],
        label=f"tests:{board.dataset}:{board.encoder}",
        first=(header[1], "p Holm", "p corr.", "p plain"),
        file="comparisons.csv",
    )


def adapting_grid(board: Board) -> Grid:
    """The rows whose decisions adaptation changes, all users, the largest gain first."""
    pairs = [pair for pair in board.adapting if pair.population == "overall"]
    level = f"{100 * (1 - board.alpha):g}%"
    rows = []
    for pair in pairs:
        result = pair.result
        gain = percent(result.difference, signed=True, digits=2)
        rows.append(
            [
                TableCell(pair.a.title),
                *(
                    TableCell(percent(pair.a.value("overall", name)))
                    for name in ("cold_start", "accuracy", "flip_rate")
                ),
                TableCell(gain, marks=marks(pair, board.alpha)),
                TableCell(interval(*result.interval)),
                *map(TableCell, map(p_value, (result.corrected.p, pair.p_table))),
                TableCell(interval(*result.bootstrap)),
            ]
        )
    header = ("Method", "Cold start", "Adapted", "Flips", "Gain", f"{level} interval", "p corr.", "p Holm")
    left_out = [row.title for row in board.rows if row.rankable and row.undecided]
    return Grid(
        title=f"What adapting does on {board.dataset} ({board.encoder}), user accuracy in %",
        header=(*header, f"Bootstrap {level}"),
        rows=rows,
        rules=(),
        notes=[
            "A method's accuracy after adaptation minus its own at cold start, all users, mean over splits; methods "
            "whose decisions adaptation does not change are left out.",
            *(f"{title} decides nothing at cold start and is left out." for title in left_out),
            f"The interval and p corr. belong to {corrected_test(board)}; p Holm adjusts over "
            f"{listed_here(len(rows), 'row')}.",
            star_note(board.alpha, listed_here(len(rows), "row")),
            dagger_note(board.alpha),
            "Bootstrap: BCa interval over users, each user's difference averaged over splits.",
            *([starts_rule()] if any(map(starts_mark, pairs)) else []),
        ],
        label=f"adapting:{board.dataset}:{board.encoder}",
        first=("Gain", "p Holm", "Adapted", "Cold start", header[5]),
        file="adapting.csv",
    )
