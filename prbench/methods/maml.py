"""Meta-learning of a whole reward network, without base functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, OpenShare, Positive, Share
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.methods.mrm import robust_objective
from prbench.training.episodes import Episodes, EpisodicMethod
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.steady import pull_back, sigmoid, softplus
from prbench.training.tables import Gather, PairTable

if TYPE_CHECKING:
    from torch import Tensor

Network = dict[str, "Tensor"]

# Users adapted at once: each has a copy of the network while it adapts.
USERS_AT_ONCE = 64


def network_score(network: Network, embedding: Tensor) -> Tensor:
    """Scores [...] of embeddings [..., d]: one hidden ReLU layer, linear output."""
    hidden = (embedding @ network["hidden"].T + network["bias"]).relu()
    return hidden @ network["output"]


class Workspace:
    """Memory that every update writes anew: fresh pages each time cost as much as what is written to them."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """The memory called `name` as a tensor of this shape, of `like`'s kind, with whatever was there before."""
        count = math.prod(shape)
        if name not in self._flat or self._flat[name].numel() < count:
            self._flat[name] = like.new_empty(count + count // 4)
        return self._flat[name][:count].view(shape)


def activations(network: Network, pairs: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
    """Hidden activations [G, 2n, h] and margins [G, n] of pairs [G, n, 2, d] under G networks."""
    flat = pairs.flatten(1, 2)
    weights = network["hidden"].transpose(1, 2)
    hidden = workspace("hidden", (*flat.shape[:2], weights.shape[2]), flat)
    torch.baddbmm(network["bias"][:, None], flat, weights, out=hidden).relu_()
    score = torch.mul(hidden, network["output"][:, None], out=workspace("terms", hidden.shape, hidden)).sum(-1)
    score = score.view(pairs.shape[:3])
    return hidden, score[..., 0] - score[..., 1]


def backward(
    output: Tensor, hidden: Tensor, pairs: Tensor, by_margin: Tensor, workspace: Workspace, *, groups: int
) -> Network:
    """Gradients [groups, ...] of networks from those of the margins [S, B, n] of B users in each of S splits.

    `output` [S, B, h] are the users' output weights, `hidden` [S·B, 2n, h] or [S, B·2n, h] the activations of their
    `pairs` [S, B, n, 2, d]. With S·B groups each user's gradient is apart, with S a split's users add up.
    """
    by_score = torch.stack([by_margin, -by_margin], -1).flatten(2)
    shape = (*by_score.shape, output.shape[-1])
    by_hidden = torch.mul(by_score[..., None], output[:, :, None], out=workspace("by hidden", shape, hidden))
    by_hidden.mul_(hidden.view(shape) > 0)
    # Users are summed one by one: where a user's rows begin depends on the padding, and with it on other splits.
    if groups == len(output):
        weights = workspace("by weight", (groups, shape[-1], pairs.shape[-1]), hidden)
        for user in range(shape[1]):
            rows, read = by_hidden[:, user].transpose(1, 2), pairs[:, user].flatten(1, 2)
            weights = pull_back(rows, read, out=weights) if user == 0 else weights.add_(pull_back(rows, read))
    else:
        rows, read = by_hidden.flatten(0, 1).transpose(1, 2), pairs.flatten(0, 1).flatten(1, 2)
        weights = pull_back(rows, read, out=workspace("by weight", (groups, shape[-1], pairs.shape[-1]), hidden))
    by_user = (by_hidden.sum(2), torch.matmul(by_score[:, :, None], hidden.view(shape))[:, :, 0])
    bias, by_output = (part.sum(1) if groups == len(output) else part.flatten(0, 1) for part in by_user)
    return {"hidden": weights, "bias": bias, "output": by_output}


class MAML(EpisodicMethod):
    """MRM's ablation without base functions: first-order MAML (Finn et al. 2017) on one reward network.

    Score = MLP(s·e), one hidden ReLU layer. An episode takes one fresh Adam step on *all* weights over a user's
    support choices and judges the adapted network on the query choices; the shared network minimises MRM's robust
    objective over the users of an update (arXiv 2601.18731, §5.3.3 "w/o basis combination"). The inner step counts
    as constant in the outer gradient (first order).

    hidden: width of the hidden layer. The other arguments are those of `MRM` and `EpisodicMethod`.
    """

    def __init__(
        self,
        *,
        hidden: Count = 32,
        input_scale: Positive = 0.01,
        epochs: Count = 200,
        rate: Positive = 1e-3,
        inner_rate: Positive = 1e-3,
        users_per_update: Count = 2,
        query_share: OpenShare = 0.9,
        robust: bool = True,
        rho: Share = 0.5,
        gamma: NonNegative = 0.5,
        clip: Positive = 1.0,
        warmup: Share = 0.05,
    ) -> None:
        self.hidden = hidden
        self.input_scale = input_scale
        self.epochs = epochs
        self.rate = rate
        self.inner_rate = inner_rate
        self.users_per_update = users_per_update
        self.query_share = query_share
        self.robust = robust
        self.rho = rho
        self.gamma = gamma
        self.clip = clip
        self.warmup = warmup

    _network: Network | None = None
    _seen: UserStates | None = None

    def initial(self, dim: int, rng: Rng) -> Network:
        """U(±1/√fan-in) weights and biases, a torch linear layer's default."""
        draw = rng.child("network").torch()

        def uniform(*shape: int, fan_in: int) -> Tensor:
            bound: float = fan_in**-0.5
            return (2 * torch.rand(*shape, generator=draw) - 1) * bound

        return {
            "hidden": uniform(self.hidden, dim, fan_in=dim),
            "bias": uniform(self.hidden, fan_in=dim),
            "output": uniform(self.hidden, fan_in=self.hidden),
        }

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """One by one on a CPU: the kernels for a user's copy of the network change with the other users' choices."""
        return self.one_by_one(work)

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float:
        """Both embeddings of a choice, where other episodic methods read their difference."""
        return 2 * super().bytes_per_update(trains, rngs)

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        table = PairTable.of(work.trains, device=work.device, scale=self.input_scale)
        initial = [self.initial(table.items.shape[1], rng) for rng in work.rngs]
        shared = {name: torch.stack([net[name] for net in initial]).to(table.items) for name in initial[0]}
        gather, workspace = Gather(table.items), Workspace()

        def gradients(episodes: Episodes) -> list[Tensor]:
            support, weight = table.members(episodes.where, episodes.support)
            adapted = self.adapt(shared, gather(support), weight, workspace)
            query, weight = table.members(episodes.where, episodes.query)
            pairs = gather(query)
            hidden, margin = activations(adapted, pairs.flatten(0, 1), workspace)
            margin = margin.view_as(weight)
            losses = (softplus(-margin) * weight).sum(-1)
            _, share = robust_objective(losses, episodes.present, robust=self.robust, rho=self.rho, gamma=self.gamma)
            by_margin = sigmoid(-margin).mul_(weight).mul_(share[:, :, None]).neg_()
            output = adapted["output"].view(*share.shape, -1)
            return list(backward(output, hidden, pairs, by_margin, workspace, groups=len(share)).values())

        yield from self.train_on_episodes(work, table, shared, gradients)

    def adapt(self, shared: Network, pairs: Tensor, weight: Tensor, workspace: Workspace) -> Network:
        """One inner step of B users in each of S splits: from shared networks [S, ...] to adapted ones [S·B, ...].

        `pairs` [S, B, n, 2, d] are the users' choices, `weight` [S, B, n] their weights in the loss. The step is a
        fresh Adam's first, rate · g/(|g| + 1e-8). The adapted networks are in `kept`: valid until its next use.
        """
        users = weight.shape[1]
        hidden, margin = activations(shared, pairs.flatten(1, 2), workspace)
        by_margin = sigmoid(-margin).view_as(weight).mul(weight).neg_()
        output = shared["output"][:, None].expand(-1, users, -1)
        slopes = backward(output, hidden, pairs, by_margin, workspace, groups=weight.shape[0] * users)
        adapted = {}
        for name, slope in slopes.items():
            apart = slope.view(-1, users, *slope.shape[1:])
            size = torch.abs(apart, out=workspace("size", apart.shape, apart)).add_(1e-8)
            out = workspace(f"adapted {name}", apart.shape, apart)
            torch.addcdiv(shared[name][:, None], apart, size, value=-self.inner_rate, out=out)
            adapted[name] = out.flatten(0, 1)
        return adapted

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take the shared network; the seen users adapt as unseen ones do, on all their training choices."""
        self._network = {name: tensor.cpu() for name, tensor in tensors.items()}
        self._seen = self.adapt_unseen(train, rng=rng)
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        self._shared()
        assert self._seen is not None
        return self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """One inner step over all of each user's support; see `Method.adapt_unseen`."""
        shared = self._shared()
        users = support.users if users is None else np.unique(users)
        states = {name: tensor.expand(len(users), *tensor.shape).clone() for name, tensor in shared.items()}
        support_users, workspace = support.users, Workspace()
        for i in range(0, len(support_users), USERS_AT_ONCE):
            portion = support_users[i : i + USERS_AT_ONCE]
            mine = support.take(np.isin(support.user, portion)).by_user()
            owner = np.searchsorted(portion, mine.user)
            count = np.bincount(owner)
            within = np.arange(len(mine)) - (np.cumsum(count) - count)[owner]
            pair = np.zeros((len(portion), count.max(), 2), dtype=np.int64)
            pair[owner, within, 0], pair[owner, within, 1] = mine.chosen, mine.rejected
            weight = np.zeros(pair.shape[:2])
            weight[owner, within] = 1 / count[owner]
            embedding = support.items.embedding[torch.from_numpy(pair)].to(shared["hidden"].dtype)
            adapted = self.adapt(
                {name: tensor[None] for name, tensor in shared.items()},
                embedding[None] * self.input_scale,
                torch.from_numpy(weight).to(shared["hidden"].dtype)[None],
                workspace,
            )
            where = torch.from_numpy(np.searchsorted(users, portion))
            for name, tensor in adapted.items():
                states[name][where] = tensor
        return UserStates(users, states)

    def item_features(self, items: Items) -> Tensor:
        """s·e, [m, d]."""
        shared = self._shared()
        if items.dim != shared["hidden"].shape[1]:
            raise InputError(
                f"the items have {items.dim} dimensions, this MAML was fitted on {shared['hidden'].shape[1]}",
                hint="use the encoder the method was fitted with",
            )
        return items.embedding.to(shared["hidden"].dtype) * self.input_scale

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The user's own network, one user at a time."""
        out = features.new_empty(len(features))
        for user in np.unique(position.numpy()).tolist():
            mine = position == user
            network = {name: tensor[user] for name, tensor in states.tensors.items()}
            out[mine] = network_score(network, features[mine])
        return out

    def parameter_count(self) -> ParameterCount:
        """The network, shared, and a copy of it per user."""
        size = sum(tensor.numel() for tensor in self._shared().values())
        return ParameterCount(size, size)

    def parameters_for(self, dim: int) -> ParameterCount:
        """The network, shared, and a copy of it per user."""
        size = self.hidden * (dim + 2)
        return ParameterCount(size, size)

    def learned(self) -> dict[str, Tensor]:
        """`hidden` [h, d], `bias` [h], `output` [h]."""
        return dict(self._shared())

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._network = dict(tensors)
        nobody: dict[str, Any] = {name: tensor.new_empty(0, *tensor.shape) for name, tensor in tensors.items()}
        self._seen = UserStates(np.empty(0, dtype=np.int64), nobody)
        return self

    def _shared(self) -> Network:
        if self._network is None:
            require_fitted(None, self)
        assert self._network is not None
        return self._network
