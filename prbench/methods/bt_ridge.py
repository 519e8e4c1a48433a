"""Ridge Bradley–Terry: the convex, tuned answer without personalisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import softplus

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items
from prbench.hyperparameters import Positive
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.convex import OnePenalty, Strengths
from prbench.training.user_ridge import unit_rows

if TYPE_CHECKING:
    from torch import Tensor


class BTRidge(OnePenalty):
    """Bradley–Terry with an L2 penalty whose strength is chosen on validation choices.

    Score = e·v. Minimises (1/U) Σ_u (1/n_u) Σ_i softplus(−Δe_i·v) + ½ λ σ² ‖v‖², where σ² is the mean squared length
    of Δe: λ then means the same for embeddings of any scale. Convex; solved by L-BFGS (scipy), from strong to weak
    penalties, each from the solution before. The strength with the best validation accuracy is fitted again
    on all choices; without validation choices `strength` is used.

    strengths: the λ to choose from.
    strength: λ where nothing is selected.
    tolerance: L-BFGS stops when the largest gradient entry, for Δe of unit mean squared length, is below it; it also
        stops after 500 steps, and when a step lowers the objective by less than 2.2e-9 times the larger of it and 1
        (scipy's default `ftol`).
    """

    def __init__(
        self,
        *,
        strengths: Sequence[Positive] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001),
        strength: Positive = 0.01,
        tolerance: Positive = 1e-6,
    ) -> None:
        self.strengths = strengths
        self.strength = strength
        self.tolerance = tolerance

    _direction: Tensor | None = None
    _users: IntArray

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`direction`: v [d]."""
        rows, length = unit_rows(train, device)
        _, owner, count = np.unique(train.user, return_inverse=True, return_counts=True)
        share = torch.from_numpy(1 / (count[owner] * len(count))).to(rows)

        def objective(flat: FloatArray, strength: float) -> tuple[float, FloatArray]:
            v = torch.from_numpy(flat).to(rows)
            margin = torch.mv(rows, v)
            loss = float((softplus(-margin) * share).sum()) + 0.5 * strength * float(flat @ flat)
            pull = torch.sigmoid(-margin).mul_(share)
            # A row vector times the matrix reads it row by row; the transposed product is several times slower.
            gradient = -(pull[None] @ rows)[0]
            return loss, gradient.double().cpu().numpy() + strength * flat

        v: FloatArray = np.zeros(rows.shape[1])
        for (strength,) in grid:
            v = minimize(
                objective,
                v,
                args=(strength,),
                jac=True,
                method="L-BFGS-B",
                options={"gtol": self.tolerance, "maxiter": 500},
            ).x
            yield {"direction": torch.from_numpy(v / length).to(rows.dtype)}

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """Take v."""
        self._direction, self._users = tensors["direction"], train.users
        return self

    def seen_users(self) -> UserStates:
        """States without content."""
        require_fitted(self._direction, self)
        return UserStates(self._users)

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Every user is the same."""
        require_fitted(self._direction, self)
        return UserStates(support.users if users is None else np.unique(users))

    def item_features(self, items: Items) -> Tensor:
        """e·v, [m, 1]."""
        direction = require_fitted(self._direction, self)
        return (items.embedding.to(direction.dtype) @ direction)[:, None]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """e·v."""
        return features[:, 0]

    def parameter_count(self) -> ParameterCount:
        """d, whatever the number of users."""
        return ParameterCount(require_fitted(self._direction, self).numel(), 0)

    def parameters_for(self, dim: int) -> ParameterCount:
        """d."""
        return ParameterCount(dim, 0)

    def learned(self) -> dict[str, Tensor]:
        """`direction`: v [d]."""
        return {"direction": require_fitted(self._direction, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._direction = tensors["direction"]
        self._users = np.empty(0, dtype=np.int64)
        return self
