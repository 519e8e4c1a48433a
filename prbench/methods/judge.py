"""The plain judge: a language model that says which of two replies is better, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.judging.backend import Answer, Pair, Request
from prbench.judging.method import PairwiseMethod, TextMethod, plain
from prbench.judging.prompts import rating
from prbench.judging.reader import reader_of
from prbench.method import UserStates

if TYPE_CHECKING:
    from torch import Tensor


class Judge(PairwiseMethod):
    """Each pair is asked about in both orders; the margin is the mean log-odds of the two letters (Zheng et al. 2023,
    arXiv 2306.05685, whose two orders these are; they sampled a text, here the letters' probabilities are read).
    """

    personal: ClassVar[bool] = False
    random_start: ClassVar[bool] = False

    def states_of(self, support: Comparisons, users: IntArray, rng: Rng) -> UserStates:
        """Every user is the same."""
        return UserStates(users)

    def requests(self, state: Mapping[str, Any], pairs: Sequence[Pair], items: Items) -> list[Request]:
        """The plain judge's prompt."""
        return plain(pairs)


class JudgeScore(TextMethod):
    """One reply at a time: the expected rating from 1 to 10 over the numbers' probabilities.

    Ratings of single replies as in Zheng et al. 2023 (arXiv 2306.05685); the expectation over the numbers'
    probabilities as in G-Eval (Liu et al. 2023, arXiv 2303.16634).
    """

    personal: ClassVar[bool] = False
    random_start: ClassVar[bool] = False
    MIDDLE = 5.5

    def unsupported(self, data: Comparisons) -> str | None:
        """Verdicts on pairs rate no single reply."""
        reason = super().unsupported(data)
        if reason is None and not reader_of(data.items).backend.reads_prompts:
            return f"{reader_of(data.items).entry.name} holds verdicts on pairs and rates no single reply"
        return reason

    def states_of(self, support: Comparisons, users: IntArray, rng: Rng) -> UserStates:
        """Every user is the same."""
        return UserStates(users)

    def item_features(self, items: Items) -> Tensor:
        """The expected rating of each item, [m, 1]; the middle of the scale where there is no answer."""
        reader, text = reader_of(items), items.text
        if text is None:
            return torch.zeros(len(items), 1)
        answers = reader.ask([rating(text.context(i), text.response(i)) for i in range(len(items))])
        return torch.tensor([[_expected(answer)] for answer in answers], dtype=torch.float64).reshape(-1, 1)

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The rating."""
        return features[:, 0]


def _expected(answer: Answer) -> float:
    if answer.failure:
        return JudgeScore.MIDDLE
    if answer.logprobs is None:
        said = answer.text.strip().rstrip(".")
        return float(said) if said.isdecimal() and 1 <= int(said) <= 10 else JudgeScore.MIDDLE
    known = np.array(answer.logprobs)
    if not np.isfinite(known).any():
        return JudgeScore.MIDDLE
    weight = np.exp(known - known[np.isfinite(known)].max())
    return float((weight * np.arange(1, len(known) + 1)).sum() / weight.sum())
