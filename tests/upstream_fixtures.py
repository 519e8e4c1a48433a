"""Small files in the exact schema of the releases that the loaders read. Every id and text in them is invented."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData

Reply = tuple[str, int | None, bool]
"""Text, score, whether chosen."""


@dataclass
class Files:
    """Local files by upstream path, unchecked."""

    folder: Path

    def path(self, path: str) -> Path:
        return self.folder / path

    def paths(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_parquet(path: Path, records: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(record) for record in records], schema=schema), path)
    return path


# PRISM


def prism_user(user: str, conversations: int) -> dict[str, Any]:
    """A line of survey.jsonl."""
    return {
        "user_id": user,
        "survey_only": conversations == 0,
        "num_completed_conversations": conversations,
        "consent": "Yes",
        "lm_familiarity": "Somewhat familiar",
        "self_description": "I like tea.",
        "system_string": "Answer briefly.",
        "age": "25-34 years old",
        "gender": "Female",
        "education": "University Bachelors Degree",
        "employment_status": "Working full-time",
        "marital_status": "Never been married",
        "english_proficiency": "Fluent",
        "religion": {"self_described": "none", "categorised": "No Affiliation", "simplified": "No Affiliation"},
        "ethnicity": {"self_described": "white", "categorised": "White", "simplified": "White"},
        "location": {"birth_region": "Europe", "reside_region": "Europe"},
        "stated_prefs": {"values": 70, "creativity": 40, "factuality": 90, "other_text": None},
        "order_stated_prefs": {"values": 1, "creativity": 3, "factuality": 2},
        "included_in_balanced_subset": False,
    }


def prism_conversation(
    key: str, user: str, turns: Sequence[tuple[str | None, Sequence[Reply]]], when: Any = "2023-12-01 10:00:00"
) -> dict[str, Any]:
    """A line of conversations.jsonl; a prompt of None leaves the user's message out."""
    history: list[dict[str, Any]] = []
    for number, (prompt, replies) in enumerate(turns):
        if prompt is not None:
            history.append({"turn": number, "role": "user", "content": prompt})
        for place, (text, score, chosen) in enumerate(replies):
            history.append(
                {
                    "turn": number,
                    "role": "model",
                    "content": text,
                    "model_name": f"model-{place}",
                    "model_provider": "invented",
                    "score": score,
                    "if_chosen": chosen,
                    "within_turn_id": place,
                }
            )
    return {
        "conversation_id": key,
        "user_id": user,
        "conversation_type": "unguided",
        "opening_prompt": turns[0][0] if turns else "",
        "conversation_turns": len(turns),
        "conversation_history": history,
        "performance_attributes": {"values": 60, "fluency": None},
        "choice_attributes": {"values": None, "fluency": 80},
        "open_feedback": "",
        "generated_datetime": when,
        "timing_duration_s": 100.5,
        "timing_duration_mins": 1.7,
        "included_in_balanced_subset": True,
    }


def plain(number: int, turns: int = 1) -> list[tuple[str | None, Sequence[Reply]]]:
    """Turns without irregularities: three replies at first, then two; the first is chosen. No text is shared."""
    return [
        (
            f"Question {number}.{turn}?",
            [
                (f"Good {number}.{turn}", 90, True),
                (f"Middling {number}.{turn}", 50, False),
                *([(f"Poor {number}.{turn}", 10, False)] if turn == 0 else []),
            ],
        )
        for turn in range(turns)
    ]


def unpaired(number: int) -> list[tuple[str | None, Sequence[Reply]]]:
    """One turn whose two replies are identical, so that both are marked as chosen."""
    return [(f"Twins {number}?", [("Same", 60, True), ("Same", 60, True)])]


def write_prism(folder: Path) -> Path:
    """A release with every documented irregularity, below `folder`.

    alice has seven dialogues (one without a usable turn) and all irregularities of turns; bob has six plain ones;
    carol six, one of them without a usable turn, so five; dan two; erin none.
    """
    conversations = [
        prism_conversation(
            "c-twins",
            "alice",
            [
                ("Tea?", [("Yes.", 80, True), ("No.", 20, False), ("Perhaps.", 40, False)]),
                ("Milk?", [("Of course.", 70, True), ("Of course.", 70, True)]),
                ("Sugar?", [("Never.", 30, False), ("One.", 60, True)]),
            ],
        ),
        prism_conversation(
            "c-tie",
            "alice",
            [
                ("Cat?", [("Meow.", 75, False), ("Purr.", 75, True), ("Woof.", 5, False)]),
                ("Dog?", [("Bark.", 50, True), ("Howl.", 50, False)]),
            ],
            when="2023-12-02T10:00:00",
        ),
        prism_conversation(
            "c-empty",
            "alice",
            [
                ("Rain?", [("EMPTY STRING", 1, False), ("Wet.", 90, True), ("Sun.", 30, False)]),
                ("Snow?", [("EMPTY STRING", 60, True), ("Cold.", 30, False)]),
                ("Ice?", [("Slippery.", 80, True), ("Melting.", 20, False)]),
            ],
            when=1_701_597_600_000,
        ),
        # A first-turn tie of two identical replies: only one of them can be the winner drawn.
        prism_conversation(
            "c-same", "alice", [("Blue?", [("Sky.", 66, True), ("Sky.", 66, False), ("Grass.", 10, False)])]
        ),
        prism_conversation("c-none", "alice", unpaired(0)),
        prism_conversation("c-one", "bob", plain(1, turns=2)),
        prism_conversation("c-last", "alice", plain(2)),
        prism_conversation("c-later", "alice", plain(3), when="2023-12-09 09:30:00.250000+00:00"),
        *(prism_conversation(f"c-bob-{i}", "bob", plain(10 + i)) for i in range(5)),
        *(prism_conversation(f"c-carol-{i}", "carol", plain(20 + i)) for i in range(5)),
        prism_conversation("c-carol-none", "carol", unpaired(1)),
        *(prism_conversation(f"c-dan-{i}", "dan", plain(30 + i)) for i in range(2)),
    ]
    users = {"bob": 6, "alice": 7, "erin": 0, "carol": 6, "dan": 2}
    write_lines(folder / "survey.jsonl", [prism_user(user, n) for user, n in users.items()])
    write_lines(folder / "conversations.jsonl", conversations)
    return folder


def write_regular_prism(folder: Path, users: int) -> Path:
    """`users` people with six plain dialogues of two turns each."""
    names = [f"person-{i}" for i in range(users)]
    write_lines(folder / "survey.jsonl", [prism_user(name, 6) for name in names])
    write_lines(
        folder / "conversations.jsonl",
        [
            prism_conversation(f"d-{i}-{k}", name, plain(1000 * i + k, turns=2))
            for i, name in enumerate(names)
            for k in range(6)
        ],
    )
    return folder


# Reddit TL;DR

TEXT = pa.string()
REDDIT = pa.schema(
    [
        ("info", pa.struct([(name, TEXT) for name in ("id", "post", "title", "subreddit", "site", "article")])),
        ("summaries", pa.list_(pa.struct([("text", TEXT), ("policy", TEXT), ("note", TEXT)]))),
        ("choice", pa.int32()),
        ("worker", TEXT),
        ("batch", TEXT),
        ("split", TEXT),
        ("extra", pa.struct([("confidence", pa.int32())])),
    ]
)


def reddit_row(
    worker: str | None,
    post: str | None,
    first: str,
    second: str,
    choice: int,
    *,
    key: str = "",
    batch: str = "batch3",
) -> dict[str, Any]:
    """A row of the comparisons; a post of None makes it one on a CNN/DM article."""
    news = post is None
    info = {
        "id": key or "t3_" + hashlib.sha256(str(post).encode()).hexdigest()[:6],
        "post": post,
        "title": None if news else "A title",
        "subreddit": None if news else "relationships",
        "site": "cnn" if news else None,
        "article": "An article." if news else None,
    }
    notes = [{"text": text, "policy": "sup2", "note": note} for text, note in ((first, None), (second, "a note"))]
    return {
        "info": info,
        "summaries": notes,
        "choice": choice,
        "worker": worker,
        "batch": "cnndm0" if news else batch,
        "split": "train",
        "extra": {"confidence": None if choice else 7},
    }


def write_reddit(folder: Path, train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> Path:
    """The two files of the Parquet branch, below `folder`."""
    write_parquet(folder / "comparisons/train/0000.parquet", train, REDDIT)
    write_parquet(folder / "comparisons/validation/0000.parquet", validation, REDDIT)
    return folder


# PersonalLLM


def personalllm_row(prompt: str, scores: Sequence[Sequence[float]], replies: Sequence[str] = ()) -> dict[str, Any]:
    """A row; `scores` [8, 10] in the order of prbench.loaders.personalllm.REWARD_MODELS."""
    from prbench.loaders.personalllm import REWARD_MODELS

    row: dict[str, Any] = {"prompt": prompt, "subset": "invented", "prompt_id": len(prompt)}
    for i in range(1, 9):
        row[f"response_{i}"] = replies[i - 1] if replies else f"{prompt} reply {i}"
        row[f"response_{i}_model"] = f"model-{i}"
        for model, score in zip(REWARD_MODELS, scores[i - 1], strict=True):
            row[f"response_{i}_{model}"] = float(score)
    return row


# PersonalRewardBench

MESSAGES = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))
PERSONAL = pa.schema(
    [
        ("user_id", TEXT),
        ("conversation_id", TEXT),
        ("context", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("agreement", pa.float64()),
        ("split", TEXT),
    ]
)


def personal_row(user: str, conversation: str, prompt: str, chosen: str, rejected: str, split: str) -> dict[str, Any]:
    """A row of PersonalRewardBench."""
    return {
        "user_id": user,
        "conversation_id": conversation,
        "context": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chosen_score": 90.0,
        "rejected_score": 20.0,
        "agreement": 0.5,
        "split": split,
    }


# Community Alignment

Turn = tuple[str | None, str | None, Sequence[str | None]]
"""Prompt, preferred response ("response_a", ...), the four responses."""


def community_row(conversation: str, annotator: str, turns: Sequence[Turn], language: str = "en") -> dict[str, Any]:
    """A row of community_alignment.csv; turns that are not given are empty cells."""
    row: dict[str, Any] = {"conversation_id": conversation, "assigned_lang": language, "annotator_id": annotator}
    empty: Turn = (None, None, [None] * 4)
    for name, turn in zip(("first", "second", "third", "fourth"), [*turns, *[empty] * 4], strict=False):
        prompt, preferred, replies = turn
        row[f"{name}_turn_prompt"] = prompt
        for letter, reply in zip("abcd", replies, strict=True):
            row[f"{name}_turn_response_{letter}"] = reply
        row[f"{name}_turn_preferred_response"] = preferred
        row[f"{name}_turn_feedback"] = None
    return row | {
        "annotator_age": "18-34",
        "annotator_gender": "Female",
        "annotator_education_level": "Other",
        "annotator_political": "Prefer not to say",
        "annotator_ethnicity": "Other",
        "annotator_country": "India",
        "is_pregenerated_first_prompt": True,
        "in_balanced_subset": False,
        "in_balanced_subset_10": False,
    }


def write_community(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """community_alignment.csv below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "community_alignment.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


# RewardBench 2


def rewardbench2_row(subset: str, prompt: str, chosen: Sequence[str], rejected: Sequence[str]) -> dict[str, Any]:
    """A row of RewardBench 2."""
    return {
        "id": f"{subset}-{prompt}",
        "prompt": prompt,
        "chosen": list(chosen),
        "rejected": list(rejected),
        "num_correct": len(chosen),
        "num_incorrect": len(rejected),
        "total_completions": len(chosen) + len(rejected),
        "models": ["a", "b", "c", "d"],
        "subset": subset,
        "additional_metadata": {"category": "", "correct": None, "index": 0.0},
    }


REWARDBENCH2 = (
    rewardbench2_row("Factuality", "Capital of France?", ["Paris."], ["Rome.", "Lyon.", "Nice."]),
    rewardbench2_row("Factuality", "Capital of Italy?", ["Rome."], ["Paris.", "Milan.", "Turin."]),
    rewardbench2_row("Math", "One and one?", ["Two."], ["Three.", "Four.", "Two."]),
    rewardbench2_row("Ties", "A colour?", ["Red.", "Blue."], ["Monday."]),
)


def texts(found: PreferenceData) -> list[tuple[str, tuple[str, ...], str, str]]:
    """Per comparison: user's source id, contents of the context, chosen and rejected text."""
    return [
        (
            found.user_keys[found.user[i]],
            tuple(message.content for message in found.contexts[found.item_context[found.chosen[i]]]),
            found.responses[found.chosen[i]],
            found.responses[found.rejected[i]],
        )
        for i in range(len(found))
    ]


def refusal(call: Any) -> str:
    """The one line with which a call refuses its input."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
