"""What loaders of comparisons one by one share: numbering, counting what is dropped, and the columns at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from prbench.base.errors import InputError
from prbench.comparisons import Context, PreferenceData

MOST_NUMBERS = 2**31
"""Of one array of simulated data: 8 GB of float32."""


def require_size(of: str, sizes: Mapping[str, float]) -> None:
    """Raise InputError where an array of simulated data would have more than `MOST_NUMBERS` numbers."""
    for name, size in sizes.items():
        if size > MOST_NUMBERS:
            message = f"{of}: its options make {size:.3g} numbers ({name}), {MOST_NUMBERS:.3g} are the most"
            raise InputError(message, hint="ask for less of them")


class Builder:
    """Collects comparisons and makes a `PreferenceData` of them.

    Users, contexts and groups are numbered in the order in which they first appear in a comparison; an item is a
    distinct (context, response). `counts` is printed in the order in which its keys are first set, zeros included.
    """

    def __init__(self, *counts: str) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(counts, 0))
        self._users: Numbering[str] = Numbering()
        self._contexts: Numbering[Context] = Numbering()
        self._items: Numbering[tuple[int, str]] = Numbering()
        self._groups: Numbering[Hashable] = Numbering()
        self._rows: list[tuple[int, int, int, int]] = []
        self._marks: list[int] = []
        self._times: list[float | None] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        user: str,
        context: Context,
        chosen: str,
        rejected: str,
        *,
        group: Hashable,
        mark: int | None = None,
        time: float | None = None,
    ) -> None:
        """One comparison. `mark` is given in all of them or in none; where one has no `time`, the data have none."""
        number = self._contexts[context]
        sides = self._items[number, chosen], self._items[number, rejected]
        self._rows.append((self._users[user], *sides, self._groups[group]))
        self._times.append(time)
        if mark is not None:
            self._marks.append(mark)

    def build(self, name: str, *, empty: str) -> PreferenceData:
        """The data set called `name`. Raises InputError, saying `empty`, when there is no comparison at all."""
        if not self._rows:
            raise InputError(f"{name}: {empty}")
        table = np.array(self._rows, dtype=np.int64)
        times = [time for time in self._times if time is not None]
        optional: Mapping[str, Any] = {
            "mark": np.array(self._marks, dtype=np.int64) if self._marks else None,
            "time": np.array(times, dtype=np.float64) if len(times) == len(self._rows) else None,
        }
        return PreferenceData(
            name=name,
            contexts=tuple(self._contexts),
            item_context=np.array([context for context, _ in self._items], dtype=np.int64),
            responses=tuple(response for _, response in self._items),
            user=table[:, 0].copy(),
            chosen=table[:, 1].copy(),
            rejected=table[:, 2].copy(),
            group=table[:, 3].copy(),
            user_keys=tuple(self._users),
            counts=dict(self.counts),
            **optional,
        )


K = TypeVar("K", bound=Hashable)


class Numbering(dict[K, int]):
    """Numbers keys 0, 1, ... in the order in which they are first asked for."""

    def __missing__(self, key: K) -> int:
        number = self[key] = len(self)
        return number


def keep_frequent(data: PreferenceData, least: int) -> PreferenceData:
    """Only the users with at least `least` comparisons; how many are dropped is added to the counts."""
    if least <= 1:
        return data
    per_user = np.bincount(data.user, minlength=data.n_users)
    keep = np.flatnonzero(per_user >= least)
    if not len(keep):
        raise InputError(
            f"{data.name}: no user has {least} comparisons; the most that one user has is {per_user.max(initial=0)}",
            hint="lower min_comparisons",
        )
    kept = data.select_users(keep)
    dropped = {
        f"users with fewer than {least} comparisons dropped": data.n_users - kept.n_users,
        "comparisons of dropped users": len(data) - len(kept),
    }
    return replace(kept, counts={**data.counts, **dropped})
