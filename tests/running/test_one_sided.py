"""Clicks alone and rejections alone: the given side stays, the other is drawn among the seen users' items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from counting_method import Counts, opened, split

from prbench.comparisons import Truth
from prbench.running.probes.one_sided import SIDES, drawn, one_sided

# User 0 is seen and judged items 0 to 2; user 1 is not.
ROWS = [(0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 2, 3), (1, 3, 0), (1, 0, 2)]
SUPPORT, TEST = [2, 3, 4], [5]


def test_the_given_side_stays_and_the_other_is_one_of_the_seen_users_items() -> None:
    setting, _ = opened(ROWS)
    support = setting.comparisons().take(np.array(SUPPORT))
    pool = np.array([0, 1, 2])
    clicks, rejections = (drawn(support, side, pool, setting.data, 7) for side in SIDES)
    assert clicks.chosen.tolist() == support.chosen.tolist()
    assert rejections.rejected.tolist() == support.rejected.tolist()
    for partner, given in ((clicks.rejected, clicks.chosen), (rejections.chosen, rejections.rejected)):
        assert set(partner.tolist()) <= {0, 1, 2}
        assert (partner != given).all()
    # Over many seeds every other item is drawn equally often: 400 draws of two, standard deviation 10.
    one = support.take(np.array([0]))
    partners = [int(drawn(one, "clicks", pool, setting.data, seed).rejected[0]) for seed in range(400)]
    assert set(partners) == {1, 2}
    assert abs(partners.count(1) - 200) < 50
    backwards = drawn(support.take(np.arange(len(support))[::-1]), "clicks", pool, setting.data, 7)
    assert backwards.rejected[::-1].tolist() == clicks.rejected.tolist()
    with pytest.raises(ValueError, match="all the same"):
        drawn(support, "clicks", np.array([0]), setting.data, 7)


def test_the_partner_answers_the_same_context_where_there_is_another_one() -> None:
    setting, _ = opened(ROWS)
    support = setting.comparisons().take(np.array(SUPPORT))
    prompt = np.array([0, 1, 0, 1])
    none = np.zeros(0)
    truth = Truth(none, none, none, np.zeros(2, dtype=int), prompt=prompt)
    data = replace(setting.data, truth=truth)
    for seed in range(20):
        clicks = drawn(support, "clicks", np.array([0, 1, 2]), data, seed)
        # Items 0 and 2 answer one prompt; item 3's prompt has item 1 alone.
        assert clicks.rejected[:2].tolist() == [2, 0]
        assert clicks.rejected[2] == 1


def test_margins_after_each_side_and_the_share_of_false_pairs() -> None:
    none = np.zeros(0)
    # To user 1 the items are worth 2, 0, 1 and 3.
    latent, weights = np.eye(4), np.array([[0.0, 0, 0, 0], [2, 0, 1, 3]])
    truth = Truth(
        none, none, none, np.zeros(2, dtype=int), latent=latent, weights=weights, prompt=np.zeros(4, dtype=int)
    )
    setting, _ = opened(ROWS, truth=truth)
    made = one_sided(Counts(), setting, replace(split(SUPPORT, TEST, [1]), seen_train=np.array([0, 1])))
    support = setting.comparisons().take(np.array(SUPPORT))
    # Of 0 over 1, 2 over 3 and 3 over 0, item 0 keeps 1 − 1 and item 2 keeps 1.
    assert made["both"].tolist() == [-1]
    assert made["cold"].tolist() == [0]
    for side in SIDES:
        arm = drawn(support, side, np.array([0, 1, 2]), setting.data, 1)
        wins = np.bincount(arm.chosen, minlength=4) - np.bincount(arm.rejected, minlength=4)
        assert made[side].tolist() == [wins[0] - wins[2]]
        worth = np.array([2, 0, 1, 3])
        assert made[f"{side}_false"] == pytest.approx([np.mean(worth[arm.chosen] < worth[arm.rejected])])
    # Whatever is drawn of 0, 1 and 2 is worth less than the rejected 3, and less than the rejected 0.
    assert made["rejections_false"] == pytest.approx([2 / 3])
    unknown = one_sided(Counts(), opened(ROWS)[0], replace(split(SUPPORT, TEST, [1]), seen_train=np.array([0, 1])))
    assert np.isnan(unknown["clicks_false"]).all()
