"""calibration.csv from made-up scores whose calibration is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from prbench.protocol.metrics import ALL_SHOTS
from prbench.reporting.calibration import calibration_frame, calibration_records


def planted(*, splits: int = 2, users: int = 40, choices: int = 60, sharpness: float = 3.0) -> pd.DataFrame:
    """Margins `sharpness` times what the choices' probabilities say; cold starts that never decide."""
    rng = np.random.default_rng(0)
    frames = []
    for split in range(splits):
        for population, first in (("seen", 0), ("unseen", users)):
            n = users * choices
            true = rng.normal(0, 2, n)
            chosen = np.where(rng.uniform(size=n) < 1 / (1 + np.exp(-true)), true, -true)
            frames.append(
                pd.DataFrame(
                    {
                        "dataset": "d",
                        "encoder": "e",
                        "method": "m",
                        "selection": "last",
                        "split": split,
                        "restart": 0,
                        "shots": ALL_SHOTS,
                        "population": population,
                        "user": first + np.arange(n) % users,
                        "margin": sharpness * chosen,
                        "cold_margin": 0.0,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def lines(frame: pd.DataFrame, **keys: str) -> pd.DataFrame:
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    return frame


def test_a_temperature_learned_on_others_repairs_margins_that_are_too_sure() -> None:
    frame = calibration_frame(calibration_records(planted()))
    for population in ("seen", "unseen"):
        (raw,) = lines(frame, population=population, margins="adapted", temperature="none").to_dict("records")
        (scaled,) = lines(frame, population=population, margins="adapted", temperature="fitted").to_dict("records")
        assert np.exp(scaled["log_temperature"]) == pytest.approx(3, rel=0.15)
        assert raw["gap"] > 0.1 > 0.03 > abs(scaled["gap"])
        assert raw["error"] > 0.1 > 0.04 > scaled["error"]
        assert scaled["nll"] < raw["nll"]
        # The order of confidence is the same under every temperature that users share.
        assert scaled["excess_area"] == pytest.approx(raw["excess_area"])
        assert raw["gap_10"] < raw["gap_50"] < raw["gap_90"]
        assert raw["n_splits"] == scaled["n_splits"] == 2


def test_a_cold_start_that_decides_nothing_has_no_temperature() -> None:
    frame = calibration_frame(calibration_records(planted()))
    cold = lines(frame, margins="cold start")
    none, fitted = lines(cold, temperature="none"), lines(cold, temperature="fitted")
    assert none["nll"].tolist() == pytest.approx([np.log(2)] * 2)
    assert none["brier"].tolist() == pytest.approx([0.25] * 2)
    assert (none[["error", "gap", "excess_area"]] == 0).all(axis=None)
    assert fitted[["nll", "brier", "error", "gap"]].isna().all(axis=None)
    assert (fitted["n_splits"] == 0).all()


def test_a_users_own_choices_never_set_the_temperature_they_are_judged_with() -> None:
    """Turning one unseen user's margins round changes nothing for the other unseen users' temperature."""
    scores = planted()
    turned = scores.copy()
    turned.loc[turned["user"] == 50, "margin"] *= -1
    both = [
        lines(
            calibration_frame(calibration_records(table)),
            population="unseen",
            margins="adapted",
            temperature="fitted",
        )
        for table in (scores, turned)
    ]
    assert both[0]["log_temperature"].item() == both[1]["log_temperature"].item()
    assert both[0]["nll"].item() < both[1]["nll"].item()
