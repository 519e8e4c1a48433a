"""Two replies with the same embedding have margin 0 and one score, whatever rounding would make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prbench import registry
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.method import Method, UserStates
from prbench.methods.bt_ridge import BTRidge
from prbench.registry import methods

DIM, ITEMS, USERS = 48, 301, 12
RNG = Rng("equal vectors")


def choices() -> Comparisons:
    """Each user compares 30 pairs: a third of them are between an item and its copy, which has another identity."""
    draw = np.random.default_rng(5)
    embedding = torch.from_numpy(draw.normal(size=(ITEMS, DIM))).float()
    copies = torch.from_numpy(draw.permutation(ITEMS))
    taste = embedding @ torch.from_numpy(draw.normal(size=DIM)).float()
    where_copied = np.empty(ITEMS, dtype=np.int64)
    where_copied[copies.numpy()] = ITEMS + np.arange(ITEMS)
    one = draw.integers(ITEMS, size=30 * USERS)
    other = (one + draw.integers(1, ITEMS, size=len(one))) % ITEMS
    equal = np.arange(len(one)) % 3 == 0
    wins = (taste[one] >= taste[other]).numpy()
    first = np.where(wins, one, other)
    second = np.where(equal, where_copied[first], np.where(wins, other, one))
    return Comparisons(
        items=Items(
            embedding=torch.cat([embedding, embedding[copies]]),
            length=torch.from_numpy(draw.integers(5, 200, size=2 * ITEMS)),
            identity=torch.arange(2 * ITEMS),
        ),
        user=np.repeat(np.arange(USERS, dtype=np.int64), 30),
        chosen=first,
        rejected=second,
        group=np.tile(np.arange(30, dtype=np.int64), USERS),
        row=np.arange(len(one), dtype=np.int64),
    )


DATA = choices()
EQUAL = np.arange(len(DATA)) % 3 == 0


def fitted(name: str, **changes: Any) -> Method:
    method = methods.make_method(registry.get("methods", name), None, changes)
    none = DATA.take(np.zeros(len(DATA), dtype=bool))
    return method.fit_seen(DATA, none, rng=RNG)


def scores_of(method: Method, states: UserStates) -> Tensor:
    """The scores of both sides in one call, [2, n]."""
    sides = DATA.items.take(np.concatenate([DATA.chosen, DATA.rejected]))
    return method.score(states, np.tile(DATA.user, 2), sides).reshape(2, -1)


def test_equal_vectors_are_found_and_nothing_else() -> None:
    assert np.array_equal(DATA.equal_vectors, EQUAL)


def test_one_bit_makes_vectors_unequal() -> None:
    items = DATA.items
    nudged = items.embedding.clone()
    row = int(DATA.rejected[EQUAL][0])
    nudged[row, -1] = torch.nextafter(nudged[row, -1], torch.tensor(torch.inf))
    data = Comparisons(Items(nudged), DATA.user, DATA.chosen, DATA.rejected, DATA.group, DATA.row)
    assert DATA.equal_vectors.sum() - data.equal_vectors.sum() == (DATA.rejected[EQUAL] == row).sum()


@pytest.mark.parametrize(
    ("name", "changes"),
    [("bt", {}), ("bt-ridge", {}), ("mrm", {"epochs": 3}), ("gpo", {"epochs": 1}), ("pal", {}), ("user-bt", {})],
)
def test_equal_vectors_have_margin_0_and_one_score(name: str, changes: dict[str, Any]) -> None:
    """Copies take the score of one of them, so that no rounding can tell them apart."""
    method = fitted(name, **{k: v for k, v in changes.items() if k in method_parameters(name)})
    states = method.seen_users()
    margins = method.margins(states, DATA).numpy()
    assert (margins[EQUAL] == 0).all()
    assert (margins[~EQUAL] != 0).all()
    one, other = scores_of(method, states)
    assert torch.equal(one[EQUAL], other[EQUAL])
    # One user's candidates, as `prbench user rank` scores them: the copy stands far from its original.
    candidates = np.r_[0 : 2 * ITEMS]
    scores = method.score(states, np.zeros(len(candidates), dtype=np.int64), DATA.items.take(candidates)).numpy()
    _, copy = np.unique(DATA.items.embedding.numpy(), axis=0, return_inverse=True)
    assert all(len(set(scores[copy.ravel() == k])) == 1 for k in range(ITEMS))


def method_parameters(name: str) -> set[str]:
    return set(methods.make_method(registry.get("methods", name), None, {}).hyper_parameters)


class Rounds(BTRidge):
    """A product whose last digits depend on the place in it, as those of matrices may."""

    def item_features(self, items: Items) -> Tensor:
        features = super().item_features(items)
        return features + 1e-6 * (torch.arange(len(features)) % 2)[:, None]


def test_rounding_that_depends_on_the_place_decides_nothing() -> None:
    method = Rounds().restore(fitted("bt-ridge").learned())
    states = UserStates(DATA.users)
    features = method.item_features(DATA.items)[:, 0]
    apart = (features[DATA.chosen] - features[DATA.rejected])[EQUAL]
    assert (apart != 0).float().mean() > 0.3
    assert (method.margins(states, DATA)[EQUAL] == 0).all()
    one, other = scores_of(method, states)
    assert (one == other)[EQUAL].all()


def test_other_margins_keep_their_bits() -> None:
    """Both sides are the same product of the same rows, twice in one process."""
    method = fitted("bt")
    states = method.seen_users()
    ready = method.features_of(DATA)
    used = np.unique([DATA.chosen, DATA.rejected])
    features = method.item_features(DATA.items.take(used))
    assert torch.equal(ready.features, features)
    position = states.positions(DATA.user)
    plain = [
        method.score_features(states, position, features[np.searchsorted(used, side)])
        for side in (DATA.chosen, DATA.rejected)
    ]
    margins = method.margins(states, DATA)
    assert torch.equal(margins[~EQUAL], (plain[0] - plain[1])[~EQUAL])


def test_what_a_method_knows_besides_the_vector_still_counts() -> None:
    """Equal vectors of other lengths, and other items, are not the same to methods that read just these."""
    lengths = fitted("length")
    margins = lengths.margins(lengths.seen_users(), DATA).numpy()
    length = DATA.items.length
    assert length is not None
    assert np.array_equal(margins == 0, (length[DATA.chosen] == length[DATA.rejected]).numpy())
    items = fitted("item-bt")
    assert (items.margins(items.seen_users(), DATA).numpy()[EQUAL] != 0).any()
