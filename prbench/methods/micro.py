"""MiCRo: a mixture of rewards routed by the prompt, and our personal step on its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Share
from prbench.method import ParameterCount, UserStates
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import (
    InputScale,
    Network,
    NetworkMethod,
    input_scales,
    linear,
    linear_layer,
    stacked,
    unstacked,
)
from prbench.training.prototypes import shuffled_batches
from prbench.training.reweighting import posterior_logits
from prbench.training.tables import Gather, PairTable

if TYPE_CHECKING:
    from torch import Tensor

Routing = Literal["context", "static"]

NO_CONTEXT = "the router reads the prompt, and the embeddings do not hold the prompt apart from the response"


class Update(NamedTuple):
    """One update of S splits: rows of the table of choices [S, R], and 1 where there is one [S, R]."""

    row: Tensor
    there: Tensor


class MiCRo(NetworkMethod):
    """MiCRo (Shen et al. 2025, arXiv 2505.24846): a mixture of K linear rewards, routed by the prompt.

    Head k scores r_k·e; the router gives f(p) = softmax(R·p + b) of the prompt's embedding p, or with `routing`
    "static" one f for all. Minimises over everybody's choices, whoever made them, the mean of
    −log Σ_k f_k(p) σ(r_k·Δe) + entropy · Σ_k f_k(p) log f_k(p), by AdamW on batches of choices. There is no user in
    it: the paper's second stage tunes the router on choices whose prompts carry a written criterion.

    The personal step is ours: w_uk ∝ f_k(p) · exp(−L_uk / T), L_uk the sum of −log σ(r_k·Δe) over the user's choices
    (HyRe's rule with the router as prior), and the score is Σ_k w_uk r_k·e. Without `personal`, w = f(p).

    heads: K.
    routing, personal: see above.
    entropy: weight of the negative entropy of f in the loss, which keeps f from one head alone.
    temperature: T.
    choices_per_batch: choices per update.
    input_scale: see `input_scales`. It becomes part of the heads' and the router's weights.
    epochs, rate, decay, clip, warmup: see `NetworkMethod`.

    Zero shots: w = f(p).
    """

    def __init__(
        self,
        *,
        heads: Count = 10,
        routing: Routing = "context",
        personal: bool = True,
        entropy: NonNegative = 0.5,
        temperature: Positive = 1.0,
        epochs: Count = 10,
        choices_per_batch: Count = 32,
        rate: Positive = 2e-3,
        input_scale: InputScale = "rms",
        decay: NonNegative = 0.0,
        clip: NonNegative = 1.0,
        warmup: Share = 0.05,
    ) -> None:
        self.heads = heads
        self.routing = routing
        self.personal = personal
        self.entropy = entropy
        self.temperature = temperature
        self.epochs = epochs
        self.choices_per_batch = choices_per_batch
        self.rate = rate
        self.input_scale = input_scale
        self.decay = decay
        self.clip = clip
        self.warmup = warmup

    _seen: UserStates | None = None

    def unsupported(self, data: Comparisons) -> str | None:
        """The router needs prompts with embeddings of their own."""
        return NO_CONTEXT if self.routing == "context" and data.items.context is None else None

    def start(self, dim: int, context_dim: int, rng: Rng) -> Network:
        """Heads and router with torch's default weights; a static f begins even."""
        rng = rng.child("network")
        network = linear_layer("heads", dim, self.heads, rng, bias=False)
        if self.routing == "static":
            return {**network, "static": torch.zeros(self.heads)}
        return network | linear_layer("router", context_dim, self.heads, rng)

    def choices_per_update(self, train: Comparisons, rng: Rng) -> float:
        """See `NetworkMethod.choices_per_update`."""
        return len(train) / -(-len(train) // self.choices_per_batch)

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one pass over the choices."""
        table = PairTable.of(work.trains, device=work.device)
        scales = input_scales(self.input_scale, table, work.trains)
        prompts = table.prompts(work.trains) if self.routing == "context" else None
        width = 0 if prompts is None else prompts[0].shape[1]
        networks = stacked([self.start(table.items.shape[1], width, rng) for rng in work.rngs], table.items)
        gather = Gather(table.items)

        def losses(network: Network, update: Update) -> Tensor:
            both = gather(torch.stack([table.chosen[update.row], table.rejected[update.row]], -1))
            scores = linear(network, "heads", both * scales[:, None, None, None])
            context = None if prompts is None else prompts[0][prompts[1][update.row]] * scales[:, None, None]
            log_share = self.log_shares(network, context)
            agreed = (log_share + logsigmoid(scores[:, :, 0] - scores[:, :, 1])).logsumexp(-1)
            one_sided = (log_share.exp() * log_share).sum(-1)
            loss = (self.entropy * one_sided - agreed) * update.there
            return loss.sum(-1) / update.there.sum(-1).clamp_min(1)

        per_epoch = [-(-len(train) // self.choices_per_batch) for train in work.trains]
        for snapshot in self.train_networks(work, networks, per_epoch, self._updates(work, table), losses):
            for name in ("heads.weight", "router.weight"):
                if name in snapshot.tensors:
                    snapshot.tensors[name] *= scales[snapshot.split]
            yield snapshot

    def _updates(self, work: SplitBatch, table: PairTable) -> Iterator[Update]:
        """All splits' updates side by side; a split past its last wanted epoch has no choices."""
        positions = [table.positions(train) for train in work.trains]
        streams = [
            shuffled_batches(len(split_positions), self.choices_per_batch, rng.child("order"), max(wanted))
            for split_positions, rng, wanted in zip(positions, work.rngs, work.wanted, strict=True)
        ]
        nothing: IntArray = np.empty(0, dtype=np.int64)
        while True:
            parts = [next(stream, nothing) for stream in streams]
            if not any(map(len, parts)):
                return
            row = np.zeros((len(parts), self.choices_per_batch), dtype=np.int64)
            for s, batch in enumerate(parts):
                row[s, : len(batch)] = positions[s][batch]
            mask = np.arange(self.choices_per_batch) < np.array([[len(batch)] for batch in parts])
            yield Update(
                torch.from_numpy(row).to(work.device), torch.from_numpy(mask).to(work.device, table.items.dtype)
            )

    def log_shares(self, network: Mapping[str, Tensor], context: Tensor | None) -> Tensor:
        """log f [S, ..., K] of prompts [S, ..., c]; the one f of all where routing is static."""
        if context is None:
            static = network["static"]
            return static.log_softmax(-1)[:, None]
        return linear(network, "router", context).log_softmax(-1)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take the heads and the router; the seen users are weighed as unseen ones are."""
        self._network = {name: tensor.cpu() for name, tensor in tensors.items()}
        self._seen = self.adapt_unseen(train, rng=rng)
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        nobody: Sequence[int] = ()
        return self._states(np.array(nobody, dtype=np.int64), None) if self._seen is None else self._seen

    def _states(self, users: IntArray, evidence: Tensor | None) -> UserStates:
        """−L / T [u, K] of the users, zeros where nothing is known; nothing is kept of a user without `personal`."""
        like = self.network["heads.weight"]
        if not self.personal:
            return UserStates(users)
        return UserStates(
            users, {"evidence": like.new_zeros(len(users), self.heads) if evidence is None else evidence}
        )

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Sum what each user's choices cost the heads; see `Method.adapt_unseen`. No number is drawn."""
        heads = self.network["heads.weight"]
        users = support.users if users is None else np.unique(users)
        if not self.personal or not len(support):
            return self._states(users, None)
        self.require_dim(support.items, heads.shape[1])
        margins = support.differences(dtype=heads.dtype) @ heads.T
        owner = torch.from_numpy(np.searchsorted(users, support.user))
        return self._states(users, posterior_logits(margins, owner, len(users), temperature=self.temperature))

    def item_features(self, items: Items) -> Tensor:
        """The heads' scores and log f of the item's prompt, side by side: [m, 2K]."""
        network = unstacked(self.network)
        heads = network["heads.weight"]
        self.require_dim(items, heads.shape[-1])
        context = None
        if self.routing == "context":
            if items.context is None:
                raise InputError(NO_CONTEXT, hint="use the encoder the method was fitted with")
            context = items.context.to(heads.dtype)[None]
        scores = linear(network, "heads", items.embedding.to(heads.dtype)[None])[0]
        return torch.cat([scores, self.log_shares(network, context)[0].expand_as(scores)], -1)

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """Σ_k w_uk r_k·e."""
        scores, logits = features.chunk(2, -1)
        if self.personal:
            logits = logits + states.tensors["evidence"].to(features.dtype)[position]
        return (scores * logits.softmax(-1)).sum(1)

    def parameter_count(self) -> ParameterCount:
        """Heads and router shared, K per user where users take part."""
        shared = sum(tensor.numel() for tensor in self.network.values())
        return ParameterCount(shared, self.heads if self.personal else 0)

    def parameters_for(self, dim: int) -> ParameterCount:
        """For prompt embeddings as wide as the others: K·d and the router's K·(d + 1), or K where it is static."""
        router = self.heads * (dim + 1) if self.routing == "context" else self.heads
        return ParameterCount(self.heads * dim + router, self.heads if self.personal else 0)
