"""An open data set on its way to other machines: the embeddings as arrays, which the workers of a node share.

Ray keeps the arrays of an object once on each node, and workers see the same memory; so the embeddings are for
reading alone. Everything else of a data set is small, and each worker has its own.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prbench.comparisons import Comparisons, Items

if TYPE_CHECKING:
    from prbench.running.open_dataset import OpenDataset

COLUMNS = ("embedding", "reward", "head", "length", "identity", "context")


@dataclass(frozen=True)
class Shipment:
    """A data set without its embeddings and what is known of it, and the columns of its items by name.

    `context` counts the leading columns of the embeddings that are those of the context alone; None where there are
    none, or where they are a column of their own.
    """

    rest: tuple[OpenDataset, dict[str, Any]]
    columns: dict[str, np.ndarray[Any, Any]]
    context: int | None = None

    @property
    def size(self) -> int:
        """The bytes of the arrays."""
        return sum(column.nbytes for column in self.columns.values())


def packed(setting: OpenDataset, comparisons: Comparisons) -> Shipment:
    """An open data set with its comparisons; those that a judge model reads have none to send."""
    items = comparisons.items
    columns = {name: column for name in COLUMNS if (column := getattr(items, name)) is not None}
    context = None
    if items.context is not None and _begins(items.context, items.embedding):
        context = items.context.shape[1]
        del columns["context"]
    data = setting.data
    if data.embedded is not None and _same(data.embedded.embedding, items.embedding):
        # The data's own embeddings are the comparisons': once is enough.
        data = replace(data, embedded=replace(data.embedded, embedding=torch.empty(len(items), 0)))
    alone = replace(setting, data=data, _comparisons=None)
    # What follows from the data is worked out once: to work it out again would need the embeddings.
    known = {
        "properties": setting.properties,
        "fingerprint": setting.data.fingerprint,
        "same_item": setting.data.same_item,
    }
    arrays = {name: np.ascontiguousarray(column.detach().cpu().numpy()) for name, column in columns.items()}
    return Shipment((alone, known), arrays, context)


def unpacked(shipment: Shipment, device: str) -> OpenDataset:
    """The data set, open, with its comparisons in the memory that it came in; methods compute on `device`."""
    # The arrays in it came for reading alone too, which torch warns of.
    setting, known = copy.deepcopy(shipment.rest)
    tensors = {name: _reading(column) for name, column in shipment.columns.items()}
    embedding = tensors["embedding"]
    context = tensors.pop("context", None) if shipment.context is None else embedding[:, : shipment.context]
    items = Items(**tensors, context=context, text=setting.data.text)
    data = setting.data
    if data.embedded is not None:
        data = replace(data, embedded=replace(data.embedded, embedding=embedding))
    data.__dict__.update(fingerprint=known["fingerprint"], same_item=known["same_item"])
    opened: OpenDataset = replace(setting, data=data, device=device, _comparisons=data.comparisons(items))
    opened.__dict__["properties"] = known["properties"]
    return opened


def _reading(column: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor in the memory of an array; the embeddings' must not be written to, others are copied."""
    if column.ndim < 2:
        return torch.from_numpy(column.copy())
    with warnings.catch_warnings():
        # It says that writing would not be noticed.
        warnings.simplefilter("ignore")
        return torch.from_numpy(column)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.data_ptr() == b.data_ptr()


def _begins(context: torch.Tensor, embedding: torch.Tensor) -> bool:
    """Whether the context's columns are the leading ones of the embeddings."""
    return bool(torch.equal(context, embedding[:, : context.shape[1]]))
