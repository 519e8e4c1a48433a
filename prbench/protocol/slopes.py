"""How a measure of users follows another one: least squares over users, with a bootstrap, and fifths of users."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray
from prbench.protocol.stats import NO_INTERVAL, RESAMPLES, Interval

FIFTHS = 5


class Slope(NamedTuple):
    """Least-squares slope of y on x, and its interval from resampling users."""

    slope: float
    interval: Interval


def slope(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
    """Least-squares slope of y on x along `axis`; NaN where x does not vary."""
    dx = x - x.mean(axis=axis, keepdims=True)
    dy = y - y.mean(axis=axis, keepdims=True)
    spread = (dx * dx).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 1e-15, (dx * dy).sum(axis=axis) / spread, np.nan))


def slope_over_users(
    x: FloatArray, y: FloatArray, *, rng: Rng, level: float = 0.95, resamples: int = RESAMPLES
) -> Slope:
    """The slope over users [n] with a BCa bootstrap of pairs; no interval below three users or without resamples."""
    from scipy import stats

    value = float(slope(x, y))
    if len(x) < 3 or not resamples or np.isnan(value):
        return Slope(value, NO_INTERVAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        result = stats.bootstrap(
            (x, y), slope, paired=True, vectorized=True, method="BCa", confidence_level=level, n_resamples=resamples,
            batch=max(1, 2_000_000 // len(x)), rng=rng.numpy(),
        )  # fmt: skip
    low, high = result.confidence_interval
    return Slope(value, Interval(float(low), float(high)))


def fifths(x: FloatArray) -> IntArray:
    """The fifth of the users, 0 to 4, that each value of x [n] falls into, [n]; equal values share one.

    A group of equal values goes where the middle of its ranks lies, so that a fifth may hold more or fewer than n /
    5.
    """
    _, position, counts = np.unique(x, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.asarray(np.minimum((FIFTHS * middle / len(x)).astype(np.int64), FIFTHS - 1)[position])
