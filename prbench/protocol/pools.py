"""Pools of candidates with a user's utilities of them: what best-of-n picks from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from prbench.comparisons import FloatArray, IntArray, PreferenceData


@dataclass(frozen=True, eq=False)
class Pools:
    """Candidates c of all pools: whose pool it is, its number, the item, and the user's utility of it; all [c]."""

    user: IntArray
    pool: IntArray
    item: IntArray
    utility: FloatArray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def fingerprint(self) -> str:
        """8 hex digits of all of it: methods that are compared must have picked from the same pools."""
        state = hashlib.sha256()
        for column in (self.user, self.pool, self.item, self.utility):
            state.update(np.ascontiguousarray(column).tobytes())
        return state.hexdigest()[:8]

    @property
    def largest(self) -> int:
        """The most candidates in a pool, 0 without pools."""
        return int(np.bincount(self.pool).max()) if len(self) else 0


def judged_pools(data: PreferenceData, rows: IntArray) -> Pools:
    """Pools from a user's own choices among `rows`: candidates of one group that these choices connect.

    The utility is the number of choices that the candidate won. Pools are numbered by user, group and lowest item.
    """
    pools: list[tuple[int, int, int, float]] = []
    number = 0
    for user, group in np.unique(np.stack([data.user[rows], data.group[rows]]), axis=1).T.tolist():
        judged_rows = rows[(data.user[rows] == user) & (data.group[rows] == group)]
        wins: dict[int, float] = {}
        part: dict[int, int] = {}
        for chosen, rejected in zip(
            data.chosen[judged_rows].tolist(), data.rejected[judged_rows].tolist(), strict=True
        ):
            wins[chosen] = wins.get(chosen, 0.0) + 1
            wins.setdefault(rejected, 0.0)
            low, high = sorted((part.get(chosen, chosen), part.get(rejected, rejected)))
            part |= {item: low for item, root in part.items() if root == high} | {chosen: low, rejected: low}
        for root in sorted(set(part.values())):
            members = sorted(item for item, of in part.items() if of == root)
            pools += [(user, number, item, wins[item]) for item in members]
            number += 1
    return _pools(pools)


def known_pools(data: PreferenceData, rows: IntArray) -> Pools:
    """Pools of simulated users: all candidates of the prompts in `rows`, with the true utilities.

    Raises ValueError where the data do not keep what their users' utilities are made of.
    """
    truth = data.truth
    if truth is None or truth.prompt is None:
        raise ValueError(f"{data.name} keeps no utilities of its candidates")
    judged_prompts = np.unique(np.stack([data.user[rows], truth.prompt[data.chosen[rows]]]), axis=1).T
    members = {int(p): np.flatnonzero(truth.prompt == p) for p in np.unique(judged_prompts[:, 1])}
    pools: list[tuple[int, int, int, float]] = []
    for number, (user, prompt) in enumerate(judged_prompts.tolist()):
        items = members[prompt]
        worth = truth.utility(np.full(len(items), user), items)
        pools += [(user, number, item, float(u)) for item, u in zip(items.tolist(), worth, strict=True)]
    return _pools(pools)


def _pools(rows: list[tuple[int, int, int, float]]) -> Pools:
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    user, pool, item = (np.array(column, dtype=np.int64) for column in columns[:3])
    return Pools(user, pool, item, np.array(columns[3], dtype=np.float64))
