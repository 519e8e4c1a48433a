"""Calibration by hand, against closed forms, and with a planted temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prbench.protocol import calibration as cal


def margin_of(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_confidence_brier_and_weights_by_hand() -> None:
    margins = [margin_of(0.8), -margin_of(0.8), 0.0]
    assert cal.confidence(margins) == pytest.approx([0.8, 0.8, 0.5])
    assert cal.brier(margins) == pytest.approx([0.04, 0.64, 0.25])
    # σ(log 4 / 2) = 2 / 3.
    assert cal.confidence([margin_of(0.8)], 2.0) == pytest.approx([2 / 3])
    assert cal.user_weights(np.array([7, 7, 3])) == pytest.approx([0.5, 0.5, 1.0])


def test_always_one_half_has_the_stated_values() -> None:
    user = np.array([0, 0, 1, 1])
    made = cal.calibration(np.zeros(4), user)
    assert made.nll == pytest.approx(math.log(2))
    assert made.brier == pytest.approx(0.25)
    assert (made.error, made.error_plain, made.gap, made.excess_area) == (0, 0, 0, 0)
    assert math.isnan(cal.fitted_temperature(np.zeros(4), user))
    assert all(map(math.isnan, cal.calibration(np.ones(4), user, float("nan"))))


def test_users_weigh_the_same_however_many_choices_they_have() -> None:
    p, q = margin_of(0.9), margin_of(0.6)
    user = np.array([0, 1, 1, 1, 1])
    made = cal.calibration([p, q, q, q, -q], user)
    assert made.nll == pytest.approx((-math.log(0.9) + (-3 * math.log(0.6) - math.log(0.4)) / 4) / 2)
    assert made.brier == pytest.approx((0.01 + (3 * 0.16 + 0.36) / 4) / 2)
    assert made.gap == pytest.approx(((0.9 - 1) + (0.6 - 0.75)) / 2)


def test_the_calibration_error_by_hand() -> None:
    """Two confidences: 0.8 with 3 of 4 right, 0.6 with 1 of 4 right, one user: two bins of weight one half."""
    high, low = margin_of(0.8), margin_of(0.6)
    margins = np.array([high] * 3 + [-high] + [low] + [-low] * 3)
    corrected, plain = cal.calibration_error(margins, np.zeros(8, dtype=int))
    assert plain == pytest.approx(math.sqrt((0.05**2 + 0.35**2) / 2))
    # Each bin's variance of the mean is p (1 − p) / (n − 1) = 0.1875 / 3.
    assert corrected == pytest.approx(math.sqrt(max((0.05**2 + 0.35**2) / 2 - 0.0625, 0)))


def test_the_correction_removes_the_bias_of_a_calibrated_method() -> None:
    rng = np.random.default_rng(0)
    squares = {"corrected": [], "plain": []}
    for _ in range(200):
        p = rng.uniform(0.5, 1, 300)
        margin = np.where(rng.uniform(size=300) < p, 1, -1) * np.log(p / (1 - p))
        corrected, plain = cal.calibration_error(margin, np.repeat(np.arange(30), 10))
        squares["corrected"].append(corrected**2)
        squares["plain"].append(plain**2)
    # The square of the plain one has the mean of the bins' variances of the mean, about 0.16 / 20.
    assert np.mean(squares["plain"]) == pytest.approx(0.16 / 20, rel=0.2)
    # Cut at 0, so a little is left; the control is the plain one.
    assert np.mean(squares["corrected"]) < 0.25 * np.mean(squares["plain"])


def test_a_planted_temperature_is_found_and_ends_of_the_range_are_kept() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(0, 2, 40_000)
    margin = np.where(rng.uniform(size=40_000) < 1 / (1 + np.exp(-true)), true, -true)
    user = np.arange(40_000) % 50
    assert cal.fitted_temperature(3 * margin, user) == pytest.approx(3, rel=0.05)
    assert cal.fitted_temperature(np.ones(5), np.zeros(5, dtype=int)) == pytest.approx(math.exp(-5))
    assert cal.fitted_temperature(-np.ones(5), np.zeros(5, dtype=int)) == pytest.approx(math.exp(5))


def test_the_excess_area_by_hand() -> None:
    areas = {
        # Risks in order of confidence 1, 0, 0: area (1 + 1/2 + 1/3) / 3; best order 0, 0, 1: (1/3) / 3.
        2: ([3, 2, 1], [0, 1, 1], (1 + 1 / 2) / 3),
        3: ([1, 2, 3], [0, 1, 1], 0),
        # All of one size share the mean risk 1/3.
        7: ([1, 1, 1], [0, 1, 1], 1 / 3 - (1 / 3) / 3),
        9: ([1, 1], [0.5, 0.5], 0),
        # Of the size that the next user's choice has too, and one choice alone.
        10: ([2], [0], 0),
    }
    size, right = (np.concatenate([case[part] for case in areas.values()]) for part in (0, 1))
    user = np.repeat(list(areas), [len(case[0]) for case in areas.values()])
    expected = [case[2] for case in areas.values()]
    shuffled = np.random.default_rng(0).permutation(len(user))
    assert cal.excess_areas(size, right, user) == pytest.approx(expected, abs=1e-12)
    assert cal.excess_areas(size[shuffled], right[shuffled], user[shuffled]) == pytest.approx(expected, abs=1e-12)


def test_halves_are_drawn_by_user_alone() -> None:
    users = np.repeat(np.arange(400), 3)
    half = cal.halves(users, "convarg", 3)
    shuffled = np.random.default_rng(0).permutation(len(users))
    assert np.array_equal(cal.halves(users[shuffled], "convarg", 3), half[shuffled])
    assert all(len(set(half[users == user])) == 1 for user in range(0, 400, 50))
    # Binomial with standard deviation 10.
    assert 150 <= half[::3].sum() <= 250
    assert not np.array_equal(cal.halves(users, "convarg", 4), half)
