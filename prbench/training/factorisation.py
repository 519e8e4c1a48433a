"""What the linear factorisations share: score = Φe·w_u with J features Φ and free weights w_u, trained jointly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.method import ParameterCount
from prbench.training.full_batch import FullBatch, blocks_by_way, divides_splits
from prbench.training.gradient import Snapshot, SplitBatch, embedding_bytes, seen_states
from prbench.training.linear_bases import LinearBases, root_mean_square
from prbench.training.optimiser import StackedAdam
from prbench.training.reweighting import Adapt, posterior_mean

if TYPE_CHECKING:
    from torch import Tensor


class Factorisation(LinearBases):
    """Features Φ [J, d] and a free weight vector w_u [J] per user.

    Φ and the seen users' w minimise the mean over choices of −log σ(ΦΔe·w_u) plus `penalty` times the mean ‖ΦΔe‖, by
    full-batch Adam on differences divided by their root mean squared length, so that a step size means the same for
    every encoder. The product Φᵀw is all that choices tell: any invertible map of the features, undone in the
    weights, scores alike. It is fixed by a reflection so that the first feature is the seen users' mean reward up to
    its size, and a user of whom nothing is known gets it: w = (1, 0, ..., 0). With `unit` "mean" that is exactly the
    mean weight. With "feature" the features are scaled instead so that their differences have a mean square of 1:
    then it is the direction of the mean weight, at length 1.

    With `adapt` "reweight" an unseen user is one of the seen users, whose weights are kept for that: adaptation finds
    which, by generalised Bayes at the `temperature`, and takes the mean of their weights (`posterior_mean`).
    """

    link = "identity"
    scale = 1.0
    penalty: float = 0.0
    unit: ClassVar[Literal["mean", "feature"]] = "mean"

    features: int
    rate: float
    steps: int
    adapt: Adapt = "fit"
    temperature: float = 1.0

    _hypotheses: Tensor | None = None

    @property
    def budget(self) -> int:
        """The number of full-batch steps."""
        return self.steps

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float:
        """The differences of all choices, forward and backward."""
        return 2 * embedding_bytes(trains)

    @abstractmethod
    def start(self, train: Comparisons, length: float, rng: Rng, device: str) -> tuple[Tensor, Tensor]:
        """Φ [J, d] for differences divided by `length`, and w [users, J], to begin with."""

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """The splits whose cheapest way through the embeddings is the same."""
        return blocks_by_way(work.trains, self.features)

    def divides_splits(self, train: Comparisons) -> bool:
        """See `GradientMethod.divides_splits`."""
        return divides_splits(train, self.features)

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one full-batch step."""
        lengths = [root_mean_square(train) for train in work.trains]
        batch = FullBatch(
            work.trains,
            bases=self.features,
            scale=[1 / length for length in lengths],
            device=work.device,
            link="identity",
            count="choices",
            penalty=self.penalty,
        )
        like = batch.rows.table
        features = like.new_zeros(len(work.trains), self.features, like.shape[1])
        weights = like.new_zeros(len(work.trains), batch.users, self.features)
        for split, (train, length, rng) in enumerate(zip(work.trains, lengths, work.rngs, strict=True)):
            first, first_weights = self.start(train, length, rng, work.device)
            features[split], weights[split, : len(first_weights)] = first.to(like), first_weights.to(like)
        adam = StackedAdam([features, weights])
        last = max(max(units) for units in work.wanted)
        for step in range(1, last + 1):
            _, feature_gradient, weight_gradient = batch.gradients(features, weights)
            adam.step([feature_gradient, weight_gradient], self.rate)
            reached = [split for split, units in enumerate(work.wanted) if step in units]
            size = batch.feature_size(features) if reached else None
            for split in reached:
                assert size is not None
                users = len(work.trains[split].users)
                tensors = {
                    "bases": features[split] / lengths[split],
                    "weight": weights[split, :users].clone(),
                    "size": size[split].clone(),
                }
                yield Snapshot(split, step, tensors)
            work.tell(1 / last)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """The seen users keep the weights of the joint training."""
        bases, weights, length = mean_user_first(tensors["bases"].cpu(), tensors["weight"].cpu())
        factor = length if self.unit == "mean" else 1 / float(tensors["size"] or 1.0)
        self._bases, weights = factor * bases, weights / factor
        self._seen = seen_states(train.users, {"weight": weights})
        self._hypotheses = weights if self.adapt == "reweight" else None
        return self

    def adapt_weights(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """By `posterior_mean` over the seen users where `adapt` says so, else by the method's own fit."""
        if self._hypotheses is None:
            return self.fit_users(projected, owner, weights)
        users = len(weights)
        return posterior_mean(projected, owner, users, self._hypotheses, temperature=self.temperature)

    @abstractmethod
    def fit_users(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """See `LinearBases.adapt_weights`."""

    def cold_weights(self, users: IntArray) -> Tensor:
        """(1, 0, ..., 0): the seen users' mean, with `unit` "feature" its direction at length 1."""
        weights = torch.zeros(len(users), self.features, dtype=self.bases_matrix.dtype)
        weights[:, 0] = 1.0
        return weights

    def parameter_count(self) -> ParameterCount:
        """All that `learned` holds, and J per user."""
        return ParameterCount(sum(tensor.numel() for tensor in self.learned().values()), self.features)

    def parameters_for(self, dim: int) -> ParameterCount | None:
        """J·d shared, J per user; with the seen users' weights, which are as many as they."""
        return None if self.adapt == "reweight" else ParameterCount(self.features * dim, self.features)

    def learned(self) -> dict[str, Tensor]:
        """`bases`: Φ [J, d], and where they are needed `hypotheses`: the seen users' w [u, J]."""
        known = {} if self._hypotheses is None else {"hypotheses": self._hypotheses}
        return {**super().learned(), **known}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._hypotheses = tensors.get("hypotheses")
        return super().restore(tensors)


def mean_user_first(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, float]:
    """The same rewards from reflected features: the mean of the weights [u, J] becomes (length, 0, ..., 0).

    Returns the features, the weights and the length. A mean of (almost) zero has no direction: then nothing is
    changed and the length is 1.
    """
    mean = weights.double().mean(0)
    length = float(torch.linalg.vector_norm(mean))
    if length <= 1e-6 * float(torch.linalg.vector_norm(weights, dim=1).mean()):
        return features, weights, 1.0
    towards = mean / length
    # A reflection takes the mean to the first axis or to its opposite, whichever is farther: nothing cancels.
    sign = -1.0 if towards[0] > 0 else 1.0
    mirror = towards.clone()
    mirror[0] -= sign
    mirror /= torch.linalg.vector_norm(mirror)
    reflection = sign * (torch.eye(len(mean), dtype=mean.dtype) - 2 * torch.outer(mirror, mirror))
    return reflection.to(features.dtype) @ features, weights @ reflection.to(weights.dtype), length
