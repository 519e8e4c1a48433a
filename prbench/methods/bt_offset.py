"""Shared Bradley–Terry plus an offset for every user: the empirical-Bayes answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import softplus

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items
from prbench.hyperparameters import Positive
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.convex import ConvexMethod, Strengths
from prbench.training.linear_bases import dot_with_users
from prbench.training.user_ridge import UserRidge, unit_rows

if TYPE_CHECKING:
    from torch import Tensor


class BTOffset(ConvexMethod):
    """Bradley–Terry with a shared reward and a penalised offset for every user.

    Score = e·(v + o_u). A hierarchical model: choices follow Bradley–Terry, o_u ~ N(0, I / (λ_o σ²)) over users and
    v ~ N(0, I / (λ_v σ²)), σ² the mean squared length of Δe over the seen users' choices. v and all o_u together
    minimise

        Σ_u Σ_i softplus(−Δe_ui·(v + o_u)) + ½ λ_v σ² ‖v‖² + ½ λ_o σ² Σ_u ‖o_u‖².

    Jointly, not v first: a v fitted alone explains the users' differences as noise and comes out too short, and
    users with many choices pull it to themselves. The joint maximum is the penalised quasi-likelihood estimate
    (Breslow and Clayton 1993); for Gaussian responses it is that of the mixed-model equations (Henderson 1975), in
    which v has the offsets integrated out. What makes it empirical Bayes: the prior of a new user, its mean v and
    its width, is learned from the other users; the widths are those with the best accuracy on the seen users'
    held-out choices (without these `shared_strength` and `offset_strength`). An unseen user's o is the most
    probable one given v. 1/√λ_o is the standard deviation expected of the personal part of a margin.

    Solved by L-BFGS over v, where for every v the offsets are solved exactly by Newton's method in each
    user's row space, from strong to weak penalties, each from the nearest solution before.

    shared_strengths: the λ_v to choose from, with every λ_o.
    offset_strengths: the λ_o to choose from.
    shared_strength: λ_v where nothing is selected.
    offset_strength: λ_o where nothing is selected.
    tolerance: L-BFGS stops when the largest entry of the mean gradient over choices, for Δe of unit mean squared
        length, is below it; it also stops after 500 steps, and when a step lowers the mean objective by less than
        2.2e-9 times the larger of it and 1 (scipy's default `ftol`).

    Zero shots: o = 0, the shared reward.
    """

    def __init__(
        self,
        *,
        shared_strengths: Sequence[Positive] = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1),
        offset_strengths: Sequence[Positive] = (1000.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3),
        shared_strength: Positive = 3.0,
        offset_strength: Positive = 10.0,
        tolerance: Positive = 1e-6,
    ) -> None:
        self.shared_strengths = shared_strengths
        self.offset_strengths = offset_strengths
        self.shared_strength = shared_strength
        self.offset_strength = offset_strength
        self.tolerance = tolerance

    _direction: Tensor | None = None
    _penalty: Tensor | None = None
    _seen: UserStates

    def grid(self) -> list[Strengths]:
        """Strong ones first."""
        shared, offset = (sorted(each, reverse=True) for each in (self.shared_strengths, self.offset_strengths))
        return [(a, b) for b in offset for a in shared]

    def default(self) -> Strengths:
        """`shared_strength` and `offset_strength`."""
        return (self.shared_strength, self.offset_strength)

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`direction`: v [d], `penalty`: λ_o σ² [1], and `offset`: o of every user [u, d]."""
        rows, length = unit_rows(train, device)
        owner = np.searchsorted(train.users, train.user)
        ridge = UserRidge(rows, owner, len(train.users))
        v: FloatArray = np.zeros(rows.shape[1])
        z = ridge.start()
        solved: dict[float, tuple[FloatArray, list[Tensor]]] = {}

        def objective(flat: FloatArray, shared: float, offset: float) -> tuple[float, FloatArray]:
            nonlocal z
            base = torch.mv(rows, torch.from_numpy(flat).to(rows)).double()
            z, margin = ridge.solve(base, offset, z)
            loss = float(softplus(-margin).sum()) + 0.5 * shared * float(flat @ flat)
            loss += 0.5 * offset * sum(float(part.square().sum()) for part in z)
            # The offsets are at their minimum for this v: only v's direct part is left of the gradient.
            pull = torch.sigmoid(-margin).to(rows.dtype)
            gradient = -(pull[None] @ rows)[0].double().cpu().numpy() + shared * flat
            return loss / len(rows), gradient / len(rows)

        for shared, offset in grid:
            v, z = solved.get(shared, (v, z))
            solution = minimize(
                objective,
                v,
                args=(shared, offset),
                jac=True,
                method="L-BFGS-B",
                options={"gtol": self.tolerance, "maxiter": 500},
            )
            v = solution.x
            z, _ = ridge.solve(torch.mv(rows, torch.from_numpy(v).to(rows)).double(), offset, z)
            solved[shared] = v, z
            yield {
                "direction": torch.from_numpy(v / length).to(rows.dtype),
                "penalty": torch.tensor([offset * length**2], dtype=torch.float64),
                "offset": (ridge.vectors(z) / length).to(rows.dtype),
            }

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """See `ConvexMethod.accept`."""
        self._direction, self._penalty = tensors["direction"], tensors["penalty"]
        self._seen = UserStates(train.users, {"offset": tensors["offset"]})
        return self

    def seen_users(self) -> UserStates:
        """The offsets of the users in `train`."""
        require_fitted(self._direction, self)
        return self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Each user's most probable offset given v."""
        direction = require_fitted(self._direction, self)
        penalty = float(require_fitted(self._penalty, self))
        users = support.users if users is None else np.unique(users)
        rows, length = unit_rows(support, "cpu")
        ridge = UserRidge(rows, np.searchsorted(users, support.user), len(users))
        base = length * torch.mv(rows, direction.to(rows.dtype)).double()
        z, _ = ridge.solve(base, penalty / length**2, ridge.start())
        return UserStates(users, {"offset": (ridge.vectors(z) / length).to(direction.dtype)})

    def item_features(self, items: Items) -> Tensor:
        """The embedding."""
        direction = require_fitted(self._direction, self)
        if items.dim != len(direction):
            raise InputError(
                f"the items have {items.dim} dimensions, this BTOffset was fitted on {len(direction)}",
                hint="use the encoder the method was fitted with",
            )
        return items.embedding

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """e·(v + o_u)."""
        direction = require_fitted(self._direction, self)
        shared = features.to(direction.dtype) @ direction
        return shared + dot_with_users(features, states.tensors["offset"], position)

    def parameter_count(self) -> ParameterCount:
        """d and λ_o σ², and d per user."""
        return self.parameters_for(len(require_fitted(self._direction, self)))

    def parameters_for(self, dim: int) -> ParameterCount:
        """d + 1 shared, d per user."""
        return ParameterCount(dim + 1, dim)

    def learned(self) -> dict[str, Tensor]:
        """`direction`: v [d], and `penalty`: λ_o σ² [1]."""
        return {
            "direction": require_fitted(self._direction, self),
            "penalty": require_fitted(self._penalty, self),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._direction, self._penalty = tensors["direction"], tensors["penalty"]
        self._seen = UserStates(np.empty(0, dtype=np.int64), {"offset": self._direction.new_empty(0, 0)})
        return self
