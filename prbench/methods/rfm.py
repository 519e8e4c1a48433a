"""The reward-feature model, with linear features of frozen embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.hyperparameters import Count, Positive
from prbench.training.factorisation import Factorisation
from prbench.training.reweighting import Adapt
from prbench.training.user_ridge import UserRidge

if TYPE_CHECKING:
    from torch import Tensor


class RFM(Factorisation):
    """RFM: reward-feature model (Barreto et al. 2025, arXiv 2503.17338), with linear features of e.

    Score = Φe·w_u with 32 features and a free w_u. See `Factorisation` for the joint objective (no penalty). Begins
    with the same reward for everyone: Φ ~ N(0, 1/d) and every w = (1, ..., 1)/√features. An unseen user's w is found
    by logistic regression with Φ frozen: it minimises Σ_i softplus(−ΦΔe_i·w) + ½ ridge ‖w‖², solved to convergence.

    features: the number of features.
    rate: step size of the joint full-batch Adam.
    steps: its number of steps.
    ridge: see above; in the units of `Factorisation`, in which the mean user has weights of length 1.

    adapt, temperature: see `Factorisation`.

    Zero shots: the seen users' mean w (published: undefined).
    """

    later_parameters = ("adapt", "temperature")

    def __init__(
        self,
        *,
        features: Count = 32,
        rate: Positive = 0.01,
        steps: Count = 500,
        ridge: Positive = 10.0,
        adapt: Adapt = "fit",
        temperature: Positive = 1.0,
    ) -> None:
        self.features = features
        self.rate = rate
        self.steps = steps
        self.ridge = ridge
        self.adapt = adapt
        self.temperature = temperature

    def start(self, train: Comparisons, length: float, rng: Rng, device: str) -> tuple[Tensor, Tensor]:
        """Features from N(0, 1/d), the same weight for all."""
        dim = train.items.dim
        features = torch.randn(self.features, dim, generator=rng.child("features").torch()) / dim**0.5
        return features, torch.full((len(train.users), self.features), self.features**-0.5)

    def fit_users(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """Logistic regression, the same from wherever it starts."""
        users = UserRidge(projected, owner.numpy(), len(weights))
        z, _ = users.solve(projected.new_zeros(len(projected), dtype=torch.float64), self.ridge, users.start())
        return users.vectors(z).to(weights.dtype)
