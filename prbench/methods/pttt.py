"""P-TTT on frozen embeddings: a reward moved by the sum of a user's mapped differences, odd in the user's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import gelu, softplus

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Share, Steps
from prbench.method import UserStates
from prbench.training.context_draws import ContextBatch
from prbench.training.context_method import LatentMethod
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import InputScale, Network, layers, linear, linear_layer, unstacked
from prbench.training.tables import Gather

if TYPE_CHECKING:
    from torch import Tensor


class PTTT(LatentMethod):
    """What P-TTT (test-time training of personalised reward models, 2026) comes to on frozen embeddings.

    There every choice of a user adds η · v·(k⁺ − k⁻)ᵀ to a layer's weights, k being that layer's input. Read at one
    embedding per item, this is score = r₀·e + z_u·φ(e) with z_u = η · Σ_i (φ(e_i chosen) − φ(e_i rejected)) and a map
    φ with `width` outputs, linear or with one hidden layer, whose products are divided by √width. r₀ and φ are
    trained together: a user shows some choices, and the loss is the mean of −log σ over others of the same user.
    Exchanging the labels of all shown choices negates z_u, to the bit; nothing is solved for a user.

    width: of φ's output.
    hidden: units of φ's hidden layer (GELU); 0 for a linear φ.
    inner_rate: η.
    saturation: the number of choices at which z_u reaches half of what it can: the sum is divided by
        1 + n/saturation. 0 for the plain sum.
    users_per_update, least_context, most_context, targets, cold_share: see `ContextPlan`.
    input_scale: see `input_scales`. It becomes part of the first layers' weights.
    epochs, rate, decay, clip, warmup: see `NetworkMethod`.

    Zero shots: z = 0, the shared reward r₀.
    """

    first_layers = ("base.weight", "map.0.weight")

    def __init__(
        self,
        *,
        epochs: Count = 100,
        rate: Positive = 1e-3,
        inner_rate: Positive = 0.5,
        saturation: NonNegative = 0.0,
        width: Count = 64,
        hidden: Steps = 0,
        users_per_update: Count = 8,
        least_context: Count = 2,
        most_context: Count = 32,
        targets: Count = 16,
        cold_share: Share = 0.1,
        input_scale: InputScale = "rms",
        decay: NonNegative = 0.01,
        clip: NonNegative = 1.0,
        warmup: Share = 0.03,
    ) -> None:
        self.epochs = epochs
        self.rate = rate
        self.inner_rate = inner_rate
        self.saturation = saturation
        self.width = width
        self.hidden = hidden
        self.users_per_update = users_per_update
        self.least_context = least_context
        self.most_context = most_context
        self.targets = targets
        self.cold_share = cold_share
        self.input_scale = input_scale
        self.decay = decay
        self.clip = clip
        self.warmup = warmup

    def initial(self, dim: int, rng: Rng) -> Network:
        """One split's r₀ and φ with torch's default weights; φ's last layer has no bias, which would cancel."""
        rng = rng.child("network")
        network = linear_layer("base", dim, 1, rng, bias=False)
        if not self.hidden:
            return network | linear_layer("map.0", dim, self.width, rng, bias=False)
        network |= linear_layer("map.0", dim, self.hidden, rng)
        return network | linear_layer("map.1", self.hidden, self.width, rng, bias=False)

    def map(self, network: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """φ(x) [S, ..., width], divided by the fourth root of `width`, so that products are by its root."""
        out: Tensor = layers(network, ["map.0", "map.1"] if self.hidden else ["map.0"], x, gelu)
        return out / float(self.width**0.25)

    def pooled(self, total: Tensor, count: Tensor) -> Tensor:
        """z [..., width] from the sum over `count` [...] choices of φ(chosen) − φ(rejected)."""
        share = 1 / (1 + count / self.saturation) if self.saturation else torch.ones_like(count)
        return total * (self.inner_rate * share)[..., None]

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch, in which every user is met once."""
        met = self.meetings(work)
        table, scales = met.table, met.scales
        gathers = Gather(table.items), Gather(table.items)

        def rows(gather: Gather, where: Tensor) -> Tensor:
            both = torch.stack([table.chosen[where], table.rejected[where]], -1)
            return gather(both) * scales[:, None, None, None, None]

        def losses(network: Network, batch: ContextBatch) -> Tensor:
            mapped = self.map(network, rows(gathers[0], batch.context))
            moved = (mapped[..., 0, :] - mapped[..., 1, :]) * batch.shown[..., None]
            z = self.pooled(moved.sum(2), batch.shown.sum(-1))
            asked = rows(gathers[1], batch.target)
            score = linear(network, "base", asked)[..., 0]
            score = score + (self.map(network, asked) * z[:, :, None, None]).sum(-1)
            misfit = softplus(score[..., 1] - score[..., 0]) * batch.asked
            return misfit.sum((1, 2)) / batch.asked.sum((1, 2)).clamp_min(1)

        yield from self.train_on(work, met, losses)

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Sum each user's mapped differences; see `Method.adapt_unseen`. No number is drawn."""
        like = self.network["base.weight"]
        users = support.users if users is None else np.unique(users)
        total = like.new_zeros(len(users), self.width)
        count = like.new_zeros(len(users))
        if len(support):
            # By row: a sum of rounded numbers depends on their order.
            support = support.take(np.lexsort((support.row, support.user)))
            ready = self.features_of(support)
            mapped = ready.features[:, 1:]
            owner = torch.from_numpy(np.searchsorted(users, support.user))
            total.index_add_(0, owner, mapped[ready.chosen] - mapped[ready.rejected])
            count = torch.bincount(owner, minlength=len(users)).to(like)
        return UserStates(users, {"z": self.pooled(total, count)})

    def item_features(self, items: Items) -> Tensor:
        """r₀·e and φ(e) side by side, [m, 1 + width]."""
        network = unstacked(self.network)
        self.require_dim(items, network["base.weight"].shape[-1])
        x = items.embedding.to(network["base.weight"].dtype)[None]
        return torch.cat([linear(network, "base", x), self.map(network, x)], -1)[0]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """r₀·e + z_u·φ(e)."""
        z = states.tensors["z"].to(features.dtype)
        return features[:, 0] + (features[:, 1:] * z[position]).sum(1)
