"""What methods with linear base functions share: score = scale · e·Vᵀ·mix(w_user).

V [K, d] holds the base functions; a user is a weight vector w [K]; `mix` is the softmax or the identity.
Everything about a user happens in K dimensions: items are projected once to e·Vᵀ [m, K].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.gradient import GradientMethod
from prbench.training.optimiser import StackedAdam

if TYPE_CHECKING:
    from torch import Tensor


Link = Literal["softmax", "identity"]
Inner = Literal["adam", "sgd"]
Reduction = Literal["mean", "sum"]

ROWS_AT_ONCE = 4_096


def mix(weight: Tensor, link: Link) -> Tensor:
    """Mixing weights over the last dimension."""
    return weight.softmax(-1) if link == "softmax" else weight


def mix_backward(gradient: Tensor, mixed: Tensor, link: Link) -> Tensor:
    """The gradient with respect to `weight`, from that with respect to `mix(weight)`."""
    if link == "identity":
        return gradient
    return mixed * (gradient - (gradient * mixed).sum(-1, keepdim=True))


def dot_with_users(features: Tensor, vectors: Tensor, position: Tensor) -> Tensor:
    """features_i · vectors[position_i], [n], for features [n, d], vectors [u, d] and positions [n]."""
    out = features.new_empty(len(features), dtype=vectors.dtype)
    for i in range(0, len(features), ROWS_AT_ONCE):
        part = slice(i, i + ROWS_AT_ONCE)
        out[part] = torch.einsum("nd,nd->n", features[part].to(vectors.dtype), vectors[position[part]])
    return out


def root_mean_square(comparisons: Comparisons) -> float:
    """The root of the mean squared length of e(chosen) − e(rejected); 1 where all are zero."""
    total = 0.0
    for i in range(0, len(comparisons), ROWS_AT_ONCE):
        part = comparisons.take(np.arange(i, min(i + ROWS_AT_ONCE, len(comparisons))))
        total += float(part.differences().double().square().sum())
    return (total / max(1, len(comparisons))) ** 0.5 or 1.0


def drawn_weights(like: Tensor, users: IntArray, width: int, rng: Rng) -> Tensor:
    """N(0, 1) weights [u, width], of the type of `like`, each user's from a stream of the user's own."""
    drawn = [torch.randn(width, generator=rng.child("user", int(user)).torch()) for user in users]
    return torch.stack(drawn).to(like.dtype)


class LinearBases(GradientMethod):
    """Base functions V [K, d] and a weight vector per user.

    Subclasses set `scale` (the factor of the score) and `link`, train V, and say what a user's weights start
    from (`start_weights`) and how they are adapted (`adapt_weights`).
    """

    linear_user_part = True

    scale: float
    link: Link = "softmax"

    _bases: Tensor | None = None
    _seen: UserStates | None = None

    @property
    def bases_matrix(self) -> Tensor:
        """V, [K, d]."""
        return require_fitted(self._bases, self)

    def start_weights(self, users: IntArray, rng: Rng) -> Tensor:
        """The weights [u, K] that adaptation of users with support starts from."""
        return self.cold_weights(users)

    def cold_weights(self, users: IntArray) -> Tensor:
        """The weights [u, K] of users without any support."""
        raise RuntimeError(f"{type(self).__name__} gives its users no weights")

    def adapt_weights(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """Adapted weights [u, K] from projected differences [n, K] of the users at `owner` [n]."""
        raise RuntimeError(f"{type(self).__name__} does not adapt")

    def project(self, comparisons: Comparisons) -> Tensor:
        """scale · (e(chosen) − e(rejected))·Vᵀ, [n, K]."""
        bases = self.bases_matrix
        parts = [
            comparisons.take(np.arange(i, min(i + ROWS_AT_ONCE, len(comparisons)))).differences(dtype=bases.dtype)
            @ bases.T
            for i in range(0, len(comparisons), ROWS_AT_ONCE)
        ]
        return torch.cat(parts).mul_(self.scale) if parts else bases.new_empty(0, bases.shape[0])

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        require_fitted(self._bases, self)
        assert self._seen is not None
        return self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Fit each user's weights on the user's own support with V frozen; see `Method.adapt_unseen`."""
        require_fitted(self._bases, self)
        users = support.users if users is None else np.unique(users)
        weights = self.cold_weights(users).clone()
        if len(support):
            support_users = support.users
            where = torch.from_numpy(np.searchsorted(users, support_users))
            owner = torch.from_numpy(np.searchsorted(support_users, support.user))
            weights[where] = self.adapt_weights(self.project(support), owner, self.start_weights(support_users, rng))
        return UserStates(users, {"weight": weights})

    def item_features(self, items: Items) -> Tensor:
        """scale · e·Vᵀ, [m, K]."""
        bases = self.bases_matrix
        if items.dim != bases.shape[1]:
            raise InputError(
                f"the items have {items.dim} dimensions, this {type(self).__name__} was fitted on {bases.shape[1]}",
                hint="use the encoder the method was fitted with",
            )
        return (items.embedding.to(bases.dtype) @ bases.T).mul_(self.scale)

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """Σ_k features_k · mix(w_user)_k."""
        mixed = mix(states.tensors["weight"].to(features.dtype), self.link)
        return (features * mixed[position]).sum(1)

    def parameter_count(self) -> ParameterCount:
        """K·d shared, K per user."""
        return ParameterCount(self.bases_matrix.numel(), self.bases_matrix.shape[0])

    def learned(self) -> dict[str, Tensor]:
        """`bases`: V [K, d]."""
        return {"bases": self.bases_matrix}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._bases = tensors["bases"]
        self._seen = UserStates(np.empty(0, dtype=np.int64), {"weight": self._bases.new_empty(0, len(self._bases))})
        return self


def fit_weights(
    projected: Tensor,
    owner: Tensor,
    weights: Tensor,
    *,
    link: Link,
    steps: int,
    rate: float,
    inner: Inner,
    reduction: Reduction,
) -> Tensor:
    """Logistic regression of every user's weights at once, each on the user's own rows.

    `projected` [n, K] are the users' projected differences, `owner` [n] their users' positions in `weights`
    [u, K], the starting point. Minimises the mean (or sum) of −log σ(projected·mix(w)) by `steps` full-batch
    steps of Adam or of plain gradient descent, a fresh optimiser for each user. Returns [u, K].
    """
    weights = weights.to(projected.dtype).clone()
    count = torch.bincount(owner, minlength=len(weights)).to(projected.dtype)
    share = 1 / count[owner] if reduction == "mean" else torch.ones_like(projected[:, 0])
    adam = StackedAdam([weights])
    for _ in range(steps):
        mixed = mix(weights, link)
        margin = (projected * mixed[owner]).sum(1)
        pull = torch.sigmoid(-margin).mul_(share).neg_()
        gradient = torch.zeros_like(weights).index_add_(0, owner, projected * pull[:, None])
        gradient = mix_backward(gradient, mixed, link)
        if inner == "adam":
            adam.step([gradient], rate)
        else:
            weights.sub_(gradient, alpha=rate)
    return weights
