"""Attributes read off states: planted ones are told, others are not, and the regressions are what they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from counting_method import Counts, opened, split
from scipy.optimize import minimize

from prbench.base.seeds import Rng
from prbench.protocol.leaks import _aucs, auc, class_auc, logistic_scores
from prbench.running.probes.inference import inference
from prbench.running.skipping import NotApplicableError


def test_many_regressions_at_once_are_each_the_least_of_the_penalised_loss() -> None:
    draw = np.random.default_rng(0)
    train, test = 2 * draw.standard_normal((24, 6)), draw.standard_normal((5, 6))
    is_class = (draw.random((3, 24)) < 0.4).astype(float)
    # Separable but for the penalty.
    is_class[2] = train[:, 0] > 0
    found = logistic_scores(train, is_class, test)
    for k in range(3):
        sign = 2 * is_class[k] - 1

        def loss(weight: np.ndarray, sign: np.ndarray = sign) -> float:
            return float(
                np.logaddexp(0, -sign * (train @ weight[:-1] + weight[-1])).sum() + weight[:-1] @ weight[:-1] / 2
            )

        best = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-9}).x
        assert found[k] == pytest.approx(test @ best[:-1] + best[-1], abs=1e-3)


def test_aucs_of_rows_are_the_auc() -> None:
    draw = np.random.default_rng(1)
    scores = draw.integers(0, 4, (6, 15)).astype(float)
    inside = draw.permuted(np.tile(np.arange(15) < 6, (6, 1)), axis=1)
    expected = [auc(row[mark], row[~mark]) for row, mark in zip(scores, inside, strict=True)]
    assert _aucs(scores, inside) == pytest.approx(expected)


def test_classes_that_states_show_are_told_and_others_as_often_as_chance_says() -> None:
    label = np.repeat([0, 1, 2], 10)
    draw = np.random.default_rng(2)
    told = draw.standard_normal((30, 40)) + 2 * np.eye(3)[label] @ draw.standard_normal((3, 40))
    value, p = class_auc(told, label, Rng(1))
    assert value > 0.95
    assert p == pytest.approx(1 / 1000)
    low = [class_auc(draw.standard_normal((30, 40)), label, Rng(n), permutations=99)[1] <= 0.05 for n in range(20)]
    # Binomial with 20 and 0.05: eight and more in one of 600,000.
    assert sum(low) < 8
    constant, p = class_auc(np.zeros((30, 4)), label, Rng(1), permutations=19)
    assert (constant, p) == (0.5, 1)


def test_the_probe_tells_taste_by_class_and_names_what_it_cannot_do() -> None:
    # Users 1 to 24 choose between items 0 and 1; the first twelve choose 0. User 0 is seen.
    rows = [(0, 0, 1), (0, 2, 3), (0, 1, 2)]
    rows += [(user, *((0, 1) if user <= 12 else (1, 0))) for user in range(1, 25) for _ in range(2)]
    taste = ("", *["tea"] * 12, *["coffee"] * 12)
    chance = ("", *["left", "right"] * 12)
    few = ("", *["a"] * 20, *["b"] * 4)
    setting, _ = opened(rows, attributes={"drink": taste, "hand": chance, "few": few})
    where = replace(split(list(range(3, len(rows))), [], list(range(1, 25)), [0]), seen_train=np.array([0, 1, 2]))
    made = inference(Counts(), setting, where)
    assert made["attribute"].tolist() == ["drink", "hand"]
    assert made["users"].tolist() == [24, 24]
    assert made["auc"][0] == 1
    assert made["p"][0] == pytest.approx(1 / 1000)
    assert made["p"][1] > 0.1
    with pytest.raises(NotApplicableError, match="knows no attributes"):
        inference(Counts(), opened(rows)[0], where)
    with pytest.raises(NotApplicableError, match="two classes of 10 unseen users"):
        inference(Counts(), opened(rows, attributes={"few": few})[0], where)
