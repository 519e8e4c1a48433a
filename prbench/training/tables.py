"""Rows of the embedding matrix, gathered once for all splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from prbench.comparisons import ROWS_AT_ONCE, Comparisons, IntArray, concatenate
from prbench.training.steady import width_for

if TYPE_CHECKING:
    from torch import Tensor


# The number of a user's choices in an update is a multiple of this: see `training.steady`.
MEMBERS = 8


def without_residue(rows: Tensor) -> Tensor:
    """`rows` with numbers below 1e-30 as 0.

    Encoders have dead coordinates that are 1e-32 instead of 0 (MiniLM's are). A CPU multiplies them into denormal
    numbers, for which it needs many times longer: 12 ms instead of 5 for the largest product of MAML's update.
    """
    return torch.nn.functional.hardshrink(rows, 1e-30)


@dataclass(frozen=True, eq=False)
class DifferenceTable:
    """e(chosen) − e(rejected) of every comparison that any split trains on: [rows, d], formed once."""

    matrix: Tensor
    rows: IntArray

    @classmethod
    def of(cls, trains: Sequence[Comparisons], *, device: str) -> DifferenceTable:
        """The table of the union of the splits' comparisons, in float64 if the embeddings are, else float32."""
        together = concatenate(trains) if len(trains) > 1 else trains[0]
        rows, first = np.unique(together.row, return_index=True)
        dtype = torch.float64 if together.items.embedding.dtype == torch.float64 else torch.float32
        matrix = together.take(first).differences(dtype=dtype).to(device)
        # In place and in blocks: the table may be the largest thing there is.
        for start in range(0, len(matrix), ROWS_AT_ONCE):
            part = matrix[start : start + ROWS_AT_ONCE]
            part.copy_(without_residue(part))
        return cls(matrix, rows)

    def positions(self, comparisons: Comparisons) -> IntArray:
        """Where the comparisons are in the table."""
        return np.searchsorted(self.rows, comparisons.row)


@dataclass(frozen=True, eq=False)
class PairTable:
    """The items that any split trains on, [items, d], for methods that need e(chosen) and e(rejected) apart.

    `used` [items] are their numbers in the data, ascending; `chosen` and `rejected` [rows] point into `items`.
    """

    items: Tensor
    used: IntArray
    rows: IntArray
    chosen: Tensor
    rejected: Tensor

    @classmethod
    def of(cls, trains: Sequence[Comparisons], *, device: str, scale: float = 1.0) -> PairTable:
        """The table of the union of the splits' comparisons; embeddings are multiplied by `scale`."""
        together = concatenate(trains) if len(trains) > 1 else trains[0]
        rows, first = np.unique(together.row, return_index=True)
        together = together.take(first)
        used, place = np.unique(np.stack([together.chosen, together.rejected]), return_inverse=True)
        pair = torch.from_numpy(place.reshape(2, -1)).to(device)
        embedding = together.items.embedding
        dtype = torch.float64 if embedding.dtype == torch.float64 else torch.float32
        items = without_residue(embedding[torch.from_numpy(used)].to(device, dtype) * scale)
        return cls(items, used, rows, pair[0], pair[1])

    def positions(self, comparisons: Comparisons) -> IntArray:
        """Where the comparisons are in the table."""
        return np.searchsorted(self.rows, comparisons.row)

    def prompts(self, trains: Sequence[Comparisons]) -> tuple[Tensor, Tensor] | None:
        """The distinct prompts' embeddings [m, c] and which of them each row has, where there are any."""
        context = trains[0].items.context
        if context is None:
            return None
        item = np.zeros(len(self.rows), dtype=np.int64)
        for train in trains:
            item[self.positions(train)] = train.chosen
        used, place = np.unique(item, return_inverse=True)
        return context[torch.from_numpy(used)].to(self.items), torch.from_numpy(place).to(self.items.device)

    def members(self, where: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The comparisons that count for each user of an update.

        From the update's comparisons `where` [S, R] and their weights [S, B, R], the item rows [S, B, n, 2] (chosen,
        rejected) of those with a weight, and the weights [S, B, n]; zero where padded.
        """
        counts = weight > 0
        n = width_for(int(counts.sum(-1).max()), MEMBERS)
        index = counts.to(torch.uint8).argsort(stable=True, dim=-1, descending=True)[..., :n]
        rows = where[:, None].expand(-1, weight.shape[1], -1).gather(-1, index)
        return torch.stack([self.chosen[rows], self.rejected[rows]], -1), weight.gather(-1, index)


class Gather:
    """Takes rows of a table by index into memory it keeps: fresh pages each time would cost more than the copy."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.buffer = matrix.new_empty(0, matrix.shape[1])

    def __call__(self, where: Tensor) -> Tensor:
        """matrix[where], [*where.shape, d]; valid until the next call."""
        n = where.numel()
        if len(self.buffer) < n:
            self.buffer = self.matrix.new_empty(n + n // 4, self.matrix.shape[1])
        rows = self.buffer[:n]
        torch.index_select(self.matrix, 0, where.reshape(-1), out=rows)
        return rows.view(*where.shape, -1)
