"""The personal step without a gradient: ready-made heads, weighed by how well they explain a user's choices.

A head is a reward that was there before the user. Generalised Bayes (Bissiri, Holmes and Walker 2016) gives head k
the weight w_k ∝ π_k · exp(−L_k / T), with π the weights before any choice, L_k what the user's choices cost the head
and T a temperature; at T = 1 and L_k = −log p(choices | head k) it is Bayes' rule.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from torch.nn.functional import softplus

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.method import Method, ParameterCount, UserStates, require_fitted
from prbench.training.linear_bases import ROWS_AT_ONCE

if TYPE_CHECKING:
    from torch import Tensor


Adapt = Literal["fit", "reweight"]
"""How a multi-head method adapts: by its own fit of a user's weights, or by `posterior_logits` over its heads."""
Total = Literal["sum", "mean"]


def head_losses(margins: Tensor, owner: Tensor, users: int, total: Total = "sum") -> Tensor:
    """−log σ(margin) of every head, summed or averaged over each user's choices: [users, K].

    `margins` [n, K] are the heads' margins of n choices, `owner` [n] the positions of their users. A user without
    choices costs 0.
    """
    loss = margins.new_zeros(users, margins.shape[1]).index_add_(0, owner, softplus(-margins))
    if total == "mean":
        loss /= torch.bincount(owner, minlength=users).clamp_min(1).to(loss)[:, None]
    return loss


def posterior_logits(
    margins: Tensor, owner: Tensor, users: int, *, temperature: float = 1.0, total: Total = "sum"
) -> Tensor:
    """−L_k / T, the logarithms of the heads' weights [users, K] up to a constant per user, from equal weights before.

    `margins`, `owner` and `total`: see `head_losses`.
    """
    return -head_losses(margins, owner, users, total) / temperature


def hypothesis_logits(
    projected: Tensor,
    owner: Tensor,
    users: int,
    hypotheses: Tensor,
    *,
    temperature: float = 1.0,
    total: Total = "sum",
) -> Tensor:
    """`posterior_logits` [users, h] of `hypotheses` [h, J], each a user's weights, at `projected` rows [n, J]."""
    across = hypotheses.to(projected.dtype).T
    loss = projected.new_zeros(users, len(hypotheses))
    for i in range(0, len(projected), ROWS_AT_ONCE):
        part = slice(i, i + ROWS_AT_ONCE)
        loss += head_losses(projected[part] @ across, owner[part], users)
    if total == "mean":
        loss /= torch.bincount(owner, minlength=users).clamp_min(1).to(loss)[:, None]
    return -loss / temperature


def posterior_mean(
    projected: Tensor, owner: Tensor, users: int, hypotheses: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """The weights [users, J] expected of users who each have one of the `hypotheses` [h, J], equally likely before.

    `projected` [n, J] are features of the differences of n choices, so that hypothesis w has the margins projected·w;
    `owner` [n] are the positions of the choices' users.
    """
    logits = hypothesis_logits(projected, owner, users, hypotheses, temperature=temperature)
    return logits.softmax(-1) @ hypotheses.to(projected.dtype)


class WeightedHeads(Method):
    """Linear heads H [K, d] that all users share, and a weight per head for each user: score = Σ_k w_uk · h_k·e.

    Subclasses fit H and call `take`. By default users are weighed by `posterior_logits`, from equal weights.

    temperature: T of the module's rule.
    total: whether L_k is the sum or the mean over a user's choices.
    """

    linear_user_part = True

    temperature: float
    total: Total = "sum"

    _heads: Tensor | None = None
    _seen: UserStates | None = None

    @property
    def heads_matrix(self) -> Tensor:
        """H, [K, d]. Raises RuntimeError before the fit."""
        return require_fitted(self._heads, self)

    @abstractmethod
    def count_heads(self, dim: int) -> int | None:
        """K for embeddings of `dim` dimensions; None where it depends on the data."""

    def take_heads(self, heads: Tensor, train: Comparisons, rng: Rng) -> Self:
        """Take H, and weigh it for the users of `train` by their choices there."""
        self._heads = heads.cpu()
        self._seen = self.adapt_unseen(train, rng=rng)
        return self

    def cold_weights(self, users: int) -> Tensor:
        """Weights [users, K] before any choice: equal ones."""
        return self.heads_matrix.new_full((users, self.width), 1 / self.width)

    @property
    def width(self) -> int:
        """K, the number of a user's weights."""
        return len(self.heads_matrix)

    def weigh(self, chosen: Tensor, rejected: Tensor, owner: Tensor, users: int) -> Tensor:
        """Weights [users, K] from the heads' scores [n, K] of both sides of the choices of users at `owner` [n]."""
        logits = posterior_logits(chosen - rejected, owner, users, temperature=self.temperature, total=self.total)
        return (logits + self.cold_weights(users).log()).softmax(-1)

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        nobody = UserStates(np.empty(0, dtype=np.int64), {"weight": self.heads_matrix.new_empty(0, self.width)})
        return nobody if self._seen is None else self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Weigh the heads for each user by the user's own support; see `Method.adapt_unseen`."""
        users = support.users if users is None else np.unique(users)
        weights = self.cold_weights(len(users))
        if len(support):
            support_users = support.users
            owner = torch.from_numpy(np.searchsorted(support_users, support.user))
            ready = self.features_of(support)
            weighed = self.weigh(
                ready.features[ready.chosen], ready.features[ready.rejected], owner, len(support_users)
            )
            weights[torch.from_numpy(np.searchsorted(users, support_users))] = weighed
        return UserStates(users, {"weight": weights})

    def item_features(self, items: Items) -> Tensor:
        """e·Hᵀ, [m, K]."""
        heads = self.heads_matrix
        if items.dim != heads.shape[1]:
            raise InputError(
                f"the items have {items.dim} dimensions, this {type(self).__name__} was fitted on {heads.shape[1]}",
                hint="use the encoder the method was fitted with",
            )
        return items.embedding.to(heads.dtype) @ heads.T

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """Σ_k w_uk · features_k."""
        return (features * states.tensors["weight"].to(features.dtype)[position]).sum(1)

    def parameter_count(self) -> ParameterCount:
        """All that `learned` holds, K·d for the heads, and K per user."""
        return ParameterCount(sum(tensor.numel() for tensor in self.learned().values()), self.width)

    def parameters_for(self, dim: int) -> ParameterCount | None:
        """K·d shared, K per user."""
        heads = self.count_heads(dim)
        return None if heads is None else ParameterCount(heads * dim, heads)

    def learned(self) -> dict[str, Tensor]:
        """`heads`: H [K, d]."""
        return {"heads": self.heads_matrix}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._heads, self._seen = tensors["heads"], None
        return self


def second_moments(comparisons: Comparisons, device: str, *, centred: bool) -> Tensor:
    """The mean of Δe·Δeᵀ over the comparisons, [d, d] in float64; `centred`: of deviations from their mean."""
    dim = comparisons.items.dim
    square = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    total = torch.zeros(dim, dtype=torch.float64, device=device)
    for i in range(0, len(comparisons), ROWS_AT_ONCE):
        part = comparisons.take(np.arange(i, min(i + ROWS_AT_ONCE, len(comparisons))))
        rows = part.differences().to(device).double()
        square.addmm_(rows.T, rows)
        total += rows.sum(0)
    square /= max(1, len(comparisons))
    mean = total / max(1, len(comparisons))
    return square - torch.outer(mean, mean) if centred else square
