"""Adam over stacked splits, clipping per split, and the warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prbench.comparisons import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor


# Numbers that fill a CPU's vector unit twice, as its loops take them.
LANES = 32


class StackedAdam:
    """torch's Adam, fused where it can be, on parameters [S, ...], with a step size per split where splits need one.

    `separate` keeps the splits apart in the optimiser, which costs time: only splits that follow schedules of
    different lengths need it. `decay` is AdamW's decoupled weight decay or else `penalty` Adam's own, which is added
    to the gradient; `eps` is what is added to the gradients' size.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        separate: bool = False,
        decay: float = 0.0,
        penalty: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.separate = separate
        groups = [list(split) for split in zip(*parameters, strict=True)] if separate else [list(parameters)]
        # torch's fused step rounds the last few numbers of an array otherwise, off the vector unit. Those must not be
        # one split's: a parameter that does not fill the unit is left to the plain step.
        fused = [parameter.is_cuda or parameter[0].numel() % LANES == 0 for parameter in parameters]
        stacks = [
            {"params": [each for each, fast in zip(group, fused, strict=True) if fast is kind], "fused": kind}
            for group in groups
            for kind in (True, False)
        ]
        self.kinds = [[i for i, fast in enumerate(fused) if fast is kind] for kind in (True, False)]
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(stacks, weight_decay=decay, eps=eps)
            if decay
            else torch.optim.Adam(stacks, weight_decay=penalty, eps=eps)
        )

    def step(self, gradients: Sequence[Tensor], rate: float | FloatArray) -> None:
        """One update in place; `rate` is a number, or [S] of which the entries are equal unless `separate`."""
        rates = np.broadcast_to(np.atleast_1d(rate), len(gradients[0]))
        for i, group in enumerate(self.optimiser.param_groups):
            split, kind = divmod(i, 2)
            group["lr"] = float(rates[split])
            for parameter, number in zip(group["params"], self.kinds[kind], strict=True):
                parameter.grad = gradients[number][split] if self.separate else gradients[number]
        self.optimiser.step()


def clip_per_split(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale each split's gradients [S, ...] in place so that their joint norm is at most `largest`."""
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    scale = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)
    for g in gradients:
        g.mul_(scale.view(-1, *([1] * (g.dim() - 1))))


def warmup_cosine(step: IntArray, total: IntArray, *, warmup: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Linear rise over the first `warmup` share of `total` steps, then a cosine to 0; 0 past the end.

    `step` counts from 0; the value is the factor of the step size at that step.
    """
    rise = (warmup * total).astype(np.int64)
    rising = step / np.maximum(1, rise)
    progress = (step - rise) / np.maximum(1, total - rise)
    factor = np.where(step < rise, rising, 0.5 * (1 + np.cos(np.pi * np.clip(progress, 0, 1))))
    return np.where(step < total, factor, 0.0)
