"""Meta-learning of one linear reward: what is left of MRM without base functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, OpenShare, Positive, Share, Steps
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.methods.mrm import StackedAdamStep
from prbench.training.episodes import Episodes, EpisodicMethod, Reduction
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.linear_bases import Inner, dot_with_users, fit_weights
from prbench.training.steady import project, pull_back, sigmoid, softplus, width_for
from prbench.training.tables import DifferenceTable, Gather

if TYPE_CHECKING:
    from torch import Tensor

# Comparisons whose embeddings are held at once while users adapt.
ROWS_AT_ONCE = 8_192


class LinearMAML(EpisodicMethod):
    """Plain MAML (Finn et al. 2017, arXiv 1703.03400, Algorithm 1) of a linear reward.

    Score = s·e·w_u with a weight for every coordinate of the embedding; s makes the mean squared length of the seen
    users' s·Δe 1, so that a step size means the same for embeddings of any scale and dimension. A user's w_u starts
    from a shared w and takes gradient steps on the user's support choices; w minimises the sum over the users of an
    update of the adapted weights' losses on their query choices. An unseen user takes the same steps on all of the
    support.

    inner: the inner optimiser, "sgd" or "adam".
    inner_rate: its step size.
    inner_steps: its number of steps.
    second_order: whether the outer gradient sees the inner steps' dependence on w.
    reduction: "mean" or "sum" over a user's choices.
    The others: see `EpisodicMethod`.
    """

    def __init__(
        self,
        *,
        epochs: Count = 200,
        rate: Positive = 5e-3,
        inner: Inner = "sgd",
        inner_rate: Positive = 3.0,
        inner_steps: Steps = 5,
        users_per_update: Count = 2,
        query_share: OpenShare = 0.9,
        reduction: Reduction = "mean",
        second_order: bool = True,
        clip: Positive = 1.0,
        warmup: Share = 0.05,
    ) -> None:
        self.epochs = epochs
        self.rate = rate
        self.inner = inner
        self.inner_rate = inner_rate
        self.inner_steps = inner_steps
        self.users_per_update = users_per_update
        self.query_share = query_share
        self.reduction = reduction
        self.second_order = second_order
        self.clip = clip
        self.warmup = warmup

    _start: Tensor | None = None
    _scale: Tensor
    _seen: UserStates | None = None

    def initial(self, dim: int, rng: Rng) -> Tensor:
        """w [dim] from U(±1/√dim), a torch linear layer's default."""
        bound: float = dim**-0.5
        return (2 * torch.rand(dim, generator=rng.child("start").torch()) - 1) * bound

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        table = DifferenceTable.of(work.trains, device=work.device)
        start = torch.stack([self.initial(table.matrix.shape[1], rng) for rng in work.rngs]).to(table.matrix)
        gather = Gather(table.matrix)
        squared = table.matrix.square().sum(1)
        mean = torch.stack([squared[table.positions(train)].mean() for train in work.trains])
        scale = mean.clamp_min(torch.finfo(mean.dtype).tiny).rsqrt()

        def gradients(episodes: Episodes) -> list[Tensor]:
            return [self.outer_gradient(gather(episodes.where), scale, start, episodes)[1]]

        for split, epoch, tensors in self.train_on_episodes(work, table, {"start": start}, gradients):
            yield Snapshot(split, epoch, {**tensors, "scale": scale[split : split + 1]})

    def outer_gradient(self, rows: Tensor, scale: Tensor, start: Tensor, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """The objective [S] of one update and its gradient with respect to the shared weights `start` [S, d].

        `rows` [S, R, d] are the update's differences Δe and `scale` [S] is s. Both loops read the rows only through
        products with the weights [S, B, d] of the users of the update, the inner one only those of the support.
        """
        near, weight = _support(rows, episodes.support)
        scale = scale[:, None, None]
        with torch.enable_grad():
            leaf = start.detach().requires_grad_()
            weights = leaf[:, None].expand(-1, episodes.slots.shape[1], -1)
            adam = StackedAdamStep(self.inner_rate) if self.inner == "adam" else None
            for _ in range(self.inner_steps):
                margin = project(weights, near) * scale
                gradient = pull_back(sigmoid(-margin) * weight * -scale, near)
                if not self.second_order:
                    gradient = gradient.detach()
                weights = weights - (self.inner_rate * gradient if adam is None else adam.update(gradient))
            margin = project(weights, rows) * scale
            objective = (softplus(-margin) * episodes.query).sum((1, 2))
            by_start: Tensor = torch.autograd.grad(objective.sum(), leaf)[0]
        return objective.detach(), by_start

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take w and s; the seen users adapt as unseen ones do, on all their training choices."""
        self._start, self._scale = tensors["start"].cpu(), tensors["scale"].cpu()
        self._seen = self.adapt_unseen(train, rng=rng)
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        require_fitted(self._start, self)
        assert self._seen is not None
        return self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """The inner steps over all of each user's support, from w; see `Method.adapt_unseen`."""
        start = require_fitted(self._start, self)
        users = support.users if users is None else np.unique(users)
        weights = start.expand(len(users), -1).clone()
        for portion in _portions(support):
            mine = support.take(np.isin(support.user, portion))
            weights[torch.from_numpy(np.searchsorted(users, portion))] = fit_weights(
                mine.differences(dtype=start.dtype) * self._scale,
                torch.from_numpy(np.searchsorted(portion, mine.user)),
                start.expand(len(portion), -1),
                link="identity",
                steps=self.inner_steps,
                rate=self.inner_rate,
                inner=self.inner,
                reduction=self.reduction,
            )
        return UserStates(users, {"weight": weights})

    def item_features(self, items: Items) -> Tensor:
        """s·e, [m, d]."""
        start = require_fitted(self._start, self)
        if items.dim != len(start):
            raise InputError(
                f"the items have {items.dim} dimensions, this MAML was fitted on {len(start)}",
                hint="use the encoder the method was fitted with",
            )
        return items.embedding.to(start.dtype) * self._scale

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """s·e·w_u."""
        return dot_with_users(features, states.tensors["weight"], position)

    def parameter_count(self) -> ParameterCount:
        """d and the scale shared, d per user."""
        return self.parameters_for(require_fitted(self._start, self).numel())

    def parameters_for(self, dim: int) -> ParameterCount:
        """d and the scale shared, d per user."""
        return ParameterCount(dim + 1, dim)

    def learned(self) -> dict[str, Tensor]:
        """`start`: w [d] and `scale`: s [1]."""
        return {"start": require_fitted(self._start, self), "scale": self._scale}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._start, self._scale = tensors["start"], tensors["scale"]
        self._seen = UserStates(np.empty(0, dtype=np.int64), {"weight": self._start.new_empty(0, len(self._start))})
        return self


def _support(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [S, n, d] of `rows` [S, R, d] that have a weight in `weight` [S, B, R], and their weights [S, B, n].

    Support is by default a tenth of the rows, and the inner steps go over it many times.
    """
    counts = (weight > 0).any(1)
    n = width_for(int(counts.sum(-1).max()))
    index = counts.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :n]
    # Whole rows are copied: `gather` would look up every number by itself.
    first = torch.arange(0, counts.numel(), counts.shape[1], device=rows.device)[:, None]
    near = rows.flatten(0, 1).index_select(0, (index + first).flatten()).view(*index.shape, -1)
    return near, weight.gather(2, index[:, None].expand(-1, weight.shape[1], -1))


def _portions(support: Comparisons) -> Iterator[IntArray]:
    """The users of `support`, as many at a time as have about `ROWS_AT_ONCE` choices."""
    users, count = np.unique(support.user, return_counts=True)
    portion = (np.cumsum(count) - count) // ROWS_AT_ONCE
    for number in np.unique(portion):
        yield users[portion == number]
