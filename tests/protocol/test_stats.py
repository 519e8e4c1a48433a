"""Every statistic against numbers worked out by hand, and the tests' error rates by simulation."""

from __future__ import annotations

import math
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata
from scipy.stats import wilcoxon as scipy_wilcoxon

from prbench.base.seeds import Rng
from prbench.protocol import stats

NAN = math.nan
DIFFERENCES = arrays(np.float64, st.integers(2, 30), elements=st.floats(-1, 1, width=16))


def p_two_degrees(t: float) -> float:
    """Student's two-sided p with 2 degrees of freedom, in closed form."""
    return 1 - abs(t) / math.sqrt(t * t + 2)


def test_resampling_ratio() -> None:
    assert stats.resampling_ratio(0.5) == 1
    assert stats.resampling_ratio(0.2) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.resampling_ratio(1.0)


def test_plain_t_by_hand() -> None:
    # mean 2, variance 1: t = 2 / sqrt(1/3)
    t = stats.plain_t([1, 2, 3])
    assert t.statistic == pytest.approx(2 * math.sqrt(3))
    assert t.p == pytest.approx(p_two_degrees(2 * math.sqrt(3)))
    assert stats.plain_t([-1, -2, -3]) == pytest.approx((-t.statistic, t.p))


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_corrected_t_by_hand(ratio: float) -> None:
    expected = 2 / math.sqrt(1 / 3 + ratio)
    t = stats.corrected_t([1, 2, 3], ratio)
    assert t.statistic == pytest.approx(expected)
    assert t.p == pytest.approx(p_two_degrees(expected))
    with pytest.raises(ValueError, match="positive"):
        stats.corrected_t([1, 2, 3], 0.0)


def test_mean_interval_by_hand() -> None:
    # Student's 97.5% quantile with 2 degrees of freedom is 0.95 sqrt(2 / (1 - 0.95²)).
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * math.sqrt(1 / 3 + 1)
    assert stats.mean_interval([1, 2, 3], 1.0) == pytest.approx((2 - half, 2 + half))


@given(DIFFERENCES, st.floats(0.1, 3))
def test_the_interval_and_the_corrected_test_agree(d: np.ndarray, ratio: float) -> None:
    test, (low, high) = stats.corrected_t(d, ratio), stats.mean_interval(d, ratio)
    if math.isnan(test.p):
        assert math.isnan(low)
    elif abs(test.p - 0.05) > 1e-6:
        assert (test.p < 0.05) == (low > 0 or high < 0)
    assert not test.p < stats.plain_t(d).p - 1e-12


@pytest.mark.parametrize("d", [[], [0.3]])
def test_a_single_split_says_nothing(d: list[float]) -> None:
    for test in (stats.plain_t(d), stats.corrected_t(d, 1.0), stats.wilcoxon(d)):
        assert math.isnan(test.p)
        assert math.isnan(test.statistic)
    assert math.isnan(stats.mean_interval(d, 1.0).low)
    assert math.isnan(stats.bootstrap_users(d, rng=Rng("t")).low)


def test_no_spread() -> None:
    zero, constant = [0.0] * 5, [0.1 + 0.2 - 0.3 + 0.01] * 5
    for test in (stats.plain_t(zero), stats.corrected_t(zero, 1.0), stats.wilcoxon(zero)):
        assert test == (0.0, 1.0)
    assert stats.mean_interval(zero, 1.0) == (0.0, 0.0)
    assert stats.bootstrap_users(zero, rng=Rng("t")) == (0.0, 0.0)
    # Rounding is not a difference.
    assert stats.plain_t([0.1 + 0.2 - 0.3, 0.0]).p == 1.0
    assert stats.wilcoxon([0.1 + 0.2 - 0.3, 0.0]).p == 1.0
    for test in (stats.plain_t(constant), stats.corrected_t(constant, 1.0)):
        assert math.isnan(test.p)
    assert math.isnan(stats.mean_interval(constant, 1.0).low)
    assert stats.bootstrap_users(constant, rng=Rng("t")) == pytest.approx((0.01, 0.01))


def test_wilcoxon_by_hand() -> None:
    # Of the 16 sign patterns of ranks 1..4, 7 have a rank sum of at most 4: p = 2 · 7/16.
    assert stats.wilcoxon([0.1, 0.2, 0.3, -0.4]) == pytest.approx((4, 14 / 16))
    # All of one sign: 2 of 16.
    assert stats.wilcoxon([0.1, 0.2, 0.3, 0.4]) == pytest.approx((0, 2 / 16))


def test_wilcoxon_drops_zeros_and_shares_ranks() -> None:
    # Sizes 1 1 2 without the zero: ranks 1.5 1.5 3, negative sum 1.5. Of 8 sign patterns 3 have a sum up to 1.5.
    assert stats.wilcoxon([0.1, -0.1, 0.0, 0.2]) == pytest.approx((1.5, 2 * 3 / 8))
    # 0.3 − 0.2 and 0.1 are the same size, whatever their last bits say.
    assert stats.wilcoxon([0.3 - 0.2, -0.1, 0.2]) == pytest.approx((1.5, 2 * 3 / 8))


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_wilcoxon_agrees_with_all_sign_patterns(values: list[int]) -> None:
    sizes = np.abs([v for v in values if v])
    ranks = rankdata(sizes)
    signs = np.array(list(product([0, 1], repeat=len(ranks)))).reshape(2 ** len(ranks), len(ranks))
    sums = signs @ ranks
    positive = sum(r for r, v in zip(ranks, [v for v in values if v], strict=True) if v > 0)
    smaller = min(positive, ranks.sum() - positive)
    expected = min(1.0, 2 * float((sums <= smaller + 1e-9).mean()))
    assert stats.wilcoxon(np.array(values) / 100) == pytest.approx((smaller, expected))


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=40, unique=True), st.randoms())
def test_wilcoxon_agrees_with_scipy_where_that_is_exact(sizes: list[int], random: Random) -> None:
    d = [size * random.choice([-1, 1]) / 10**6 for size in sizes]
    theirs = scipy_wilcoxon(d, method="exact")
    assert stats.wilcoxon(d) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_user_differences_average_over_the_splits_of_each_user() -> None:
    a = [[0.5, 0.7, NAN], [NAN, 0.9, NAN], [NAN, NAN, 0.4]]
    b = [[0.4, 0.4, 0.1], [0.5, 0.5, NAN], [0.3, NAN, NAN]]
    np.testing.assert_allclose(stats.user_differences(a, b), [0.2, 0.4])


def test_bootstrap_is_seeded_and_near_the_normal_interval() -> None:
    d = Rng("normal").numpy().normal(0.02, 0.1, 400)
    interval = stats.bootstrap_users(d, rng=Rng("a"))
    assert interval == stats.bootstrap_users(d, rng=Rng("a"))
    assert interval != stats.bootstrap_users(d, rng=Rng("b"))
    half = 1.96 * d.std() / 20
    assert interval == pytest.approx((d.mean() - half, d.mean() + half), abs=0.1 * half)
    low, high = stats.bootstrap_users(d, rng=Rng("a"), level=0.5)
    assert interval.low < low < high < interval.high


def test_bootstrap_covers_the_truth() -> None:
    rng = Rng("coverage").numpy()
    hits = 0
    for i in range(200):
        low, high = stats.bootstrap_users(rng.exponential(1.0, 40), rng=Rng("coverage", i), resamples=400)
        hits += low <= 1.0 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, which may not fall: .06.
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    # An undefined comparison counts: three were made.
    np.testing.assert_allclose(stats.holm([0.01, NAN, 0.04]), [0.03, NAN, 0.08])
    assert stats.holm([]).shape == (0,)
    assert stats.holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(values: list[float]) -> None:
    p = np.array(values)
    adjusted = stats.holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * p) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_compare_by_hand() -> None:
    # Splits 0 and 1 are common; user 2 is only in split 1; b lacks split 2.
    a = [[0.6, 0.8, 0.9], [0.4, 0.5, 0.9], [NAN, 0.7, 0.9]]
    b = [[0.5, 0.5, NAN], [0.4, 0.4, NAN], [NAN, 0.5, NAN]]
    result = stats.compare(a, b, ratio=1.0, rng=Rng("t"), resamples=200)
    d = [(0.1 + 0.0) / 2, (0.3 + 0.1 + 0.2) / 3]
    assert result.n_splits == 2
    assert result.n_users == 3
    assert result.difference == pytest.approx(np.mean(d))
    assert result.plain == pytest.approx(stats.plain_t(d))
    assert result.corrected == pytest.approx(stats.corrected_t(d, 1.0))
    assert result.interval == pytest.approx(stats.mean_interval(d, 1.0))
    assert result.wilcoxon == pytest.approx(stats.wilcoxon(d))
    expected = stats.bootstrap_users([0.2, 0.05, 0.2], rng=Rng("t"), resamples=200)
    assert result.bootstrap == pytest.approx(expected)


def test_compare_reversed_and_without_common_splits() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 6, 5))
    forth = stats.compare(a, b, ratio=1.0, rng=Rng("t"), resamples=200)
    back = stats.compare(b, a, ratio=1.0, rng=Rng("t"), resamples=200)
    turned = forth.reversed()
    for name in ("difference", "interval", "plain", "corrected", "wilcoxon"):
        assert getattr(turned, name) == pytest.approx(getattr(back, name))
    assert turned.bootstrap == pytest.approx(back.bootstrap, abs=0.02)
    apart = stats.compare([[0.5, NAN]], [[NAN, 0.5]], ratio=1.0, rng=Rng("t"))
    assert (apart.n_splits, apart.n_users) == (0, 0)
    assert math.isnan(apart.difference)
    assert math.isnan(apart.corrected.p)


def test_error_rates_on_overlapping_splits() -> None:
    """Two learners, equally good: each predicts by a training mean, on its own feature.

    Over 20 random halves of the same 60 points the plain test must find far too many differences, and the
    corrected test about as many as it promises.
    """
    rng = Rng("error rates").numpy()
    repeats, points, splits, alpha = 400, 60, 20, 0.05
    plain = corrected = 0
    for _ in range(repeats):
        features = rng.normal(size=(2, points))
        order = rng.permuted(np.tile(np.arange(points), (splits, 1)), axis=1)
        train, test = features[:, order[:, : points // 2]], features[:, order[:, points // 2 :]]
        error = ((test - train.mean(axis=2, keepdims=True)) ** 2).mean(axis=2)
        d = error[0] - error[1]
        plain += stats.plain_t(d).p < alpha
        corrected += stats.corrected_t(d, 1.0).p < alpha
    assert plain / repeats > 0.5
    assert 0.015 < corrected / repeats < 0.09
