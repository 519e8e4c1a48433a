"""Metrics against numbers worked out by hand, and against slow reference code on random results."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prbench.base.errors import InputError
from prbench.protocol import metrics

SIGNS = st.sampled_from([-1.5, 0.0, 0.5])
ACCURACIES = arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1))


def scores(rows: list[tuple[int, int, str, float, float]], *, shots: int = -1, method: str = "mrm") -> pd.DataFrame:
    """Rows of (split, user, population, margin, cold margin)."""
    table = pd.DataFrame(rows, columns=["split", "user", "population", "margin", "cold_margin"])
    table = table.assign(dataset="d", encoder="e", method=method, selection="validation", restart=0, shots=shots)
    table["comparison"] = np.arange(len(table))
    return table.astype({"margin": np.float32, "cold_margin": np.float32, "population": "category"})


# Split 0. User 1 (seen): right, tie, wrong, right -> 2.5/4. User 2 (seen): right -> 1. User 3 (unseen): wrong, right.
HAND = [
    (0, 1, "seen", 2.0, 2.0),
    (0, 1, "seen", 0.0, 1.0),
    (0, 1, "seen", -1.0, 1.0),
    (0, 1, "seen", 1.0, 0.0),
    (0, 2, "seen", 0.5, -0.5),
    (0, 3, "unseen", -3.0, -1.0),
    (0, 3, "unseen", 1.0, 1.0),
]


def test_user_metrics_by_hand() -> None:
    table = metrics.user_metrics(scores(HAND)).set_index("user")
    assert table["comparisons"].to_dict() == {1: 4, 2: 1, 3: 2}
    assert table["accuracy"].to_dict() == {1: 2.5 / 4, 2: 1.0, 3: 0.5}
    assert table["cold_start"].to_dict() == {1: 3.5 / 4, 2: 0.0, 3: 0.5}
    assert table["tie_rate"].to_dict() == {1: 0.25, 2: 0.0, 3: 0.0}
    # User 1: no change, decision -> tie (1/2), reversed (1), tie -> decision (1/2).
    assert table["flip_rate"].to_dict() == {1: 0.5, 2: 1.0, 3: 0.0}
    loss = [math.log1p(math.exp(-m)) for m in (2.0, 0.0, -1.0, 1.0)]
    assert table["bt_loss"][1] == pytest.approx(sum(loss) / 4)


def test_split_metrics_are_means_over_users_and_shares_of_decisions() -> None:
    table = metrics.split_metrics(metrics.user_metrics(scores(HAND))).set_index("population")
    assert table["accuracy"]["seen"] == pytest.approx((0.625 + 1.0) / 2)
    assert table["accuracy"]["unseen"] == 0.5
    assert table["accuracy"]["overall"] == pytest.approx((0.625 + 1.0 + 0.5) / 3)
    assert table["cold_start"]["overall"] == pytest.approx((0.875 + 0.0 + 0.5) / 3)
    # Pooled over decisions, not users: 3 flips in 7 decisions, 1 tie in 5 of the seen users.
    assert table["flip_rate"]["overall"] == pytest.approx(3 / 7)
    assert table["flip_rate"]["seen"] == pytest.approx(3 / 5)
    assert table["tie_rate"]["seen"] == pytest.approx(1 / 5)
    assert table["users"].to_dict() == {"seen": 2, "unseen": 1, "overall": 3}
    assert table["comparisons"].to_dict() == {"seen": 5, "unseen": 2, "overall": 7}
    assert table["worst50"]["overall"] == pytest.approx((0.5 + 0.625) / 2)  # 2 of 3 users
    assert table["worst20"]["overall"] == 0.5  # 1 of 3


def test_overall_is_missing_where_a_population_is() -> None:
    only_seen = [row for row in HAND if row[2] == "seen"]
    both = scores([*only_seen, *((1, *row[1:]) for row in HAND)])
    table = metrics.split_metrics(metrics.user_metrics(both))
    assert set(table[table["split"] == 0]["population"]) == {"seen"}
    assert set(table[table["split"] == 1]["population"]) == {"seen", "unseen", "overall"}
    over = metrics.over_splits(table).set_index("population")
    assert over["n_splits"].to_dict() == {"seen": 2, "unseen": 1, "overall": 1}


def test_mean_and_spread_over_splits() -> None:
    rows = [(split, u, p, m, m) for split, m in enumerate((1.0, -1.0, 1.0)) for u, p in ((1, "seen"), (2, "unseen"))]
    over = metrics.over_splits(metrics.split_metrics(metrics.user_metrics(scores(rows)))).set_index("population")
    assert over["accuracy"]["overall"] == pytest.approx(2 / 3)
    assert over["accuracy_std"]["overall"] == pytest.approx(np.std([1, 0, 1], ddof=1))
    one = metrics.over_splits(metrics.split_metrics(metrics.user_metrics(scores(HAND))))
    assert one["accuracy_std"].isna().all()


@pytest.mark.parametrize(
    ("users", "k", "expected"),
    [
        (10, 10, 1),
        (11, 10, 2),
        (3, 10, 1),
        (1, 1, 1),
        (10, 20, 2),
        (100, 7, 7),
        (100, 29, 29),
        (173, 50, 87),
        (5, 100, 5),
    ],
)
def test_worst_k_takes_the_ceiling_and_at_least_one_user(users: int, k: int, expected: int) -> None:
    accuracy = np.random.default_rng(0).permutation(users) / users
    assert metrics.worst_k_curve(accuracy)[k - 1] == pytest.approx(np.arange(expected).mean() / users)


def test_no_scores_give_empty_tables_of_the_same_columns() -> None:
    users, none = (metrics.user_metrics(table) for table in (scores(HAND), scores(HAND).iloc[:0]))
    for table in (metrics.split_metrics, metrics.worst_k_curves):
        assert len(table(none)) == 0
        assert table(none).columns.tolist() == table(users).columns.tolist()


def test_worst_k_needs_a_user() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        metrics.worst_k_curve([])


@given(ACCURACIES)
def test_worst_k_curve_rises_from_the_worst_user_to_the_mean(accuracy: np.ndarray) -> None:
    curve = metrics.worst_k_curve(accuracy)
    assert curve.shape == (100,)
    assert (np.diff(curve) >= -1e-12).all()
    assert curve[-1] == pytest.approx(accuracy.mean())
    assert curve[0] >= accuracy.min() - 1e-12


@given(st.lists(st.tuples(SIGNS, SIGNS), min_size=1, max_size=40))
def test_flip_rate_bounds_the_gain_over_cold_start(margins: list[tuple[float, float]]) -> None:
    margin, cold = np.array(margins).T
    gain = abs(metrics.decisions(margin).mean() - metrics.decisions(cold).mean())
    assert gain <= metrics.flips(margin, cold).mean() + 1e-12
    assert (metrics.flips(margin, margin) == 0).all()
    assert (metrics.flips(margin, -margin) == (margin != 0)).all()


def test_bt_loss_does_not_overflow() -> None:
    assert metrics.bt_loss([-1000.0, 1000.0, 0.0]).tolist() == [1000.0, 0.0, math.log(2)]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_user_metrics_agree_with_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (int(rng.integers(2)), int(u := rng.integers(5)), "seen" if u < 3 else "unseen", float(m), float(c))
        for m, c in rng.choice([-2.0, -0.5, 0.0, 0.25], (40, 2))
    ]
    both = pd.concat([scores(rows), scores(rows[:20], shots=5, method="bt")])
    table = metrics.user_metrics(both)
    expected: dict[tuple[str, int, int, int], list[tuple[float, float]]] = {}
    for method, shots, part in (("mrm", -1, rows), ("bt", 5, rows[:20])):
        for split, user, _, margin, cold in part:
            expected.setdefault((method, shots, split, user), []).append((margin, cold))
    got = {(r.method, r.shots, r.split, r.user): r for r in table.itertuples()}
    assert got.keys() == expected.keys()
    for key, pairs in expected.items():
        right = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m, _ in pairs]
        assert got[key].accuracy == pytest.approx(sum(right) / len(right))
        assert got[key].comparisons == len(pairs)
        assert got[key].bt_loss == pytest.approx(np.mean([math.log1p(math.exp(-m)) for m, _ in pairs]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("column", ["margin", "cold_margin"])
def test_margins_that_are_no_numbers_are_refused(bad: float, column: str) -> None:
    table = scores(HAND)
    table.loc[4, column] = bad
    with pytest.raises(InputError, match="d/e/mrm split 0: 1 margins are not finite"):
        metrics.user_metrics(table)


def test_worst_k_curves_hold_every_split_and_population() -> None:
    rows = HAND + [(1, *row[1:]) for row in HAND]
    curves = metrics.worst_k_curves(metrics.user_metrics(scores(rows)))
    assert len(curves) == 2 * 3 * 100
    one = curves[(curves["split"] == 1) & (curves["population"] == "overall")].set_index("k")["accuracy"]
    assert one[33] == 0.5
    assert one[34] == pytest.approx((0.5 + 0.625) / 2)
    assert one[100] == pytest.approx((0.5 + 0.625 + 1.0) / 3)


def test_few_shot_curve_puts_all_the_support_last() -> None:
    rows = [(0, 1, "seen", 1.0, 1.0), (0, 2, "unseen", 1.0, 1.0), (0, 2, "unseen", -1.0, 1.0)]
    wrong = [(0, 1, "seen", 1.0, 1.0), (0, 2, "unseen", -1.0, 1.0)]
    table = pd.concat([scores(rows, shots=10), scores(rows, shots=-1), scores(wrong, shots=0)])
    curve = metrics.few_shot_curve(metrics.split_metrics(metrics.user_metrics(table)))
    assert curve["shots"].tolist() == [0, 10, -1]
    assert curve["accuracy"].tolist() == [0.0, 0.5, 0.5]
    assert set(curve["population"]) == {"unseen"}
