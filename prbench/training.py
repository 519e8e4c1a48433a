"""The batched training engine: all splits of a method are trained together.

Splits of one data set share most of their comparisons and all of their embeddings. A linear method sees an
embedding only through e(chosen) − e(rejected), so these differences are formed once for all splits; parameters
carry a leading split dimension [S, ...]; one pass over memory and one optimiser update serve every split. What
each split computes does not depend on which others are beside it, up to floating-point rounding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from prbench.comparisons import Comparisons, FloatArray, IntArray, concatenate
from prbench.method import FitProblem, Method, UserStates, Watch
from prbench.seeds import Rng

if TYPE_CHECKING:
    from torch import Tensor

# Updates that touch less than this run on one thread. On 2 cores with another program on them, 2 threads took 60 ms
# for a small update that one thread makes in 1 ms.
PARALLEL_BYTES = 4 * 2**20

Precision = Literal["highest", "high", "medium"]

CANDIDATES = 20
"""How many moments of its training each gradient method may choose from: the same for all of them."""


class Snapshot(NamedTuple):
    """The parameters of one split after `unit` epochs (or steps) of training."""

    split: int
    unit: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Work:
    """Splits to train together.

    Split i trains on `trains[i]`, draws from `rngs[i]`, and ends with the last of the units `wanted[i]`, after each
    of which its parameters are wanted. `watch` is told the share of the longest split's work as it gets done.
    """

    trains: Sequence[Comparisons]
    rngs: Sequence[Rng]
    wanted: Sequence[Collection[int]]
    device: str = "cpu"
    watch: Watch | None = None

    def tell(self, share: float) -> None:
        """Report progress."""
        if self.watch:
            self.watch(share)


class GradientMethod(Method):
    """A method trained by gradient steps through the engine.

    A subclass gives its budget (`budget`), its training (`train_splits`) and what to do with the outcome
    (`accept`). Choosing when to stop is the same for all: up to `CANDIDATES` moments, spaced geometrically, are
    judged by the accuracy on held-out choices of the seen users; then the method is trained again on all of
    the seen users' choices up to the best one.
    """

    _record: dict[str, Any]

    @property
    @abstractmethod
    def budget(self) -> int:
        """How many epochs (or full-batch steps) the recipe trains."""

    @abstractmethod
    def train_splits(self, work: Work) -> Iterator[Snapshot]:
        """Train all splits with this method's hyper-parameters; yield the wanted parameters as they are reached.

        This method itself stays as it is.
        """

    @abstractmethod
    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take trained parameters and adapt to the users of `train`."""

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """Fit one split; see `Method.fit_seen`."""
        type(self).fit_splits([self], [FitProblem(train, validation, rng)], device=device)
        return self

    @classmethod
    def fit_splits(
        cls,
        methods: Sequence[Self],
        problems: Sequence[FitProblem],
        *,
        device: str = "cpu",
        watch: Watch | None = None,
    ) -> None:
        """Fit all splits together; see `Method.fit_splits`. All methods have the same hyper-parameters.

        With validation data a candidate is chosen on them and training is done again on everything; with the
        problems' own `choose` the chosen candidate itself is kept; with neither, the whole budget is trained.
        """
        rngs = [problem.rng for problem in problems]
        rules = {"test-oracle" if p.choose else "validation" if len(p.validation) else "last" for p in problems}
        if len(rules) > 1:
            raise ValueError(f"the splits of a method must be fitted by one rule, not {' and '.join(sorted(rules))}")
        (rule,) = rules
        curves: list[dict[str, float]] = [{} for _ in methods]
        if rule == "last":
            best, half = [method.budget for method in methods], watch
        else:
            half = None if watch is None else (lambda share: watch(share / 2))
            best, curves, kept = cls._choose(methods, problems, device=device, watch=half)
        if rule == "test-oracle":
            trains, snapshots = [problem.train for problem in problems], iter(kept)
            Work(trains, rngs, [], watch=half).tell(1.0)
        else:
            trains = [concatenate([p.train, p.validation]) for p in problems]
            snapshots = methods[0].train_splits(Work(trains, rngs, [{unit} for unit in best], device, half))
        for i, unit, tensors in snapshots:
            methods[i].accept(tensors, trains[i], rngs[i])
            methods[i]._record = {"rule": rule, "chosen": unit, **({"curve": curves[i]} if curves[i] else {})}

    @classmethod
    def _choose(
        cls, methods: Sequence[Self], problems: Sequence[FitProblem], *, device: str, watch: Watch | None
    ) -> tuple[list[int], list[dict[str, float]], list[Snapshot]]:
        """For each split the best unit, the value of every candidate, and the best one's parameters."""
        trains, rngs = [p.train for p in problems], [p.rng for p in problems]
        work = Work(trains, rngs, [candidates(method.budget) for method in methods], device, watch)
        curves: list[dict[str, float]] = [{} for _ in methods]
        kept: dict[int, Snapshot] = {}
        for snapshot in methods[0].train_splits(work):
            i = snapshot.split
            candidate = methods[i].fresh().accept(snapshot.tensors, trains[i], rngs[i])
            choose = problems[i].choose
            value = choose(candidate) if choose else validation_accuracy(candidate, problems[i].validation)
            if i not in kept or value > max(curves[i].values()):
                kept[i] = snapshot
            curves[i][str(snapshot.unit)] = value
        snapshots = [kept[i] for i in range(len(methods))]
        return [snapshot.unit for snapshot in snapshots], curves, snapshots

    def fit_record(self) -> dict[str, Any]:
        """The rule that ended the training, the chosen epoch or step, and the judged candidates."""
        return getattr(self, "_record", {})


def candidates(budget: int) -> list[int]:
    """Up to `CANDIDATES` units from 1 to `budget`, spaced geometrically: overfitting sets in early."""
    return sorted({round(unit) for unit in np.geomspace(1, budget, CANDIDATES)})


def validation_accuracy(method: Method, validation: Comparisons) -> float:
    """Mean over users of the share of their held-out choices predicted; a tie counts one half."""
    return user_accuracy(method.margins(method.seen_users(), validation), validation.user)


def user_accuracy(margin: Tensor, user: IntArray) -> float:
    """Mean over users of the mean over their comparisons of [margin > 0], ties one half."""
    right = (margin.numpy() > 0) + 0.5 * (margin.numpy() == 0)
    _, number = np.unique(user, return_inverse=True)
    return float((np.bincount(number, right) / np.bincount(number)).mean())


def without_residue(rows: Tensor) -> Tensor:
    """`rows` with numbers below 1e-30 as 0.

    Encoders have dead coordinates that are 1e-32 instead of 0 (MiniLM's are). A CPU multiplies them into denormal
    numbers, for which it needs many times longer: 12 ms instead of 5 for the largest product of MAML's update.
    """
    return torch.nn.functional.hardshrink(rows, 1e-30)


@dataclass(frozen=True, eq=False)
class DifferenceTable:
    """e(chosen) − e(rejected) of every comparison that any split trains on: [rows, d], formed once."""

    matrix: Tensor
    rows: IntArray

    @classmethod
    def of(cls, trains: Sequence[Comparisons], *, device: str) -> DifferenceTable:
        """The table of the union of the splits' comparisons, in float64 if the embeddings are, else float32."""
        together = concatenate(trains) if len(trains) > 1 else trains[0]
        rows, first = np.unique(together.row, return_index=True)
        dtype = torch.float64 if together.items.embedding.dtype == torch.float64 else torch.float32
        return cls(without_residue(together.take(first).differences(dtype=dtype).to(device)), rows)

    def positions(self, comparisons: Comparisons) -> IntArray:
        """Where the comparisons are in the table."""
        return np.searchsorted(self.rows, comparisons.row)


@dataclass(frozen=True, eq=False)
class PairTable:
    """The items that any split trains on, [items, d], for methods that need e(chosen) and e(rejected) apart."""

    items: Tensor
    rows: IntArray
    chosen: Tensor
    rejected: Tensor

    @classmethod
    def of(cls, trains: Sequence[Comparisons], *, device: str, scale: float = 1.0) -> PairTable:
        """The table of the union of the splits' comparisons; embeddings are multiplied by `scale`."""
        together = concatenate(trains) if len(trains) > 1 else trains[0]
        rows, first = np.unique(together.row, return_index=True)
        together = together.take(first)
        used, place = np.unique(np.stack([together.chosen, together.rejected]), return_inverse=True)
        pair = torch.from_numpy(place.reshape(2, -1)).to(device)
        embedding = together.items.embedding
        dtype = torch.float64 if embedding.dtype == torch.float64 else torch.float32
        items = without_residue(embedding[torch.from_numpy(used)].to(device, dtype) * scale)
        return cls(items, rows, pair[0], pair[1])

    def positions(self, comparisons: Comparisons) -> IntArray:
        """Where the comparisons are in the table."""
        return np.searchsorted(self.rows, comparisons.row)

    def members(self, where: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The comparisons that count for each user of an update.

        From the update's comparisons `where` [S, R] and their weights [S, B, R], the item rows [S, B, n, 2] (chosen,
        rejected) of those with a weight, and the weights [S, B, n]; zero where padded.
        """
        counts = weight > 0
        n = max(1, int(counts.sum(-1).max()))
        index = counts.to(torch.uint8).argsort(stable=True, dim=-1, descending=True)[..., :n]
        rows = where[:, None].expand(-1, weight.shape[1], -1).gather(-1, index)
        return torch.stack([self.chosen[rows], self.rejected[rows]], -1), weight.gather(-1, index)


@contextmanager
def threads_for(bytes_per_update: float) -> Iterator[None]:
    """One CPU thread while updates touch little memory: waking a second one would then cost more than it saves."""
    before = torch.get_num_threads()
    if bytes_per_update < PARALLEL_BYTES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def computing(precision: Precision = "highest") -> Iterator[None]:
    """What holds while a method is fitted, adapted or scored; put back after.

    `precision` says how exact products of float32 matrices are inside, as torch's `set_float32_matmul_precision`:
    "highest" multiplies in float32. "high" may use TF32 on a GPU. "medium" may round factors to bfloat16, which a
    CPU with matrix units (AMX) multiplies several times as fast; sums stay in float32.

    numpy's and scipy's own products run on one CPU thread, for their threads and torch's hinder each other: on 2
    cores a fit whose gradients are torch's and whose minimiser is scipy's took five times as long with both.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Gather:
    """Takes rows of a table by index into memory it keeps: fresh pages each time would cost more than the copy."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.buffer = matrix.new_empty(0, matrix.shape[1])

    def __call__(self, where: Tensor) -> Tensor:
        """matrix[where], [*where.shape, d]; valid until the next call."""
        n = where.numel()
        if len(self.buffer) < n:
            self.buffer = self.matrix.new_empty(n + n // 4, self.matrix.shape[1])
        rows = self.buffer[:n]
        torch.index_select(self.matrix, 0, where.reshape(-1), out=rows)
        return rows.view(*where.shape, -1)


class StackedAdam:
    """torch's fused Adam on parameters [S, ...], with a step size per split where splits need one.

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
        stacks = [{"params": group} for group in groups]
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(stacks, fused=True, weight_decay=decay, eps=eps)
            if decay
            else torch.optim.Adam(stacks, fused=True, weight_decay=penalty, eps=eps)
        )

    def step(self, gradients: Sequence[Tensor], rate: float | FloatArray) -> None:
        """One update in place; `rate` is a number, or [S] of which the entries are equal unless `separate`."""
        rates = np.broadcast_to(np.atleast_1d(rate), len(gradients[0]))
        for i, group in enumerate(self.optimiser.param_groups):
            group["lr"] = float(rates[i])
            for parameter, gradient in zip(group["params"], gradients, strict=True):
                parameter.grad = gradient[i] if self.separate else gradient
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


def seen_states(users: IntArray, tensors: Mapping[str, Tensor]) -> UserStates:
    """States with tensors on the CPU."""
    return UserStates(users, {name: tensor.detach().cpu() for name, tensor in tensors.items()})
