"""The order of time: how it divides, what it lets a method see, and tastes that change."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from counting_method import Counts, opened, split

from prbench import data as datasets
from prbench import registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.loaders import RawSource
from prbench.loaders.simulated import Simulated
from prbench.method import UserStates
from prbench.protocol.splits import make_split
from prbench.registry.schema import ProtocolEntry
from prbench.running.probes import updates
from prbench.running.skipping import NotApplicableError

IN_TIME = ProtocolEntry(name="chronological")


def test_the_earlier_groups_train_and_the_later_ones_test_by_the_earliest_time_in_each() -> None:
    # User 0: groups 0 (times 5 and 1), 1 (2), 2 (3), 3 (4): in order 0, 1, 2, 3. User 1 the other way round.
    rows = [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 2), (0, 1, 3), (1, 0, 1), (1, 0, 2), (1, 0, 3), (1, 1, 2)]
    groups = np.array([0, 0, 1, 2, 3, 0, 1, 2, 3])
    times = np.array([5.0, 1.0, 2.0, 3.0, 4.0, 4.0, 3.0, 2.0, 1.0])
    setting, _ = opened(rows, time=times)
    data = replace(setting.data, group=groups)
    for index in range(4):
        made = make_split(data, IN_TIME, index=index)
        train = np.concatenate([made.seen_train, made.unseen_support])
        assert sorted(train[data.user[train] == 0].tolist()) == [0, 1, 2]
        # In the order of groups, and of times within one: row 1 was first.
        assert train[data.user[train] == 0].tolist() == [1, 0, 2]
        assert train[data.user[train] == 1].tolist() == [8, 7]
        assert sorted(np.concatenate([made.seen_test, made.unseen_test]).tolist()) == [3, 4, 5, 6]
        assert made.dropped["users_of_one_time"] == 0
    assert len({tuple(make_split(data, IN_TIME, index=i).seen) for i in range(8)}) == 2


def test_users_of_one_time_are_left_out_and_counted_and_times_are_needed() -> None:
    rows = [(u, 0, 1 + i) for u in range(3) for i in range(2)]
    setting, _ = opened(rows, time=np.array([1.0, 2.0, 1.0, 2.0, 7.0, 7.0]))
    made = make_split(setting.data, IN_TIME, index=0)
    assert made.dropped["users_of_one_time"] == 1
    assert 2 not in {*made.seen.tolist(), *made.unseen.tolist()}
    with pytest.raises(InputError, match="have no times"):
        make_split(replace(setting.data, time=None), IN_TIME, index=0)
    marked = replace(setting.data, mark=np.arange(6) % 2)
    with pytest.raises(InputError, match="divides groups"):
        make_split(marked, ProtocolEntry(name="chronological", unit="mark"), index=0)


def test_updating_adapts_again_on_all_choices_or_on_each_users_last_ones() -> None:
    setting, _ = opened([(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 3, 0), (1, 3, 1)])
    everything = setting.comparisons()
    method, rng = Counts(), Rng("u")
    states = method.adapt_unseen(everything.take(np.array([0, 3])), users=np.array([0, 1]), rng=rng)
    earlier, new = everything.take(np.array([0, 3])), everything.take(np.array([1, 2, 4]))
    every = method.update_user(states, earlier, new, rng=rng).tensors["wins"]
    assert torch.equal(every, method.adapt_unseen(everything, users=states.users, rng=rng).tensors["wins"])
    last = method.update_user(states, earlier, new, rng=rng, last=2).tensors["wins"]
    assert last.tolist() == [[0, 1, 0, -1], [-1, -1, 0, 2]]
    assert method.update_user(states, earlier, new.take(np.arange(0)), rng=rng, last=1).tensors["wins"][1].tolist() == [
        -1, 0, 0, 1,
    ]  # fmt: skip


def test_the_table_holds_every_step_of_the_users_who_reach_the_largest_and_uses_the_methods_own_update() -> None:
    rows = [(u, 0, 1) if i % 2 else (u, 2, 3) for u in range(10) for i in range(12)]
    setting, users = opened(rows, time=np.tile(np.arange(12.0), 10))
    setting.entry.protocol.name = "chronological"  # type: ignore[misc]
    setting.entry.name = "planted"  # type: ignore[misc]
    place = np.tile(np.arange(12), 10)
    # User 9 has three support choices only: nine of ten reach five and ten.
    support = np.flatnonzero((place < 10) & ((users < 9) | (place < 3)))
    test = np.flatnonzero(place >= 10)

    class Own(Counts):
        calls = 0

        def update_user(
            self, states: UserStates, earlier: Comparisons, new: Comparisons, *, rng: Rng, last: int = 0
        ) -> UserStates:
            type(self).calls += 1
            return super().update_user(states, earlier, new, rng=rng, last=last)

    made = updates.updates(Own(), setting, split(support.tolist(), test.tolist(), list(range(10))))
    assert Own.calls == 4
    assert set(made["user"].tolist()) == set(range(9))
    assert sorted(set(zip(made["choices"].tolist(), made["last"].tolist(), strict=True))) == [
        (5, 0), (5, 10), (10, 0), (10, 10),
    ]  # fmt: skip
    first = (made["choices"] == 5) & (made["last"] == 0)
    # Of the first five choices three are 2 over 3 and two are 0 over 1: margins 6 and 4.
    assert sorted(set(made["margin"][first].tolist())) == [4.0, 6.0]
    assert (made["cold"] == 0).all()
    setting.entry.protocol.name = "paper"  # type: ignore[misc]
    with pytest.raises(NotApplicableError, match="not chronological"):
        updates.updates(Own(), setting, split(support.tolist(), test.tolist(), list(range(10))))


def test_tastes_turn_by_the_angle_after_the_change_and_not_before() -> None:
    options = {"users": 40, "posts": 60, "comparisons": 60, "dim": 16, "temperature": 0.05}
    still = Simulated(**options).load(cast(RawSource, None), "still")  # type: ignore[arg-type]
    drift = Simulated(**options, drift_angle=90.0, drift_after=20).load(cast(RawSource, None), "drift")  # type: ignore[arg-type]
    assert still.time is None
    assert drift.time is not None
    assert still.truth is not None
    assert drift.truth is not None
    early = np.arange(len(drift)) % 60 < 20
    assert (drift.time < 20).tolist() == early.tolist()
    # The same pairs and, before the change, the same utilities; after it they are those that the truth keeps.
    np.testing.assert_array_equal(drift.truth.utility_margin[early], still.truth.utility_margin[early])
    later = drift.truth.utility(drift.user, drift.chosen) - drift.truth.utility(drift.user, drift.rejected)
    np.testing.assert_allclose(later[~early], drift.truth.utility_margin[~early], rtol=1e-4, atol=1e-3)
    a, b = (np.asarray(data.truth.weights) for data in (still, drift) if data.truth)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine, 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1), rtol=1e-5)
    with pytest.raises(InputError, match="drift_after is 0"):
        Simulated(**options, drift_angle=90.0)  # type: ignore[arg-type]


def test_data_without_drift_are_what_they_were() -> None:
    data = datasets.load(registry.get("datasets", "simulated"))
    assert data.fingerprint == FINGERPRINT
    assert registry.get("datasets", "sim-drift").protocol.name == "chronological"
    assert registry.get("datasets", "convarg-time").protocol.name == "chronological"


FINGERPRINT = "b73630e3aaf811ee"
