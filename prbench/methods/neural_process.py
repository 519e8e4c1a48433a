"""NP: a neural-process reward model, conditioned on an encoding of a user's choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import relu, softplus

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Steps
from prbench.method import UserStates
from prbench.training.attention import attend, attention_layer, norm_layer
from prbench.training.context_draws import ContextBatch, sampled
from prbench.training.context_method import LatentMethod
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import InputScale, Network, layers, linear, linear_layer, unstacked
from prbench.training.tables import Gather

if TYPE_CHECKING:
    from torch import Tensor

HEADS = 8
NORM_EPS = 1e-5
NORM_MOMENTUM = 0.1
# Users whose choices are encoded at once.
USERS_AT_ONCE = 256


class NP(LatentMethod):
    """Neural-process preference learning (Kobalczyk et al. 2024, arXiv 2412.13998), its deterministic reward model.

    An item is encoded by a two-layer MLP to h. A user's choices, each a linear layer's output on [e(chosen);
    e(rejected)], attend to each other (8 heads), are summed and pass a two-layer MLP to z. A decoder, bias-free with
    batch normalisation in its hidden layer, gives the score from [h; z]. All layers have `width` units, activations
    are ReLU. Minimises the mean over a user's targets of −log σ(score(chosen) − score(rejected)), averaged over the
    users of an update, by AdamW at a constant rate. A user's state is z; adaptation is this forward pass.

    epochs, rate, decay: see `NetworkMethod`.
    users_per_update: users that meet in an update; batch normalisation is over all their targets' items.
    choices: the most that a user takes part with in an update; all of them are targets.
    least_context: the fewest of them that are context too.
    most_context: the most.
    overlap: where false, the context is not among the targets.
    dropout: of the attention weights.
    width: of all layers.
    input_scale: see `input_scales`. It becomes part of the first layers' weights.

    On adaptation up to `most_context` choices are read: z is a sum, and would leave the range it was trained in. Of
    more, a random subset from the user's own stream is taken. Zero shots: the encoding of an empty sum.
    """

    adaptation_is_random = True
    # Since 2 a split's training does not depend on the splits beside it; NP magnifies that difference in rounding.
    revision = 2
    annealed = False
    adam_eps = 3e-5
    first_layers = ("target.0.weight", "context.0.weight")

    def __init__(
        self,
        *,
        epochs: Count = 40,
        rate: Positive = 1e-4,
        users_per_update: Count = 8,
        least_context: Steps = 0,
        most_context: Count = 10,
        choices: Count = 20,
        overlap: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        width: Annotated[int, Field(ge=HEADS, multiple_of=HEADS)] = 256,
        input_scale: InputScale = "rms",
        decay: NonNegative = 0.01,
    ) -> None:
        if choices < most_context + (not overlap):
            raise InputError(
                f"choices is {choices}, most_context {most_context}: the context is part of the choices",
                hint="set choices above most_context",
            )
        self.epochs = epochs
        self.rate = rate
        self.users_per_update = users_per_update
        self.least_context = least_context
        self.most_context = most_context
        self.choices = choices
        self.overlap = overlap
        self.dropout = dropout
        self.width = width
        self.input_scale = input_scale
        self.decay = decay

    def initial(self, dim: int, rng: Rng) -> Network:
        """One split's network with torch's default weights.

        The decoder's first layer is kept in two parts, `item` and `latent`, both [width, width].
        """
        rng, width = rng.child("network"), self.width
        network = linear_layer("target.0", dim, width, rng)
        network |= linear_layer("target.1", width, width, rng)
        network |= linear_layer("context.0", 2 * dim, width, rng)
        network |= attention_layer("attention", width, rng)
        network |= linear_layer("context.1", width, width, rng)
        network |= linear_layer("context.2", width, width, rng)
        first = linear_layer("decoder.0", 2 * width, width, rng, bias=False)["decoder.0.weight"]
        network["item.weight"], network["latent.weight"] = (part.contiguous() for part in first.chunk(2, 1))
        network |= norm_layer("norm", width)
        return network | linear_layer("decoder.1", width, 1, rng, bias=False)

    @property
    def most_choices(self) -> int:
        """`choices`."""
        return self.choices

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        met = self.meetings(work)
        table, scales = met.table, met.scales
        gather = Gather(table.items)
        keeps = _Keeps(work.rngs, self.dropout, (self.users_per_update, HEADS, self.most_context, self.most_context))
        norm = BatchNorm(table.items.new_zeros(len(met.plans), self.width))

        def losses(network: Network, batch: ContextBatch) -> Tensor:
            rows, role = batch.together(self.choices)
            pairs = gather(torch.stack([table.chosen[rows], table.rejected[rows]], -1)) * scales.view(-1, 1, 1, 1, 1)
            shown = role[..., : batch.context.shape[-1]] > 0
            n = shown.shape[-1]
            first = linear(network, "context.0", pairs[:, :, :n].flatten(3))
            z = self.encode(network, first, shown, keeps.next()[..., :n, :n].to(first))
            asked = role != 0 if self.overlap else role < 0
            hidden = self.items(network, pairs) + linear(network, "latent", z)[:, :, None, None]
            hidden = norm(network, hidden.flatten(1, 3), asked.flatten(1).repeat_interleave(2, 1))
            score = linear(network, "decoder.1", relu(hidden)).view(*role.shape, 2)
            loss = torch.where(asked, softplus(score[..., 1] - score[..., 0]), 0.0)
            each = loss.sum(-1) / asked.sum(-1).clamp_min(1)
            return each.sum(-1) / asked.any(-1).sum(-1).clamp_min(1)

        for snapshot in self.train_on(work, met, losses):
            norm.settle(snapshot)
            yield snapshot

    def encode(self, network: Mapping[str, Tensor], first: Tensor, shown: Tensor, keep: Tensor | None) -> Tensor:
        """z [S, B, width] from the output `first` [S, B, n, width] of the layer that reads choices.

        Only those `shown` [S, B, n] are there. `keep` multiplies the attention weights: dropout.
        """
        mask = shown.clone()
        # Attention needs something to attend to; of a user without context nothing is summed.
        mask[..., 0] |= ~shown.any(-1)
        attended = attend(network, "attention", first, first, mask, heads=HEADS, keep=keep)
        return layers(network, ("context.1", "context.2"), (attended * shown[..., None]).sum(2), relu)

    def items(self, network: Mapping[str, Tensor], embedding: Tensor) -> Tensor:
        """The items' part of the decoder's hidden layer, [S, ..., width], from their embeddings [S, ..., d]."""
        return linear(network, "item", layers(network, ("target.0", "target.1"), embedding, relu))

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """z given each user's choices; see `Method.adapt_unseen`."""
        network = unstacked(self.network)
        users = support.users if users is None else np.unique(users)
        empty = network["norm.bias"].new_zeros(1, 1, 1, self.width)
        cold = self.encode(network, empty, torch.zeros(1, 1, 1, dtype=torch.bool), None)[0, 0]
        z = cold.expand(len(users), -1).clone()
        kept, slot = sampled(support, self.most_context, rng)
        for portion in np.array_split(kept.users, -(-len(kept.users) // USERS_AT_ONCE) or 1):
            if not len(portion):
                break
            self.require_dim(support.items, network["target.0.weight"].shape[-1])
            where = np.isin(kept.user, portion)
            mine = kept.take(where)
            owner, place = torch.from_numpy(np.searchsorted(portion, mine.user)), torch.from_numpy(slot[where])
            pair = torch.from_numpy(np.stack([mine.chosen, mine.rejected], -1))
            rows = support.items.embedding[pair].to(z.dtype).flatten(1)
            first = z.new_zeros(len(portion), self.most_context, self.width)
            first[owner, place] = linear(network, "context.0", rows[None])[0]
            shown = torch.zeros(first.shape[:2], dtype=torch.bool)
            shown[owner, place] = True
            z[torch.from_numpy(np.searchsorted(users, portion))] = self.encode(
                network, first[None], shown[None], None
            )[0]
        return UserStates(users, {"z": z})

    def item_features(self, items: Items) -> Tensor:
        """The items' part of the decoder's hidden layer, [m, width]."""
        network = unstacked(self.network)
        self.require_dim(items, network["target.0.weight"].shape[-1])
        return self.items(network, items.embedding.to(network["norm.bias"].dtype)[None])[0]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The decoder's output for items and their users' z."""
        network = self.network
        latent = states.tensors["z"] @ network["latent.weight"].T
        hidden = torch.addcmul(network["norm.bias"], features + latent[position], network["norm.weight"])
        return hidden.relu() @ network["decoder.1.weight"][0]


class BatchNorm:
    """Batch normalisation of S splits, each over its own rows, with running statistics for afterwards."""

    def __init__(self, zeros: Tensor) -> None:
        self.mean, self.variance = zeros.clone(), zeros + 1

    def __call__(self, network: Mapping[str, Tensor], x: Tensor, mask: Tensor) -> Tensor:
        """The rows x [S, n, width], normalised by the statistics of those where `mask` [S, n] is true."""
        weight = mask[..., None].to(x.dtype)
        count = weight.sum(1, keepdim=True)
        mean = (x * weight).sum(1, keepdim=True) / count.clamp_min(1)
        variance = ((x - mean).square() * weight).sum(1, keepdim=True) / count.clamp_min(1)
        with torch.no_grad():
            # As torch's: the running variance is the unbiased one, the batch's own the biased one.
            unbiased = variance * count / (count - 1).clamp_min(1)
            step = NORM_MOMENTUM * (count[:, 0] > 0)
            self.mean.addcmul_(mean[:, 0] - self.mean, step.to(x.dtype))
            self.variance.addcmul_(unbiased[:, 0] - self.variance, step.to(x.dtype))
        scale = network["norm.weight"][:, None] * (variance + NORM_EPS).rsqrt()
        return (x - mean) * scale + network["norm.bias"][:, None]

    def settle(self, snapshot: Snapshot) -> None:
        """Make the snapshot's `norm` the map that its running statistics give, weight · x + bias."""
        mean, variance = self.mean[snapshot.split], self.variance[snapshot.split]
        weight = snapshot.tensors["norm.weight"] * (variance + NORM_EPS).rsqrt()
        snapshot.tensors["norm.weight"] = weight
        snapshot.tensors["norm.bias"] = snapshot.tensors["norm.bias"] - mean * weight


class _Keeps:
    """Dropout factors [S, *shape], every update's from each split's own stream: no padding changes them."""

    def __init__(self, rngs: Sequence[Rng], dropout: float, shape: tuple[int, ...]) -> None:
        self.streams = [rng.child("dropout").torch() for rng in rngs]
        self.dropout, self.shape = dropout, shape

    def next(self) -> Tensor:
        drawn = torch.stack([torch.rand(self.shape, generator=stream) for stream in self.streams])
        return (drawn >= self.dropout) / (1 - self.dropout)
