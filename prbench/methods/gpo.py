"""GPO: group preference optimisation, a transformer that reads a user's choices as context."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import relu, softplus

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Share
from prbench.method import ITEMS_AT_ONCE, ComparedFeatures, ParameterCount, UserStates
from prbench.training.attention import attend, attention_layer, norm_layer, normalised
from prbench.training.context_draws import ContextBatch, sampled
from prbench.training.context_method import ContextMethod
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.networks import InputScale, Network, layers, linear, linear_layer, unstacked
from prbench.training.tables import Gather

if TYPE_CHECKING:
    from torch import Tensor

Likelihood = Literal["bounded", "unbounded", "bradley-terry"]

HEADS = 4
INPUT = ("input.1", "input.2", "input.3")
HEAD = ("head.0", "head.1")
# Tokens that pass the transformer at once when items are scored.
TOKENS_AT_ONCE = 2**11


class GPO(ContextMethod):
    """Group preference optimisation (Zhao et al. 2024, arXiv 2310.11523).

    A token is [e; y]: an embedding and its preference. Tokens pass a four-layer MLP and a transformer encoder
    without positional encoding (post-norm, 4 heads, ReLU, no dropout), then a head with two outputs, m and s. All
    tokens attend to the context tokens only, so that a prediction depends neither on other targets nor on the order
    of the context. A comparison is a question with two options: as context two tokens, y = 1 for the chosen and 0
    for the rejected item; as target two tokens with y = 0, whose m, softmaxed within the question, are the means of
    y. A user's score of an item is its m given the user's choices; adaptation is this forward pass.

    likelihood: what a question's two means p are trained by. "bounded" and "unbounded" are the published
        −log N(y; p, std) of both options with std = 0.05 + 0.95·softplus(s) (the code's option `bound_std`) or
        std = exp(s) (its default, whose likelihood of labels 0 and 1 has no upper bound). "bradley-terry" is −log p
        of the chosen option. Summed over a user's targets, averaged over the users of an update.
    epochs, rate, decay, clip, warmup: see `NetworkMethod`.
    users_per_update, cold_share: see `ContextPlan`.
    choices: the most that a user takes part with in an update; those that are not context are targets.
    least_context: the fewest of them that are context.
    most_context: the most.
    context_limit: choices of a user that are kept as context; of more, a random subset from the user's own stream.
    width: of the transformer's layers.
    depth: the number of its layers.
    input_scale: see `input_scales`. It becomes part of the input layer's weights.

    Zero shots: targets attend to one learned token, which is used nowhere else.
    """

    adaptation_is_random = True
    # Since 2 a split's training does not depend on the splits beside it; GPO magnifies that difference in rounding.
    revision = 2
    first_layers = ("input.0.weight",)

    def __init__(
        self,
        *,
        likelihood: Likelihood = "bounded",
        epochs: Count = 10,
        rate: Positive = 3e-4,
        users_per_update: Count = 2,
        least_context: Count = 1,
        most_context: Count = 20,
        choices: Count = 30,
        cold_share: Share = 0.1,
        context_limit: Count = 100,
        width: Annotated[int, Field(ge=HEADS, multiple_of=HEADS)] = 128,
        depth: Count = 6,
        input_scale: InputScale = "rms",
        decay: NonNegative = 0.0,
        clip: NonNegative = 0.0,
        warmup: Share = 0.0,
    ) -> None:
        if choices <= most_context:
            raise InputError(
                f"choices is {choices}, most_context {most_context}: nothing would be left to predict",
                hint="set choices above most_context",
            )
        self.likelihood = likelihood
        self.epochs = epochs
        self.rate = rate
        self.users_per_update = users_per_update
        self.least_context = least_context
        self.most_context = most_context
        self.choices = choices
        self.cold_share = cold_share
        self.context_limit = context_limit
        self.width = width
        self.depth = depth
        self.input_scale = input_scale
        self.decay = decay
        self.clip = clip
        self.warmup = warmup

    # The seen users' choices and the stream that a subset of them is drawn from. Their states are made when asked
    # for: those of all splits' users together would fill gigabytes.
    _seen: tuple[Comparisons, Rng] | None = None

    def initial(self, dim: int, rng: Rng) -> Network:
        """One split's network with torch's default weights; the null token is drawn as a linear layer's bias is.

        The input layer's weights are those for e, `input.0` [width, dim], and those for y, `label` [width].
        """
        rng, width = rng.child("network"), self.width
        network = linear_layer("input.0", dim + 1, width, rng)
        both = network["input.0.weight"]
        network["input.0.weight"], network["label"] = both[:, :dim].contiguous(), both[:, dim].contiguous()
        for name in INPUT:
            network |= linear_layer(name, width, width, rng)
        for i in range(self.depth):
            network |= attention_layer(f"{i}.attention", width, rng)
            network |= norm_layer(f"{i}.attention-norm", width)
            network |= linear_layer(f"{i}.feed.0", width, width, rng)
            network |= linear_layer(f"{i}.feed.1", width, width, rng)
            network |= norm_layer(f"{i}.feed-norm", width)
        network |= linear_layer(HEAD[0], width, width, rng)
        network |= linear_layer(HEAD[1], width, 2, rng)
        network["null"] = linear_layer("null", width, width, rng)["null.bias"]
        return network

    @property
    def most_choices(self) -> int:
        """`choices`."""
        return self.choices

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        met = self.meetings(work)
        table, scales = met.table, met.scales
        gather = Gather(table.items)

        def losses(network: Network, batch: ContextBatch) -> Tensor:
            rows, role = batch.together(self.choices)
            item = torch.stack([table.chosen[rows], table.rejected[rows]], -1)
            chosen = torch.stack([role > 0, torch.zeros_like(role)], -1)
            shown = role[..., : batch.context.shape[-1]].repeat_interleave(2, -1) > 0
            first = linear(network, "input.0", gather(item.flatten(2)) * scales[:, None, None, None])
            tokens = _embedded(network, first, chosen.flatten(2).to(first.dtype))
            out = self.predict(network, tokens, shown).view(*role.shape, 2, 2)
            asked = role < 0
            loss = torch.where(asked, self.question_losses(out), 0.0)
            return loss.sum((1, 2)) / asked.any(-1).sum(-1).clamp_min(1)

        yield from self.train_on(work, met, losses)

    def question_losses(self, out: Tensor) -> Tensor:
        """The loss [...] of questions whose options' m and s are `out` [..., 2, 2], the chosen option first."""
        margin = out[..., 0, 0] - out[..., 1, 0]
        if self.likelihood == "bradley-terry":
            return softplus(-margin)
        raw = out[..., 1]
        # Rounded as published: where 1 − p comes out as 0, an unbounded std has nothing left to hold it.
        residual = torch.stack([1 - torch.sigmoid(margin), torch.sigmoid(-margin)], -1)
        if self.likelihood == "bounded":
            std = 0.05 + 0.95 * softplus(raw)
            log_std = std.log()
        else:
            std, log_std = raw.exp(), raw
        return (0.5 * (residual / std).square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def predict(self, network: Mapping[str, Tensor], tokens: Tensor, shown: Tensor, *, first: int = 0) -> Tensor:
        """m and s [S, B, n − first, 2] of the tokens from `first` on, as targets.

        `tokens` [S, B, n, width] have passed the input layers. All attend to those of the first t that are `shown`
        [S, B, t], and to nothing else; where a user has none, to the null token.
        """
        null = network["null"][:, None, None].expand(-1, tokens.shape[1], 1, -1)
        mask = torch.cat([~shown.any(-1, keepdim=True), shown], -1)
        x = torch.cat([null, tokens], 2)
        for i in range(self.depth):
            context = x[:, :, : mask.shape[-1]]
            if i == self.depth - 1:
                x = x[:, :, 1 + first :]
            x = x + attend(network, f"{i}.attention", x, context, mask, heads=HEADS)
            x = normalised(network, f"{i}.attention-norm", x)
            x = x + layers(network, (f"{i}.feed.0", f"{i}.feed.1"), x, relu)
            x = normalised(network, f"{i}.feed-norm", x)
        return layers(network, HEAD, x, relu)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take the network; the seen users' context is their training choices."""
        self._network = {name: tensor.cpu() for name, tensor in tensors.items()}
        self._seen = train, rng
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        if self._seen is None:
            return self._states(np.empty(0, dtype=np.int64))
        return self.adapt_unseen(self._seen[0], rng=self._seen[1])

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """The users' context tokens; see `Method.adapt_unseen`.

        `tokens` [u, 2·context_limit, width] have passed the input layers, a choice's chosen and rejected item side by
        side; the first `count` [u] of them are there.
        """
        states = self._states(support.users if users is None else np.unique(users))
        network = unstacked(self.network)
        kept, slot = sampled(support, self.context_limit, rng)
        if not len(kept):
            return states
        used, place = np.unique(np.stack([kept.chosen, kept.rejected], -1), return_inverse=True)
        items = support.items.take(used)
        first = torch.cat([self._first(items.take(part)) for part in _parts(np.arange(len(used)), ITEMS_AT_ONCE)])
        chosen = first.new_tensor([1.0, 0.0]).expand(len(kept), 2)
        tokens = _embedded(network, first[None, torch.from_numpy(place.reshape(-1, 2))], chosen[None])[0]
        owner = states.positions(kept.user)
        where = 2 * torch.from_numpy(slot)
        states.tensors["tokens"][owner, where] = tokens[:, 0]
        states.tensors["tokens"][owner, where + 1] = tokens[:, 1]
        states.tensors["count"].index_add_(0, owner, torch.full_like(owner, 2))
        return states

    def _states(self, users: IntArray) -> UserStates:
        null = self.network["null"]
        tokens = null.new_zeros(len(users), 2 * self.context_limit, self.width)
        return UserStates(users, {"tokens": tokens, "count": torch.zeros(len(users), dtype=torch.int64)})

    def _first(self, items: Items) -> Tensor:
        """The input layer's part that embeddings make, [m, width]."""
        network = unstacked(self.network)
        self.require_dim(items, network["input.0.weight"].shape[-1])
        return linear(network, "input.0", items.embedding.to(network["null"].dtype)[None])[0]

    def item_features(self, items: Items) -> Tensor:
        """The items as target tokens that have passed the input layers, [m, width]."""
        first = self._first(items)[None]
        return _embedded(unstacked(self.network), first, first.new_zeros(first.shape[:-1]))[0]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """m given the user's choices."""
        network = unstacked(self.network)
        tokens, count = states.tensors["tokens"], states.tensors["count"]
        score = features.new_empty(len(features))
        users, owner, asked = np.unique(position.numpy(), return_inverse=True, return_counts=True)
        mine = np.split(np.argsort(owner, kind="stable"), np.cumsum(asked)[:-1])
        rows = {int(user): torch.from_numpy(user_rows) for user, user_rows in zip(users, mine, strict=True)}
        for some in _batches(count[torch.from_numpy(users)].tolist(), asked.tolist(), users.tolist()):
            t = int(count[some].max())
            where = torch.nn.utils.rnn.pad_sequence([rows[user] for user in some], batch_first=True, padding_value=-1)
            shown = torch.arange(t) < count[some][:, None]
            both = torch.cat([tokens[some, :t], features[where.clamp_min(0)]], 1)
            out = self.predict(network, both[None], shown[None], first=t)[0, ..., 0]
            score[where[where >= 0]] = out[where >= 0]
        return score

    def margins(
        self, states: UserStates, comparisons: Comparisons, features: ComparedFeatures | None = None
    ) -> Tensor:
        """See `Method.margins`; a user's context passes the transformer once for many items, each of them once."""
        ready = self.features_of(comparisons) if features is None else features
        position = states.positions(comparisons.user)
        pairs = torch.stack([ready.chosen, ready.rejected]) + position * len(ready.features)
        asked, place = np.unique(pairs.numpy(), return_inverse=True)
        scores = []
        for part in _parts(asked, ITEMS_AT_ONCE):
            user, item = (torch.from_numpy(index) for index in np.divmod(part, len(ready.features)))
            scores.append(self.score_features(states, user, ready.features[item]))
        score = torch.cat(scores)[torch.from_numpy(place.reshape(2, -1))]
        return score[0] - score[1]

    def parameter_count(self) -> ParameterCount:
        """The network, and a user's context tokens with their number."""
        return self._count(sum(tensor.numel() for tensor in self.network.values()))

    def parameters_for(self, dim: int) -> ParameterCount:
        """The network (1,188,354 as published plus the null token, at d = 4096), and a user's context tokens."""
        return self._count(self.expected_size(dim))

    def _count(self, shared: int) -> ParameterCount:
        return ParameterCount(shared, 2 * self.context_limit * self.width + 1)


def _embedded(network: Mapping[str, Tensor], first: Tensor, chosen: Tensor) -> Tensor:
    """Tokens [S, ..., width] from their embeddings' part of the input layer, `first`, and y `chosen` [S, ...]."""
    label = network["label"].view(len(first), *[1] * (first.dim() - 2), -1)
    return layers(network, INPUT, relu(first + chosen[..., None] * label), relu)


def _batches(context: Sequence[int], asked: Sequence[int], users: Sequence[int]) -> Iterator[list[int]]:
    """The users in groups of similar size, each padded to at most `TOKENS_AT_ONCE` tokens or a single user."""
    group: list[int] = []
    widest = [0, 0]
    for t, n, user in sorted(zip(context, asked, users, strict=True)):
        wider = [max(widest[0], t), max(widest[1], n)]
        if group and sum(wider) * (len(group) + 1) > TOKENS_AT_ONCE:
            yield group
            group, wider = [], [t, n]
        group.append(user)
        widest = wider
    if group:
        yield group


def _parts(index: IntArray, size: int) -> list[IntArray]:
    """At least one part, so that nothing is scored as nothing."""
    return [index[i : i + size] for i in range(0, max(1, len(index)), size)]
