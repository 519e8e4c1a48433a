"""Pipelines of several questions a user, run side by side so that the questions of all users are asked together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from prbench.judging.backend import Answer, Request
from prbench.judging.reader import Reader

Result = TypeVar("Result")
Pipeline = Generator[tuple[Reader, list[Request]], list[Answer], Result]
"""Gives questions to a judge model, is sent their answers, and returns a result."""


def run_together(pipelines: Sequence[Pipeline[Result]]) -> list[Result]:
    """The pipelines' results.

    In each round the questions of all that are not at their end are asked in one batch for each judge model.
    """
    results: dict[int, Result] = {}
    open_: dict[int, tuple[Reader, list[Request]]] = {}

    def go_on(number: int, answers: list[Answer] | None) -> None:
        try:
            pipeline = pipelines[number]
            open_[number] = next(pipeline) if answers is None else pipeline.send(answers)
        except StopIteration as end:
            results[number] = end.value

    for number in range(len(pipelines)):
        go_on(number, None)
    while open_:
        # Readers are compared by identity.
        by_reader: dict[Reader, dict[int, list[Request]]] = {}
        for number, (reader, requests) in open_.items():
            by_reader.setdefault(reader, {})[number] = requests
        open_.clear()
        for reader, asked in by_reader.items():
            answers = iter(reader.ask([request for requests in asked.values() for request in requests]))
            for number, requests in asked.items():
                go_on(number, [next(answers) for _ in requests])
    return [results[number] for number in range(len(pipelines))]
