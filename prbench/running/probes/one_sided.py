"""One-sided feedback: unseen users adapt to clicks alone, or to rejections alone, the other side drawn for them."""

from __future__ import annotations

import hashlib
from itertools import count
from typing import Any

import numpy as np

from prbench.comparisons import Comparisons, FloatArray, IntArray, PreferenceData
from prbench.method import Method
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.controls import require_personal

SIDES = ("clicks", "rejections")


def one_sided(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of the table: margins of the test choices after the support as it is and after each side alone.

    `clicks_false` and `rejections_false` are the share of a user's drawn pairs whose true utilities are the other way
    round, NaN where no utilities are known. Raises NotApplicableError for methods without personal state.
    """
    require_personal(method, setting, split)
    comparisons, data = setting.comparisons(), setting.data
    rng = adapt_rng(setting, split)
    support, test = comparisons.take(split.unseen_support), comparisons.take(split.unseen_test)
    train = comparisons.take(split.seen_train)
    pool = np.unique(np.concatenate([train.chosen, train.rejected]))
    features = method.features_of(test)
    cold = method.margins(method.cold_start(split.unseen, comparisons.items, rng=rng), test, features)
    columns: dict[str, Any] = {"user": test.user, "comparison": test.row}
    arms = {"both": support} | {side: drawn(support, side, pool, data, split.seed) for side in SIDES}
    for name, arm in arms.items():
        states = method.adapt_unseen(arm, users=split.unseen, rng=rng)
        columns[name] = method.margins(states, test, features).float().numpy()
        if not np.isfinite(columns[name]).all():
            raise FloatingPointError(f"{int((~np.isfinite(columns[name])).sum())} margins are not finite")
    for side in SIDES:
        false = _false_share(arms[side], data, split.unseen)
        columns[f"{side}_false"] = false[np.searchsorted(split.unseen, test.user)].astype(np.float32)
    return columns | {"cold": cold.float().numpy()}


def drawn(support: Comparisons, side: str, pool: IntArray, data: PreferenceData, seed: int) -> Comparisons:
    """`support` with the side that the feedback does not have drawn by hash from `pool`, the seen users' items.

    Of these it is one that answers the same context, where there is another one, else any other one; an item that
    says the same is not another one. Raises ValueError where all items of `pool` say the same.
    """
    context, same = _contexts(data), data.same_item
    everywhere = pool.tolist()
    by_context: dict[int, list[int]] = {}
    for item in everywhere:
        by_context.setdefault(int(context[item]), []).append(item)
    meanings = {number: set(same[items].tolist()) for number, items in by_context.items()}
    given, missing = (support.chosen, support.rejected) if side == "clicks" else (support.rejected, support.chosen)
    if len(set(same[pool].tolist())) < 2:
        raise ValueError("the seen users' items are all the same")
    partner = np.empty_like(missing)
    for place, (row, item) in enumerate(zip(support.row.tolist(), given.tolist(), strict=True)):
        meaning, here = int(same[item]), int(context[item])
        among = by_context[here] if meanings.get(here, set()) - {meaning} else everywhere
        # A draw of what says the same is drawn again.
        candidates = (among[_draw(f"{side} {data.name} {seed} {row} {again}") % len(among)] for again in count())
        partner[place] = next(other for other in candidates if same[other] != meaning)
    chosen, rejected = (given, partner) if side == "clicks" else (partner, given)
    return Comparisons(support.items, support.user, chosen, rejected, support.group, support.row)


def _draw(axes: str) -> int:
    return int.from_bytes(hashlib.sha256(f"one-sided {axes}".encode()).digest()[:8], "big")


def _contexts(data: PreferenceData) -> IntArray:
    """The number of what each item answers, [m]; −1 throughout where that is not known."""
    if len(data.item_context):
        return data.item_context
    if data.truth is not None and data.truth.prompt is not None:
        return data.truth.prompt
    return np.full(data.n_items, -1, dtype=np.int64)


def _false_share(arm: Comparisons, data: PreferenceData, users: IntArray) -> FloatArray:
    """The share of each user's pairs whose chosen item has the lower true utility, [users]; NaN where unknown."""
    share = np.full(len(users), np.nan)
    if data.truth is None or data.truth.latent is None:
        return share
    utility = data.truth.utility
    false = utility(arm.user, arm.chosen) < utility(arm.user, arm.rejected)
    for place, user in enumerate(users.tolist()):
        if (of_user := arm.user == user).any():
            share[place] = false[of_user].mean()
    return share
