"""Context and target choices: what methods that read a user's choices as input are trained on.

Drawn per split and epoch from the split's own stream. In an epoch every seen user is met once; each time, some of
the user's choices are shown as context and others are to be predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray

if TYPE_CHECKING:
    from torch import Tensor


class UserDraw(NamedTuple):
    """One user in one update: positions of the context and of the target choices in the split's comparisons."""

    context: IntArray
    target: IntArray


class ContextPlan:
    """Draws the meetings of one split.

    Users are shuffled in every epoch and taken `users_per_update` at a time. A user with n choices shows between
    `contexts[0]` and `contexts[1]` of them, evenly drawn but at most n − 1, and is asked for up to `targets` of the
    others (0: all others). With probability `cold_share` nothing is shown, so that zero shots are learned too.
    """

    def __init__(
        self,
        train: Comparisons,
        rng: Rng,
        *,
        users_per_update: int,
        contexts: tuple[int, int],
        targets: int = 0,
        cold_share: float = 0.0,
    ) -> None:
        self.rng = rng
        self.users_per_update = users_per_update
        self.contexts = contexts
        self.targets = targets
        self.cold_share = cold_share
        order = np.argsort(train.user, kind="stable")
        _, starts = np.unique(train.user[order], return_index=True)
        self.rows_of = np.split(order, starts[1:])

    @property
    def updates(self) -> int:
        """Updates per epoch; the last may have fewer users."""
        return -(-len(self.rows_of) // self.users_per_update)

    def choices_per_update(self, most: int) -> float:
        """How many choices an update reads, averaged over the first epoch; of a user at most `most`."""
        met = [meeting for update in self.epoch(0) for meeting in update]
        return sum(min(most, len(meeting.context) + len(meeting.target)) for meeting in met) / self.updates

    def epoch(self, number: int) -> list[list[UserDraw]]:
        """The updates of the epoch with this number, the same whenever it is asked for."""
        draw = self.rng.child("epoch", number).numpy()
        met = [self._meet(self.rows_of[user], draw) for user in draw.permutation(len(self.rows_of))]
        return [met[i : i + self.users_per_update] for i in range(0, len(met), self.users_per_update)]

    def _meet(self, rows: IntArray, draw: np.random.Generator) -> UserDraw:
        shuffled = draw.permutation(rows)
        low, high = (min(size, len(rows) - 1) for size in self.contexts)
        shown = int(draw.integers(low, high + 1))
        if draw.random() < self.cold_share:
            shown = 0
        asked = len(rows) if self.targets == 0 else shown + self.targets
        return UserDraw(shuffled[:shown], shuffled[shown:asked])


class ContextBatch(NamedTuple):
    """One update of S splits with up to B users each, n context and m target choices.

    `context` [S, B, n] and `target` [S, B, m] are rows of the table of choices, 0 where padded; `shown` and `asked`,
    of the same shapes, are 1 where there is a choice and 0 where there is none.
    """

    context: Tensor
    shown: Tensor
    target: Tensor
    asked: Tensor

    def together(self, most: int) -> tuple[Tensor, Tensor]:
        """Up to `most` choices of each user in one array: rows [S, B, n] and roles [S, B, n].

        A user's context comes first (role 1), then its targets (−1), then padding (0): with context and targets
        of varying numbers, this pads least.
        """
        role = torch.cat([self.shown, -self.asked], -1)
        order = role.abs().argsort(dim=-1, descending=True, stable=True)[..., :most]
        return torch.cat([self.context, self.target], -1).gather(-1, order), role.gather(-1, order)


def context_batches(
    plans: Sequence[ContextPlan],
    positions: Sequence[IntArray],
    epochs: Sequence[int],
    *,
    device: str,
    dtype: torch.dtype,
) -> Iterator[ContextBatch]:
    """The updates of all splits side by side, `epochs[s]` epochs of split s; a split past its last has no users.

    `positions[s]` [n] says where the comparisons of split s are in the table of choices.
    """
    streams = [_updates(plan, last) for plan, last in zip(plans, epochs, strict=True)]
    slots = max(plan.users_per_update for plan in plans)
    nobody: list[UserDraw] = []
    for _ in range(max(plan.updates * last for plan, last in zip(plans, epochs, strict=True))):
        updates = [next(stream, nobody) for stream in streams]
        context, shown = _padded([[meeting.context for meeting in update] for update in updates], positions, slots)
        target, asked = _padded([[meeting.target for meeting in update] for update in updates], positions, slots)
        yield ContextBatch(
            torch.from_numpy(context).to(device),
            torch.from_numpy(shown).to(device, dtype),
            torch.from_numpy(target).to(device),
            torch.from_numpy(asked).to(device, dtype),
        )


def sampled(support: Comparisons, limit: int, rng: Rng) -> tuple[Comparisons, IntArray]:
    """Up to `limit` choices of each user (0: all), users together, and the place of each among its user's, [n].

    Of more, a random subset is taken, drawn from a stream of the user's own whatever order the choices come in.
    """
    support = support.take(np.lexsort((support.row, support.user)))
    parts = []
    for mine in np.split(np.arange(len(support)), np.flatnonzero(np.diff(support.user)) + 1):
        if limit and len(mine) > limit:
            draw = rng.child("user", int(support.user[mine[0]])).numpy()
            mine = np.sort(draw.choice(mine, limit, replace=False))
        parts.append(mine)
    return support.take(np.concatenate(parts)), np.concatenate([np.arange(len(mine)) for mine in parts])


def _updates(plan: ContextPlan, epochs: int) -> Iterator[list[UserDraw]]:
    for number in range(epochs):
        yield from plan.epoch(number)


def _padded(
    rows: Sequence[Sequence[IntArray]], positions: Sequence[IntArray], slots: int
) -> tuple[IntArray, IntArray]:
    width = max([1, *(len(slot_rows) for update in rows for slot_rows in update)])
    where = np.zeros((len(rows), slots, width), dtype=np.int64)
    mask = np.zeros_like(where)
    for s, update in enumerate(rows):
        for b, slot_rows in enumerate(update):
            where[s, b, : len(slot_rows)] = positions[s][slot_rows]
            mask[s, b, : len(slot_rows)] = 1
    return where, mask
