"""The batched training engine: all splits of a method are trained together.

Splits of one data set share most of their comparisons and all of their embeddings. A linear method sees an
embedding only through e(chosen) − e(rejected), so these differences are formed once for all splits; parameters
carry a leading split dimension [S, ...]; one pass over memory and one optimiser update serve every split.

A cell's key does not say which splits were trained together, so none of a split's bits may depend on it, on a CPU at
equal threads. Either the operations see to that (`training.steady`), or splits are trained one by one (`blocks`).
Small products take other kernels on several threads, and again others for one split than for many. So threads take
different splits, side by side, and every operation is made by one of them; where the operations of a split are
large enough to be divided, the threads share them instead (`divides_splits`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, concatenate
from prbench.method import FitProblem, Method, UserStates, Watch
from prbench.protocol.metrics import user_accuracies
from prbench.training.compute import PARALLEL_BYTES
from prbench.training.side_by_side import Snapshot as Snapshot
from prbench.training.side_by_side import SplitBatch as SplitBatch
from prbench.training.side_by_side import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


CANDIDATES = 20
"""How many moments of its training each gradient method may choose from: the same for all of them."""


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

        This method itself stays as it is. What a split yields must not depend, to the bit, on the other splits of
        `work`; a method whose operations cannot promise that divides its splits in `blocks`.
        """

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """The splits that `train_splits` gets together, as positions. By default all of them."""
        return [list(range(len(work.trains)))]

    def one_by_one(self, work: SplitBatch) -> list[list[int]]:
        """`blocks` of one split on a CPU; all splits together on a GPU, which one split would leave idle."""
        together = list(range(len(work.trains)))
        return [together] if work.device.startswith("cuda") else [[i] for i in together]

    def divides_splits(self, train: Comparisons) -> bool:
        """Whether CPU threads take different splits; else they share each operation.

        It must follow from the split alone, and be the same for all splits of a block.
        """
        return True

    def train(self, work: SplitBatch) -> Iterator[Snapshot]:
        """Train all splits, in any order; yields as `train_splits` does."""
        apart: list[list[int]] = []
        for block in self.blocks(work):
            if not work.device.startswith("cuda") and self.divides_splits(work.trains[block[0]]):
                apart.append(block)
                continue
            for split, unit, tensors in self.train_splits(work.take(block)):
                yield Snapshot(block[split], unit, tensors)
        if apart:
            yield from side_by_side(self.train_splits, work, self._queues(apart, work))

    def _queues(self, blocks: list[list[int]], work: SplitBatch) -> list[list[list[int]]]:
        """For each thread the blocks that it trains, one after another."""
        threads = torch.get_num_threads()
        parts = []
        for block in blocks:
            size = self.bytes_per_update([work.trains[i] for i in block], [work.rngs[i] for i in block])
            # Small updates of a block are not worth a second thread.
            count = max(1, min(threads, len(block), int((size or 0.0) // PARALLEL_BYTES)))
            parts += [block[i::count] for i in range(count)]
        return [queue for i in range(threads) if (queue := parts[i::threads])]

    @abstractmethod
    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take trained parameters and adapt to the users of `train`."""

    def plain_loop(self, train: Comparisons, rng: Rng) -> Iterator[dict[str, Tensor]] | None:
        """The training of one split as loops over users: the parameters after each update, in the engine's order.

        `prbench bench` times the engine against it. None for a method without such a loop: the engine is then timed
        against itself on one split.
        """
        return None

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
        rules = {"test-oracle" if p.choose else "validation" if len(p.validation) else "last" for p in problems}
        if len(rules) > 1:
            raise ValueError(f"the splits of a method must be fitted by one rule, not {' and '.join(sorted(rules))}")
        fit = {"last": cls._fit_last, "validation": cls._fit_validation, "test-oracle": cls._fit_oracle}[rules.pop()]
        fit(methods, problems, device, watch)

    @classmethod
    def _fit_last(
        cls, methods: Sequence[Self], problems: Sequence[FitProblem], device: str, watch: Watch | None
    ) -> None:
        """Train the whole budget on all choices."""
        cls._fit_until([method.budget for method in methods], methods, problems, device, watch)
        for method in methods:
            method._record = {"rule": "last", **method._record}

    @classmethod
    def _fit_validation(
        cls, methods: Sequence[Self], problems: Sequence[FitProblem], device: str, watch: Watch | None
    ) -> None:
        """Choose each split's best unit on its validation choices, then train up to it on all choices."""
        half_progress = None if watch is None else lambda share: watch(share / 2)
        best, judged = cls._choose(methods, problems, device, half_progress)
        cls._fit_until([snapshot.unit for snapshot in best], methods, problems, device, half_progress)
        for method, values in zip(methods, judged, strict=True):
            method._record = {"rule": "validation", **method._record, **curves(values)}

    @classmethod
    def _fit_oracle(
        cls, methods: Sequence[Self], problems: Sequence[FitProblem], device: str, watch: Watch | None
    ) -> None:
        """Keep each split's candidate that the problem's own `choose` likes best; nothing is trained again."""
        best, judged = cls._choose(methods, problems, device, watch)
        for method, problem, snapshot, values in zip(methods, problems, best, judged, strict=True):
            method.accept(snapshot.tensors, problem.train, problem.rng)
            method._record = {"rule": "test-oracle", **_chosen(snapshot.unit, device), **curves(values)}

    @classmethod
    def _fit_until(
        cls,
        units: Sequence[int],
        methods: Sequence[Self],
        problems: Sequence[FitProblem],
        device: str,
        watch: Watch | None,
    ) -> None:
        """Train each split up to its unit on training and validation choices."""
        trains = [concatenate([p.train, p.validation]) for p in problems]
        rngs = [problem.rng for problem in problems]
        for i, unit, tensors in methods[0].train(SplitBatch(trains, rngs, [{unit} for unit in units], device, watch)):
            methods[i].accept(tensors, trains[i], rngs[i])
            methods[i]._record = _chosen(unit, device)

    @classmethod
    def _choose(
        cls, methods: Sequence[Self], problems: Sequence[FitProblem], device: str, watch: Watch | None
    ) -> tuple[list[Snapshot], list[dict[str, CandidateScore]]]:
        """For each split the parameters at its best unit, and what every candidate was worth."""
        trains, rngs = [p.train for p in problems], [p.rng for p in problems]
        work = SplitBatch(trains, rngs, [candidates(method.budget) for method in methods], device, watch)
        judged: list[dict[str, CandidateScore]] = [{} for _ in methods]
        kept: dict[int, Snapshot] = {}
        for snapshot in methods[0].train(work):
            i = snapshot.split
            candidate = methods[i].fresh().accept(snapshot.tensors, trains[i], rngs[i])
            choose = problems[i].choose
            value = CandidateScore(choose(candidate)) if choose else judge(candidate, problems[i].validation)
            if i not in kept or value.accuracy > max(other.accuracy for other in judged[i].values()):
                kept[i] = snapshot
            judged[i][str(snapshot.unit)] = value
        return [kept[i] for i in range(len(methods))], judged

    def fit_record(self) -> dict[str, Any]:
        """The rule that ended the training, the chosen epoch or step, and the judged candidates.

        `independent_of_batch` says that no bit depends on the splits trained beside this one.
        """
        return getattr(self, "_record", {})


def embedding_bytes(trains: Sequence[Comparisons]) -> float:
    """The bytes of one embedding for each of the splits' choices."""
    items = trains[0].items
    return float(sum(map(len, trains)) * items.dim * items.embedding.element_size())


def _chosen(unit: int, device: str) -> dict[str, Any]:
    """The chosen unit; on a CPU also that the bits do not depend on the splits trained beside this one."""
    return {"chosen": unit, **({} if device.startswith("cuda") else {"independent_of_batch": True})}


def candidates(budget: int) -> list[int]:
    """Up to `CANDIDATES` units from 1 to `budget`, spaced geometrically: overfitting sets in early."""
    return sorted({round(unit) for unit in np.geomspace(1, budget, CANDIDATES)})


class CandidateScore(NamedTuple):
    """What a candidate is worth: an accuracy and, where known, its standard error over users."""

    accuracy: float
    error: float | None = None


def judge(method: Method, validation: Comparisons) -> CandidateScore:
    """Mean over users of the share of their held-out choices predicted; a tie counts one half.

    The error is the standard error of that mean over users, None for a single user.
    """
    values = user_accuracies(method.margins(method.seen_users(), validation), validation.user)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return CandidateScore(float(values.mean()), error)


def curves(judged: Mapping[str, CandidateScore]) -> dict[str, dict[str, float]]:
    """The record's `curve`, the accuracy of each candidate, and `curve_error`, its standard error over users."""
    errors = {name: value.error for name, value in judged.items() if value.error is not None}
    record = {"curve": {name: value.accuracy for name, value in judged.items()}}
    return {**record, "curve_error": errors} if errors else record


def validation_accuracy(method: Method, validation: Comparisons) -> float:
    """The accuracy of `judge`."""
    return judge(method, validation).accuracy


def seen_states(users: IntArray, tensors: Mapping[str, Tensor]) -> UserStates:
    """States with tensors on the CPU."""
    return UserStates(users, {name: tensor.detach().cpu() for name, tensor in tensors.items()})
