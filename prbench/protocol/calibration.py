"""Calibration of a method's decisions: how far its confidence may be trusted.

The confidence of a decision is c = σ(|m| / T), from one half to 1, for the margin m and a temperature T; the decision
is right as `metrics.decisions` says, so a tie counts one half. The probability of the chosen side is p = σ(m / T).

Everything is a mean over a user's choices, then over users, but for the calibration error, which is one number for
all test choices of a population: each weighs 1 / (its user's number of choices), because a person's 17 to 51 choices
are too few for bins of their own. Where no source is named the definition is prbench's own.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prbench.comparisons import FloatArray, IntArray
from prbench.protocol.metrics import bt_loss, decisions

BINS = 15
"""Bins of equal weight for the calibration error."""
LOG_TEMPERATURE = (-5.0, 5.0)
"""The range in which log T is fitted."""


class Calibration(NamedTuple):
    """One population under one temperature; all of these are lower-is-better but `gap`, which is best at 0.

    `nll` in nats (0.693 for a method that always says one half), `brier` (0.25 for it), `error` and `error_plain`:
    the calibration error with and without the correction for bias (0 for it, whose confidence is one half), `gap`:
    mean over users of confidence − accuracy (positive: too sure), `excess_area`: risk that a better order of the
    user's own choices by confidence would avoid (0 is the best order).
    """

    nll: float
    brier: float
    error: float
    error_plain: float
    gap: float
    excess_area: float


def confidence(margin: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """σ(|m| / T), [n] -> [n], from one half to 1."""
    return np.asarray(1 / (1 + np.exp(-np.abs(np.asarray(margin, dtype=np.float64)) / temperature)))


def brier(margin: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """(1 − p)² of each choice, [n] -> [n], with p = σ(m / T) the probability given to the chosen side."""
    return np.exp(-2 * bt_loss(-np.asarray(margin, dtype=np.float64) / temperature))


def user_weights(user: IntArray) -> FloatArray:
    """1 / (the user's number of choices) for each choice, [n]; they sum to the number of users."""
    _, position, counts = np.unique(user, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / counts[position])


def fitted_temperature(margin: npt.ArrayLike, user: IntArray) -> float:
    """The T of the least negative log-likelihood (mean over a user's choices, then over users).

    log T is kept within `LOG_TEMPERATURE`. NaN without choices and where every margin is 0, which no T changes.
    """
    from scipy.optimize import minimize_scalar

    values = np.asarray(margin, dtype=np.float64)
    if not np.any(values):
        return float("nan")
    weights = user_weights(user)

    def loss(log_temperature: float) -> float:
        return float(weights @ bt_loss(values * np.exp(-log_temperature)))

    best = minimize_scalar(loss, bounds=LOG_TEMPERATURE, method="bounded", options={"xatol": 1e-6})
    # The minimum may lie at an end, which the bounded search approaches and does not reach.
    return float(np.exp(min((float(best.x), *LOG_TEMPERATURE), key=loss)))


def halves(users: IntArray, *axes: str | int) -> IntArray:
    """0 or 1 for each of `users`, [n] -> [n], drawn by hash of the user and `axes`: independent of their order."""
    text = "\x1f".join(map(str, axes))
    unique, position = np.unique(users, return_inverse=True)
    bits = [hashlib.sha256(f"{text}\x1f{user}".encode()).digest()[0] & 1 for user in unique.tolist()]
    return np.asarray(bits, dtype=np.int64)[position]


def calibration_error(margin: npt.ArrayLike, user: IntArray, temperature: float = 1.0) -> tuple[float, float]:
    """The calibration error of a population's decisions, corrected for bias, and the plain one; both in [0, 1].

    The plain one is the root of Σ_b w_b · (mean confidence − mean right)² over 15 bins of equal weight, where equal
    confidences share a bin. It is above 0 for a calibrated method too, as each bin's mean is noisy: the corrected
    one subtracts that noise, the variance of the mean, in each bin (Kumar, Liang & Ma 2019, "Verified Uncertainty
    Calibration", Definition 4.1; there with equal weights, here with the effective number of choices
    (Σw)² / Σw²) and is 0 where less than nothing is left. A bin with one effective choice has no variance of its
    own; it is left as it is.
    """
    values = np.asarray(margin, dtype=np.float64)
    c, right, weight = confidence(values, temperature), decisions(values), user_weights(user)
    _, position = np.unique(c, return_inverse=True)
    per_level = np.bincount(position, weight)
    middle = np.cumsum(per_level) - per_level / 2
    number = np.minimum((BINS * middle / per_level.sum()).astype(np.int64), BINS - 1)[position]
    number = np.unique(number, return_inverse=True)[1]
    total, of_squares = np.bincount(number, weight), np.bincount(number, weight**2)
    squared = (np.bincount(number, weight * (c - right)) / total) ** 2
    mean_right = np.bincount(number, weight * right) / total
    variance = np.bincount(number, weight * (right - mean_right[number]) ** 2) / total
    # The mean's variance is variance · e / (e − 1) / e of e effective choices.
    effective = total**2 / of_squares
    noise = np.where(effective > 1 + 1e-9, variance / np.maximum(effective - 1, 1e-9), 0.0)
    share = total / total.sum()
    plain, corrected = share @ squared, share @ (squared - noise)
    return float(np.sqrt(max(corrected, 0.0))), float(np.sqrt(plain))


def excess_areas(size: npt.ArrayLike, right: npt.ArrayLike, user: IntArray) -> FloatArray:
    """Each user's excess area under the risk-coverage curve, [users] in the order of their numbers; 0 is the best
    order (Geifman, Uziel & El-Yaniv 2019).

    `size` [n] orders a user's choices, most confident first; `right` [n] is 1, 0, or one half for a tie. Choices of
    equal size share their mean risk. The area is the mean of the risk over coverages 1/n, …, n/n; subtracted is that
    of the same risks in their best order.
    """
    sizes, risk = np.asarray(size, dtype=np.float64), 1 - np.asarray(right, dtype=np.float64)
    _, who, counts = np.unique(user, return_inverse=True, return_counts=True)
    order = np.lexsort((-sizes, who))
    # Users lie one after another, each with its choices in order; a level is a user's choices of one size.
    ends = np.cumsum(counts)
    begins = ends - counts
    changes = (np.diff(sizes[order], prepend=np.nan) != 0) | np.isin(np.arange(len(order)), begins)
    level = np.cumsum(changes) - 1
    shared = (np.bincount(level, risk[order]) / np.bincount(level))[level]
    best = risk[np.lexsort((risk, who))]
    above_best = np.cumsum(shared - best)
    before = np.concatenate([[0.0], above_best])[begins]
    coverage = np.arange(1, len(order) + 1) - np.repeat(begins, counts)
    return np.asarray(np.bincount(np.sort(who), (above_best - np.repeat(before, counts)) / coverage) / counts)


def calibration(margin: npt.ArrayLike, user: IntArray, temperature: float = 1.0) -> Calibration:
    """All measures of one population of one split: margins [n] of the users [n].

    NaN throughout where T is NaN (all margins of its fit were 0). Raises ValueError without choices.
    """
    values = np.asarray(margin, dtype=np.float64)
    if not len(values):
        raise ValueError("calibration needs at least one choice")
    if not np.isfinite(temperature):
        return Calibration(*[float("nan")] * len(Calibration._fields))
    weight = user_weights(user)
    mean = weight / weight.sum()
    right = decisions(values)
    error, plain = calibration_error(values, user, temperature)
    return Calibration(
        nll=float(mean @ bt_loss(values / temperature)),
        brier=float(mean @ brier(values, temperature)),
        error=error,
        error_plain=plain,
        gap=float(mean @ (confidence(values, temperature) - right)),
        excess_area=float(np.mean(excess_areas(np.abs(values), right, user))),
    )
