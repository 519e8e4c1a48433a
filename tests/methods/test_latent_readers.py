"""P-TTT and SPL: their formulas against plain torch, the symmetry that they claim, and the users they find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_clusters import World, world
from torch.nn.functional import leaky_relu
from trained import measured

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.contract import population
from prbench.methods.bt_ridge import BTRidge
from prbench.methods.pttt import PTTT
from prbench.methods.spl import SPL, guide
from prbench.methods.vpl import VPL, Posterior
from prbench.training.autoregressive import autoregressive, autoregressive_layers, autoregressive_masks
from prbench.training.networks import unstacked

RNG = Rng("latent readers")
SMALL_PTTT: dict[str, Any] = {"epochs": 20, "rate": 0.01, "width": 16, "users_per_update": 4, "targets": 24}
SMALL_SPL: dict[str, Any] = {
    "width": 16, "rate": 5e-3, "epochs": 24, "users_per_update": 6, "targets": 24, "kl_weight": 0.01,
}  # fmt: skip
# The shorter budget turns the mean round, but finds kinds of users on some starts only.
LONGER_SPL = {**SMALL_SPL, "width": 32, "rate": 2e-3, "epochs": 40, "users_per_update": 4}


@pytest.fixture(scope="module")
def three() -> World:
    return world(clusters=3)


def fit(method: Any, data: Comparisons) -> Any:
    """Trained for the whole budget, without choosing an epoch."""
    return method.fit_seen(data, data.take([]), rng=RNG)


def swapped(data: Comparisons) -> Comparisons:
    """The same comparisons with every choice reversed."""
    return replace(data, chosen=data.rejected, rejected=data.chosen)


def ready(made: Any, dim: int = 6) -> Any:
    """The method with its first weights, as if these had been trained."""
    return made.restore(made.initial(dim, RNG))


@pytest.mark.parametrize("made", [PTTT(width=5), PTTT(width=5, hidden=7), PTTT(width=5, saturation=3.0)])
def test_reversing_a_users_labels_negates_the_users_part_to_the_bit(made: PTTT) -> None:
    data = population(users=5, seed=3, dtype=torch.float32)
    method = ready(made)
    z, turned = (method.adapt_unseen(part, rng=RNG) for part in (data, swapped(data)))
    assert float(z.tensors["z"].abs().max()) > 0
    assert torch.equal(z.tensors["z"], -turned.tensors["z"])
    # So the mean of both margins is the one without any choice.
    both = method.margins(z, data) + method.margins(turned, data)
    cold = method.margins(method.cold_start(data.users, data.items, rng=RNG), data)
    torch.testing.assert_close(both, 2 * cold, atol=1e-5, rtol=0)


def test_other_readers_do_not_have_that_symmetry() -> None:
    """What the exact test would miss were it not exact: VPL's and SPL's vectors hardly turn at their first weights."""
    data = population(users=5, seed=3, dtype=torch.float32)
    for made in (VPL(width=8), SPL(width=8)):
        method = ready(made)
        z, turned = (method.adapt_unseen(part, rng=RNG).tensors["z"] for part in (data, swapped(data)))
        assert not torch.allclose(z, -turned, atol=1e-3)


@pytest.mark.parametrize("hidden", [0, 7])
def test_pttt_by_hand(hidden: int) -> None:
    data = population(users=2, seed=4, dtype=torch.float32)
    method = ready(PTTT(width=4, hidden=hidden, inner_rate=0.3))
    network = method.learned()

    def phi(x: torch.Tensor) -> torch.Tensor:
        first = x @ network["map.0.weight"].T
        if not hidden:
            return first
        return torch.nn.functional.gelu(first + network["map.0.bias"]) @ network["map.1.weight"].T

    items = data.items.embedding
    mine = data.of(1)
    z = 0.3 * (phi(items[mine.chosen]) - phi(items[mine.rejected])).sum(0)
    expected = items @ network["base.weight"][0] + phi(items) @ z / 4**0.5
    found = method.score(method.adapt_unseen(data, rng=RNG), np.ones(len(items), dtype=np.int64), data.items)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # At as many choices as the saturation the sum counts half.
    half = ready(PTTT(width=4, hidden=hidden, inner_rate=0.3, saturation=float(len(mine))))
    torch.testing.assert_close(half.adapt_unseen(mine, rng=RNG).tensors["z"][0], z / 2 / 4**0.25)


def test_pttts_parameters_are_the_map_and_the_shared_reward() -> None:
    assert PTTT().parameters_for(4096) == (4096 + 64 * 4096, 64)
    assert PTTT(width=64, hidden=128).parameters_for(4096) == (4096 + 128 * 4097 + 64 * 128, 64)


def test_spls_parameters_are_the_published_ones() -> None:
    """methods2.md, section SPL, at d = 4,096: tower, set encoder, decoder and flow."""
    published = {1024: 5_769_728 + 5_248_000 + 9_443_841, 512: 2_491_648 + 1_313_280 + 2_886_913}
    flows = {1024: 41_955_328, 512: 10_491_904}
    for width, rest in published.items():
        assert SPL(width=width, flow=False).parameters_for(4096) == (rest, width)
        assert SPL(width=width).parameters_for(4096) == (rest + flows[width], width)
    with pytest.raises(InputError, match="must be even"):
        SPL(width=7).initial(4, RNG)


def test_outputs_see_only_the_context_and_what_comes_before() -> None:
    rank = torch.tensor([3, 1, 4, 2])
    hidden = [8, 8, 4]
    network = autoregressive_layers("net", 4, 2, hidden, RNG)
    for i, mask in enumerate(autoregressive_masks(rank, 2, hidden)):
        network[f"net.{i}.weight"] = network[f"net.{i}.weight"] * mask
    stack = unstacked(network)
    x = torch.randn(6, generator=RNG.child("x").torch())
    jacobian = torch.autograd.functional.jacobian(
        lambda v: autoregressive(stack, "net", 4, v[None, None], torch.tanh)[0, 0], x
    )
    sees = jacobian != 0
    assert torch.equal(sees[:, :4], rank[:, None] > rank[None])
    assert sees[:, 4:].all()


def test_spls_flow_and_decoder_are_plain_torchs() -> None:
    method = ready(SPL(width=4))
    network = method.learned()
    draw = RNG.child("plain").torch()
    pairs = torch.randn(1, 1, 3, 2, 2, generator=draw)
    shown = torch.tensor([[[1.0, 1.0, 0.0]]])
    start = torch.randn(1, 1, 4, generator=draw).requires_grad_()
    z, log_det = method.flowed(unstacked(network), start, pairs, shown)

    def net(name: str, x: torch.Tensor) -> torch.Tensor:
        for i in range(4):
            bias = network.get(f"{name}.{i}.bias", torch.zeros(()))
            x = (torch.relu(x) if i else x) @ network[f"{name}.{i}.weight"].T + bias
        return x

    apart = 0.5 * (pairs[0, 0, :2, 0] - pairs[0, 0, :2, 1]).mean(0)
    both = 0.5 * (pairs[0, 0, :2, 0] + pairs[0, 0, :2, 1]).mean(0)
    expected, total = start.detach()[0, 0], torch.zeros(())
    for step in range(2):
        shift = net(f"shift.{step}", torch.cat([expected, apart])).clamp(-1, 1)
        scale = net(f"scale.{step}", torch.cat([expected, both])).clamp(-5, 5)
        expected, total = shift + (0.5 * scale).exp() * expected, total + 0.5 * scale.sum()
    torch.testing.assert_close(z.detach()[0, 0], expected)
    torch.testing.assert_close(log_det.detach()[0, 0], total)
    # What it says is the logarithm of the determinant is that: the Jacobian is triangular in the order of the inputs.
    jacobian = torch.autograd.functional.jacobian(
        lambda v: method.flowed(unstacked(network), v, pairs, shown)[0][0, 0], start.detach()
    )[:, 0, 0]
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, total.detach())

    e = torch.randn(5, 6, generator=draw)
    state = expected.detach()
    first = e @ network["item.weight"].T + network["item.bias"] + network["latent.weight"] @ state
    hidden = leaky_relu(leaky_relu(first, 0.2) @ network["decoder.1.weight"].T + network["decoder.1.bias"], 0.2)
    inner = leaky_relu(network["modulation.0.weight"] @ state + network["modulation.0.bias"], 0.2)
    gain, offset = (0.5 * (network["modulation.1.weight"] @ inner + network["modulation.1.bias"]).tanh()).chunk(2)
    out = leaky_relu((1 + gain) * hidden + offset, 0.2) @ network["decoder.2.weight"][0] + network["decoder.2.bias"]
    item = e[None, None] @ network["item.weight"].T + network["item.bias"]
    torch.testing.assert_close(method.decode(unstacked(network), item, state[None, None, None])[0, 0], out)


def test_the_guide_by_hand() -> None:
    mean, log_var = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    turned = Posterior(-mean, log_var)
    assert guide(Posterior(mean, log_var), turned).item() == pytest.approx(0, abs=1e-6)
    assert guide(Posterior(mean, log_var), Posterior(mean, -log_var)).item() == pytest.approx(1.1)
    assert guide(Posterior(mean, log_var), Posterior(torch.tensor([0.0, 1.0]), log_var)).item() == pytest.approx(0.5)


@pytest.mark.trained
@pytest.mark.parametrize(
    "made",
    [PTTT(**SMALL_PTTT), pytest.param(SPL(**LONGER_SPL), marks=pytest.mark.extras)],
    ids=["pttt", "spl"],
)
def test_readers_find_the_planted_kinds(made: Any, three: World) -> None:
    method = three.fit(made)
    accuracy = three.accuracy(method)
    measured("accuracy", accuracy, at_least=0.6, control=three.accuracy(three.fit(BTRidge())))
    measured("accuracy at cold start", three.cold(method), at_most=0.6, control=accuracy)
    # Reversed choices are another user's.
    states = method.adapt_unseen(swapped(three.support), rng=RNG)
    against = three.agreement(method.margins(states, three.test).numpy())
    measured("accuracy with reversed labels", against, at_most=0.45, control=accuracy)


@pytest.mark.trained
def test_the_guide_turns_the_mean_round(three: World) -> None:
    """The cosine of z's mean with that of the reversed choices, without the flow."""
    cosine = {}
    for name, weight in {"with": 1.0, "without": 0.0}.items():
        method = fit(SPL(**{**SMALL_SPL, "epochs": 8}, flow=False, guide_weight=weight), three.train)
        z, turned = (
            method.adapt_unseen(part, rng=RNG).tensors["z"] for part in (three.support, swapped(three.support))
        )
        cosine[name] = float(torch.cosine_similarity(z, turned, dim=-1).mean())
    measured("cosine", cosine["with"], at_most=0.0, control=cosine["without"])


def test_nothing_shown_is_nothing_known() -> None:
    data = population(users=2, seed=4, dtype=torch.float32)
    method = ready(SPL(width=8))
    states = method.cold_start(data.users, data.items, rng=RNG)
    assert (states.tensors["z"] == 0).all()
    assert torch.isfinite(method.margins(states, data)).all()
