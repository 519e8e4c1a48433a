"""Methods that read a user's choices as input: what they are trained on, and users that are one vector each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.method import ParameterCount, UserStates
from prbench.training.context_draws import ContextBatch, ContextPlan, context_batches
from prbench.training.gradient import Snapshot, SplitBatch, seen_states
from prbench.training.networks import InputScale, Network, NetworkMethod, input_scales, stacked
from prbench.training.tables import PairTable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """What S splits are trained on together: their choices, their networks before training, and their updates.

    Embeddings are to be multiplied by `scales` [S].
    """

    table: PairTable
    networks: Network
    scales: Tensor
    plans: list[ContextPlan]
    batches: Iterator[ContextBatch]


class ContextMethod(NetworkMethod):
    """A network that reads some of a user's choices and predicts others.

    Subclasses take the hyper-parameters below in their constructor, under these names, and name in `first_layers` the
    weights that multiply embeddings: the input scale becomes part of them.

    users_per_update, least_context, most_context, targets, cold_share: see `ContextPlan`.
    input_scale: see `input_scales`.
    """

    users_per_update: int
    least_context: int
    most_context: int
    targets: int = 0
    cold_share: float = 0.0
    input_scale: InputScale
    first_layers: ClassVar[tuple[str, ...]]

    encodes_users = True

    @abstractmethod
    def initial(self, dim: int, rng: Rng) -> Network:
        """One split's network for embeddings of `dim` dimensions, before training."""

    def expected_size(self, dim: int) -> int:
        """The number of trained values of a network for embeddings of `dim` dimensions; none of them is drawn."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            return sum(tensor.numel() for tensor in self.initial(dim, Rng("size")).values())

    @property
    def most_choices(self) -> int:
        """Choices of a user that take part in an update, context and targets together."""
        return self.most_context + self.targets

    def plan(self, train: Comparisons, rng: Rng) -> ContextPlan:
        """The contexts and targets that are drawn from a split."""
        return ContextPlan(
            train,
            rng.child("contexts"),
            users_per_update=self.users_per_update,
            contexts=(self.least_context, self.most_context),
            targets=self.targets,
            cold_share=self.cold_share,
        )

    def choices_per_update(self, train: Comparisons, rng: Rng) -> float:
        """See `NetworkMethod.choices_per_update`."""
        return self.plan(train, rng).choices_per_update(self.most_choices)

    def meetings(self, work: SplitBatch) -> TrainingInputs:
        """The splits' choices, fresh networks and updates."""
        table = PairTable.of(work.trains, device=work.device)
        plans = [self.plan(train, rng) for train, rng in zip(work.trains, work.rngs, strict=True)]
        return TrainingInputs(
            table,
            stacked([self.initial(table.items.shape[1], rng) for rng in work.rngs], table.items),
            input_scales(self.input_scale, table, work.trains),
            plans,
            context_batches(
                plans,
                [table.positions(train) for train in work.trains],
                [max(units) for units in work.wanted],
                device=work.device,
                dtype=table.items.dtype,
            ),
        )

    def train_on(
        self, work: SplitBatch, met: TrainingInputs, losses: Callable[[Network, ContextBatch], Tensor]
    ) -> Iterator[Snapshot]:
        """Train by `losses` [S]; a unit is one epoch, in which every user is met once."""
        per_epoch = [plan.updates for plan in met.plans]
        for snapshot in self.train_networks(work, met.networks, per_epoch, met.batches, losses):
            for name in self.first_layers:
                snapshot.tensors[name] *= met.scales[snapshot.split]
            yield snapshot


class LatentMethod(ContextMethod):
    """A context method to which a user is one vector z [width]."""

    width: int

    _seen: UserStates | None = None

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take the network; the seen users are read as unseen ones are, from their training choices."""
        self._network = {name: tensor.cpu() for name, tensor in tensors.items()}
        self._seen = seen_states(train.users, self.adapt_unseen(train, rng=rng).tensors)
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        like = next(iter(self.network.values()))
        nobody = UserStates(np.empty(0, dtype=np.int64), {"z": like.new_empty(0, self.width)})
        return nobody if self._seen is None else self._seen

    def parameter_count(self) -> ParameterCount:
        """The network, trained, and a user's z, which is stored but comes out of a forward pass."""
        return ParameterCount(sum(tensor.numel() for tensor in self.network.values()), self.width)

    def parameters_for(self, dim: int) -> ParameterCount:
        """The same, from the width of embeddings alone."""
        return ParameterCount(self.expected_size(dim), self.width)
