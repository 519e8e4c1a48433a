"""Groups of users: which may be shown, and the test of their gap."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from prbench.base.seeds import Rng
from prbench.loaders import RawSource
from prbench.loaders.sim_text import PROPERTIES, SimText
from prbench.protocol.groups import gap, gap_p, group_means, shown_groups


def test_small_groups_are_joined_or_hidden() -> None:
    values = ["a"] * 20 + ["b"] * 12 + ["c"] * 6 + ["d"] * 5
    assert shown_groups(values) == ["a"] * 20 + ["b"] * 12 + ["other"] * 11
    # Six users in small groups: hidden, and with them the next smallest group.
    values = ["a"] * 20 + ["b"] * 12 + ["e"] * 15 + ["c"] * 4 + ["d"] * 2
    assert shown_groups(values) == ["a"] * 20 + [""] * 12 + ["e"] * 15 + [""] * 6
    # An attribute that identifies people shows nothing of anybody.
    assert set(shown_groups([str(i) for i in range(9)])) == {""}
    assert set(shown_groups([str(i) for i in range(40)])) == {"other"}


def test_means_and_gap_by_hand() -> None:
    values, group = np.array([0.5, 0.7, 0.9, 0.1]), np.array([0, 0, 1, 2])
    assert group_means(values, group) == pytest.approx([0.6, 0.9, 0.1])
    assert gap(values, group) == pytest.approx(0.8)


def test_the_p_value_is_that_of_permuted_labels() -> None:
    group = np.array([0] * 15 + [1] * 15)
    noise = Rng("groups").numpy().normal(0, 0.1, 30)
    apart = noise + np.where(group == 1, 0.3, 0.0)
    assert gap_p(apart, group, rng=Rng("p"), permutations=999) == pytest.approx(1 / 1000)
    assert gap_p(np.full(30, 0.5), group, rng=Rng("p"), permutations=199) == 1
    drawn = [
        gap_p(Rng("null", i).numpy().normal(size=30), group, rng=Rng("p", i), permutations=199) for i in range(200)
    ]
    # Uniform where labels mean nothing: 200 draws lie below 0.2 in 40 ± 4 · 5.7 cases.
    assert 17 < sum(p <= 0.2 for p in drawn) < 63


def test_one_attribute_of_simulated_texts_follows_taste_and_the_other_does_not() -> None:
    loader = SimText()
    data = loader.load(cast(RawSource, None), "texts")
    weights = loader._world(Rng("sim-text", 0)).weights[:, PROPERTIES.index("formal")]
    means = {}
    for name, values in data.attributes.items():
        group = np.unique(values, return_inverse=True)[1]
        assert np.bincount(group).min() >= 10
        means[name] = gap_p(weights, group, rng=Rng(name), permutations=999)
    assert means["profession"] < 0.01
    assert means["device"] > 0.05
    kept = data.select_users(np.array([1, 4]))
    assert kept.attributes["device"] == tuple(data.attributes["device"][i] for i in (1, 4))
    assert "lawyer" not in repr(data)
