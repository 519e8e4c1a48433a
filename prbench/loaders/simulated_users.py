"""The users of simulated data: rewards made of a shared, a low-rank, a clustered and an individual part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray
from prbench.loaders.simulated_items import Float32

# Rewards have no part in directions beyond this many times `reward_directions`.
REWARD_REACH = 8


class Population(NamedTuple):
    """Rewards as weights of the r leading latent directions.

    `users` [users, r], their mean direction `shared` [r], the encoder's own reward `encoder` [r], both of length
    1, and the cluster of each user [users].
    """

    users: Float32
    shared: Float32
    encoder: Float32
    cluster: IntArray


@dataclass(frozen=True, kw_only=True)
class Tastes:
    """How users' rewards are drawn; the fields are the options of `Simulated` of the same names."""

    users: int
    dim: int
    shared: float
    low_rank: float
    clustered: float
    idiosyncratic: float
    bases: int
    weights: Literal["dirichlet", "gaussian"]
    clusters: int
    reward_directions: int
    reference_correlation: float

    @property
    def _deviation(self) -> FloatArray:
        """The standard deviation of a random reward's weight of each direction, [r]; their squares sum to 1."""
        r = min(self.dim, REWARD_REACH * self.reward_directions)
        spread = 1 / (1 + (np.arange(1, r + 1) / self.reward_directions) ** 2)
        deviation: FloatArray = np.sqrt(spread / spread.sum())
        return deviation

    def population(self, rng: Rng) -> Population:
        """Every user's reward; the parts' mean squared lengths over users are the stated shares."""
        shared, other = self._directions(rng, "shared", 1)[0], self._directions(rng, "encoder", 1)[0]
        shared /= np.linalg.norm(shared)
        other -= (other @ shared) * shared
        other /= np.linalg.norm(other)
        rho = self.reference_correlation
        generator = rng.child("weights").numpy()
        if self.weights == "dirichlet":
            weights = generator.dirichlet(np.full(self.bases, 0.5), self.users)
        else:
            weights = generator.standard_normal((self.users, self.bases))
        cluster = rng.child("clusters").numpy().permutation(np.arange(self.users) % self.clusters)
        users = (
            np.sqrt(self.shared) * shared
            + _personal(weights @ self._directions(rng, "bases", self.bases), self.low_rank)
            + _personal(self._directions(rng, "centres", self.clusters)[cluster], self.clustered)
            + _personal(self._directions(rng, "own", self.users), self.idiosyncratic)
        )
        return Population(
            users.astype(np.float32),
            shared.astype(np.float32),
            (rho * shared + np.sqrt(1 - rho**2) * other).astype(np.float32),
            cluster.astype(np.int64),
        )

    def turned(self, rng: Rng, population: Population, degrees: float) -> Population:
        """The users after a change: each one's weights turned towards a direction at right angles to them."""
        length = np.linalg.norm(population.users, axis=1, keepdims=True)
        direction = population.users / length
        towards = self._directions(rng, "drift", self.users)
        towards -= (towards * direction).sum(1, keepdims=True) * direction
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        angle = np.deg2rad(degrees)
        users = length * (np.cos(angle) * direction + np.sin(angle) * towards)
        return population._replace(users=users.astype(np.float32))

    def _directions(self, rng: Rng, part: str, count: int) -> FloatArray:
        """Random rewards [count, r] from the stream `part`."""
        rewards: FloatArray = rng.child(part).numpy().standard_normal((count, len(self._deviation)))
        rewards *= self._deviation
        return rewards


def _personal(part: FloatArray, share: float) -> FloatArray:
    """Users' rewards [users, r] with mean zero and mean squared length `share` over users."""
    if not share:
        return np.zeros_like(part)
    part = part - part.mean(axis=0)
    scaled: FloatArray = part * np.sqrt(share / (part**2).sum(axis=1).mean())
    return scaled
