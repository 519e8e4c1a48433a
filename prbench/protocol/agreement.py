"""How often a user sides with the others who judged the same pairs."""

from __future__ import annotations

import hashlib

import numpy as np

from prbench.comparisons import FloatArray, IntArray, PreferenceData

LEAST_PAIRS = 5
"""A support rate of fewer pairs is not used."""


def support_rates(data: PreferenceData, rows: IntArray, users: IntArray) -> tuple[FloatArray, IntArray]:
    """Each user's support rate, [users], and the number of pairs that it rests on, [users]; NaN without a pair.

    The rate is the mean, over the user's choices among `rows` that somebody else judged too, of the share of the
    other annotators who made the same choice: those are all others of the data, whoever they are, each with the
    first vote on the pair.
    """
    number = data.same_pair
    side = (data.same_item[data.chosen] < data.same_item[data.rejected]).astype(np.int64)
    _, first = np.unique(np.stack([number, data.user]), axis=1, return_index=True)
    size = int(number.max(initial=-1)) + 1
    total = np.bincount(number[first], minlength=size)
    for_side = np.bincount(number[first], side[first], minlength=size)
    # What the user's own first vote on the pair adds to both.
    cast = dict(zip(zip(number[first].tolist(), data.user[first].tolist(), strict=True), side[first], strict=True))
    rate, pairs = np.full(len(users), np.nan), np.zeros(len(users), dtype=np.int64)
    place = {int(user): i for i, user in enumerate(users)}
    sums = np.zeros(len(users))
    for row in rows.tolist():
        i, pair = place.get(int(data.user[row])), int(number[row])
        if i is None or total[pair] < 2:
            continue
        own_vote = int(cast[pair, int(data.user[row])])
        others, others_for_side = total[pair] - 1, for_side[pair] - own_vote
        sums[i] += (others_for_side if side[row] else others - others_for_side) / others
        pairs[i] += 1
    rate[pairs > 0] = sums[pairs > 0] / pairs[pairs > 0]
    return rate, pairs


def strangers_of(user: int, others: IntArray, count: int, *axes: str | int) -> list[int]:
    """Up to `count` of `others` without `user`, drawn by hash of `axes` and of the two: independent of their
    order."""

    def place(other: int) -> bytes:
        return hashlib.sha256("\x1f".join(map(str, (*axes, user, other))).encode()).digest()

    return sorted((int(other) for other in others if other != user), key=place)[:count]
