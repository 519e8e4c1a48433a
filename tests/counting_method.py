"""A method that counts what a user chose, and small data sets and splits given row by row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items, PreferenceData
from prbench.method import Method, ParameterCount, UserStates
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset


class Counts(Method):
    """A user's score of an item is how often the user chose it less how often it was rejected: no cold start."""

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Counts:
        return self

    def seen_users(self) -> UserStates:
        raise AssertionError("no seen user is asked for: every user here adapts from choices")

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        users = support.users if users is None else np.unique(users)
        wins = torch.zeros(len(users), len(support.items))
        for user, chosen, rejected in zip(support.user, support.chosen, support.rejected, strict=True):
            place = int(np.searchsorted(users, user))
            wins[place, chosen] += 1
            wins[place, rejected] -= 1
        return UserStates(users, {"wins": wins})

    def score_features(self, states: UserStates, position: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return (states.tensors["wins"][position] * features).sum(1)

    def parameter_count(self) -> ParameterCount:
        return ParameterCount(0, 4)

    def learned(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, tensors: Any) -> Counts:
        return self


def opened(rows: list[tuple[int, int, int]], unit: str = "group", **columns: Any) -> tuple[OpenDataset, IntArray]:
    """A data set of four items whose embeddings are unit vectors, from (user, chosen, rejected)."""
    table = np.array(rows, dtype=np.int64)
    users = int(table[:, 0].max()) + 1
    data = PreferenceData(
        name="planted",
        contexts=(),
        item_context=np.empty(0, dtype=np.int64),
        responses=(),
        user=table[:, 0],
        chosen=table[:, 1],
        rejected=table[:, 2],
        group=np.arange(len(rows)),
        user_keys=tuple(map(str, range(users))),
        embedded=Items(embedding=torch.eye(4)),
        **columns,
    )
    made = SimpleNamespace(
        data=data,
        entry=SimpleNamespace(protocol=SimpleNamespace(unit=unit)),
        comparisons=lambda: data.comparisons(cast(Items, data.embedded)),
    )
    return cast(OpenDataset, made), table[:, 0]


def split(support: list[int], test: list[int], unseen: list[int], seen: list[int] | None = None) -> Split:
    empty = np.empty(0, dtype=np.int64)
    return Split(
        index=0,
        seed=1,
        seen=np.array(seen or [], dtype=np.int64),
        unseen=np.array(unseen),
        seen_train=empty,
        seen_test=empty,
        unseen_support=np.array(support),
        unseen_test=np.array(test),
        dropped={},
    )
