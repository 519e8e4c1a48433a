"""Best of n: the utility of the reply that a reward picks among n candidates, exactly over all subsets of a pool.

Own definitions; the quantity is the usual best-of-n of a reward model, without generation: the candidates are given.
"""

from __future__ import annotations

from math import comb

import numpy as np

from prbench.comparisons import FloatArray


def expected_pick(reward: FloatArray, utility: FloatArray, n: int) -> FloatArray:
    """The expected utility of the candidate of highest reward among n of a pool, over all subsets of size n.

    [..., N], [..., N] -> [...]. Candidates of equal reward share their places: each of them in the subset is picked
    as often. Raises ValueError for n below 1 or above N.
    """
    size = reward.shape[-1]
    if not 1 <= n <= size:
        raise ValueError(f"a subset of {n} of {size} candidates")
    ways = np.array([comb(k, n) for k in range(size + 1)], dtype=np.float64)
    below = (reward[..., None, :] < reward[..., :, None]).sum(-1)
    equal = (reward[..., None, :] == reward[..., :, None]).sum(-1)
    # The best of the subset is one of the equal ones if the subset lies in them and those below, and not below alone.
    chance = (ways[below + equal] - ways[below]) / equal / ways[size]
    return np.asarray((chance * utility).sum(-1))


def sizes(most: int) -> list[int]:
    """The numbers n that are shown for pools of up to `most` candidates: 1, 2, 4, ... up to it."""
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def tau_b(a: FloatArray, b: FloatArray) -> FloatArray:
    """Kendall's tau-b, [..., N], [..., N] -> [...]; NaN where one of the two is constant."""
    first, second = np.triu_indices(a.shape[-1], 1)
    x, y = (np.sign(each[..., first] - each[..., second]) for each in (a, b))
    spread = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 0, (x * y).sum(-1) / spread, np.nan))
