"""Budget flags and the table of the data, from records and scores that are made up by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_results import Fake, record_of

from prbench.protocol import metrics
from prbench.reporting.budget import NOT_CHOSEN, at_the_end, budget_frame, budget_grid, titles_of, untrained
from prbench.reporting.data_table import properties_frame, properties_grid
from prbench.reporting.grid import DASH
from prbench.reporting.placing import PlacedCell
from prbench.results.record_parts import Fit


def fit(chosen: Any, *curve: float, **more: Any) -> Fit:
    return Fit(rule="validation", chosen=chosen, curve={str(2**i): v for i, v in enumerate(curve)}, **more)


def test_a_moment_is_at_the_end_when_it_is_the_last_and_a_strength_at_either_end() -> None:
    assert at_the_end(fit(4, 0.5, 0.6, 0.7)) is True
    assert at_the_end(fit(2, 0.5, 0.7, 0.6)) is False
    # The first moment is none that more training would pass.
    assert at_the_end(fit(1, 0.7, 0.6, 0.6)) is False
    assert at_the_end(fit(1.0, 0.7, 0.6, 0.6)) is at_the_end(fit(4.0, 0.7, 0.6, 0.8)) is True
    assert at_the_end(fit(2.0, 0.6, 0.7, 0.6)) is False
    assert at_the_end(Fit(rule="last", chosen=4)) is at_the_end(Fit()) is at_the_end(fit(1, 0.7)) is None
    # Two penalties: the second is at the end of its grid; a grid of one strength has no ends.
    two = {"1.0 0.1": 0.6, "1.0 1.0": 0.7, "1.0 10.0": 0.8}
    assert at_the_end(Fit(rule="validation", curve=two, chosen=[1.0, 10.0])) is True
    assert at_the_end(Fit(rule="validation", curve=two, chosen=[1.0, 1.0])) is False


def test_a_curve_within_two_standard_errors_of_one_half_is_untrained() -> None:
    errors = {"1": 0.02, "2": 0.02, "4": 0.02}
    assert untrained(fit(4, 0.5, 0.51, 0.539, curve_error=errors)) is True
    assert untrained(fit(4, 0.5, 0.51, 0.541, curve_error=errors)) is False
    assert untrained(fit(4, 0.5, 0.51, 0.539)) is untrained(Fit(rule="last")) is None


def cell(split: int, chosen: int, *, dataset: str = "d", per_user: int = 3, **more: Any) -> PlacedCell:
    table = Fake().cell(
        "m",
        split,
        dataset=dataset,
        encoder="e",
        selection="last",
        **{"fit": fit(chosen, 0.5, 0.6), "parameters": {"shared": 1, "per_user": per_user}, **more},
    )
    return PlacedCell(record_of(table), "e", "m")


def users(flips: dict[int, list[float]]) -> pd.DataFrame:
    """Flip rates of unseen users by split, each with 10 + user test choices; and a seen user that nothing flips."""
    lines = [
        {"split": split, "population": population, "user": user, "flip_rate": flip, "comparisons": 10 + user}
        for split, values in flips.items()
        for population, own in (("unseen", values), ("seen", [0.0]))
        for user, flip in enumerate(own)
    ]
    row = dict(zip(metrics.ROW, ("d", "e", "m", "last"), strict=True))
    return pd.DataFrame(lines).assign(**row, shots=metrics.ALL_SHOTS)


def test_unchanged_users_are_a_mean_over_splits_and_only_of_methods_with_personal_state() -> None:
    still = users({0: [0.0, 0.0, 0.2, 0.1], 1: [0.0, 0.3]})
    (line,) = budget_frame([cell(0, 2), cell(1, 1)], still).to_dict("records")
    assert line["unchanged"] == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert line["decisions"] == np.median([10, 11, 12, 13, 10, 11])
    assert (line["at_end"], line["judged"], line["measured"]) == (1, 2, 0)
    (impersonal,) = budget_frame([cell(0, 2, per_user=0), cell(1, 1, per_user=0)], still).to_dict("records")
    assert math.isnan(impersonal["unchanged"])
    cells = [cell(split, 7, fit=Fit(rule="last", chosen=7)) for split in (0, 1)]
    (row,) = budget_grid(budget_frame(cells, still), titles_of(cells), "B", "b").rows
    assert [part.text for part in row] == ["M", NOT_CHOSEN, DASH, "50.0", "11"]


def test_the_data_table_prints_what_records_tell_and_dashes_where_they_do_not() -> None:
    told = {
        "disagreement": 0.25,
        "majority": 0.7,
        "shared_pairs": 1200,
        "shared_votes": 5000,
        "pairs_shared": 0.9,
        "consistency": 0.82,
        "repeats": 50,
        "repeaters": 10,
        "consistency_bound": None,
        "choices": [50.0, 80.0, 900.0],
        "per_item": 12.34,
        "longer_wins": None,
    }
    counts = {"test_pairs": 40, "test_pairs_trained_on": 30}
    truths = [
        {part: {"ceiling": ceiling, "floor": 0.6} for part in ("seen", "unseen", "overall")} for ceiling in (0.8, 0.9)
    ]
    cells = [cell(i, 1, properties=told, counts=counts, truth=truths[i]) for i in (0, 1)]
    frame = properties_frame([*cells, cell(0, 1, dataset="old", counts={}, truth=None)])
    new, old = properties_grid(frame).rows
    assert [part.text for part in new] == [
        "d (e)", "80 (50–900)", "25.0", "70.0", "1,200", "82.0", "50", "not identified", "12.3", "75.0", DASH, "+25.0",
    ]  # fmt: skip
    assert {part.text for part in old[1:]} == {DASH}


def test_the_table_of_the_data_has_the_gap_to_the_ranking_for_the_world_where_one_has_it() -> None:
    bare = {"counts": {}, "truth": None}
    told = [cell(0, 1, dataset="both", properties={"world_gap": 0.125}, **bare), cell(0, 1, dataset="own", **bare)]
    grid = properties_grid(properties_frame(told))
    place = grid.header.index("World differs")
    assert [row[place].text for row in grid.rows] == ["12.5", DASH]
    assert {len(row) for row in grid.rows} == {len(grid.header)}
    assert "World differs" in grid.notes[0]
    assert "World differs" not in properties_grid(properties_frame(told[1:])).header
