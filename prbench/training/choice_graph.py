"""The graph of who chose and who rejected which item, and messages along its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array

from prbench.comparisons import IntArray

if TYPE_CHECKING:
    from torch import Tensor


class Edges(NamedTuple):
    """Normalised edges of one kind between users and items, and the same from the items' side.

    `by_item` says where the edges of the second lie among those of the first.
    """

    from_users: Tensor
    from_items: Tensor
    by_item: Tensor

    def thinned(self, share: float, draw: torch.Generator) -> Edges:
        """Edges without a `share` of them, drawn; the others grow to make up for it."""
        if not share:
            return self
        values = self.from_users.values()
        kept = (torch.rand(len(values), generator=draw) >= share).to(values) / (1 - share)
        return Edges(
            _with_values(self.from_users, values * kept),
            _with_values(self.from_items, (values * kept)[self.by_item]),
            self.by_item,
        )


def make_edges(user: IntArray, item: IntArray, shape: tuple[int, int], device: str) -> Edges:
    """The edges between `user` [n] and `item` [n], each divided by √(degree of the user · degree of the item).

    A choice that a user made twice is an edge of weight 2, as in the published code.
    """
    matrix = csr_array((np.ones(len(user)), (user, item)), shape=shape)
    matrix.sum_duplicates()
    of_user, of_item = np.maximum(matrix.sum(1), 1), np.maximum(matrix.sum(0), 1)
    row, column = matrix.nonzero()
    matrix.data = matrix.data / np.sqrt(of_user[row] * of_item[column])
    order = np.lexsort((row, column))
    turned = csr_array((matrix.data[order], (column[order], row[order])), shape=shape[::-1])
    return Edges(_sparse(matrix, device), _sparse(turned, device), torch.from_numpy(order).to(device))


def _sparse(matrix: Any, device: str) -> Tensor:
    places = torch.from_numpy(np.stack(matrix.nonzero()).astype(np.int64)).to(device)
    values = torch.from_numpy(np.asarray(matrix.data)).float().to(device)
    return torch.sparse_coo_tensor(places, values, matrix.shape, is_coalesced=True, check_invariants=False)


def _with_values(matrix: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(matrix.indices(), values, matrix.shape, is_coalesced=True, check_invariants=False)


def passed(edges: Edges, vectors: Tensor, *, to_users: bool) -> Tensor:
    """The sums of the neighbours' vectors, weighted by the edges: [users, width] from the items' or the reverse."""
    forth, back = (edges.from_users, edges.from_items) if to_users else (edges.from_items, edges.from_users)
    out: Tensor = _Pass.apply(vectors, forth, back)  # type: ignore[no-untyped-call]
    return out


class _Pass(torch.autograd.Function):
    """there · x, whose gradient is back · gradient: torch's own would need the sparse matrix's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forth: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return forth @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back @ gradients[0].contiguous(), None, None
