"""The encoder's own reward, as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.method import Method, ParameterCount, UserStates

if TYPE_CHECKING:
    from torch import Tensor


class Reference(Method):
    """The score of the encoder's reward head (for instance Skywork-Reward, Liu et al. 2024, arXiv 2410.18451).

    Nothing is trained and nobody adapts. On data whose encoder has no reward head it is unsupported.
    """

    random_start = False
    _users: IntArray | None = None

    def unsupported(self, data: Comparisons) -> str | None:
        """The encoder must have a reward."""
        return None if data.items.reward is not None else "the encoder has no reward head"

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """Remember who the seen users are."""
        self._users = train.users
        return self

    def seen_users(self) -> UserStates:
        """States without content."""
        return UserStates(self._fitted())

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Every user is the same."""
        self._fitted()
        return UserStates(support.users if users is None else np.unique(users))

    def item_features(self, items: Items) -> Tensor:
        """The reward, [m, 1]."""
        if items.reward is None:
            raise InputError("these items have no reward", hint="use an encoder with a reward head")
        return items.reward[:, None]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The reward."""
        return features[:, 0]

    def parameter_count(self) -> ParameterCount:
        """Nothing is trained."""
        self._fitted()
        return ParameterCount(0, 0)

    def parameters_for(self, dim: int) -> ParameterCount:
        """Nothing is trained."""
        return ParameterCount(0, 0)

    def learned(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """Nothing to take."""
        self._users = np.empty(0, dtype=np.int64)
        return self

    def _fitted(self) -> IntArray:
        if self._users is None:
            raise RuntimeError("Reference is not fitted: call fit_seen first")
        return self._users
