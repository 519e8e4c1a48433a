"""LoRe and Bradley–Terry: full-batch training of shared base functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.hyperparameters import Count, Positive, Steps
from prbench.method import ParameterCount, UserStates
from prbench.methods.plain_loops import lore_loop
from prbench.training.full_batch import FullBatch, blocks_by_way, divides_splits
from prbench.training.gradient import Snapshot, SplitBatch, embedding_bytes, seen_states
from prbench.training.linear_bases import LinearBases, drawn_weights, fit_weights
from prbench.training.optimiser import StackedAdam
from prbench.training.reweighting import Adapt, posterior_logits

if TYPE_CHECKING:
    from torch import Tensor


class LoRe(LinearBases):
    """LoRe: low-rank reward modelling (Bose et al. 2025, arXiv 2504.14439).

    Score = e·V·softmax(w_u) / 100 with K base functions V and a simplex weight per user. Minimises, jointly over V
    and all seen users' w, the sum over users of the mean over the user's choices of
    −log σ(score(chosen) − score(rejected)), by full-batch Adam. An unseen user's w is fitted with V frozen.

    bases: K.
    rate: step size of the joint full-batch Adam.
    steps: its number of steps.
    adapt_rate: step size for an unseen user's weights, from logits drawn from N(0, 1).
    adapt_steps: the number of steps for them.
    divisor: what logits are divided by.
    adapt: "reweight" weighs the base functions for an unseen user by generalised Bayes instead, from equal weights
        and at the `temperature` (see `prbench.training.reweighting`); `adapt_rate` and `adapt_steps` take no part.

    Zero shots: uniform weights (the published code divides zero by zero there).
    """

    def __init__(
        self,
        *,
        bases: Count = 5,
        rate: Positive = 0.5,
        steps: Count = 1000,
        adapt_rate: Positive = 0.1,
        adapt_steps: Steps = 500,
        divisor: Positive = 100.0,
        adapt: Adapt = "fit",
        temperature: Positive = 1.0,
    ) -> None:
        self.bases = bases
        self.rate = rate
        self.steps = steps
        self.adapt_rate = adapt_rate
        self.adapt_steps = adapt_steps
        self.divisor = divisor
        self.adapt = adapt
        self.temperature = temperature
        self.scale = 1 / divisor

    adaptation_is_random = True
    later_parameters: ClassVar[tuple[str, ...]] = ("adapt", "temperature")
    # False where all users share one weight, which is not trained.
    personal: ClassVar[bool] = True
    # Since 2 a split's training does not depend on the splits beside it; LoRe magnifies that difference in rounding.
    revision = 2

    @property
    def budget(self) -> int:
        """The number of full-batch steps."""
        return self.steps

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float:
        """The differences of all choices, forward and backward."""
        return 2 * embedding_bytes(trains)

    def plain_loop(self, train: Comparisons, rng: Rng) -> Iterator[dict[str, Tensor]]:
        """See `GradientMethod.plain_loop`."""
        return lore_loop(self, train, rng)

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """The splits whose cheapest way through the embeddings is the same."""
        return blocks_by_way(work.trains, self.bases)

    def divides_splits(self, train: Comparisons) -> bool:
        """See `GradientMethod.divides_splits`."""
        return divides_splits(train, self.bases)

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one full-batch step."""
        batch = FullBatch(work.trains, bases=self.bases, scale=self.scale, device=work.device)
        bases, weights = batch.start(work.rngs, personal=self.personal)
        trained = 2 if self.personal else 1
        adam = StackedAdam([bases, weights][:trained])
        last = max(max(units) for units in work.wanted)
        for step in range(1, last + 1):
            _, base_gradient, weight_gradient = batch.gradients(bases, weights)
            adam.step([base_gradient, weight_gradient][:trained], self.rate)
            for split, units in enumerate(work.wanted):
                if step in units:
                    users = len(work.trains[split].users)
                    tensors = {"bases": bases[split].clone(), "weight": weights[split, :users].clone()}
                    yield Snapshot(split, step, tensors)
            work.tell(1 / last)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """The seen users keep the weights of the joint training."""
        self._bases = tensors["bases"].cpu()
        self._seen = seen_states(train.users, {"weight": tensors["weight"]})
        return self

    def cold_weights(self, users: IntArray) -> Tensor:
        """Logits 0: uniform weights."""
        return torch.zeros(len(users), self.bases, dtype=self.bases_matrix.dtype)

    def start_weights(self, users: IntArray, rng: Rng) -> Tensor:
        """Logits from N(0, 1), drawn for each user from a stream of the user's own."""
        return drawn_weights(self.bases_matrix, users, self.bases, rng)

    def adapt_weights(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """Full-batch Adam on the user's logits, or the posterior's own where `adapt` is "reweight"."""
        if self.adapt == "reweight":
            return posterior_logits(projected, owner, len(weights), temperature=self.temperature)
        return fit_weights(
            projected,
            owner,
            weights,
            link="softmax",
            steps=self.adapt_steps,
            rate=self.adapt_rate,
            inner="adam",
            reduction="mean",
        )

    def parameters_for(self, dim: int) -> ParameterCount:
        """K·d shared, K per user."""
        return ParameterCount(self.bases * dim, self.bases)


class BT(LoRe):
    """Bradley–Terry: one linear reward for all users (Bradley and Terry 1952; LoRe's K = 1).

    Score = e·v / 100. Minimises the sum over users of the mean over the user's choices of
    −log σ(score(chosen) − score(rejected)), by full-batch Adam. Nobody adapts.
    """

    adaptation_is_random = False
    later_parameters = ()
    personal = False
    revision = 1

    def __init__(self, *, rate: Positive = 0.5, steps: Count = 1000, divisor: Positive = 100.0) -> None:
        super().__init__(bases=1, rate=rate, steps=steps, divisor=divisor)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take v."""
        self._bases = tensors["bases"].cpu()
        self._seen = UserStates(train.users)
        return self

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Every user is the same."""
        _ = self.bases_matrix
        return UserStates(support.users if users is None else np.unique(users))

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """e·v / 100."""
        return features[:, 0]

    def parameter_count(self) -> ParameterCount:
        """d, whatever the number of users."""
        return ParameterCount(self.bases_matrix.numel(), 0)

    def parameters_for(self, dim: int) -> ParameterCount:
        """d."""
        return ParameterCount(dim, 0)
