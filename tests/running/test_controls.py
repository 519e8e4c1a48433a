"""Controls of whose preferences are learned, on planted users and a method whose margins are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from counting_method import Counts, opened, split

from prbench.comparisons import Truth
from prbench.protocol.agreement import strangers_of, support_rates
from prbench.running.probes import controls
from prbench.running.skipping import NotApplicableError


def test_a_strangers_choices_on_the_users_test_pairs_are_left_out_before_both_are_cut() -> None:
    # User 0 is tested on (0, 1); user 1 judged it, and (2, 3) once. User 0's own support: (0, 2) and (0, 3).
    rows = [(0, 0, 2), (0, 0, 3), (0, 0, 1), (1, 1, 0), (1, 2, 3), (1, 2, 0)]
    setting, _ = opened(rows)
    made = controls.strangers(Counts(), setting, split([0, 1, 3, 4], [2, 5], [0, 1]))
    own = {name: values[made["user"] == 0] for name, values in made.items()}
    # Of user 1 only (2, 3) is left, so k = 1: of its own user 0 keeps 0 over 2, which gives the margin 1 − 0.
    assert own["choices"].tolist() == [1]
    assert own["own"].tolist() == [1.0]
    # The stranger's 2 over 3 says nothing of items 0 and 1; with the choice that was left out it would be −2.
    assert own["other"].tolist() == own["cold"].tolist() == [0.0]
    # User 1 is tested on (2, 0), which user 0 judged: of its two support choices one is left.
    one = {name: values[made["user"] == 1] for name, values in made.items()}
    assert one["choices"].tolist() == [1]
    assert one["own"].tolist() == [1.0]
    assert one["other"].tolist() == [-1.0]


def test_choices_in_the_users_test_blocks_are_left_out_where_blocks_are_held_out() -> None:
    rows = [(0, 0, 2), (0, 0, 1), (1, 1, 3), (1, 1, 2), (1, 2, 3)]
    blocks = np.array([0, 1, 1, 0, 1])
    setting, _ = opened(rows, unit="block", block=blocks)
    made = controls.strangers(Counts(), setting, split([0, 2, 3], [1, 4], [0, 1]))
    mine = made["user"] == 0
    # (1, 3) lies in test block 1; 1 over 2 stays, so the stranger's margin of 0 over 1 is −1, not −2.
    assert made["other"][mine].tolist() == [-1.0]
    setting, _ = opened(rows, unit="group", block=blocks)
    made = controls.strangers(Counts(), setting, split([0, 2, 3], [1, 4], [0, 1]))
    # Not held out: the first of both choices is taken, 1 over 3.
    assert made["other"][made["user"] == 0].tolist() == [-1.0]
    assert controls._test_blocks(setting, split([0], [1], [0])) is None


def test_who_is_a_stranger_depends_on_the_two_and_not_on_their_order() -> None:
    others = np.arange(10)
    first = strangers_of(3, others, 5, "x")
    assert first == strangers_of(3, others[::-1], 5, "x")
    assert 3 not in first
    assert len(set(first)) == 5
    assert first != strangers_of(3, others, 5, "y")
    # One fewer to choose from leaves the order of the others.
    assert [u for u in first if u != first[0]] == strangers_of(3, others[others != first[0]], 5, "x")[:4]


def test_exchanged_labels_negate_a_method_that_counts_and_tossed_ones_are_reproducible() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for user in range(6):
        for _ in range(30):
            a, b = rng.permutation(4)[:2]
            rows.append((user, int(min(a, b)), int(max(a, b))))
    setting, users = opened(rows)
    numbers = np.arange(len(rows))
    support, test = numbers[numbers % 2 == 0], numbers[numbers % 2 == 1]
    made = controls.exchanged(Counts(), setting, split(support.tolist(), test.tolist(), list(range(6))))
    assert made["user"].tolist() == users[test].tolist()
    assert (made["exchanged"] == -made["margin"]).all()
    assert (made["margin"] > 0).mean() > 0.8
    assert 0.2 < (made["tossed"] > 0).mean() < 0.8
    again = controls.exchanged(Counts(), setting, split(support[::-1].tolist(), test.tolist(), list(range(6))))
    assert (again["tossed"] == made["tossed"]).all()


def test_a_support_rate_counts_the_others_on_the_users_own_pairs() -> None:
    # Pair (0, 1): users 0 and 1 for 0, user 2 for 1. Pair (2, 3): users 0 and 3. Pair (0, 3): user 0 alone.
    rows = [(0, 0, 1), (1, 0, 1), (2, 1, 0), (0, 2, 3), (3, 3, 2), (0, 0, 3), (0, 1, 0)]
    setting, _ = opened(rows)
    rate, pairs = support_rates(setting.data, np.array([0, 3, 5]), np.array([0, 1]))
    # One of two others agrees on the first pair, none on the second; nobody else judged the third.
    assert rate[0] == pytest.approx((1 / 2 + 0) / 2)
    assert pairs.tolist() == [2, 0]
    assert np.isnan(rate[1])
    # The last row contradicts user 0's first vote: agreement is with the choice at hand, the others stay the others.
    rate, pairs = support_rates(setting.data, np.array([6]), np.array([0]))
    assert rate[0] == pytest.approx(1 / 2)
    truth = Truth(np.ones(4), np.ones(4), np.ones(len(rows)), np.array([0, 1, 2, 0]))
    setting.data = replace(setting.data, truth=truth)
    made = controls.agreement(Counts(), setting, split([0, 3], [5], [0], seen=[3]))
    assert made["user"].tolist() == [3, 0]
    assert made["seen"].tolist() == [1, 0]
    assert made["planted"].tolist() == [0, 0]


def test_units_are_variances_over_users_and_need_a_latent_state() -> None:
    setting, _ = opened([(0, 0, 1), (1, 0, 1), (2, 1, 0), (0, 1, 0), (1, 2, 3), (2, 2, 3)])
    where = split([0, 1, 2], [3, 4, 5], [0, 1, 2])
    with pytest.raises(NotApplicableError, match="no latent state"):
        controls.units(Counts(), setting, where)

    class Latent(Counts):
        latent_state = "wins"

    made = controls.units(Latent(), setting, where)
    # Items 0 and 1: +1, +1, −1 over users, variance 8/9; items 2 and 3 are never judged in support.
    assert made["variance"] == pytest.approx([8 / 9, 8 / 9, 0, 0])
    assert made["dimension"].tolist() == [0, 1, 2, 3]
