"""What a data set is like, as far as it bounds what any method can do on it: computed once when a run opens the data.

A pair is a comparison's two sides, whichever was chosen (`PreferenceData.same_pair`); an annotator's vote on a pair
is the first that this person gave, so that repeats weigh no more than others. Definitions without a source are
prbench's own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from prbench.comparisons import FloatArray, IntArray, PreferenceData

LEAST_REPEATS, LEAST_REPEATERS = 100, 20
"""With fewer repeated judgements, or of fewer users, no bound is drawn from their consistency."""

RANKED_FOR_BOTH = "pairs ordered in a personal and a world ranking"
RANKED_OTHERWISE = "of these, ordered the other way round for the world"
"""Counts of a loader, from which the gap between people's own taste and what they find right for all follows."""


class Votes(NamedTuple):
    """First votes of distinct users by pair: how many there are, and how many of them are for one fixed side,
    [pairs]."""

    total: FloatArray
    for_one: FloatArray


def properties(data: PreferenceData) -> dict[str, Any]:
    """The properties of a data set, ready for JSON; None where the data do not tell.

    `disagreement`: chance that two different annotators of a pair differ, each of the `shared_pairs` (with
    `shared_votes` votes of two and more people) counting once. `majority`: accuracy of the majority of the others on
    these votes, ties one half, each pair counting once; a lower bound of what an ideal rule that is the same for all
    reaches on recurring pairs. `consistency`: chance that two judgements of one person on one pair agree, each
    repeated pair counting once; from `repeats` judgements beyond the first, of `repeaters` users.
    `consistency_bound`: (1 + √(2c − 1)) / 2, the accuracy that nobody can exceed under equal symmetric noise; None
    below 100 repeats or 20 users, and for c below one half. `choices`: least, median and most per user.
    `per_item`: judgements per item. `pairs_shared`: share of distinct pairs that two and more people judged.
    `longer_wins`: share won by the longer response, equal lengths left out. `groups`: what the planted groups of
    simulated users are called. `world_gap`, where the source asked for both: share of the pairs that people
    order by their own taste and for the world in which the two differ.
    """
    votes = first_votes(data)
    pairs = len(votes.total)
    votes = Votes(*(column[votes.total > 1] for column in votes))
    agreed, repeats, repeaters = consistency(data)
    per_user = np.bincount(data.user, minlength=data.n_users)
    both = data.counts.get(RANKED_FOR_BOTH, 0)
    gap = {"world_gap": data.counts.get(RANKED_OTHERWISE, 0) / both} if both else {}
    return {
        "disagreement": disagreement(votes),
        "majority": majority_of_others(votes),
        "shared_pairs": len(votes.total),
        "shared_votes": int(votes.total.sum()),
        "pairs_shared": len(votes.total) / pairs if pairs else None,
        "consistency": agreed,
        "repeats": repeats,
        "repeaters": repeaters,
        "consistency_bound": consistency_bound(agreed, repeats, repeaters),
        "choices": [float(q) for q in np.percentile(per_user, [0, 50, 100])] if data.n_users else None,
        "per_item": 2 * len(data) / data.n_items if data.n_items else None,
        "longer_wins": longer_wins(data),
        "groups": None if data.truth is None else list(data.truth.groups),
        **gap,
    }


def first_votes(data: PreferenceData) -> Votes:
    """Each person's first vote on every pair that this person judged, counted by pair."""
    if not len(data):
        return Votes(np.zeros(0), np.zeros(0))
    for_low = _for_low(data)
    number = data.same_pair
    _, first = np.unique(np.stack([number, data.user]), axis=1, return_index=True)
    pair = number[first]
    size = int(number.max()) + 1
    total = np.bincount(pair, minlength=size).astype(np.float64)
    return Votes(total, np.bincount(pair, for_low[first], minlength=size).astype(np.float64))


def disagreement(votes: Votes) -> float | None:
    """Mean over pairs of 2·k·(n − k) / (n·(n − 1)), for k of n ≥ 2 votes on one side; None without such pairs."""
    n, k = votes.total, votes.for_one
    return float(np.mean(2 * k * (n - k) / (n * (n - 1)))) if len(n) else None


def majority_of_others(votes: Votes) -> float | None:
    """How often a vote is that of the majority of the pair's other votes, a tie one half; the mean over pairs.

    None without pairs of n ≥ 2 votes.
    """
    if not len(votes.total):
        return None
    right = np.zeros(len(votes.total))
    for k in (votes.for_one, votes.total - votes.for_one):
        # One of the k votes of this side is left out: k − 1 others are for it and n − k against it.
        right += k * (np.sign((k - 1) - (votes.total - k)) + 1) / 2
    return float(np.mean(right / votes.total))


def consistency(data: PreferenceData) -> tuple[float | None, int, int]:
    """The chance that two judgements of one person on one pair agree, how many repeats there are, and of how many
    users.

    Each repeated pair of a person counts once; the repeats are the judgements beyond the first.
    """
    if not len(data):
        return None, 0, 0
    keys, number = np.unique(np.stack([data.same_pair, data.user]), axis=1, return_inverse=True)
    number = number.reshape(-1)
    n = np.bincount(number).astype(np.float64)
    k = np.bincount(number, _for_low(data))
    again = n > 1
    n, k = n[again], k[again]
    if not len(n):
        return None, 0, 0
    differ = 2 * k * (n - k) / (n * (n - 1))
    return float(1 - differ.mean()), int((n - 1).sum()), len(np.unique(keys[1, again]))


def consistency_bound(agreed: float | None, repeats: int, repeaters: int) -> float | None:
    """(1 + √(2c − 1)) / 2 for the consistency c: with it e of the judgements are noise, c = (1 − e)² + e²."""
    if agreed is None or agreed < 0.5 or repeats < LEAST_REPEATS or repeaters < LEAST_REPEATERS:
        return None
    return (1 + math.sqrt(2 * agreed - 1)) / 2


def longer_wins(data: PreferenceData) -> float | None:
    """Share of the comparisons that the longer response wins, equally long ones left out; None without lengths."""
    lengths = response_lengths(data)
    if lengths is None:
        return None
    difference = lengths[data.chosen] - lengths[data.rejected]
    unequal = difference != 0
    return float((difference[unequal] > 0).mean()) if unequal.any() else None


def response_lengths(data: PreferenceData) -> IntArray | None:
    """Characters of each item's response, [m]; None where the data came as embeddings without lengths."""
    if data.embedded is None:
        return np.array([len(response) for response in data.responses], dtype=np.int64)
    return None if data.embedded.length is None else data.embedded.length.numpy()


def _for_low(data: PreferenceData) -> FloatArray:
    """1 where the chosen side is the one whose words have the lower number, [n]."""
    return (data.same_item[data.chosen] < data.same_item[data.rejected]).astype(np.float64)
