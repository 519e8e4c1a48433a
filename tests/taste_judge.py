"""A scripted judge of simulated texts: a pure function of the prompt's text, which infers a taste from what is shown."""

from __future__ import annotations

import numpy as np

from prbench.comparisons import FloatArray
from prbench.judging.planted import PlantedJudge
from prbench.loaders.sim_text import HEDGE, MORE, PROPERTIES, START, WARM


def has(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase.partition("{}")[0].strip().lower() in text.lower() for phrase in phrases)


class TasteJudge(PlantedJudge):
    """Reads the five properties of a reply; without a taste it tosses no coin: all replies are alike to it."""

    def features(self, reply: str) -> FloatArray:
        formal = has(reply, START[True])
        found = (
            has(reply, MORE[formal][:1]),
            formal,
            "1. " in reply,
            has(reply, HEDGE),
            has(reply, tuple(text.strip() for text in WARM)),
        )
        return np.array([1.0 if each else -1.0 for each in found])

    def prior(self, features: FloatArray) -> float:
        return 0.0

    def described(self, persona: str) -> FloatArray:
        words = dict(zip(persona.split()[::2], persona.split()[1::2], strict=False))
        if not set(PROPERTIES) <= set(words):
            return np.zeros(0)
        return np.array([float(words[name]) for name in PROPERTIES])

    def description(self, weights: FloatArray) -> str:
        return " ".join(f"{name} {weight:.4f}" for name, weight in zip(PROPERTIES, weights, strict=True))


class KeptJudge(TasteJudge):
    """The same, but its answers are kept, as those that cost something are."""

    instant = False
