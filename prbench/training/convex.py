"""Methods whose fit is the minimum of a convex objective, with strengths of its penalties to choose from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, concatenate
from prbench.method import FitProblem, Watch
from prbench.training.gradient import CandidateScore, curves, judge
from prbench.training.split_by_split import SplitBySplit

if TYPE_CHECKING:
    from torch import Tensor


Strengths = tuple[float, ...]
"""One strength for each penalty of a method."""


class ConvexMethod(SplitBySplit):
    """A method that is solved, not trained: what is left to choose is how strong its penalties are.

    A subclass gives the strengths to choose from (`grid`), what it uses where nothing is chosen (`default`), the
    solutions (`solutions`) and what to do with one (`accept`). Choosing is the same for all: the strengths with the
    best accuracy on held-out choices of the seen users are solved again on all of their choices.

    Where something is drawn first, `random_start` is True, and `solutions` draws from `stream`.
    """

    random_start = False
    stream: Rng
    _record: dict[str, Any]

    @abstractmethod
    def grid(self) -> list[Strengths]:
        """The strengths to choose from; of equally good ones the first is taken."""

    @abstractmethod
    def default(self) -> Strengths:
        """The strengths where nothing is chosen."""

    @abstractmethod
    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """The solution for each of `grid`, in its order: shared tensors, and those of the users of `train`."""

    @abstractmethod
    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """Take a solution."""

    def fit_problem(self, problem: FitProblem, device: str, watch: Watch) -> None:
        """See `SplitBySplit.fit_problem`."""
        train, strengths = problem.train, self.default()
        self.stream = problem.rng
        record: dict[str, Any] = {"rule": "last"}
        if problem.choose or len(problem.validation):
            values: dict[Strengths, CandidateScore] = {}
            best: dict[str, Tensor] = {}
            grid = self.grid()
            for candidate, tensors in zip(grid, self.solutions(train, grid, device), strict=True):
                accepted = self.fresh().accept(tensors, train)
                value = (
                    CandidateScore(problem.choose(accepted))
                    if problem.choose
                    else judge(accepted, problem.validation)
                )
                if not values or value.accuracy > max(other.accuracy for other in values.values()):
                    strengths, best = candidate, tensors
                values[candidate] = value
                watch(1 / (len(grid) + 1))
            judged = {" ".join(map(str, candidate)): value for candidate, value in values.items()}
            record = {"rule": "test-oracle" if problem.choose else "validation", **curves(judged)}
        if problem.choose:
            self.accept(best, train)
        else:
            train = concatenate([train, problem.validation])
            (solution,) = self.solutions(train, [strengths], device)
            self.accept(solution, train)
        self._record = {**record, "chosen": strengths[0] if len(strengths) == 1 else list(strengths)}
        watch(1 / (len(self.grid()) + 1) if "curve" in record else 1.0)

    def fit_record(self) -> dict[str, Any]:
        """The chosen strengths, the rule that chose them and what each candidate was worth."""
        return getattr(self, "_record", {})


class OnePenalty(ConvexMethod):
    """A convex method with one penalty: `strengths` to choose from, and `strength` where nothing is chosen.

    Subclasses take both in their constructor, under these names.
    """

    strengths: Sequence[float]
    strength: float

    def grid(self) -> list[Strengths]:
        """Strong ones first."""
        return [(strength,) for strength in sorted(self.strengths, reverse=True)]

    def default(self) -> Strengths:
        """`strength`."""
        return (self.strength,)
