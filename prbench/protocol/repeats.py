"""What says the same is never divided: one person's repeats share a group, and every split is checked for them.

A person may judge the same two replies to the same question more than once, in another conversation, in the other
order, or because an export holds rows twice. Both judgements then stand on one side of every split, whatever they
are called: see `PreferenceData.same_item` for when two texts say the same.
"""

from __future__ import annotations

import numpy as np

from prbench.base.errors import InputError
from prbench.comparisons import IntArray, PreferenceData

REPEATS = "comparisons that repeat an earlier one of the same person"
OPPOSITE = "comparisons that choose the other side of an earlier one of the same person"
JOINED = "groups joined with another of the same person, since they share a comparison"
PAIRS_AS_GROUPS = "people with one group, whose groups are therefore their pairs"


def repeats(data: PreferenceData) -> dict[str, int]:
    """How many comparisons repeat an earlier one of the same person, with the same and with the opposite choice."""
    pair = _number(data.user, data.same_pair)
    choice = _number(pair, data.same_item[data.chosen])
    pairs, choices = int(pair.max(initial=-1)) + 1, int(choice.max(initial=-1)) + 1
    return {REPEATS: len(data) - choices, OPPOSITE: choices - pairs}


def join_repeats(data: PreferenceData) -> PreferenceData:
    """`data` with equal comparisons of one person in one group, and with the counts of them.

    Groups of one person that share a comparison become the first of them; those of other people stay. Where no
    groups share any, all columns stay as they are, and with them the fingerprint.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(data):
        return data
    group, pair = _number(data.user, data.group), _number(data.user, data.same_pair)
    groups, pairs = int(group.max()) + 1, int(pair.max()) + 1
    # Every comparison ties its group to its pair; what hangs together is one group.
    ties = coo_array((np.ones(len(data), dtype=np.int8), (group, groups + pair)), shape=(groups + pairs,) * 2)
    parts, part = connected_components(ties, directed=False)
    counts = {**data.counts, **repeats(data), JOINED: groups - parts}
    if parts == groups:
        return data.regrouped(data.group, counts)
    _, first, where = np.unique(part[group], return_index=True, return_inverse=True)
    return data.regrouped(data.group[first][where.reshape(-1)], counts)


def divide_pairs(data: PreferenceData) -> PreferenceData:
    """`data`, with each person's pairs as groups where everybody has one group alone, as with one prompt for all.

    Such people could not be divided between train and test at all. The people concerned are counted.
    """
    if not len(data):
        return data
    group = _number(data.user, data.group)
    pairs = np.unique(np.stack([data.user, data.same_pair]), axis=1)[0]
    if int(group.max()) + 1 > len(np.unique(data.user)) or len(pairs) == len(np.unique(pairs)):
        return data
    return data.regrouped(data.same_pair, {**data.counts, PAIRS_AS_GROUPS: len(np.unique(data.user))})


def require_apart(data: PreferenceData, train: IntArray, test: IntArray) -> None:
    """Raise InputError where a person has an equal comparison among its train and its test rows."""
    pair = _number(data.user, data.same_pair)
    both = np.isin(pair[test], pair[train])
    if both.any():
        raise InputError(
            f"{data.name}: {int(both.sum())} test comparisons of {len(np.unique(data.user[test[both]]))} people are "
            "also among their training comparisons",
            hint="data that prbench.data.load returns, or prbench.protocol.repeats.join_repeats, keep them together",
        )


def shared_with_training(data: PreferenceData, train: IntArray, tests: IntArray) -> dict[str, int]:
    """How many distinct items and pairs of the test rows there are, and how many of them anybody trained on.

    Items and pairs are counted as `PreferenceData.same_item` and `same_pair` tell them apart. `trained_on` means
    that they occur in training comparisons of any person of the split, seen or unseen.
    """

    def items(rows: IntArray) -> IntArray:
        return np.unique(data.same_item[np.concatenate([data.chosen[rows], data.rejected[rows]])])

    known_items, known_pairs = items(train), np.unique(data.same_pair[train])
    test_items, test_pairs = items(tests), np.unique(data.same_pair[tests])
    return {
        "test_items": len(test_items),
        "test_items_trained_on": int(np.isin(test_items, known_items).sum()),
        "test_pairs": len(test_pairs),
        "test_pairs_trained_on": int(np.isin(test_pairs, known_pairs).sum()),
    }


def repeats_note(data: PreferenceData) -> str | None:
    """One sentence on the repeats in data of `prbench.data.load` and on groups that follow from them, or None."""
    phrases = []
    same, opposite = data.counts.get(REPEATS, 0), data.counts.get(OPPOSITE, 0)
    if same or opposite:
        phrases.append(
            f"{same:,} comparisons repeat an earlier one of the same person and {opposite:,} choose its other side; "
            "both stand on one side of every split"
        )
    if people := data.counts.get(PAIRS_AS_GROUPS, 0):
        phrases.append(f"each of the {people:,} people has one group alone, so that pairs are divided")
    return f"{data.name}: {'; '.join(phrases)}" if phrases else None


def _number(user: IntArray, unit: IntArray) -> IntArray:
    """0, 1, ... for the distinct (user, unit), [n]."""
    width = int(unit.max(initial=0)) + 1
    if unit.min(initial=0) < 0:
        unit, width = unit - unit.min(), width - int(unit.min())
    numbers: IntArray = np.unique(user * width + unit, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return numbers
