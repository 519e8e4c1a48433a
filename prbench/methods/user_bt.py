"""One ridge Bradley–Terry per user, from scratch: what a user's own choices alone can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.hyperparameters import Positive
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.convex import OnePenalty, Strengths
from prbench.training.linear_bases import dot_with_users
from prbench.training.user_ridge import UserRidge, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


class UserBT(OnePenalty):
    """Ridge Bradley–Terry of every user by itself (Bradley and Terry 1952; Hoerl and Kennard 1970).

    Score = e·w_u. Each user's w minimises Σ_i softplus(−Δe_i·w) + ½ λ σ² ‖w‖² over the user's own choices, where σ²
    is the mean squared length of Δe over the seen users' choices. That is the most probable w under choices by
    Bradley–Terry and a prior N(0, I / (λσ²)): 1/√λ is the standard deviation expected of a margin. Users share
    nothing but λσ², which is the one number kept. λ is the one with the best accuracy on the seen users' held-out
    choices; without these `strength` is used. Solved to convergence by Newton's method in each user's row space.

    strengths: the λ to choose from.
    strength: λ where nothing is selected.

    Zero shots: w = 0, and everything is a tie.
    """

    def __init__(
        self,
        *,
        strengths: Sequence[Positive] = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
        strength: Positive = 1.0,
    ) -> None:
        self.strengths = strengths
        self.strength = strength

    _penalty: Tensor | None = None
    _seen: UserStates

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`penalty`: λσ² [1], and `weight`: w of every user [u, d]."""
        rows, length = unit_rows(train, device)
        users = UserRidge(rows, np.searchsorted(train.users, train.user), len(train.users))
        base, z = rows.new_zeros(len(rows), dtype=torch.float64), users.start()
        for (strength,) in grid:
            z, _ = users.solve(base, strength, z)
            yield {
                "penalty": torch.tensor([strength * length**2], dtype=torch.float64),
                "weight": (users.vectors(z) / length).to(rows.dtype),
            }

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """See `ConvexMethod.accept`."""
        self._penalty = tensors["penalty"]
        self._seen = UserStates(train.users, {"weight": tensors["weight"]})
        return self

    def seen_users(self) -> UserStates:
        """w of the users in `train`."""
        require_fitted(self._penalty, self)
        return self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Fit each user's w on the user's own support."""
        penalty = float(require_fitted(self._penalty, self))
        users = support.users if users is None else np.unique(users)
        rows, length = unit_rows(support, "cpu")
        ridge = UserRidge(rows, np.searchsorted(users, support.user), len(users))
        z, _ = ridge.solve(rows.new_zeros(len(rows), dtype=torch.float64), penalty / length**2, ridge.start())
        return UserStates(users, {"weight": (ridge.vectors(z) / length).to(rows.dtype)})

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """e·w_u."""
        return dot_with_users(features, states.tensors["weight"], position)

    def parameter_count(self) -> ParameterCount:
        """λσ², and d per user. A restored method has seen no embedding: RuntimeError, and `parameters_for` knows."""
        require_fitted(self._penalty, self)
        if not len(self._seen):
            raise RuntimeError("a restored UserBT has no users: parameters_for(dim) says what one takes")
        return self.parameters_for(self._seen.tensors["weight"].shape[1])

    def parameters_for(self, dim: int) -> ParameterCount:
        """1 shared, d per user."""
        return ParameterCount(1, dim)

    def learned(self) -> dict[str, Tensor]:
        """`penalty`: λσ² [1]."""
        return {"penalty": require_fitted(self._penalty, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._penalty = tensors["penalty"]
        self._seen = UserStates(np.empty(0, dtype=np.int64), {"weight": torch.empty(0, 0)})
        return self
