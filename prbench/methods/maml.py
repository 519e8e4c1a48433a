"""Meta-learning of a whole reward network, without base functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.func import grad, grad_and_value, vmap
from torch.nn.functional import softplus

from prbench.comparisons import Comparisons, IntArray, Items
from prbench.episodes import Episodes, EpisodicMethod
from prbench.errors import InputError
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.methods.mrm import robust_objective
from prbench.seeds import Rng
from prbench.training import Gather, PairTable, Snapshot, Work

if TYPE_CHECKING:
    from torch import Tensor

Network = dict[str, "Tensor"]

# Users adapted at once: each has a copy of the network while it adapts.
USERS_AT_ONCE = 64


def network_score(network: Network, embedding: Tensor) -> Tensor:
    """Scores [...] of embeddings [..., d]: one hidden ReLU layer, linear output."""
    hidden = (embedding @ network["hidden"].T + network["bias"]).relu()
    return hidden @ network["output"]


def user_loss(network: Network, pairs: Tensor, weight: Tensor) -> Tensor:
    """Σ_i weight_i · softplus(−(score(chosen_i) − score(rejected_i))); `pairs` [n, 2, d], `weight` [n]."""
    score = network_score(network, pairs)
    return (softplus(score[:, 1] - score[:, 0]) * weight).sum()


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
        hidden: int = 32,
        input_scale: float = 0.01,
        epochs: int = 200,
        rate: float = 1e-3,
        inner_rate: float = 1e-3,
        users_per_update: int = 2,
        query_share: float = 0.9,
        robust: bool = True,
        rho: float = 0.5,
        gamma: float = 0.5,
        clip: float = 1.0,
        warmup: float = 0.05,
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

    def train_splits(self, work: Work) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        table = PairTable.of(work.trains, device=work.device, scale=self.input_scale)
        initial = [self.initial(table.items.shape[1], rng) for rng in work.rngs]
        shared = {name: torch.stack([net[name] for net in initial]).to(table.items) for name in initial[0]}
        gather = Gather(table.items)
        inner = vmap(vmap(grad(user_loss), in_dims=(None, 0, 0)))
        outer = vmap(vmap(grad_and_value(user_loss)))

        def gradients(episodes: Episodes) -> list[Tensor]:
            support, support_weight = table.members(episodes.where, episodes.support)
            slopes = inner(shared, gather(support), support_weight)
            adapted = {name: shared[name][:, None] - self.inner_step(slopes[name]) for name in shared}
            query, query_weight = table.members(episodes.where, episodes.query)
            slopes, losses = outer(adapted, gather(query), query_weight)
            _, share = robust_objective(losses, episodes.present, robust=self.robust, rho=self.rho, gamma=self.gamma)
            return [torch.einsum("sb,sb...->s...", share, slopes[name]) for name in shared]

        row_bytes = 2 * table.items.shape[1] * table.items.element_size()
        yield from self.train_on_episodes(work, table, shared, gradients, row_bytes=row_bytes)

    def inner_step(self, gradient: Tensor) -> Tensor:
        """A fresh Adam's first step: rate · g/(|g| + 1e-8)."""
        return (gradient / (gradient.abs() + 1e-8)).mul(self.inner_rate)

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
        given = support.users
        for i in range(0, len(given), USERS_AT_ONCE):
            some = given[i : i + USERS_AT_ONCE]
            mine = support.take(np.isin(support.user, some)).by_user()
            owner = np.searchsorted(some, mine.user)
            count = np.bincount(owner)
            within = np.arange(len(mine)) - (np.cumsum(count) - count)[owner]
            pair = np.zeros((len(some), count.max(), 2), dtype=np.int64)
            pair[owner, within, 0], pair[owner, within, 1] = mine.chosen, mine.rejected
            weight = np.zeros(pair.shape[:2])
            weight[owner, within] = 1 / count[owner]
            embedding = support.items.embedding[torch.from_numpy(pair)].to(shared["hidden"].dtype)
            slopes = vmap(grad(user_loss), in_dims=(None, 0, 0))(
                shared, embedding * self.input_scale, torch.from_numpy(weight).to(shared["hidden"].dtype)
            )
            where = torch.from_numpy(np.searchsorted(users, some))
            for name, slope in slopes.items():
                states[name][where] -= self.inner_step(slope)
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
