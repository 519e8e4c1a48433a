"""Small simulated populations, split as a run splits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.loaders.simulated import Simulated
from prbench.method import FitProblem, Method
from prbench.protocol.selection import fit_problem
from prbench.protocol.splits import make_split
from prbench.registry.schema import ProtocolEntry

RNG = Rng("worlds")
PROTOCOL = ProtocolEntry(seen_train_limit=0, unseen_train_limit=0, splits=1)
NOTHING_PERSONAL = {"shared": 1.0, "low_rank": 0.0, "clustered": 0.0, "idiosyncratic": 0.0}


@dataclass(frozen=True)
class SmallWorld:
    """One split of a simulated population, and each user's true reward vector [users, d] (of the noise-free margin)."""

    chosen_by_validation: FitProblem
    everything: FitProblem
    support: Comparisons
    test: Comparisons
    unseen: NDArray[np.int64]
    rewards: NDArray[np.float64]

    def fit(self, method: Method, *, select: bool = True) -> Method:
        """Fit, choosing on validation choices where `select`."""
        one = self.chosen_by_validation if select else self.everything
        type(method).fit_splits([method], [one])
        return method

    def adapted(self, method: Method) -> torch.Tensor:
        """Margins of the unseen users' test choices after adaptation."""
        states = method.adapt_unseen(self.support, users=self.unseen, rng=RNG)
        return method.margins(states, self.test)

    def accuracy(self, margins: torch.Tensor) -> NDArray[np.float64]:
        """Per unseen user, ties one half."""
        right = (margins.numpy() > 0) + 0.5 * (margins.numpy() == 0)
        return np.array([right[self.test.user == user].mean() for user in self.unseen])

    def gain(self, method: Method, baseline: Method) -> tuple[float, float]:
        """Mean difference of the unseen users' accuracies, and its standard error over users."""
        difference = self.accuracy(self.adapted(method)) - self.accuracy(self.adapted(baseline))
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


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
        data = replace(data, user=np.random.default_rng(0).permutation(data.user))
    comparisons = data.comparisons(replace(data.embedded, identity=torch.arange(data.n_items)))
    split = make_split(data, PROTOCOL, index=0)
    return SmallWorld(
        fit_problem("validation", data, comparisons, split, PROTOCOL),
        fit_problem("last", data, comparisons, split, PROTOCOL),
        comparisons.take(split.unseen_support),
        comparisons.take(split.unseen_test),
        split.unseen,
        rewards,
    )
