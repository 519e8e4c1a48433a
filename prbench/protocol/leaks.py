"""How much of a person is in a fitted state: whether choices were adapted on, and whose state it is."""

from __future__ import annotations

import numpy as np

from prbench.comparisons import FloatArray


def auc(inside: FloatArray, outside: FloatArray) -> float:
    """The chance that a value of `inside` is above one of `outside`, ties one half; NaN where either is empty."""
    if not len(inside) or not len(outside):
        return float("nan")
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    not_above = np.searchsorted(ordered, inside, side="right")
    return float(((below + not_above) / 2).mean() / len(outside))


def distances(left: FloatArray, right: FloatArray) -> FloatArray:
    """1 − correlation of every row of `left` with every row of `right`, [u, m], [v, m] -> [u, v]; 1 for constant
    rows."""

    def standard(rows: FloatArray) -> FloatArray:
        centred = rows - rows.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12))

    return np.asarray(1 - standard(left) @ standard(right).T)


def own_ranks(distance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """From distances [u, u]: the rank of each one's own partner, 1 the closest, and the chance to be picked first.

    Equal distances share their ranks, and the first place.
    """
    partner = np.diagonal(distance)[:, None]
    closer, equal = (distance < partner - 1e-9).sum(1), (np.abs(distance - partner) <= 1e-9).sum(1)
    return closer + (equal + 1) / 2, np.where(closer == 0, 1 / equal, 0.0)
