"""A scripted judge: a pure function of the prompt's text, for the contract and for tests.

It knows no user, row or label. It reads numbers out of replies, infers weights from the choices or the description
that a prompt shows, and prefers the reply with the larger weighted sum.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prbench.comparisons import FloatArray
from prbench.judging.backend import Answer, Backend, Request, Tell
from prbench.method import tensors_digest

if TYPE_CHECKING:
    from prbench.judging.adapted import AdaptedModel, OwnWeights

NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
_EXAMPLE = re.compile(r"<example>(.*?)</example>", re.DOTALL)
_EXEMPLAR = re.compile(r"<exemplar>(.*?)</exemplar>", re.DOTALL)
_CHOICE = re.compile(r"<choice>([AB])</choice>")
_PAIR = "The pair to judge:"


def block(mark: str, text: str) -> str:
    """What stands between `<mark>` and `</mark>`, "" where nothing does."""
    found = re.search(rf"<{mark}>\n(.*?)\n</{mark}>", text, re.DOTALL)
    return found[1] if found else ""


class PlantedJudge(Backend):
    """Replies are lists of numbers; the last is how good a reply is to anyone, which decides where nothing is shown.

    A description is a list of weights. Where a text is asked for, it reasons and ends with its choice, or describes
    the person of the choices that it is shown.
    """

    # Its answers cost nothing: none is kept.
    instant: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    # What stands for the numbers of an adapter that was trained beside it.
    adapter: str = ""

    def identity(self) -> dict[str, Any]:
        """Its class: the rule is its code."""
        found = {"kind": "planted", "class": type(self).__qualname__}
        return {**found, "adapter": self.adapter} if self.adapter else found

    def tuned(self, model: AdaptedModel, tensors: Mapping[str, Any]) -> PlantedJudge:
        """The same rule: no training changes a script."""
        made = copy.copy(self)
        made.adapter = tensors_digest(tensors, {})
        return made

    def own_weights(self) -> OwnWeights:
        """A tiny model with random weights: the rule itself has none."""
        from prbench.judging.planted_weights import planted_weights

        return planted_weights()

    def features(self, reply: str) -> FloatArray:
        """The numbers of a reply, [k]."""
        return np.array([float(number) for number in NUMBER.findall(reply)], dtype=np.float64)

    def prior(self, features: FloatArray) -> float:
        """How good a reply is where nothing is known of a person."""
        return float(features[-1]) if len(features) else 0.0

    def weights(self, text: str) -> FloatArray | None:
        """What choices, or else a description, say of a person, [k]; None where neither is shown."""
        shown = []
        for example in _EXAMPLE.findall(text):
            sides = [self.features(block(mark, example)) for mark in ("reply_a", "reply_b")]
            chosen = _CHOICE.findall(example)
            if chosen and len(sides[0]) == len(sides[1]):
                shown.append((sides[0] - sides[1]) * (1 if chosen[-1] == "A" else -1))
        liked = [self.features(block("reply", exemplar)) for exemplar in _EXEMPLAR.findall(text)]
        if liked and len({len(each) for each in liked}) == 1:
            return np.asarray(np.mean(liked, axis=0))
        if shown:
            # The least squares weights of choices: ridge regression of 1 on chosen − rejected.
            apart = np.array(shown)
            return np.asarray(np.linalg.solve(apart.T @ apart + np.eye(apart.shape[1]), apart.sum(axis=0)))
        description = self.described(block("persona", text))
        return description if len(description) else None

    def described(self, persona: str) -> FloatArray:
        """The weights that a description names, [k]; empty where it names none."""
        return np.array([float(number) for number in NUMBER.findall(persona)], dtype=np.float64)

    def description(self, weights: FloatArray) -> str:
        """Weights in words that `described` reads."""
        return "weights " + " ".join(f"{weight:.6f}" for weight in weights)

    def value(self, weights: FloatArray | None, reply: str) -> float:
        """How much a person with these weights likes a reply."""
        features = self.features(reply)
        if weights is None or len(weights) != len(features):
            return self.prior(features)
        return float(weights @ features)

    def answer(self, requests: Sequence[Request], tell: Tell) -> None:
        """Answer from the prompts alone."""
        for number, request in enumerate(requests):
            tell(number, self._answer(request))

    def _answer(self, request: Request) -> Answer:
        text = request.messages[-1].content
        asked = Answer(tokens_in=self.tokens(request.messages), tokens_out=1)
        before, mark, pair = text.rpartition(_PAIR)
        if len(request.labels) == 10:
            value = self.value(None, block("reply", text))
            middle = 5.5 + 4.5 * np.tanh(value / 4)
            logprobs = tuple(float(-((k - middle) ** 2)) for k in range(1, 11))
            return replace(asked, logprobs=logprobs)
        weights = self.weights(before if mark else text)
        if not mark:
            words = self.description(weights) if weights is not None else "nothing is known"
            return replace(asked, text=words)
        first, second = (self.value(weights, block(name, pair)) for name in ("reply_a", "reply_b"))
        apart = first - second
        if request.labels:
            # Probabilities of the two letters, as a model would have them.
            odds = float(np.clip(apart, -20, 20))
            return replace(asked, logprobs=(-float(np.logaddexp(0, -odds)), -float(np.logaddexp(0, odds))))
        letter = "A" if apart > 0 else "B" if apart < 0 else ""
        said = self.description(weights) if weights is not None else "nothing is known"
        return replace(asked, text=f"<reason>{said}</reason>\n<choice>{letter}</choice>")
