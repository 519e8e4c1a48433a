"""Ridge Bradley–Terry: the convex, tuned answer without personalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import softplus

from prbench.comparisons import Comparisons, FloatArray, IntArray, Items, concatenate
from prbench.method import FitProblem, Method, ParameterCount, UserStates, Watch, require_fitted
from prbench.parameters import Positive
from prbench.seeds import Rng
from prbench.training import user_accuracy

if TYPE_CHECKING:
    from torch import Tensor


class BTRidge(Method):
    """Bradley–Terry with an L2 penalty whose strength is chosen on validation choices.

    Score = e·v. Minimises (1/U) Σ_u (1/n_u) Σ_i softplus(−Δe_i·v) + ½ λ σ² ‖v‖², where σ² is the mean squared length
    of Δe: λ then means the same for embeddings of any scale. Convex; solved by L-BFGS (scipy), from strong to weak
    penalties, each from the solution before. The strength with the best validation accuracy is fitted again
    on all choices; without validation choices `strength` is used.

    strengths: the λ to choose from.
    strength: λ where nothing is selected.
    tolerance: L-BFGS stops when the largest gradient entry, for Δe of unit mean squared length, is below it.
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

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """See `Method.fit_seen`."""
        self._record: dict[str, Any] = {"rule": "last", "chosen": self.strength}
        strength = self.strength
        if len(validation):
            curve = {}
            for value, direction in zip(
                sorted(self.strengths, reverse=True),
                solve(train, sorted(self.strengths, reverse=True), self.tolerance, device),
                strict=True,
            ):
                margin = validation.differences().to(direction.dtype) @ direction
                curve[str(value)] = user_accuracy(margin, validation.user)
            strength = max(sorted(self.strengths, reverse=True), key=lambda value: curve[str(value)])
            self._record = {"rule": "validation", "chosen": strength, "curve": curve}
            train = concatenate([train, validation])
        (self._direction,) = solve(train, [strength], self.tolerance, device)
        self._users = train.users
        return self

    @classmethod
    def fit_splits(
        cls,
        methods: Sequence[Self],
        problems: Sequence[FitProblem],
        *,
        device: str = "cpu",
        watch: Watch | None = None,
    ) -> None:
        """See `Method.fit_splits`; a problem's own `choose` judges the strengths in place of validation choices."""
        for method, problem in zip(methods, problems, strict=True):
            if problem.choose is None:
                method.fit_seen(problem.train, problem.validation, rng=problem.rng, device=device)
            else:
                method._fit_chosen(problem.train, problem.choose, device)
            if watch:
                watch(1 / len(methods))

    def _fit_chosen(self, train: Comparisons, choose: Callable[[Method], float], device: str) -> None:
        """Keep the strength that `choose` likes best; only the test-oracle rule comes here."""
        strengths = sorted(self.strengths, reverse=True)
        judged: list[tuple[float, float, Tensor]] = []
        for strength, direction in zip(strengths, solve(train, strengths, self.tolerance, device), strict=True):
            candidate = self.fresh().restore({"direction": direction})
            candidate._users = train.users
            judged.append((choose(candidate), strength, direction))
        _, chosen, self._direction = max(judged, key=lambda one: one[0])
        self._users = train.users
        curve = {str(strength): value for value, strength, _ in judged}
        self._record = {"rule": "test-oracle", "chosen": chosen, "curve": curve}

    def fit_record(self) -> dict[str, Any]:
        """The chosen strength and the validation accuracy of each."""
        return getattr(self, "_record", {})

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


def solve(train: Comparisons, strengths: list[float], tolerance: float, device: str) -> list[Tensor]:
    """The minimisers v [d] for each of `strengths`, in their order; see `BTRidge`."""
    rows = train.differences().to(device)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    length = float(rows.square().sum(1).mean().sqrt())
    rows = rows.div_(length or 1.0)
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

    found = []
    v: FloatArray = np.zeros(rows.shape[1])
    for strength in strengths:
        solution = minimize(
            objective, v, args=(strength,), jac=True, method="L-BFGS-B", options={"gtol": tolerance, "maxiter": 500}
        )
        v = solution.x
        found.append(torch.from_numpy(v / (length or 1.0)).to(rows.dtype))
    return found
