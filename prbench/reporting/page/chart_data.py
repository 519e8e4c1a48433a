"""The numbers behind the page's figures, as plain values for JSON. Accuracies are in percent, users are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prbench.protocol import metrics
from prbench.reporting.board import RANKED, Board, Row
from prbench.reporting.looks import Look, look
from prbench.reporting.placing import PlacedCell, PlacedResults, results_of
from prbench.reporting.worst_k import appearances

if TYPE_CHECKING:
    import pandas as pd


FloatArray = npt.NDArray[np.float64]
Key = tuple[str, str]
DIGITS = 2


def looks(board: Board) -> dict[Key, Look]:
    """The look of every row; rows with the same look get markers of their own, as in the figures."""
    looks_of = appearances(board.rows)
    return {row.key: look({**row.style, "line": looks_of[row.key][1]}, looks_of[row.key][0]) for row in board.rows}


def chart_data(board: Board, users: pd.DataFrame, curves: pd.DataFrame, results: PlacedResults) -> dict[str, Any]:
    """What the figures of one board need.

    `users` is `metrics.user_metrics` and `curves` is `metrics.worst_k_curves`, of all boards and fits; what is shown
    of a split is the mean over its starts. A row's `base` is the
    position of its baseline; its curve and parameter line are null unless it has all splits and was chosen without
    test data. Splits, users and numbers that a row lacks are null.
    """
    board_users = metrics.over_starts(metrics.with_overall(_of_board(users, board)))
    appearance = looks(board)
    position = {row.key: i for i, row in enumerate(board.rows)}
    splits = sorted(int(split) for split in board_users["split"].unique())
    everyone = sorted(int(user) for user in board_users["user"].unique())
    accuracy = _accuracies(board_users, board)
    by_split = _split_curves(metrics.over_starts(_of_board(curves, board)), board)
    shots = _few_shots(board, results)
    rows = []
    for row in board.rows:
        base = board.baseline[row.key]
        shown = appearance[row.key]
        rows.append(
            {
                "title": row.title,
                "light": shown.light,
                "dark": shown.dark,
                "symbol": shown.symbol,
                "hollow": shown.hollow,
                "dash": shown.dash,
                "ranked": row.rankable,
                "base": position[base.key] if base else None,
                "mean": {p: _means(row, p) for p in RANKED},
                "curve": _curves(row, base, by_split) if row.rankable else None,
                "split": {p: _split_means(accuracy.get((row.key, p)), splits) for p in RANKED},
                "user": {p: _user_means(accuracy, row, base, p, everyone) for p in RANKED},
                "parameters": _parameters(board, row, results),
                "shots": shots.get(row.key, []),
            }
        )
    return {
        "name": f"{board.dataset} ({board.encoder})",
        "splits": splits,
        "users": everyone,
        "tested": {p: _tested(accuracy, board, p, everyone) for p in RANKED},
        "population": _population(board, results),
        "bounds": {name: {p: _percent(bound.value(p)) for p in RANKED} for name, bound in board.bounds.items()},
        "rows": rows,
    }


def cells_of(board: Board, results: PlacedResults, row: Row | None = None) -> list[PlacedCell]:
    """The cells of a board, or of one of its rows, by split."""
    cells = [
        cell
        for cell in results.cells
        if cell.board == (board.dataset, board.encoder) and (row is None or cell.row_key == row.key)
    ]
    return sorted(cells, key=lambda cell: (cell.record.split, *cell.row_key, cell.record.restart, cell.record.key))


def _of_board(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    return frame[(frame["dataset"] == board.dataset) & (frame["encoder"] == board.encoder)]


def _percent(value: float) -> float | None:
    """A fraction in percent, None where there is none."""
    return None if math.isnan(value) else round(100 * float(value), DIGITS)


def _percents(values: npt.ArrayLike) -> list[float | None]:
    return [_percent(value) for value in np.asarray(values, dtype=np.float64)]


def _means(row: Row, population: str) -> dict[str, float | None] | None:
    """Accuracy, its standard deviation over splits, flips and cold start."""
    if math.isnan(row.value(population)):
        return None
    return {
        "accuracy": _percent(row.value(population)),
        "sd": _percent(row.spread(population)),
        "flips": _percent(row.value(population, "flip_rate")),
        "cold": _percent(row.value(population, "cold_start")),
    }


def _accuracies(board_users: pd.DataFrame, board: Board) -> dict[tuple[Key, str], pd.DataFrame]:
    """User accuracy [users, splits] by row and population; NaN where a user was not tested."""
    wide = {}
    for (method, selection, population), group in board_users.groupby(
        ["method", "selection", "population"], observed=True
    ):
        table = group.pivot(index="user", columns="split", values="accuracy")
        wide[(str(method), str(selection)), str(population)] = table.sort_index().sort_index(axis=1)
    return wide


def _split_curves(curves: pd.DataFrame, board: Board) -> dict[tuple[Key, str], FloatArray]:
    """Worst-k% accuracies [splits, 100] of the rows with all splits."""
    whole = {row.key for row in board.rows if row.rankable}
    curves_of = {}
    for (method, selection, population), group in curves.groupby(
        ["method", "selection", "population"], observed=True
    ):
        key = (str(method), str(selection))
        if key in whole:
            ordered = group.sort_values(["split", "k"])["accuracy"].to_numpy(dtype=np.float64)
            curves_of[key, str(population)] = ordered.reshape(-1, 100)
    return curves_of


def _curves(row: Row, base: Row | None, by_split: Mapping[tuple[Key, str], FloatArray]) -> dict[str, Any]:
    """Mean and standard deviation over splits, per population: of the accuracy and of its gain over the baseline.

    The difference is taken split by split.
    """
    curves = {}
    for population in RANKED:
        curve = by_split[row.key, population]
        other = by_split.get((base.key, population)) if base else None
        mean, sd = _mean_and_sd(curve)
        curves[population] = {"mean": mean, "sd": sd}
        if other is not None and other.shape == curve.shape:
            mean, sd = _mean_and_sd(curve - other)
            curves[population] |= {"difference": mean, "difference_sd": sd}
    return curves


def _mean_and_sd(values: FloatArray) -> tuple[list[float | None], list[float | None]]:
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)
    return _percents(values.mean(axis=0)), _percents(spread)


def _split_means(accuracy: pd.DataFrame | None, splits: list[int]) -> list[float | None]:
    """Mean over users of each split."""
    if accuracy is None:
        return [None] * len(splits)
    return _percents(accuracy.mean(axis=0).reindex(splits).to_numpy())


def _user_means(
    accuracy: Mapping[tuple[Key, str], pd.DataFrame],
    row: Row,
    base: Row | None,
    population: str,
    users: list[int],
) -> dict[str, list[float | None]] | None:
    """Each user's accuracy and gain over the baseline, averaged over the splits (of both) that tested the user."""
    accuracies = accuracy.get((row.key, population))
    if accuracies is None:
        return None
    means = {"accuracy": _percents(accuracies.mean(axis=1).reindex(users).to_numpy())}
    other = accuracy.get((base.key, population)) if base else None
    if other is not None:
        means["gain"] = _percents((accuracies - other).mean(axis=1).reindex(users).to_numpy())
    return means


def _tested(
    accuracy: Mapping[tuple[Key, str], pd.DataFrame], board: Board, population: str, users: list[int]
) -> list[int]:
    """In how many splits each user was tested by the rows with all splits."""
    for row in board.rows:
        table = accuracy.get((row.key, population))
        if row.rankable and table is not None:
            return [int(n) for n in table.notna().sum(axis=1).reindex(users, fill_value=0)]
    return [0] * len(users)


def _parameters(board: Board, row: Row, results: PlacedResults) -> list[int] | None:
    """Trained numbers shared by all users and stored for each; None unless all splits agree."""
    counts = [record.parameters for record in results_of(cells_of(board, results, row))]
    known = {(count.shared, count.per_user) for count in counts}
    return list(known.pop()) if row.rankable and len(known) == 1 else None


def _population(board: Board, results: PlacedResults) -> int | None:
    """Seen and unseen users of a split, where all splits agree."""
    known = {record.counts.users for record in results_of(cells_of(board, results))}
    return known.pop() if len(known) == 1 else None


def _few_shots(board: Board, results: PlacedResults) -> dict[Key, list[dict[str, Any]]]:
    """Unseen users' accuracy by shots, for the rows that have all splits at that number; empty without such runs.

    Zero shots is the cold start. All the support there is comes last, as "all".
    """
    few = results.scores["shots"] >= 0
    if not few.any() or not len(_of_board(results.scores[few], board)):
        return {}
    scores = _of_board(results.scores, board)
    users = metrics.complete_starts(metrics.user_metrics(scores[scores["population"] == "unseen"]))
    table = metrics.few_shot_curve(metrics.split_metrics(users))
    curves: dict[Key, list[dict[str, Any]]] = {}
    for row in board.rows:
        row_lines = table[(table["method"] == row.method) & (table["selection"] == row.selection)]
        row_lines = row_lines[row_lines["n_splits"] == board.splits]
        points = [_shot(r["shots"], r["accuracy"], r["accuracy_std"]) for r in row_lines.to_dict("records")]
        cold = row_lines[row_lines["shots"] == metrics.ALL_SHOTS]
        if len(cold) and not (row_lines["shots"] == 0).any():
            points.insert(0, _shot(0, cold["cold_start"].iloc[0], cold["cold_start_std"].iloc[0]))
        if row.rankable:
            curves[row.key] = points
    return curves


def _shot(shots: int, mean: float, sd: float) -> dict[str, Any]:
    name = "all" if shots == metrics.ALL_SHOTS else str(shots)
    return {"shots": name, "accuracy": _percent(mean), "sd": _percent(sd)}
