"""Answers are stored the moment they come, equal questions are asked once, and a budget ends calls."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.judging.answers import AnswerStore, store_of
from prbench.judging.backend import Answer, Backend, Request, Tell
from prbench.judging.reader import Budget, OutOfBudgetError, Reader
from prbench.registry.schema import JudgeEntry

ENTRY = JudgeEntry(
    name="counting", title="", target="x:y", licence="", homepage="", summary="", price_in=10.0, price_out=100.0
)


class Counting(Backend):
    """Writes down what it is asked; "fail" fails once, "stop" interrupts."""

    def __init__(self, seen: list[str] | None = None) -> None:
        self.seen = seen if seen is not None else []

    @property
    def context(self) -> int:
        return 2000

    def identity(self) -> dict[str, Any]:
        return {"kind": "counting"}

    def answer(self, requests: Sequence[Request], tell: Tell) -> None:
        for number, request in enumerate(requests):
            said = request.messages[-1].content
            if said == "stop":
                raise KeyboardInterrupt
            self.seen.append(said)
            failed = said == "fail" and self.seen.count(said) == 1
            tell(number, Answer(said.upper(), tokens_in=1000, tokens_out=100, failure="lost" if failed else ""))


def ask(text: str, **more: Any) -> Request:
    return Request((Message("user", text),), **more)


def test_equal_questions_are_asked_once_and_stay_answered(prbench_home: Path) -> None:
    backend = Counting()
    reader = Reader(ENTRY, backend)
    answers = reader.ask([ask("a"), ask("b"), ask("a"), ask("a", sample=1)])
    assert [answer.text for answer in answers] == ["A", "B", "A", "A"]
    assert backend.seen == ["a", "b", "a"]
    assert (reader.tally.asked, reader.tally.calls, reader.tally.tokens_in) == (4, 3, 4000)
    # 10 per million tokens in, 100 out: 1,000 in and 100 out cost 0.02 a call.
    assert reader.spent.cost == pytest.approx(0.06)
    again = Counting()
    later = Reader(ENTRY, again)
    assert [answer.text for answer in later.ask([ask("b"), ask("a")])] == ["B", "A"]
    assert again.seen == []
    assert (later.tally.asked, later.tally.calls) == (2, 0)


def test_an_interruption_loses_no_answer(prbench_home: Path) -> None:
    backend = Counting()
    with pytest.raises(KeyboardInterrupt):
        Reader(ENTRY, backend).ask([ask("a"), ask("stop"), ask("b")])
    other = Counting()
    Reader(ENTRY, other).ask([ask("a"), ask("b")])
    assert backend.seen + other.seen == ["a", "b"]


def test_a_failure_is_tried_again_by_the_next_run(prbench_home: Path) -> None:
    backend = Counting()
    assert Reader(ENTRY, backend).ask([ask("fail")])[0].failure == "lost"
    assert Reader(ENTRY, Counting(backend.seen)).ask([ask("fail")])[0].failure == ""


@pytest.mark.parametrize(
    ("budget", "calls", "option"),
    [(Budget(calls=2), 2, "--max-calls 2"), (Budget(tokens=2300), 2, "--max-tokens 2300"),
     (Budget(cost=0.05), 2, "--max-cost 0.05")],
)  # fmt: skip
def test_a_budget_ends_calls_and_keeps_answers(budget: Budget, calls: int, option: str, prbench_home: Path) -> None:
    backend = Counting()
    questions = [ask(f"{n}" * 3900, limit=100) for n in range(4)]
    with pytest.raises(OutOfBudgetError) as caught:
        Reader(ENTRY, backend, budget=budget).ask(questions)
    assert option in str(caught.value)
    assert len(backend.seen) == calls
    other = Counting()
    Reader(ENTRY, other).ask(questions)
    assert len(other.seen) == 4 - calls


def test_a_prompt_that_does_not_fit_is_refused_before_any_call(prbench_home: Path) -> None:
    backend = Counting()
    with pytest.raises(InputError) as caught:
        Reader(ENTRY, backend).ask([ask("short"), ask("x" * 10_000)])
    assert "longer than the 2,000 of counting" in str(caught.value)
    assert backend.seen == []


def test_a_damaged_store_is_named(prbench_home: Path) -> None:
    backend = Counting()
    Reader(ENTRY, backend).ask([ask("a")])
    path = store_of("counting", backend.identity())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET answer = '{'")
    database.close()
    with pytest.raises(InputError, match="cannot be used as a store of answers"):
        Reader(ENTRY, backend).ask([ask("a")])
    path.unlink()
    for beside in path.parent.glob("*.sqlite-*"):
        beside.unlink()
    path.write_bytes(b"no database, and long enough to be looked at " * 40)
    with pytest.raises(InputError, match=path.name):
        AnswerStore(path, backend.identity()).find(["a"])
