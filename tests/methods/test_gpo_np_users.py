"""What GPO and NP make of a user's choices: sets, subsets, none at all, and clusters of users that are planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from reference_networks import DIM, NETWORKS, RNG, SMALL_GPO, ReferenceGPO, random_network, scores, small
from scipy.cluster.vq import kmeans2
from scipy.special import expit
from trained import measured

from prbench.base.errors import InputError
from prbench.comparisons import Comparisons, Items, concatenate
from prbench.contract import population
from prbench.method import FitProblem, Method
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.gpo import GPO
from prbench.methods.neural_process import NP
from prbench.methods.user_bt import UserBT
from prbench.training.context_draws import ContextPlan, context_batches, sampled


@pytest.mark.parametrize(("made", "params"), NETWORKS)
def test_a_score_depends_on_the_context_as_a_set_and_on_no_other_target(made: Any, params: Any) -> None:
    data = small(users=3)
    method = made(**params)
    method.restore(random_network(method))
    states = method.adapt_unseen(data, rng=RNG)
    all_at_once = scores(method, states, data, data.users)
    for seed in range(3):
        shuffled = data.take(RNG.child("order", seed).numpy().permutation(len(data)))
        again = scores(method, method.adapt_unseen(shuffled, rng=RNG), data, data.users)
        torch.testing.assert_close(again, all_at_once, atol=1e-10, rtol=0)
    # One item at a time, then among others that are NaN.
    user = data.users[1:2]
    alone = torch.cat([method.score(states, user, data.items.take(np.array([i]))) for i in range(len(data.items))])
    torch.testing.assert_close(alone, all_at_once[1], atol=1e-10, rtol=0)
    broken = data.items.embedding.clone()
    broken[1:] = torch.nan
    among = scores(method, states, replace(data, items=replace(data.items, embedding=broken)), user)
    torch.testing.assert_close(among[0, 0], all_at_once[1, 0], atol=1e-10, rtol=0)
    # A different choice changes the scores.
    mine = data.of(int(user[0]))
    swapped = replace(mine, chosen=mine.rejected, rejected=mine.chosen)
    other = scores(method, method.adapt_unseen(swapped, rng=RNG), data, user)
    assert float((other[0] - all_at_once[1]).abs().max()) > 1e-6, "by far more than the tolerance above"


def test_the_null_token_speaks_for_users_without_choices_only() -> None:
    """Where the null token is not read, both computations are the same, in one process; and nobody has a cold start of
    one's own.
    """
    data = small(users=3)
    method = GPO(**SMALL_GPO)
    network = random_network(method)
    found = []
    for null in (network["null"], network["null"] + 1):
        method.restore({**network, "null": null})
        warm = scores(method, method.adapt_unseen(data, rng=RNG), data, data.users)
        cold = scores(method, method.cold_start(data.users, data.items, rng=RNG), data, data.users)
        found.append((warm, cold))
    assert torch.equal(found[0][0], found[1][0])
    assert float((found[0][1] - found[1][1]).abs().max()) > 1e-6
    assert torch.isfinite(found[0][1]).all()
    assert torch.equal(found[0][1][0], found[0][1][2])
    # What is asked without context is what the transformer makes of the null token and the item, by hand.
    reference = ReferenceGPO(DIM, 8, 2).load(network)
    item = reference.embedder(torch.cat([data.items.embedding[:1], torch.zeros(1, 1)], 1))
    mask = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]], dtype=torch.float64)
    out = reference.head(reference.encoder(torch.stack([network["null"], item[0]])[None], mask=mask)[0, 1])
    torch.testing.assert_close(found[0][1][0, 0], out[0].detach(), atol=1e-10, rtol=0)


def test_of_too_many_choices_a_subset_of_the_users_own_is_kept() -> None:
    data = population(users=3, dim=DIM, groups=(6, 8), pairs=(2, 3), seed=5)
    limit = 7
    kept, slot = sampled(data, limit, RNG)
    assert np.bincount(kept.user).tolist() == [limit] * 3
    assert slot.tolist() == list(range(limit)) * 3
    shuffled = data.take(RNG.child("order").numpy().permutation(len(data)))
    assert sampled(shuffled, limit, RNG)[0].row.tolist() == kept.row.tolist()
    assert sampled(data.of(1), limit, RNG)[0].row.tolist() == kept.of(1).row.tolist()
    assert sampled(data, limit, RNG.child("other"))[0].row.tolist() != kept.row.tolist()
    assert set(sampled(data, 100, RNG)[0].row.tolist()) == set(data.row.tolist())
    gpo = GPO(**SMALL_GPO, context_limit=limit)
    gpo.restore(random_network(gpo))
    assert gpo.adapt_unseen(data, rng=RNG).tensors["count"].tolist() == [2 * limit] * 3


def test_meetings_lie_side_by_side_context_first() -> None:
    train = population(users=5, dim=DIM, groups=(3, 5), pairs=(2, 3), seed=9)
    plan = ContextPlan(train, RNG, users_per_update=3, contexts=(1, 4))
    batches = list(context_batches([plan], [np.arange(len(train))], [1], device="cpu", dtype=torch.float32))
    assert len(batches) == plan.updates == 2
    for update, batch in zip(plan.epoch(0), batches, strict=True):
        rows, role = batch.together(6)
        for b, meeting in enumerate(update):
            expected = [*meeting.context.tolist(), *meeting.target.tolist()][:6]
            assert rows[0, b][role[0, b] != 0].tolist() == expected
            assert (role[0, b] > 0).sum() == len(meeting.context)
            assert role[0, b, : len(expected)].tolist() == sorted(role[0, b, : len(expected)].tolist(), reverse=True)
    assert plan.choices_per_update(6) == sum(
        min(6, int((train.user == user).sum())) for user in train.users.tolist()
    ) / len(batches)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: GPO(choices=20, most_context=20), "choices is 20, most_context 20"),
        (lambda: NP(choices=9), "choices is 9, most_context 10"),
        (lambda: NP(choices=10, overlap=False), "choices is 10, most_context 10"),
    ],
)
def test_a_context_that_leaves_no_target_is_refused(make: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        make()


class Planted:
    """Users in clusters that each have a reward of their own, choosing among items that they share."""

    def __init__(self, centres: np.ndarray[Any, Any], *, users: int, rows: int = 40, items: int = 200) -> None:
        draw = RNG.child("planted").numpy()
        self.cluster = np.arange(users) % len(centres)
        user = np.repeat(np.arange(users), rows)
        n = len(user)
        embedding = draw.normal(size=(items, centres.shape[1]))
        first = draw.integers(0, items, n)
        second = (first + draw.integers(1, items, n)) % items
        margin = ((embedding[first] - embedding[second]) * centres[self.cluster][user]).sum(1)
        wins = draw.random(n) < expit(margin)
        data = Comparisons(
            items=Items(torch.from_numpy(embedding).float(), identity=torch.arange(items)),
            user=user,
            chosen=np.where(wins, first, second),
            rejected=np.where(wins, second, first),
            group=np.tile(np.arange(rows), users),
            row=np.arange(n),
        )
        seen, place = user < 2 * users // 3, data.group / rows
        self.train, self.validation = data.take(seen & (place < 0.8)), data.take(seen & (place >= 0.8))
        self.support, self.test = data.take(~seen & (place < 0.5)), data.take(~seen & (place >= 0.5))
        self.truth = np.where(wins, margin, -margin)[self.test.row]

    def fit(self, method: Method) -> Method:
        type(method).fit_splits([method], [FitProblem(self.train, self.validation, RNG)])
        return method

    def fit_to_the_end(self, method: Method) -> Method:
        everything = concatenate([self.train, self.validation])
        type(method).fit_splits([method], [FitProblem(everything, everything.take([]), RNG)])
        return method

    def accuracy(self, method: Method, *, cold: bool = False) -> float:
        """The probability that an unseen user agrees with a decision, which has no luck of single test choices in it."""
        test = self.test
        states = (
            method.cold_start(test.users, test.items, rng=RNG) if cold else method.adapt_unseen(self.support, rng=RNG)
        )
        return self.agreement(method.margins(states, test).numpy())

    def agreement(self, margins: np.ndarray[Any, Any]) -> float:
        return float(expit(np.sign(margins) * self.truth).mean())


def found_clusters(values: torch.Tensor, count: int) -> Any:
    return kmeans2(values.double().numpy(), count, minit="++", seed=1)[1]


def adjusted_rand(a: Any, b: Any) -> float:
    """Hubert and Arabie's index of two partitions."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(counts: Any) -> float:
        return float((counts * (counts - 1) / 2).sum())

    rows, columns = pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(np.array([len(a)]))
    return (pairs(table) - expected) / ((rows + columns) / 2 - expected)


def test_the_adjusted_rand_index_by_hand() -> None:
    a = np.array([0, 0, 0, 1, 1, 1])
    assert adjusted_rand(a, 1 - a) == 1
    # Of 15 pairs 2 are together in both, 6 in the first and 3 in the second.
    b = np.array([0, 0, 1, 1, 2, 2])
    assert adjusted_rand(a, b) == pytest.approx((2 - 6 * 3 / 15) / ((6 + 3) / 2 - 6 * 3 / 15))


@pytest.mark.trained
def test_gpo_finds_the_clusters_from_context_alone() -> None:
    """Two kinds of users who want the opposite of each other: nothing shared helps.

    The network and its training are the entry's own. They left the plateau on which the context is ignored in
    20 of 20 starts, where embeddings have one direction, updates are many and rewards are as strong as here; with
    rewards of 4 in 19. methods/gpo.toml says what else decides it.
    """
    planted = Planted(np.array([[6.0], [-6.0]]), users=180)
    gpo, bt = planted.fit_to_the_end(GPO()), planted.fit(BTRidge())
    baseline, cold = planted.accuracy(bt), planted.accuracy(gpo, cold=True)
    measured("accuracy", planted.accuracy(gpo), at_least=0.75, control=baseline)
    measured("accuracy at cold start", cold, at_most=0.65, control=planted.accuracy(gpo))
    states = gpo.adapt_unseen(planted.support, rng=RNG)
    probes = scores(gpo, states, planted.test, states.users)
    cluster = planted.cluster[states.users]
    found = adjusted_rand(found_clusters(probes - probes.mean(1, keepdim=True), 2), cluster)
    shuffled = RNG.child("shuffled").numpy().permutation(cluster)
    measured("Rand index", found, at_least=0.8, control=adjusted_rand(shuffled, cluster))


@pytest.mark.trained
def test_np_finds_the_clusters_from_context_alone() -> None:
    """Three kinds of users with rewards at right angles; ten noisy choices tell them apart, though not surely."""
    planted = Planted(4 * np.eye(3, 8), users=240)
    method, bt = planted.fit_to_the_end(NP(epochs=15)), planted.fit(BTRidge())
    gain, cold = (planted.accuracy(method, cold=cold) - planted.accuracy(bt) for cold in (False, True))
    measured("gain", gain, at_least=0.08, control=cold)
    measured("gain at cold start", cold, at_most=0.05, control=gain)
    states = method.adapt_unseen(planted.support, rng=RNG)
    cluster = planted.cluster[states.users]
    found = adjusted_rand(found_clusters(states.tensors["z"], 3), cluster)
    shuffled = RNG.child("shuffled").numpy().permutation(cluster)
    measured("Rand index", found, at_least=0.5, control=adjusted_rand(shuffled, cluster))


@pytest.mark.trained
@pytest.mark.parametrize("method", [GPO(width=32, depth=2, rate=3e-3), NP(epochs=15)], ids=["gpo", "np"])
def test_on_clones_little_is_lost_by_reading_the_choices(method: Method) -> None:
    drawn = RNG.child("centre").numpy().normal(size=(1, 8))
    planted = Planted(2.3 * drawn / np.linalg.norm(drawn), users=120)
    best = planted.agreement(planted.truth)
    alone = best - planted.accuracy(planted.fit(UserBT()))
    # Bradley-Terry is as good as the truth, so nothing can be gained over it.
    measured("left to gain", best - planted.accuracy(planted.fit(BTRidge())), at_most=0.04, control=alone)
    measured("behind the truth", best - planted.accuracy(planted.fit(method)), at_most=0.05, control=alone)
