"""UF-P on files in the schemas of UltraFeedback and of its binarisation; every text in them is invented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from upstream_fixtures import Files, refusal, texts, write_lines, write_parquet

from prbench import data, registry
from prbench.comparisons import PreferenceData
from prbench.data.downloads import RawFiles
from prbench.loaders.uf_p import ASPECTS, PAIRS, RATINGS, UFP

MESSAGES = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("chosen", MESSAGES),
        ("chosen-rating", pa.float64()),
        ("chosen-model", pa.string()),
        ("rejected", MESSAGES),
        ("rejected-rating", pa.float64()),
        ("rejected-model", pa.string()),
    ]
)
ROWS = 20
TEST = (0, 17)
"""NumPy's choice of two of twenty after seed 42."""

Ratings = tuple[int | str, int | str, int | str, int | str]
APART: tuple[Ratings, Ratings] = ((5, 1, 4, 2), (1, 5, 2, 4))
"""Helpfulness and instruction following are for the first reply, honesty and truthfulness for the second."""
SPECIAL: dict[int, tuple[Ratings, Ratings]] = {
    1: ((5, 5, 5, 5), (1, 1, 1, 1)),
    2: ((5, 3, 4, 2), (1, 3, 2, 4)),
    3: ((5, 1, "N/A", 2), (1, 5, 2, 4)),
    6: ((5, 1, 3, 3), (1, 5, 3, 3)),
    9: ((1, 5, 2, 4), (5, 1, 4, 2)),
}


def completion(reply: str, ratings: Ratings) -> dict[str, Any]:
    """One of a prompt's completions in UltraFeedback."""
    return {
        "annotations": {
            aspect: {"Rating": str(rating), "Rationale": "Invented."}
            for aspect, rating in zip(ASPECTS, ratings, strict=True)
        },
        "custom_system_prompt": "Be helpful.",
        "model": "invented",
        "principle": "helpfulness",
        "response": reply,
        "critique": "Good.",
        "overall_score": 7.0,
        "fine-grained_score": 4.0,
    }


def replies(row: int) -> tuple[str, str]:
    """The two replies to a prompt: 4's are equal, 8's and 9's the same two texts."""
    return {4: ("Same", "Same"), 8: ("First", "Second"), 9: ("First", "Second")}.get(row, (f"A{row}", f"B{row}"))


def original(row: int) -> dict[str, Any]:
    """A line of UltraFeedback."""
    rated = zip(replies(row), SPECIAL.get(row, APART), strict=True)
    return {
        "source": "invented",
        "instruction": f"Prompt {row}",
        "models": ["invented"] * 3,
        "completions": [completion("Neither", (3, 3, 3, 3)), *(completion(*each) for each in rated)],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def binarised(row: int) -> dict[str, Any]:
    """A row of the binarisation."""
    prompt = f"Prompt {row}"
    sides = {
        side: [{"content": prompt, "role": "user"}, {"content": reply, "role": "assistant"}]
        for side, reply in zip(("chosen", "rejected"), replies(row), strict=True)
    }
    ratings = {"chosen-rating": 5.0, "rejected-rating": 3.0, "chosen-model": "m", "rejected-model": "n"}
    return {"source": "invented", "prompt": prompt, **sides, **ratings}


def write(folder: Path) -> Path:
    """Both sources below `folder`: prompt 5 has no ratings, 4 has two equal replies, 3 lacks a rating."""
    rated = [row for row in range(ROWS) if row != 5]
    for i, name in enumerate(RATINGS):
        write_lines(folder / f"{name}.jsonl", [original(row) for row in rated[i::6]])
    write_parquet(folder / PAIRS, [binarised(row) for row in range(ROWS)], SCHEMA)
    return folder


def load(folder: Path, **options: Any) -> PreferenceData:
    return UFP(**{"users": 2, "train_prompts": 13, "test_prompts": 2, **options}).load(Files(folder), "toy")


def choices(found: PreferenceData, user: str) -> dict[int, tuple[str, str]]:
    """(chosen, rejected) of a user by the number of the prompt."""
    rows = [row for row in texts(found) if row[0] == user]
    return {int(asked[0].split()[1]): (chosen, rejected) for _, asked, chosen, rejected in rows}


def test_users_of_two_aspects_disagree_on_every_pair_without_ties(tmp_path: Path) -> None:
    found = load(write(tmp_path))
    helpful, honest = (choices(found, key) for key in found.user_keys)
    assert found.user_keys == ("simulated-helpfulness-0", "simulated-honesty-1")
    assert set(helpful) == set(honest) == set(range(ROWS)) - {1, 2, 3, 4, 5}
    for row, (first, second) in ((row, replies(row)) for row in helpful):
        better = (second, first) if row == 9 else (first, second)
        assert helpful[row] == better
        assert honest[row] == better[::-1]
    assert found.mark is not None
    marked = {int(found.contexts[c][0].content.split()[1]) for c in found.item_context[found.chosen[found.mark == 1]]}
    assert marked == set(TEST)
    assert dict(found.counts) == {
        "pairs": 20,
        "pairs without four ratings of both replies dropped": 2,
        "pairs of two equal or empty replies dropped": 1,
        "pairs that no two users disagree on dropped": 2,
        "controversial pairs": 15,
        "labels of an aspect that ties dropped": 0,
    }


def test_four_aspects_keep_what_two_of_their_users_disagree_on(tmp_path: Path) -> None:
    found = load(write(tmp_path), kinds=4, users=4)
    assert [key.split("-")[1] for key in found.user_keys] == list(ASPECTS)
    asked = [set(choices(found, key)) for key in found.user_keys]
    everything = set(range(ROWS)) - {1, 3, 4, 5}
    assert asked[0] < everything
    assert asked[1:] == [everything - {2}, everything - {6}, everything - {6}]
    assert found.counts["controversial pairs"] == 16
    assert found.counts["labels of an aspect that ties dropped"] == 3
    assert choices(found, found.user_keys[2])[7] == ("A7", "B7")
    assert choices(found, found.user_keys[3])[7] == ("B7", "A7")


def test_a_coin_decides_a_tie_once_for_all_users_of_an_aspect(tmp_path: Path) -> None:
    write(tmp_path)
    sides: set[tuple[str, str]] = set()
    for seed in range(20):
        found = load(tmp_path, ties="coin", users=6, train_prompts=14, seed=seed)
        honest = {choices(found, key)[2] for key in found.user_keys if "honesty" in key}
        assert len(honest) == 1
        sides |= honest
        assert {choices(found, key)[2] for key in found.user_keys if "helpfulness" in key} == {("A2", "B2")}
        assert found.counts["controversial pairs"] == 16
        assert found.counts["labels of an aspect that ties, drawn by a coin"] == 1
        assert found.counts["comparisons labelled by a coin"] == 3
    assert sides == {("A2", "B2"), ("B2", "A2")}


def test_users_draw_pairs_of_their_own_and_more_users_leave_the_first_as_they_are(tmp_path: Path) -> None:
    write(tmp_path)
    few, many = (load(tmp_path, users=users, train_prompts=4, test_prompts=1) for users in (4, 12))
    asked = [frozenset(choices(many, key)) for key in many.user_keys]
    assert len(set(asked)) > 6
    assert [frozenset(choices(few, key)) for key in few.user_keys] == asked[:4]
    assert np.bincount(many.user).tolist() == [5] * 12


def test_too_few_pairs_and_uneven_kinds_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    said = refusal(lambda: load(tmp_path, test_prompts=3))
    assert "toy: the test part has 2 pairs for users of helpfulness, 3 are asked for" in said
    assert "users is 6, not as many of each of 4 kinds" in refusal(lambda: UFP(kinds=4, users=6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": None}, "line 1: instruction is missing or not a text"),
        ({"completions": {}}, "line 1: completions is not a list of objects"),
        ({"completions": [{"response": "A"}]}, "line 1, completion 1: response is not a text, or annotations"),
        (
            {"completions": [completion("A", ("good", 1, 1, 1))]},
            "line 1, completion 1: helpfulness: Rating is 'good', expected a whole number as text, or N/A",
        ),
    ],
)
def test_a_line_of_ratings_that_is_not_to_the_schema_is_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    file = write_lines(tmp_path / "flan.jsonl", [{**original(0), **change}])
    assert f"{file}, {message}" in refusal(lambda: load(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "row 1: prompt is missing or not a text"),
        ({"chosen": [{"role": "assistant", "content": "A"}]}, "row 1: chosen is not a list of two messages"),
        (
            {"rejected": [{"role": "user", "content": "A"}] * 2},
            "row 1: rejected: its second message is not a reply of the assistant",
        ),
    ],
)
def test_a_pair_that_is_not_to_the_schema_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path)
    file = write_parquet(tmp_path / PAIRS, [{**binarised(0), **change}], SCHEMA)
    assert f"{file}, {message}" in refusal(lambda: load(tmp_path))


def test_the_entries_name_both_sources_and_differ_in_kinds_and_ties() -> None:
    made = {}
    for name in ("uf-p-2", "uf-p-2-release", "uf-p-4", "uf-p-4-release"):
        entry = registry.get("datasets", name)
        loader = data.make_loader(entry)
        assert isinstance(loader, UFP)
        made[name] = (loader.kinds, loader.ties, loader.train_prompts)
        assert not entry.default
        raw = RawFiles(entry)
        assert all(raw.on_hub(file.path) for file in raw.listing())
        assert "argilla/ultrafeedback-binarized-preferences-cleaned" in raw.url(PAIRS)
        assert "openbmb/UltraFeedback" in raw.url("flan.jsonl")
    assert made == {
        "uf-p-2": (2, "drop", 8),
        "uf-p-2-release": (2, "coin", 8),
        "uf-p-4": (4, "drop", 16),
        "uf-p-4-release": (4, "coin", 16),
    }
