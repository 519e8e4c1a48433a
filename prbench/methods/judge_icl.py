"""A judge that is shown some of a user's own choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count
from prbench.judging.backend import Pair, Request
from prbench.judging.method import TEXT, PairwiseMethod, packed, pair_at, restored_pair, shown, stored_pair
from prbench.judging.prompts import Example, conversation, verdict
from prbench.judging.reader import Reader, reader_of
from prbench.judging.similar import similarities
from prbench.method import UserStates

MOST_KEPT = 256
"""Of a user with more choices, the latest ones are kept to look for near ones in."""


def in_order(support: Comparisons, user: int) -> IntArray:
    """The positions of a user's rows, oldest first where the data have times, else by row number."""
    own = np.flatnonzero(support.user == user)
    time = np.zeros(len(own)) if support.time is None else support.time[own]
    return own[np.lexsort((support.row[own], time))]


class JudgeICL(PairwiseMethod):
    """The plain judge's pair, after up to `shots` choices of the user as examples.

    `choose` "random" draws them once per user, "latest" takes the last ones, oldest first, and "nearest" takes for
    each pair those with the most words in common (`prbench.judging.similar`), the nearest last. The chosen reply
    comes first in every other example, starting with either. Where a prompt is longer than the model's context, the
    examples farthest from the pair are left out one by one. Without any choice it is the plain judge.

    In-context generation with a user's choices is the baseline of arXiv 2512.23067; this judging form is our own.
    """

    def __init__(self, *, shots: Count = 8, choose: Literal["random", "latest", "nearest"] = "random") -> None:
        self.shots = shots
        self.choose = choose

    def states_of(self, support: Comparisons, users: IntArray, rng: Rng) -> UserStates:
        """Each user's choices with their texts, in the order in which they are shown."""
        found: list[dict[str, Any]] = []
        for user in users.tolist():
            rows = in_order(support, user)
            if self.choose == "nearest":
                rows = rows[-MOST_KEPT:]
            elif self.choose == "latest":
                rows = rows[-self.shots :]
            else:
                # A hash of the row: neither the batch nor the order of the support changes the draw.
                drawn = sorted(rows.tolist(), key=lambda row: rng.child("example", int(support.row[row])).seed)
                rows = np.array(drawn[: self.shots], dtype=np.int64)
            choices = [stored_pair(pair_at(support, row)) for row in rows.tolist()]
            found.append({"first": rng.child("first", user).seed % 2, "choices": choices} if choices else {})
        return UserStates(users, {TEXT: packed(found)})

    def requests(self, state: Mapping[str, Any], pairs: Sequence[Pair], items: Items) -> list[Request]:
        """The pairs after the examples."""
        reader = reader_of(items)
        kept = [restored_pair(value) for value in state.get("choices", ())]
        start = int(state.get("first", 0))
        texts = [_words(pair) for pair in kept] if self.choose == "nearest" else []
        made = []
        for pair in pairs:
            chosen = kept
            if self.choose == "nearest" and kept:
                order = np.argsort(similarities(_words(pair), texts), kind="stable")
                chosen = [kept[i] for i in order[-self.shots :]]
            examples = [shown(choice, (i + start) % 2 == 0) for i, choice in enumerate(chosen)]
            made.append(fitting(reader, pair, examples))
        return made


def fitting(
    reader: Reader, pair: Pair, examples: Sequence[Example], *, persona: str = "", reasoned: int = 0
) -> Request:
    """The question with as many of the last examples as the model's context holds."""
    asked = verdict(pair, persona=persona, examples=examples, reasoned=reasoned)
    kept = list(examples)
    while kept and not reader.fits(asked):
        kept = kept[1:]
        asked = verdict(pair, persona=persona, examples=kept, reasoned=reasoned)
    reader.tally.shortened += len(kept) < len(examples)
    return asked


def _words(pair: Pair) -> str:
    """The texts of a pair, whichever way round."""
    return " ".join((conversation(pair.context), *sorted((pair.first, pair.second))))
