"""The batched training engine: all splits of a method are trained together.

Splits of one data set share most of their comparisons and all of their embeddings. A linear method sees an
embedding only through e(chosen) − e(rejected), so these differences are formed once for all splits; parameters
carry a leading split dimension [S, ...]; one pass over memory and one optimiser update serve every split. What
each split computes does not depend on which others are beside it, up to floating-point rounding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, concatenate
from prbench.method import FitProblem, Method, UserStates, Watch

if TYPE_CHECKING:
    from torch import Tensor

from prbench.protocol.metrics import user_accuracy

CANDIDATES = 20
"""How many moments of its training each gradient method may choose from: the same for all of them."""


class Snapshot(NamedTuple):
    """The parameters of one split after `unit` epochs (or steps) of training."""

    split: int
    unit: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SplitBatch:
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
    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
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
            SplitBatch(trains, rngs, [], watch=half).tell(1.0)
        else:
            trains = [concatenate([p.train, p.validation]) for p in problems]
            snapshots = methods[0].train_splits(SplitBatch(trains, rngs, [{unit} for unit in best], device, half))
        for i, unit, tensors in snapshots:
            methods[i].accept(tensors, trains[i], rngs[i])
            methods[i]._record = {"rule": rule, "chosen": unit, **({"curve": curves[i]} if curves[i] else {})}

    @classmethod
    def _choose(
        cls, methods: Sequence[Self], problems: Sequence[FitProblem], *, device: str, watch: Watch | None
    ) -> tuple[list[int], list[dict[str, float]], list[Snapshot]]:
        """For each split the best unit, the value of every candidate, and the best one's parameters."""
        trains, rngs = [p.train for p in problems], [p.rng for p in problems]
        work = SplitBatch(trains, rngs, [candidates(method.budget) for method in methods], device, watch)
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


def seen_states(users: IntArray, tensors: Mapping[str, Tensor]) -> UserStates:
    """States with tensors on the CPU."""
    return UserStates(users, {name: tensor.detach().cpu() for name, tensor in tensors.items()})
