"""Simulated texts: the truth they carry is that of the choices, and the texts show what they were written from."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest

from prbench import data as datasets
from prbench import registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import PreferenceData
from prbench.loaders import RawSource
from prbench.loaders.sim_text import ELSEWHERE, MORE, START, WARM, SimText
from prbench.protocol.splits import make_split


def load(**options: Any) -> PreferenceData:
    return SimText(**options).load(cast(RawSource, None), "texts")


def test_the_same_options_give_the_same_data_and_the_entry_its_counts() -> None:
    data = datasets.load(registry.get("datasets", "sim-text"))
    assert data.fingerprint == load().fingerprint != load(seed=1).fingerprint
    assert (data.n_users, data.n_items, len(data)) == (80, 540, 80 * 63)
    assert data.counts["careless users"] == data.counts["minority users"] == 8
    # A candidate is one text: nothing is merged.
    assert len(set(zip(data.item_context.tolist(), data.responses, strict=True))) == data.n_items


def test_texts_show_the_properties_they_were_written_from() -> None:
    world = SimText()._world(Rng("sim-text", 0))
    data = load()
    long, formal, steps, hedged, warm = (world.properties > 0).T
    texts = np.array(data.responses, dtype=object)
    assert [text.startswith("1. ") or ": 1. " in text for text in texts] == steps.tolist()
    assert [any(end in text for end in WARM) for text in texts] == warm.tolist()
    assert [any(more in text for more in (MORE[True][0], MORE[False][0])) for text in texts] == long.tolist()
    assert [text.startswith(("Perhaps", "I am not sure")) for text in texts] == hedged.tolist()
    openings = [text.split(": ", 1)[-1].removeprefix("1. ") for text in texts]
    assert [any(o.startswith(start.split("{")[0]) for start in START[True]) for o in openings] == formal.tolist()
    assert [ELSEWHERE not in text for text in texts] == (world.kept > 0).tolist()
    # Drawn independently: no pair of properties is correlated beyond 5 standard errors.
    everything = np.column_stack([world.properties, world.kept])
    off = np.corrcoef(everything.T)[~np.eye(6, dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(len(everything))


def test_a_rule_shared_by_all_is_right_half_of_the_time_on_the_personal_part() -> None:
    """Tastes come in opposite pairs, so every pair of replies is liked by as many users as it is disliked by."""
    data = load(quality=0.0, majority=0.0, careless=0.0, minority=0.0)
    assert data.truth is not None
    weights = SimText()._world(Rng("sim-text", 0)).weights
    np.testing.assert_array_equal(weights[:40], -weights[40:])
    assert data.truth.floor.mean() == pytest.approx(0.5, abs=0.05)
    assert data.truth.ceiling.mean() > 0.85


def test_the_ceiling_is_the_accuracy_of_the_true_utility() -> None:
    data = load(users=200, pairs=90)
    assert data.truth is not None
    right = np.bincount(data.user, data.truth.utility_margin > 0, 200) / np.bincount(data.user)
    # 18,900 choices: the standard error of the mean accuracy is 0.003.
    assert right.mean() == pytest.approx(data.truth.ceiling.mean(), abs=0.012)
    careless = data.truth.cluster == 2
    assert data.truth.ceiling[careless].max() < 0.62 < data.truth.ceiling[~careless].mean()
    assert (data.truth.floor <= data.truth.ceiling + 1e-12).all()


def test_without_noise_the_better_reply_is_always_chosen() -> None:
    data = load(temperature=0.0, careless=0.0)
    assert data.truth is not None
    assert (data.truth.utility_margin > 0).all()
    assert data.truth.ceiling == pytest.approx(np.ones(80))


def test_the_minority_dislikes_the_warmth_that_the_others_like() -> None:
    data = load(personal=0.0, quality=0.0, majority=2.0, careless=0.0)
    assert data.truth is not None
    warm = SimText()._world(Rng("sim-text", 0)).properties[:, -1]
    told = warm[data.chosen] != warm[data.rejected]
    chose_warm = warm[data.chosen[told]] > 0
    minority = data.truth.cluster[data.user[told]] == 1
    assert chose_warm[~minority].mean() > 0.95 > 0.05 > chose_warm[minority].mean()


def test_repeats_come_last_and_stay_on_one_side_of_every_split() -> None:
    data = load()
    pairs = [tuple(sorted(sides)) for sides in zip(data.chosen.tolist(), data.rejected.tolist(), strict=True)]
    asked = Counter(zip(data.user.tolist(), pairs, strict=True))
    assert Counter(asked.values()) == {1: 80 * 57, 2: 80 * 3}
    assert data.time is not None
    for user in range(0, 80, 20):
        own = data.user == user
        assert (np.diff(data.time[own]) > 0).all()
    annotators = Counter(pair for _, pair in asked)
    assert np.median(list(annotators.values())) >= 10
    split = make_split(data, registry.get("datasets", "sim-text").protocol, index=0)
    train, test = ({(data.user[i], pairs[i]) for i in rows} for rows in (split.seen_train, split.seen_test))
    assert not train & test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 7}, "users is 7; tastes come in opposite pairs"),
        ({"pairs_per_prompt": 99}, "pairs_per_prompt is 99, but there are 15 pairs"),
        ({"prompts": 10}, "60 pairs a user need 30 prompts, but there are 10"),
        ({"minority": 0.7, "careless": 0.7}, "more than all users"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(**options)
