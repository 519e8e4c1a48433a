"""Best-of-n by hand and by counting all subsets, and the pools it picks from."""

from __future__ import annotations

from itertools import combinations
from typing import cast

import numpy as np
import pytest
from scipy.stats import kendalltau

from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import RawSource
from prbench.loaders.sim_text import SimText
from prbench.loaders.simulated import Simulated
from prbench.protocol.best_of_n import expected_pick, sizes, tau_b
from prbench.protocol.pools import judged_pools, known_pools


def test_the_pick_by_hand() -> None:
    utility = np.array([10.0, 20.0, 40.0])
    # Of three pairs the reward picks the second, the third and the third.
    assert expected_pick(np.array([1.0, 2.0, 3.0]), utility, 2) == pytest.approx((20 + 40 + 40) / 3)
    assert expected_pick(np.array([3.0, 2.0, 1.0]), utility, 2) == pytest.approx((10 + 10 + 20) / 3)
    # A tie of the two best: each is picked as often, in the pair of both and in the whole pool.
    assert expected_pick(np.array([1.0, 2.0, 2.0]), utility, 2) == pytest.approx((20 + 40 + 30) / 3)
    assert expected_pick(np.array([1.0, 2.0, 2.0]), utility, 3) == pytest.approx(30)
    for reward in ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]):
        assert expected_pick(np.array(reward), utility, 1) == pytest.approx(70 / 3)
    with pytest.raises(ValueError, match="a subset of 4 of 3"):
        expected_pick(np.ones(3), utility, 4)


def test_the_pick_is_the_mean_over_all_subsets_also_under_ties() -> None:
    draw = np.random.default_rng(0)
    for _ in range(40):
        size = int(draw.integers(2, 7))
        reward, utility = draw.integers(0, 4, size).astype(float), draw.normal(size=size)
        for n in range(1, size + 1):
            picks = []
            for subset in combinations(range(size), n):
                best = max(reward[list(subset)])
                picks.append(np.mean([utility[i] for i in subset if reward[i] == best]))
            assert expected_pick(reward, utility, n) == pytest.approx(np.mean(picks))


def test_many_pools_at_once_are_as_one_by_one_and_tau_is_that_of_scipy() -> None:
    draw = np.random.default_rng(1)
    reward, utility = draw.integers(0, 3, (30, 5)).astype(float), draw.normal(size=(30, 5))
    together, taus = expected_pick(reward, utility, 3), tau_b(reward, utility)
    for i in range(30):
        assert together[i] == pytest.approx(expected_pick(reward[i], utility[i], 3))
        if np.ptp(reward[i]):
            assert taus[i] == pytest.approx(kendalltau(reward[i], utility[i]).statistic)
        else:
            assert np.isnan(taus[i])
    assert (sizes(1), sizes(3), sizes(8)) == ([1], [1, 2], [1, 2, 4, 8])


def test_pools_are_the_candidates_that_a_users_choices_connect_within_a_group() -> None:
    # Group 0: items 0-1-2 connected by two choices, items 3-4 apart. Group 1 of the same user, and another user.
    rows = [(0, 0, 1, 0), (0, 2, 1, 0), (0, 0, 2, 0), (0, 4, 3, 0), (0, 1, 0, 1), (1, 1, 2, 2)]
    table = np.array(rows, dtype=np.int64)
    data = PreferenceData(
        name="hand",
        contexts=(as_context("?"),),
        item_context=np.zeros(5, dtype=np.int64),
        responses=tuple("abcde"),
        user=table[:, 0],
        chosen=table[:, 1],
        rejected=table[:, 2],
        group=table[:, 3],
        user_keys=("a", "b"),
    )
    pools = judged_pools(data, np.arange(6))
    assert pools.user.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert pools.pool.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert pools.item.tolist() == [0, 1, 2, 3, 4, 0, 1, 1, 2]
    assert pools.utility.tolist() == [2, 0, 1, 0, 1, 0, 1, 1, 0]
    assert pools.largest == 3
    assert judged_pools(data, np.arange(0)).largest == 0
    # The rows' order takes no part, and another utility is another pool.
    assert judged_pools(data, np.arange(6)[::-1]).fingerprint == pools.fingerprint
    assert judged_pools(data, np.arange(5)).fingerprint != pools.fingerprint
    with pytest.raises(ValueError, match="keeps no utilities"):
        known_pools(data, np.arange(6))


def test_known_utilities_are_those_that_the_choices_were_drawn_from() -> None:
    for loader in (SimText(users=8, pairs=20), Simulated(users=8, posts=20, comparisons=10, dim=16)):
        data = loader.load(cast(RawSource, None), "known")
        assert data.truth is not None
        margin = data.truth.utility(data.user, data.chosen) - data.truth.utility(data.user, data.rejected)
        np.testing.assert_allclose(margin, data.truth.utility_margin, atol=1e-4)
        pools = known_pools(data, np.flatnonzero(data.user == 3))
        assert set(pools.user.tolist()) == {3}
        # All candidates of a prompt, also those that the user did not judge.
        size = 6 if isinstance(loader, SimText) else 4
        assert set(np.bincount(pools.pool).tolist()) == {size}
        kept = data.select_users(np.array([3, 5]))
        assert kept.truth is not None
        again = kept.truth.utility(kept.user, kept.chosen) - kept.truth.utility(kept.user, kept.rejected)
        np.testing.assert_allclose(again, kept.truth.utility_margin, atol=1e-4)


def test_new_candidates_lie_in_the_space_of_the_data_and_other_directions_do_not() -> None:
    loader = Simulated(users=8, posts=60, comparisons=10, dim=16, reward_directions=2)
    data = loader.load(cast(RawSource, None), "space")
    assert data.embedded is not None
    assert data.truth is not None
    usual, turned = loader.candidates(60, 8), loader.candidates(60, 8, other_directions=True)

    def reader(items: np.ndarray, latent: np.ndarray) -> np.ndarray:
        design = np.column_stack([items, np.ones(len(items))])
        return np.linalg.lstsq(design, latent, rcond=None)[0]

    # What reads the latent coordinates from the data's embeddings reads those of new candidates too.
    assert data.truth.latent is not None
    weights = reader(data.embedded.embedding.numpy(), data.truth.latent)
    spreads = []
    for world in (usual, turned):
        assert world.truth.latent is not None
        new = world.items.embedding.numpy()
        np.testing.assert_allclose(np.column_stack([new, np.ones(len(new))]) @ weights, world.truth.latent, atol=0.02)
        spreads.append(world.truth.latent.std(0))
    assert spreads[0] == pytest.approx(data.truth.latent.std(0), rel=0.2)
    assert spreads[1][-1] > 3 * spreads[0][-1]
    assert spreads[1][0] < spreads[0][0] / 3
    assert (loader.candidates(60, 8).items.embedding == usual.items.embedding).all()
