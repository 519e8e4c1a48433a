"""SynthesizeMe (Ryan et al. 2025, arXiv 2506.05598): persona and examples, found by trial on a user's own choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.comparisons import IntArray as Ints
from prbench.hyperparameters import Count, Natural, Share
from prbench.judging import prompts
from prbench.judging.backend import Pair, Request
from prbench.judging.method import TEXT, PairwiseMethod, packed, pair_at, plain, restored_pair, shown, stored_pair
from prbench.judging.prompts import Example
from prbench.judging.reader import Reader, reader_of
from prbench.judging.together import Pipeline, run_together
from prbench.judging.verdicts import margin
from prbench.method import UserStates
from prbench.methods.judge_icl import fitting, in_order

TRAIN_SHARE = 0.7
LEAST = 4
"""A user with fewer choices is not searched for: all of them are shown as they are."""
REASON_LENGTH = 4000
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class _Trial:
    """A user's choice with its side, and its reason where one was found that led to it."""

    pair: Pair
    first: bool
    reason: str = ""

    @property
    def example(self) -> Example:
        return shown(self.pair, self.first, self.reason)

    @property
    def asked(self) -> Pair:
        return self.example.pair


class SynthesizeMe(PairwiseMethod):
    """Per user: (1) sets of examples with reasons that led the judge to the user's own choice are compared on choices
    held out; (2) a persona is written from the best set; (3) with the persona, sets are compared again; (4) pairs are
    judged with persona and best set, after reasoning.

    A user's latest `support` choices are used, the first 70% (rounded down) to make examples and the rest to compare
    sets. The sets of (1) are `labelled` choices without reasons, a walk through the choices in order, and `random`
    walks in random order that end at a random number of examples; those of (3) begin with none at all. In a walk the
    judge sees `labelled` other choices and reasons about one; right verdicts become examples with their reason, and a
    walk with fewer than `labelled` is filled up. The first set that judges a share of `enough` of the held-out
    choices rightly, else the best one, is taken.

    `persona` and `examples` say what the last prompt shows. `reasoning` and `persona_tokens` are the most tokens that
    the judge writes for a verdict and for a persona. `writer` names a judge model that writes the personas in its
    place. With fewer than two choices it is the plain judge, and with two
    or three these are shown as they are, and described, without a search.
    """

    needs_writing: ClassVar[bool] = True
    second_models: ClassVar[tuple[str, ...]] = ("writer",)
    later_parameters: ClassVar[tuple[str, ...]] = ("writer",)

    def __init__(
        self,
        *,
        support: Count = 17,
        random: Natural = 10,
        labelled: Count = 4,
        enough: Share = 0.8,
        reasoning: Count = 512,
        persona_tokens: Count = 512,
        persona: bool = True,
        examples: bool = True,
        writer: str = "",
    ) -> None:
        self.support = support
        self.random = random
        self.labelled = labelled
        self.enough = enough
        self.reasoning = reasoning
        self.persona_tokens = persona_tokens
        self.persona = persona
        self.examples = examples
        self.writer = writer

    def states_of(self, support: Comparisons, users: Ints, rng: Rng) -> UserStates:
        """Each user's persona and examples, all users side by side."""
        reader = reader_of(support.items)
        found = run_together([self._found(support, user, rng, reader) for user in users.tolist()])
        return UserStates(users, {TEXT: packed(found)})

    def _found(self, support: Comparisons, user: int, rng: Rng, reader: Reader) -> Pipeline[dict[str, Any]]:
        """One user's state."""
        draw = rng.child("synthesizeme")
        trials = []
        for row in in_order(support, user)[-self.support :].tolist():
            number = int(support.row[row])
            trials.append(_Trial(pair_at(support, row), draw.child("side", number).seed % 2 == 0))
        if len(trials) < 2:
            return {}
        persona, found = "", trials
        if len(trials) < LEAST:
            if self.persona:
                persona = yield from self._describe(trials, reader)
        else:
            cut = int(TRAIN_SHARE * len(trials))
            train, held_out = trials[:cut], trials[cut:]
            own = draw.child(user)
            found = yield from self._search(train, held_out, "", own.child("without persona"), reader)
            if self.persona:
                # Where no example was best, the persona is written from the choices themselves.
                persona = yield from self._describe(found or train, reader)
                if self.examples:
                    found = yield from self._search(train, held_out, persona, own.child("with persona"), reader)
        kept = found if self.examples else []
        return {
            "persona": persona,
            "examples": [{**stored_pair(t.pair), "first": t.first, "reason": t.reason} for t in kept],
        }

    def _search(
        self, train: Sequence[_Trial], held_out: Sequence[_Trial], persona: str, rng: Rng, reader: Reader
    ) -> Pipeline[list[_Trial]]:
        """The set of examples that judges the held-out choices best.

        Sets are tried one by one, up to the first that is good enough: the published search runs all of them and then
        takes that same one.
        """
        best: list[_Trial] = []
        best_share = -1.0
        names = ["none"] * bool(persona) + ["labelled", "in order", *(f"random {i}" for i in range(self.random))]
        for name in names:
            tried = yield from self._candidate(name, train, persona, rng.child(name), reader)
            asked = [fitting(reader, t.asked, [e.example for e in tried], persona=persona, reasoned=self.reasoning)
                     for t in held_out]  # fmt: skip
            answers = yield reader, asked
            right = [_right(t, margin(answer)) for t, answer in zip(held_out, answers, strict=True)]
            share = sum(right) / len(right)
            if share > best_share:
                best, best_share = tried, share
            if share >= self.enough:
                break
        return best

    def _candidate(
        self, name: str, train: Sequence[_Trial], persona: str, rng: Rng, reader: Reader
    ) -> Pipeline[list[_Trial]]:
        """One set of examples."""
        if name == "none":
            return []
        draw = rng.numpy()
        if name == "labelled":
            return [train[i] for i in draw.permutation(len(train))[: self.labelled]]
        order, most = np.arange(len(train)), len(train)
        if name != "in order":
            order, most = draw.permutation(len(train)), int(draw.integers(1, len(train) + 1))
        shown_first = [train[i] for i in draw.permutation(len(train))[: self.labelled]]
        kept: dict[int, _Trial] = {}
        for i in order.tolist():
            if len(kept) == most:
                break
            trial = train[i]
            others = [other.example for other in shown_first if other is not trial]
            asked = fitting(reader, trial.asked, others, persona=persona, reasoned=self.reasoning)
            [answer] = yield reader, [asked]
            if _right(trial, margin(answer)):
                kept[i] = _Trial(trial.pair, trial.first, _reason(answer.text))
        found = list(kept.values())
        rest = [train[i] for i in draw.permutation(len(train)).tolist() if i not in kept]
        return [*rest[: max(0, self.labelled - len(found))], *found]

    def _describe(self, found: Sequence[_Trial], reader: Reader) -> Pipeline[str]:
        """A persona of the person who made these choices; with the last ones that the model's context holds."""
        examples = [trial.example for trial in found]
        reader = reader.second(self.writer)
        asked = prompts.persona(examples, self.persona_tokens)
        while len(examples) > 1 and not reader.fits(asked):
            examples = examples[1:]
            asked = prompts.persona(examples, self.persona_tokens)
        reader.tally.shortened += len(examples) < len(found)
        [answer] = yield reader, [asked]
        return "" if answer.failure else answer.text.strip()

    def requests(self, state: Mapping[str, Any], pairs: Sequence[Pair], items: Items) -> list[Request]:
        """The pairs after persona and examples, with reasoning; the plain judge's where nothing is known."""
        examples = [
            shown(restored_pair(value), bool(value.get("first")), str(value.get("reason", "")))
            for value in state.get("examples", ())
        ]
        persona = str(state.get("persona", ""))
        if not persona and not examples:
            return plain(pairs)
        reader = reader_of(items)
        return [fitting(reader, pair, examples, persona=persona, reasoned=self.reasoning) for pair in pairs]


def _right(trial: _Trial, value: float) -> bool:
    """Whether a verdict in the order shown is the user's own choice; a failure and a tie are not."""
    return bool(value > 0) if trial.first else bool(value < 0)


def _reason(text: str) -> str:
    """What was written before the choice, without marks."""
    said = prompts.unmarked(text.rpartition("<choice>")[0] or text)
    return said[:REASON_LENGTH]
