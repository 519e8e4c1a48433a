"""The length of a response, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items, concatenate
from prbench.method import Method, ParameterCount, UserStates, require_fitted

if TYPE_CHECKING:
    from torch import Tensor

# Penalty on the coefficient: only there so that it is finite where the longer response always wins.
RIDGE = 1e-6


class Length(Method):
    """Longer (or shorter) responses win, for everyone.

    Score = β·log(1 + length), length in characters. β minimises the mean over users of the mean over the user's
    choices of softplus(−β·Δ) (Bradley and Terry 1952, with one feature Δ, the difference of the logarithms), plus
    ½·10⁻⁶ β². Only its sign decides: the direction is learned on the seen users' training choices. Nobody adapts.

    What a method must beat to have learned more than length (Singhal et al. 2023, arXiv 2310.03716).
    """

    random_start = False
    _coefficient: Tensor | None = None
    _users: IntArray

    def unsupported(self, data: Comparisons) -> str | None:
        """The responses' lengths must be known."""
        return None if data.items.length is not None else "the lengths of the responses are not known"

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """Learn β; nothing is chosen, so validation choices are training choices too."""
        train = concatenate([train, validation])
        feature = self.item_lengths(train.items).double().numpy()
        difference: FloatArray = feature[train.chosen] - feature[train.rejected]
        _, owner, count = np.unique(train.user, return_inverse=True, return_counts=True)
        share = 1 / (count[owner] * len(count))
        self._coefficient = torch.tensor([_coefficient(difference, share)], dtype=torch.float64)
        self._users = train.users
        return self

    def fit_record(self) -> dict[str, Any]:
        """β."""
        return {} if self._coefficient is None else {"coefficient": float(self._coefficient)}

    def seen_users(self) -> UserStates:
        """States without content."""
        require_fitted(self._coefficient, self)
        return UserStates(self._users)

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Every user is the same."""
        require_fitted(self._coefficient, self)
        return UserStates(support.users if users is None else np.unique(users))

    @staticmethod
    def item_lengths(items: Items) -> Tensor:
        """log(1 + characters), [m]. Raises InputError where lengths are not known."""
        if items.length is None:
            raise InputError("the lengths of these items are not known", hint="use data with texts")
        return items.length.double().log1p()

    def item_features(self, items: Items) -> Tensor:
        """β·log(1 + length), [m, 1]."""
        return (self.item_lengths(items) * require_fitted(self._coefficient, self))[:, None]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """β·log(1 + length)."""
        return features[:, 0]

    def parameter_count(self) -> ParameterCount:
        """β."""
        return ParameterCount(require_fitted(self._coefficient, self).numel(), 0)

    def parameters_for(self, dim: int) -> ParameterCount:
        """1, whatever the embedding."""
        return ParameterCount(1, 0)

    def learned(self) -> dict[str, Tensor]:
        """`coefficient`: β [1]."""
        return {"coefficient": require_fitted(self._coefficient, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._coefficient = tensors["coefficient"]
        self._users = np.empty(0, dtype=np.int64)
        return self


def _coefficient(difference: FloatArray, share: FloatArray) -> float:
    """The root of the objective's increasing slope."""
    from scipy.optimize import brentq
    from scipy.special import expit

    def slope(beta: float) -> float:
        return float(RIDGE * beta - (share * difference * expit(-beta * difference)).sum())

    # At the minimum RIDGE·|β| = |Σ share·Δ·σ(−β·Δ)| is at most the mean of |Δ|.
    bound = float((share * np.abs(difference)).sum()) / RIDGE
    return float(brentq(slope, -bound, bound, xtol=1e-10, rtol=1e-12)) if bound else 0.0
