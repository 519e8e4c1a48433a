"""Products with the differences of choices that cost what the fewer of choices and items cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from prbench.comparisons import Comparisons
from prbench.training.linear_bases import root_mean_square

if TYPE_CHECKING:
    from torch import Tensor


class Differences:
    """Δe of n choices, divided by the root of their mean squared length, as a matrix X [n, d] for several heads.

    `length` is that root (1 where all differences are zero), `shape` that of X, `like` a tensor of its type.
    """

    def __init__(self, comparisons: Comparisons, device: str) -> None:
        self.length = root_mean_square(comparisons)
        embedding = comparisons.items.embedding
        dtype = torch.float64 if embedding.dtype == torch.float64 else torch.float32
        used, place = np.unique(np.stack([comparisons.chosen, comparisons.rejected]), return_inverse=True)
        self.shape = (len(comparisons), comparisons.items.dim)
        self.sides: tuple[Tensor, Tensor] | None = None
        if len(used) < len(comparisons):
            # Items recur: each is multiplied once, and differences are taken of the products.
            chosen, rejected = torch.from_numpy(place.reshape(2, -1)).to(device)
            self.sides = chosen, rejected
            table = embedding[torch.from_numpy(used)].to(device, dtype)
        else:
            table = comparisons.differences(dtype=dtype).to(device)
        self.like = table / self.length

    def times(self, heads: Tensor) -> Tensor:
        """X·headsᵀ, [n, K] for heads [K, d]."""
        product = self.like @ heads.T
        if self.sides is None:
            return product
        chosen, rejected = self.sides
        return product[chosen] - product[rejected]

    def pull_back(self, weights: Tensor) -> Tensor:
        """weightsᵀ·X, [K, d] for weights [n, K]."""
        if self.sides is not None:
            chosen, rejected = self.sides
            by_item = weights.new_zeros(len(self.like), weights.shape[1])
            weights = by_item.index_add_(0, chosen, weights).index_add_(0, rejected, weights, alpha=-1)
        return weights.T @ self.like
