"""How users fare who often disagree with the others, and those of planted groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.protocol import metrics
from prbench.protocol.agreement import LEAST_PAIRS
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.slopes import FIFTHS, Slope, fifths, slope_over_users
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board, Row
from prbench.reporting.figure import finished, legend_below, looks, panels, styled
from prbench.reporting.grid import STAR, Grid, TableCell, interval, percent
from prbench.reporting.matters import tested
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of

if TYPE_CHECKING:
    import pandas as pd

RATE = (
    "Unseen users, each averaged over the splits in which the user was tested. Support rate: share of the other "
    "annotators of the user's own support pairs who chose the same; users with fewer than "
    f"{LEAST_PAIRS} such pairs are left out. Lowest and highest: user accuracy in % of the fifth of users with the "
    "lowest and the highest rate, higher is better. Slope: points of accuracy per 0.1 of support rate, least squares "
    "over users; slope of gain: the same of accuracy − cold start, above 0 if adapting widens the gap and 0 for a "
    "method that does nothing. A low rate mixes taste with carelessness: nobody predicts a careless user, so that a "
    "slope alone does not show an injustice. "
)
PLANTED = (
    "Simulated users by their planted group: user accuracy in % after adapting and, in points, the gain over the "
    "cold start; higher is better, a gain of 0 is a method that does nothing. Members of a planted minority have a "
    "taste of their own at the noise of the others, careless ones toss coins: only the first can gain."
)


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Of unseen users, by split and user: `rate`, `planted`, and whether enough pairs were there (`known`).

    The rate does not depend on the method, so that the first row of `table` tells it.
    """
    unseen = table[table["seen"] == 0].drop_duplicates(["split", "user"])
    return unseen.assign(known=unseen["pairs"] >= LEAST_PAIRS)[["split", "user", "rate", "planted", "known"]]


def averaged(users: pd.DataFrame, rate: pd.DataFrame) -> pd.DataFrame:
    """One line per user: `rate`, `accuracy`, `gain`, means over the splits with a rate, and the planted group."""
    joined = users.merge(rate[rate["known"]], on=["split", "user"])
    joined = joined.assign(gain=joined["accuracy"] - joined["cold_start"])
    return joined.groupby("user")[["rate", "accuracy", "gain", "planted"]].mean().reset_index()


@marks.piece
def by_support(evidence: Evidence, piece: Piece) -> PieceResult:
    """Accuracy and gain of unseen users by how often the others agree with them."""
    import pandas as pd

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    records: list[dict[str, Any]] = []
    for dataset, encoder, board in evidence.boards_of(piece):
        table = evidence.table("agreement", dataset, encoder, piece)
        if not len(table):
            output.missing.append(f"{dataset} ({encoder}): not probed (`prbench probe --kinds agreement`)")
            continue
        rate = rates(table)
        left = rate.groupby("user")["known"].any()
        if left.sum() < FIFTHS:
            output.missing.append(f"{dataset} ({encoder}): fewer than {FIFTHS} users share enough pairs with others")
            continue
        board_records, slopes = _board_records(evidence, board, rate)
        records += board_records
        output.grids.append(_grid(piece, board, board_records, int((~left).sum()), evidence.alpha))
        output.findings += _findings(board, slopes, evidence.alpha)
        if (rate["planted"] >= 0).any():
            output.grids.append(_planted_grid(evidence, piece, board, rate))
    output.frame = pd.DataFrame(records)
    output.figure = _figure(evidence, piece, output.frame)
    return output


def _board_records(
    evidence: Evidence, board: Board, rate: pd.DataFrame
) -> tuple[list[dict[str, Any]], dict[str, Slope]]:
    records, slopes = [], {}
    rows = [row for row in board.rows if row.complete]
    # One family: the intervals of a table's slopes of gain hold together at the level 1 − alpha.
    level = 1 - evidence.alpha / max(1, len(rows))
    for row in rows:
        users = averaged(_unseen(evidence, board, row), rate)
        fifth = fifths(users["rate"].to_numpy())
        axes = ("support rate", board.dataset, board.encoder, *row.key)
        options: dict[str, Any] = {"level": level, "resamples": evidence.resamples}
        x = users["rate"].to_numpy(np.float64)
        accuracy = slope_over_users(x, users["accuracy"].to_numpy(), rng=Rng(*axes, "accuracy"), **options)
        gain = slope_over_users(x, users["gain"].to_numpy(), rng=Rng(*axes, "gain"), **options)
        slopes[row.title] = gain
        record = {
            **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
            "title": row.title,
            "users": len(users),
        }
        for number in range(FIFTHS):
            inside = users[fifth == number]
            record[f"rate_{number + 1}"] = float(inside["rate"].mean()) if len(inside) else np.nan
            for name in ("accuracy", "gain"):
                record[f"{name}_{number + 1}"] = float(inside[name].mean()) if len(inside) else np.nan
        for name, fitted in (("accuracy", accuracy), ("gain", gain)):
            # Points per 0.1 of support rate, as a fraction.
            record |= {f"{name}_slope": 0.1 * fitted.slope}
            record |= {
                f"{name}_slope_low": 0.1 * fitted.interval.low,
                f"{name}_slope_high": 0.1 * fitted.interval.high,
            }
        records.append(record)
    return records, slopes


def _unseen(evidence: Evidence, board: Board, row: Row) -> pd.DataFrame:
    users = evidence.users
    of_row = (users["dataset"] == board.dataset) & (users["encoder"] == board.encoder)
    of_row &= (users["method"] == row.method) & (users["selection"] == row.selection)
    return users[of_row & (users["population"] == "unseen") & (users["shots"] == ALL_SHOTS)]


def _grid(piece: Piece, board: Board, records: list[dict[str, Any]], left_out: int, alpha: float) -> Grid:
    cells = []
    for r in records:
        beyond = r["gain_slope_low"] > 0 or r["gain_slope_high"] < 0
        cells.append(
            [
                TableCell(r["title"]),
                TableCell(percent(r["accuracy_1"])),
                TableCell(percent(r[f"accuracy_{FIFTHS}"])),
                TableCell(percent(r["accuracy_slope"], signed=True, digits=2)),
                TableCell(interval(r["accuracy_slope_low"], r["accuracy_slope_high"])),
                TableCell(percent(r["gain_slope"], signed=True, digits=2), marks=STAR if beyond else ""),
                TableCell(interval(r["gain_slope_low"], r["gain_slope_high"])),
            ]
        )
    header = ("Method", "Lowest", "Highest", "Slope", "Interval", "Slope of gain", "Interval of gain")
    where = f"{board.dataset} ({board.encoder}), {splits_of(board)}"
    note = RATE + (
        f"{records[0]['users']} users, {left_out} left out. {STAR}: the interval of the slope of gain, at the level "
        f"1 − {alpha:g} over the rows of the table ({len(records)}) together (bootstrap over users), is without 0."
    )
    return Grid(
        f"Support rate on {where}", header, cells, (), [note], f"{piece.name}:{board.dataset}:{board.encoder}"
    )


def _findings(board: Board, slopes: dict[str, Slope], alpha: float) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    wider = [name for name, fitted in slopes.items() if fitted.interval.low > 0]
    narrower = [name for name, fitted in slopes.items() if fitted.interval.high < 0]
    rest = len(slopes) - len(wider) - len(narrower)
    text = (
        "adapting widens the gap between users whom others support and those whom they do not for "
        f"{tested.names(wider)}, narrows it for {tested.names(narrower)}, and for {rest} of {len(slopes)} methods "
        "neither beyond noise (bootstrap over users of the slope of gain, "
        f"level 1 − {alpha:g} over the rows together)"
    )
    return [Finding("tested", place, text)]


def _planted_grid(evidence: Evidence, piece: Piece, board: Board, rate: pd.DataFrame) -> Grid:
    """Accuracy and gain by planted group."""
    names = _group_names(evidence, board)
    groups = sorted(int(g) for g in rate["planted"].unique())
    cells = []
    for row in (row for row in board.rows if row.complete):
        users = averaged(_unseen(evidence, board, row), rate.assign(known=True))
        cells.append([TableCell(row.title)])
        for group in groups:
            inside = users[users["planted"] == group]
            for name, signed in (("accuracy", False), ("gain", True)):
                value = float(inside[name].mean()) if len(inside) else np.nan
                cells[-1].append(TableCell(percent(value, signed=signed)))
    counts = rate.drop_duplicates("user")["planted"].value_counts()
    header = ["Method"]
    for group in groups:
        name = names[group] if group < len(names) else f"cluster {group}"
        header += [f"{name} ({counts.get(group, 0)})", f"gain, {name}"]
    title = f"Planted groups of users on {board.dataset} ({board.encoder})"
    return Grid(title, tuple(header), cells, (), [PLANTED], f"{piece.name}-planted:{board.dataset}:{board.encoder}")


def _group_names(evidence: Evidence, board: Board) -> list[str]:
    known = (cell.record.properties for cell in evidence.cells[board.dataset, board.encoder])
    return next((properties.groups for properties in known if properties and properties.groups), [])


def _figure(evidence: Evidence, piece: Piece, frame: pd.DataFrame) -> Any:
    """The gain of each fifth of users, a panel per data set."""
    if not len(frame):
        return None
    settings = list(dict.fromkeys(zip(frame["dataset"], frame["encoder"], strict=True)))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for ax, (dataset, encoder) in zip(axes, settings, strict=True):
            ax.axhline(0, color="0.5", linewidth=0.9, linestyle="--")
            for r in frame[(frame["dataset"] == dataset) & (frame["encoder"] == encoder)].to_dict("records"):
                if r["method"] not in look:
                    continue
                x = [100 * r[f"rate_{n + 1}"] for n in range(FIFTHS)]
                y = [100 * r[f"gain_{n + 1}"] for n in range(FIFTHS)]
                ax.plot(x, y, label=evidence.title(r["method"]), **look[r["method"]])
            ax.set(xlabel="support rate of a fifth of users (%)", ylabel="gain over cold start (points)")
            ax.set_title(f"{dataset} ({encoder})")
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        return finished(figure)
