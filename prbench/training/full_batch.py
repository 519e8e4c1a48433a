"""Full-batch gradients of linear methods over every training choice of every split at once.

The loss of split s is Σ_i c_i [softplus(−m_i) + penalty · ‖f_i‖] with f = scale · Δe·Vᵀ and m = f·mix(w_u), where c_i
is 1/n_u, so that every user's choices together count as one (`count` "users"), or 1/n, the mean over choices
("choices"). Three ways lead to Δe·Vᵀ and back, and the cheapest is taken:

- rows: the differences Δe of every split's own rows, in chunks. A row's gradient needs that row only, so the
  forward and the backward product of a chunk follow one another while the chunk is in cache.
- differences: one matrix product of the distinct comparisons of all splits with all splits' V, of which each split
  takes its own. It computes more than is needed, at a large product's far higher speed.
- items: the same with the distinct items, and differences of the results. Where few items are compared again and
  again, this is a hundred times less work.

Which way is taken follows from a split alone (`cheapest_way`), and so does every bit of what comes out of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.training.compute import PARALLEL_BYTES, free_memory
from prbench.training.linear_bases import Link, mix, mix_backward
from prbench.training.steady import BLOCK, COLUMNS, ROWS, key_blocks, sigmoid, softplus, width_for
from prbench.training.tables import DifferenceTable, Gather, PairTable

if TYPE_CHECKING:
    from torch import Tensor


Way = Literal["rows", "differences", "items"]

# Bytes of differences handled between the two passes: they stay in cache for the second one. Measured on 2 cores
# of an Intel Xeon with AVX-512: 19 GB/s at 32 rows x 20 splits x 4,096 fp32, 14 GB/s at 8 times as much.
CPU_CHUNK_BYTES = 10 * 2**20
GPU_CHUNK_BYTES = 2**30
# What the same machine does: bytes per second by rows, operations per second of a large fp32 product, and seconds
# for taking and putting back one row's projections. Only their ratios matter, for choosing the way.
ROW_BYTES_PER_SECOND = 15e9
PRODUCT_FLOPS = 1.8e11
SECONDS_PER_LOOKUP = 1e-7
# Splits for which the way is chosen, however many there are: a split's way must not depend on the others.
USUAL_SPLITS = 20


class FullBatch:
    """All training rows of all splits, ready for gradients with respect to V and the users' weights.

    `scale` is one number for all splits or one for each; `count` and `penalty` are those of the module's docstring.
    """

    def __init__(
        self,
        trains: Sequence[Comparisons],
        *,
        bases: int,
        scale: float | Sequence[float],
        device: str,
        link: Link = "softmax",
        count: Literal["users", "choices"] = "users",
        penalty: float = 0.0,
    ) -> None:
        self.bases = bases
        self.link = link
        self.penalty = penalty
        splits, width = len(trains), width_for(max(len(train) for train in trains))
        self.users_of = [len(train.users) for train in trains]
        self.users = max(self.users_of)
        owner = np.zeros((splits, width), dtype=np.int64)
        share = np.zeros((splits, width))
        for s, train in enumerate(trains):
            n = len(train)
            owner[s, :n] = np.searchsorted(train.users, train.user)
            share[s, :n] = 1 / n if count == "choices" else 1 / np.bincount(owner[s, :n])[owner[s, :n]]
        self.rows: Projections = make_projections(trains, bases, width, device=device)
        like = self.rows.table
        self.owner = torch.from_numpy(owner).to(device)
        self.share = torch.from_numpy(share).to(device, like.dtype)
        # [1, 1] or [S, 1]: multiplies what every row of a split has.
        self.scale = torch.tensor(scale, dtype=like.dtype, device=device).reshape(-1, 1)

    def start(self, rngs: Sequence[Rng], *, personal: bool) -> tuple[Tensor, Tensor]:
        """V [S, K, d] and logits [S, users, K], both from N(0, 1); logits are zero without personal weights."""
        like = self.rows.table
        shape = (self.bases, like.shape[1])
        v = torch.stack([torch.randn(shape, generator=rng.child("bases").torch()) for rng in rngs])
        w = torch.zeros(len(rngs), self.users, self.bases)
        if personal:
            for split_weights, rng, users in zip(w, rngs, self.users_of, strict=True):
                split_weights[:users] = torch.randn(users, self.bases, generator=rng.child("weights").torch())
        return v.to(like.device, like.dtype), w.to(like.device, like.dtype)

    def gradients(self, bases: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [S] and its gradients with respect to V [S, K, d] and the weights [S, users, K]."""
        mixed = mix(weights, self.link)
        owner = self.owner[:, :, None].expand(-1, -1, self.bases)
        by_row = mixed.gather(1, owner).transpose(1, 2).contiguous()
        base_gradient = torch.zeros_like(bases)
        pulls = torch.empty_like(by_row)
        loss = bases.new_zeros(len(bases))
        for part, projected in self.rows.project(bases):
            mixing, share = by_row[:, :, part], self.share[:, part]
            margin = (projected * mixing).sum(1).mul_(self.scale)
            loss += (softplus(-margin) * share).sum(1)
            pull = sigmoid(-margin).mul_(share).mul_(-self.scale)[:, None]
            torch.mul(projected, pull, out=pulls[:, :, part])
            gradient = mixing * pull
            if self.penalty:
                length = torch.linalg.vector_norm(projected, dim=1).clamp_min_(torch.finfo(projected.dtype).tiny)
                weight = self.penalty * self.scale * share
                loss += (weight * length).sum(1)
                gradient += projected * (weight / length)[:, None]
            self.rows.pull_back(gradient, base_gradient)
        weight_gradient = torch.zeros_like(weights).scatter_add_(1, owner, pulls.transpose(1, 2))
        return loss, base_gradient, mix_backward(weight_gradient, mixed, self.link)

    def feature_size(self, bases: Tensor) -> Tensor:
        """The root of the mean square of a feature's difference, over choices and features, [S]."""
        square = bases.new_zeros(len(bases))
        for part, projected in self.rows.project(bases):
            square += (projected.square().mean(1) * self.share[:, part]).sum(1)
        return square.div_(self.share.sum(1)).sqrt_().mul_(self.scale.expand(len(bases), 1)[:, 0])


class Projections(ABC):
    """One way to Δe·Vᵀ and back.

    `table` is the matrix it reads.
    """

    table: Tensor

    @abstractmethod
    def project(self, bases: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Parts of the rows and V·Δeᵀ [S, K, part] of each."""

    @abstractmethod
    def pull_back(self, gradient: Tensor, into: Tensor) -> None:
        """Add the gradient [S, K, d] from that of the part projected last, [S, K, part], to `into`."""


class ByRows(Projections):
    """Differences of the splits' rows, laid out once where they fit in a quarter of the free memory."""

    def __init__(self, trains: Sequence[Comparisons], width: int, *, device: str) -> None:
        table = DifferenceTable.of(trains, device=device)
        self.table = matrix = table.matrix
        self.where = torch.from_numpy(_padded([table.positions(train) for train in trains], width)).to(device)
        row_bytes = matrix.shape[1] * matrix.element_size()
        budget = GPU_CHUNK_BYTES if matrix.is_cuda else CPU_CHUNK_BYTES
        # Sums over a chunk's rows must not depend on how much padding its end has: see `training.steady`.
        self.chunk = BLOCK if BLOCK * row_bytes * USUAL_SPLITS <= budget else ROWS
        self.gather = Gather(matrix)
        self.ready: list[Tensor] | None = None
        if self.where.numel() * row_bytes < free_memory(device) / 4:
            self.ready = [Gather(matrix)(self.where[:, part]) for part in self._parts()]
        self.current = matrix[:0]

    def project(self, bases: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """See `Projections.project`."""
        for number, part in enumerate(self._parts()):
            self.current = self.ready[number] if self.ready is not None else self.gather(self.where[:, part])
            yield part, torch.bmm(bases, self.current.transpose(1, 2))

    def pull_back(self, gradient: Tensor, into: Tensor) -> None:
        """See `Projections.pull_back`."""
        into.baddbmm_(gradient, self.current)

    def _parts(self) -> Iterator[slice]:
        total = self.where.shape[1]
        return (slice(i, min(i + self.chunk, total)) for i in range(0, total, self.chunk))


class ByTable(Projections):
    """One product of a shared table with all splits' V; each split then takes the entries of its own rows.

    The table holds distinct items, and a row is the entry `plus` less the entry `minus`; or it holds distinct
    comparisons' differences, and `minus` is None. `keys` are the numbers of these items or comparisons in the data.
    """

    def __init__(self, table: Tensor, keys: IntArray, plus: Tensor, minus: Tensor | None) -> None:
        self.table = table
        self.blocks = key_blocks(keys)
        self.splits, self.width = plus.shape
        # A product [table, S·K] read as [table·S, K] has what one split needs of one entry in one row.
        split = torch.arange(self.splits, device=table.device)[:, None]
        self.plus = (plus * self.splits + split).reshape(-1)
        self.minus = None if minus is None else (minus * self.splits + split).reshape(-1)

    @classmethod
    def of_items(cls, trains: Sequence[Comparisons], width: int, *, device: str) -> ByTable:
        """Over the distinct items of the splits' comparisons."""
        table = PairTable.of(trains, device=device)
        where = torch.from_numpy(_padded([table.positions(train) for train in trains], width)).to(device)
        return cls(table.items, table.used, table.chosen[where], table.rejected[where])

    @classmethod
    def of_differences(cls, trains: Sequence[Comparisons], width: int, *, device: str) -> ByTable:
        """Over the differences of the distinct comparisons of all splits."""
        table = DifferenceTable.of(trains, device=device)
        where = torch.from_numpy(_padded([table.positions(train) for train in trains], width)).to(device)
        return cls(table.matrix, table.rows, where, None)

    def project(self, bases: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """See `Projections.project`."""
        k = bases.shape[1]
        entries = (self.table @ self._wide(bases.flatten(0, 1)).T)[:, : self.splits * k].reshape(-1, k)
        rows = entries.index_select(0, self.plus)
        if self.minus is not None:
            rows.sub_(entries.index_select(0, self.minus))
        yield slice(0, self.width), rows.view(self.splits, self.width, k).transpose(1, 2)

    def pull_back(self, gradient: Tensor, into: Tensor) -> None:
        """See `Projections.pull_back`."""
        k = gradient.shape[1]
        rows = gradient.transpose(1, 2).reshape(-1, k)
        by_entry = rows.new_zeros(len(self.table) * self.splits, k).index_add_(0, self.plus, rows)
        if self.minus is not None:
            by_entry.index_add_(0, self.minus, rows, alpha=-1)
        across = self._wide(by_entry.view(len(self.table), -1).T)
        total = across[:, self.blocks[0]] @ self.table[self.blocks[0]]
        for block in self.blocks[1:]:
            total.addmm_(across[:, block], self.table[block])
        into += total[: self.splits * k].view_as(into)

    def _wide(self, rows: Tensor) -> Tensor:
        """`rows` with as many zero rows as a product of a few needs to be made as one of many is."""
        lacking = COLUMNS - len(rows)
        return rows if lacking <= 0 else torch.cat([rows, rows.new_zeros(lacking, rows.shape[1])])


def make_projections(
    trains: Sequence[Comparisons], bases: int, width: int, *, device: str, way: Way | None = None
) -> Projections:
    """The way of these splits, which must have one in common, or the given one; `width` as by `steady.width_for`.

    Raises ValueError where the cheapest ways of the splits differ: see `blocks_by_way`.
    """
    ways = {way} if way else {cheapest_way(train, bases) for train in trains}
    if len(ways) > 1:
        raise ValueError("these splits take different ways: train them apart")
    (taken,) = ways
    if taken == "items":
        return ByTable.of_items(trains, width, device=device)
    if taken == "differences":
        return ByTable.of_differences(trains, width, device=device)
    return ByRows(trains, width, device=device)


def cheapest_way(train: Comparisons, bases: int) -> Way:
    """The cheapest way for a split, if `USUAL_SPLITS` like it were trained together, each on other choices."""
    row_seconds = 2 * train.items.dim * 4 / ROW_BYTES_PER_SECOND
    per_entry = max(row_seconds, 4 * train.items.dim * USUAL_SPLITS * bases / PRODUCT_FLOPS) / USUAL_SPLITS
    lookups = len(train) * SECONDS_PER_LOOKUP
    # All splits together meet most comparisons of the data, whose numbers go at least as far as this split's.
    seconds: dict[Way, float] = {
        "rows": len(train) * row_seconds,
        "differences": (int(train.row.max()) + 1) * per_entry + lookups,
        "items": len(train.items) * per_entry + 2 * lookups,
    }
    return min(seconds, key=seconds.__getitem__)


def divides_splits(train: Comparisons, bases: int) -> bool:
    """Whether threads take different splits like this one; else they share each product of a large table."""
    way = cheapest_way(train, bases)
    entries = len(train.items) if way == "items" else int(train.row.max()) + 1
    size = 2 * entries * train.items.dim * train.items.embedding.element_size()
    return way == "rows" or size < PARALLEL_BYTES


def blocks_by_way(trains: Sequence[Comparisons], bases: int) -> list[list[int]]:
    """The splits that take the same way and divide threads alike, as positions."""
    by_way: dict[tuple[Way, bool], list[int]] = {}
    for i, train in enumerate(trains):
        by_way.setdefault((cheapest_way(train, bases), divides_splits(train, bases)), []).append(i)
    return list(by_way.values())


def _padded(positions: Sequence[IntArray], width: int) -> IntArray:
    out = np.zeros((len(positions), width), dtype=np.int64)
    for row, split_positions in zip(out, positions, strict=True):
        row[: len(split_positions)] = split_positions
    return out
