"""Labels that are wrong where a choice is hard: unseen users adapt to support labels flipped by how close the pair
is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray
from prbench.method import Method
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.beside import fit_of_bt
from prbench.running.probes.controls import turned

RATES = (0.0, 0.1, 0.2, 0.3)
MOST = 0.5
"""No label is flipped with a higher probability: at one half it says nothing."""


def flip_chances(margin: FloatArray, rate: float) -> FloatArray:
    """The probability of each flip [n]: a·σ(−|m|), at most one half, with a such that their mean is `rate`.

    Raises ValueError for rates outside [0, ½).
    """
    if not 0 <= rate < MOST:
        raise ValueError(f"a rate of {rate:g} is not between 0 and one half")
    if not rate or not len(margin):
        return np.zeros(len(margin))
    close = 1 / (1 + np.exp(np.minimum(np.abs(margin), 500)))
    low, high = 0.0, 1.0
    while np.minimum(high * close, MOST).mean() < rate and high < 1e300:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(middle * close, MOST).mean() < rate else (low, middle)
    return np.asarray(np.minimum(high * close, MOST))


def mistakes(method: Method, setting: OpenDataset, split: Split, folder: Path) -> dict[str, Any]:
    """The columns of the table: margins of the test choices after adapting on support labels flipped at each rate.

    How close a pair is follows from bt, fitted on the split's seen users. The flips nest over rates. Raises
    NotApplicableError where the fit of bt is not there.
    """
    comparisons = setting.comparisons()
    rng = adapt_rng(setting, split)
    support, test = comparisons.take(split.unseen_support), comparisons.take(split.unseen_test)
    bt = fit_of_bt(folder, split)
    shared = bt.cold_start(split.unseen, comparisons.items, rng=rng)
    close = bt.margins(shared, support).double().numpy()
    order = np.argsort(support.row, kind="stable")
    draws = np.empty(len(support))
    draws[order] = Rng(split.seed, setting.data.name, "mistakes", split.index).numpy().random(len(support))
    features = method.features_of(test)
    cold = method.margins(method.cold_start(split.unseen, comparisons.items, rng=rng), test, features)
    parts = []
    for rate in RATES:
        shown = turned(support, draws < flip_chances(close, rate))
        states = method.adapt_unseen(shown, users=split.unseen, rng=rng)
        margin = method.margins(states, test, features).float().numpy()
        if not np.isfinite(margin).all():
            raise FloatingPointError(f"{int((~np.isfinite(margin)).sum())} margins are not finite")
        parts.append(
            {
                "user": test.user,
                "comparison": test.row,
                "rate": np.full(len(test), rate, dtype=np.float32),
                "margin": margin,
                "cold": cold.float().numpy(),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
