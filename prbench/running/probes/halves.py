"""Re-identification: a user's state from one half of the support is looked for among states from everybody's other
half."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.method import Method
from prbench.protocol.leaks import distances, own_ranks
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.controls import require_personal
from prbench.running.skipping import NotApplicableError

PAIRS = 500
LEAST = 5


def halves_of(user: IntArray, group: IntArray, seed: int) -> IntArray:
    """0 or 1 for each choice, [n]: each user's groups are divided in two by hash, the first half not the smaller."""
    side = np.zeros(len(user), dtype=np.int64)
    for one in np.unique(user):
        groups = np.unique(group[user == one])
        order = sorted(groups.tolist(), key=lambda g: hashlib.sha256(f"half {seed} {one} {g}".encode()).digest())
        second = order[(len(order) + 1) // 2 :]
        side[(user == one) & np.isin(group, second)] = 1
    return side


def halves(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of the table: the rank of each unseen user's own other half, and the chance to be picked first.

    A state is what it makes of 500 fixed pairs of the seen users' items; users with fewer than five choices in a half
    are left out. Raises NotApplicableError for methods without personal state, and where two users do not remain.
    """
    require_personal(method, setting, split)
    comparisons, data = setting.comparisons(), setting.data
    rng = adapt_rng(setting, split)
    rows = split.unseen_support
    side = halves_of(data.user[rows], data.group[rows], split.seed)
    counts = np.stack([np.bincount(data.user[rows[side == s]], minlength=data.n_users) for s in (0, 1)])
    users = split.unseen[(counts[:, split.unseen] >= LEAST).all(axis=0)]
    if len(users) < 2:
        raise NotApplicableError(f"fewer than two unseen users have {LEAST} choices in both halves of their support")
    pairs = fixed_pairs(comparisons, split)
    views = []
    for s in (0, 1):
        support = comparisons.take(rows[(side == s) & np.isin(data.user[rows], users)])
        states = method.adapt_unseen(support, users=users, rng=rng)
        views.append(np.stack([view(method, states, int(user), pairs) for user in users]))
    if not all(np.isfinite(view).all() for view in views):
        raise FloatingPointError("some margins are not finite")
    rank, first = own_ranks(distances(views[0], views[1]))
    return {
        "user": users,
        "users": np.full(len(users), len(users), dtype=np.int64),
        "rank": rank.astype(np.float32),
        "first": first.astype(np.float32),
    }


def fixed_pairs(comparisons: Comparisons, split: Split) -> Comparisons:
    """`PAIRS` pairs of different items among those that seen users trained on."""
    train = comparisons.take(split.seen_train)
    items = np.unique(np.concatenate([train.chosen, train.rejected]))
    draw = Rng(split.seed, "fixed pairs").numpy()
    first = draw.integers(0, len(items), PAIRS)
    second = (first + draw.integers(1, len(items), PAIRS)) % len(items)
    none = np.zeros(PAIRS, dtype=np.int64)
    return Comparisons(comparisons.items, none, items[first], items[second], none, none)


def view(method: Method, states: Any, user: int, pairs: Comparisons) -> Any:
    """What a user's state makes of fixed pairs: margins [pairs]."""
    asked = Comparisons(pairs.items, np.full(len(pairs), user), pairs.chosen, pairs.rejected, pairs.group, pairs.row)
    return method.margins(states, asked).double().numpy()
