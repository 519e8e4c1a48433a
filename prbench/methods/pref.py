"""PReF: personalisation by reward factorisation, on frozen embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Steps
from prbench.method import ParameterCount, require_fitted
from prbench.training.factorisation import Factorisation
from prbench.training.linear_bases import ROWS_AT_ONCE, drawn_weights, fit_weights
from prbench.training.reweighting import Adapt

if TYPE_CHECKING:
    from torch import Tensor


class PReF(Factorisation):
    """PReF: reward factorisation (Shenfeld et al. 2025, arXiv 2503.06358), with a linear head on e.

    Score = (Φe + b)·λ_u with J features and a free λ_u. See `Factorisation` for the joint objective. Begins with the
    rank-J least-squares fit of the users' choices by linear features (`svd_start`), as the published code begins with
    the singular value decomposition of its table of choices and a fit of the features to it. The bias b of the
    published linear head cancels in every comparison: it stays 0. An unseen user's λ is fitted with Φ frozen by
    gradient descent on the mean −log σ over the user's choices, from λ ~ N(0, 1), unregularised. That start and its
    step size are absolute numbers, so the features are given a size: a mean square difference of 1.

    features: J.
    rate: step size of the joint full-batch Adam.
    steps: its number of steps.
    penalty: weight of the mean length of the features' differences (the code's `regularization_strength`).
    ridge: of the first fit, as a share of the mean variance of the differences' coordinates.
    adapt_rate: step size of the gradient descent on an unseen user's λ.
    adapt_steps: its number of steps.
    adapt, temperature: see `Factorisation`.

    Zero shots: the direction of the seen users' mean λ, at length 1 (published: undefined).
    """

    adaptation_is_random = True
    unit = "feature"
    later_parameters = ("adapt", "temperature")

    def __init__(
        self,
        *,
        features: Count = 5,
        rate: Positive = 0.003,
        steps: Count = 500,
        penalty: NonNegative = 0.02,
        ridge: Positive = 1.0,
        adapt_rate: Positive = 0.01,
        adapt_steps: Steps = 1000,
        adapt: Adapt = "fit",
        temperature: Positive = 1.0,
    ) -> None:
        self.features = features
        self.rate = rate
        self.steps = steps
        self.penalty = penalty
        self.ridge = ridge
        self.adapt_rate = adapt_rate
        self.adapt_steps = adapt_steps
        self.adapt = adapt
        self.temperature = temperature

    _bias: Tensor | None = None

    def start(self, train: Comparisons, length: float, rng: Rng, device: str) -> tuple[Tensor, Tensor]:
        """The rank-J fit."""
        return svd_start(train, self.features, length=length, ridge=self.ridge, rng=rng, device=device)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take Φ, with a bias of 0."""
        super().accept(tensors, train, rng)
        self._bias = self.bases_matrix.new_zeros(self.features)
        return self

    def start_weights(self, users: IntArray, rng: Rng) -> Tensor:
        """λ from N(0, 1), drawn for each user from a stream of the user's own."""
        return drawn_weights(self.bases_matrix, users, self.features, rng)

    def fit_users(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """Gradient descent on the user's λ."""
        return fit_weights(
            projected,
            owner,
            weights,
            link="identity",
            steps=self.adapt_steps,
            rate=self.adapt_rate,
            inner="sgd",
            reduction="mean",
        )

    def item_features(self, items: Items) -> Tensor:
        """Φe + b, [m, J]."""
        return super().item_features(items) + require_fitted(self._bias, self)

    def parameters_for(self, dim: int) -> ParameterCount | None:
        """J·d + J shared, J per user; see `Factorisation.parameters_for`."""
        plain = super().parameters_for(dim)
        return plain and ParameterCount(plain.shared + self.features, self.features)

    def learned(self) -> dict[str, Tensor]:
        """`bases`: Φ [J, d], and `bias`: b [J]."""
        return {**super().learned(), "bias": require_fitted(self._bias, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._bias = tensors["bias"]
        return super().restore(tensors)


def svd_start(
    train: Comparisons, features: int, *, length: float, ridge: float, rng: Rng, device: str
) -> tuple[Tensor, Tensor]:
    """Φ [J, d] and λ [u, J] whose products are the best rank-J fit of the users' choices by linear features.

    A choice is the value ½ at x = Δe / `length` (chosen first; −½ at −x says the same). With S the mean of x·xᵀ and
    m_u that of x/2 over the user's choices, the products Φᵀλ_u are, in the metric S + ρ, the rank-J vectors closest
    to the users' ridge fits (S + ρ)⁻¹ m_u (reduced-rank regression, Izenman 1975), by a singular value decomposition
    of the whitened m_u. Singular values are shared evenly between Φ and λ, as published. ρ is `ridge` times the mean
    variance of a coordinate.
    Where there are fewer users or dimensions than features, the features left over are drawn and their λ are 0.
    """
    dim, users = train.items.dim, len(train.users)
    owner = torch.from_numpy(np.searchsorted(train.users, train.user)).to(device)
    square = torch.zeros(dim, dim, device=device)
    sums = torch.zeros(users, dim, device=device)
    for i in range(0, len(train), ROWS_AT_ONCE):
        part = np.arange(i, min(i + ROWS_AT_ONCE, len(train)))
        x = train.take(part).differences().to(device).float().div_(length)
        square.addmm_(x.T, x)
        sums.index_add_(0, owner[i : i + ROWS_AT_ONCE], x)
    count = torch.bincount(owner, minlength=users)
    square = square.double() / len(train)
    square.diagonal().add_(ridge * float(square.diagonal().mean()) or 1.0)
    root = torch.linalg.cholesky(square)
    mean = 0.5 * sums.double() / count[:, None]
    white = torch.linalg.solve_triangular(root, mean.T, upper=False)
    left, values, right = torch.linalg.svd(white, full_matrices=False)
    rank = min(features, len(values))
    share = values[:rank].sqrt()
    drawn = torch.randn(features, dim, generator=rng.child("features").torch()) / dim**0.5
    phi, weights = drawn.double().to(device), torch.zeros(users, features, dtype=torch.float64, device=device)
    phi[:rank] = torch.linalg.solve_triangular(root.T, left[:, :rank] * share, upper=True).T
    weights[:, :rank] = right[:rank].T * share
    return phi, weights
