"""VPL and PAL: their formulas by hand, their networks against plain torch, and the users they find."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from planted_clusters import RNG, World, dealt, rand_index, world
from scipy.cluster.vq import kmeans2
from torch import nn
from trained import all_near, measured, near

from prbench.comparisons import Comparisons, Items
from prbench.encoders.minilm import MiniLM
from prbench.method import FitProblem, Method
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.pal import PAL, PALB, dropping
from prbench.methods.user_bt import UserBT
from prbench.methods.vpl import VPL, Posterior, annealing, divergence
from prbench.training.networks import unstacked
from prbench.training.prototypes import LazyAdam


@pytest.fixture(scope="module")
def three() -> World:
    return world(clusters=3)


@pytest.fixture(scope="module")
def clones() -> World:
    return world(clusters=1)


def test_the_rand_index_by_hand() -> None:
    assert rand_index(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])) == 1
    # Of 10 couples, 2 are together in a, 3 in b, 1 in both; by chance it would be 2·3/10.
    a, b = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 2])
    assert rand_index(a, b) == pytest.approx((1 - 0.6) / (2.5 - 0.6))
    # Two partitions that say nothing of each other.
    row, column = np.divmod(np.arange(900), 30)
    assert abs(rand_index(row % 3, column % 3)) < 0.01


SMALL_PAL: dict[str, Any] = {
    "width": 32, "rate": 2e-3, "epochs": 12, "weight_rate": 0.1, "adapt_rate": 0.1, "adapt_batch": 16,
}  # fmt: skip
# With the published 3e-6 two of three clusters often share a vector.
SMALL_VPL: dict[str, Any] = {
    "width": 64, "rate": 2e-3, "epochs": 60, "users_per_update": 4, "targets": 24, "kl_weight": 0.01,
}  # fmt: skip


def found_clusters(values: torch.Tensor, count: int) -> NDArray[np.int64]:
    """The best of ten runs of k-means, each of which may end in a poor division."""
    x = values.double().numpy()
    runs = [kmeans2(x, count, minit="++", rng=run) for run in range(10)]
    found: NDArray[np.int64] = min(runs, key=lambda run: float(((x - run[0][run[1]]) ** 2).sum()))[1]
    return found


@pytest.mark.trained
def test_pal_finds_the_planted_clusters(three: World) -> None:
    """With as many prototypes as clusters, two clusters often start near one prototype and stay there, with six still
    in two of fifteen starts; ten suffice.

    A user's ideal point is then a mixture of several prototypes, so that the ideal points are what has clusters.
    """
    pal = three.fit(PAL(prototypes=10, **SMALL_PAL))
    for name, states in {"seen": pal.seen_users(), "unseen": pal.adapt_unseen(three.support, rng=RNG)}.items():
        found = found_clusters(states.tensors["weight"].softmax(-1) @ pal.learned()["prototypes"], 3)
        cluster = three.cluster[states.users]
        measured(name, rand_index(found, cluster), at_least=0.5, control=rand_index(dealt(cluster), cluster))
    measured("accuracy", three.accuracy(pal), at_least=0.7, control=three.accuracy(three.fit(BTRidge())))
    measured("accuracy at cold start", three.cold(pal), at_most=0.7, control=three.accuracy(pal))


@pytest.mark.trained
def test_pal_b_finds_clusters_that_read_prompts_differently() -> None:
    planted = world(clusters=2, dim=4, by_prompt=True)
    palb = planted.fit(PALB(prototypes=2, **SMALL_PAL))
    found, cluster = palb.seen_users().tensors["weight"].argmax(-1).numpy(), planted.cluster[planted.train.users]
    measured("Rand index", rand_index(found, cluster), at_least=0.6, control=rand_index(dealt(cluster), cluster))
    # Neither a reward without the prompt nor one without the user says anything here.
    measured("accuracy", planted.accuracy(palb), at_least=0.6, control=planted.accuracy(planted.fit(BTRidge())))


@pytest.mark.trained
def test_the_recipe_for_stored_embeddings_finds_clusters_that_read_prompts_with_opposite_signs() -> None:
    planted = world(clusters=2, dim=4, by_prompt="opposed")
    recipe = {"width": 0, "activation": "relu", "dropout": 0.1, "residual": True, "bound": 0.01, "decoupled": True}
    palb = PALB(**{**SMALL_PAL, **recipe, "rate": 0.01}).fit_seen(planted.train, planted.train.take([]), rng=RNG)
    measured("accuracy", planted.accuracy(palb), at_least=0.6, control=planted.accuracy(planted.fit(BTRidge())))


def test_the_parts_of_the_recipe_for_stored_embeddings_by_hand() -> None:
    draw = RNG.child("recipe").torch()
    method = PALB(width=0, activation="relu", residual=True, bound=0.5, longest=1.0)
    network = method.start(4, 4, RNG)
    stack = {name: tensor[None] for name, tensor in network.items()}
    pairs, context = torch.randn(1, 3, 2, 4, generator=draw), torch.randn(1, 3, 4, generator=draw)
    mixed, there = torch.tensor([[[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]]]), torch.tensor([[1.0, 1.0, 0.0]])
    scale = torch.tensor([2.0])
    found, besides = method.training_terms(stack, 2 * pairs, 2 * context, mixed, scale, there, [draw])

    def through(name: str, x: torch.Tensor) -> torch.Tensor:
        return plain(network, *(f"{name}.{i}" for i in range(3)), act=nn.ReLU())(2 * x) + x

    with torch.no_grad():
        ideal = mixed[0, :, :1] * through("g0", context[0]) + mixed[0, :, 1:] * through("g1", context[0])
        cosine = torch.cosine_similarity(through("f", pairs[0]), ideal[:, None], dim=-1)
        torch.testing.assert_close(found[0], (cosine[:, 0] - cosine[:, 1]) / 0.07)
        # Only what is there counts, and only what is longer than the bound.
        beyond = (ideal[:2].norm(dim=1) - 1).clamp_min(0)
        torch.testing.assert_close(besides[0], 0.5 * beyond.sum())
    assert float(besides) > 0
    # Prompts of another width than the networks' have no residual, and f asks for the embeddings' width.
    narrow = method.start(4, 3, RNG)
    out = method.aims({name: tensor[None] for name, tensor in narrow.items()}, torch.randn(1, 2, 3))
    assert out.shape == (1, 2, 2, 4)
    items = Items(torch.zeros(2, 4), context=torch.zeros(2, 3))
    data = Comparisons(items, *(np.array([i]) for i in (0, 0, 1, 0, 0)))
    assert method.unsupported(data) is None
    assert "the residual needs" in str(PALB(width=3, residual=True).unsupported(data))


def test_dropout_leaves_out_its_share_and_makes_up_for_it() -> None:
    ones = torch.ones(2, 4000, 3)
    out = dropping(0.25, [RNG.child("drop", s).torch() for s in range(2)])(ones)
    assert {round(value, 5) for value in out.unique().tolist()} == {0.0, round(4 / 3, 5)}
    assert float(out.mean()) == pytest.approx(1, abs=0.03)
    # A split's numbers do not depend on the others'.
    alone = dropping(0.25, [RNG.child("drop", 1).torch()])(ones[1:])
    assert torch.equal(alone[0], out[1])


@pytest.mark.trained
def test_vpl_finds_clusters_from_context_alone(three: World) -> None:
    vpl = three.fit(VPL(**SMALL_VPL))
    z = vpl.adapt_unseen(three.support, rng=RNG).tensors["z"]
    cluster = three.cluster[three.support.users]
    seen, centre = vpl.seen_users().tensors["z"], three.cluster[three.train.users]

    def hits(centre: NDArray[np.int64]) -> float:
        """How many unseen users' z lie next to the mean of the seen users of their cluster."""
        centres = torch.stack([seen[torch.from_numpy(centre == k)].mean(0) for k in range(3)])
        return float((torch.cdist(z, centres).argmin(1).numpy() == cluster).mean())

    def spread(cluster: NDArray[np.int64]) -> float:
        """Distances between clusters, as multiples of those within one."""
        apart, same = torch.cdist(z, z).numpy(), cluster[:, None] == cluster
        return float(apart[~same].mean() / apart[same & ~np.eye(len(z), dtype=bool)].mean())

    # Now and then two clusters share a vector for good, and half of their users are next to the other's.
    chance, again = (
        np.mean([hits(dealt(centre, deal)) for deal in deals]) for deals in (range(100), range(100, 200))
    )
    measured("next to their own, beyond chance", hits(centre) - chance, at_least=0.15, control=again - chance)
    measured("log10 of apart", np.log10(spread(cluster)), at_least=0.28, control=np.log10(spread(dealt(cluster))))
    measured("accuracy", three.accuracy(vpl), at_least=0.58, control=three.accuracy(three.fit(BTRidge())))
    measured("accuracy at cold start", three.cold(vpl), at_most=0.58, control=three.accuracy(vpl))


@pytest.mark.trained
@pytest.mark.parametrize("method", [PAL(**SMALL_PAL), VPL(**SMALL_VPL)], ids=["pal", "vpl"])
def test_on_clones_little_is_lost_by_personalising(clones: World, method: Method) -> None:
    best = clones.agreement(clones.truth)
    # A reward of a user's own eight choices alone.
    user_bt = clones.fit(UserBT())
    few = user_bt.adapt_unseen(clones.support.take(clones.support.group < 8), rng=RNG)
    alone = best - clones.agreement(user_bt.margins(few, clones.test).numpy())
    # Bradley-Terry is as good as the truth, so nothing can be gained over it.
    measured("left to gain", best - clones.accuracy(clones.fit(BTRidge())), at_most=0.01, control=alone)
    measured("behind the truth", best - clones.accuracy(clones.fit(method)), at_most=0.04, control=alone)


# methods.md, section 0, at d = 4,096 for 10, 100, 1,000 and 10,000 users.
PAL_COUNTS = {
    "A": (PAL(), [2_631_188, 2_631_368, 2_633_168, 2_651_168]),
    "A, residual": (PAL(width=0, residual=True), [50_352_148, 50_352_328, 50_354_128, 50_372_128]),
    "B": (PALB(), [7_868_949, 7_869_129, 7_870_929, 7_888_929]),
    "B, as wide": (PALB(width=0), [151_031_829, 151_032_009, 151_033_809, 151_051_809]),
}


@pytest.mark.parametrize("name", PAL_COUNTS)
def test_pal_counts_as_in_the_fact_sheet(name: str) -> None:
    method, expected = PAL_COUNTS[name]
    assert [method.parameters_for(4096).total(users) for users in (10, 100, 1_000, 10_000)] == expected


def test_vpl_counts_as_in_the_fact_sheet() -> None:
    assert VPL().parameters_for(4096) == (4_720_128 + 1_313_280 + 2_622_977, 512)
    assert VPL().parameters_for(4096).shared == 8_656_385


@pytest.mark.parametrize(("dim", "width"), [(5, 7), (6, 3)])
@pytest.mark.parametrize("made", [PAL(width=3), PAL(width=0, residual=True), PALB(width=3), PALB(width=0)])
def test_pal_counts_are_those_of_its_tensors(made: PAL | PALB, dim: int, width: int) -> None:
    method = type(made)(**{**made.hyper_parameters, "width": made.width and width})
    stored = sum(tensor.numel() for tensor in method.start(dim, dim, RNG).values())
    assert method.parameters_for(dim).shared == stored


def plain(network: dict[str, torch.Tensor], *names: str, act: nn.Module) -> nn.Sequential:
    """torch's own layers with the network's weights."""
    steps: list[nn.Module] = []
    for name in names:
        weight, bias = network[f"{name}.weight"], network[f"{name}.bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        steps += [layer, act]
    return nn.Sequential(*steps[:-1])


def test_vpls_network_is_plain_torchs() -> None:
    vpl, act = VPL(width=6), nn.LeakyReLU(0.2)
    network = vpl.initial(4, RNG)
    draw = RNG.child("plain").torch()
    chosen, rejected, items = (torch.randn(n, 4, generator=draw) for n in (5, 5, 9))
    with torch.no_grad():
        encoded = plain(network, "pair.0", "pair.1", "pair.2", act=act)(torch.cat([chosen, rejected], 1))
        q, k, v = (plain(network, name, act=act)(encoded) for name in ("query", "key", "value"))
        attended = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0].mean(0)
        # Half of the means are beyond the range to which they are clamped.
        size = plain(network, "mean", act=act)(attended).abs().median()
        for name in ("mean.weight", "mean.bias"):
            network[name] = network[name] / (1.01 * size)
        mean, log_var = (plain(network, name, act=act)(attended).clamp(-1, 1) for name in ("mean", "log_var"))
        assert (mean.abs() == 1).any()
        assert (mean.abs() < 1).any()
        joined = {**network, "decoder.0.weight": torch.cat([network["item.weight"], network["latent.weight"]], 1)}
        joined["decoder.0.bias"] = network["item.bias"]
        decoder = plain(joined, "decoder.0", "decoder.1", "decoder.2", act=act)
        score = decoder(torch.cat([items, mean.expand(9, -1)], 1))[:, 0]

    # Beside another user with fewer choices, and with padding.
    pairs = torch.zeros(1, 2, 7, 8)
    pairs[0, 0, :5] = torch.cat([chosen, rejected], 1)
    pairs[0, 1] = 1
    shown = torch.tensor([[[1.0] * 5 + [0, 0], [1.0] + [0] * 6]])
    posterior = vpl.posterior(unstacked(network), pairs, shown)
    torch.testing.assert_close(posterior.mean[0, 0], mean)
    torch.testing.assert_close(posterior.log_var[0, 0], log_var)

    n = np.arange(5)
    support = Comparisons(Items(torch.cat([chosen, rejected])), np.zeros(5, dtype=np.int64), n, n + 5, n, n)
    vpl.restore(network)
    states = vpl.adapt_unseen(support, rng=RNG)
    torch.testing.assert_close(states.tensors["z"][0], mean)
    torch.testing.assert_close(vpl.score(states, np.zeros(9, dtype=np.int64), Items(items)), score)


def test_the_divergence_from_the_prior_by_hand() -> None:
    posterior = Posterior(torch.tensor([[0.5, -1.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    # ½(1 + 0.25 − 1 − 0) + ½(e + 1 − 1 − 1), and nothing for the prior itself.
    assert divergence(posterior).tolist() == pytest.approx([0.125 + 0.5 * (math.e - 1), 0.0])


def test_the_annealing_of_the_divergence_by_hand() -> None:
    # 0.1 at the start, half way up in the middle of a cycle, 0.9·(1 − cos 60°)/2 up at a third, and from the start.
    steps = {0: 0.1, 300: 0.1 + 0.45, 200: 0.1 + 0.9 * 0.25, 600: 0.1, 900: 0.55}
    assert {t: annealing(t, 600) for t in steps} == pytest.approx(steps)
    rising = [annealing(t, 600) for t in range(600)]
    assert all(a < b for a, b in pairwise(rising))
    assert rising[-1] == pytest.approx(1.0, abs=1e-4)


def test_where_vpl_rescales_its_latent_vector() -> None:
    posterior = Posterior(torch.tensor([[[0.3, 0.0, 0.0, -0.4]]]), torch.zeros(1, 1, 4))
    noise = torch.zeros(1, 1, 4)
    raw = posterior.mean[0, 0]
    for rescale, training in (("training", 4 * raw), ("both", 4 * raw), ("neither", raw)):
        torch.testing.assert_close(VPL(width=4, rescale=rescale).sample(posterior, noise)[0, 0], training)
    lengths = {}
    for rescale in ("training", "both"):
        vpl = VPL(width=4, rescale=rescale)
        vpl.restore(vpl.initial(2, RNG))
        support = pairs_of([[1.0, 2.0], [0.5, -1.0]])
        lengths[rescale] = float(vpl.adapt_unseen(support, rng=RNG).tensors["z"].norm())
    assert lengths["both"] == pytest.approx(2.0, abs=1e-5)
    assert lengths["training"] < 1.9


def test_the_noise_in_training_has_the_posteriors_deviation() -> None:
    posterior = Posterior(torch.full((1, 1, 2), 0.25), torch.tensor([[[0.0, -1.0]]]))
    z = VPL(width=2, rescale="neither").sample(posterior, torch.tensor([[[2.0, -2.0]]]))
    assert z[0, 0].tolist() == pytest.approx([0.25 + 2, 0.25 - 2 * math.exp(-0.5)])


def pairs_of(embedding: list[list[float]]) -> Comparisons:
    """One user who prefers every even item to the next."""
    n = np.arange(len(embedding) // 2)
    return Comparisons(Items(torch.tensor(embedding)), np.zeros_like(n), 2 * n, 2 * n + 1, n, n)


def test_without_support_vpl_is_the_prior(three: World) -> None:
    vpl = three.fit(VPL(**{**SMALL_VPL, "epochs": 2}))
    states = vpl.cold_start(three.test.users, three.test.items, rng=RNG)
    assert bool((states.tensors["z"] == 0).all())
    assert bool(torch.isfinite(vpl.margins(states, three.test)).all())


def test_vpl_reads_a_limited_context_from_the_users_own_stream(three: World) -> None:
    vpl = three.fit(VPL(**{**SMALL_VPL, "epochs": 2, "context_limit": 5}))
    z = vpl.adapt_unseen(three.support, rng=RNG).tensors["z"]
    backwards = three.support.take(np.arange(len(three.support))[::-1])
    torch.testing.assert_close(vpl.adapt_unseen(backwards, rng=RNG).tensors["z"], z)
    assert float((vpl.adapt_unseen(three.support, rng=RNG.child("other")).tensors["z"] - z).abs().max()) > 1e-4
    few = three.support.take(three.support.group < 5)
    every = vpl.fresh()
    every.restore(vpl.learned())
    every.context_limit = 0
    torch.testing.assert_close(
        vpl.adapt_unseen(few, rng=RNG).tensors["z"], every.adapt_unseen(few, rng=RNG).tensors["z"]
    )


def identity_pal(prototypes: list[list[float]], **changes: Any) -> PAL:
    """PAL on positive embeddings of 2 dimensions whose f changes nothing."""
    pal = PAL(prototypes=len(prototypes), width=2, **changes)
    network: dict[str, torch.Tensor] = {"prototypes": torch.tensor(prototypes)}
    for i in range(3):
        network |= {f"f.{i}.weight": torch.eye(2), f"f.{i}.bias": torch.zeros(2)}
    return pal.restore(network)


def test_pals_loss_by_hand() -> None:
    pal = identity_pal([[1.0, 1.0], [3.0, 1.0]])
    network, scale = unstacked(pal.network), torch.ones(1)
    # Ideal points (2, 1) and, with all weight on the second prototype, (3, 1).
    mixed = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
    pairs = torch.tensor([[[[2.0, 2.0], [5.0, 5.0]], [[3.0, 3.0], [3.0, 2.5]]]])
    margin = pal.training_margins(network, pairs, None, mixed, scale)
    assert margin[0].tolist() == pytest.approx([5 - 1, 1.5 - 2])
    assert pal.loss(margin)[0].tolist() == pytest.approx([0, 1.5])
    assert pal.loss(torch.tensor([0.75, 1.0])).tolist() == pytest.approx([0.25, 0])
    items = Items(pairs[0].reshape(4, 2))
    states = pal.cold_start(np.zeros(1, dtype=np.int64), items, rng=RNG)
    scores = pal.score(states, np.zeros(4, dtype=np.int64), items)
    assert scores.tolist() == pytest.approx([-1, -5, -math.sqrt(5), -math.sqrt(1 + 1.5**2)])


def test_pals_residual_adds_the_embedding() -> None:
    pal = PAL(prototypes=1, width=0, residual=True)
    network = pal.start(2, None, RNG)
    x = torch.tensor([[[0.5, -2.0]]])
    without = PAL(prototypes=1, width=0).project(unstacked(network), x)
    torch.testing.assert_close(pal.project(unstacked(network), x), without + x)
    assert PAL(residual=True).unsupported(pairs_of([[1.0, 2.0]] * 2)) == (
        "the residual needs embeddings of width 512, these have 2"
    )
    assert pal.unsupported(pairs_of([[1.0, 2.0]] * 2)) is None


def test_pals_prototypes_start_at_length_one() -> None:
    prototypes = PAL(prototypes=4).start(50, None, RNG)["prototypes"]
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.ones(4))


def test_pal_bs_score_by_hand() -> None:
    palb = PALB(prototypes=2, width=2)
    network: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(math.log(50.0))}
    for name, turn in (
        ("f", [[1.0, 0.0], [0.0, 1.0]]),
        ("g0", [[1.0, 0.0], [0.0, 1.0]]),
        ("g1", [[0.0, 1.0], [1.0, 0.0]]),
    ):
        for i in range(3):
            # Large enough for GELU to be the identity.
            network |= {f"{name}.{i}.weight": torch.eye(2), f"{name}.{i}.bias": torch.zeros(2)}
        network[f"{name}.2.weight"] = torch.tensor(turn)
    palb.restore(network)
    items = Items(torch.tensor([[30.0, 40.0], [50.0, 0.0]]), context=torch.tensor([[10.0, 50.0]] * 2))
    user = np.zeros(2, dtype=np.int64)
    states = palb.cold_start(user, items, rng=RNG)
    # Equal weights: the aim (30, 30). With all weight on the second network: (50, 10).
    diagonal = [50 * 0.7 * math.sqrt(2), 50 * math.sqrt(0.5)]
    assert palb.score(states, user, items).tolist() == pytest.approx(diagonal, rel=1e-5)
    states.tensors["weight"][0] = torch.tensor([-50.0, 50.0])
    side = math.hypot(50, 10)
    assert palb.score(states, user, items).tolist() == pytest.approx([50 * 38 / side, 50 * 50 / side], rel=1e-5)
    margin = palb.training_margins(
        unstacked(network),
        items.embedding[None, None],
        items.context[None, :1],
        torch.tensor([[[0.0, 1.0]]]),
        torch.ones(1),
    )
    assert float(margin) == pytest.approx(50 * -12 / side, rel=1e-4)
    assert float(palb.loss(margin)) == pytest.approx(math.log1p(math.exp(50 * 12 / side)), rel=1e-4)
    network["logit_scale"] = torch.tensor(math.log(1e6))
    assert palb.restore(network).score(states, user, items)[0] == pytest.approx(100 * 38 / side, rel=1e-5)


def test_pal_b_needs_prompts_of_their_own(three: World) -> None:
    joint = Comparisons(Items(three.train.items.embedding), *([np.zeros(1, dtype=np.int64)] * 5))
    assert PALB().unsupported(joint) == "the embeddings do not hold the prompt apart from the response"
    assert PALB().unsupported(three.train) is None
    assert (MiniLM(mode="separate").context_dim, MiniLM(mode="joint").context_dim) == (384, None)
    taken = three.train.items.take(np.array([3, 1]))
    assert taken.context is not None
    assert three.train.items.context is not None
    torch.testing.assert_close(taken.context, three.train.items.context[[3, 1]])


def test_lazy_adam_is_adam_on_parameters_without_a_gradient_now_and_then() -> None:
    draw = RNG.child("lazy").torch()
    start = torch.randn(3, 2, generator=draw)
    ours = start.clone()
    lazy = LazyAdam(ours)
    theirs = [nn.Parameter(row.clone()) for row in start]
    adam = torch.optim.Adam(theirs, lr=0.05)
    for turn in ([True, False, True], [True, True, False], [False, False, True], [True, True, True]):
        gradient = torch.randn(3, 2, generator=draw)
        lazy.step(gradient, torch.tensor(turn), 0.05)
        for parameter, row, mine in zip(theirs, gradient, turn, strict=True):
            parameter.grad = row if mine else None
        adam.step()
    torch.testing.assert_close(ours, torch.stack([parameter.detach() for parameter in theirs]))


def test_pal_adapts_as_adamw_on_the_users_own_batches(three: World) -> None:
    pal = three.fit(PAL(prototypes=3, adapt_epochs=3, width=32, epochs=1))
    before = {name: tensor.clone() for name, tensor in pal.learned().items()}
    user = int(three.support.users[4])
    mine = three.support.of(user)
    adapted = pal.adapt_unseen(three.support, rng=RNG)
    assert set(adapted.tensors) == {"weight"}
    stream = RNG.child("user", user)
    logits = nn.Parameter(torch.randn(3, generator=stream.torch()))
    order, adam = stream.child("order").numpy(), torch.optim.AdamW([logits], lr=5e-3, weight_decay=0)
    f = plain(before, "f.0", "f.1", "f.2", act=nn.ReLU())
    for _ in range(3):
        shuffled = order.permutation(len(mine))
        for at in range(0, len(mine), 4):
            batch = shuffled[at : at + 4]
            ideal = f(logits.softmax(0) @ before["prototypes"])
            away = [
                (f(mine.items.embedding[side[batch]]) - ideal).norm(dim=1) for side in (mine.rejected, mine.chosen)
            ]
            loss = (1 - (away[0] - away[1])).relu().mean()
            (logits.grad,) = torch.autograd.grad(loss, [logits])
            adam.step()
    torch.testing.assert_close(adapted.tensors["weight"][4], logits.detach(), atol=1e-5, rtol=1e-4)
    assert float((logits.detach() - torch.randn(3, generator=stream.torch())).abs().max()) > 0.02
    assert all(torch.equal(before[name], tensor) for name, tensor in pal.learned().items())


@pytest.mark.trained
def test_pal_trains_as_adam_with_a_parameter_for_each_user(three: World) -> None:
    train = three.train.take(three.train.group < 10)
    train = replace(train, items=replace(train.items, embedding=train.items.embedding.double()))
    pal = PAL(width=5, epochs=1, pairs_per_update=7, input_scale=1.0)
    nothing = train.take(np.empty(0, dtype=np.int64))
    PAL.fit_splits([pal], [FitProblem(train, nothing, RNG)])

    start = {name: tensor.double() for name, tensor in pal.start(8, None, RNG).items()}
    network = {name: nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    drawn = torch.randn(len(train.users), 2, generator=RNG.child("weights").torch()).double()
    logits = [nn.Parameter(row.clone()) for row in drawn]
    layers = [network[name] for name in network if name != "prototypes"]
    adam = torch.optim.Adam(
        [
            {"params": layers, "lr": 1e-4, "weight_decay": 0.01},
            {"params": [network["prototypes"], *logits], "lr": 5e-3},
        ]
    )

    def f(x: torch.Tensor) -> torch.Tensor:
        for i in range(3):
            x = nn.functional.linear(x.relu() if i else x, network[f"f.{i}.weight"], network[f"f.{i}.bias"])
        return x

    order = RNG.child("epoch", 0).numpy().permutation(len(train))
    for at in range(0, len(train), 7):
        some = order[at : at + 7]
        mixed = torch.stack([logits[user].softmax(0) for user in train.user[some]])
        ideal = f(mixed @ network["prototypes"])
        chosen, rejected = (
            (f(train.items.embedding[side[some]]) - ideal).norm(dim=1) for side in (train.chosen, train.rejected)
        )
        adam.zero_grad()
        torch.autograd.backward([(1 - (rejected - chosen)).relu().mean()])
        adam.step()
    all_near("weights", pal.learned(), network, at_most=1e-6, control=start)
    found = pal.seen_users().tensors["weight"]
    near("weight", found, torch.stack([row.detach() for row in logits]), at_most=1e-6, control=drawn)


@pytest.mark.parametrize("method", [PAL, PALB, VPL])
def test_the_input_scale_becomes_part_of_the_weights(three: World, method: type[Method]) -> None:
    small: dict[str, Any] = {"width": 8, "epochs": 1}

    def margins(scale: Any, factor: float) -> torch.Tensor:
        items = three.train.items
        assert items.context is not None
        larger = Items(items.embedding * factor, context=items.context * factor)
        parts = [Comparisons(larger, p.user, p.chosen, p.rejected, p.group, p.row) for p in three[1:5]]
        planted = World(three.cluster, *parts, three.truth)
        fitted = planted.fit(method(input_scale=scale, **small))
        support, test = (part.take(np.isin(part.user, few)) for part in (planted.support, planted.test))
        out: torch.Tensor = fitted.margins(fitted.adapt_unseen(support, rng=RNG), test)
        return out

    few = three.support.users[:4]
    expected = margins(1.0, 3.0)
    torch.testing.assert_close(margins(3.0, 1.0), expected, atol=1e-4, rtol=1e-3)
    assert float((margins(1.0, 1.0) - expected).abs().max()) > 1e-2
    torch.testing.assert_close(margins("rms", 50.0), margins("rms", 0.02), atol=1e-4, rtol=1e-3)
