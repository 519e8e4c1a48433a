"""Base class of methods that read texts and train an adapter on the judge model's own weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, concatenate
from prbench.judging.adapted import AdaptedModel, Kind, Lora, adapted, lacking
from prbench.judging.method import TextMethod
from prbench.judging.reader import Reader, reader_of
from prbench.method import FitProblem, ParameterCount, UserStates, Watch
from prbench.training.adapter_training import Pass
from prbench.training.gradient import CandidateScore, curves, judge
from prbench.training.split_by_split import SplitBySplit

if TYPE_CHECKING:
    from torch import Tensor

CHOOSING, FINAL = "choosing", "final"
"""The folders of the passes that are candidates, and of those of the training that counts."""


class TrainedTextMethod(SplitBySplit, TextMethod):
    """A subclass says how users' states come about (`states_of`) and how the adapter is trained (`passes_of`).

    Every pass over the seen users' choices is a candidate: the best one is chosen as in
    `prbench.training.gradient.GradientMethod`, and training is done again on all choices up to it.
    """

    kind: ClassVar[Kind]
    rank: int
    alpha: float

    _tensors: Mapping[str, Tensor] | None = None
    _record: dict[str, Any]

    @property
    @abstractmethod
    def budget(self) -> int:
        """How many passes the recipe trains."""

    @abstractmethod
    def passes_of(
        self, train: Comparisons, states: UserStates, count: int, rng: Rng, checkpoints: Path | None
    ) -> Iterator[Pass]:
        """Train for so many passes on the choices of users in these states, and yield each.

        Raises InputError where there is nothing to train on. Makes no call in training itself.
        """

    def ask_ahead(self, train: Comparisons, states: UserStates, rng: Rng) -> None:
        """Ask judge models what training on these choices needs to know, and train nothing."""

    def unsupported(self, data: Comparisons) -> str | None:
        """The judge model's weights are needed, and the packages that train them."""
        reason = super().unsupported(data)
        if reason is None and not reader_of(data.items).backend.trains:
            name = reader_of(data.items).entry.name
            reason = f"{name} is called and cannot be trained here: a local judge model can"
        return reason or lacking()

    def model(self, reader: Reader) -> AdaptedModel:
        """The judge model's weights with this method's adapter. Raises InputError for an adapter of another model."""
        self._require_fitted()
        found = adapted(reader.backend, self.kind, Lora(self.rank, float(self.alpha)))
        found.load(self._tensors or {})
        return found

    def begun_model(self, reader: Reader, rng: Rng) -> AdaptedModel:
        """The judge model's weights with an adapter that changes nothing yet."""
        found = adapted(reader.backend, self.kind, Lora(self.rank, float(self.alpha)))
        found.begin(rng.child("adapter"))
        return found

    def fit_problem(self, problem: FitProblem, device: str, watch: Watch) -> None:
        """See `SplitBySplit.fit_problem`. It is trained where the judge model lies, whatever the `device`."""
        whole = concatenate([problem.train, problem.validation])
        if reader_of(whole.items).dry:
            for data in [problem.train, whole] if len(problem.validation) else [whole]:
                self._seen, self._tensors, self._record = self._states(data, problem.rng), {}, {}
                self.ask_ahead(data, self._seen, problem.rng)
            return
        if problem.choose:
            best, self._record = self._chosen(problem, watch)
            self._accept(best, self._states(problem.train, problem.rng))
            return
        count, told = self.budget, {"rule": "last", "chosen": self.budget}
        if len(problem.validation):
            best, told = self._chosen(problem, lambda share: watch(share / 2))
            count = best.number
        states, losses, last = self._states(whole, problem.rng), [], None
        done = 1 / count / (2 if len(problem.validation) else 1)
        for last in self.passes_of(whole, states, count, problem.rng, _folder(problem, FINAL)):
            losses.append(last.loss)
            watch(done)
        assert last is not None
        self._accept(last, states)
        self._record = {**told, "loss": losses, **last.measures}

    def _chosen(self, problem: FitProblem, watch: Callable[[float], None]) -> tuple[Pass, dict[str, Any]]:
        """The best pass by the problem's own choice or by the validation choices, and what each was worth."""
        states = self._states(problem.train, problem.rng)
        judged: dict[str, CandidateScore] = {}
        best: Pass | None = None
        for each in self.passes_of(problem.train, states, self.budget, problem.rng, _folder(problem, CHOOSING)):
            candidate = self.fresh()
            candidate._accept(each, states)
            value = (
                CandidateScore(problem.choose(candidate)) if problem.choose else judge(candidate, problem.validation)
            )
            if best is None or value.accuracy > max(other.accuracy for other in judged.values()):
                best = each
            judged[str(each.number)] = value
            watch(1 / self.budget)
        assert best is not None
        rule = "test-oracle" if problem.choose else "validation"
        return best, {"rule": rule, "chosen": best.number, **curves(judged)}

    def _states(self, data: Comparisons, rng: Rng) -> UserStates:
        return self.states_of(data, data.users, rng.child("adapt"))

    def _accept(self, trained: Pass, states: UserStates) -> None:
        self._tensors, self._seen = trained.tensors, states

    def learned(self) -> dict[str, Tensor]:
        """The adapter, under peft's names."""
        self._require_fitted()
        return dict(self._tensors or {})

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._tensors = dict(tensors)
        return super().restore(tensors)

    def parameter_count(self) -> ParameterCount:
        """The adapter's numbers; a user's state is text, counted in bytes of the longest one."""
        shared = sum(tensor.numel() for tensor in self.learned().values())
        return ParameterCount(shared, super().parameter_count().per_user)

    def fit_record(self) -> dict[str, Any]:
        """The rule, the chosen pass, the judged ones, and the mean loss of each pass of the last training."""
        return getattr(self, "_record", {})


def _folder(problem: FitProblem, name: str) -> Path | None:
    return None if problem.checkpoints is None else problem.checkpoints / name


def nothing_to_train_on() -> InputError:
    """For data whose choices teach nothing."""
    return InputError(
        "there is nothing to train on: the replies of every choice are the same text", hint="take other data"
    )
