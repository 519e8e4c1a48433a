"""Users in planted clusters, each with a reward of its own, and how well a division of users finds them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.method import FitProblem, Method

# The axis that the populations were first drawn under: another one would change the trained tests' measurements.
RNG = Rng("vpl-pal")


class World(NamedTuple):
    """Choices of users in planted clusters: seen users' train and validation, unseen users' support and test.

    `truth` is the true margin of each test choice.
    """

    cluster: NDArray[np.int64]
    train: Comparisons
    validation: Comparisons
    support: Comparisons
    test: Comparisons
    truth: NDArray[np.float64]

    def fit(self, method: Method) -> Any:
        type(method).fit_splits([method], [FitProblem(self.train, self.validation, RNG)])
        return method

    def accuracy(self, method: Method) -> float:
        """The probability that an unseen user agrees with a decision, after adaptation to the support."""
        return self.agreement(method.margins(method.adapt_unseen(self.support, rng=RNG), self.test).numpy())

    def cold(self, method: Method) -> float:
        """The same before adaptation."""
        states = method.cold_start(self.test.users, self.test.items, rng=RNG)
        return self.agreement(method.margins(states, self.test).numpy())

    def agreement(self, margins: NDArray[Any]) -> float:
        return float(expit(np.sign(margins) * self.truth).mean())


def world(
    *, clusters: int, users: int = 60, rows: int = 80, dim: int = 8, by_prompt: bool | Literal["opposed"] = False
) -> World:
    """Users of a cluster share a reward; the clusters' rewards cancel out over the population.

    With `by_prompt` an item's reward is instead its product with the prompt's embedding, whose coordinates every
    cluster reads in another order or, where it is "opposed", every other cluster with the other sign.
    """
    draw = RNG.child("clusters", clusters).numpy()
    user, cluster = np.repeat(np.arange(users), rows), np.arange(users) % clusters
    n = len(user)
    embedding = draw.normal(size=(2 * n, dim))
    prompt = np.tile(draw.normal(size=(n, dim)), (2, 1))
    corners = np.eye(clusters) - 1 / clusters if clusters > 1 else np.ones((1, 1))
    if by_prompt == "opposed":
        reward = 2 * np.tile(1.0 - 2 * (cluster[user] % 2), 2) * (embedding * prompt).sum(1)
    elif by_prompt:
        order = (np.arange(dim) + np.tile(cluster[user], 2)[:, None]) % dim
        reward = 2 * (embedding * np.take_along_axis(prompt, order, 1)).sum(1)
    else:
        axes = 4 * np.linalg.qr(draw.normal(size=(dim, clusters)))[0]
        reward = (embedding * np.tile(corners[cluster[user]] @ axes.T, (2, 1))).sum(1)
    margin = reward[:n] - reward[n:]
    wins = draw.random(n) < expit(margin)
    first, second = np.arange(n), np.arange(n, 2 * n)
    everyone = Comparisons(
        items=Items(
            torch.from_numpy(embedding).float(),
            identity=torch.arange(2 * n),
            context=torch.from_numpy(prompt).float(),
        ),
        user=user,
        chosen=np.where(wins, first, second),
        rejected=np.where(wins, second, first),
        group=np.tile(np.arange(rows), users),
        row=np.arange(n),
    )
    seen, place = user < users // 2, everyone.group / rows
    tested = ~seen & (place >= 0.4)
    return World(
        cluster,
        everyone.take(seen & (place < 0.8)),
        everyone.take(seen & (place >= 0.8)),
        everyone.take(~seen & (place < 0.4)),
        everyone.take(tested),
        np.where(wins, margin, -margin)[tested],
    )


def rand_index(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Adjusted Rand index of two partitions (Hubert and Arabie 1985)."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def couples(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    rows, columns, both = couples(table.sum(1)), couples(table.sum(0)), couples(table)
    expected = rows * columns / couples(np.array([float(len(a))]))
    return (both - expected) / ((rows + columns) / 2 - expected)


def dealt(cluster: NDArray[np.int64], deal: int = 0) -> NDArray[np.int64]:
    """The same clusters, given to users at random."""
    return RNG.child("dealt", deal).numpy().permutation(cluster)
