"""Asking users: how few questions reach what all of a user's choices reach, and whether a rule beats chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.comparisons import FloatArray
from prbench.protocol import metrics
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.questions import RULES
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.figure import finished, legend_below, panels, styled
from prbench.reporting.grid import DASH, Grid, TableCell, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import of_row, over_boards, present, star_note
from prbench.reporting.matters.tested import RowTest
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of

if TYPE_CHECKING:
    import pandas as pd

SHOWN = (1, 2, 3, 5, 8, 12, 16, 20)
ENOUGH = 0.95
ASKING = (
    "Unseen users with at least as many support choices as the largest number of questions, points of user accuracy "
    "above the method's own cold start; higher is better, 0 is a method that does nothing. Full: after the whole "
    "support. q95: the smallest number of questions after which the mean gain stays at or above 95% of the full one, "
    "fewer is better; – where the full gain is not above 0 beyond noise, > where it is not reached. Area: the mean "
    "gain over 1 to the largest number of questions; − random: its difference from asking at random. Rules see pairs "
    "without labels: margin takes the one the method is least sure of, inverse-hessian and d-optimal the one that "
    "its features know least, which differ by the factor p(1 − p) only. "
)
COLOURS = {"random": "#999999", "margin": "#0072B2", "inverse-hessian": "#D55E00", "d-optimal": "#009E73"}


def q95(gain: FloatArray, full: float) -> int | None:
    """The smallest number of questions from which on the gain [Q] stays at or above 95% of `full`; None if never."""
    below = np.flatnonzero(np.asarray(gain) < ENOUGH * full)
    first = int(below[-1]) + 2 if len(below) else 1
    return first if first <= len(gain) else None


@marks.piece
def asking(evidence: Evidence, piece: Piece) -> PieceResult:
    """The gain by the number of questions under every rule, q95, and the area against asking at random."""
    curves: list[dict[str, Any]] = []

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        users = table.assign(gain=table["accuracy"].astype(float) - table["cold"].astype(float))
        rows = present(board, users)
        most = int(users["questions"].max())
        full: dict[str, FloatArray] = {}
        areas: dict[tuple[str, str], FloatArray] = {}
        gains: dict[tuple[str, str], FloatArray] = {}
        for name, row in rows.items():
            row_users = of_row(users, row)
            full[name] = tested.by_user(row_users[row_users["questions"] == ALL_SHOTS], "gain")
            limited = row_users[row_users["questions"] != ALL_SHOTS]
            for number, rule in enumerate(RULES):
                part = limited[limited["rule"] == number]
                area = part.groupby(["split", "user"])["gain"].mean().reset_index()
                areas[name, rule] = tested.by_user(area, "gain")
                by_split = part.groupby(["questions", "split"])["gain"].mean()
                gains[name, rule] = by_split.groupby("questions").mean().to_numpy(np.float64)
                curves.extend(
                    {**_keys(board, row.key), "title": name, "rule": rule, "questions": q, "gain": value}
                    for q, value in enumerate(gains[name, rule], start=1)
                )
        options: dict[str, Any] = {"ratio": board.ratio, "alpha": evidence.alpha, "resamples": evidence.resamples}
        axes = (piece.name, board.dataset, board.encoder)
        whole = tested.family(full, axes=(*axes, "full"), **options)
        tests = tested.family(
            {f"{n}, {r}": areas[n, r] - areas[n, "random"] for n in rows for r in RULES[1:]}, axes=axes, **options
        )
        records = [
            _record(
                board, name, row.key, rule, gains[name, rule], areas[name, rule], whole[name], tests, evidence.alpha
            )
            for name, row in rows.items()
            for rule in RULES
        ]
        cells = [_cells(record, most, tests, evidence.alpha) for record in records]
        header = ("Method", "Rule", *(str(q) for q in SHOWN if q <= most), "Full", "q95", "Area", "− random")
        title = f"Questions on {board.dataset} ({board.encoder}), {splits_of(board)}"
        note = ASKING + star_note(len(tests), evidence.alpha, board.ratio)
        rules = tuple(range(len(RULES), len(cells), len(RULES)))
        grid = Grid(title, header, cells, rules, [note], f"{piece.name}:{board.dataset}:{board.encoder}")
        return grid, records, _findings(board, tests, evidence.alpha)

    output = over_boards(evidence, piece, "asking", lines)
    output.figure = _figure(curves)
    return output


def _keys(board: Board, key: tuple[str, str]) -> dict[str, str]:
    return dict(zip(metrics.ROW, (board.dataset, board.encoder, *key), strict=True))


def _record(
    board: Board,
    name: str,
    key: tuple[str, str],
    rule: str,
    gain: FloatArray,
    area: FloatArray,
    whole: RowTest,
    tests: dict[str, RowTest],
    alpha: float,
) -> dict[str, Any]:
    reached = q95(gain, whole.result.difference) if whole.sign(alpha) > 0 else None
    difference = tests.get(f"{name}, {rule}")
    return {
        **_keys(board, key),
        "title": name,
        "rule": rule,
        **{f"gain_{q}": float(value) for q, value in enumerate(gain, start=1)},
        "full": whole.result.difference,
        "full_p_holm": whole.p,
        "gains": whole.sign(alpha) > 0,
        "q95": np.nan if reached is None else float(reached),
        "area": float(np.nanmean(np.nanmean(area, axis=0))),
        "over_random": difference.result.difference if difference else np.nan,
        "over_random_p_holm": difference.p if difference else np.nan,
    }


def _cells(record: dict[str, Any], most: int, tests: dict[str, RowTest], alpha: float) -> list[TableCell]:
    enough = DASH
    if record["gains"]:
        enough = f"> {most}" if np.isnan(record["q95"]) else f"{record['q95']:g}"
    difference = tests.get(f"{record['title']}, {record['rule']}")
    texts = [
        record["title"],
        record["rule"],
        *(percent(record[f"gain_{q}"], signed=True) for q in SHOWN if q <= most),
        percent(record["full"], signed=True),
        enough,
        percent(record["area"], signed=True, digits=2),
        difference.text(alpha, digits=2) if difference else "",
    ]
    return [TableCell(text) for text in texts]


def _findings(board: Board, tests: dict[str, RowTest], alpha: float) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    if tested.undefined(tests):
        return [Finding("measured", place, "no test tells whether a rule asks better than chance")]
    better, worse, _ = tested.sorted_by_sign(tests, alpha)
    text = (
        f"choosing questions gains more than asking at random for {tested.names(better)}, and less for "
        f"{tested.names(worse)}, of {len(tests)} methods and rules ({tested.rule_of(len(tests), alpha)})"
    )
    return [Finding("tested", place, text)]


def _figure(curves: list[dict[str, Any]]) -> Any:
    """Gain by the number of questions: a panel per data set and method, a line per rule."""
    if not curves:
        return None
    settings = list(dict.fromkeys((r["dataset"], r["encoder"], r["title"]) for r in curves))
    with styled():
        figure, axes = panels(len(settings), size=(3.3, 2.0))
        for ax, setting in zip(axes, settings, strict=True):
            ax.axhline(0, color="0.5", linewidth=0.9, linestyle="--")
            for rule in RULES:
                curve = [r for r in curves if (r["dataset"], r["encoder"], r["title"], r["rule"]) == (*setting, rule)]
                x, y = [r["questions"] for r in curve], [100 * r["gain"] for r in curve]
                ax.plot(x, y, label=rule, color=COLOURS[rule], linewidth=1.2)
            ax.set(xlabel="questions", ylabel="gain (points)", title=f"{setting[2]} on {setting[0]}")
        legend_below(figure, axes, list(RULES))
        return finished(figure)
