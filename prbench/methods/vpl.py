"""VPL: variational preference learning, a latent vector per user inferred from a set of choices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch.nn.functional import leaky_relu, normalize, softplus

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Share, Steps
from prbench.method import UserStates
from prbench.training.context_draws import ContextBatch, sampled
from prbench.training.context_method import LatentMethod
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import InputScale, Network, linear, linear_layer, unstacked
from prbench.training.tables import Gather

if TYPE_CHECKING:
    from torch import Tensor

Rescale = Literal["training", "both", "neither"]

# Of an annealing cycle's KL weight at its start, as a share of that at its end.
BASELINE = 0.1
# Choices whose pairs are encoded at once when users are adapted.
ROWS_AT_ONCE = 4_096


class Posterior(NamedTuple):
    """Mean and log-variance [..., width] of users' latent vectors, both within [−1, 1]."""

    mean: Tensor
    log_var: Tensor


def first_of_decoder(dim: int, latent: int, width: int, rng: Rng) -> Network:
    """A decoder's first layer in two parts: `item` [width, dim] with its bias, and `latent` [width, latent]."""
    layer = linear_layer("decoder.0", dim + latent, width, rng)
    weight = layer["decoder.0.weight"]
    return {
        "item.weight": weight[:, :dim].contiguous(),
        "item.bias": layer["decoder.0.bias"],
        "latent.weight": weight[:, dim:].contiguous(),
    }


class VPL(LatentMethod):
    """Variational preference learning (Poddar et al. 2024, arXiv 2408.10075) on frozen embeddings.

    A pair encoder (three layers on [e(chosen); e(rejected)]) and one-head self-attention over a user's choices,
    without residual or position, averaged over the choices, give the mean and log-variance of a latent vector z, each
    clamped to [−1, 1]. A decoder (three layers on [e; z]) gives the score. All layers have `width` units, z too. In
    training a user shows some choices as context and z is sampled. Minimised is the mean over the update's target
    choices of −log σ(score(chosen) − score(rejected)) plus kl_weight · s(t) · KL(z ‖ N(0, 1)), a mean over the
    users of the update, with s(t) = 0.1 + 0.9·(1 − cos(πt/T))/2 for the update t modulo T = `kl_cycle`. A user's
    state is the mean given all choices of the user; adaptation is this forward pass.

    kl_weight: weight of the Kullback–Leibler divergence, see above.
    kl_cycle: T, updates after which its share s(t) starts anew.
    rescale: where z is brought to length √width: in "training" only (as published: at evaluation the clamped mean
        is decoded as it is), in "both" or in "neither".
    users_per_update, least_context, most_context, targets, cold_share: see `ContextPlan`. Users who show nothing have
        z sampled from N(0, 1).
    context_limit: choices of a user that are read on adaptation, 0 for all; of more, a random subset from the user's
        own stream.
    input_scale: see `input_scales`. It becomes part of the first layers' weights.
    epochs, rate, decay, clip, warmup: see `NetworkMethod`.

    Zero shots: z = 0, the prior's mean.
    """

    adaptation_is_random = True
    first_layers = ("pair.0.weight", "item.weight")

    latent_state = "z"

    def __init__(
        self,
        *,
        epochs: Count = 20,
        rate: Positive = 3e-4,
        kl_weight: NonNegative = 3e-6,
        kl_cycle: Count = 1250,
        rescale: Rescale = "training",
        users_per_update: Count = 8,
        least_context: Count = 2,
        most_context: Count = 8,
        targets: Count = 16,
        cold_share: Share = 0.0,
        context_limit: Steps = 0,
        width: Count = 512,
        input_scale: InputScale = "rms",
        decay: NonNegative = 1e-3,
        clip: NonNegative = 1.0,
        warmup: Share = 0.03,
    ) -> None:
        self.epochs = epochs
        self.rate = rate
        self.kl_weight = kl_weight
        self.kl_cycle = kl_cycle
        self.rescale = rescale
        self.users_per_update = users_per_update
        self.least_context = least_context
        self.most_context = most_context
        self.targets = targets
        self.cold_share = cold_share
        self.context_limit = context_limit
        self.width = width
        self.input_scale = input_scale
        self.decay = decay
        self.clip = clip
        self.warmup = warmup

    def initial(self, dim: int, rng: Rng) -> Network:
        """One split's network with torch's default weights; the decoder's first layer as in `first_of_decoder`."""
        rng, width = rng.child("network"), self.width
        network = linear_layer("pair.0", 2 * dim, width, rng)
        for name in ("pair.1", "pair.2", "query", "key", "value", "mean", "log_var"):
            network |= linear_layer(name, width, width, rng)
        network |= first_of_decoder(dim, width, width, rng)
        network |= linear_layer("decoder.1", width, width, rng)
        network |= linear_layer("decoder.2", width, 1, rng)
        return network

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch, in which every user is met once."""
        met = self.meetings(work)
        table, scales = met.table, met.scales
        noise = Noise([rng.child("noise") for rng in work.rngs], self.users_per_update, self.width)
        # What is gathered for the context is still needed when the targets are gathered.
        gathers = Gather(table.items), Gather(table.items)

        def rows(gather: Gather, where: Tensor) -> Tensor:
            both = torch.stack([table.chosen[where], table.rejected[where]], -1)
            return gather(both) * scales[:, None, None, None, None]

        def losses(network: Network, batch: ContextBatch) -> Tensor:
            posterior = self.posterior(network, rows(gathers[0], batch.context).flatten(3), batch.shown)
            z = self.sample(posterior, noise.next().to(table.items))
            score = self.decode(network, linear(network, "item", rows(gathers[1], batch.target)), z[:, :, None, None])
            misfit = softplus(score[..., 1] - score[..., 0]) * batch.asked
            mask = batch.asked.amax(-1)
            kl = (divergence(posterior) * mask).sum(-1) / mask.sum(-1).clamp_min(1)
            weight = self.kl_weight * annealing(noise.drawn - 1, self.kl_cycle)
            return misfit.sum((1, 2)) / batch.asked.sum((1, 2)).clamp_min(1) + weight * kl

        yield from self.train_on(work, met, losses)

    def posterior(self, network: Mapping[str, Tensor], pairs: Tensor, shown: Tensor) -> Posterior:
        """What is believed of users [S, B] after their choices [e(chosen); e(rejected)] `pairs` [S, B, n, 2d].

        Only those marked in `shown` [S, B, n] are there; without any the posterior is the prior.
        """
        return self.read(network, self.encode(network, linear(network, "pair.0", pairs)), shown)

    def encode(self, network: Mapping[str, Tensor], first: Tensor) -> Tensor:
        """Encoded pairs [S, ..., width] from the output `first` of the pair encoder's first layer."""
        return linear(network, "pair.2", act(linear(network, "pair.1", act(first))))

    def read(self, network: Mapping[str, Tensor], encoded: Tensor, shown: Tensor) -> Posterior:
        """As `posterior`, from encoded pairs [S, B, n, width]."""
        query, key = linear(network, "query", encoded), linear(network, "key", encoded)
        logit = query @ key.transpose(-1, -2) / math.sqrt(encoded.shape[-1])
        absent = shown[:, :, None] == 0
        attention = logit.masked_fill(absent, torch.finfo(logit.dtype).min).softmax(-1)
        # The mean over queries comes first: values are then projected once per user.
        count = shown.sum(-1, keepdim=True)
        share = (shown / count.clamp_min(1))[:, :, None] @ attention
        pooled = linear(network, "value", (share @ encoded)[:, :, 0])
        known = (count > 0).to(pooled.dtype)
        mean, log_var = (linear(network, name, pooled).clamp(-1, 1) * known for name in ("mean", "log_var"))
        return Posterior(mean, log_var)

    def sample(self, posterior: Posterior, noise: Tensor) -> Tensor:
        """z in training: the mean plus `noise` times the standard deviation, rescaled where `rescale` says so."""
        z = posterior.mean + (0.5 * posterior.log_var).exp() * noise
        return z if self.rescale == "neither" else _to_length(z)

    def decode(self, network: Mapping[str, Tensor], item: Tensor, z: Tensor) -> Tensor:
        """Scores [S, ...] from the decoder's first layer on items [S, ..., width] and from z [S, ..., width]."""
        hidden = act(linear(network, "decoder.1", act(item + linear(network, "latent", z))))
        return linear(network, "decoder.2", hidden)[..., 0]

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """The mean of z given each user's choices; see `Method.adapt_unseen`."""
        network = unstacked(self.network)
        users = support.users if users is None else np.unique(users)
        z = network["mean.bias"].new_zeros(len(users), self.width)
        if not len(support):
            return UserStates(users, {"z": z})
        self.require_dim(support.items, network["item.weight"].shape[-1])
        support, _ = sampled(support, self.context_limit, rng)
        support_users, count = np.unique(support.user, return_counts=True)
        ends = np.cumsum(count)
        group: list[int] = []
        # Users with about as many choices go together, so that little is padded.
        for i in np.argsort(count, kind="stable").tolist():
            if group and count[i] * (len(group) + 1) > ROWS_AT_ONCE:
                z[np.searchsorted(users, support_users[group])] = self._read_users(support, ends[group], count[group])
                group = []
            group.append(i)
        z[np.searchsorted(users, support_users[group])] = self._read_users(support, ends[group], count[group])
        return UserStates(users, {"z": _to_length(z) if self.rescale == "both" else z})

    def _read_users(self, support: Comparisons, ends: IntArray, count: IntArray) -> Tensor:
        """The means [u, width] of u users who have `count` [u] choices each, before `ends` [u] in `support`."""
        network = unstacked(self.network)
        place = np.arange(count.max())
        mask = place < count[:, None]
        row = np.where(mask, (ends - count)[:, None] + place, 0)
        weight = network["pair.0.weight"]
        halves = weight[0].chunk(2, -1)
        first = network["pair.0.bias"][:, None, None]
        for item, half in zip((support.chosen, support.rejected), halves, strict=True):
            # Items recur: each passes its half of the first layer once.
            used, at = np.unique(item[row], return_inverse=True)
            projected = support.items.embedding[torch.from_numpy(used)].to(weight.dtype) @ half.T
            first = first + projected[torch.from_numpy(at.reshape(row.shape))]
        shown = torch.from_numpy(mask).to(weight.dtype)
        return self.read(network, self.encode(network, first), shown[None]).mean[0]

    def item_features(self, items: Items) -> Tensor:
        """The decoder's first layer on items, [m, width]."""
        network = unstacked(self.network)
        self.require_dim(items, network["item.weight"].shape[-1])
        return linear(network, "item", items.embedding.to(network["item.weight"].dtype)[None])[0]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The decoder on items and the user's z."""
        network = unstacked(self.network)
        latent = linear(network, "latent", states.tensors["z"].to(features.dtype)[None])[0]
        hidden = act(linear(network, "decoder.1", act(features + latent[position])[None]))
        return linear(network, "decoder.2", hidden)[0, :, 0]


def divergence(posterior: Posterior) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, 1)) summed over the last dimension."""
    mean, log_var = posterior
    return 0.5 * (log_var.exp() + mean.square() - 1 - log_var).sum(-1)


def annealing(update: int, cycle: int) -> float:
    """s(t): from 0.1 along half a cosine towards 1 over `cycle` updates, then from the start."""
    return BASELINE + (1 - BASELINE) * 0.5 * (1 - math.cos(math.pi * (update % cycle) / cycle))


def act(x: Tensor) -> Tensor:
    """LeakyReLU with slope 0.2."""
    return leaky_relu(x, 0.2)


def _to_length(z: Tensor) -> Tensor:
    """z [..., width] at length √width; zero stays zero."""
    return normalize(z, dim=-1) * math.sqrt(z.shape[-1])


class Noise:
    """Standard normal numbers [S, users, width] for one update after another, each split's from its own stream."""

    def __init__(self, rngs: list[Rng], users: int, width: int) -> None:
        self.draws = [rng.torch() for rng in rngs]
        self.shape = (users, width)
        self.drawn = 0

    def next(self) -> Tensor:
        """Those of the next update."""
        self.drawn += 1
        return torch.stack([torch.randn(self.shape, generator=draw) for draw in self.draws])
