"""GPO and NP against references built from torch's own modules, what contexts may and may not do, planted truth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2
from scipy.special import expit
from torch import nn
from torch.distributions import Normal

from prbench.attention import attention_layer, norm_layer
from prbench.comparisons import Comparisons, Items, concatenate
from prbench.contexts import ContextPlan, Meeting, context_batches, sampled
from prbench.contract import population
from prbench.errors import InputError
from prbench.method import FitProblem, Method, ParameterCount
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.gpo import GPO
from prbench.methods.neural_process import NP, BatchNorm
from prbench.networks import NetworkMethod
from prbench.seeds import Rng
from prbench.training import Snapshot, Work

DIM = 3
RNG = Rng("gpo-np")
SMALL_GPO: dict[str, Any] = {"width": 8, "depth": 2, "epochs": 2}
SMALL_NP: dict[str, Any] = {"width": 16, "epochs": 2}
NETWORKS: list[Any] = [(GPO, SMALL_GPO), (NP, SMALL_NP)]


# References


class ReferenceGPO(nn.Module):
    """The published network, from torch's modules, one user at a time."""

    def __init__(self, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedder = nn.Sequential(
            nn.Linear(dim + 1, width),
            *(layer for _ in range(3) for layer in (nn.ReLU(), nn.Linear(width, width))),
        )
        one = nn.TransformerEncoderLayer(width, 4, width, dropout=0.0, batch_first=True, norm_first=False)
        self.encoder = nn.TransformerEncoder(one, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, context: torch.Tensor, chosen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """m and s [n, 2] of targets [n, d] given context items [t, d] with labels `chosen` [t]."""
        label = torch.cat([chosen, torch.zeros(len(target))])[:, None].to(target)
        tokens = self.embedder(torch.cat([torch.cat([context, target]), label], 1))
        mask = torch.full((len(tokens), len(tokens)), -torch.inf, dtype=tokens.dtype)
        mask[:, : len(context)] = 0
        out: torch.Tensor = self.head(self.encoder(tokens[None], mask=mask)[0, len(context) :])
        return out

    def load(self, network: dict[str, torch.Tensor]) -> ReferenceGPO:
        own = {
            "embedder.0.weight": torch.cat([network["input.0.weight"], network["label"][:, None]], 1),
            "embedder.0.bias": network["input.0.bias"],
        }
        for kind in ("weight", "bias"):
            own |= {f"embedder.{2 * i}.{kind}": network[f"input.{i}.{kind}"] for i in (1, 2, 3)}
            own |= {f"head.{2 * i}.{kind}": network[f"head.{i}.{kind}"] for i in (0, 1)}
            for i in range(len(self.encoder.layers)):
                theirs = f"encoder.layers.{i}"
                own[f"{theirs}.self_attn.in_proj_{kind}"] = network[f"{i}.attention.in.{kind}"]
                own[f"{theirs}.self_attn.out_proj.{kind}"] = network[f"{i}.attention.out.{kind}"]
                own[f"{theirs}.linear1.{kind}"] = network[f"{i}.feed.0.{kind}"]
                own[f"{theirs}.linear2.{kind}"] = network[f"{i}.feed.1.{kind}"]
                own[f"{theirs}.norm1.{kind}"] = network[f"{i}.attention-norm.{kind}"]
                own[f"{theirs}.norm2.{kind}"] = network[f"{i}.feed-norm.{kind}"]
        self.to(network["null"].dtype).load_state_dict(own)
        return self


class ReferenceNP(nn.Module):
    """The published network, from torch's modules, for users with equally many choices."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.target = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
        self.context = nn.Linear(2 * dim, width)
        self.attention = nn.MultiheadAttention(width, 8, 0.1, batch_first=True)
        self.outer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.decoder = nn.Sequential(
            nn.Linear(2 * width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1, bias=False)
        )

    def encode(self, pairs: torch.Tensor) -> torch.Tensor:
        """z [B, width] of users with choices [B, n, 2, d]."""
        x = self.context(pairs.flatten(2))
        if pairs.shape[1]:
            x = self.attention(x, x, x)[0]
        z: torch.Tensor = self.outer(x.sum(1))
        return z

    def forward(self, items: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Scores [n] of items [n, d] for vectors [n, width]."""
        out: torch.Tensor = self.decoder(torch.cat([self.target(items), z], 1))
        return out[:, 0]

    def load(self, network: dict[str, torch.Tensor]) -> ReferenceNP:
        own = {"decoder.0.weight": torch.cat([network["item.weight"], network["latent.weight"]], 1)}
        own["decoder.3.weight"] = network["decoder.1.weight"]
        for kind in ("weight", "bias"):
            own |= {f"target.{2 * i}.{kind}": network[f"target.{i}.{kind}"] for i in (0, 1)}
            own |= {f"outer.{2 * i}.{kind}": network[f"context.{i + 1}.{kind}"] for i in (0, 1)}
            own[f"context.{kind}"] = network[f"context.0.{kind}"]
            own[f"attention.in_proj_{kind}"] = network[f"attention.in.{kind}"]
            own[f"attention.out_proj.{kind}"] = network[f"attention.out.{kind}"]
            own[f"decoder.1.{kind}"] = network[f"norm.{kind}"]
        missing, unexpected = self.to(network["norm.weight"].dtype).load_state_dict(own, strict=False)
        assert (missing, unexpected) == (["decoder.1.running_mean", "decoder.1.running_var"], [])
        return self


def random_network(method: NetworkMethod, seed: int = 0, dim: int = DIM) -> dict[str, torch.Tensor]:
    """Every weight, bias and norm away from its default."""
    draw = torch.Generator().manual_seed(seed)
    made = method.initial(dim, Rng("net", seed))
    return {
        name: (tensor.double() + 0.2 * torch.randn(tensor.shape, generator=draw, dtype=torch.float64))
        for name, tensor in made.items()
    }


def choices(data: Comparisons, user: int) -> torch.Tensor:
    """e(chosen), e(rejected) of a user's comparisons, [n, 2, d]."""
    mine = data.of(user)
    return data.items.embedding[torch.from_numpy(np.stack([mine.chosen, mine.rejected], 1))]


def scores(method: Method, states: Any, data: Comparisons, users: np.ndarray[Any, Any]) -> torch.Tensor:
    """Scores of every item for each of the users, [users, items]."""
    m = len(data.items)
    each = np.repeat(users, m)
    return method.score(states, each, data.items.take(np.tile(np.arange(m), len(users)))).view(len(users), m)


def small(users: int = 4, seed: int = 3, **changes: Any) -> Comparisons:
    return population(users=users, dim=DIM, groups=(2, 4), pairs=(1, 2), seed=seed, **changes)


# Architecture


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
    assert float(found.std(0).min()) > 1e-3


@pytest.mark.parametrize("likelihood", ["bounded", "unbounded", "bradley-terry"])
def test_a_questions_loss_is_the_published_one(likelihood: Any) -> None:
    out = torch.randn(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
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


@pytest.mark.parametrize("likelihood", ["bounded", "unbounded"])
def test_training_on_choices_that_can_be_told_apart_has_a_floor_only_if_bounded(likelihood: Any) -> None:
    data = population(users=2, dim=DIM, groups=(6, 6), pairs=(2, 2), seed=2, personal=0.0, noise=0.1)
    method = GPO(likelihood=likelihood, width=16, depth=1, rate=3e-3, epochs=200, most_context=5, choices=12)
    losses = []

    def recorded(out: torch.Tensor) -> torch.Tensor:
        each = GPO.question_losses(method, out)
        losses.append(float(each.detach().mean()))
        return each

    method.question_losses = recorded  # type: ignore[method-assign]
    trained(method, data)
    assert len(losses) == 200
    if likelihood == "bounded":
        assert FLOOR < min(losses) < FLOOR + 0.1
    else:
        assert min(losses) < 3 * FLOOR


def test_np_is_the_published_network_at_evaluation() -> None:
    data = small()
    data = concatenate([data.of(user).take(np.arange(2)) for user in data.users.tolist()])
    method = NP(**SMALL_NP)
    network = random_network(method)
    reference = ReferenceNP(DIM, 16).load(network)
    norm = BatchNorm(torch.zeros(1, 16, dtype=torch.float64))
    hidden = 3 * torch.randn(1, 50, 16, dtype=torch.float64) + 1
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
    network = {"norm.weight": torch.rand(2, 4), "norm.bias": torch.rand(2, 4)}
    x = torch.randn(2, 7, 4)
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


# Training


def gpo_loss(reference: nn.Module, method: GPO, update: list[Meeting], train: Comparisons) -> Any:
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


def np_loss(reference: nn.Module, method: NP, update: list[Meeting], train: Comparisons) -> Any:
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
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("overlap", [True, False])
def test_np_trains_as_a_plain_loop_does(overlap: bool) -> None:
    method = NP(
        width=16, epochs=3, rate=1e-2, dropout=0.0, users_per_update=2, choices=4, most_context=3, overlap=overlap,
        decay=0.1, input_scale=1.0,
    )  # fmt: skip
    train = small(users=5)
    found = trained(method, train)
    reference = ReferenceNP(DIM, 16).load(start(method))
    reference.attention.dropout = 0.0
    optimiser = torch.optim.AdamW(reference.parameters(), lr=1e-2, eps=3e-5, weight_decay=0.1)
    assert plain_training(method, train, reference, np_loss, optimiser, cosine=False) == 9
    reference.eval()
    norm = reference.decoder[1]
    weight = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(found["norm.weight"], weight.detach(), atol=1e-6, rtol=0)
    bias = norm.bias - norm.running_mean * weight
    torch.testing.assert_close(found["norm.bias"], bias.detach(), atol=1e-6, rtol=0)
    ours = dict(ReferenceNP(DIM, 16).load(found).named_parameters())
    for name, tensor in reference.named_parameters():
        if not name.startswith("decoder.1."):
            torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0, msg=name)


def start(method: NetworkMethod) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in method.initial(DIM, RNG).items()}


def trained(method: NetworkMethod, train: Comparisons) -> dict[str, torch.Tensor]:
    (snapshot,) = method.train_splits(Work([train], [RNG], [{method.budget}]))
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
    together = {s.split: s for s in method.train_splits(Work(joined, rngs, [{2}, {2}]))}
    for i in range(2):
        (alone,) = method.train_splits(Work([joined[i]], [rngs[i]], [{2}]))
        for name, tensor in alone.tensors.items():
            torch.testing.assert_close(together[i].tensors[name], tensor, atol=1e-7, rtol=0, msg=name)


@pytest.mark.parametrize(("made", "params"), NETWORKS)
def test_the_scale_of_the_embeddings_does_not_matter(made: Any, params: Any) -> None:
    data = small()
    larger = replace(data, items=replace(data.items, embedding=data.items.embedding * 50))
    found = []
    for given in (data, larger):
        method = made(**params)
        (snapshot,) = method.train_splits(Work([given], [RNG], [{2}]))
        method.accept(snapshot.tensors, given, RNG)
        found.append(method.margins(method.seen_users(), given))
    assert float(found[0].abs().max()) > 1e-3
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


# Contexts


@pytest.mark.parametrize(("made", "params"), NETWORKS)
def test_a_score_depends_on_the_context_as_a_set_and_on_no_other_target(made: Any, params: Any) -> None:
    data = small(users=3)
    method = made(**params)
    method.restore(random_network(method))
    states = method.adapt_unseen(data, rng=RNG)
    all_at_once = scores(method, states, data, data.users)
    for seed in range(3):
        shuffled = data.take(np.random.default_rng(seed).permutation(len(data)))
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
    assert float((other[0] - all_at_once[1]).abs().max()) > 1e-3


def test_the_null_token_speaks_for_users_without_choices_only() -> None:
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
    assert float((found[0][1] - found[1][1]).abs().max()) > 1e-3
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
    shuffled = data.take(np.random.default_rng(1).permutation(len(data)))
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


# Planted truth


class Planted:
    """Users in clusters that each have a reward of their own, choosing among items that they share."""

    def __init__(self, centres: np.ndarray[Any, Any], *, users: int, rows: int = 40, items: int = 200) -> None:
        draw = np.random.default_rng(0)
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

    def fit(self, method: Method) -> Method:
        type(method).fit_splits([method], [FitProblem(self.train, self.validation, RNG)])
        return method

    def fit_to_the_end(self, method: Method) -> Method:
        everything = concatenate([self.train, self.validation])
        type(method).fit_splits([method], [FitProblem(everything, everything.take([]), RNG)])
        return method

    def accuracy(self, method: Method, *, cold: bool = False) -> Any:
        """Per unseen user."""
        test = self.test
        states = (
            method.cold_start(test.users, test.items, rng=RNG) if cold else method.adapt_unseen(self.support, rng=RNG)
        )
        right = (method.margins(states, test) > 0).numpy()
        return np.array([right[test.user == user].mean() for user in test.users])


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


def test_gpo_finds_the_clusters_from_context_alone() -> None:
    """Two kinds of users who want the opposite of each other: nothing shared helps.

    The transformer is small and its steps are large, or it would not leave the plateau on which it ignores the context
    within a test's time.
    """
    planted = Planted(np.outer([1.0, -1.0], [4.0, 0]), users=150)
    made = GPO(width=32, depth=2, epochs=20, rate=3e-3, users_per_update=4, warmup=0.1, clip=1.0)
    gpo, bt = planted.fit_to_the_end(made), planted.fit(BTRidge())
    assert planted.accuracy(gpo).mean() > planted.accuracy(bt).mean() + 0.3
    assert planted.accuracy(gpo).mean() > 0.85
    assert planted.accuracy(gpo, cold=True).mean() < 0.6
    states = gpo.adapt_unseen(planted.support, rng=RNG)
    probes = scores(gpo, states, planted.test, states.users)
    labels = found_clusters(probes - probes.mean(1, keepdim=True), 2)
    assert adjusted_rand(labels, planted.cluster[states.users]) >= 0.9


def test_np_finds_the_clusters_from_context_alone() -> None:
    """Three kinds of users with rewards at right angles; ten noisy choices tell them apart, though not surely."""
    planted = Planted(4 * np.eye(3, 8), users=120)
    method, bt = planted.fit_to_the_end(NP(epochs=15)), planted.fit(BTRidge())
    assert planted.accuracy(method).mean() > planted.accuracy(bt).mean() + 0.1
    assert planted.accuracy(method, cold=True).mean() < planted.accuracy(bt).mean() + 0.03
    states = method.adapt_unseen(planted.support, rng=RNG)
    labels = found_clusters(states.tensors["z"], 3)
    assert adjusted_rand(labels, planted.cluster[states.users]) >= 0.7


@pytest.mark.parametrize("method", [GPO(width=32, depth=2, rate=3e-3), NP(epochs=15)])
def test_on_clones_nothing_is_gained_and_little_is_lost(method: Method) -> None:
    centre = 0.4 * np.random.default_rng(4).normal(size=(1, 8))
    planted = Planted(2 * centre, users=60)
    baseline = planted.accuracy(planted.fit(BTRidge()))
    assert baseline.mean() > 0.75
    difference = planted.accuracy(planted.fit(method)) - baseline
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    assert difference.mean() < 2.5 * error
    assert difference.mean() > -0.03
