"""Properties of a data set, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from prbench.comparisons import PreferenceData, as_context
from prbench.protocol import properties as module
from prbench.protocol.properties import Votes, consistency, consistency_bound, properties


def data(rows: list[tuple[int, int, int]]) -> PreferenceData:
    """(user, chosen, rejected) on four replies of 1, 2, 3 and 3 characters."""
    table = np.array(rows, dtype=np.int64)
    users = int(table[:, 0].max()) + 1
    return PreferenceData(
        name="hand",
        contexts=(as_context("?"),),
        item_context=np.zeros(4, dtype=np.int64),
        responses=("a", "bb", "ccc", "ddd"),
        user=table[:, 0],
        chosen=table[:, 1],
        rejected=table[:, 2],
        group=np.arange(len(rows)),
        user_keys=tuple(map(str, range(users))),
    )


def test_disagreement_and_majority_count_each_pair_once() -> None:
    # Pair (0, 1): 2 votes for 0 and 1 for 1. Pair (2, 3): four votes for 2. Pair (0, 2): one vote, left out.
    told = properties(data([(0, 0, 1), (1, 0, 1), (2, 1, 0), (0, 2, 3), (1, 2, 3), (2, 2, 3), (3, 2, 3), (0, 0, 2)]))
    # 2·2·1 / (3·2) = 2/3 and 0.
    assert told["disagreement"] == pytest.approx((2 / 3 + 0) / 2)
    # Of three votes 2 : 1 each of the two sees a tie among the others, the third two against it: (½ + ½ + 0) / 3.
    assert told["majority"] == pytest.approx((1 / 3 + 1) / 2)
    assert (told["shared_pairs"], told["shared_votes"]) == (2, 7)
    assert told["pairs_shared"] == pytest.approx(2 / 3)
    # Longer: (2 over 3) is of equal lengths; of the other four the longer wins only 1 over 0.
    assert told["longer_wins"] == pytest.approx(1 / 4)
    assert told["choices"] == [1, 2, 3]
    assert told["per_item"] == pytest.approx(2 * 8 / 4)
    assert (told["consistency"], told["repeats"]) == (None, 0)


def test_a_person_who_repeats_votes_once_in_the_disagreement_and_is_judged_by_consistency() -> None:
    # User 0 judges (0, 1) three times, 2 : 1, and (2, 3) twice alike; user 1 judges (0, 1) once, unlike user 0's first.
    told = data([(0, 0, 1), (0, 0, 1), (0, 1, 0), (0, 2, 3), (0, 2, 3), (1, 1, 0)])
    assert properties(told)["disagreement"] == pytest.approx(1.0)
    agreed, repeats, repeaters = consistency(told)
    assert agreed == pytest.approx(((1 - 2 / 3) + 1) / 2)
    assert (repeats, repeaters) == (3, 1)


def test_the_bound_follows_from_consistency_only_where_there_are_enough_repeats() -> None:
    # A tenth of judgements is wrong: two agree with 0.81 + 0.01.
    assert consistency_bound(0.82, 100, 20) == pytest.approx(0.9)
    assert consistency_bound(0.5, 100, 20) == pytest.approx(0.5)
    for agreed, repeats, users in ((0.82, 99, 20), (0.82, 100, 19), (0.49, 500, 50), (None, 0, 0)):
        assert consistency_bound(agreed, repeats, users) is None


def test_two_votes_that_differ_are_never_those_of_the_majority() -> None:
    pair = Votes(np.array([2.0]), np.array([1.0]))
    assert (module.disagreement(pair), module.majority_of_others(pair)) == (1, 0)
    five = Votes(np.array([5.0]), np.array([3.0]))
    # Three see 2 : 2, a tie; two see 1 against 3.
    assert module.majority_of_others(five) == pytest.approx(3 / 5 / 2)
    assert module.disagreement(five) == pytest.approx(2 * 3 * 2 / (5 * 4))
