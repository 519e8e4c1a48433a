"""Meta-learning episodes: which users meet in an update, and which of their choices are support or query.

Drawn per split and epoch from the split's own stream, and laid out for all splits at once: an update of S splits
is one index array [S, R] into the table of differences, with each row's slot (which of the update's users it
belongs to) and its weight in that user's support and query loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray
from prbench.training.gradient import GradientMethod, Snapshot, SplitBatch, embedding_bytes
from prbench.training.optimiser import StackedAdam, clip_per_split, warmup_cosine
from prbench.training.steady import width_for
from prbench.training.tables import DifferenceTable, PairTable

if TYPE_CHECKING:
    from torch import Tensor


Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, eq=False)
class Epoch:
    """One split's epoch: its rows ordered by update and slot.

    `order` [n] are positions in the split's comparisons; `update` and `slot` [n] say where each goes; `support`
    and `query` [n] are the rows' weights in the losses of their user.
    """

    order: IntArray
    update: IntArray
    slot: IntArray
    support: FloatArray
    query: FloatArray
    updates: int


class EpisodePlan:
    """Draws the epochs of one split (published MRM code, utils.py).

    In every epoch users are shuffled and taken `users_per_update` at a time; each user's groups are shuffled,
    max(1, ⌊query_share · groups⌋) of them are the query and the rest the support; a user with a single group has
    it as both. Row weights are 1/count (`mean`) or 1 (`sum`).
    """

    def __init__(
        self,
        train: Comparisons,
        rng: Rng,
        *,
        users_per_update: int,
        query_share: float,
        reduction: Reduction,
    ) -> None:
        self.rng = rng
        self.users_per_update = users_per_update
        self.mean = reduction == "mean"
        self.users = train.users
        self.owner = np.searchsorted(self.users, train.user)
        pair = np.stack([self.owner, train.group], 1)
        groups, self.group = np.unique(pair, axis=0, return_inverse=True)
        self.group = self.group.reshape(-1)
        self.group_owner = groups[:, 0]
        count = np.bincount(self.group_owner, minlength=len(self.users))
        self.first_group = np.concatenate([[0], np.cumsum(count)[:-1]])
        self.queries = np.maximum(1, (query_share * count).astype(np.int64))
        self.single = count == 1

    @property
    def updates(self) -> int:
        """Updates per epoch; the last may have fewer users."""
        return -(-len(self.users) // self.users_per_update)

    def epoch(self, number: int) -> Epoch:
        """The epoch with this number, the same whenever it is asked for."""
        draw = self.rng.child("epoch", number).numpy()
        place = np.empty(len(self.users), dtype=np.int64)
        place[draw.permutation(len(self.users))] = np.arange(len(self.users))
        shuffled = np.lexsort((draw.random(len(self.group_owner)), self.group_owner))
        rank = np.empty_like(shuffled)
        rank[shuffled] = np.arange(len(shuffled)) - self.first_group[self.group_owner[shuffled]]
        is_query = rank[self.group] < self.queries[self.owner]
        is_support = ~is_query | self.single[self.owner]
        order = np.argsort(place[self.owner], kind="stable")
        owner = self.owner[order]
        return Epoch(
            order=order,
            update=place[owner] // self.users_per_update,
            slot=place[owner] % self.users_per_update,
            support=self._weights(is_support)[order],
            query=self._weights(is_query)[order],
            updates=self.updates,
        )

    def _weights(self, member: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> FloatArray:
        weight = member.astype(np.float64)
        if self.mean:
            weight /= np.bincount(self.owner, weight)[self.owner]
        return weight


@dataclass(frozen=True, eq=False)
class Episodes:
    """One update of S splits with up to B users each and R rows in all.

    R is a multiple of `steady.ROWS`. `where` [S, R] indexes the table of differences (0 where padded); `slots`
    [S, B, R] is 1 where a row belongs to the slot's user; `support` and `query` [S, B, R] are the row weights;
    `present` [S, B] says which slots hold a user.
    """

    where: Tensor
    slots: Tensor
    support: Tensor
    query: Tensor
    present: Tensor


class EpisodeBatches:
    """The updates of all splits, epoch after epoch, side by side.

    A split whose epochs have fewer updates than another's goes on to its next epoch earlier.
    """

    def __init__(
        self, plans: Sequence[EpisodePlan], positions: Sequence[IntArray], *, device: str, dtype: torch.dtype
    ) -> None:
        self.plans = plans
        self.positions = positions
        self.device, self.dtype = device, dtype
        self.slots = plans[0].users_per_update

    def updates(self, epochs: Sequence[int]) -> Iterator[Episodes]:
        """Every update of `epochs[s]` epochs of split s; a split past its last epoch has no users."""
        stretch = max(plan.updates for plan in self.plans)
        total = max(epochs[s] * plan.updates for s, plan in enumerate(self.plans))
        streams = [self._stream(s, epochs[s]) for s in range(len(self.plans))]
        carried: list[list[Epoch]] = [[] for _ in self.plans]
        taken = [0] * len(self.plans)
        for start in range(0, total, stretch):
            stop = min(start + stretch, total)
            pieces = []
            for s, stream in enumerate(streams):
                while taken[s] < stop and (epoch := next(stream, None)) is not None:
                    carried[s].append(epoch)
                    taken[s] += epoch.updates
                pieces.append(self._cut(carried[s], start, stop, taken[s]))
            yield from self._lay_out(pieces, stop - start)

    def _stream(self, split: int, epochs: int) -> Iterator[Epoch]:
        return (self.plans[split].epoch(number) for number in range(epochs))

    @staticmethod
    def _cut(epochs: list[Epoch], start: int, stop: int, taken: int) -> list[tuple[Epoch, IntArray, int]]:
        """The rows of updates start..stop, as (epoch, mask, shift of its update numbers)."""
        first = taken - sum(epoch.updates for epoch in epochs)
        pieces = []
        for epoch in list(epochs):
            number = epoch.update + first - start
            pieces.append((epoch, np.flatnonzero((number >= 0) & (number < stop - start)), first - start))
            first += epoch.updates
            if first <= stop:
                epochs.remove(epoch)
        return pieces

    def _lay_out(self, pieces: Sequence[list[tuple[Epoch, IntArray, int]]], updates: int) -> Iterator[Episodes]:
        columns = []
        widths = np.zeros((updates, len(pieces)), dtype=np.int64)
        for s, parts in enumerate(pieces):
            number = np.concatenate([e.update[rows] + shift for e, rows, shift in parts] or [np.empty(0, np.int64)])
            rows_of = np.bincount(number, minlength=updates)
            widths[:, s] = rows_of
            within = np.arange(len(number)) - (np.cumsum(rows_of) - rows_of)[number]
            columns.append((number, within))
        wide = width_for(int(widths.max(initial=1)))
        where = np.zeros((updates, len(pieces), wide), dtype=np.int64)
        slot = np.full((updates, len(pieces), wide), -1, dtype=np.int64)
        weights = np.zeros((2, updates, len(pieces), wide))
        for s, (parts, (number, within)) in enumerate(zip(pieces, columns, strict=True)):
            for target, values in (
                (where, [self.positions[s][e.order[rows]] for e, rows, _ in parts]),
                (slot, [e.slot[rows] for e, rows, _ in parts]),
                (weights[0], [e.support[rows] for e, rows, _ in parts]),
                (weights[1], [e.query[rows] for e, rows, _ in parts]),
            ):
                if values:
                    target[number, s, within] = np.concatenate(values)
        where_t = torch.from_numpy(where).to(self.device)
        slot_t = torch.from_numpy(slot).to(self.device)
        support_t, query_t = torch.from_numpy(weights).to(self.device, self.dtype)[:, :, :, None]
        number_of = torch.arange(self.slots, device=self.device)[:, None]
        slots = (slot_t[:, :, None] == number_of).to(self.dtype)
        support, query = slots * support_t, slots * query_t
        present = slots.amax(-1) > 0
        for t in range(updates):
            n = width_for(int(widths[t].max()))
            yield Episodes(
                where=where_t[t, :, :n],
                slots=slots[t, :, :, :n],
                support=support[t, :, :, :n],
                query=query[t, :, :, :n],
                present=present[t],
            )


class EpisodicMethod(GradientMethod):
    """A method that meta-learns over episodes: which it draws, and the outer loop.

    Subclasses take the hyper-parameters below in their constructor, under these names.

    epochs: passes over the seen users.
    rate: the outer Adam's step size.
    users_per_update: users that meet in an update.
    query_share: share of a user's groups used as query.
    reduction: "mean" or "sum" over a user's choices.
    clip: largest norm of the outer gradient.
    warmup: share of the updates over which the step size rises, before a cosine to zero.
    """

    epochs: int
    rate: float
    users_per_update: int
    query_share: float
    reduction: Reduction = "mean"
    clip: float
    warmup: float

    @property
    def budget(self) -> int:
        """The number of epochs."""
        return self.epochs

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float:
        """The differences of an average update's choices, forward and backward."""
        updates = max(-(-len(train.users) // self.users_per_update) for train in trains)
        return 2 * embedding_bytes(trains) / updates

    def plan(self, train: Comparisons, rng: Rng) -> EpisodePlan:
        """The episodes this method draws from a split."""
        return EpisodePlan(
            train,
            rng.child("episodes"),
            users_per_update=self.users_per_update,
            query_share=self.query_share,
            reduction=self.reduction,
        )

    def train_on_episodes(
        self,
        work: SplitBatch,
        table: DifferenceTable | PairTable,
        parameters: Mapping[str, Tensor],
        gradients: Callable[[Episodes], Sequence[Tensor]],
    ) -> Iterator[Snapshot]:
        """Adam on `parameters` [S, ...] by the `gradients` of each update; a unit is an epoch.

        Gradients are clipped per split. `table` has the comparisons that episodes point to.
        """
        plans = [self.plan(train, rng) for train, rng in zip(work.trains, work.rngs, strict=True)]
        positions = [table.positions(train) for train in work.trains]
        dtype = next(iter(parameters.values())).dtype
        batches = EpisodeBatches(plans, positions, device=work.device, dtype=dtype)
        per_epoch = np.array([plan.updates for plan in plans])
        trained = [max(units) for units in work.wanted]
        steps = int((per_epoch * trained).max())
        rates = self.rate * warmup_cosine(np.arange(steps)[:, None], per_epoch * self.epochs, warmup=self.warmup)
        adam = StackedAdam(list(parameters.values()), separate=len(set(per_epoch.tolist())) > 1)
        for step, episodes in enumerate(batches.updates(trained), start=1):
            gradient = gradients(episodes)
            clip_per_split(gradient, self.clip)
            adam.step(gradient, rates[step - 1])
            for split in np.flatnonzero(step % per_epoch == 0).tolist():
                epoch = step // int(per_epoch[split])
                if epoch in work.wanted[split]:
                    yield Snapshot(split, epoch, {name: p[split].clone() for name, p in parameters.items()})
            work.tell(1 / steps)
