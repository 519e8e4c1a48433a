"""What a method makes of a user's choices as they come in: after each further batch of them, all kept or the last
few."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from prbench.comparisons import IntArray
from prbench.method import Method, UserStates
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.skipping import NotApplicableError

STEPS = (5, 10, 20, 30, 40, 50, 60, 80, 100)
LAST = 10
SHARE = 0.9
"""The largest step is one that this share of the unseen users reach; all steps are of the users who reach it."""


def steps_for(counts: IntArray) -> list[int]:
    """The steps for users with these numbers of support choices [users]; none where too few have `STEPS[0]`."""
    return [step for step in STEPS if (counts >= step).mean() >= SHARE]


def updates(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of the table: margins of the test choices after each step, by all choices so far and by the last
    ones.

    States are updated by `Method.update_user`, one step after another. `seconds` is what one update cost, per user.
    Raises NotApplicableError where the split's support is not in the order of time, or too small.
    """
    if setting.entry.protocol.name != "chronological":
        raise NotApplicableError(f"the splits of {setting.entry.name} are not chronological")
    comparisons, data = setting.comparisons(), setting.data
    rng = adapt_rng(setting, split)
    rows = split.unseen_support
    users, counts = np.unique(data.user[rows], return_counts=True)
    steps = steps_for(counts)
    if not steps:
        raise NotApplicableError(f"too few unseen users of {setting.entry.name} have {STEPS[0]} support choices")
    users = users[counts >= steps[-1]]
    place = np.concatenate([np.arange(count) for count in counts])
    kept = np.isin(data.user[rows], users)
    test = comparisons.take(split.unseen_test[np.isin(data.user[split.unseen_test], users)])
    features = method.features_of(test)
    start = method.cold_start(users, comparisons.items, rng=rng)
    cold = method.margins(start, test, features).float().numpy()
    parts: list[dict[str, Any]] = []
    for last in (0, LAST):
        states: UserStates = start
        before = 0
        for step in steps:
            earlier = comparisons.take(rows[kept & (place < before)])
            new = comparisons.take(rows[kept & (place >= before) & (place < step)])
            begun = time.perf_counter()
            states = method.update_user(states, earlier, new, rng=rng, last=last)
            spent = (time.perf_counter() - begun) / len(users)
            margin = method.margins(states, test, features).float().numpy()
            if not np.isfinite(margin).all():
                raise FloatingPointError(f"{int((~np.isfinite(margin)).sum())} margins are not finite")
            parts.append(
                {
                    "user": test.user,
                    "comparison": test.row,
                    "choices": np.full(len(test), step, dtype=np.int64),
                    "last": np.full(len(test), last, dtype=np.int64),
                    "margin": margin,
                    "cold": cold,
                    "seconds": np.full(len(test), spent, dtype=np.float32),
                }
            )
            before = step
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
