"""PersRM-R1, reconstructed with its two stages: supervised on verified reasoning, then reinforced by verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Context, Items, Message
from prbench.hyperparameters import Count, NonNegative, Positive
from prbench.judging.adapted import Kind, OwnWeights
from prbench.judging.backend import LABELS, Pair, Request
from prbench.judging.method import pair_at
from prbench.judging.prompts import marked_verdict, verdict
from prbench.judging.reader import Reader, reader_of
from prbench.judging.verdicts import Judged, letter, margin
from prbench.method import UserStates
from prbench.methods.persrm import PersRM
from prbench.training.adapter_training import Pass, Recipe, ReinforcedStage, SupervisedStage, train
from prbench.training.text_method import TrainedTextMethod, nothing_to_train_on

FORMAT_REWARD = 0.1
_FORM = re.compile(r"\s*<reason>(?:(?!</?reason>).)+</reason>\s*<choice>\s*[AB]\s*</choice>\s*", re.DOTALL)


class Question(NamedTuple):
    """What is asked about a choice, and the letter of the reply that was chosen."""

    request: Request
    letter: str


class PersRMTuned(TrainedTextMethod, PersRM):
    """`PersRM` with an adapter on the judge model's weights.

    The supervised stage: `teacher` (by default the judge model itself) judges up to `traces` of the seen users'
    choices from `exemplars` of the same user's other ones; where its verdict is the user's choice, its reasoning is
    learned, for `passes` passes at the learning rate `rate`. The reinforced stage goes on from there: of each of
    these questions `completions` answers are drawn at `temperature`, and rewarded with 1 for the user's choice and a
    further 0.1 for the form, for `reinforced_passes` passes at `reinforced_rate`. `batch` questions make an update.
    LoRA of `rank` and `alpha` on all linear layers. The cold start is the tuned model without exemplars.

    After PersRM-R1 (arXiv 2508.14076), whose traces, judge prompt and reward are not published.
    """

    kind: ClassVar[Kind] = "language"
    second_models: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(
        self,
        *,
        stage: Literal["supervised", "reinforced"] = "supervised",
        teacher: str = "",
        exemplars: Annotated[int, Field(ge=1, le=16)] = 3,
        reasoning: Count = 512,
        traces: Count = 2000,
        rank: Count = 16,
        alpha: Positive = 32.0,
        rate: Positive = 1e-4,
        weight_decay: NonNegative = 0.0,
        passes: Count = 1,
        batch: Count = 8,
        reinforced_rate: Positive = 1e-5,
        reinforced_passes: Count = 1,
        completions: Annotated[int, Field(ge=2, le=256)] = 8,
        temperature: Positive = 1.0,
    ) -> None:
        super().__init__(exemplars=exemplars, reasoning=reasoning)
        self.stage = stage
        self.teacher = teacher
        self.traces = traces
        self.rank = rank
        self.alpha = alpha
        self.rate = rate
        self.weight_decay = weight_decay
        self.passes = passes
        self.batch = batch
        self.reinforced_rate = reinforced_rate
        self.reinforced_passes = reinforced_passes
        self.completions = completions
        self.temperature = temperature

    @property
    def budget(self) -> int:
        """The passes of the last stage: the supervised one always runs to its end before the other."""
        return self.passes if self.stage == "supervised" else self.reinforced_passes

    def ask_ahead(self, train_on: Comparisons, states: UserStates, rng: Rng) -> None:
        """The teacher's verdicts."""
        questions = self._questions(train_on, rng)
        reader_of(train_on.items).second(self.teacher).ask([question.request for question in questions])

    def passes_of(
        self, train_on: Comparisons, states: UserStates, count: int, rng: Rng, checkpoints: Path | None
    ) -> Iterator[Pass]:
        """See `TrainedTextMethod.passes_of`."""
        reader = reader_of(train_on.items)
        questions = self._questions(train_on, rng)
        model = self.begun_model(reader, rng)
        traces, asked = self._verified(questions, reader), len(questions)
        rows = [row for row in (_learned_row(model.own, *trace) for trace in traces) if row is not None]
        told = {"asked": float(asked), "verified": float(len(traces)), "learned": float(len(rows))}
        if not rows:
            raise InputError(
                f"of {asked:,} verdicts of the teacher {len(traces):,} are the user's choice, and none can be learned"
                " from",
                hint="name a better judge model as teacher, or give its answers more tokens (reasoning)",
            )
        supervised = Recipe(
            count if self.stage == "supervised" else self.passes, self.batch, self.rate, self.weight_decay
        )
        model = self.begun_model(reader, rng)
        last = None
        for last in train(SupervisedStage(), model, rows, supervised, rng.child("supervised"), checkpoints):
            if self.stage == "supervised":
                yield last._replace(measures={**last.measures, **told})
        if self.stage == "supervised" or last is None:
            return
        told["supervised_loss"] = last.loss
        prompts = [
            {"prompt": model.own.said(question.request.messages), "chosen": question.letter} for question in questions
        ]
        stage = ReinforcedStage((rightness, form), self.completions, self.reasoning, self.temperature)
        recipe = Recipe(count, self.batch, self.reinforced_rate, self.weight_decay)
        for each in train(stage, model, prompts, recipe, rng.child("reinforced"), checkpoints):
            yield each._replace(measures={**each.measures, **told})

    def _questions(self, data: Comparisons, rng: Rng) -> list[Question]:
        """Up to `traces` choices, drawn by hash, each after other ones of its user and in an order drawn by hash."""
        reader, draw = reader_of(data.items), rng.child("traces")
        pairs = {row: pair_at(data, row) for row in range(len(data))}
        rows = [row for row, pair in pairs.items() if pair.first != pair.second]
        if not rows:
            raise nothing_to_train_on()
        rows.sort(key=lambda row: draw.child("row", int(data.row[row])).seed)
        of_user: dict[int, list[int]] = {}
        for row in pairs:
            of_user.setdefault(int(data.user[row]), []).append(row)
        found = []
        for row in rows[: self.traces]:
            number = int(data.row[row])
            own = draw.child("exemplars", number)
            others = [each for each in of_user[int(data.user[row])] if each != row]
            others.sort(key=lambda each, own=own: own.child(int(data.row[each])).seed)  # type: ignore[misc]
            liked = [(pairs[each].context, pairs[each].first) for each in others[: self.exemplars]]
            pair = pairs[row]
            first = draw.child("side", number).seed % 2 == 0
            shown = pair if first else Pair(pair.context, pair.second, pair.first)
            found.append(Question(self._asked(shown, liked, reader), LABELS[0 if first else 1]))
        return found

    def _asked(self, pair: Pair, liked: Sequence[tuple[Context, str]], reader: Reader) -> Request:
        """The question with as many exemplars as fit; without any, the plain one, reasoned."""
        kept = list(liked)
        asked = self._question(pair, kept)
        while kept and not reader.fits(asked):
            kept = kept[1:]
            asked = self._question(pair, kept)
        reader.tally.shortened += len(kept) < len(liked)
        return asked

    def _question(self, pair: Pair, liked: Sequence[tuple[Context, str]]) -> Request:
        return marked_verdict(pair, liked, self.reasoning) if liked else verdict(pair, reasoned=self.reasoning)

    def _verified(self, questions: Sequence[Question], reader: Reader) -> list[tuple[Request, str]]:
        """The questions whose verdict is the user's choice, each with the teacher's text."""
        answers = reader.second(self.teacher).ask([question.request for question in questions])
        return [
            (question.request, answer.text)
            for question, answer in zip(questions, answers, strict=True)
            if answer.text and margin(answer) == (1.0 if question.letter == LABELS[0] else -1.0)
        ]

    def requests(self, state: Mapping[str, Any], pairs: Sequence[Pair], items: Items) -> list[Request]:
        """The pairs after the exemplars; the same tuned model reasons without them where nothing is known."""
        if not state.get("choices"):
            return [verdict(pair, reasoned=self.reasoning) for pair in pairs]
        return super().requests(state, pairs, items)

    def judge(self, states: UserStates, comparisons: Comparisons) -> Judged:
        """The tuned model's verdicts on every comparison in both orders."""
        items, reader = comparisons.items, reader_of(comparisons.items)
        if not reader.dry and items.text is not None:
            tuned = reader.tuned(reader.backend.tuned(self.model(reader), self.learned()))
            comparisons = replace(comparisons, items=replace(items, text=replace(items.text, reader=tuned)))
        return super().judge(states, comparisons)


def rightness(texts: Sequence[str], chosen: Sequence[str], **_: Any) -> list[float]:
    """1 for a text that settles on the chosen reply's letter, else 0."""
    return [float(letter(text) == right) for text, right in zip(texts, chosen, strict=True)]


def form(texts: Sequence[str], **_: Any) -> list[float]:
    """0.1 for a text that is a reason and a choice between their marks and nothing else."""
    return [FORMAT_REWARD * bool(_FORM.fullmatch(text)) for text in texts]


def _learned_row(own: OwnWeights, asked: Request, text: str) -> dict[str, list[int]] | None:
    """A question with its answer as tokens, of which the answer's alone are learned; None for what is too long.

    Raises InputError for a chat template that writes an answer otherwise than it asks for one.
    """
    prompt = own.ids(asked.messages, False)
    whole = own.ids([*asked.messages, Message("assistant", text)], True)
    if whole[: len(prompt)] != prompt:
        raise InputError(
            "the judge model's chat template writes an answer otherwise than it asks for one",
            hint="take another judge model",
        )
    if len(whole) > own.room:
        return None
    return {"input_ids": list(whole), "labels": [-100] * len(prompt) + list(whole[len(prompt) :])}
