"""Comparing two methods that were run on the same splits.

The splits of one data set share users and comparisons, so the differences between two methods over the splits are
not independent and a plain paired t-test finds too much. The corrected resampled t-test widens the variance for it:

    Nadeau & Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003), 239–281.

All functions are pure, on arrays. Where a statistic is not defined (a single split, no spread to judge by) the
result is NaN, which tables print as "–": it is never 0, 1 or an exception.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prbench.base.seeds import Rng

FloatArray = npt.NDArray[np.float64]
NAN = float("nan")
# Differences of accuracies closer than this are equal: rounding of sums of a few thousand terms stays below it.
ROUNDING = 1e-12
RESAMPLES = 9_999


class Significance(NamedTuple):
    """A two-sided test of "no difference": its statistic and p-value; both NaN where undefined."""

    statistic: float
    p: float


class Interval(NamedTuple):
    """A confidence interval; both ends NaN where undefined."""

    low: float
    high: float


UNDEFINED = Significance(NAN, NAN)
NO_INTERVAL = Interval(NAN, NAN)


def resampling_ratio(test_share: float) -> float:
    """ρ / (1 − ρ) with ρ = `test_share`, the share of a user's groups that a split puts into test.

    Nadeau and Bengio take n_test / (n_test + n_train) for the correlation ρ of the results of two random splits: the
    share of the test data that two splits have in common on average. A protocol that then trains on a part of the
    rest only (`seen_train_limit`) leaves that share as it is.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, not {test_share}")
    return test_share / (1 - test_share)


def plain_t(difference: npt.ArrayLike) -> Significance:
    """Paired t-test of [J] differences, what papers print; too sure on overlapping splits."""
    return _t(difference, 0.0)


def corrected_t(difference: npt.ArrayLike, ratio: float) -> Significance:
    """Corrected resampled t-test of [J] differences over overlapping splits, J − 1 degrees of freedom.

    t = mean / sqrt((1/J + ratio) · s²), where `ratio` is n_test / n_train and s² the sample variance
    (Nadeau & Bengio 2003, §4, "corrected resampled t-test"). A ratio of NaN, of splits that are not random draws,
    leaves the test undefined.
    """
    if ratio <= 0:
        raise ValueError(f"n_test/n_train must be positive, not {ratio}")
    return _t(difference, ratio)


def _t(difference: npt.ArrayLike, ratio: float) -> Significance:
    """All-zero differences give t = 0 and p = 1; equal ones other than zero leave t undefined."""
    from scipy.stats import t as student

    d = np.asarray(difference, dtype=np.float64)
    if len(d) < 2 or np.isnan(ratio):
        return UNDEFINED
    if _no_spread(d):
        return Significance(0.0, 1.0) if abs(d.mean()) <= ROUNDING else UNDEFINED
    statistic = float(d.mean() / _standard_error(d, ratio))
    return Significance(statistic, float(2 * student.sf(abs(statistic), len(d) - 1)))


def mean_interval(difference: npt.ArrayLike, ratio: float, *, level: float = 0.95) -> Interval:
    """The interval of the mean of [J] differences that belongs to `corrected_t`: without 0 where p < 1 − level."""
    from scipy.stats import t as student

    d = np.asarray(difference, dtype=np.float64)
    if len(d) < 2 or np.isnan(ratio):
        return NO_INTERVAL
    if _no_spread(d):
        return Interval(0.0, 0.0) if abs(d.mean()) <= ROUNDING else NO_INTERVAL
    half = float(student.ppf((1 + level) / 2, len(d) - 1)) * _standard_error(d, ratio)
    return Interval(float(d.mean()) - half, float(d.mean()) + half)


def _standard_error(d: FloatArray, ratio: float) -> float:
    return float(np.sqrt((1 / len(d) + ratio) * d.var(ddof=1)))


def _no_spread(d: FloatArray) -> bool:
    return bool(np.ptp(d) <= ROUNDING)


def wilcoxon(difference: npt.ArrayLike) -> Significance:
    """Wilcoxon's signed-rank test of [J] differences (Biometrics Bulletin 1 (1945), 80–83), exact also under ties.

    Zeros are dropped, equal sizes share their mean rank, and the statistic is the smaller of the two rank sums. Its
    distribution is that of all 2^J' equally likely signs of these ranks. All-zero differences give p = 1. Like the
    plain t-test it takes splits for independent.
    """
    from scipy.stats import rankdata

    # scipy.stats.wilcoxon is exact under ties for J ≤ 13 only, in seconds per call, and approximates beyond.
    d = np.asarray(difference, dtype=np.float64)
    if len(d) < 2:
        return UNDEFINED
    d = np.round(d / ROUNDING) * ROUNDING
    d = d[d != 0]
    # Doubled, mean ranks are whole numbers.
    ranks = np.rint(2 * rankdata(np.abs(d))).astype(np.int64)
    chance = np.zeros(ranks.sum() + 1)
    chance[0] = 1.0
    for rank in ranks:
        chance[rank:] = (chance[rank:] + chance[: len(chance) - rank]) / 2
        chance[:rank] /= 2
    smaller = int(min(ranks[d > 0].sum(), ranks[d < 0].sum()))
    return Significance(smaller / 2, min(1.0, 2 * float(chance[: smaller + 1].sum())))


def user_differences(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Each user's mean difference over the splits in which the user occurs: [users, J], [users, J] -> [users'].

    NaN marks a split in which the user was not tested; a user without any common split is left out.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    tested = ~np.isnan(difference)
    count = tested.sum(axis=1)
    total = np.where(tested, difference, 0.0).sum(axis=1)
    return np.asarray(total[count > 0] / count[count > 0])


def bootstrap_users(
    difference: npt.ArrayLike, *, rng: Rng, level: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Bootstrap interval of the mean of [users] differences, drawing users with replacement.

    It answers for the choice of users, where the t-tests answer for the choice of splits. Bias-corrected and
    accelerated (BCa; Efron, JASA 82 (1987), 171–185), by `scipy.stats.bootstrap`. Equal differences give an
    interval of no width; a single user, or no resamples, leaves it undefined.
    """
    from scipy import stats

    d = np.asarray(difference, dtype=np.float64)
    if len(d) < 2 or not resamples:
        return NO_INTERVAL
    if _no_spread(d):
        return Interval(float(d.mean()), float(d.mean()))
    with warnings.catch_warnings():
        # Too few distinct resamples for BCa: the interval comes back as NaN, which says so.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (d,), np.mean, vectorized=True, method="BCa", confidence_level=level, n_resamples=resamples,
            batch=max(1, 4_000_000 // len(d)), rng=rng.numpy(),
        )  # fmt: skip
    low, high = result.confidence_interval
    return Interval(float(low), float(high))


def start_error(spreads: Sequence[tuple[float, int]], splits: int) -> float:
    """The standard error that random starts leave in a difference of two means over `splits` splits.

    `spreads` are (s, R) of both: the standard deviation over starts of one fit and the number of starts of a split;
    sqrt((s_a² + s_b²) / (J·R)) for equal R. A NaN among the s stands for a method of one start, whose spread is not
    known: it adds nothing, and NaN comes back where no s is known.
    """
    known = [s * s / starts for s, starts in spreads if not np.isnan(s)]
    return float(np.sqrt(sum(known) / splits)) if known and splits else NAN


def holm(p: npt.ArrayLike) -> FloatArray:
    """Holm's step-down adjustment of [m] p-values (Scandinavian Journal of Statistics 6 (1979), 65–70), [m] -> [m].

    Rejecting where the adjusted value is below α keeps the chance of any false rejection below α. An undefined
    p-value (NaN) stays undefined, yet counts among the m, since the comparison was asked for.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)  # NaN last
    steps = (len(p) - np.arange(len(p))) * p[order]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """How much better a is than b: `difference` is the mean of a − b over the `n_splits` that both have.

    `interval` belongs to the corrected test; `bootstrap` is over the `n_users` users.
    """

    n_splits: int
    n_users: int
    difference: float
    interval: Interval
    plain: Significance
    corrected: Significance
    wilcoxon: Significance
    bootstrap: Interval

    def reversed(self) -> Comparison:
        """b against a."""

        def swap(interval: Interval) -> Interval:
            return Interval(-interval.high, -interval.low)

        return replace(
            self,
            difference=-self.difference,
            interval=swap(self.interval),
            plain=Significance(-self.plain.statistic, self.plain.p),
            corrected=Significance(-self.corrected.statistic, self.corrected.p),
            bootstrap=swap(self.bootstrap),
        )


def compare(
    a: npt.ArrayLike, b: npt.ArrayLike, *, ratio: float, rng: Rng, level: float = 0.95, resamples: int = RESAMPLES
) -> Comparison:
    """All of the above for two methods' user accuracies, [users, J] each.

    Row: a user; column: a split; NaN: the user was not tested there. A column that is all NaN in one array is a
    split that this method lacks, and takes no part. The split's accuracy is the mean over its users.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    tested = ~np.isnan(a) & ~np.isnan(b)
    count = tested.sum(axis=0)
    total = np.where(tested, a - b, 0.0).sum(axis=0)
    d = total[count > 0] / count[count > 0]
    per_user = user_differences(a, b)
    return Comparison(
        n_splits=len(d),
        n_users=len(per_user),
        difference=float(d.mean()) if len(d) else NAN,
        interval=mean_interval(d, ratio, level=level),
        plain=plain_t(d),
        corrected=corrected_t(d, ratio),
        wilcoxon=wilcoxon(d),
        bootstrap=bootstrap_users(per_user, rng=rng, level=level, resamples=resamples),
    )
