"""HyRe: heads apart by frozen random priors, weighed for each user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import softplus

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray
from prbench.hyperparameters import Count, Positive
from prbench.training.convex import OnePenalty, Strengths
from prbench.training.differences import Differences
from prbench.training.reweighting import Total, WeightedHeads

if TYPE_CHECKING:
    from torch import Tensor


class HyRe(WeightedHeads, OnePenalty):
    """HyRe (Lee et al. 2024, arXiv 2412.08812): a shared-base ensemble, reweighted by a user's choices.

    Head k is h_k = v_k + p_k: p_k is drawn at random and stays (a randomised prior function, Osband et al. 2018),
    v_k is trained. All heads have the same choices of all users: each minimises
    (1/U) Σ_u (1/n_u) Σ_i softplus(−Δe_i·h_k) + ½ λ σ² ‖v_k‖², σ² the mean squared length of Δe, so that heads agree
    where choices say enough and differ elsewhere. p_k ~ N(0, I·prior_scale²/σ²): its margins have standard deviation
    `prior_scale`. λ is the one with the best accuracy on the seen users' held-out choices, each user's weights
    coming from the user's training choices; without these `strength` is used. Convex for each head; solved by L-BFGS.

    heads: K.
    prior_scale: see above.
    temperature, total: see `WeightedHeads`.
    strengths: the λ to choose from.
    strength: λ where nothing is selected.

    Zero shots: equal weights, the ensemble's mean.
    """

    random_start = True

    def __init__(
        self,
        *,
        heads: Count = 20,
        prior_scale: Positive = 1.0,
        temperature: Positive = 1.0,
        total: Total = "sum",
        strengths: Sequence[Positive] = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003),
        strength: Positive = 0.01,
    ) -> None:
        self.heads = heads
        self.prior_scale = prior_scale
        self.temperature = temperature
        self.total = total
        self.strengths = strengths
        self.strength = strength

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`heads`: H [K, d]."""
        rows = Differences(train, device)
        _, owner, count = np.unique(train.user, return_inverse=True, return_counts=True)
        share = torch.from_numpy(1 / (count[owner] * len(count))).to(rows.like)[:, None]
        shape = (self.heads, rows.shape[1])
        drawn = torch.randn(shape, generator=self.stream.child("priors").torch(), dtype=torch.float64)
        prior = (self.prior_scale * drawn).to(rows.like)

        def objective(flat: FloatArray, strength: float) -> tuple[float, FloatArray]:
            deviation = torch.from_numpy(flat).to(rows.like).view(shape)
            margin = rows.times(deviation + prior)
            loss = float((softplus(-margin) * share).sum()) + 0.5 * strength * float(flat @ flat)
            pull = torch.sigmoid(-margin).mul_(share)
            return loss, -rows.pull_back(pull).double().cpu().numpy().ravel() + strength * flat

        deviation: FloatArray = np.zeros(self.heads * rows.shape[1])
        for (strength,) in grid:
            deviation = minimize(
                objective,
                deviation,
                args=(strength,),
                jac=True,
                method="L-BFGS-B",
                options={"gtol": 1e-6, "maxiter": 500},
            ).x
            yield {"heads": (torch.from_numpy(deviation).to(rows.like).view(shape) + prior) / rows.length}

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """See `ConvexMethod.accept`."""
        return self.take_heads(tensors["heads"], train, Rng("no number is drawn"))

    def count_heads(self, dim: int) -> int:
        """`heads`."""
        return self.heads
