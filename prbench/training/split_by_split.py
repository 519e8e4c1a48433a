"""Methods that fit one split after another, each told of the shares of its work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.method import FitProblem, Method, Watch


class SplitBySplit(Method):
    """A subclass fits one problem (`fit_problem`): a problem's own `choose` judges there in place of validation
    choices."""

    @abstractmethod
    def fit_problem(self, problem: FitProblem, device: str, watch: Watch) -> None:
        """Fit this method on one split; `watch` is told of shares of the work that add up to 1."""

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """Fit one split; see `Method.fit_seen`."""
        self.fit_problem(FitProblem(train, validation, rng), device, lambda share: None)
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
        """One split after another."""
        for method, problem in zip(methods, problems, strict=True):
            method.fit_problem(problem, device, lambda share: watch(share / len(methods)) if watch else None)
