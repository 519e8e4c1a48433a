"""Item memory with tastes: strengths and low-rank coordinates of items, learned by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items
from prbench.hyperparameters import Count, Positive
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.convex import ConvexMethod, Strengths
from prbench.training.item_memory import identity_of, lack_of_recurrence, rows_of
from prbench.training.user_ridge import UserRidge

if TYPE_CHECKING:
    from torch import Tensor

# The standard deviation of the coordinates that a fit begins with; at 0 it would stay there.
START = 0.1


class ItemMF(ConvexMethod):
    """Bradley–Terry over items with low-rank tastes: what memory of items allows, for each user.

    Score = s_j + u·v_j: the strength s_j of item j, its coordinates v_j [rank] and the user's taste u [rank],
    whatever the item says (matrix factorisation of choices; Koren, Bell and Volinsky 2009, with the loss of Rendle et
    al. 2009). Minimises Σ_i softplus(−(Δs_i + u·Δv_i)) + ½ λ ‖s‖² + ½ μ (Σ_j ‖v_j‖² + Σ_u ‖u‖²) over the seen users'
    choices by L-BFGS (scipy), coordinates beginning as small random numbers. An unseen user's u is the minimiser
    given s and v; so are the seen users'. λ and μ are those with the best accuracy on the seen users' held-out
    choices; without these `item_strength` and `taste_strength` are used. A strong μ leaves no tastes: then it is
    `ItemBT`. An item that no choice was trained on has s = 0 and v = 0. Unsupported where items hardly recur, as
    `ItemBT`.

    rank: coordinates of an item.
    item_strengths, taste_strengths: the λ and μ to choose from.
    item_strength, taste_strength: λ and μ where nothing is selected.

    Zero shots: u = 0, the items' strengths.
    """

    random_start = True
    linear_user_part = True

    def __init__(
        self,
        *,
        rank: Count = 5,
        item_strengths: Sequence[Positive] = (1.0, 0.3, 0.1),
        taste_strengths: Sequence[Positive] = (10.0, 3.0, 1.0, 0.3),
        item_strength: Positive = 0.3,
        taste_strength: Positive = 1.0,
    ) -> None:
        self.rank = rank
        self.item_strengths = item_strengths
        self.taste_strengths = taste_strengths
        self.item_strength = item_strength
        self.taste_strength = taste_strength

    _table: Tensor | None = None
    _penalty: Tensor
    _seen: UserStates | None = None

    def unsupported(self, data: Comparisons) -> str | None:
        """Items must recur."""
        return lack_of_recurrence(data)

    def grid(self) -> list[Strengths]:
        """Strong ones first."""
        items, tastes = (sorted(each, reverse=True) for each in (self.item_strengths, self.taste_strengths))
        return [(a, b) for b in tastes for a in items]

    def default(self) -> Strengths:
        """`item_strength` and `taste_strength`."""
        return (self.item_strength, self.taste_strength)

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`table`: s and v of the items up to the last one that was compared, [m, 1 + rank]; `penalty`: μ [1]."""
        identity = identity_of(train.items).numpy()
        chosen, rejected = identity[train.chosen], identity[train.rejected]
        owner = np.searchsorted(train.users, train.user)
        n, size, users = len(train), int(max(chosen.max(), rejected.max())) + 1, len(train.users)
        rows = np.arange(n)
        ones = np.ones(n)
        # Of a choice: +1 at its chosen and −1 at its rejected item, so that products are differences and sums.
        signs = csr_array((np.r_[ones, -ones], (np.r_[rows, rows], np.r_[chosen, rejected])), shape=(n, size))
        of_user = csr_array((ones, (owner, rows)), shape=(users, n))
        back = csr_array(signs.T)
        draw = self.stream.child("coordinates").numpy()
        first = START * draw.standard_normal(size * self.rank + users * self.rank)

        def objective(flat: FloatArray, item: float, taste: float) -> tuple[float, FloatArray]:
            s, v, u = np.split(flat, [size, size * (1 + self.rank)])
            v, u = v.reshape(size, self.rank), u.reshape(users, self.rank)
            moved, mine = signs @ v, u[owner]
            margin = signs @ s + (moved * mine).sum(1)
            pull = expit(-margin)
            loss = np.logaddexp(0, -margin).sum() + 0.5 * item * s @ s + 0.5 * taste * ((v**2).sum() + (u**2).sum())
            by_v = taste * v - back @ (pull[:, None] * mine)
            by_u = taste * u - of_user @ (pull[:, None] * moved)
            return float(loss), np.concatenate([item * s - back @ pull, by_v.ravel(), by_u.ravel()])

        for item, taste in grid:
            start: FloatArray = np.concatenate([np.zeros(size), first])
            solution = minimize(
                objective,
                start,
                args=(item, taste),
                jac=True,
                method="L-BFGS-B",
                options={"gtol": 1e-4, "ftol": 1e-10, "maxiter": 300},
            ).x
            coordinates = solution[size : size * (1 + self.rank)].reshape(size, self.rank)
            yield {
                "table": torch.from_numpy(np.column_stack([solution[:size], coordinates])),
                "penalty": torch.tensor([taste], dtype=torch.float64),
            }

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """See `ConvexMethod.accept`."""
        self._table, self._penalty = tensors["table"], tensors["penalty"]
        self._seen = self.adapt_unseen(train, rng=Rng("no number is drawn"))
        return self

    def seen_users(self) -> UserStates:
        """u of the users in `train`."""
        require_fitted(self._table, self)
        nobody = UserStates(np.empty(0, dtype=np.int64), {"taste": torch.empty(0, self.rank, dtype=torch.float64)})
        return nobody if self._seen is None else self._seen

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Each user's most probable u given the items' strengths and coordinates."""
        table = require_fitted(self._table, self)
        users = support.users if users is None else np.unique(users)
        if not len(support):
            return UserStates(users, {"taste": table.new_zeros(len(users), self.rank)})
        rows = rows_of(table, support.items)
        difference = rows[support.chosen] - rows[support.rejected]
        ridge = UserRidge(difference[:, 1:], np.searchsorted(users, support.user), len(users))
        z, _ = ridge.solve(difference[:, 0].contiguous(), float(self._penalty), ridge.start())
        return UserStates(users, {"taste": ridge.vectors(z)})

    def item_features(self, items: Items) -> Tensor:
        """s and v, [m, 1 + rank]; zeros for items never compared."""
        return rows_of(require_fitted(self._table, self), items)

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """s + u·v."""
        return features[:, 0] + (features[:, 1:] * states.tensors["taste"][position]).sum(1)

    def parameter_count(self) -> ParameterCount:
        """1 + rank for every item up to the last one compared and μ; rank per user."""
        return ParameterCount(require_fitted(self._table, self).numel() + 1, self.rank)

    def learned(self) -> dict[str, Tensor]:
        """`table`: s and v [m, 1 + rank], and `penalty`: μ [1]."""
        return {"table": require_fitted(self._table, self), "penalty": self._penalty}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._table, self._penalty, self._seen = tensors["table"], tensors["penalty"], None
        return self
