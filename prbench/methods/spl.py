"""SPL: swap-guided preference learning, VPL's successor with a flow and a modulated decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, relu, softplus

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.hyperparameters import Count, NonNegative, Positive, Share, Steps
from prbench.method import UserStates
from prbench.methods.vpl import VPL, Noise, Posterior, act, annealing, first_of_decoder
from prbench.training.autoregressive import autoregressive, autoregressive_layers, autoregressive_masks
from prbench.training.context_draws import ContextBatch
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import InputScale, Network, layers, linear, linear_layer, unstacked
from prbench.training.tables import Gather

if TYPE_CHECKING:
    from torch import Tensor

# Layers of the flow, and of each of its autoregressive networks.
STEPS, DEPTH = 2, 4
TOWER = ("tower.0", "tower.1", "tower.2")
# Of the guide: the share of the variances beside the means.
VARIANCES = 0.1
FREE_NATS = 1.0


class SPL(VPL):
    """Swap-guided preference learning (2026, arXiv 2603.12595) on frozen embeddings.

    One tower (three layers) reads each reply by itself; a pair is [f(chosen); f(rejected)]. VPL's set encoder makes
    of a user's pairs the mean and log-variance of z, each clamped to [−1, 1]. With `flow`, z then passes two
    inverse-autoregressive layers z ← shift + exp(½ log-scale)·z: the shift is conditioned on the mean over pairs of
    ½(f(chosen) − f(rejected)) and has no biases, the log-scale on that of ½(f(chosen) + f(rejected)). The decoder
    reads [e; z] in two layers, whose output z modulates by 1 + ½tanh and ½tanh of a network of its own.

    Minimised is the mean of −log σ(score(chosen) − score(rejected)) over an update's target choices, plus
    kl_weight · s(t) · KL as in `VPL`, estimated from the sampled z and without gradient where a user's is below one
    nat, plus guide_weight · guide: ½(1 + cos(mean, mean of the same pairs reversed)) + 0.1·½(1 − cos of the
    log-variances), through which no gradient reaches the reversed pairs. It asks that reversing all of a user's
    choices turns the mean round. A user's state is z from the mean, given all of the user's choices.

    guide_weight, flow: see above.
    width: units of every layer, and of z; half of them of the tower's output and the decoder's first layer. Even.
    kl_weight, kl_cycle, context_limit: see `VPL`.
    users_per_update, least_context, most_context, targets, cold_share: see `ContextPlan`.
    input_scale: see `input_scales`. It becomes part of the first layers' weights.
    epochs, rate, decay, clip, warmup: see `NetworkMethod`.

    Zero shots: z = 0.
    """

    first_layers = ("tower.0.weight", "item.weight")

    def __init__(
        self,
        *,
        epochs: Count = 20,
        rate: Positive = 3e-4,
        kl_weight: NonNegative = 3e-6,
        kl_cycle: Count = 1250,
        guide_weight: NonNegative = 1e-5,
        flow: bool = True,
        users_per_update: Count = 8,
        least_context: Count = 2,
        most_context: Count = 8,
        targets: Count = 16,
        cold_share: Share = 0.0,
        context_limit: Steps = 0,
        width: Count = 256,
        input_scale: InputScale = "rms",
        decay: NonNegative = 1e-3,
        clip: NonNegative = 1.0,
        warmup: Share = 0.03,
    ) -> None:
        super().__init__(
            epochs=epochs,
            rate=rate,
            kl_weight=kl_weight,
            kl_cycle=kl_cycle,
            rescale="neither",
            users_per_update=users_per_update,
            least_context=least_context,
            most_context=most_context,
            targets=targets,
            cold_share=cold_share,
            context_limit=context_limit,
            width=width,
            input_scale=input_scale,
            decay=decay,
            clip=clip,
            warmup=warmup,
        )
        self.guide_weight = guide_weight
        self.flow = flow

    def initial(self, dim: int, rng: Rng) -> Network:
        """One split's network with torch's default weights; those of the flow are cut by `_masks` already."""
        if self.width % 2:
            raise InputError(f"SPL's width must be even, not {self.width}")
        rng, width, half = rng.child("network"), self.width, self.width // 2
        network = linear_layer("tower.0", dim, width, rng) | linear_layer("tower.1", width, width, rng)
        network |= linear_layer("tower.2", width, half, rng)
        for name in ("query", "key", "value", "mean", "log_var"):
            network |= linear_layer(name, width, width, rng)
        network |= first_of_decoder(dim, width, half, rng)
        network |= linear_layer("decoder.1", half, width, rng) | linear_layer("decoder.2", width, 1, rng)
        network |= linear_layer("modulation.0", width, 2 * width, rng)
        network |= linear_layer("modulation.1", 2 * width, 2 * width, rng)
        if self.flow:
            hidden = [2 * width, 2 * width, width]
            for step in range(STEPS):
                network |= autoregressive_layers(f"shift.{step}", width, half, hidden, rng, bias=False)
                network |= autoregressive_layers(f"scale.{step}", width, half, hidden, rng)
            network |= _cut(network, self._masks(rng))
        return network

    def _masks(self, rng: Rng) -> Network:
        """The masks of the flow's weights by name; the two networks of a layer share one order."""
        width = self.width
        masks: Network = {}
        for step in range(STEPS):
            rank = 1 + torch.randperm(width, generator=rng.child("order", step).torch())
            for i, mask in enumerate(autoregressive_masks(rank, width // 2, [2 * width, 2 * width, width])):
                masks |= {f"shift.{step}.{i}.weight": mask, f"scale.{step}.{i}.weight": mask}
        return masks

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch, in which every user is met once."""
        met = self.meetings(work)
        table, scales = met.table, met.scales
        noise = Noise([rng.child("noise") for rng in work.rngs], self.users_per_update, self.width)
        gathers = Gather(table.items), Gather(table.items)
        masks: Network = {}
        if self.flow:
            drawn = [self._masks(rng.child("network")) for rng in work.rngs]
            masks = {
                name: torch.stack([split_masks[name] for split_masks in drawn]).to(table.items) for name in drawn[0]
            }

        def rows(gather: Gather, where: Tensor) -> Tensor:
            both = torch.stack([table.chosen[where], table.rejected[where]], -1)
            return gather(both) * scales[:, None, None, None, None]

        def losses(network: Network, batch: ContextBatch) -> Tensor:
            network = {**network, **_cut(network, masks)}
            pairs = layers(network, TOWER, rows(gathers[0], batch.context), act)
            posterior = self.read(network, pairs.flatten(3), batch.shown)
            drawn = noise.next().to(table.items)
            start = posterior.mean + (0.5 * posterior.log_var).exp() * drawn
            z, log_det = self.flowed(network, start, pairs, batch.shown)
            score = self.decode(network, linear(network, "item", rows(gathers[1], batch.target)), z[:, :, None, None])
            misfit = softplus(score[..., 1] - score[..., 0]) * batch.asked
            # log q(start) − log |dz/dstart| − log N(z; 0, 1); the constants of both densities cancel.
            kl = 0.5 * (z.square() - drawn.square() - posterior.log_var).sum(-1) - log_det
            mask = batch.asked.amax(-1)
            weight = self.kl_weight * annealing(noise.drawn - 1, self.kl_cycle)
            besides = weight * kl.clamp_min(FREE_NATS)
            if self.guide_weight:
                with torch.no_grad():
                    reversed_ = self.read(network, pairs.flip(3).flatten(3), batch.shown)
                besides = besides + self.guide_weight * guide(posterior, reversed_)
            per_user = (besides * mask).sum(-1) / mask.sum(-1).clamp_min(1)
            return misfit.sum((1, 2)) / batch.asked.sum((1, 2)).clamp_min(1) + per_user

        for snapshot in self.train_on(work, met, losses):
            cut = {name: mask[snapshot.split] for name, mask in masks.items()}
            snapshot.tensors.update(_cut(snapshot.tensors, cut))
            yield snapshot

    def flowed(self, network: Mapping[str, Tensor], z: Tensor, pairs: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """z [S, B, width] after the flow and its log-determinant [S, B], of users with `pairs` [S, B, n, 2, width/2].

        Only those marked in `shown` [S, B, n] are there. Without a flow z stays as it is.
        """
        log_det = torch.zeros_like(z[..., 0])
        if not self.flow:
            return z, log_det
        share = (shown / shown.sum(-1, keepdim=True).clamp_min(1))[..., None]
        apart = (0.5 * (pairs[:, :, :, 0] - pairs[:, :, :, 1]) * share).sum(2)
        both = (0.5 * (pairs[:, :, :, 0] + pairs[:, :, :, 1]) * share).sum(2)
        for step in range(STEPS):
            shift, log_scale = (
                autoregressive(network, f"{name}.{step}", DEPTH, torch.cat([z, context], -1), relu)
                for name, context in (("shift", apart), ("scale", both))
            )
            log_scale = log_scale.clamp(-5, 5)
            z = shift.clamp(-1, 1) + (0.5 * log_scale).exp() * z
            log_det = log_det + 0.5 * log_scale.sum(-1)
        return z, log_det

    def decode(self, network: Mapping[str, Tensor], item: Tensor, z: Tensor) -> Tensor:
        """Scores [S, ...] from the decoder's first layer on items [S, ..., width/2] and from z [S, ..., width]."""
        modulation = layers(network, ["modulation.0", "modulation.1"], z, act)
        return self._decoded(network, item + linear(network, "latent", z), modulation)

    def _decoded(self, network: Mapping[str, Tensor], first: Tensor, modulation: Tensor) -> Tensor:
        hidden = act(linear(network, "decoder.1", act(first)))
        gain, offset = (0.5 * modulation.tanh()).chunk(2, -1)
        return linear(network, "decoder.2", act((1 + gain) * hidden + offset))[..., 0]

    def _read_users(self, support: Comparisons, ends: IntArray, count: IntArray) -> Tensor:
        """z [u, width] of u users who have `count` [u] choices each, before `ends` [u] in `support`."""
        network = unstacked(self.network)
        place = np.arange(count.max())
        mask = place < count[:, None]
        row = np.where(mask, (ends - count)[:, None] + place, 0)
        sides = np.stack([support.chosen[row], support.rejected[row]], -1)
        # Items recur: each passes the tower once.
        used, at = np.unique(sides, return_inverse=True)
        items = support.items.embedding[torch.from_numpy(used)].to(network["item.weight"].dtype)
        read = layers(network, TOWER, items[None], act)[0]
        pairs = read[torch.from_numpy(at.reshape(sides.shape))][None]
        shown = torch.from_numpy(mask).to(read.dtype)[None]
        return self.flowed(network, self.read(network, pairs.flatten(3), shown).mean, pairs, shown)[0][0]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The decoder on items and the user's z."""
        network = unstacked(self.network)
        z = states.tensors["z"].to(features.dtype)[None]
        latent = linear(network, "latent", z)[0]
        modulation = layers(network, ["modulation.0", "modulation.1"], z, act)[0]
        first = features + latent[position]
        return self._decoded(network, first[None], modulation[position][None])[0]


def guide(posterior: Posterior, reversed_: Posterior) -> Tensor:
    """0 where reversing the choices turns the mean round and keeps the variance, [...]; at most 1.1."""
    turned = 0.5 * (1 + cosine_similarity(posterior.mean, reversed_.mean, dim=-1))
    kept = 0.5 * (1 - cosine_similarity(posterior.log_var, reversed_.log_var, dim=-1))
    return turned + VARIANCES * kept


def _cut(network: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Network:
    """The weights that have masks, with what they cut set to 0."""
    return {name: network[name] * mask for name, mask in masks.items()}
