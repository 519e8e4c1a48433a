"""Samples of test choices, for methods whose every decision costs a call: fixed by hash, the same for all of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import IntArray, PreferenceData
from prbench.protocol.splits import Split
from prbench.registry.schema import TestSample


def sampled(data: PreferenceData, split: Split, share: TestSample) -> Split:
    """The split with a share of the users of each population, and of each of these users' test choices.

    Of n users or choices there are ⌈share · n⌉, those with the smallest hashes of the data set's name and their own
    number. Train and support rows of the users that stay are all kept.
    """
    seen, unseen = (_smallest(data.name, "user", each, share.users) for each in (split.seen, split.unseen))

    def of(users: IntArray, rows: IntArray) -> IntArray:
        return rows[np.isin(data.user[rows], users)]

    def share_of(users: IntArray, rows: IntArray) -> IntArray:
        rows = of(users, rows)
        kept = [_smallest(data.name, "choice", rows[data.user[rows] == user], share.choices) for user in users]
        return np.concatenate([rows[:0], *kept])

    return replace(
        split,
        seen=seen,
        unseen=unseen,
        seen_train=of(seen, split.seen_train),
        seen_test=share_of(seen, split.seen_test),
        unseen_support=of(unseen, split.unseen_support),
        unseen_test=share_of(unseen, split.unseen_test),
    )


def _smallest(name: str, what: str, numbers: IntArray, share: float) -> IntArray:
    """Of some numbers the share with the smallest hashes, in ascending order."""
    if share == 1:
        return numbers
    hashes = [Rng("test sample", name, what, int(number)).seed for number in numbers]
    # The slack keeps a share such as 0.1 of 30 from becoming 4 by rounding.
    count = math.ceil(share * len(numbers) - 1e-9)
    return np.sort(numbers[np.argsort(np.array(hashes, dtype=np.int64), kind="stable")[:count]])
