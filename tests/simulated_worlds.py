"""Small simulated populations, split as a run splits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.loaders.simulated import Simulated
from prbench.method import FitProblem, Method
from prbench.methods.user_bt import UserBT
from prbench.protocol.selection import fit_problem
from prbench.protocol.splits import make_split
from prbench.registry.schema import ProtocolEntry

RNG = Rng("worlds")
PROTOCOL = ProtocolEntry(seen_train_limit=0, unseen_train_limit=0, splits=1)
NOTHING_PERSONAL = {"shared": 1.0, "low_rank": 0.0, "clustered": 0.0, "idiosyncratic": 0.0}


@dataclass(frozen=True)
class SmallWorld:
    """One split of a simulated population.

    `truth` holds the true margin of each test choice, `rewards` [users, d] each user's true reward vector.
    """

    chosen_by_validation: FitProblem
    everything: FitProblem
    support: Comparisons
    test: Comparisons
    truth: NDArray[np.float64]
    unseen: NDArray[np.int64]
    rewards: NDArray[np.float64]

    def fit(self, method: Method, *, select: bool = True) -> Method:
        """Fit, choosing on validation choices where `select`."""
        one = self.chosen_by_validation if select else self.everything
        type(method).fit_splits([method], [one])
        return method

    def adapted(self, method: Method, shots: int | None = None, first: int = 0) -> torch.Tensor:
        """Margins of the unseen users' test choices after adaptation, to `shots` choices of each from `first` on."""
        order = np.argsort(self.support.user, kind="stable")
        place = np.arange(len(order)) - np.searchsorted(self.support.user[order], self.support.user[order])
        support = (
            self.support if shots is None else self.support.take(order[(place >= first) & (place < first + shots)])
        )
        return method.margins(method.adapt_unseen(support, users=self.unseen, rng=RNG), self.test)

    def cold(self, method: Method) -> torch.Tensor:
        """Margins of the unseen users' test choices before adaptation."""
        return method.margins(method.cold_start(self.test.users, self.test.items, rng=RNG), self.test)

    def accuracy(self, margins: torch.Tensor) -> float:
        """The probability that an unseen user agrees with a decision, which has no luck of single test choices in it."""
        right = expit(np.sign(margins.numpy()) * self.truth)
        return float(np.mean([right[self.test.user == user].mean() for user in self.unseen]))

    def gain(self, method: Method, baseline: Method, shots: int | None = None, first: int = 0) -> float:
        """How much more accurate an adapted method is on unseen users than another."""
        return self.accuracy(self.adapted(method, shots, first)) - self.accuracy(self.adapted(baseline, shots, first))

    def overfitting_cost(self, baseline: Method) -> float:
        """How much less accurate than a baseline is a reward of two choices of each user alone."""
        alone = self.fit(UserBT())
        return self.accuracy(self.adapted(baseline)) - self.accuracy(self.adapted(alone, 2))


def small_world(options: Mapping[str, Any], *, permuted: bool = False) -> SmallWorld:
    """A split of a simulated population; with `permuted`, every choice is given to a user at random."""
    loader = Simulated(**{"users": 60, "dim": 16, "posts": 150, "comparisons": 160, **options})
    data = loader.load(None, "world")  # type: ignore[arg-type]
    assert data.embedded is not None
    assert data.truth is not None
    delta = data.embedded.embedding.double().numpy()
    delta = delta[data.chosen] - delta[data.rejected]
    rewards = np.array(
        [
            np.linalg.lstsq(delta[data.user == u], data.truth.utility_margin[data.user == u], rcond=None)[0]
            for u in range(data.n_users)
        ]
    )
    if permuted:
        data = replace(data, user=RNG.child("permuted").numpy().permutation(data.user))
    comparisons = data.comparisons(replace(data.embedded, identity=torch.arange(data.n_items)))
    split = make_split(data, PROTOCOL, index=0)
    return SmallWorld(
        fit_problem("validation", data, comparisons, split, PROTOCOL),
        fit_problem("last", data, comparisons, split, PROTOCOL),
        comparisons.take(split.unseen_support),
        comparisons.take(split.unseen_test),
        data.truth.utility_margin[split.unseen_test],
        split.unseen,
        rewards,
    )
