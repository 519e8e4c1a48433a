"""Time: what later choices say of earlier fits, the first choices against the last, and how methods follow a
change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.protocol import metrics
from prbench.protocol.metrics import ALL_SHOTS, decisions
from prbench.protocol.stats import bootstrap_users
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board, Row
from prbench.reporting.figure import finished, legend_below, looks, panels, styled
from prbench.reporting.grid import DASH, Grid, TableCell, interval, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import means, of_row, over_boards, present
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of
from prbench.reporting.placing import results_of

if TYPE_CHECKING:
    import pandas as pd

UPDATES = (
    "Unseen users with at least as many support choices as the largest step, points of user accuracy on their later "
    "choices above the method's own cold start; higher is better, 0 is a method that does nothing. First: after so "
    "many choices in the order of time. Last: after only the last of the largest step. Last − first: the same number "
    "of choices, the latest against the earliest; above 0 if recent choices tell more of what follows. Cost: "
    "milliseconds of one update per user at the largest step. Every split tests the same choices, so that no star is "
    "given: the interval is the bootstrap over users. "
)
GAP = (
    "Unseen users on the same comparisons: accuracy in % where the later choices are tested (in time) and where as "
    "many are drawn at random, and in points the gain over the cold start under both. Gap: the difference of "
    "accuracies, in time − at random; 0 if time does not matter, negative if later choices are harder to foresee. "
    "Support and test are the means of choices per user. "
)


def gains_by_step(table: pd.DataFrame) -> pd.DataFrame:
    """Per row, split, user, `choices` and `last`: the gain over the cold start and the cost, means over test
    choices."""
    columns = {
        "gain": decisions(table["margin"]) - decisions(table["cold"]),
        "seconds": table["seconds"].to_numpy(np.float64),
    }
    return means(table, columns, by=["choices", "last"])


@marks.piece
def updates(evidence: Evidence, piece: Piece) -> PieceResult:
    """The gain as choices come in, all kept or the last few, and the first k against the last k."""
    curves: list[dict[str, Any]] = []

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        users = gains_by_step(table)
        rows = present(board, users)
        steps = sorted(int(step) for step in users["choices"].unique())
        last = int(users["last"].max())
        differences, records, cells = {}, [], []
        for name, row in rows.items():
            row_users = of_row(users, row)
            by: dict[tuple[int, int], pd.DataFrame] = {}
            for key, part in row_users.groupby(["choices", "last"]):
                by[int(str(key[0])), int(str(key[1]))] = part
            gain = {key: float(part.groupby("split")["gain"].mean().mean()) for key, part in by.items()}
            if (last, 0) in by:
                late, early = (tested.by_user(by[key], "gain") for key in ((steps[-1], last), (last, 0)))
                differences[name] = late - early
            cost = float(by[steps[-1], 0]["seconds"].mean())
            records.append(_record(board, row, gain, steps, last, cost, differences.get(name)))
            curves.extend(
                {**_keys(board, row), "choices": k, "last": n, "gain": value} for (k, n), value in gain.items()
            )
        tests = tested.family(
            differences,
            ratio=board.ratio,
            alpha=evidence.alpha,
            resamples=evidence.resamples,
            axes=(piece.name, board.dataset),
        )
        for record in records:
            ends = tests[record["title"]].result.bootstrap if record["title"] in tests else (np.nan, np.nan)
            record |= {"difference_low": ends[0], "difference_high": ends[1]}
            cells.append(_cells(record, steps, last))
        header = ("Method", *(f"First {k}" for k in steps), f"Last {last}", "Last − first", "Interval", "Cost")
        title = f"Choices in the order of time on {board.dataset} ({board.encoder}), {splits_of(board)}"
        count = int(users.groupby("user").ngroups)
        grid = Grid(
            title, header, cells, (), [f"{UPDATES}{count} users."], f"{piece.name}:{board.dataset}:{board.encoder}"
        )
        return grid, records, _findings(board, records, last)

    output = over_boards(evidence, piece, "updates", lines)
    output.figure = _figure(evidence, piece, curves)
    return output


def _keys(board: Board, row: Row) -> dict[str, str]:
    return dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True))


def _record(
    board: Board,
    row: Row,
    gain: dict[tuple[int, int], float],
    steps: list[int],
    last: int,
    cost: float,
    difference: Any,
) -> dict[str, Any]:
    return {
        **_keys(board, row),
        "title": row.title,
        **{f"first_{k}": gain.get((k, 0), np.nan) for k in steps},
        f"last_{last}": gain.get((steps[-1], last), np.nan),
        "difference": np.nan if difference is None else float(np.nanmean(np.nanmean(difference, axis=0))),
        "milliseconds": 1e3 * cost,
    }


def _cells(record: dict[str, Any], steps: list[int], last: int) -> list[TableCell]:
    ends = interval(record["difference_low"], record["difference_high"])
    texts = [
        record["title"],
        *(percent(record[f"first_{k}"], signed=True) for k in steps),
        percent(record[f"last_{last}"], signed=True),
        percent(record["difference"], signed=True),
        ends,
        f"{record['milliseconds']:.2f}",
    ]
    return [TableCell(text) for text in texts]


def _findings(board: Board, records: list[dict[str, Any]], last: int) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    later = [r["title"] for r in records if r["difference_low"] > 0]
    earlier = [r["title"] for r in records if r["difference_high"] < 0]
    text = (
        f"the last {last} support choices serve the later ones better than the first {last} for "
        f"{tested.names(later)} and "
        f"worse for {tested.names(earlier)}, of {len(records)} methods (interval over users without 0)"
    )
    return [Finding("measured", place, text)]


def _figure(evidence: Evidence, piece: Piece, curves: list[dict[str, Any]]) -> Any:
    """Gain by the number of choices; broken lines are by the last ones alone."""
    if not curves:
        return None
    settings = list(dict.fromkeys((r["dataset"], r["encoder"]) for r in curves))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for ax, setting in zip(axes, settings, strict=True):
            ax.axhline(0, color="0.5", linewidth=0.9, linestyle="--")
            for method in piece.methods:
                curve = [r for r in curves if (r["dataset"], r["encoder"], r["method"]) == (*setting, method)]
                for last in sorted({r["last"] for r in curve}):
                    points = sorted((r["choices"], 100 * r["gain"]) for r in curve if r["last"] == last)
                    style = {**look[method], "linestyle": ":" if last else "-", "markersize": 3 if last else 5}
                    label: dict[str, Any] = {} if last else {"label": evidence.title(method)}
                    ax.plot(*zip(*points, strict=True), **style, **label)
            ax.set(xlabel="support choices in the order of time", ylabel="gain over cold start (points)")
            ax.set_title(f"{setting[0]} ({setting[1]})")
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        return finished(figure)


@marks.piece
def gap(evidence: Evidence, piece: Piece) -> PieceResult:
    """Accuracy in the order of time beside that on random splits of the same comparisons."""
    import pandas as pd

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    boards = {(dataset, encoder): board for dataset, encoder, board in evidence.boards_of(piece)}
    records: list[dict[str, Any]] = []
    for setting, board in boards.items():
        if _protocol(evidence, setting) != "chronological":
            continue
        partner = next((other for other in boards if _same_choices(evidence, setting, other)), None)
        if partner is None:
            output.missing.append(f"{setting[0]} ({setting[1]}): no results on random splits of the same comparisons")
            continue
        rows = {row.key: row for row in boards[partner].rows if row.complete}
        row_pairs = [(row, rows[row.key]) for row in board.rows if row.complete and row.key in rows]
        gaps = [_gap_record(evidence, setting, partner, *pair) for pair in row_pairs]
        records += gaps
        title = f"In time on {setting[0]} and at random on {partner[0]} ({setting[1]})"
        output.grids.append(_gap_grid(piece, title, gaps, setting))
        output.findings += _gap_findings(setting, partner, gaps, board)
    output.frame = pd.DataFrame(records)
    return output


def _protocol(evidence: Evidence, setting: tuple[str, str]) -> str:
    return evidence.cells[setting][0].record.protocol.name


def _same_choices(evidence: Evidence, setting: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether `other` divides the same comparisons at random."""
    texts, others = (
        (first.encoder, first.record.data_fingerprint, first.record.embedding_fingerprint)
        for first in (evidence.cells[setting][0], evidence.cells[other][0])
    )
    return texts == others and _protocol(evidence, other) == "paper"


def _gap_record(
    evidence: Evidence, setting: tuple[str, str], partner: tuple[str, str], in_time: Row, at_random: Row
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": setting[0],
        "encoder": setting[1],
        "method": in_time.method,
        "selection": in_time.selection,
        "title": in_time.title,
        "partner": partner[0],
    }
    for name, row, where in (("time", in_time, setting), ("random", at_random, partner)):
        accuracy = row.value("unseen")
        record |= {f"accuracy_{name}": accuracy, f"gain_{name}": accuracy - row.value("unseen", "cold_start")}
        counts = [done.counts for done in results_of(evidence.cells[where])]
        for part, choices in (
            ("support", [each.unseen_support / each.unseen_users for each in counts]),
            ("test", [each.unseen_test / each.unseen_users for each in counts]),
        ):
            record[f"{part}_{name}"] = float(np.mean(choices)) if choices else np.nan
    a, b = (_unseen(evidence, where, row) for where, row in ((setting, in_time), (partner, at_random)))
    record |= {"gap": record["accuracy_time"] - record["accuracy_random"], **_over_users(evidence, a, b, record)}
    return record


def _unseen(evidence: Evidence, setting: tuple[str, str], row: Row) -> pd.Series:
    """Each unseen user's accuracy, the mean over the splits that tested the user."""
    users = evidence.users
    mask = (users["dataset"] == setting[0]) & (users["encoder"] == setting[1]) & (users["method"] == row.method)
    mask &= (users["selection"] == row.selection) & (users["population"] == "unseen") & (users["shots"] == ALL_SHOTS)
    return users[mask].groupby("user")["accuracy"].mean()


def _over_users(evidence: Evidence, a: pd.Series, b: pd.Series, record: dict[str, Any]) -> dict[str, float]:
    """The interval over users of the difference, from users that both tested: one number a user and side."""
    both = (a - b).dropna().to_numpy(np.float64)
    rng = Rng("in time", record["dataset"], record["encoder"], record["method"])
    ends = bootstrap_users(both, rng=rng, level=1 - evidence.alpha, resamples=evidence.resamples)
    return {"gap_low": ends.low, "gap_high": ends.high}


def _gap_grid(piece: Piece, title: str, records: list[dict[str, Any]], setting: tuple[str, str]) -> Grid:
    cells = [
        [
            TableCell(r["title"]),
            *(TableCell(percent(r[f"accuracy_{name}"])) for name in ("time", "random")),
            TableCell(percent(r["gap"], signed=True)),
            TableCell(interval(r["gap_low"], r["gap_high"])),
            *(TableCell(percent(r[f"gain_{name}"], signed=True)) for name in ("time", "random")),
        ]
        for r in records
    ]
    header = ("Method", "In time", "At random", "Gap", "Interval over users", "Gain in time", "Gain at random")
    sizes = DASH
    if records:
        r = records[0]
        sizes = ", ".join(f"{r[f'{p}_time']:.1f} and {r[f'{p}_random']:.1f} {p} choices" for p in ("support", "test"))
    note = f"{GAP}In time and at random: {sizes} per user."
    return Grid(title, header, cells, (), [note], f"{piece.name}:{setting[0]}:{setting[1]}")


def _gap_findings(
    setting: tuple[str, str], partner: tuple[str, str], records: list[dict[str, Any]], board: Board
) -> list[Finding]:
    lower = [r["title"] for r in records if r["gap_high"] < 0]
    higher = [r["title"] for r in records if r["gap_low"] > 0]
    text = (
        f"later choices are harder to foresee than random ones on {partner[0]} for {tested.names(lower)} and easier "
        f"for {tested.names(higher)}, of {len(records)} methods (interval over users without 0)"
    )
    return [Finding("measured", f"On {setting[0]} ({setting[1]}, {splits_of(board)})", text)]
