"""What methods that learn items by heart share: where items recur, and rows of a table by the items' numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from prbench.base.errors import InputError
from prbench.comparisons import Comparisons, Items

if TYPE_CHECKING:
    from torch import Tensor

# Below this share of comparisons with an item that others know too, a test item could hardly have been trained on.
RECURRING = 0.1


def lack_of_recurrence(data: Comparisons) -> str | None:
    """Why items cannot be learned by heart on `data`, or None where they recur.

    They do where at least one comparison in ten has an item that also occurs with another user or in another group
    (the unit that no split divides).
    """
    if data.items.identity is None:
        return "it is not known which items are the same"
    identity = data.items.identity.numpy()
    _, unit = np.unique(np.stack([data.user, data.group]), axis=1, return_inverse=True)
    pair = np.stack([identity[data.chosen], identity[data.rejected]])
    known = np.unique(np.stack([pair.ravel(), np.tile(unit.ravel(), 2)]), axis=1)[0]
    item, units = np.unique(known, return_counts=True)
    share = float(np.isin(pair, item[units > 1]).any(0).mean()) if len(data) else 0.0
    if share >= RECURRING:
        return None
    return f"items do not recur: {share:.0%} of the comparisons have an item of another user or group"


def identity_of(items: Items) -> Tensor:
    """The numbers of the items, [m]. Raises InputError where it is not known which are the same."""
    if items.identity is None:
        raise InputError(
            "it is not known which items these are",
            hint="items learned by heart are scored only in the data set that the method was fitted on",
        )
    return items.identity


def rows_of(table: Tensor, items: Items) -> Tensor:
    """The rows of `table` [n, ...] that belong to the items, [m, ...]; zeros for items beyond it."""
    identity = identity_of(items)
    known = (identity >= 0) & (identity < len(table))
    rows = table[identity.where(known, 0)]
    return rows * known.view(-1, *[1] * (rows.dim() - 1)).to(rows.dtype)
