"""The rewards that a method gives to all candidates of a user's pools, for best-of-n.

Pools follow from the data and the split alone, so that all methods pick from the same ones. Simulated data have
further pools of new prompts, some of them shifted away from what the data's pairs are drawn from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prbench import data as datasets
from prbench.comparisons import IntArray, Items, Truth
from prbench.method import Method, UserStates
from prbench.protocol.pools import Pools, judged_pools, known_pools
from prbench.protocol.splits import Split
from prbench.results.probe_tables import POOLS
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.beside import fit_of_bt
from prbench.running.skipping import NotApplicableError

LEAST = 3
"""Data whose pools all have fewer candidates say nothing that pairs do not say."""
PROMPTS, REPLIES, KEPT = 20, 64, 8
"""New prompts of simulated data, their candidates, and how many of these a pool has."""


class Candidates(NamedTuple):
    """Pools of one kind, and the items that they number."""

    kind: str
    pools: Pools
    items: Items


def own_pools(setting: OpenDataset, split: Split) -> Pools:
    """The pools of the unseen users' test groups: all candidates where utilities are known, else those judged."""
    truth = setting.data.truth
    if truth is not None and truth.prompt is not None:
        return known_pools(setting.data, split.unseen_test)
    return judged_pools(setting.data, split.unseen_test)


def best_of_n(method: Method, setting: OpenDataset, split: Split, folder: Path) -> dict[str, Any]:
    """The columns of the table: every candidate with the user's utility and the rewards after and before adapting.

    `folder` is the cell's. Raises NotApplicableError where no pool has three candidates, and where the shifted pools
    of simulated data need the fit of bt and it is not there.
    """
    pools = own_pools(setting, split)
    if pools.largest < LEAST:
        raise NotApplicableError(f"{setting.data.name} has no pool of {LEAST} and more candidates")
    comparisons = setting.comparisons()
    found = [Candidates("own", pools, comparisons.items)]
    loader = datasets.make_loader(setting.entry)
    if hasattr(loader, "candidates"):
        found += _new_pools(loader, setting, split, folder)
    rng = adapt_rng(setting, split)
    support = comparisons.take(split.unseen_support)
    adapted = method.adapt_unseen(support, users=split.unseen, rng=rng)
    cold = method.cold_start(split.unseen, comparisons.items, rng=rng)
    parts = [
        {
            "kind": np.full(len(pools), POOLS.index(kind), dtype=np.int64),
            "user": pools.user,
            "pool": pools.pool,
            "item": pools.item,
            "utility": pools.utility.astype(np.float32),
            "reward": _rewards(method, adapted, pools, items),
            "cold": _rewards(method, cold, pools, items),
        }
        for kind, pools, items in found
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rewards(method: Method, states: UserStates, pools: Pools, items: Items) -> np.ndarray[Any, np.dtype[np.float32]]:
    values: np.ndarray[Any, np.dtype[np.float32]] = (
        method.score(states, pools.user, items.take(pools.item)).float().numpy()
    )
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{int((~np.isfinite(values)).sum())} rewards are not finite")
    return values


def _new_pools(loader: Any, setting: OpenDataset, split: Split, folder: Path) -> list[Candidates]:
    """Pools of new prompts: drawn as the data's, of high reward under bt, long ones, and from other directions."""
    usual = loader.candidates(PROMPTS, REPLIES)
    turned = loader.candidates(PROMPTS, REPLIES, other_directions=True)
    first = np.arange(PROMPTS * REPLIES, dtype=np.float64) % REPLIES
    bt = fit_of_bt(folder, split)
    nobody = bt.cold_start(split.unseen[:1], setting.comparisons().items, rng=adapt_rng(setting, split))
    learned = bt.score(nobody, np.full(len(usual.items), split.unseen[0]), usual.items).double().numpy()
    assert usual.items.length is not None
    chosen = {
        "new": (usual, -first),
        "high reward": (usual, learned),
        "long": (usual, usual.items.length.double().numpy()),
        "other directions": (turned, -first),
    }
    return [
        Candidates(kind, _pools_of(world.truth, _highest(by, world.truth), split.unseen), world.items)
        for kind, (world, by) in chosen.items()
    ]


def _highest(by: np.ndarray[Any, np.dtype[np.float64]], truth: Truth) -> IntArray:
    """The `KEPT` items of each prompt with the highest value, prompts in order."""
    assert truth.prompt is not None
    order = np.lexsort((-by, truth.prompt)).reshape(-1, REPLIES)
    return np.sort(order[:, :KEPT], axis=1)


def _pools_of(truth: Truth, items: IntArray, users: IntArray) -> Pools:
    """Every user has a pool of every prompt; `items` [prompts, candidates]."""
    prompts, size = items.shape
    user = np.repeat(users, prompts * size)
    item = np.tile(items.ravel(), len(users))
    pool = np.repeat(np.arange(len(users) * prompts), size)
    return Pools(user, pool, item, truth.utility(user, item))
