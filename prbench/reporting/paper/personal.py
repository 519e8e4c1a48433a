"""Who personalises, for whom, and how well founded: flips, gains per user, overfitting, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prbench.protocol import metrics
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting import grid
from prbench.reporting.calibration import calibration_frame, calibration_records
from prbench.reporting.figure import CAPS, finished, legend_below, looks, panels, styled
from prbench.reporting.grid import Grid, TableCell
from prbench.reporting.paper.evidence import Evidence, PieceResult, counted, heading, setting_heading

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@marks.piece
def flips(evidence: Evidence, piece: Piece) -> PieceResult:
    """Overall accuracy against the share of test decisions that adaptation changed from the method's cold start."""
    import pandas as pd

    records: list[dict[str, Any]] = []
    boards = list(evidence.boards_of(piece))
    for dataset, encoder, board in boards:
        for row in board.rows:
            if row.complete:
                records.append(
                    {
                        "dataset": dataset,
                        "encoder": encoder,
                        "method": row.method,
                        "selection": row.selection,
                        "accuracy": row.value("overall"),
                        "accuracy_std": row.spread("overall"),
                        "cold_start": row.value("overall", "cold_start"),
                        "flip_rate": row.value("overall", "flip_rate"),
                        "n_splits": len(row.splits),
                    }
                )
    output = PieceResult(pd.DataFrame(records), missing=evidence.missing_notes(piece))
    if not records:
        return output
    boards = [item for item in boards if any((r["dataset"], r["encoder"]) == item[:2] for r in records)]
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(boards))
        for ax, (dataset, encoder, board) in zip(axes, boards, strict=True):
            panel = [r for r in records if (r["dataset"], r["encoder"]) == (dataset, encoder)]
            panel.sort(key=lambda r: piece.methods.index(r["method"]))
            for r in panel:
                style = {**look[r["method"]], "linestyle": "none"}
                ax.errorbar(
                    100 * r["flip_rate"],
                    100 * r["accuracy"],
                    yerr=100 * r["accuracy_std"],
                    label=evidence.title(r["method"]),
                    **style,
                    **CAPS,
                )
            base = next((r for r in panel if r["method"] == evidence.baseline), None)
            if base:
                ax.axhline(100 * base["accuracy"], color="0.25", linestyle="--", linewidth=0.9)
            for name, bound in board.bounds.items():
                ax.axhline(100 * bound.value("overall"), color="0.6", linestyle=":", linewidth=0.9)
                # Left of methods that flip half of the decisions: they decide nothing before.
                place = (0.85, 100 * bound.value("overall"))
                ax.annotate(name, place, xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.35")
            ax.margins(y=0.12)
            # Most methods flip few decisions: a linear axis would lay them on one another.
            ax.set_xscale("function", functions=(_signed_root, _signed_square))
            ax.set(xlabel="flipped test decisions (%, square-root axis)", ylabel="user accuracy (%)")
            ax.set(xlim=(-0.05, 1.15 * max(1.0, *(100 * r["flip_rate"] for r in panel))), xticks=_ticks(panel))
            ax.set_title(heading(board))
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output


def _signed_root(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.sign(x) * np.sqrt(np.abs(x))


def _signed_square(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.sign(x) * x**2


def _ticks(records: list[dict[str, Any]]) -> list[int]:
    most = max(1.0, *(100 * r["flip_rate"] for r in records))
    return [tick for tick in (0, 1, 3, 10, 20, 30, 50, 70, 100) if tick <= 1.1 * most]


@marks.piece
def gains(evidence: Evidence, piece: Piece) -> PieceResult:
    """Each user's accuracy less the baseline's, averaged over the splits that tested the user: its distribution.

    Boxes are quartiles, whiskers the 5th and 95th percentile of users.
    """
    per_user = gains_per_user(evidence, piece)
    output = PieceResult(gains_table(per_user), missing=evidence.missing_notes(piece))
    if not per_user:
        output.missing.append(f"the baseline {evidence.baseline}: nothing to compare with")
        return output
    settings = sorted({(row.dataset, row.encoder) for row in per_user})
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for ax, setting in zip(axes, settings, strict=True):
            rows = {row.method: gain for row, gain in per_user.items() if (row.dataset, row.encoder) == setting}
            named = [method for method in piece.methods if method in rows]
            _draw_gains(ax, [rows[method].values for method in named], [look[method]["color"] for method in named])
            ax.set_yticks(range(len(named)), [evidence.title(method) for method in named])
            ax.set(xlabel=f"gain over {evidence.title(evidence.baseline)} (points)")
            ax.set_title(setting_heading(*setting, max(rows[method].splits for method in rows)))
        output.figure = finished(figure)
    return output


class GainRow(NamedTuple):
    """Whose gains."""

    dataset: str
    encoder: str
    method: str


class Gains(NamedTuple):
    """Each user's gain over the baseline [users], a mean over the splits that tested the user, and their number."""

    values: npt.NDArray[np.float64]
    splits: int


def gains_per_user(evidence: Evidence, piece: Piece) -> dict[GainRow, Gains]:
    """The gains of every row of a piece that has all its splits, where the baseline has them too."""
    both = piece.model_copy(update={"methods": list(dict.fromkeys([*piece.methods, evidence.baseline]))})
    frame = evidence.complete_lines(evidence.users, both)
    frame = metrics.over_starts(frame[frame["shots"] == ALL_SHOTS])
    keys = ["dataset", "encoder", "split", "population", "user"]
    base = frame[frame["method"] == evidence.baseline].set_index(keys)["accuracy"]
    gains_of: dict[GainRow, Gains] = {}
    for names, row_users in frame.groupby(["dataset", "encoder", "method"], observed=True):
        row = GainRow(*map(str, names))
        difference = (row_users.set_index(keys)["accuracy"] - base).dropna()
        if row.method != evidence.baseline and len(difference):
            splits = difference.index.get_level_values("split").nunique()
            gains_of[row] = Gains(difference.groupby("user").mean().to_numpy(), splits)
    return gains_of


def gains_table(per_user: Mapping[GainRow, Gains]) -> pd.DataFrame:
    """The distribution of each row's gains: mean, quantiles, and the shares of users better and worse off."""
    import pandas as pd

    records = []
    for row, (users, _) in per_user.items():
        low, q1, middle, q3, high = np.quantile(users, QUANTILES)
        records.append(
            {
                **row._asdict(),
                "users": len(users),
                "mean": users.mean(),
                "p5": low,
                "q1": q1,
                "median": middle,
                "q3": q3,
                "p95": high,
                "better": float((users > 1e-12).mean()),
                "worse": float((users < -1e-12).mean()),
            }
        )
    return pd.DataFrame(records)


def _draw_gains(ax: Axes, gains: Sequence[npt.NDArray[np.float64]], colours: Sequence[str]) -> None:
    """A box for each row from the top: quartiles, with whiskers to the 5th and 95th percentile; in points."""
    for i, (values, colour) in enumerate(zip(gains, colours, strict=True)):
        low, q1, middle, q3, high = 100 * np.quantile(values, QUANTILES)
        ax.plot([low, high], [i, i], color="0.2", linewidth=1, marker="|", markersize=5, zorder=2)
        ax.barh(i, q3 - q1, left=q1, height=0.6, color=colour, edgecolor="0.2", zorder=3)
        ax.plot([middle, middle], [i - 0.3, i + 0.3], color="white", linewidth=2.4, zorder=4)
        ax.plot([middle, middle], [i - 0.3, i + 0.3], color="black", linewidth=1.2, zorder=5)
    ax.axvline(0, color="0.25", linewidth=0.9, zorder=6)
    ax.invert_yaxis()


@marks.piece
def gap(evidence: Evidence, piece: Piece) -> PieceResult:
    """Unseen users' accuracy on the support they adapted on and on test choices, ±1 SD over splits."""
    import pandas as pd

    lines = evidence.probes
    lines = evidence.complete_lines(lines[lines["probe"] == "support"], piece)
    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    if not len(lines):
        output.missing.append("accuracy on the support: run `prbench probe --support`")
        return output
    support = metrics.split_metrics(metrics.complete_starts(metrics.user_metrics(lines)))
    test = evidence.per_split
    test = evidence.complete_lines(test[test["shots"] == ALL_SHOTS], piece)
    keys = ["dataset", "encoder", "method", "selection"]
    parts = []
    for name, part in (("support", support), ("test", test)):
        table = metrics.over_splits(part[part["population"] == "unseen"])
        table = evidence.lines_with_all_splits(table, piece, output.missing, f"accuracy on the {name}")
        parts.append(table.set_index(keys)[["accuracy", "accuracy_std", "n_splits"]].add_prefix(f"{name}_"))
    table = parts[0].join(parts[1], how="inner").reset_index()
    output.frame = table.assign(gap=table["support_accuracy"] - table["test_accuracy"])
    if not len(table):
        return output
    settings = sorted(set(zip(output.frame["dataset"], output.frame["encoder"], strict=True)))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for ax, (dataset, encoder) in zip(axes, settings, strict=True):
            panel = output.frame[(output.frame["dataset"] == dataset) & (output.frame["encoder"] == encoder)]
            for row in panel.to_dict("records"):
                x, y = 100 * row["support_accuracy"], 100 * row["test_accuracy"]
                style = {**look[str(row["method"])], "linestyle": "none"}
                ax.errorbar(
                    x,
                    y,
                    xerr=100 * row["support_accuracy_std"],
                    yerr=100 * row["test_accuracy_std"],
                    label=evidence.title(str(row["method"])),
                    **style,
                    **CAPS,
                )
            # Drawn last and clipped: the diagonal does not need empty room.
            ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
            ax.plot([0, 100], [0, 100], color="0.5", linewidth=0.9, linestyle="--", zorder=1)
            ax.set(xlabel="unseen users, choices shown (%)", ylabel="unseen users, test choices (%)")
            ax.set_title(setting_heading(dataset, encoder, int(panel["test_n_splits"].max())))
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        output.figure = finished(figure)
    return output


@marks.piece
def calibration(evidence: Evidence, piece: Piece) -> PieceResult:
    """Reliability of p = σ(margin): of the comparisons given p for one option, how often that option was chosen.

    Every comparison counts from the side given at least one half, so p runs from 0.5 to 1. The errors in the table
    are those of calibration.csv: `prbench.protocol.calibration`.
    """
    import pandas as pd

    rows = evidence.complete_rows(piece)
    scores = evidence.results.scores
    scores = scores[(scores["shots"] == ALL_SHOTS) & scores["method"].isin(piece.methods)]
    records: list[dict[str, Any]] = []
    for row, row_scores in scores.groupby(metrics.ROW, observed=True):
        if row in rows:
            names = dict(zip(metrics.ROW[:3], row[:3], strict=True))
            records += [{**names, **tenth} for tenth in _reliability_of(row_scores["margin"].to_numpy(np.float64))]
    output = PieceResult(pd.DataFrame(records), missing=evidence.missing_notes(piece))
    if not records:
        return output
    bins: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for record in sorted(records, key=lambda r: (r["dataset"], r["encoder"], piece.methods.index(r["method"]))):
        by_method = bins.setdefault((record["dataset"], record["encoder"]), {})
        by_method.setdefault(record["method"], []).append(record)
    splits = {(dataset, encoder): count for (dataset, encoder, _, _), count in rows.items()}
    output.figure = _reliability_figure(evidence, piece, bins, splits)
    adapted = calibration_frame(calibration_records(scores)).query("margins == 'adapted' and temperature == 'none'")
    errors: dict[Any, float] = adapted.set_index(["dataset", "encoder", "method", "population"])["error"].to_dict()
    for setting, by_method in bins.items():
        output.grids.append(_calibration_grid(evidence, piece, setting, list(by_method), errors, splits[setting]))
    return output


def _reliability_of(margin: np.ndarray[Any, Any]) -> list[dict[str, float]]:
    """The reliability of a row's margins [n], each from the side given at least one half."""
    return reliability(1 / (1 + np.exp(-np.abs(margin))), metrics.decisions(margin))


def _reliability_figure(
    evidence: Evidence,
    piece: Piece,
    bins: Mapping[tuple[str, str], Mapping[str, Sequence[Mapping[str, Any]]]],
    splits: Mapping[tuple[str, str], int],
) -> Figure:
    """How often an option is chosen against its predicted probability: a panel per setting, a line per method."""
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(bins))
        for ax, (setting, by_method) in zip(axes, bins.items(), strict=True):
            ax.plot([50, 100], [50, 100], color="0.5", linewidth=0.9, linestyle="--")
            for method, tenths in by_method.items():
                x, y = ([100 * tenth[key] for tenth in tenths] for key in ("probability", "frequency"))
                ax.plot(x, y, label=evidence.title(method), **look[method])
            ax.set(xlabel="predicted (%)", ylabel="chosen (%)", title=setting_heading(*setting, splits[setting]))
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        return finished(figure)


def _calibration_grid(
    evidence: Evidence,
    piece: Piece,
    setting: tuple[str, str],
    methods: Sequence[str],
    errors: Mapping[Any, float],
    splits: int,
) -> Grid:
    """The calibration errors of a setting's methods, of seen and of unseen users."""
    dataset, encoder = setting
    lines = []
    for method in methods:
        values = [errors.get((dataset, encoder, method, population), math.nan) for population in ("seen", "unseen")]
        printed = [TableCell(grid.percent(value, digits=2)) for value in values]
        lines.append([TableCell(evidence.title(method)), *printed])
    notes = [
        "Root mean squared calibration error in points, corrected for bias, without a temperature; the mean over "
        f"{counted(splits)}, each user weighing the same. 0 is best; a method that always says one half has 0 too."
    ]
    title, label = f"Calibration on {dataset} ({encoder})", f"{piece.name}:{dataset}:{encoder}"
    return Grid(title, ("Method", "Error, seen", "Error, unseen"), lines, (), notes, label)


def reliability(probability: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> list[dict[str, float]]:
    """Mean probability, frequency and number of comparisons in each occupied tenth of [0.5, 1]."""
    bins = np.clip(((probability - 0.5) * 20).astype(int), 0, 9)
    tenths = []
    for b in np.unique(bins):
        inside = bins == b
        tenths.append(
            {
                "bin": 0.5 + 0.05 * float(b),
                "probability": float(probability[inside].mean()),
                "frequency": float(right[inside].mean()),
                "comparisons": int(inside.sum()),
            }
        )
    return tenths
