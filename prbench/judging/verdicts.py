"""From answers to margins: reading letters, and joining the two orders of a pair."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prbench.comparisons import FloatArray
from prbench.judging.backend import LABELS, Answer

LARGEST = 30.0
"""A margin in one order is at most this, in log-odds: a probability that rounds to 1 gives no infinite one."""
_CHOICE = re.compile(r"<\s*choice\s*>\s*([AB])\b", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_ALONE = re.compile(r"\W*([AB])\W*", re.IGNORECASE)


def letter(text: str) -> str:
    """The letter that an answer settles on, "" where it names none or leaves it open.

    It is the last one between marks; without any mark the whole answer must be the letter. Hidden reasoning that a
    server left in the text is passed over.
    """
    said = _THOUGHT.sub("", text)
    if found := _CHOICE.findall(said):
        return str(found[-1]).upper()
    alone = _ALONE.fullmatch(said.strip())
    return alone[1].upper() if alone else ""


def margin(answer: Answer) -> float:
    """How far an answer prefers the first reply: log-odds, or ±1 where it is a letter; NaN for a failure."""
    if answer.failure:
        return np.nan
    if answer.logprobs is not None:
        first, second = answer.logprobs[:2]
        # Two labels that are both impossible decide nothing.
        if not (np.isfinite(first) or np.isfinite(second)):
            return np.nan
        return float(np.clip(first - second, -LARGEST, LARGEST))
    said = letter(answer.text)
    return np.nan if said not in LABELS else 1.0 if said == LABELS[0] else -1.0


@dataclass(frozen=True, eq=False)
class Judged:
    """Verdicts on n pairs: `straight` [n] prefers the chosen reply when it is shown first, `turned` [n] prefers the
    rejected one, shown first then. NaN is a failure.
    """

    straight: FloatArray
    turned: FloatArray

    @property
    def margin(self) -> FloatArray:
        """The mean over the orders of how far the chosen reply is preferred, [n]; a failed order counts as 0."""
        return np.asarray((np.nan_to_num(self.straight) - np.nan_to_num(self.turned)) / 2)

    @property
    def failed(self) -> NDArray[np.int64]:
        """How many orders failed, [n]."""
        found: NDArray[np.int64] = np.isnan(self.straight).astype(np.int64) + np.isnan(self.turned)
        return found

    @property
    def strict(self) -> FloatArray:
        """The share of the two orders that are right, [n], a tie and a failure being wrong."""
        # A comparison with NaN is false: a failure is wrong.
        return np.asarray(((self.straight > 0).astype(float) + (self.turned < 0)) / 2)

    @property
    def contradicted(self) -> NDArray[np.bool_]:
        """Whether both orders decide, each for the reply that the other rejects, [n]."""
        found: NDArray[np.bool_] = self.straight * self.turned > 0
        return found

    @property
    def first_share(self) -> float:
        """The share of decided orders that took the reply shown first; NaN where none decided."""
        both = np.concatenate([self.straight, self.turned])
        decided = both[np.nan_to_num(both) != 0]
        return float((decided > 0).mean()) if len(decided) else np.nan

    def take(self, index: NDArray[np.int64]) -> Judged:
        """The verdicts at `index`."""
        return Judged(self.straight[index], self.turned[index])
