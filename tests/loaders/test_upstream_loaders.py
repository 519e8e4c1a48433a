"""PRISM: each drop counted on files in the release's schema, the published variants, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upstream_fixtures import (
    Files,
    plain,
    prism_conversation,
    prism_user,
    refusal,
    texts,
    write_lines,
    write_prism,
)

from prbench import registry
from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData
from prbench.loaders.prism import Prism, Turn, read_dialogues
from prbench.loaders.prism import Reply as PrismReply
from prbench.protocol.repeats import REPEATS, join_repeats


def of(found: PreferenceData, user: str) -> list[tuple[tuple[str, ...], str, str]]:
    return [row[1:] for row in texts(found) if row[0] == user]


def prism(folder: Path, **options: Any) -> PreferenceData:
    return Prism(**options).load(Files(folder), "toy")


def test_prism_keeps_users_with_six_usable_dialogues_in_the_surveys_order(tmp_path: Path) -> None:
    found = prism(write_prism(tmp_path))
    assert found.user_keys == ("bob", "alice")
    for key, expected in {
        "users in the survey": 5,
        "users without a dialogue": 1,
        "dialogues": 7 + 6 + 6 + 2,
        # alice's and carol's; carol has five others and falls below six.
        "dialogues without a usable turn dropped": 2,
        "users with fewer than 6 usable dialogues dropped": 2,
        "usable dialogues of dropped users": 5 + 2,
        "users left without comparisons": 0,
    }.items():
        assert found.counts[key] == expected, key
    assert prism(tmp_path, min_dialogues=5).user_keys == ("bob", "alice", "carol")


def test_prism_knows_what_groups_its_people_from_the_survey(tmp_path: Path) -> None:
    write_prism(tmp_path)
    lines = (tmp_path / "survey.jsonl").read_text().splitlines()
    people = {record["user_id"]: record for record in map(json.loads, lines)}
    people["bob"] |= {"gender": "Male", "ethnicity": {"simplified": "Mixed"}, "location": None, "age": " "}
    write_lines(tmp_path / "survey.jsonl", list(people.values()))
    attributes = prism(tmp_path).attributes
    assert attributes["gender"] == ("Male", "Female")
    assert attributes["ethnicity"] == ("Mixed", "White")
    assert attributes["region"] == ("not given", "Europe")
    assert attributes["age"] == ("not given", "25-34 years old")


def test_prism_pairs_the_chosen_reply_with_each_rejected_one_after_a_history_of_chosen_replies(
    tmp_path: Path,
) -> None:
    found = prism(write_prism(tmp_path))
    rows = of(found, "alice")
    assert rows[:3] == [
        (("Tea?",), "Yes.", "No."),
        (("Tea?",), "Yes.", "Perhaps."),
        # The turn of the twins has no rejected reply and is not part of the history either.
        (("Tea?", "Yes.", "Sugar?"), "One.", "Never."),
    ]
    roles = {tuple(message.role for message in context) for context in found.contexts}
    assert roles == {("user",), ("user", "assistant", "user"), ("user", "assistant") * 2 + ("user",)}
    assert of(found, "bob")[:3] == [
        (("Question 1.0?",), "Good 1.0", "Middling 1.0"),
        (("Question 1.0?",), "Good 1.0", "Poor 1.0"),
        (("Question 1.0?", "Good 1.0", "Question 1.1?"), "Good 1.1", "Middling 1.1"),
    ]


def test_prism_counts_each_drop_by_its_reason(tmp_path: Path) -> None:
    found = prism(write_prism(tmp_path))
    for key, expected in {
        "turns": 3 + 2 + 3 + 1 + 1 + 1 + 2 + 5,
        "turns without a message or a chosen reply dropped": 0,
        "turns without a rejected reply dropped": 1,
        "further replies marked as chosen (identical twins) dropped": 1,
        "comparisons with an empty reply dropped": 2,
        "comparisons of two replies with the same text dropped": 1,
        "first-turn ties kept (the source drew the winner)": 1,
        "dialogues without a readable time": 0,
    }.items():
        assert found.counts[key] == expected, key
    # alice: 3 + 3 + 2 (of 4: two have an empty side) + 1 + 2 + 2; bob: 3 + 5 * 2.
    assert np.bincount(found.user).tolist() == [13, 13]
    assert (found.chosen != found.rejected).all()
    assert all("EMPTY" not in text for text in found.responses)
    assert all("EMPTY" not in message.content for context in found.contexts for message in context)
    # What the user saw as the chosen reply before "Ice?" was nothing.
    assert (("Rain?", "Wet.", "Snow?", "", "Ice?"), "Slippery.", "Melting.") in of(found, "alice")


def test_prism_groups_are_dialogues_and_time_orders_their_turns(tmp_path: Path) -> None:
    found = prism(write_prism(tmp_path))
    rows = texts(found)
    group = {
        name: {int(found.group[i]) for i, row in enumerate(rows) if row[1][0] == name} for name in ("Tea?", "Cat?")
    }
    assert len(group["Tea?"]) == len(group["Cat?"]) == 1
    assert group["Tea?"] != group["Cat?"]
    assert len(np.unique(found.group)) == 12
    assert found.time is not None
    start = 1_701_424_800.0  # 2023-12-01 10:00 UTC
    times = {row[1][-1]: float(found.time[i]) - start for i, row in enumerate(rows) if row[0] == "alice"}
    assert times == {
        "Tea?": 0,
        "Sugar?": 2,
        "Cat?": 86_400,
        "Dog?": 86_401,
        "Rain?": 2 * 86_400,
        "Ice?": 2 * 86_400 + 2,
        "Blue?": 0,
        "Question 2.0?": 0,
        "Question 3.0?": 8 * 86_400 - 1800 + 0.25,
    }


def test_prism_without_a_readable_time_has_no_times_and_says_so(tmp_path: Path) -> None:
    write_prism(tmp_path)
    file = tmp_path / "conversations.jsonl"
    file.write_text(file.read_text().replace("2023-12-02T10:00:00", "some day"))
    found = prism(tmp_path)
    assert found.time is None
    assert found.counts["dialogues without a readable time"] == 1


def test_prism_as_the_published_code_takes_empty_replies_as_replies(tmp_path: Path) -> None:
    write_prism(tmp_path)
    options = registry.get("datasets", "prism-published-code").options
    found = prism(tmp_path, **options)
    assert found.user_keys == prism(tmp_path).user_keys
    assert len(found) == 26 + 2
    assert "comparisons with an empty reply dropped" not in found.counts
    rain, snow = ("Rain?",), ("Rain?", "Wet.", "Snow?")
    assert (rain, "Wet.", "EMPTY STRING") in of(found, "alice")
    assert (snow, "EMPTY STRING", "Cold.") in of(found, "alice")
    assert ((*snow, "EMPTY STRING", "Ice?"), "Slippery.", "Melting.") in of(found, "alice")


def test_prism_variants_of_ties_history_augmentation_and_threshold(tmp_path: Path) -> None:
    write_prism(tmp_path)
    no_ties = prism(tmp_path, ties="drop")
    assert no_ties.counts["first-turn ties dropped"] == 1
    assert set(texts(prism(tmp_path))) - set(texts(no_ties)) == {("alice", ("Cat?",), "Purr.", "Meow.")}
    # Equal scores in a later turn were not drawn: the reply chosen there was chosen.
    assert (("Cat?", "Purr.", "Dog?"), "Bark.", "Howl.") in of(no_ties, "alice")

    whole = prism(tmp_path, history="whole")
    assert (("Tea?", "Yes.", "Milk?", "Of course.", "Sugar?"), "One.", "Never.") in of(whole, "alice")
    assert len(whole) == 26

    more = prism(tmp_path, augment=True)
    added = set(texts(more)) - set(texts(prism(tmp_path)))
    assert ("alice", ("Tea?",), "Perhaps.", "No.") in added
    assert ("alice", ("Cat?",), "Meow.", "Woof.") in added
    # One more in each of bob's six and alice's two plain first turns, in "Tea?" and "Cat?". In "Blue?" the rejected twin
    # of the chosen reply beats the same reply once more.
    assert len(added) == 6 + 2 + 2
    assert len(more) == 26 + len(added) + 1
    assert join_repeats(more).counts[REPEATS] == 1
    assert not {(c, a, b) for _, c, a, b in texts(more)} & {(c, b, a) for _, c, a, b in texts(more)}

    far = prism(tmp_path, score_threshold=40)
    assert far.counts["comparisons whose scores differ by at most 40 dropped"] == len(prism(tmp_path)) - len(far)
    assert (("Tea?",), "Yes.", "No.") in of(far, "alice")
    assert (("Tea?",), "Yes.", "Perhaps.") not in of(far, "alice")
    assert (("Question 1.0?",), "Good 1.0", "Middling 1.0") not in of(far, "bob")  # exactly 40


def test_prism_repeats_are_kept_and_counted(tmp_path: Path) -> None:
    replies = [("Yes.", 80, True), ("No.", 20, False), ("No.", 20, False)]
    write_lines(tmp_path / "survey.jsonl", [prism_user("alice", 1)])
    write_lines(tmp_path / "conversations.jsonl", [prism_conversation("c", "alice", [("Tea?", replies)])])
    found = prism(tmp_path, min_dialogues=1)
    assert len(found) == 2
    assert found.n_items == 2
    assert join_repeats(found).counts[REPEATS] == 1


def test_prism_without_a_message_in_a_turn_skips_the_turn(tmp_path: Path) -> None:
    turns = [*plain(1), (None, [("Lost.", 50, True), ("Gone.", 20, False)]), *plain(2)]
    write_lines(tmp_path / "survey.jsonl", [prism_user("alice", 1)])
    write_lines(tmp_path / "conversations.jsonl", [prism_conversation("c", "alice", turns)])
    found = prism(tmp_path, min_dialogues=1)
    assert found.counts["turns without a message or a chosen reply dropped"] == 1
    assert {context for context, *_ in of(found, "alice")} == {
        ("Question 1.0?",),
        ("Question 1.0?", "Good 1.0", "Question 2.0?"),
    }


def replies() -> st.SearchStrategy[list[tuple[str, int | None, bool]]]:
    text = st.sampled_from(["a", "b", "c", "EMPTY STRING"])
    return st.lists(st.tuples(text, st.none() | st.integers(1, 100), st.booleans()), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    turns=st.lists(st.tuples(st.none() | st.sampled_from(["p", "q"]), replies()), min_size=1, max_size=5),
    empty=st.sampled_from(["drop", "keep"]),
    ties=st.sampled_from(["drop", "keep"]),
    history=st.sampled_from(["paired", "whole"]),
    augment=st.booleans(),
    threshold=st.none() | st.integers(0, 50),
)
def test_prism_turns_of_any_form_lose_no_comparison_uncounted(
    tmp_path_factory: pytest.TempPathFactory,
    turns: list[tuple[str | None, list[tuple[str, int | None, bool]]]],
    empty: Any,
    ties: Any,
    history: Any,
    augment: bool,
    threshold: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    good = ("last", [("yes", 90, True), ("no", 10, False)])
    write_lines(folder / "survey.jsonl", [prism_user("alice", 1)])
    write_lines(folder / "conversations.jsonl", [prism_conversation("c", "alice", [*turns, good])])
    found = prism(
        folder,
        min_dialogues=1,
        empty_replies=empty,
        ties=ties,
        history=history,
        augment=augment,
        score_threshold=threshold,
    )
    ((_, dialogue),) = read_dialogues(folder / "conversations.jsonl")
    usable = [turn for turn in dialogue.turns if turn.usable]
    pairs = sum(len(turn.rejected) for turn in usable)
    if augment:
        pairs += sum(
            a.score is not None and b.score is not None and a.score > b.score
            for turn in usable
            for a in turn.rejected
            for b in turn.rejected
        )
    dropped = sum(
        n
        for reason, n in found.counts.items()
        if reason.endswith("dropped") and "turns" not in reason and reason.startswith(("comparisons", "first-turn"))
    )
    assert len(found) + dropped == pairs
    for context, chosen, rejected in of(found, "alice"):
        assert chosen != rejected
        assert len(context) % 2 == 1
        assert empty == "keep" or "EMPTY STRING" not in (*context[1::2], chosen, rejected)
    for context in found.contexts:
        assert [message.role for message in context] == ["user", "assistant"] * (len(context) // 2) + ["user"]
    last = [context for context, chosen, _ in of(found, "alice") if chosen == "yes"]
    kept = [t for t in dialogue.turns[:-1] if t.usable or (history == "whole" and t.prompt is not None and t.chosen)]
    assert all(context[:-1:2] == tuple(turn.prompt for turn in kept) for context in last)


def test_a_prism_turn_is_usable_with_a_message_a_chosen_and_a_rejected_reply() -> None:
    yes, no = PrismReply("yes", 1), PrismReply("no", 1)
    assert Turn("p", [yes], [no]).usable
    assert Turn("", [yes], [no]).usable
    for turn in (Turn(None, [yes], [no]), Turn("p", [], [no]), Turn("p", [yes], [])):
        assert not turn.usable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("conversation_history"), "line 3: 'conversation_history' is missing"),
        (lambda c: c.update(user_id=7), "line 3: 'user_id' is int, expected a text"),
        (lambda c: c["conversation_history"].append("hello"), r"conversation_history\[11\]: expected a JSON object"),
        (lambda c: c["conversation_history"][1].update(role="assistant"), r"'role' is 'assistant', expected user or"),
        (
            lambda c: c["conversation_history"][1].pop("if_chosen"),
            r"conversation_history\[2\]: 'if_chosen' is missing",
        ),
        (lambda c: c["conversation_history"][1].update(score="high"), "'score' is 'high', expected a number"),
        (lambda c: c["conversation_history"][0].update(turn=True), "'turn' is bool, expected a whole number"),
        (lambda c: c["conversation_history"][0].update(content=["x"]), "'content' is list, expected a text"),
        (lambda c: c.update(user_id="somebody-else"), "line 3: its user is not in survey.jsonl"),
    ],
)
def test_prism_refuses_a_line_that_is_not_to_the_schema(tmp_path: Path, change: Any, message: str) -> None:
    write_prism(tmp_path)
    file = tmp_path / "conversations.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines[2])
    write_lines(file, lines)
    said = refusal(lambda: prism(tmp_path))
    assert str(file) in said
    with pytest.raises(InputError, match=message):
        prism(tmp_path)
    assert "alice" not in said
    assert "somebody-else" not in said


def test_prism_refuses_a_broken_line_a_double_user_and_a_release_without_enough_dialogues(tmp_path: Path) -> None:
    write_prism(tmp_path)
    conversations, survey = tmp_path / "conversations.jsonl", tmp_path / "survey.jsonl"
    whole = conversations.read_text()
    conversations.write_text(whole[: len(whole) // 2])
    assert f"{conversations}, line " in refusal(lambda: prism(tmp_path))
    conversations.write_text(whole)
    assert "no user has 60 usable dialogues" in refusal(lambda: prism(tmp_path, min_dialogues=60))
    survey.write_text(survey.read_text() * 2)
    assert f"{survey}: a user appears twice" in refusal(lambda: prism(tmp_path))
