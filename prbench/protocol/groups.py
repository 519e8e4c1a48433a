"""Groups of users by an attribute: which may be shown, and whether they fare differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray

LEAST = 10
"""A smaller group is not shown by itself: its numbers would be those of single people."""
OTHER = "other"
PERMUTATIONS = 9_999


def shown_groups(values: Sequence[str]) -> list[str]:
    """Each user's group as it may be shown, [users]; "" for users in no group that may be.

    Groups below `LEAST` users are joined into "other". Where that is below `LEAST` too it is hidden, together with
    the next smallest group, as its size would follow from the others'.
    """
    counts = Counter(values)
    groups = {name: name if count >= LEAST else OTHER for name, count in counts.items()}
    joined = Counter(groups[value] for value in values)
    if 0 < joined.get(OTHER, 0) < LEAST:
        rest = [name for name in joined if name != OTHER]
        hidden = {OTHER, *([min(rest, key=lambda name: (joined[name], name))] if rest else [])}
        groups = {name: "" if group in hidden else group for name, group in groups.items()}
    return [groups[value] for value in values]


def group_means(values: FloatArray, group: IntArray) -> FloatArray:
    """The mean of the values [..., users] in each group 0, 1, ... [users], as [..., groups]."""
    member = np.eye(int(group.max()) + 1)[group]
    return np.asarray(values @ member / member.sum(0))


def gap(values: FloatArray, group: IntArray) -> float:
    """The largest group mean minus the smallest."""
    return float(np.ptp(group_means(values, group)))


def gap_p(values: FloatArray, group: IntArray, *, rng: Rng, permutations: int = PERMUTATIONS) -> float:
    """The chance of a gap as large when groups are drawn at random: labels permuted over users, this one included."""
    observed = gap(values, group)
    draw = rng.numpy()
    member = np.eye(int(group.max()) + 1)[group]
    share = member / member.sum(0)
    larger = 0
    for at in range(0, permutations, 1000):
        count = min(1000, permutations - at)
        shuffled = draw.permuted(np.tile(values, (count, 1)), axis=1)
        larger += int((np.ptp(shuffled @ share, axis=1) >= observed - 1e-12).sum())
    return (1 + larger) / (1 + permutations)
