"""Ridge logistic regression of many users at once, each on the user's own comparisons.

A user's solution is a combination of the user's differences Δe. With Δeᵀ = Q·Rᵀ (thin QR), Q [d, p] and R [n, p],
p = min(n, d), the problem in d dimensions becomes one in p: users have few comparisons and d is large. Users of
similar n are solved together by Newton's method on padded batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import softplus

from prbench.comparisons import Comparisons, IntArray

if TYPE_CHECKING:
    from torch import Tensor


# Bytes of differences of the users solved together.
BLOCK_BYTES = 64 * 2**20
# Newton stops where no entry of the gradient is larger, for differences of unit mean squared length.
TOLERANCE = 1e-9
ITERATIONS = 100
HALVINGS = 40


@dataclass(frozen=True, eq=False)
class Block:
    """b users with up to n comparisons each.

    `users` [b] are positions among all users, `where` [b, n] those of their comparisons among all, `present` [b, n]
    tells comparisons from padding, `factor` is R [b, n, p] and `basis` Q [b, d, p].
    """

    users: Tensor
    where: Tensor
    present: Tensor
    factor: Tensor
    basis: Tensor


class UserRidge:
    """argmin_w Σ_i softplus(−(b_i + x_i·w)) + ½ strength ‖w‖² for every user, x_i the user's rows.

    `rows` [n, d] are differences divided by a common length, `owner` [n] the position of the user of each.
    """

    def __init__(self, rows: Tensor, owner: IntArray, users: int) -> None:
        self.users = users
        self.width = rows.shape[1]
        count = np.bincount(owner, minlength=users)
        order = np.argsort(owner, kind="stable")
        first = np.cumsum(count) - count
        self.blocks: list[Block] = []
        for mine in _blocks(count, self.width):
            n = int(count[mine].max())
            place = np.arange(n)[None]
            present = place < count[mine][:, None]
            where = order[np.where(present, first[mine][:, None] + place, 0)]
            known = torch.from_numpy(present).to(rows.device)
            index = torch.from_numpy(where).to(rows.device)
            x = rows[index].double() * known[:, :, None]
            basis, factor = torch.linalg.qr(x.transpose(1, 2))
            self.blocks.append(
                Block(
                    torch.from_numpy(mine).to(rows.device),
                    index,
                    known.double(),
                    factor.transpose(1, 2).contiguous(),
                    basis,
                )
            )

    def start(self) -> list[Tensor]:
        """Coordinates of w = 0, [b, p] per block."""
        return [block.factor.new_zeros(block.factor.shape[0], block.factor.shape[2]) for block in self.blocks]

    def solve(self, base: Tensor, strength: float, start: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Coordinates of the minimisers, from those in `start`, and the margins b_i + x_i·w there, [n].

        `base` [n] holds b. Raises ArithmeticError where Newton's method does not converge.
        """
        margins = torch.zeros_like(base)
        coordinates = []
        for block, z in zip(self.blocks, start, strict=True):
            offset = base[block.where]
            solved = _newton(block, offset, strength, z)
            coordinates.append(solved)
            present = block.present > 0
            margins[block.where[present]] = (offset + _times(block.factor, solved))[present]
        return coordinates, margins

    def vectors(self, coordinates: list[Tensor]) -> Tensor:
        """w of every user, [users, d]; zero for users without comparisons."""
        out = torch.zeros(self.users, self.width, dtype=torch.float64)
        for block, z in zip(self.blocks, coordinates, strict=True):
            out[block.users.cpu()] = _times(block.basis, z).cpu()
        return out


def _blocks(count: IntArray, width: int) -> list[IntArray]:
    """Users with comparisons, those of similar number together, within `BLOCK_BYTES`."""
    blocks: list[list[int]] = []
    size = 0
    for user in np.argsort(-count, kind="stable"):
        if not count[user]:
            break
        # The first user of a block has the most comparisons: the others are padded to it.
        if not blocks or (len(blocks[-1]) + 1) * size * width * 8 > BLOCK_BYTES or 2 * count[user] < size:
            blocks.append([])
            size = int(count[user])
        blocks[-1].append(int(user))
    return [np.array(block, dtype=np.int64) for block in blocks]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.matmul(matrix, vector[:, :, None])[:, :, 0]


def _newton(block: Block, base: Tensor, strength: float, z: Tensor) -> Tensor:
    r = block.factor
    transposed = r.transpose(1, 2)
    margin = base + _times(r, z)

    def objective(margin: Tensor, z: Tensor) -> Tensor:
        return (softplus(-margin) * block.present).sum(1) + 0.5 * strength * z.square().sum(1)

    value = objective(margin, z)
    for _ in range(ITERATIONS):
        pull = torch.sigmoid(-margin) * block.present
        gradient = strength * z - _times(transposed, pull)
        if float(gradient.abs().max()) <= TOLERANCE * max(1.0, strength):
            return z
        bend = pull * torch.sigmoid(margin)
        hessian = torch.matmul(transposed * bend[:, None], r)
        hessian.diagonal(dim1=1, dim2=2).add_(strength)
        step = torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hessian))[:, :, 0]
        along = _times(r, step)
        length = torch.ones_like(value)
        for _ in range(HALVINGS):
            trial = margin - length[:, None] * along, z - length[:, None] * step
            reached = objective(*trial)
            # Close to the minimum the objective cannot tell a good step from rounding.
            worse = reached > value + 1e-12 * (1 + value.abs())
            if not bool(worse.any()):
                break
            length = torch.where(worse, 0.5 * length, length)
        (margin, z), value = trial, reached
    raise ArithmeticError(f"Newton's method did not converge in {ITERATIONS} steps at strength {strength:g}")


def unit_rows(comparisons: Comparisons, device: str) -> tuple[Tensor, float]:
    """Differences [n, d] divided by their root mean squared length, and that length (1 where all are zero)."""
    rows = comparisons.differences().to(device)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    length = float(rows.square().sum(1).mean().sqrt()) if len(rows) else 0.0
    return rows.div_(length or 1.0), length or 1.0
