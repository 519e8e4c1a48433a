"""calibration.csv: how far each row's confidence may be trusted, before and after adaptation.

The definitions are in `prbench.protocol.calibration`. A temperature is fitted on choices that no fit has used and
that are not judged with it: for unseen users on the seen users' test choices of the same split, for seen users on the
other half of them (halves drawn by hash). So a temperature rests on other users' test choices; the caption says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.comparisons import FloatArray, IntArray
from prbench.protocol import metrics
from prbench.protocol.calibration import Calibration, calibration, confidence, fitted_temperature, halves
from prbench.reporting.grid import DASH, Grid, TableCell, percent

if TYPE_CHECKING:
    import pandas as pd

MARGINS = {"adapted": "margin", "cold start": "cold_margin"}
STATES = (("cold start", "none"), ("adapted", "none"), ("adapted", "fitted"))
QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = [
    *metrics.ROW, "margins", "population", "temperature", "log_temperature", *Calibration._fields,
    *(f"gap_{100 * q:.0f}" for q in QUANTILES), "n_splits",
]  # fmt: skip
CAPTION = (
    "nll: negative log-likelihood in nats, lower is better, 0.693 for always one half; brier: lower is better, 0.25 "
    "for always one half; error: root mean squared calibration error over 15 bins of equal weight, corrected for "
    "bias (error_plain: uncorrected), 0 is best and that of always one half; gap: mean over users of confidence "
    "minus accuracy, positive is too sure, with its 10, 50 and 90% quantiles over users; excess_area: excess area "
    "under the risk-coverage curve, 0 is the best order of a user's own choices. A fitted temperature rests on other "
    "users' test choices: for unseen users the seen users', for seen users the other half of them."
)
"""The meaning, unit and direction of each column, and its value for a method that does nothing."""
IN_POINTS = "Tables print errors, gaps and areas in points."


Records = dict[tuple[str, ...], list[dict[str, Any]]]
"""By `metrics.ROW`: one record for each fit, population, margins and temperature."""


def calibration_records(scores: pd.DataFrame, shots: int = metrics.ALL_SHOTS) -> Records:
    """The measures of every fit: `split`, `restart`, `margins`, `population`, `temperature`, those of `Calibration`,
    `gaps`.

    `gaps` are the users' own, by user. NaN where no temperature is defined because all margins that it would be
    fitted on are 0.
    """
    scores = metrics.complete_starts(scores[scores["shots"] == shots])
    records: Records = {}
    for row, row_scores in scores.groupby(metrics.ROW, observed=True):
        records[tuple(map(str, row))] = [
            {"split": split, "restart": restart, "margins": margins, **record}
            for margins, column in MARGINS.items()
            for (split, restart), cell in row_scores.groupby(["split", "restart"], observed=True)
            for record in _of_fit(cell, column, str(split))
        ]
    return records


def calibration_frame(records: Records) -> pd.DataFrame:
    """One row per row of the leaderboard, population, margins (adapted, cold start) and temperature (none, fitted).

    Columns: `log_temperature` and the measures of `Calibration`, means over splits and their starts, quantiles over
    users of the gap (each user's own gap averaged over the splits in which the user was tested), and `n_splits`,
    those with a value.
    """
    import pandas as pd

    lines = [
        {**dict(zip(metrics.ROW, row, strict=True)), "margins": margins, **line}
        for row, row_records in records.items()
        for margins in MARGINS
        for line in _over_splits([record for record in row_records if record["margins"] == margins])
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def calibration_grid(
    frame: pd.DataFrame, titles: Mapping[tuple[str, ...], str], title: str, label: str, population: str = "unseen"
) -> Grid:
    """The table of some of `calibration_frame`'s rows, one population: cold start, adapted, adapted with T.

    `titles` by `metrics.ROW`. Errors, gaps and areas are printed in points.
    """
    lines = []
    for row, row_lines in frame[frame["population"] == population].groupby(metrics.ROW, observed=True, sort=False):
        by = {(r["margins"], r["temperature"]): r for r in row_lines.to_dict("records")}
        cold, plain, scaled = (by[state] for state in STATES)
        states = (cold, plain, scaled)
        gaps = [plain[f"gap_{100 * q:.0f}"] for q in (QUANTILES[0], QUANTILES[-1])]
        lines.append(
            [
                TableCell(titles.get(tuple(map(str, row)), str(row[2]))),
                *(TableCell(_decimal(r["nll"])) for r in states),
                *(TableCell(_decimal(r["brier"])) for r in states),
                *(TableCell(percent(r["error"])) for r in states),
                *(TableCell(percent(r["gap"], signed=True)) for r in states),
                TableCell(" to ".join(percent(gap, signed=True) for gap in gaps)),
                *(TableCell(percent(r["excess_area"])) for r in (cold, plain)),
                TableCell(_decimal(float(np.exp(scaled["log_temperature"])), 2)),
            ]
        )
    short = ("NLL", "Brier", "Error", "Gap")
    header = ("Method", *(f"{name} {state}" for name in short for state in ("cold", "adapted", "with T")))
    header += ("Gap, 10–90% of users", "Area cold", "Area adapted", "T")
    return Grid(title, header, lines, (), [CAPTION, IN_POINTS], label)


def _decimal(value: float, digits: int = 3) -> str:
    return DASH if not np.isfinite(value) else f"{value:.{digits}f}"


def _of_fit(cell: pd.DataFrame, column: str, split: str) -> list[dict[str, Any]]:
    """The measures of each population of one fit, without and with a temperature, and its users' gaps."""
    populations = {
        str(name): (part[column].to_numpy(dtype=np.float64), part["user"].to_numpy())
        for name, part in cell.groupby("population", observed=True)
    }
    records = []
    for name, (margin, user) in populations.items():
        for scaled, temperature in (
            ("none", np.ones(len(margin))),
            ("fitted", _temperatures(name, populations, split)),
        ):
            defined = bool(np.isfinite(temperature).all())
            values = margin / temperature if defined else margin
            measures = calibration(values, user) if defined else Calibration(*[np.nan] * len(Calibration._fields))
            gaps = confidence(values) - metrics.decisions(values)
            records.append(
                {
                    "split": split,
                    "population": name,
                    "temperature": scaled,
                    "log_temperature": float(np.log(temperature).mean()) if defined else np.nan,
                    **measures._asdict(),
                    "gaps": _per_user(gaps, user) if defined else {},
                }
            )
    return records


def _temperatures(name: str, populations: dict[str, tuple[FloatArray, IntArray]], split: str) -> FloatArray:
    """The temperature of each choice of population `name`, [n]; NaN where none can be fitted."""
    margin, user = populations[name]
    if "seen" not in populations:
        return np.full(len(margin), np.nan)
    if name != "seen":
        return np.full(len(margin), fitted_temperature(*populations["seen"]))
    half = halves(user, "temperature", split)
    fitted = [fitted_temperature(margin[half == h], user[half == h]) if (half == h).any() else np.nan for h in (0, 1)]
    return np.asarray(fitted)[1 - half]


def _per_user(values: FloatArray, user: IntArray) -> dict[int, float]:
    users, position = np.unique(user, return_inverse=True)
    means = np.bincount(position, values) / np.bincount(position)
    return dict(zip(users.tolist(), means.tolist(), strict=True))


def _over_splits(per_split: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over splits and their starts by population and temperature."""
    records = []
    for population, temperature in dict.fromkeys((r["population"], r["temperature"]) for r in per_split):
        group = [r for r in per_split if (r["population"], r["temperature"]) == (population, temperature)]
        defined = [r for r in group if np.isfinite(r["nll"])]
        by_user: dict[int, list[float]] = {}
        for record in defined:
            for user, gap in record["gaps"].items():
                by_user.setdefault(user, []).append(gap)
        gaps = [float(np.mean(values)) for values in by_user.values()]
        names = ("log_temperature", *Calibration._fields)
        means = {n: float(np.mean([r[n] for r in defined])) if defined else np.nan for n in names}
        quantiles = {f"gap_{100 * q:.0f}": float(np.quantile(gaps, q)) if gaps else np.nan for q in QUANTILES}
        records.append(
            {
                "population": population,
                "temperature": temperature,
                **means,
                **quantiles,
                "n_splits": len({r["split"] for r in defined}),
            }
        )
    return records
