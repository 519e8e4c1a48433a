"""Simulated data: shapes, spectrum, choices, and that ceiling and floor are what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.optimize import minimize
from scipy.special import expit
from trained import measured

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import PreferenceData
from prbench.data import load, make_loader
from prbench.loaders.simulated import Simulated
from prbench.loaders.simulated_items import OFFSET_SHARE
from prbench.protocol.splits import make_split

SMALL = {"users": 40, "dim": 32, "posts": 60, "comparisons": 40}
PERSONAL = {"shared": 0.0, "low_rank": 0.0, "clustered": 0.0, "idiosyncratic": 0.0}


def simulate(**options) -> PreferenceData:
    return Simulated(**{**SMALL, **options}).load(None, "toy")


def differences(data: PreferenceData) -> np.ndarray:
    embedding = data.embedded.embedding.numpy().astype(np.float64)
    return embedding[data.chosen] - embedding[data.rejected]


def solved_rewards(data: PreferenceData) -> np.ndarray:
    """Each user's reward vector [users, d], solved from the true margins: shows that margins are linear in e."""
    delta = differences(data)
    solved = []
    for user in range(data.n_users):
        mine = data.user == user
        weights, *_ = np.linalg.lstsq(delta[mine], data.truth.utility_margin[mine], rcond=None)
        assert np.allclose(delta[mine] @ weights, data.truth.utility_margin[mine], atol=1e-3)
        solved.append(weights)
    return np.array(solved)


@pytest.fixture(scope="module")
def preset() -> PreferenceData:
    return load(registry.get("datasets", "simulated"))


def test_embeddings_have_a_falling_spectrum_an_offset_and_unit_scale():
    data = simulate(posts=1500, spectrum=1.0, dim=64)
    embedding = data.embedded.embedding
    assert embedding.dtype == torch.float32
    x = embedding.numpy().astype(np.float64)
    assert np.sqrt((x**2).mean()) == pytest.approx(1, abs=0.02)
    assert (x.mean(axis=0) ** 2).mean() == pytest.approx(OFFSET_SHARE, abs=0.02)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    # Variance along direction j is proportional to 1 / j.
    slope = np.polyfit(np.log(np.arange(1, 65)), np.log(values), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)
    # The basis is not an axis: every coordinate has about the same variance, although the spectrum spans a factor 64.
    assert x.var(axis=0).max() < 8 * x.var(axis=0).min()
    flat = simulate(posts=1500, spectrum=0.0, dim=64).embedded.embedding.numpy()
    values = np.linalg.eigvalsh(np.cov(flat.T))
    assert values.max() < 2 * values.min()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_responses_to_a_prompt_share_the_stated_part(share):
    x = simulate(posts=1500, context_share=share).embedded.embedding.numpy().reshape(1500, 4, 32)
    x = x - x.mean(axis=(0, 1))
    common = (x[:, 0] * x[:, 1]).sum() / np.sqrt((x[:, 0] ** 2).sum() * (x[:, 1] ** 2).sum())
    assert common == pytest.approx(share, abs=0.04)


def test_posts_are_judged_as_stated():
    data = simulate(pairs_per_post=2)
    assert (len(data), data.n_users, data.n_items) == (40 * 40, 40, 240)
    assert np.array_equal(data.chosen // 4, data.rejected // 4), "a pair crosses posts"
    assert np.array_equal(data.group, data.chosen // 4)
    for user in range(data.n_users):
        mine = data.user == user
        groups, count = np.unique(data.group[mine], return_counts=True)
        assert len(groups) == 20
        assert (count == 2).all()
        pairs = {frozenset(pair) for pair in zip(data.chosen[mine], data.rejected[mine], strict=True)}
        assert len(pairs) == 40, "a user judges a pair twice"
    # Posts are shared: most users meet on some post.
    assert len(np.unique(data.group)) == 60
    assert data.user_keys[:2] == ("sim-0", "sim-1")


def test_dialogues_are_judged_as_stated():
    data = simulate(posts=0, dialogues=5, users=300, turns=3.0)
    groups, first = np.unique(data.group, return_index=True)
    assert len(groups) == 300 * 5
    assert np.array_equal(data.user, data.group // 5), "a dialogue belongs to one user"
    # Every dialogue: 3 pairs in its first turn, one in each later one; Poisson(2) later turns.
    pairs = np.bincount(data.group)
    assert pairs.min() == 3
    assert pairs.mean() == pytest.approx(3 + 2, abs=3 * np.sqrt(2 / 1500))
    # The same answer is chosen over each of the other three in the first turn.
    for at in first[:50]:
        assert len(set(data.chosen[at : at + 3])) == 1
        assert len({data.chosen[at], *data.rejected[at : at + 3]}) == 4
    used = np.concatenate([data.chosen, data.rejected])
    assert len(np.unique(used)) == data.n_items


@pytest.mark.parametrize("layout", [{"posts": 400, "comparisons": 400}, {"posts": 0, "dialogues": 60}])
def test_choices_agree_with_the_truth_as_often_as_the_ceiling_says(layout):
    data = simulate(**layout)
    margin, truth = data.truth.utility_margin, data.truth
    correct = margin > 0
    expected = expit(np.abs(margin))
    error = np.sqrt((expected * (1 - expected)).sum()) / len(data)
    assert len(data) > 10_000
    assert abs(correct.mean() - expected.mean()) < 4 * error
    per_user = np.bincount(data.user, expected) / np.bincount(data.user)
    assert np.allclose(per_user, truth.ceiling)
    # Calibration: among pairs whose margin is small, choices are near chance, as Bradley-Terry says.
    for low, high in ((0, 0.3), (0.5, 1), (1, 2), (2, 4)):
        near = (np.abs(margin) >= low) & (np.abs(margin) < high)
        spread = np.sqrt((expected * (1 - expected))[near].sum()) / near.sum()
        assert abs(correct[near].mean() - expected[near].mean()) < 4 * spread


def test_temperature_sets_the_ceiling_as_documented():
    for temperature, ceiling in ((0.3, 0.89), (0.5, 0.83), (0.8, 0.76), (1.2, 0.69)):
        data = simulate(
            temperature=temperature, users=100, posts=400, reward_directions=8, **PERSONAL | {"idiosyncratic": 1.0}
        )
        assert data.truth.ceiling.mean() == pytest.approx(ceiling, abs=0.012)


def test_floor_is_that_of_the_best_decision_that_does_not_know_the_user():
    data = simulate(posts=0, dialogues=6, users=30, dim=8, reward_directions=1)
    rewards = solved_rewards(data)
    margins = differences(data) @ rewards.T  # [n, users]: what every user thinks of every pair
    prefers = expit(margins).mean(axis=1) >= 0.5
    own = data.truth.utility_margin
    agree = np.where(prefers, expit(own), expit(-own))
    assert np.allclose(np.bincount(data.user, agree) / np.bincount(data.user), data.truth.floor, atol=2e-3)
    # No other shared rule does better over the population: each pair's decision is the best one.
    best = np.maximum(expit(margins).mean(axis=1), expit(-margins).mean(axis=1))
    mean = rewards.mean(axis=0)
    linear = np.where(differences(data) @ mean > 0, expit(margins).mean(axis=1), expit(-margins).mean(axis=1))
    assert linear.mean() <= best.mean()
    # And the mean reward, which a linear method can learn, is nearly as good.
    assert linear.mean() > best.mean() - 0.01


def test_shares_of_reward_variance_are_as_stated():
    data = simulate(users=30, dim=8, posts=600, comparisons=60, reward_directions=1)
    rewards = solved_rewards(data)
    x = data.embedded.embedding.numpy().astype(np.float64).reshape(600, 4, 8)
    within = (x - x.mean(axis=1, keepdims=True)).reshape(-1, 8)
    metric = within.T @ within / (600 * 3)
    scale = Simulated(**SMALL).temperature

    def variance(w):
        return scale**2 * np.einsum("...i,ij,...j->...", w, metric, w)

    mean = rewards.mean(axis=0)
    assert variance(mean) == pytest.approx(0.5, rel=0.15)
    assert variance(rewards - mean).mean() == pytest.approx(0.5, rel=0.15)


def test_clusters_share_their_part_and_low_rank_parts_have_few_directions():
    clustered = simulate(**PERSONAL | {"clustered": 1.0}, clusters=4, dim=16)
    rewards, cluster = solved_rewards(clustered), clustered.truth.cluster
    assert np.array_equal(np.bincount(cluster), [10, 10, 10, 10])
    for c in range(4):
        assert np.allclose(rewards[cluster == c], rewards[cluster == c][0], atol=0.02)
    assert np.linalg.norm(rewards[cluster == 0][0] - rewards[cluster == 1][0]) > 0.5
    for weights, rank in (("gaussian", 3), ("dirichlet", 2)):
        low = solved_rewards(simulate(**PERSONAL | {"low_rank": 1.0}, bases=3, weights=weights, dim=16))
        values = np.linalg.svd(low, compute_uv=False)
        # Dirichlet weights sum to 1: around their mean they have one direction fewer.
        assert values[rank - 1] > 0.05 * values[0]
        assert values[rank] < 1e-3 * values[0]


def test_without_personal_parts_floor_and_ceiling_are_equal():
    data = simulate(**PERSONAL | {"shared": 1.0})
    assert np.allclose(data.truth.floor, data.truth.ceiling, atol=1e-5)
    personal = simulate()
    assert (personal.truth.floor <= personal.truth.ceiling + 1e-9).all()
    assert personal.truth.ceiling.mean() - personal.truth.floor.mean() > 0.05


def test_encoder_reward_is_its_head_and_correlates_as_stated():
    for correlation in (0.0, 0.7, 1.0):
        data = simulate(posts=2000, comparisons=400, reference_correlation=correlation, **PERSONAL | {"shared": 1.0})
        items = data.embedded
        assert torch.allclose(items.embedding @ items.head, items.reward, atol=1e-3)
        # Oriented by item number: what was chosen would narrow the margins and with them the correlation.
        sign = np.where(data.chosen < data.rejected, 1, -1)
        reward = sign * (items.reward.numpy()[data.chosen] - items.reward.numpy()[data.rejected])
        margin = sign * data.truth.utility_margin
        assert np.corrcoef(reward, margin)[0, 1] == pytest.approx(correlation, abs=0.05)
        # Its differences have variance 2, as every user's.
        assert reward.var() == pytest.approx(2, rel=0.1)


def test_lengths_are_positive_and_lean_to_the_shared_reward():
    data = simulate(posts=2000, comparisons=400, **PERSONAL | {"shared": 1.0})
    length = data.embedded.length
    assert length.dtype == torch.int64
    assert int(length.min()) >= 1
    longer = (length[data.chosen] > length[data.rejected]).float().mean().item()
    assert 0.54 < longer < 0.65


def test_same_options_same_data_whatever_the_name_and_the_threads(monkeypatch):
    """Pieces are of a fixed size, and each is computed by one thread with a stream of its own: only who computes it changes."""
    data = simulate(posts=200)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    again = Simulated(**{**SMALL, "posts": 200}).load(None, "other")
    assert again.name == "other"
    assert data.fingerprint == again.fingerprint
    assert torch.equal(data.embedded.reward, again.embedded.reward)
    assert torch.equal(data.embedded.length, again.embedded.length)
    assert np.array_equal(data.truth.floor, again.truth.floor)


def test_another_seed_is_another_world():
    one, two = simulate(), simulate(seed=1)
    assert one.fingerprint != two.fingerprint
    assert not torch.allclose(one.embedded.embedding, two.embedded.embedding, atol=0.1)
    assert not np.array_equal(one.truth.cluster, two.truth.cluster)
    assert not np.allclose(one.truth.ceiling, two.truth.ceiling, atol=1e-3)


def fitted_bt(delta: np.ndarray, penalty: float) -> np.ndarray:
    def loss(w):
        margin = delta @ w
        gradient = -delta.T @ expit(-margin) / len(delta) + 2 * penalty * w
        return np.logaddexp(0, -margin).mean() + penalty * w @ w, gradient

    return minimize(loss, np.zeros(delta.shape[1]), jac=True, method="L-BFGS-B").x


def per_user(data: PreferenceData, rows, correct) -> float:
    return float(np.mean([correct[data.user[rows] == user].mean() for user in np.unique(data.user[rows])]))


@pytest.mark.trained
def test_on_the_preset_bt_comes_near_the_floor_and_the_oracle_reaches_the_ceiling(preset):
    delta, truth = differences(preset), preset.truth
    bt, guess, oracle, floor, ceiling = [], [], [], [], []
    guesses = Rng("simulated", "guesses").numpy().random(len(preset)) < 0.5
    for index in range(5):
        split = make_split(preset, registry.get("datasets", "simulated").protocol, index=index)
        weights = fitted_bt(delta[split.seen_train], 0.003)
        for users, test in ((split.seen, split.seen_test), (split.unseen, split.unseen_test)):
            bt.append(per_user(preset, test, delta[test] @ weights > 0))
            guess.append(per_user(preset, test, guesses[test]))
            oracle.append(per_user(preset, test, truth.utility_margin[test] > 0))
            floor.append(truth.floor[users].mean())
            ceiling.append(truth.ceiling[users].mean())
    bt, guess, oracle, floor, ceiling = (float(np.mean(part)) for part in (bt, guess, oracle, floor, ceiling))
    measured("Bradley-Terry over the floor", bt - floor, at_least=-0.04, control=guess - floor)
    measured("Bradley-Terry at most at the floor", bt - floor, at_most=0.03, control=oracle - floor)
    measured("the oracle under the ceiling", oracle - ceiling, at_least=-0.03, control=bt - ceiling)
    measured("the oracle at most at the ceiling", oracle - ceiling, at_most=0.03)
    # Like human data: about 0.70 without personalisation, 0.80 to 0.85 at best.
    measured("floor", truth.floor.mean(), at_least=0.66, control=guess)
    measured("floor from above", truth.floor.mean(), at_most=0.75, control=truth.ceiling.mean())
    measured("ceiling", truth.ceiling.mean(), at_least=0.79, control=truth.floor.mean())
    measured("ceiling from above", truth.ceiling.mean(), at_most=0.86)


@pytest.mark.trained
def test_on_the_preset_a_users_own_choices_pay():
    """Shrinking each user's own fit towards Bradley-Terry must beat Bradley-Terry: personalisation is learnable.

    Four times the preset's users: how much 60 of them gain depends on which are drawn.
    """
    entry = registry.get("datasets", "simulated")
    preset = Simulated(**{**entry.options, "users": 240}).load(None, "simulated")
    delta, margin = differences(preset), preset.truth.utility_margin
    split = make_split(preset, entry.protocol, index=0)
    shared = fitted_bt(delta[split.seen_train], 0.003)
    common, personal = [], []
    for user in split.seen:
        train = split.seen_train[preset.user[split.seen_train] == user]

        def loss(w, train=train):
            margin = delta[train] @ w
            pull = 0.05 * (w - shared)
            gradient = -delta[train].T @ expit(-margin) / len(train) + 2 * pull
            return np.logaddexp(0, -margin).mean() + (w - shared) @ pull, gradient

        personal.append(minimize(loss, shared, jac=True, method="L-BFGS-B").x)
    common, own, strangers = (
        np.mean(
            [
                expit(np.sign(delta[test] @ w) * margin[test]).mean()
                for user, w in zip(split.seen, rewards, strict=True)
                for test in [split.seen_test[preset.user[split.seen_test] == user]]
            ]
        )
        for rewards in ([shared] * len(personal), personal, np.roll(personal, 1, axis=0))
    )
    measured("gain", own - common, at_least=0.015, control=strangers - common)


SHAPES = {
    "simulated": {"users": 60, "per_user": 120, "limits": (0, 0)},
    "sim-clones": {"users": 60, "per_user": 120, "limits": (0, 0)},
    "sim-prism": {"users": 1287, "per_user": 34, "limits": (0, 0)},
    "sim-reddit100": {"users": 40, "per_user": 4200, "limits": (100, 50)},
    "sim-reddit150": {"users": 40, "per_user": 4200, "limits": (150, 50)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_presets_have_the_shapes_of_the_papers_data(name, capsys):
    entry = registry.get("datasets", name)
    shape = SHAPES[name]
    assert (entry.simulated, entry.encoder, entry.family) == (True, "own", "simulated")
    assert (entry.protocol.name, entry.protocol.unit) == ("paper", "group")
    # The width costs time and changes no count: d = 4,096 is checked in the entry, the rest at d = 64.
    assert entry.options["dim"] == (64 if name in ("simulated", "sim-clones") else 4096)
    narrow = entry.model_copy(update={"options": {**entry.options, "dim": 64}})
    data = load(narrow)
    assert "expects" not in capsys.readouterr().err
    assert set(entry.expect) == {"users", "comparisons", "items"}
    assert data.n_users == shape["users"]
    assert len(data) / data.n_users == pytest.approx(shape["per_user"], abs=0.5)
    assert (entry.protocol.seen_train_limit, entry.protocol.unseen_train_limit) == shape["limits"]
    split = make_split(data, entry.protocol, index=0)
    assert set(split.dropped) == {"users_without_train_or_test", "train_rows_of_test_groups", "train_rows_over_limit"}
    assert split.dropped["users_without_train_or_test"] == 0
    for limit, users, train in zip(
        shape["limits"], (split.seen, split.unseen), (split.seen_train, split.unseen_support), strict=True
    ):
        if limit:
            assert len(train) == limit * len(users)
    if name.startswith("sim-reddit"):
        assert np.bincount(data.user[split.seen_test])[split.seen].min() >= 2000
    if name == "sim-prism":
        assert (np.bincount(data.user[np.unique(data.group, return_index=True)[1]]) == 6).all()
    assert data.truth.ceiling.mean() - data.truth.floor.mean() > (-1 if name == "sim-clones" else 0.08)


def test_sim_reddit100_and_150_hold_the_same_choices():
    one, other = (registry.get("datasets", f"sim-reddit{n}") for n in (100, 150))
    assert one.options == other.options


def test_wide_embeddings_are_made_in_pieces_of_any_width():
    data = simulate(dim=4096, posts=30, comparisons=20, reward_directions=8)
    assert data.embedded.dim == 4096
    assert float(data.embedded.embedding.square().mean()) == pytest.approx(1, abs=0.05)
    odd = simulate(dim=37)
    assert odd.embedded.dim == 37


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shared": 0.9}, "sum to 1.4, not 1"),
        ({"posts": 0}, "posts is 0 and dialogues is 0"),
        ({"dialogues": 3}, "posts is 60 and dialogues is 3"),
        ({"pairs_per_post": 7}, "4 responses make 6 pairs"),
        ({"comparisons": 41}, "comparisons is 41, not a multiple of pairs_per_post (2)"),
        ({"posts": 19}, "need 20 posts, posts is 19"),
        ({"bases": 1}, "dirichlet weights need at least 2 bases"),
        ({"clusters": 41}, "clusters is 41, must be from 2 to users (40)"),
        ({"clusters": 1}, "clusters is 1, must be from 2"),
        ({"dim": 10**9}, "its options make 4e+10 numbers (users x dim), 2.15e+09 are the most"),
        ({"users": 10**9}, "numbers (users x "),
        ({"posts": 10**9}, "numbers (replies x dim)"),
        ({"responses": 10**9}, "numbers (replies x dim)"),
    ],
)
def test_options_that_contradict_each_other_are_one_clear_line(options, words):
    with pytest.raises(InputError) as error:
        Simulated(**{**SMALL, **options})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("users", 1),
        ("dim", 4),
        ("temperature", 0.0),
        ("shared", -0.1),
        ("weights", "uniform"),
        ("users", "60"),
        ("turns", 0.5),
        ("clusters", 10**9),
        ("comparisons", 10**9),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValidationError, match=option):
        Simulated(**{**SMALL, option: value})
    entry = registry.get("datasets", "simulated")
    with pytest.raises(InputError, match=f"data set simulated, option {option}"):
        make_loader(entry.model_copy(update={"options": {**entry.options, option: value}}))
