"""Means and spreads over random starts, against numbers worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from fake_results import Fake

from prbench.protocol import metrics, stats

# The accuracy of one method's fits by split and restart. Means of the splits: 0.7 and 0.6.
FITS = {0: (0.6, 0.7, 0.8), 1: (0.5, 0.5, 0.8)}


def users(fits: dict[int, tuple[float, ...]]) -> pd.DataFrame:
    fake = Fake()
    for split, accuracies in fits.items():
        for restart, accuracy in enumerate(accuracies):
            fake.add("lore", split, {0: accuracy, 1: accuracy}, restart=restart)
    return metrics.user_metrics(fake.scores)


def overall(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["population"] == "overall"].reset_index(drop=True)


def test_the_mean_is_over_splits_and_starts() -> None:
    (line,) = overall(metrics.over_splits(metrics.split_metrics(users(FITS)))).to_dict("records")
    assert line["n_splits"] == 2
    assert line["accuracy"] == pytest.approx((0.7 + 0.6) / 2)
    # Over splits, of the means over starts: not over the six fits.
    assert line["accuracy_std"] == pytest.approx(math.sqrt(2 * 0.05**2))


def test_the_spread_over_starts_is_pooled_within_splits() -> None:
    (line,) = overall(metrics.spread_over_starts(metrics.split_metrics(users(FITS)))).to_dict("records")
    squares = (0.1**2 + 0 + 0.1**2) + (0.1**2 + 0.1**2 + 0.2**2)
    assert line["spread"] == pytest.approx(math.sqrt(squares / (2 + 2)))
    assert line["starts"] == 3
    # The splits differ by 0.1, which is no part of it.
    apart = {0: (0.6, 0.6), 1: (0.9, 0.9)}
    (line,) = overall(metrics.spread_over_starts(metrics.split_metrics(users(apart)))).to_dict("records")
    assert line["spread"] == 0


def test_one_start_has_no_spread() -> None:
    (line,) = overall(metrics.spread_over_starts(metrics.split_metrics(users({0: (0.6,), 1: (0.9,)})))).to_dict(
        "records"
    )
    assert math.isnan(line["spread"])
    assert line["starts"] == 1


def test_users_are_averaged_over_the_starts_of_a_split() -> None:
    table = metrics.over_starts(users(FITS))
    assert "restart" not in table.columns
    assert table.groupby("split")["accuracy"].unique().map(list).to_dict() == {
        0: [pytest.approx(0.7)],
        1: [pytest.approx(0.6)],
    }
    assert set(table["comparisons"]) == {10}


def test_a_start_that_lacks_a_split_counts_nowhere() -> None:
    whole = users(FITS)
    assert len(metrics.complete_starts(whole)) == len(whole)
    lacks = whole[~((whole["restart"] == 2) & (whole["split"] == 1))]
    assert set(metrics.complete_starts(lacks)["restart"]) == {0, 1}
    # A split that the first start lacks is not one of the row's.
    first_lacks = whole[~((whole["restart"] == 0) & (whole["split"] == 1))]
    kept = metrics.complete_starts(first_lacks)
    assert set(kept["split"]) == {0}
    assert set(kept["restart"]) == {0, 1, 2}


def test_what_starts_leave_in_a_difference() -> None:
    # sqrt((s_a² + s_b²) / (J·R)) = sqrt((0.03² + 0.04²) / (5·5)).
    assert stats.start_error([(0.03, 5), (0.04, 5)], 5) == pytest.approx(0.05 / 5)
    assert stats.start_error([(0.03, 1), (0.04, 4)], 1) == pytest.approx(math.sqrt(0.03**2 + 0.02**2))
    # A spread that is not known adds nothing; without any there is no answer.
    assert stats.start_error([(0.03, 3), (math.nan, 1)], 3) == pytest.approx(0.01)
    assert math.isnan(stats.start_error([(math.nan, 1), (math.nan, 1)], 3))
