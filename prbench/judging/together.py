"""Pipelines of several questions a user, run side by side so that the questions of all users are asked together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from prbench.judging.backend import Answer, Request
from prbench.judging.reader import Reader

Result = TypeVar("Result")
Pipeline = Generator[list[Request], list[Answer], Result]
"""Gives questions, is sent their answers, and returns a result."""


def run_together(reader: Reader, pipelines: Sequence[Pipeline[Result]]) -> list[Result]:
    """The pipelines' results. In each round the questions of all that are not at their end are asked in one batch."""
    results: dict[int, Result] = {}
    open_: dict[int, list[Request]] = {}

    def go_on(number: int, answers: list[Answer] | None) -> None:
        try:
            pipeline = pipelines[number]
            open_[number] = next(pipeline) if answers is None else pipeline.send(answers)
        except StopIteration as end:
            results[number] = end.value

    for number in range(len(pipelines)):
        go_on(number, None)
    while open_:
        asked, open_now = [request for requests in open_.values() for request in requests], dict(open_)
        open_.clear()
        answers = iter(reader.ask(asked))
        for number, requests in open_now.items():
            go_on(number, [next(answers) for _ in requests])
    return [results[number] for number in range(len(pipelines))]
