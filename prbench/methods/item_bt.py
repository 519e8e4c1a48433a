"""Bradley–Terry over items: a strength for every item, learned by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items
from prbench.hyperparameters import Positive
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.convex import OnePenalty, Strengths
from prbench.training.item_memory import identity_of, lack_of_recurrence, rows_of

if TYPE_CHECKING:
    from torch import Tensor


class ItemBT(OnePenalty):
    """Bradley–Terry over items (Bradley and Terry 1952; Zermelo 1929), with a ridge penalty.

    Score = s_j, the strength of item j whoever asks and whatever it says. Minimises
    Σ_i softplus(−(s_chosen − s_rejected)) + ½ λ ‖s‖² over the seen users' choices, that is s_j ~ N(0, 1/λ). λ is the
    one with the best accuracy on their held-out choices; without these `strength` is used. Solved by L-BFGS
    (scipy), from strong to weak. An item that no choice was trained on has s = 0. Nobody adapts.

    Shows how much of a result can be had without reading: on data whose test items were trained on, a method that
    generalises should be compared with this. Unsupported where items hardly recur: where fewer than one comparison
    in ten has an item that also occurs with another user or in another group (the unit that no split divides).

    strengths: the λ to choose from.
    strength: λ where nothing is selected.
    """

    def __init__(
        self, *, strengths: Sequence[Positive] = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01), strength: Positive = 0.3
    ) -> None:
        self.strengths = strengths
        self.strength = strength

    _strength_of: Tensor | None = None
    _users: IntArray

    def unsupported(self, data: Comparisons) -> str | None:
        """Items must recur."""
        return lack_of_recurrence(data)

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`strength`: s of the items up to the last one that was compared, [m]."""
        identity = identity_of(train.items).numpy()
        chosen, rejected = identity[train.chosen], identity[train.rejected]
        size = int(max(chosen.max(), rejected.max())) + 1

        def objective(s: FloatArray, strength: float) -> tuple[float, FloatArray]:
            margin = s[chosen] - s[rejected]
            pull = expit(-margin)
            loss = np.logaddexp(0, -margin).sum() + 0.5 * strength * s @ s
            gradient = np.bincount(rejected, pull, size) - np.bincount(chosen, pull, size) + strength * s
            return float(loss), gradient

        s: FloatArray = np.zeros(size)
        for (strength,) in grid:
            solution = minimize(
                objective,
                s,
                args=(strength,),
                jac=True,
                method="L-BFGS-B",
                options={"gtol": 1e-7, "ftol": 1e-15, "maxiter": 2000},
            )
            s = solution.x
            yield {"strength": torch.from_numpy(s)}

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """See `ConvexMethod.accept`."""
        self._strength_of = tensors["strength"]
        self._users = train.users
        return self

    def seen_users(self) -> UserStates:
        """States without content."""
        require_fitted(self._strength_of, self)
        return UserStates(self._users)

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Every user is the same."""
        require_fitted(self._strength_of, self)
        return UserStates(support.users if users is None else np.unique(users))

    def item_features(self, items: Items) -> Tensor:
        """s, [m, 1]; 0 for items never compared."""
        strength = require_fitted(self._strength_of, self)
        return rows_of(strength, items)[:, None]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """s."""
        return features[:, 0]

    def parameter_count(self) -> ParameterCount:
        """One for every item up to the last one compared."""
        return ParameterCount(require_fitted(self._strength_of, self).numel(), 0)

    def learned(self) -> dict[str, Tensor]:
        """`strength`: s [m]."""
        return {"strength": require_fitted(self._strength_of, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._strength_of = tensors["strength"]
        self._users = np.empty(0, dtype=np.int64)
        return self
