"""Methods with one planted fault each, named as targets of entries in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.method import FitProblem, ParameterCount, UserStates, Watch
from prbench.methods.lore import LoRe
from prbench.registry.schema import MethodEntry

FITS: list[str] = []
"""What was fitted in this process, one line per call."""


def entry(target: str, name: str = "planted", **params: Any) -> MethodEntry:
    """An entry of a method in this file."""
    return MethodEntry.model_validate(
        {
            "name": name,
            "title": name,
            "target": f"planted_methods:{target}",
            "family": "personalised parameters",
            "paper": "",
            "summary": "planted",
            "selection": "last",
            "params": params,
            "style": {"colour": "#000000"},
        }
    )


class Good(LoRe):
    """LoRe with a small budget; counts its fits."""

    def __init__(self, *, bases: int = 2, steps: int = 40) -> None:
        super().__init__(bases=bases, steps=steps, adapt_steps=20, divisor=1.0)

    @classmethod
    def fit_splits(
        cls,
        methods: Sequence[Self],
        problems: Sequence[FitProblem],
        *,
        device: str = "cpu",
        watch: Watch | None = None,
    ) -> None:
        FITS.append(f"{cls.__name__} {len(methods)}")
        super().fit_splits(methods, problems, device=device, watch=watch)


class Guesses(Good):
    """Learns nothing: every margin is a coin's."""

    def margins(self, states: UserStates, comparisons: Comparisons) -> Tensor:
        return torch.randn(len(comparisons), generator=Rng("guesses").torch())


class LastBit(Good):
    """Scores an item by the last bit of its first coordinate: nothing but rounding."""

    def item_features(self, items: Items) -> Tensor:
        return (items.embedding[:, :1].float().contiguous().view(torch.int32) & 1).float()

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        return features[:, 0]


class Raises(Good):
    """Cannot be fitted while `broken`."""

    broken: ClassVar[bool] = True

    @classmethod
    def fit_splits(cls, methods: Sequence[Self], problems: Sequence[FitProblem], **options: Any) -> None:
        if cls.broken:
            raise ZeroDivisionError("planted [failure]\nin two lines")
        super().fit_splits(methods, problems, **options)


class NanOnSplit1(Good):
    """Its scores are NaN on the second split only."""

    @classmethod
    def fit_splits(cls, methods: Sequence[Self], problems: Sequence[FitProblem], **options: Any) -> None:
        super().fit_splits(methods, problems, **options)
        if len(methods) > 1:
            methods[1]._bases = torch.full_like(methods[1].bases_matrix, torch.nan)


class FewShots(Good):
    """Fails with exactly two shots per user."""

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        if len(support) and len(support) == 2 * len(support.users):
            raise ArithmeticError("no two shots")
        return super().adapt_unseen(support, users=users, rng=rng)


class Unsupported(Good):
    """Supports nothing."""

    def unsupported(self, data: Comparisons) -> str | None:
        return f"{data.items.dim} dimensions [are] too many"


class IgnoresTheRule(Good):
    """Claims to have trained to the end whatever it was asked."""

    def fit_record(self) -> dict[str, Any]:
        return {"rule": "last"}


class Leaks(Good):
    """A user's state depends on who else adapts."""

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        states = super().adapt_unseen(support, users=users, rng=rng)
        weight = states.tensors["weight"]
        return UserStates(states.users, {"weight": weight + weight.mean(0)})


class Peeks(Good):
    """Looks at the embeddings of all items, also those of the test side."""

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        super().accept(tensors, train, rng)
        self._bases = self.bases_matrix - 0.01 * train.items.embedding.mean(0).to(self.bases_matrix.dtype)
        return self


class Unseeded(Good):
    """Adds noise of its own."""

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        super().accept(tensors, train, rng)
        self._bases = self.bases_matrix + 0.1 * torch.randn(self.bases_matrix.shape)
        return self


class DrawsInSecret(Good):
    """Says that it has no random start, and draws one."""

    random_start = False


class Miscounts(Good):
    """Forgets to count the weights of a user."""

    def parameter_count(self) -> ParameterCount:
        return ParameterCount(super().parameter_count().shared, 0)


class Misforecasts(Good):
    """Announces more weights per user than it stores."""

    def parameters_for(self, dim: int) -> ParameterCount:
        shared, per_user = super().parameters_for(dim)
        return ParameterCount(shared, per_user + 1)


class Mutates(Good):
    """Adapting to a user trains the shared bases further."""

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        states = super().adapt_unseen(support, users=users, rng=rng)
        self.bases_matrix.mul_(1.01)
        return states


class FirstOnly(Good):
    """Adapts to the first choice of each user."""

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        first = np.unique(support.user, return_index=True)[1]
        everyone = support.users if users is None else users
        return super().adapt_unseen(support.take(first), users=everyone, rng=rng)


class DeclaredFirstOnly(FirstOnly):
    """The same, declared."""

    order_matters = True


class NanCold(Good):
    """Has no cold start."""

    def cold_weights(self, users: IntArray) -> Tensor:
        return torch.full((len(users), self.bases), torch.nan)


class KeepsChoices(Good):
    """A user's state also has the last choice, where there is one."""

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        states = super().adapt_unseen(support, users=users, rng=rng)
        last = {"last": torch.zeros(len(states), 1)} if len(support) else {}
        return UserStates(states.users, {**states.tensors, **last})


class DependsOnBatch(Good):
    """Scores depend on what is scored together."""

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        scores = super().score_features(states, position, features)
        return scores - scores.mean()


class TellsCopiesApart(Good):
    """Rounds margins as a product over other neighbours would, equal vectors or not."""

    def margins(self, states: UserStates, comparisons: Comparisons, features: Any = None) -> Tensor:
        margin = super().margins(states, comparisons, features)
        return margin + 1e-7 * (1 - 2 * (torch.arange(len(margin)) % 2))


class Backwards(Good):
    """Prefers what the user rejects."""

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        return -super().score_features(states, position, features)


class ForgetsScale(Good):
    """What it learned is not all that it saves."""

    def learned(self) -> dict[str, Tensor]:
        return {"bases": self.bases_matrix.round(decimals=1)}


class Couples(Good):
    """Splits trained together see one another."""

    @classmethod
    def fit_splits(cls, methods: Sequence[Self], problems: Sequence[FitProblem], **options: Any) -> None:
        super().fit_splits(methods, problems, **options)
        for method in methods:
            method._bases = method.bases_matrix + (len(methods) - 1) * 0.1


class ReturnsAnother(Good):
    """fit_seen returns a copy."""

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        super().fit_seen(train, validation, rng=rng, device=device)
        copy = self.fresh()
        copy._bases, copy._seen = self._bases, self._seen
        return copy


class NeverUnfitted(Good):
    """Counts parameters before it has any."""

    def parameter_count(self) -> ParameterCount:
        return ParameterCount(0, 0) if self._bases is None else super().parameter_count()


class LosesUsers(Good):
    """Gives no state to the last user."""

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        states = super().adapt_unseen(support, users=users, rng=rng)
        return states.take(states.users[:-1]) if len(states) > 1 else states


class Infinite(Good):
    """Overflows."""

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        return super().score_features(states, position, features) / 0


class FailsWithThree(Good):
    """Cannot have three bases, and diverges with four."""

    @classmethod
    def fit_splits(cls, methods: Sequence[Self], problems: Sequence[FitProblem], **options: Any) -> None:
        if methods[0].bases == 3:
            raise ZeroDivisionError("three [bases]")
        super().fit_splits(methods, problems, **options)
        for method in methods if methods[0].bases == 4 else ():
            method._bases = torch.full_like(method.bases_matrix, torch.nan)
