"""Membership and re-identification, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from counting_method import Counts, opened

from prbench.method import ParameterCount, UserStates
from prbench.protocol.leaks import auc, distances, own_ranks
from prbench.protocol.splits import Split
from prbench.running.probes import halves
from prbench.running.skipping import NotApplicableError


def test_auc_by_hand() -> None:
    # 3 is above both of 1 and 2, 1 ties with 1 and is below 2: (1 + 1 + ½ + 0) / 4.
    assert auc(np.array([3.0, 1.0]), np.array([1.0, 2.0])) == pytest.approx(2.5 / 4)
    assert auc(np.zeros(3), np.zeros(5)) == 0.5
    assert np.isnan(auc(np.zeros(0), np.zeros(2)))


def test_ranks_share_equal_distances() -> None:
    one = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    distance = distances(one, one)
    assert distance == pytest.approx(np.array([[0, 2, 1], [2, 0, 1], [1, 1, 1.0]]))
    rank, first = own_ranks(distance)
    # A constant state is as far from every one: it shares all three places.
    assert rank.tolist() == [1, 1, 2]
    assert first == pytest.approx([1, 1, 1 / 3])


def test_halves_are_cut_by_groups_and_alike_in_any_order() -> None:
    user, group = np.repeat([0, 1], 12), np.tile(np.repeat(np.arange(6), 2), 2)
    side = halves.halves_of(user, group, 3)
    for one in (0, 1):
        for g in range(6):
            assert len(set(side[(user == one) & (group == g)])) == 1
        assert side[user == one].sum() == 6
    back = halves.halves_of(user[::-1], group[::-1], 3)
    assert back[::-1].tolist() == side.tolist()


class Personal(Counts):
    """As `Counts`, and says that it keeps numbers of a user."""

    def parameter_count(self) -> ParameterCount:
        return ParameterCount(0, 4)


class Nothing(Counts):
    """Keeps numbers of no user."""

    def adapt_unseen(self, support, *, users=None, rng):  # type: ignore[no-untyped-def]

        return UserStates(support.users if users is None else users)


def test_users_of_one_taste_each_are_found_again_and_those_of_one_for_all_are_not() -> None:
    draw = np.random.default_rng(0)
    tastes = [np.array(order) for order in ([0, 1, 2, 3], [3, 1, 0, 2], [1, 3, 2, 0], [2, 0, 3, 1])]
    for personal in (True, False):
        rows = []
        for user in range(4):
            taste = tastes[user if personal else 0]
            for _ in range(120):
                a, b = draw.permutation(4)[:2].tolist()
                rows.append((user, a, b) if taste[a] > taste[b] else (user, b, a))
        # A fifth person, who is seen, judged all items.
        rows += [(4, 0, 1), (4, 2, 3)]
        setting, _ = opened(rows)
        where = Split(
            index=0,
            seed=1,
            seen=np.array([4]),
            unseen=np.arange(4),
            seen_train=np.array([480, 481]),
            seen_test=np.array([480]),
            unseen_support=np.arange(480),
            unseen_test=np.arange(480),
            dropped={},
        )
        made = halves.halves(Personal(), setting, where)
        assert (made["users"] == 4).all()
        if personal:
            assert made["first"].tolist() == [1, 1, 1, 1]
        else:
            assert made["first"].mean() < 0.9
    with pytest.raises(NotApplicableError, match="nothing of a user"):
        halves.halves(Nothing(), setting, where)
    few = Split(**{**where.__dict__, "unseen_support": np.arange(8)})
    with pytest.raises(NotApplicableError, match="fewer than two"):
        halves.halves(Personal(), setting, few)
