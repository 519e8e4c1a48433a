"""MT-bench human judgments: which of two language models' replies people prefer, on 80 questions of two turns.

Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", NeurIPS 2023 Datasets and Benchmarks (arXiv
2306.05685). Judges are named: graduate students of the field ("expert") and authors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder, keep_frequent
from prbench.loaders.json_lines import json_lines
from prbench.loaders.reading import one_of
from prbench.loaders.rows import records

HUB_FILE = "human-00000-of-00001-25f4910818759289.parquet"
VERDICTS_HUB_FILE = "gpt4_pair-00000-of-00001-c0b431264a82ddc0.parquet"
VOTES = "human.jsonl"
VERDICTS = "gpt4_pair.jsonl"
QUESTIONS = "question.jsonl"
WINNERS = {"model_a": 0, "model_b": 1, "tie": None}

TIES = "ties dropped"
SAME_TEXT = "votes between identical texts dropped"
EMPTY = "votes with an empty reply"


class Vote(NamedTuple):
    """One judgement of the pair (`model_a`, `model_b`) after `turn` 1 or 2; `winner` is 0, 1, or None for a tie."""

    question: int
    turn: int
    model_a: str
    model_b: str
    judge: str
    winner: int | None


class Side(NamedTuple):
    """What one model was asked and replied: up to two questions, and as many replies."""

    questions: list[str]
    replies: list[str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MTBenchHuman:
    """Loader of the human judgments. Ties and votes between identical texts are dropped and counted.

    Users are the judges with at least `min_comparisons` comparisons left, numbered in the order of the sorted votes.
    The context is the first question. A vote on turn 2 follows two different first replies, so that each side's own
    first reply, the second question and the second reply are its response (`two_turns`). A group and a block are a
    question with both its turns: the first replies stand in the votes on either turn.

    `empty_replies` "keep" keeps votes in which a judged reply is empty, as the six models gave some; "drop" leaves
    them out. Both count them. The files are the hub's, or the release's own: votes, questions and models' answers.
    """

    min_comparisons: Annotated[int, Field(ge=1)] = 20
    empty_replies: Literal["keep", "drop"] = "keep"

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons, ordered by question, turn, models and judge. Raises InputError naming file and row."""
        builder = Builder("votes", TIES, SAME_TEXT, EMPTY)
        blocks: list[int] = []
        for vote, sides in sorted(judged(raw), key=lambda each: _order(each[0])):
            builder.counts["votes"] += 1
            if vote.winner is None:
                builder.counts[TIES] += 1
                continue
            texts = [response(side, vote.turn) for side in sides]
            if texts[0] == texts[1]:
                builder.counts[SAME_TEXT] += 1
                continue
            empty = any(not side.replies[vote.turn - 1].strip() for side in sides)
            builder.counts[EMPTY] += empty
            if empty and self.empty_replies == "drop":
                continue
            chosen, rejected = texts[vote.winner], texts[1 - vote.winner]
            builder.add(vote.judge, as_context(sides[0].questions[0]), chosen, rejected, group=vote.question)
            blocks.append(vote.question)
        data = builder.build(name, empty="the files hold no vote that prefers one reply")
        return keep_frequent(replace(data, block=np.array(blocks, dtype=np.int64)), self.min_comparisons)


def two_turns(first: str, question: str, second: str) -> str:
    """The response that a vote on turn 2 judges: the first reply, the second question and the reply to it."""
    return f"{first}\n\nUser: {question}\n\nAssistant: {second}"


def response(side: Side, turn: int) -> str:
    """What a vote on `turn` judges of a side."""
    return side.replies[0] if turn == 1 else two_turns(side.replies[0], side.questions[1], side.replies[1])


def judged(raw: RawSource) -> Iterator[tuple[Vote, tuple[Side, Side]]]:
    """The votes of people, or where the files have none GPT-4's verdicts, each with the two sides' texts.

    They come from the release's files or from the hub's rows. Raises InputError naming file and row.
    """
    files = {path.name: path for path in raw.paths()}
    for votes in (VOTES, VERDICTS):
        if votes in files:
            return _from_release(files, votes)
    return _from_hub(files[HUB_FILE if HUB_FILE in files else VERDICTS_HUB_FILE])


def read_votes(path: Path) -> Iterator[Vote]:
    """The votes of a file of the release. Raises InputError naming the line that is not to the schema."""
    for line, record in json_lines(path):
        yield _vote(record, f"{path}, line {line}")


def _from_release(files: dict[str, Path], votes: str) -> Iterator[tuple[Vote, tuple[Side, Side]]]:
    """The votes with the texts of the models' answers."""
    if QUESTIONS not in files:
        raise InputError(f"there is no {QUESTIONS} beside {files[votes]}")
    questions = {}
    for line, record in json_lines(files[QUESTIONS]):
        where = f"{files[QUESTIONS]}, line {line}"
        questions[_whole(record, "question_id", where)] = _two_texts(record.get("turns"), f"{where}: turns")
    answers: dict[tuple[str, int], list[str]] = {}
    for path in files.values():
        if path.name in (votes, QUESTIONS):
            continue
        for line, record in json_lines(path):
            where = f"{path}, line {line}"
            choices = record.get("choices")
            if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
                raise InputError(f"{where}: choices is not a list of answers")
            turns = _two_texts(choices[0].get("turns"), f"{where}: choices[0].turns")
            answers[path.stem, _whole(record, "question_id", where)] = turns
    for vote in read_votes(files[votes]):
        if vote.question not in questions:
            raise InputError(f"{files[votes]}: there is no question {vote.question} in {QUESTIONS}")
        for model in (vote.model_a, vote.model_b):
            if (model, vote.question) not in answers:
                raise InputError(f"{files[votes]}: there is no answer of {model!r} to question {vote.question}")
        asked = questions[vote.question]
        first, second = (Side(asked, answers[model, vote.question]) for model in (vote.model_a, vote.model_b))
        yield vote, (first, second)


def _from_hub(path: Path) -> Iterator[tuple[Vote, tuple[Side, Side]]]:
    """The votes with the conversations that the hub's rows hold: both turns, whichever was judged."""
    columns = ("question_id", "model_a", "model_b", "winner", "judge", "turn", "conversation_a", "conversation_b")
    for where, record in records(path, columns, ()):
        first, second = (_side(record[column], f"{where}: {column}") for column in columns[-2:])
        if first.questions != second.questions:
            raise InputError(f"{where}: the two conversations have different questions")
        yield _vote(record, where), (first, second)


def _side(value: Any, where: str) -> Side:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(message, dict) for message in value):
        raise InputError(f"{where} is not a list of four messages")
    if [message.get("role") for message in value] != ["user", "assistant"] * 2:
        raise InputError(f"{where} is not a question and a reply, twice")
    texts = [message.get("content") for message in value]
    return Side(_two_texts(texts[::2], where), _two_texts(texts[1::2], where))


def _vote(record: dict[str, Any], where: str) -> Vote:
    texts = [record.get(key) for key in ("model_a", "model_b", "judge")]
    if not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"{where}: model_a, model_b or judge is missing or not a text")
    turn, winner = _whole(record, "turn", where), record.get("winner")
    if turn not in (1, 2):
        raise InputError(f"{where}: turn is {turn}, expected 1 or 2")
    # GPT-4's verdicts, which were asked for in both orders, have ties of their own.
    winner = "tie" if isinstance(winner, str) and winner.startswith("tie") else winner
    winner = one_of(winner, WINNERS, where, "winner")
    model_a, model_b, judge = map(str, texts)
    return Vote(_whole(record, "question_id", where), turn, model_a, model_b, judge, WINNERS[winner])


def _order(vote: Vote) -> tuple[int, int, str, str, str, int]:
    return (*vote[:5], 2 if vote.winner is None else vote.winner)


def _whole(record: dict[str, Any], key: str, where: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: {key} is missing or not a whole number")
    return value


def _two_texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where} is not a list of two texts")
    return value
