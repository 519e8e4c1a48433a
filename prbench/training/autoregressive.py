"""Masked linear layers: networks whose output i sees only the inputs that come before i in an order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from prbench.base.seeds import Rng
from prbench.training.networks import Network, linear, linear_layer

if TYPE_CHECKING:
    from torch import Tensor


def autoregressive_layers(
    name: str, width: int, context: int, hidden: Sequence[int], rng: Rng, *, bias: bool = True
) -> Network:
    """Layers `name`.0, ... from `width` inputs and `context` numbers that all outputs see, to `width` outputs."""
    sizes = [width + context, *hidden, width]
    network: Network = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        network |= linear_layer(f"{name}.{i}", inputs, outputs, rng, bias=bias)
    return network


def autoregressive_masks(rank: Tensor, context: int, hidden: Sequence[int]) -> list[Tensor]:
    """1 where a weight stays and 0 where it is cut, for each layer of `autoregressive_layers` (Germain et al. 2015).

    `rank` [width] is a permutation of 1..width: output i sees the context and the inputs of lower rank. Hidden units
    have ranks spread evenly over 0..width − 1, and see what has no higher rank.
    """
    width = len(rank)
    below = torch.cat([rank, torch.zeros(context, dtype=rank.dtype)])
    masks = []
    for size in hidden:
        degree = torch.arange(size) * width // size
        masks.append(degree[:, None] >= below)
        below = degree
    masks.append(rank[:, None] > below)
    return [mask.float() for mask in masks]


def autoregressive(
    network: Mapping[str, Tensor], name: str, count: int, x: Tensor, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """The outputs [S, ..., width] for inputs and context side by side in x; weights have been cut by their masks."""
    for i in range(count):
        x = linear(network, f"{name}.{i}", activation(x) if i else x)
    return x
