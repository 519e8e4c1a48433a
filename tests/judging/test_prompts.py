"""What judge models are given: no text of the data can close the marks around it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prbench.comparisons import Message
from prbench.judging.backend import LABELS, Pair
from prbench.judging.prompts import MARKS, Example, fenced, verdict

ASK = (Message("user", "How do I fix a tap?"),)
PIECES = st.sampled_from(
    ["<", ">", "/", " ", "\n", "</", "\u200b", *MARKS, *(mark.upper() for mark in MARKS), "text", "<!--", "< / "]
)
HOSTILE = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)


def marks_in(text: str) -> list[str]:
    """Every mark as a lenient reader would find it."""
    return re.findall(rf"<\s*/?\s*(?:{'|'.join(MARKS)})\b[^>]*>", text, re.IGNORECASE)


@given(HOSTILE)
def test_a_text_cannot_close_or_open_a_mark(text: str) -> None:
    assert marks_in(fenced("reply_a", text)) == ["<reply_a>", "</reply_a>"]


@given(HOSTILE, HOSTILE, HOSTILE)
def test_a_prompt_has_the_marks_of_the_prompt_alone(question: str, one: str, other: str) -> None:
    harmless = verdict(Pair(ASK, "x", "y"), persona="p", examples=[Example(Pair(ASK, "x", "y"), True, "r")])
    pair = Pair((Message("user", question),), one, other)
    # A persona or reason without any text is not shown.
    hostile = verdict(pair, persona=f"p{other}", examples=[Example(pair, True, f"r{one}")])
    assert marks_in(hostile.messages[-1].content) == marks_in(harmless.messages[-1].content)


def test_texts_without_marks_stay_as_they_are() -> None:
    text = "if a < b and c > d: <b>bold</b> <reply_all> <contextual>"
    assert fenced("reply", text) == f"<reply>\n{text}\n</reply>"


def test_what_changes_least_comes_first() -> None:
    pair, other = Pair(ASK, "one", "two"), Pair(ASK, "three", "four")
    asked = verdict(pair, persona="likes brevity", examples=[Example(other, False)])
    text = asked.messages[-1].content
    places = [text.index(part) for part in ("likes brevity", "three", "<choice>B</choice>", "one", "two")]
    assert places == sorted(places)
    assert asked.labels == LABELS
    again = verdict(Pair(ASK, "five", "six"), persona="likes brevity", examples=[Example(other, False)])
    assert again.messages[-1].content[: asked.shared] == text[: asked.shared]
    assert "likes brevity" in text[: asked.shared]
    assert "one" not in text[: asked.shared].replace("person", "")


@pytest.mark.parametrize("reasoned", [0, 64])
def test_without_anything_personal_it_is_the_plain_prompt(reasoned: int) -> None:
    asked = verdict(Pair(ASK, "one", "two"), reasoned=reasoned)
    assert asked.shared == 0
    assert "person" not in "".join(message.content for message in asked.messages)
