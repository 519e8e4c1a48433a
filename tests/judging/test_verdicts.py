"""Letters out of answers, and the two orders of a pair joined."""

from __future__ import annotations

import numpy as np
import pytest

from prbench.judging.backend import Answer
from prbench.judging.verdicts import LARGEST, Judged, letter, margin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "A"),
        (" b.", "B"),
        ("**B**", "B"),
        ("<choice>A</choice>", "A"),
        ("<reason>B is long</reason> <choice> B </choice>", "B"),
        ("<choice>A</choice> no, wait <choice>B</choice>", "B"),
        ("<think><choice>A</choice></think><choice>B</choice>", "B"),
        ("<think>A", ""),
        ("Both A and B are fine", ""),
        ("I cannot help with that.", ""),
        ("", ""),
        ("C", ""),
        ("AB", ""),
    ],
)
def test_the_letter_of_an_answer(text: str, expected: str) -> None:
    assert letter(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(logprobs=(-0.1, -2.1)), 2.0),
        (Answer(logprobs=(0.0, -np.inf)), LARGEST),
        (Answer(logprobs=(-np.inf, -np.inf)), np.nan),
        (Answer(text="A"), 1.0),
        (Answer(text="B"), -1.0),
        (Answer(text="neither"), np.nan),
        (Answer(text="A", failure="refused"), np.nan),
    ],
)
def test_the_margin_of_an_answer(answer: Answer, expected: float) -> None:
    assert margin(answer) == pytest.approx(expected, nan_ok=True)


def test_two_orders_make_a_margin() -> None:
    """`straight` shows the chosen reply first: positive is right there, and negative is right in `turned`."""
    judged = Judged(np.array([2.0, 1.0, -1.0, np.nan, np.nan]), np.array([-4.0, 1.0, -1.0, -1.0, np.nan]))
    assert judged.margin.tolist() == [3.0, 0.0, 0.0, 0.5, 0.0]
    assert judged.failed.tolist() == [0, 0, 0, 1, 2]
    assert judged.strict.tolist() == [1.0, 0.5, 0.5, 0.5, 0.0]
    assert judged.contradicted.tolist() == [False, True, True, False, False]
    # First taken: rows 0, 1 straight, row 1 turned; of seven decided orders.
    assert judged.first_share == pytest.approx(3 / 7)
