"""Multi-head attention of stacked networks: S splits' layers, each over its own users' tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from prbench.base.seeds import Rng
from prbench.training.networks import Network, linear

if TYPE_CHECKING:
    from torch import Tensor


def attention_layer(name: str, width: int, rng: Rng) -> Network:
    """Weights of one attention layer as `torch.nn.MultiheadAttention` draws them.

    `NAME.in` makes queries, keys and values together, [3·width, width], from Xavier's uniform distribution for
    that shape; `NAME.out` [width, width] is a linear layer's default; all biases are 0.
    """
    draw = rng.child(name).torch()
    bound = (6 / (4 * width)) ** 0.5
    out = (2 * torch.rand(width, width, generator=draw) - 1) * width**-0.5
    return {
        f"{name}.in.weight": (2 * torch.rand(3 * width, width, generator=draw) - 1) * bound,
        f"{name}.in.bias": torch.zeros(3 * width),
        f"{name}.out.weight": out,
        f"{name}.out.bias": torch.zeros(width),
    }


def attend(
    network: Mapping[str, Tensor],
    name: str,
    x: Tensor,
    source: Tensor,
    mask: Tensor,
    *,
    heads: int,
    keep: Tensor | None = None,
) -> Tensor:
    """The layer `name`: tokens x [S, B, n, width] attend to `source` [S, B, t, width] where `mask` [S, B, t].

    Every user needs a token that is there. `keep` [S, B, heads, n, t], where given, multiplies the attention
    weights: dropout. Returns [S, B, n, width].
    """
    width = x.shape[-1]
    if x is source:
        query, key, value = linear(network, f"{name}.in", x).chunk(3, -1)
    else:
        # Tokens that nobody attends to need a query only.
        weight, bias = network[f"{name}.in.weight"], network[f"{name}.in.bias"]
        query = linear({"q.weight": weight[:, :width], "q.bias": bias[:, :width]}, "q", x)
        both = linear({"kv.weight": weight[:, width:], "kv.bias": bias[:, width:]}, "kv", source)
        key, value = both.chunk(2, -1)
    query, key, value = (
        part.reshape(-1, part.shape[2], heads, width // heads).transpose(1, 2) for part in (query, key, value)
    )
    seen = mask.flatten(0, 1)[:, None, None]
    if keep is None:
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen.expand(-1, 1, query.shape[2], -1))
    else:
        score = (query @ key.transpose(2, 3)) * query.shape[-1] ** -0.5
        mixed = (score.masked_fill(~seen, -torch.inf).softmax(-1) * keep.flatten(0, 1)) @ value
    return linear(network, f"{name}.out", mixed.transpose(1, 2).flatten(2).view_as(x))


def norm_layer(name: str, width: int) -> Network:
    """Weight 1 and bias 0 of a normalisation."""
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def normalised(network: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Layer normalisation of x [S, ..., width] with each split's weight and bias."""
    shape = (len(x), *[1] * (x.dim() - 2), x.shape[-1])
    weight, bias = (network[f"{name}.{kind}"].view(shape) for kind in ("weight", "bias"))
    return torch.addcmul(bias, layer_norm(x, x.shape[-1:]), weight)
