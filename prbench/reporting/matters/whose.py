"""Whose preferences are learned: the user's own against a stranger's, and the labels against the topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.comparisons import FloatArray
from prbench.protocol import metrics
from prbench.protocol.metrics import decisions, flips
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board, Row
from prbench.reporting.figure import finished, legend_below, panels, styled
from prbench.reporting.grid import Grid, TableCell, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import means, of_row, over_boards, present, star_note
from prbench.reporting.matters.tested import RowTest
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of

if TYPE_CHECKING:
    import pandas as pd

ACTIVE = 0.01
"""A latent dimension is active above this share of the prior's variance (Burda et al. 2016, for N(0, 1))."""
OWN_GAIN = (
    "Unseen users, points of user accuracy above the method's own cold start; higher is better, 0 is a method that "
    "does nothing. Own: after the first k of the user's support choices; other: after as many choices of a stranger, "
    "the mean over strangers drawn by hash, whose choices on the user's test pairs (and in test blocks) are left out "
    "first. Own − other above 0 says that the gain is the user's own. Were a share of the users given a stranger's "
    "choices, accuracy would fall by that share of it: a user is adapted alone. "
)
EXCHANGE = (
    "Unseen users. Changed: % of test decisions that differ between adapting to the support and to the same support "
    "with every label reversed; a method that reads only the topic or the format changes few (published: in-context "
    "readers 14, P-TTT 78), one that does nothing 0. Gain: points above the method's cold start, higher is better. "
    "Exchanged and tossed: the same after all labels are reversed, or each is decided by a coin; a method that "
    "follows the labels falls about as far below 0 as the true labels gained, and gains nothing from tossed ones. "
)
UNITS = (
    "Share in % of latent dimensions whose posterior mean, after adapting on the support, varies over unseen users "
    f"by more than {ACTIVE:g} times the prior's variance; the mean over splits. Higher is better: 0 is a latent that "
    "ignores the user."
)


def own_and_other(table: pd.DataFrame) -> pd.DataFrame:
    """Per row, split and user: `own`, `other` (gains over the cold start), `difference`; means over strangers.

    Each stranger counts once, as does each of the user's test choices; `choices` is the mean of k.
    """
    cold = decisions(table["cold"])
    gain, strange_gain = decisions(table["own"]) - cold, decisions(table["other"]) - cold
    columns = {
        "own": gain,
        "other": strange_gain,
        "difference": gain - strange_gain,
        "choices": table["choices"].to_numpy(float),
    }
    by_stranger = means(table, columns, by=["stranger"])
    names = list(columns)
    return by_stranger.groupby([*metrics.ROW, "split", "user"], observed=True)[names].mean().reset_index()


@marks.piece
def strangers(evidence: Evidence, piece: Piece) -> PieceResult:
    """The wrong-user control: gains from the user's own choices and from a stranger's."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        users = own_and_other(table)
        rows = present(board, users)
        each = {name: _matrices(users, row, ("own", "other", "difference")) for name, row in rows.items()}
        axes = (piece.name, board.dataset, board.encoder)
        options: dict[str, Any] = {"ratio": board.ratio, "alpha": evidence.alpha, "resamples": evidence.resamples}
        tests = tested.family({n: m["difference"] for n, m in each.items()}, axes=axes, **options)
        gains = tested.family({n: m["own"] for n, m in each.items()}, axes=(*axes, "own"), **options)
        strange = tested.family({n: m["other"] for n, m in each.items()}, axes=(*axes, "other"), **options)
        k = {name: float(of_row(users, row)["choices"].median()) for name, row in rows.items()}
        cells = [
            [
                TableCell(name),
                TableCell(gains[name].text(evidence.alpha)),
                TableCell(strange[name].text(evidence.alpha)),
                TableCell(tests[name].text(evidence.alpha)),
                TableCell(tests[name].over_users),
                TableCell(f"{k[name]:g}"),
            ]
            for name in rows
        ]
        header = ("Method", "Gain own", "Gain other", "Own − other", "Interval over users", "k")
        where = f"{board.dataset} ({board.encoder}), {splits_of(board)}"
        note = OWN_GAIN + star_note(len(rows), evidence.alpha, board.ratio)
        grid = Grid(f"Own and strangers' choices on {where}", header, cells, (), [note], _label(piece, board))
        records = [
            {
                **_keys(rows[name], board),
                "choices": k[name],
                **_record(gains[name], "own"),
                **_record(strange[name], "other"),
                **_record(tests[name], "difference"),
                "n_splits": tests[name].result.n_splits,
                "n_users": tests[name].result.n_users,
            }
            for name in rows
        ]
        return grid, records, _stranger_findings(board, tests, gains, evidence.alpha)

    output = over_boards(evidence, piece, "strangers", lines)
    output.figure = _gains_figure(output, ("own", "other"), ("the user's own choices", "a stranger's choices"))
    return output


def _stranger_findings(
    board: Board, tests: Mapping[str, RowTest], gains: Mapping[str, RowTest], alpha: float
) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    if tested.undefined(tests):
        above = [name for name, test in tests.items() if test.result.bootstrap.low > 0]
        text = (
            f"own choices gain more than a stranger's, by the interval over users alone, for {tested.names(above)} "
            f"of {len(tests)} methods; the corrected test is not defined here"
        )
        return [Finding("measured", place, text)]
    better, _, _ = tested.sorted_by_sign(tests, alpha)
    gaining = [name for name in better if gains[name].result.difference > 0]
    indifferent = [name for name in better if name not in gaining]
    rest = [name for name in tests if name not in better]
    sentences = []
    rule = tested.rule_of(len(tests), alpha)
    if gaining:
        sentences.append(f"the gain comes from the user's own choices for {tested.names(gaining)} ({rule})")
    if indifferent:
        sentences.append(
            f"{tested.names(indifferent)} do better on own choices than on a stranger's, and gain nothing from either"
        )
    if rest:
        each = [f"{n} ({percent(tests[n].result.difference, signed=True)}, {tests[n].over_users})" for n in rest]
        sentences.append(
            f"there is no evidence that the gain is the user's own for {tested.names(each)}: own − other in points, "
            f"with its interval over users ({rule})"
        )
    return [Finding("tested", place, text) for text in sentences]


@marks.piece
def exchange(evidence: Evidence, piece: Piece) -> PieceResult:
    """Label exchange: how many decisions follow the labels, and what reversed and tossed labels gain."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        users, dropped = exchanged_users(table)
        rows = present(board, users)
        names = ("changed", "gain", "exchanged", "tossed")
        each = {name: _matrices(users, row, names) for name, row in rows.items()}
        options: dict[str, Any] = {"ratio": board.ratio, "alpha": evidence.alpha, "resamples": evidence.resamples}
        tests = {
            column: tested.family(
                {n: m[column] for n, m in each.items()},
                axes=(piece.name, board.dataset, board.encoder, column),
                **options,
            )
            for column in names[1:]
        }
        changed = {name: float(np.nanmean(_by_split(m["changed"]))) for name, m in each.items()}
        left = {name: dropped.get(_row_key(row, board), 0) for name, row in rows.items()}
        cells = [
            [
                TableCell(name),
                TableCell(percent(changed[name])),
                *(TableCell(tests[column][name].text(evidence.alpha)) for column in names[1:]),
                TableCell(tests["exchanged"][name].over_users),
                TableCell(str(left[name])),
            ]
            for name in rows
        ]
        header = ("Method", "Changed", "Gain", "Exchanged", "Tossed", "Exchanged, over users", "Left out")
        where = f"{board.dataset} ({board.encoder}), {splits_of(board)}"
        note = EXCHANGE + star_note(len(rows), evidence.alpha, board.ratio)
        note += " Left out: users in a split all of whose margins are 0."
        grid = Grid(f"Label exchange on {where}", header, cells, (), [note], _label(piece, board))
        records = [
            {
                **_keys(rows[name], board),
                "changed": changed[name],
                **{k: v for column in names[1:] for k, v in _record(tests[column][name], column).items()},
                "left_out": left[name],
                "n_splits": tests["gain"][name].result.n_splits,
                "n_users": tests["gain"][name].result.n_users,
            }
            for name in rows
        ]
        return grid, records, _exchange_findings(board, tests["exchanged"], changed, evidence.alpha)

    output = over_boards(evidence, piece, "exchange", lines)
    names = ("gain", "exchanged", "tossed")
    output.figure = _gains_figure(output, names, ("true labels", "reversed labels", "tossed labels"))
    return output


def exchanged_users(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[str, ...], int]]:
    """Per row, split and user: `changed`, `gain`, `exchanged` and `tossed`, and how many users were left out by row.

    Left out are users whose margins are all 0, with true and with reversed labels.
    """
    flat = (table["margin"] == 0) & (table["exchanged"] == 0)
    keys = [*metrics.ROW, "split", "user"]
    empty = flat.groupby([table[key] for key in keys], observed=True).transform("all")
    emptied = table[empty].drop_duplicates(keys).groupby(metrics.ROW, observed=True).size()
    dropped: dict[tuple[str, ...], int] = {}
    for row, count in emptied.reset_index(name="count").groupby(metrics.ROW, observed=True)["count"]:
        dropped[tuple(map(str, row))] = int(count.sum())
    kept = table[~empty]
    cold = decisions(kept["cold"])
    columns = {name: decisions(kept[name]) - cold for name in ("exchanged", "tossed")}
    columns |= {"gain": decisions(kept["margin"]) - cold, "changed": flips(kept["margin"], kept["exchanged"])}
    return means(kept, columns), dropped


def _exchange_findings(
    board: Board, tests: Mapping[str, RowTest], changed: Mapping[str, float], alpha: float
) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    least, most = min(changed, key=lambda n: changed[n]), max(changed, key=lambda n: changed[n])
    range_ = f"{percent(changed[least])}% ({least}) to {percent(changed[most])}% ({most}) of decisions change"
    if tested.undefined(tests):
        below = [name for name, test in tests.items() if test.result.bootstrap.high < 0]
        text = (
            f"with reversed labels {range_}; by the interval over users alone {tested.names(below)} fall below the "
        )
        return [Finding("measured", place, text + "cold start")]
    _, below, _ = tested.sorted_by_sign(tests, alpha)
    text = (
        f"reversed labels take {tested.names(below)} below the cold start, as methods that follow the labels, and "
        f"{len(tests) - len(below)} of {len(tests)} not beyond noise; {range_} "
        f"({tested.rule_of(len(tests), alpha)})"
    )
    return [Finding("tested", place, text)]


@marks.piece
def units(evidence: Evidence, piece: Piece) -> PieceResult:
    """How many dimensions of a latent state tell users apart."""

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        rows = present(board, table)
        records, cells = [], []
        for name, row in rows.items():
            lines_of_row = of_row(table, row)
            active = (lines_of_row["variance"] > ACTIVE).groupby(lines_of_row["split"]).mean()
            size = int(lines_of_row["dimension"].max()) + 1
            record: dict[str, Any] = {
                **_keys(row, board),
                "active": float(active.mean()),
                "dimensions": size,
                "n_splits": len(active),
            }
            records.append(record)
            cells.append([TableCell(name), TableCell(percent(record["active"])), TableCell(str(size))])
        title = f"Active units on {board.dataset} ({board.encoder}), {splits_of(board)}"
        grid = Grid(title, ("Method", "Active", "of dimensions"), cells, (), [UNITS], _label(piece, board))
        return grid, records, []

    return over_boards(evidence, piece, "units", lines)


def _matrices(users: pd.DataFrame, row: Row, columns: Sequence[str]) -> dict[str, FloatArray]:
    row_users = of_row(users, row)
    return {column: tested.by_user(row_users, column) for column in columns}


def _by_split(matrix: FloatArray) -> FloatArray:
    """The mean over users of each split."""
    return np.asarray(np.nanmean(matrix, axis=0))


def _keys(row: Row, board: Board) -> dict[str, str]:
    names = (board.dataset, board.encoder, row.method, row.selection)
    return dict(zip(metrics.ROW, names, strict=True)) | {"title": row.title}


def _row_key(row: Row, board: Board) -> tuple[str, ...]:
    return board.dataset, board.encoder, row.method, row.selection


def _record(test: RowTest, name: str) -> dict[str, float]:
    result = test.result
    return {
        name: result.difference,
        f"{name}_p": result.corrected.p,
        f"{name}_p_holm": test.p,
        f"{name}_low": result.bootstrap.low,
        f"{name}_high": result.bootstrap.high,
    }


def _label(piece: Piece, board: Board) -> str:
    return f"{piece.name}:{board.dataset}:{board.encoder}"


MARKERS = (("#0072B2", "o"), ("#D55E00", "s"), ("#999999", "^"))


def _gains_figure(output: PieceResult, columns: Sequence[str], labels: Sequence[str]) -> Any:
    """A panel per data set: each method's gains in points with their intervals over users."""
    if not len(output.frame):
        return None
    settings = list(dict.fromkeys(zip(output.frame["dataset"], output.frame["encoder"], strict=True)))
    most = max(int(((output.frame["dataset"] == d) & (output.frame["encoder"] == e)).sum()) for d, e in settings)
    with styled():
        figure, axes = panels(len(settings), size=(3.3, 0.9 + 0.2 * most))
        for ax, (dataset, encoder) in zip(axes, settings, strict=True):
            shown = output.frame[(output.frame["dataset"] == dataset) & (output.frame["encoder"] == encoder)]
            place = np.arange(len(shown))
            ax.axvline(0, color="0.5", linewidth=0.9, linestyle="--")
            for i, (column, label) in enumerate(zip(columns, labels, strict=True)):
                value = 100 * shown[column].to_numpy(float)
                ends = 100 * np.nan_to_num(
                    np.abs(
                        np.stack(
                            [
                                shown[column] - shown[f"{column}_low"],
                                shown[f"{column}_high"] - shown[column],
                            ]
                        )
                    )
                )
                colour, marker = MARKERS[i]
                shift = 0.22 * (i - (len(columns) - 1) / 2)
                ax.errorbar(
                    value, place + shift, xerr=ends, label=label, color=colour, marker=marker, markersize=4,
                    linestyle="none", elinewidth=0.8,
                )  # fmt: skip
            ax.set_yticks(place, list(shown["title"]))
            ax.invert_yaxis()
            ax.set(xlabel="points above the cold start", title=f"{dataset} ({encoder})")
        legend_below(figure, axes, list(labels))
        return finished(figure)
