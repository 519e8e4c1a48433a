"""Pets: simulated users of two kinds, whose choices are known without their texts."""

from __future__ import annotations

import numpy as np
import pytest
from upstream_fixtures import refusal

from prbench import data, registry
from prbench.loaders.pets import ANIMALS, SENTENCES, Pets, written
from prbench.protocol.splits import make_split


def animals(found: data.PreferenceData, side: np.ndarray) -> np.ndarray:
    """The number of the animal that each sentence names, read off its text."""
    named = [[f" {animal}" in text for animal in ANIMALS] for text in found.responses]
    table = np.array(named)
    assert (table.sum(axis=1) == 1).all()
    return table.argmax(axis=1)[side]


def test_sentences_are_distinct_and_name_their_animal() -> None:
    everything = [sentence for animal in ANIMALS for sentence in written(animal)]
    assert len(everything) == len(set(everything)) == 4 * SENTENCES
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in everything)


def test_users_choose_by_the_animal_alone_and_differ_in_dog_and_cat_only() -> None:
    found = data.load(registry.get("datasets", "pets"))
    assert (found.n_users, len(found), found.n_items, len(found.contexts)) == (200, 200 * 56, 400, 1)
    chosen, rejected = animals(found, found.chosen), animals(found, found.rejected)
    orders = np.array([[0, 1, 2, 3], [0, 2, 1, 3]])[found.user % 2]
    row = np.arange(len(found))
    assert (orders[row, chosen] < orders[row, rejected]).all()
    contested = np.isin(chosen, (1, 2)) & np.isin(rejected, (1, 2))
    assert contested.mean() == 0.5
    assert found.counts["contested pairs"] == contested.sum() == 5600
    kinds = {tuple(pair) for pair in np.sort(np.stack([chosen, rejected]), axis=0).T.tolist()}
    assert len(kinds) == 6
    assert found.truth is not None
    assert found.truth.ceiling.tolist() == [1.0] * 200
    assert found.truth.floor.tolist() == [0.75] * 200
    assert (found.truth.utility_margin > 0).all()
    utility = found.truth.utility(found.user, found.chosen) - found.truth.utility(found.user, found.rejected)
    assert np.array_equal(utility, found.truth.utility_margin)


def test_no_sentence_is_in_training_and_test() -> None:
    entry = registry.get("datasets", "pets")
    found = data.load(entry)
    assert found.mark is not None
    train, test = (set(np.stack([found.chosen, found.rejected])[:, found.mark == mark].ravel()) for mark in (0, 1))
    assert not train & test
    assert (len(train), len(test)) == (320, 80)
    split = make_split(found, entry.protocol, index=0)
    assert len(split.unseen_test) == 100 * 40


def test_the_same_options_give_the_same_data_and_another_seed_other_data() -> None:
    one, again, other = (Pets(users=4, seed=seed).load(None, "toy") for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert one.fingerprint == again.fingerprint != other.fingerprint


def test_options_that_make_no_data_are_refused() -> None:
    assert "not as many of either kind" in refusal(lambda: Pets(users=3))
    assert "leaves no sentence" in refusal(lambda: Pets(test_share=0.001))
    with pytest.raises(ValueError, match="contested"):
        Pets(contested=1.5)
