"""GPO and NP against references built from torch's own modules: layers, losses and training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from reference_networks import (
    DIM,
    NETWORKS,
    RNG,
    SMALL_GPO,
    SMALL_NP,
    ReferenceGPO,
    ReferenceNP,
    choices,
    random_network,
    scores,
    small,
)
from torch import nn
from torch.distributions import Normal
from trained import all_near, measured, near

from prbench.comparisons import Comparisons, Items, concatenate
from prbench.method import ParameterCount
from prbench.methods.gpo import GPO
from prbench.methods.neural_process import NP, BatchNorm
from prbench.training.attention import attention_layer, norm_layer
from prbench.training.context_draws import ContextPlan, UserDraw
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import NetworkMethod


def test_the_references_have_the_published_numbers_of_parameters_and_so_have_ours() -> None:
    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    # Ours has a null token of `width` numbers besides, and stores 200 tokens and their number per user.
    assert size(ReferenceGPO(4096, 128, 6)) == 1_188_354
    assert GPO().parameters_for(4096) == ParameterCount(1_188_354 + 128, 200 * 128 + 1)
    assert size(ReferenceNP(4096, 256)) == 3_738_624
    assert NP().parameters_for(4096) == ParameterCount(3_738_624, 256)


def test_layers_start_as_torch_starts_them() -> None:
    ours = attention_layer("a", 64, RNG) | norm_layer("n", 64)
    theirs = nn.MultiheadAttention(64, 8)
    assert ours["a.in.weight"].shape == theirs.in_proj_weight.shape
    for mine, other in ((ours["a.in.weight"], theirs.in_proj_weight), (ours["a.out.weight"], theirs.out_proj.weight)):
        assert float(mine.std()) == pytest.approx(float(other.detach().std()), rel=0.05)
        assert float(mine.abs().max()) == pytest.approx(float(other.detach().abs().max()), rel=0.01)
    assert not ours["a.in.bias"].any()
    assert not ours["a.out.bias"].any()
    assert not (ours["n.weight"] - 1).any()
    assert not ours["n.bias"].any()


def test_gpo_is_the_transformer_encoder_with_the_published_mask() -> None:
    data = small()
    method = GPO(**SMALL_GPO)
    network = random_network(method)
    method.restore(network)
    states = method.adapt_unseen(data, rng=RNG)
    found = scores(method, states, data, data.users)
    reference = ReferenceGPO(DIM, 8, 2).load(network)
    for i, user in enumerate(data.users.tolist()):
        pairs = choices(data, user)
        out = reference(pairs.flatten(0, 1), torch.tensor([1.0, 0.0]).repeat(len(pairs)), data.items.embedding)
        torch.testing.assert_close(found[i], out[:, 0].detach(), atol=1e-9, rtol=0)
    # What is compared differs between users by far more than the tolerance.
    assert float(found.std(0).min()) > 1e-6


@pytest.mark.parametrize("likelihood", ["bounded", "unbounded", "bradley-terry"])
def test_a_questions_loss_is_the_published_one(likelihood: Any) -> None:
    out = torch.randn(5, 2, 2, dtype=torch.float64, generator=RNG.child("questions").torch())
    mean = out[..., 0].softmax(-1)
    std = 0.05 + 0.95 * nn.functional.softplus(out[..., 1]) if likelihood == "bounded" else out[..., 1].exp()
    expected = -Normal(mean, std).log_prob(torch.tensor([1.0, 0.0])).sum(-1)
    if likelihood == "bradley-terry":
        expected = -mean[:, 0].log()
    torch.testing.assert_close(GPO(likelihood=likelihood).question_losses(out), expected)


FLOOR = 2 * (math.log(0.05) + 0.5 * math.log(2 * math.pi))


def test_only_the_bounded_likelihood_has_an_upper_bound() -> None:
    bounded, unbounded = (GPO(likelihood=name).question_losses for name in ("bounded", "unbounded"))
    certain = torch.tensor([[60.0, -40.0], [-60.0, -40.0]], dtype=torch.float64)
    assert float(bounded(certain)) == pytest.approx(FLOOR)
    assert float(unbounded(certain)) < -75
    # Where the std itself comes out as 0.
    certain[:, 1] = -1000.0
    assert float(bounded(certain)) == pytest.approx(FLOOR)
    assert math.isnan(float(unbounded(certain)))


def two_sides(users: int = 2, rows: int = 12) -> Comparisons:
    """Choices that one coordinate decides: near 1 in what is chosen, near -1 in what is rejected."""
    n = np.arange(users * rows)
    side = torch.tensor([1.0, -1.0]).repeat(len(n))[:, None]
    noise = torch.randn(2 * len(n), DIM, generator=RNG.child("two sides").torch(), dtype=torch.float64)
    return Comparisons(Items(side + 0.1 * noise), n // rows, 2 * n, 2 * n + 1, n % rows, n)


@pytest.mark.trained
def test_training_on_choices_that_can_be_told_apart_has_a_floor_only_if_bounded() -> None:
    first, least = {}, {}
    for likelihood in ("bounded", "unbounded"):
        method = GPO(likelihood=likelihood, width=16, depth=1, rate=3e-3, epochs=300, most_context=5, choices=12)  # type: ignore[arg-type]
        losses: list[float] = []

        def recorded(out: torch.Tensor, method: GPO = method, losses: list[float] = losses) -> torch.Tensor:
            each = GPO.question_losses(method, out)
            losses.append(float(each.detach().mean()))
            return each

        method.question_losses = recorded  # type: ignore[method-assign]
        trained(method, two_sides())
        assert len(losses) == 300
        first[likelihood], least[likelihood] = losses[0], min(losses)
    assert least["bounded"] >= FLOOR
    measured("bounded", least["bounded"], at_most=FLOOR + 0.5, control=first["bounded"])
    depth = {name: math.log10(-loss) for name, loss in least.items()}
    measured("log10 of how far below 0 unbounded", depth["unbounded"], at_least=1, control=depth["bounded"])


def test_np_is_the_published_network_at_evaluation() -> None:
    data = small()
    data = concatenate([data.of(user).take(np.arange(2)) for user in data.users.tolist()])
    method = NP(**SMALL_NP)
    network = random_network(method)
    reference = ReferenceNP(DIM, 16).load(network)
    norm = BatchNorm(torch.zeros(1, 16, dtype=torch.float64))
    hidden = 3 * torch.randn(1, 50, 16, dtype=torch.float64, generator=RNG.child("hidden").torch()) + 1
    for part in hidden.split(10, 1):
        expected = reference.decoder[1](part[0])
        found = norm({name: tensor[None] for name, tensor in network.items()}, part, torch.ones(1, 10) > 0)
        torch.testing.assert_close(found[0], expected.detach())
    snapshot = Snapshot(0, 1, {name: tensor.clone() for name, tensor in network.items()})
    norm.settle(snapshot)
    method.restore(snapshot.tensors)
    reference.eval()
    pairs = torch.stack([choices(data, user) for user in data.users.tolist()])
    states = method.adapt_unseen(data, rng=RNG)
    z = reference.encode(pairs)
    torch.testing.assert_close(states.tensors["z"], z.detach())
    found = scores(method, states, data, data.users)
    for i in range(len(z)):
        expected = reference(data.items.embedding, z[i].expand(len(data.items), -1))
        torch.testing.assert_close(found[i], expected.detach())
    cold = method.cold_start(data.users, data.items, rng=RNG).tensors["z"]
    torch.testing.assert_close(cold, reference.encode(pairs[:, :0]).detach())


def test_batch_normalisation_leaves_padding_and_other_splits_out() -> None:
    """What a split without choices in an update keeps is not computed again, so it is the same to the bit."""
    draw = RNG.child("norm").torch()
    network = {"norm.weight": torch.rand(2, 4, generator=draw), "norm.bias": torch.rand(2, 4, generator=draw)}
    x = torch.randn(2, 7, 4, generator=draw)
    there = torch.ones(2, 7) > 0
    there[0, 5:] = False
    padded, alone = BatchNorm(torch.zeros(2, 4)), BatchNorm(torch.zeros(1, 4))
    found = padded(network, x, there)
    expected = alone({name: tensor[:1] for name, tensor in network.items()}, x[:1, :5], there[:1, :5])
    torch.testing.assert_close(found[:1, :5], expected)
    torch.testing.assert_close(padded.mean[0], alone.mean[0])
    torch.testing.assert_close(padded.variance[0], alone.variance[0])
    before = padded.mean.clone()
    padded(network, x, there & torch.tensor([[True], [False]]))
    assert torch.equal(padded.mean[1], before[1])
    assert not torch.equal(padded.mean[0], before[0])


def gpo_loss(reference: nn.Module, method: GPO, update: list[UserDraw], train: Comparisons) -> Any:
    assert isinstance(reference, ReferenceGPO)
    total = torch.zeros((), dtype=torch.float64)
    for meeting in update:
        shown, asked = (pairs_at(train, rows) for rows in (meeting.context, meeting.target))
        asked = asked[: method.choices - len(shown)]
        labels = torch.tensor([1.0, 0.0]).repeat(len(shown))
        out = reference(shown.flatten(0, 1), labels, asked.flatten(0, 1)).view(-1, 2, 2)
        std = 0.05 + 0.95 * nn.functional.softplus(out[..., 1])
        total = total - Normal(out[..., 0].softmax(1), std).log_prob(torch.tensor([1.0, 0.0])).sum()
    return total / len(update)


def np_loss(reference: nn.Module, method: NP, update: list[UserDraw], train: Comparisons) -> Any:
    assert isinstance(reference, ReferenceNP)
    rows, vectors, counts = [], [], []
    for meeting in update:
        vectors.append(reference.encode(pairs_at(train, meeting.context)[None])[0])
        targets = np.concatenate([meeting.context, meeting.target])[: method.choices]
        targets = targets if method.overlap else targets[len(meeting.context) :]
        rows.append(pairs_at(train, targets))
        counts.append(len(targets))
    z = torch.stack(vectors).repeat_interleave(torch.tensor(counts) * 2, 0)
    score = reference(torch.cat(rows).flatten(0, 1), z).view(-1, 2)
    loss = nn.functional.cross_entropy(score, torch.zeros(len(score), dtype=torch.int64), reduction="none")
    return torch.stack([own.mean() for own in loss.split(counts)]).mean()


def pairs_at(train: Comparisons, rows: np.ndarray[Any, Any]) -> torch.Tensor:
    return train.items.embedding[torch.from_numpy(np.stack([train.chosen[rows], train.rejected[rows]], -1))]


@pytest.mark.trained
def test_gpo_trains_as_a_plain_loop_does() -> None:
    method = GPO(width=8, depth=2, epochs=3, rate=1e-2, cold_share=0.0, choices=4, most_context=3, input_scale=1.0)
    train = small(users=5)
    found = trained(method, train)
    reference = ReferenceGPO(DIM, 8, 2).load(start(method))
    updates = plain_training(
        method, train, reference, gpo_loss, torch.optim.Adam(reference.parameters(), lr=1e-2), cosine=True
    )
    assert updates == 9
    expected = dict(reference.named_parameters())
    ours = dict(ReferenceGPO(DIM, 8, 2).load(found).named_parameters())
    before = dict(ReferenceGPO(DIM, 8, 2).load(start(method)).named_parameters())
    all_near("weights", ours, expected, at_most=1e-5, control=before)


@pytest.mark.trained
@pytest.mark.parametrize("overlap", [True, False])
def test_np_trains_as_a_plain_loop_does(overlap: bool) -> None:
    method = NP(
        width=16, epochs=3, rate=1e-2, dropout=0.0, users_per_update=2, choices=4, most_context=3, overlap=overlap,
        decay=0.1, input_scale=1.0,
    )  # fmt: skip
    train = small(users=5)
    found = trained(method, train)
    reference = plainly_trained(method, train, ReferenceNP(DIM, 16))
    norm = reference.decoder[1]
    weight = norm.weight / (norm.running_var + norm.eps).sqrt()
    first = start(method)
    near("norm.weight", found["norm.weight"], weight, at_most=1e-5, control=first["norm.weight"])
    bias = norm.bias - norm.running_mean * weight
    near("norm.bias", found["norm.bias"], bias, at_most=1e-5, control=first["norm.bias"])
    ours, before = (settled(ReferenceNP(DIM, 16).load(network)) for network in (found, first))
    all_near("weights", ours, settled(reference), at_most=1e-5, control=before)


class SkipsAttention(ReferenceNP):
    """Attends to choices only where there are some: without any, attention has no gradient and AdamW skips it."""

    def encode(self, pairs: torch.Tensor) -> torch.Tensor:
        if pairs.shape[1]:
            return super().encode(pairs)
        z: torch.Tensor = self.outer(pairs.new_zeros(len(pairs), self.outer[0].in_features))
        return z


class NobodyShows(NP):
    """In every second epoch nobody shows a choice."""

    def plan(self, train: Comparisons, rng: Any) -> ContextPlan:
        plan = super().plan(train, rng)
        drawn = plan.epoch

        def epoch(number: int) -> list[list[UserDraw]]:
            if number % 2 == 0:
                return drawn(number)
            return [
                [UserDraw(m.context[:0], np.concatenate([m.context, m.target])) for m in update]
                for update in drawn(number)
            ]

        plan.epoch = epoch  # type: ignore[method-assign]
        return plan


@pytest.mark.trained
def test_np_trains_as_a_plain_loop_does_where_nobody_shows_a_choice() -> None:
    """The published network attends to no choices as to any: a gradient of zeros, so moments and decay go on."""
    method = NobodyShows(
        width=16, epochs=4, rate=1e-2, dropout=0.0, users_per_update=2, choices=4, most_context=3, decay=0.1,
        input_scale=1.0,
    )  # fmt: skip
    train = small(users=5)
    ours = settled(ReferenceNP(DIM, 16).load(trained(method, train)))
    expected = settled(plainly_trained(method, train, ReferenceNP(DIM, 16)))
    skipping = settled(plainly_trained(method, train, SkipsAttention(DIM, 16)))
    read = [name for name in expected if name.startswith(("attention.", "context."))]
    assert len(read) == 6
    found, wanted, other = ({name: network[name] for name in read} for network in (ours, expected, skipping))
    all_near("what reads choices", found, wanted, at_most=1e-5, control=other)


def plainly_trained(method: NP, train: Comparisons, reference: ReferenceNP) -> ReferenceNP:
    """`reference` from the method's start, trained by a plain loop of torch's own, ready to be compared."""
    reference.load(start(method))
    reference.attention.dropout = 0.0
    optimiser = torch.optim.AdamW(reference.parameters(), lr=1e-2, eps=3e-5, weight_decay=0.1)
    assert plain_training(method, train, reference, np_loss, optimiser, cosine=False) == 3 * method.epochs
    reference.eval()
    return reference


def settled(module: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters but those of the decoder's normalisation, which training leaves in another form."""
    return {name: tensor for name, tensor in module.named_parameters() if not name.startswith("decoder.1.")}


def start(method: NetworkMethod) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in method.initial(DIM, RNG).items()}


def trained(method: NetworkMethod, train: Comparisons) -> dict[str, torch.Tensor]:
    (snapshot,) = method.train_splits(SplitBatch([train], [RNG], [{method.budget}]))
    return snapshot.tensors


def plain_training(
    method: Any, train: Comparisons, reference: nn.Module, loss: Any, optimiser: Any, *, cosine: bool
) -> int:
    plan: ContextPlan = method.plan(train, RNG)
    steps = plan.updates * method.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps) if cosine else None
    done = 0
    for number in range(method.epochs):
        for update in plan.epoch(number):
            optimiser.zero_grad()
            loss(reference, method, update, train).backward()
            optimiser.step()
            if schedule:
                schedule.step()
            done += 1
    return done


@pytest.mark.parametrize(("made", "params"), NETWORKS)
def test_different_splits_trained_together_equal_each_alone(made: Any, params: Any) -> None:
    trains = [small(users=7, seed=1), small(users=3, seed=2)]
    items = Items(torch.cat([train.items.embedding for train in trains]))
    shift = len(trains[0].items)
    joined = [
        replace(trains[0], items=items),
        replace(
            trains[1],
            items=items,
            chosen=trains[1].chosen + shift,
            rejected=trains[1].rejected + shift,
            row=trains[1].row + len(trains[0]),
        ),
    ]
    method = made(**params)
    rngs = [RNG.child("a"), RNG.child("b")]
    together = {s.split: s for s in method.train_splits(SplitBatch(joined, rngs, [{2}, {2}]))}
    for i in range(2):
        (alone,) = method.train_splits(SplitBatch([joined[i]], [rngs[i]], [{2}]))
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(together[i].tensors[name], tensor, atol=1e-7, rtol=0, msg=name)


@pytest.mark.parametrize(("made", "params"), NETWORKS)
def test_the_scale_of_the_embeddings_does_not_matter(made: Any, params: Any) -> None:
    data = small()
    larger = replace(data, items=replace(data.items, embedding=data.items.embedding * 50))
    found = []
    for given in (data, larger):
        method = made(**params)
        (snapshot,) = method.train_splits(SplitBatch([given], [RNG], [{2}]))
        method.accept(snapshot.tensors, given, RNG)
        found.append(method.margins(method.seen_users(), given))
    assert float(found[0].abs().max()) > 1e-3
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
