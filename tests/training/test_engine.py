"""The batched engine computes what a plain loop over users and splits computes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch.nn.functional import logsigmoid
from trained import all_near, near

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.contract import population
from prbench.method import FitProblem
from prbench.methods.lore import BT, LoRe
from prbench.methods.maml import MAML
from prbench.methods.mrm import MRM
from prbench.training import full_batch
from prbench.training.compute import computing
from prbench.training.episodes import EpisodeBatches, EpisodePlan
from prbench.training.gradient import SplitBatch, candidates
from prbench.training.optimiser import StackedAdam, clip_per_split, warmup_cosine
from prbench.training.tables import DifferenceTable, PairTable

# Both sides compute in float64; what 50 steps make of its rounding stays far below what they make of the data.
NEAR = 1e-6


def ragged(users: int, groups: tuple[int, int] = (1, 6)) -> Comparisons:
    """Users with different numbers of choices."""
    return population(users=users, groups=groups, seed=Rng("engine", users).seed)


def user_differences(data: Comparisons) -> torch.Tensor:
    return data.differences(dtype=torch.float64)


def plain_mrm(method: MRM, data: Comparisons, rng: Rng, updates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The published recipe, one split, one user at a time, autograd through the inner step."""
    plan = method.plan(data, rng)
    differences = user_differences(data)
    bases, start = (t.to(torch.float64).requires_grad_() for t in method.initial(data.items.dim, rng))
    optimiser = torch.optim.Adam([bases, start], lr=method.rate)
    total = plan.updates * method.epochs
    warm = int(method.warmup * total)

    def factor(step: int) -> float:
        if step < warm:
            return step / max(1, warm)
        return max(0.0, 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, total - warm))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    mixing = (lambda w: w.softmax(-1)) if method.link == "softmax" else (lambda w: w)
    reduce = torch.mean if method.reduction == "mean" else torch.sum

    def loss(w: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return reduce(-logsigmoid(method.input_scale * (rows @ bases.T) @ mixing(w)))

    done = 0
    for number in itertools.count():
        epoch = plan.epoch(number)
        for update in range(epoch.updates):
            losses = []
            for slot in range(method.users_per_update):
                here = (epoch.update == update) & (epoch.slot == slot)
                if not here.any():
                    continue
                x = differences[torch.from_numpy(epoch.order[here])]
                support, query = (torch.from_numpy(w[here] > 0) for w in (epoch.support, epoch.query))
                w = start
                first = second = torch.zeros_like(start)
                for step in range(1, method.inner_steps + 1):
                    (g,) = torch.autograd.grad(loss(w, x[support]), w, create_graph=method.second_order)
                    if method.inner == "sgd":
                        w = w - method.inner_rate * g
                        continue
                    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
                    hat = first / (1 - 0.9**step), second / (1 - 0.999**step)
                    w = w - method.inner_rate * hat[0] / (hat[1].sqrt() + 1e-8)
                losses.append(loss(w, x[query]))
            stacked = torch.stack(losses)
            if method.robust:
                excess = stacked - torch.quantile(stacked, 1 - method.rho)
                hard = torch.where(excess == 0, 0.5, (excess > 0).double())
                weight = torch.sigmoid(excess / method.gamma) if method.gamma else hard
                objective = (weight * stacked).sum()
            else:
                objective = stacked.sum()
            optimiser.zero_grad()
            objective.backward()
            torch.nn.utils.clip_grad_norm_([bases, start], method.clip)
            optimiser.step()
            schedule.step()
            done += 1
            if done == updates:
                return bases.detach(), start.detach()
    raise AssertionError


def plain_lore(method: LoRe, data: Comparisons, rng: Rng, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The published recipe with one loss term per user and autograd."""
    differences = user_differences(data)
    bases = torch.randn(method.bases, data.items.dim, generator=rng.child("bases").torch()).double().requires_grad_()
    weights = torch.zeros(len(data.users), method.bases, dtype=torch.float64)
    if not isinstance(method, BT):
        weights = torch.randn(len(data.users), method.bases, generator=rng.child("weights").torch()).double()
    weights.requires_grad_()
    optimiser = torch.optim.Adam([bases, weights], lr=method.rate)
    for _ in range(steps):
        loss = torch.zeros((), dtype=torch.float64)
        for i, user in enumerate(data.users):
            x = differences[torch.from_numpy(np.flatnonzero(data.user == user))]
            logits = x @ bases.T @ weights[i].softmax(-1) / method.divisor
            loss = loss - logsigmoid(logits).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return bases.detach(), weights.detach()


def plain_maml(method: MAML, data: Comparisons, rng: Rng, updates: int) -> dict[str, torch.Tensor]:
    """One network per user and update, autograd for both loops, the inner step's gradient taken as constant."""
    plan = method.plan(data, rng)
    pairs = data.items.embedding[torch.from_numpy(np.stack([data.chosen, data.rejected], 1))] * method.input_scale
    shared = {name: t.double().requires_grad_() for name, t in method.initial(data.items.dim, rng).items()}
    optimiser = torch.optim.Adam(shared.values(), lr=method.rate)
    total = np.array([plan.updates * method.epochs])

    def loss(network: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(pairs[rows] @ network["hidden"].T + network["bias"])
        score = hidden @ network["output"]
        return -logsigmoid(score[:, 0] - score[:, 1]).mean()

    done = 0
    for number in itertools.count():
        epoch = plan.epoch(number)
        for update in range(epoch.updates):
            losses = []
            for slot in range(method.users_per_update):
                here = (epoch.update == update) & (epoch.slot == slot)
                if not here.any():
                    continue
                support, query = (torch.from_numpy(epoch.order[here & (w > 0)]) for w in (epoch.support, epoch.query))
                slopes = torch.autograd.grad(loss(shared, support), list(shared.values()))
                adapted = {
                    name: p - method.inner_rate * g / (g.abs() + 1e-8)
                    for (name, p), g in zip(shared.items(), slopes, strict=True)
                }
                losses.append(loss(adapted, query))
            stacked = torch.stack(losses)
            weight = torch.sigmoid((stacked - torch.quantile(stacked, 1 - method.rho)) / method.gamma)
            optimiser.zero_grad()
            (weight * stacked).sum().backward()
            torch.nn.utils.clip_grad_norm_(list(shared.values()), method.clip)
            optimiser.param_groups[0]["lr"] = method.rate * warmup_cosine(np.array([done]), total, warmup=0.05)[0]
            optimiser.step()
            done += 1
            if done == updates:
                return {name: p.detach() for name, p in shared.items()}
    raise AssertionError


@pytest.mark.trained
def test_maml_follows_a_plain_loop_for_50_updates() -> None:
    data = ragged(7, (1, 7))
    method = MAML(epochs=20, rate=0.02, inner_rate=0.01, hidden=5, input_scale=0.5)
    rng = Rng("test", 3)
    updates = 13 * method.plan(data, rng).updates
    assert updates >= 50
    (snapshot,) = method.train_splits(SplitBatch([data], [rng], [{13}]))
    plain = plain_maml(method, data, rng, updates)
    all_near("network", snapshot.tensors, plain, at_most=NEAR, control=method.initial(6, rng))


MRM_VARIANTS = {
    "published": {},
    "leftover user": {"users_per_update": 3},
    "plain gradient, free weights, sums": {
        "inner": "sgd",
        "link": "identity",
        "reduction": "sum",
        "inner_rate": 0.05,
    },
    "plain gradient, softmax": {"inner": "sgd", "inner_rate": 0.5},
    "no robust objective": {"robust": False},
    "hard filter": {"gamma": 0.0, "users_per_update": 4, "rho": 0.3},
    "larger quantile": {"users_per_update": 5, "rho": 0.2, "gamma": 0.1},
    "first order": {"inner": "sgd", "inner_rate": 0.5, "second_order": False},
    "five inner steps": {"inner_steps": 5, "inner_rate": 0.05},
    "five plain steps": {"inner_steps": 5, "inner": "sgd", "inner_rate": 0.3},
    "five first-order steps": {"inner_steps": 5, "inner": "sgd", "inner_rate": 0.3, "second_order": False},
    "four bases": {"bases": 4, "clip": 0.05},
}


@pytest.mark.trained
@pytest.mark.parametrize("variant", MRM_VARIANTS)
def test_mrm_follows_a_plain_loop_for_50_updates(variant: str) -> None:
    data = ragged(9, (1, 7))
    method = MRM(epochs=50, rate=0.05, input_scale=0.5, **MRM_VARIANTS[variant])  # type: ignore[arg-type]
    rng = Rng("test", 1)
    per_epoch = method.plan(data, rng).updates
    epochs = -(-50 // per_epoch)
    (snapshot,) = method.train_splits(SplitBatch([data], [rng], [{epochs}]))
    assert epochs * per_epoch >= 50
    plain = dict(zip(("bases", "start"), plain_mrm(method, data, rng, epochs * per_epoch), strict=True))
    before = dict(zip(("bases", "start"), method.initial(6, rng), strict=True))
    all_near("bases and start", snapshot.tensors, plain, at_most=NEAR, control=before)


@pytest.mark.trained
@pytest.mark.parametrize("way", ["rows", "differences", "items"])
@pytest.mark.parametrize("method", [LoRe(bases=3, divisor=2.0), BT(divisor=2.0), LoRe(bases=5)])
def test_lore_and_bt_follow_a_plain_loop_for_50_steps(
    method: LoRe, way: full_batch.Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ragged(7)
    # The same item in several comparisons, as chosen and as rejected.
    data = replace(data, chosen=data.chosen // 3, rejected=data.rejected // 3 + len(data) // 2)
    monkeypatch.setattr(full_batch, "make_projections", partial(full_batch.make_projections, way=way))
    rng = Rng("test", 2)
    (snapshot,) = method.train_splits(SplitBatch([data], [rng], [{50}]))
    (bases, weights), (first_bases, first_weights) = (plain_lore(method, data, rng, steps) for steps in (50, 0))
    near("bases", snapshot.tensors["bases"], bases, at_most=NEAR, control=first_bases)
    if isinstance(method, BT):
        assert not snapshot.tensors["weight"].any()
    else:
        near("weights", snapshot.tensors["weight"], weights, at_most=NEAR, control=first_weights)


@pytest.mark.parametrize("method", [LoRe(bases=3, steps=30), BT(steps=30), MRM(epochs=5, rate=0.02)])
@pytest.mark.parametrize("selecting", [False, True])
def test_splits_trained_together_equal_splits_trained_alone(method: LoRe | MRM, selecting: bool) -> None:
    data = population(users=14, groups=(2, 6), seed=5)
    parts = []
    for start in range(3):
        # Different users and different numbers of them in each split.
        mine = data.take(np.isin(data.user, np.arange(start, 14, 2)[: 7 - start]))
        held = (mine.group == 1) if selecting else np.zeros(len(mine), dtype=bool)
        parts.append(FitProblem(mine.take(~held), mine.take(held), Rng("split", start)))
    together = [method.fresh() for _ in parts]
    type(method).fit_splits(together, parts)
    for joint, part in zip(together, parts, strict=True):
        alone = method.fresh().fit_seen(part.train, part.validation, rng=part.rng)
        for name, tensor in alone.learned().items():
            torch.testing.assert_close(joint.learned()[name], tensor, atol=1e-9, rtol=0, msg=name)
        assert joint.fit_record() == alone.fit_record()
        assert joint.fit_record()["rule"] == ("validation" if selecting else "last")


def test_an_epoch_divides_each_users_groups_into_support_and_query() -> None:
    data = population(users=11, groups=(1, 12), seed=6)
    plan = EpisodePlan(data, Rng("plan"), users_per_update=2, query_share=0.9, reduction="mean")
    epoch = plan.epoch(0)
    assert sorted(epoch.order) == list(range(len(data)))
    assert plan.updates == 6
    owner = data.user[epoch.order]
    for user in range(11):
        mine = owner == user
        groups = data.group[epoch.order][mine]
        support = set(groups[epoch.support[mine] > 0])
        query = set(groups[epoch.query[mine] > 0])
        n = len(set(groups))
        assert len(query) == max(1, int(0.9 * n))
        assert support == (query if n == 1 else set(groups) - query)
        assert epoch.support[mine].sum() == pytest.approx(1)
        assert epoch.query[mine].sum() == pytest.approx(1)
        assert len({*zip(epoch.update[mine], epoch.slot[mine], strict=True)}) == 1
    assert not np.array_equal(plan.epoch(1).order, epoch.order)
    assert np.array_equal(plan.epoch(0).order, epoch.order)


def test_batches_lay_out_every_update_of_splits_of_unequal_length() -> None:
    data = population(users=9, groups=(1, 4), seed=7)
    parts = [data, data.take(data.user < 5), data.take(data.user > 6)]
    plans = [
        EpisodePlan(p, Rng("plan", i), users_per_update=2, query_share=0.5, reduction="sum")
        for i, p in enumerate(parts)
    ]
    positions = [part.row for part in parts]
    epochs = [2, 4, 3]
    laid = list(EpisodeBatches(plans, positions, device="cpu", dtype=torch.float64).updates(epochs))
    assert len(laid) == max(plan.updates * n for plan, n in zip(plans, epochs, strict=True))
    for s, plan in enumerate(plans):
        expected = [
            (number * plan.updates + int(u), int(k), int(positions[s][row]), float(a), float(b))
            for number in range(epochs[s])
            for e in [plan.epoch(number)]
            for row, u, k, a, b in zip(e.order, e.update, e.slot, e.support, e.query, strict=True)
        ]
        found = []
        for t, batch in enumerate(laid):
            for slot, r in batch.slots[s].nonzero().tolist():
                found.append(
                    (
                        t,
                        slot,
                        int(batch.where[s, r]),
                        float(batch.support[s, slot, r]),
                        float(batch.query[s, slot, r]),
                    )
                )
            assert batch.present[s].tolist() == [bool(batch.slots[s, k].any()) for k in range(2)]
        assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("separate", [False, True])
def test_stacked_adam_is_adam_with_a_step_size_per_split(separate: bool) -> None:
    draw = Rng("planted", 0).torch()
    ours = torch.randn(3, 2, 5, generator=draw, dtype=torch.float64)
    theirs = [part.clone().requires_grad_() for part in ours]
    rates = np.array([0.1, 0.2, 0.3]) if separate else np.full(3, 0.1)
    optimisers = [torch.optim.Adam([t], lr=rate) for t, rate in zip(theirs, rates, strict=True)]
    stacked = StackedAdam([ours], separate=separate)
    for _ in range(20):
        gradient = torch.randn(3, 2, 5, generator=draw, dtype=torch.float64)
        for own, part, optimiser in zip(theirs, gradient, optimisers, strict=True):
            own.grad = part.clone()
            optimiser.step()
        stacked.step([gradient], rates)
    torch.testing.assert_close(ours, torch.stack(theirs).detach(), atol=1e-12, rtol=0)


def test_clipping_is_per_split() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[4.0], [0.4]])]
    clip_per_split(gradients, 1.0)
    assert gradients[0][0, 0].item() == pytest.approx(0.6, abs=1e-5)
    assert gradients[1][0, 0].item() == pytest.approx(0.8, abs=1e-5)
    assert gradients[0][1, 0].item() == pytest.approx(0.3)


def test_schedule_by_hand() -> None:
    total = np.array([40])
    factors = [warmup_cosine(np.array([t]), total, warmup=0.05)[0] for t in (0, 1, 2, 21, 40, 41)]
    # Two warm-up steps: 0, 1/2, 1; half way through the cosine (19 of 38 steps) 1/2; nothing after the end.
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0, 0])


def test_candidates_are_geometric_and_end_with_the_budget() -> None:
    assert candidates(200)[0] == 1
    assert candidates(200)[-1] == 200
    assert len(candidates(1000)) <= 20
    assert candidates(1) == [1]


def test_dead_coordinates_are_zero_in_the_tables_and_nothing_else_changes() -> None:
    """Each entry is one difference of two numbers, or a number as it is."""
    data = population(users=3, dim=5, dtype=torch.float32)
    data.items.embedding[:, 1] = 3e-33
    data.items.embedding[0, 2] = 1e-29
    before = data.differences(dtype=torch.float32)
    matrix = DifferenceTable.of([data], device="cpu").matrix
    assert (matrix[:, 1] == 0).all()
    assert torch.equal(matrix[:, [0, 2, 3, 4]], before[:, [0, 2, 3, 4]])
    items = PairTable.of([data], device="cpu").items
    assert (items[:, 1] == 0).all()
    assert torch.equal(items[:, [0, 2, 3, 4]], data.items.embedding[:, [0, 2, 3, 4]])
    assert items[0, 2] == torch.tensor(1e-29)


def test_only_the_threads_of_numpy_and_scipy_are_held_back() -> None:
    def threads(api: str) -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == api}

    with threadpool_limits(limits=2):
        assert (threads("blas"), threads("openmp")) == ({2}, {2})
        with computing():
            assert (threads("blas"), threads("openmp")) == ({1}, {2})
        assert threads("blas") == {2}
