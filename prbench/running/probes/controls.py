"""Whose preferences a method learns: unseen users adapt to a stranger's choices, or to their own with other labels.

Nothing is fitted. Each function gives the columns of a table of `results.probe_tables`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, PreferenceData
from prbench.method import Method
from prbench.protocol.agreement import strangers_of, support_rates
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.skipping import NotApplicableError

STRANGERS = 5


def strangers(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The wrong-user control: margins after the support of each of up to `STRANGERS` other unseen users.

    A stranger's choices on a pair that is among the user's test pairs are left out, and those in the user's test
    blocks where the protocol divides blocks. The user's own support is then cut to the first k of its choices and the
    stranger's to its first k, k being the smaller of the two numbers. A stranger of whom nothing is left is skipped.
    """
    comparisons, data = setting.comparisons(), setting.data
    rng = adapt_rng(setting, split)
    by_user = _rows_by_user(data, split.unseen_support)
    test = comparisons.take(split.unseen_test)
    features = method.features_of(test)
    cold = method.margins(method.cold_start(split.unseen, comparisons.items, rng=rng), test, features)
    pairs = {int(u): data.same_pair[split.unseen_test[test.user == u]] for u in split.unseen}
    blocks = _test_blocks(setting, split)
    chosen = {u: strangers_of(u, split.unseen, STRANGERS, "strangers", data.name, split.seed) for u in by_user}
    parts: list[dict[str, Any]] = []
    for number in range(STRANGERS):
        own_rows, other_rows, other_users, sizes = [], [], [], {}
        for user, others in chosen.items():
            if number >= len(others):
                continue
            left = by_user[others[number]]
            left = left[~np.isin(data.same_pair[left], pairs[user])]
            if data.block is not None and blocks is not None:
                left = left[~np.isin(data.block[left], blocks)]
            k = min(len(left), len(by_user[user]))
            if k:
                sizes[user] = k
                own_rows.append(by_user[user][:k])
                other_rows.append(left[:k])
                other_users.append(np.full(k, user))
        if not sizes:
            continue
        users = np.array(sorted(sizes), dtype=np.int64)
        own_support = comparisons.take(np.concatenate(own_rows))
        other_support = replace(comparisons.take(np.concatenate(other_rows)), user=np.concatenate(other_users))
        mine = np.isin(test.user, users)
        margins = [
            _margins(method, support.by_user(), split.unseen, test, features, rng)[mine]
            for support in (own_support, other_support)
        ]
        parts.append(
            {
                "user": test.user[mine],
                "comparison": test.row[mine],
                "stranger": np.full(int(mine.sum()), number, dtype=np.int64),
                "choices": np.array([sizes[int(u)] for u in test.user[mine]], dtype=np.int64),
                "own": margins[0],
                "other": margins[1],
                "cold": cold.float().numpy()[mine],
            }
        )
    if not parts:
        raise NotApplicableError("no unseen user has a stranger with support choices on other pairs")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def exchanged(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """Label exchange: margins after the same support with its labels as they are, all reversed, and tossed.

    Reversing follows appendix D of P-TTT (its label exchange); tossed labels keep topic and format and hold no taste.
    """
    comparisons = setting.comparisons()
    rng = adapt_rng(setting, split)
    support, test = comparisons.take(split.unseen_support), comparisons.take(split.unseen_test)
    features = method.features_of(test)
    order = np.argsort(support.row, kind="stable")
    toss = np.zeros(len(support), dtype=bool)
    draw = Rng(split.seed, setting.data.name, "label toss", split.index).numpy()
    toss[order] = draw.random(len(support)) < 0.5
    arms = {
        "margin": support,
        "exchanged": turned(support, np.ones(len(support), dtype=bool)),
        "tossed": turned(support, toss),
    }
    cold = method.margins(method.cold_start(split.unseen, comparisons.items, rng=rng), test, features)
    found = {name: _margins(method, arm, split.unseen, test, features, rng) for name, arm in arms.items()}
    return {"user": test.user, "comparison": test.row, **found, "cold": cold.float().numpy()}


def turned(comparisons: Comparisons, where: np.ndarray[Any, np.dtype[np.bool_]]) -> Comparisons:
    """`comparisons` with the two sides exchanged `where` [n]."""
    return replace(
        comparisons,
        chosen=np.where(where, comparisons.rejected, comparisons.chosen),
        rejected=np.where(where, comparisons.chosen, comparisons.rejected),
    )


def agreement(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """Every user's support rate, from the training or support choices of the split; the method takes no part."""
    data = setting.data
    users = np.concatenate([split.seen, split.unseen])
    rows = np.concatenate([split.seen_train, split.unseen_support])
    rate, pairs = support_rates(data, rows, users)
    planted = np.full(len(users), -1, dtype=np.int64) if data.truth is None else data.truth.cluster[users]
    return {
        "user": users,
        "seen": np.isin(users, split.seen).astype(np.int64),
        "pairs": pairs,
        "rate": rate.astype(np.float32),
        "planted": planted,
    }


def units(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The variance over unseen users of each dimension of the latent state, after adapting on all their support.

    Raises NotApplicableError for a method that does not name its latent state.
    """
    if not method.latent_state:
        raise NotApplicableError("this method has no latent state with a known prior")
    comparisons = setting.comparisons()
    support = comparisons.take(split.unseen_support)
    states = method.adapt_unseen(support, users=split.unseen, rng=adapt_rng(setting, split))
    mean = states.tensors[method.latent_state].flatten(1).double()
    variance = mean.var(0, correction=0).numpy().astype(np.float32)
    return {"dimension": np.arange(len(variance)), "variance": variance}


def require_personal(method: Method, setting: OpenDataset, split: Split) -> None:
    """Raise NotApplicableError where a user's state holds nothing: such a method has no personal state."""
    states = method.cold_start(split.unseen[:1], setting.comparisons().items, rng=adapt_rng(setting, split))
    if not states.tensors:
        raise NotApplicableError("this method keeps nothing of a user")


def _margins(
    method: Method, support: Comparisons, users: IntArray, test: Comparisons, features: Any, rng: Rng
) -> np.ndarray[Any, np.dtype[np.float32]]:
    states = method.adapt_unseen(support, users=users, rng=rng)
    margin: Tensor = method.margins(states, test, features)
    values: np.ndarray[Any, np.dtype[np.float32]] = margin.float().numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{int((~np.isfinite(values)).sum())} margins are not finite")
    return values


def _rows_by_user(data: PreferenceData, rows: IntArray) -> dict[int, IntArray]:
    """Each user's rows in their order."""
    return {int(user): rows[data.user[rows] == user] for user in np.unique(data.user[rows])}


def _test_blocks(setting: OpenDataset, split: Split) -> IntArray | None:
    """The blocks that the split holds out for everybody; None where the protocol divides no blocks."""
    if setting.entry.protocol.unit != "block" or setting.data.block is None:
        return None
    return np.unique(setting.data.block[split.unseen_test])
