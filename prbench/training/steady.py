"""Operations that round a split's numbers alike whatever other splits are trained beside it.

A cell's key does not say which splits shared its training, so these must not change a bit. Two things could:

- Other shapes. A matrix product takes other kernels where it is narrow, and sums over more than about 190 rows in
  blocks whose limits depend on their number. Here widths are multiples of `ROWS`, shared products have at least
  `COLUMNS` columns, and sums over rows are made `BLOCK` rows at a time, each block's rows in their own order. What is
  then added for other splits or as padding is zero and leaves every sum as it is.
- Another place in memory. The last numbers of an array do not pass the vector unit, and torch's sigmoid and softplus
  round otherwise there. Those of this module are made of exp and log1p, which do not.

Measured on AVX-512 (Zen 4) with MKL, float32, K = 1 to 32 columns, 1 to 4,096 dimensions and up to 2,048 rows.
`prbench check` tests the outcome for every method, on the machine it runs on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from prbench.comparisons import IntArray

ROWS = 64
BLOCK = 128
COLUMNS = 16


def width_for(rows: int, step: int = ROWS) -> int:
    """The smallest multiple of `step` with room for `rows`, at least one."""
    return max(1, -(-rows // step)) * step


def blocks(rows: int) -> Iterator[slice]:
    """Slices of up to `BLOCK` of `rows` rows."""
    return (slice(i, min(i + BLOCK, rows)) for i in range(0, rows, BLOCK))


def key_blocks(keys: IntArray) -> list[slice]:
    """Slices of a table whose rows have the ascending numbers `keys`, cut at every multiple of `BLOCK`.

    Where a row of the table lies depends on the others in it; the block that its number falls into does not.
    """
    cuts = np.flatnonzero(np.diff(keys // BLOCK)) + 1
    return [slice(int(i), int(j)) for i, j in zip([0, *cuts], [*cuts, len(keys)], strict=True)]


def project(vectors: Tensor, rows: Tensor) -> Tensor:
    """vectors [S, K, d] · rowsᵀ [S, d, R], as [S, K, R]; its gradients sum over rows as `pull_back` does."""
    return torch.cat([torch.bmm(vectors, rows[:, part].transpose(1, 2)) for part in blocks(rows.shape[1])], 2)


def pull_back(weights: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Σ_r weights[:, :, r] · rows[:, r]: [S, K, d] from weights [S, K, R] and rows [S, R, d], written to `out`."""
    first, *others = blocks(rows.shape[1])
    total = torch.bmm(weights[:, :, first], rows[:, first], out=out)
    for part in others:
        total.baddbmm_(weights[:, :, part], rows[:, part])
    return total


def sigmoid(x: Tensor) -> Tensor:
    """1/(1 + e⁻ˣ), differentiable once."""
    out: Tensor = _Sigmoid.apply(x) if x.requires_grad else _sigmoid(x)  # type: ignore[no-untyped-call]
    return out


def softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ), differentiable once."""
    out: Tensor = _Softplus.apply(x) if x.requires_grad else _softplus(x)  # type: ignore[no-untyped-call]
    return out


def _sigmoid(x: Tensor) -> Tensor:
    # For x far below 0 the exponential is infinite and the quotient the right 0.
    return x.neg().exp_().add_(1).reciprocal_()


def _softplus(x: Tensor) -> Tensor:
    return torch.add(x.abs().neg_().exp_().log1p_(), x.clamp_min(0))


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = _sigmoid(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        by_x: Tensor = gradients[0] * out * (1 - out)
        return by_x


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _softplus(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] * _sigmoid(x)
