"""CoVal on a file in its schema; every id and text in it is invented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from upstream_fixtures import Files, refusal, texts, write_lines

from prbench import data, registry
from prbench.loaders.coval import CoVal
from prbench.protocol.pools import judged_pools
from prbench.protocol.properties import properties

SYSTEM = {"role": "system", "content": "Be kind."}


def assessment(annotator: str, personal: str | None, world: str | None) -> dict[str, Any]:
    """One person's rankings of a prompt's replies; None leaves the block out."""
    blocks = {"personal": personal, "world": world}
    return {
        "conversation_id": "c",
        "annotator_id": annotator,
        "importance": "Very important",
        "representativeness": "Not at all likely",
        "subjectivity": "Value-dependent",
        "ranking_blocks": {
            "unacceptable": [{"rationale": "", "rating": []}],
            **{kind: [{"rationale": "", "ranking": text}] for kind, text in blocks.items() if text is not None},
        },
    }


def prompt(key: str, asked: str, replies: str, assessments: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of comparisons.jsonl; `replies` are one letter each, lower case, in the order A, B, ..."""
    return {
        "prompt_id": key,
        "prompt": {"id": key, "messages": [SYSTEM, {"role": "user", "content": asked}]},
        "responses": [
            {"response_index": letter, "messages": [{"role": "assistant", "content": f"{key}{reply}"}]}
            for letter, reply in zip("ABCD", replies, strict=False)
        ],
        "metadata": {"max_num_assessments": 20, "assessments": assessments},
    }


LINES = [
    prompt(
        "p",
        "May I lie?",
        "abcd",
        [assessment("ann", "A>B>C=D", "B>A>C=D"), assessment("bob", None, "D>C>B>A"), assessment("cy", "", "A>B")],
    ),
    # Two of the replies have the same text.
    prompt("q", "Is it fair?", "xxyz", [assessment("ann", "A > B > C", None), assessment("bob", "D>A=B", "A=B>D")]),
]


def test_every_strict_pair_of_the_own_ranking_is_a_comparison(tmp_path: Path) -> None:
    write_lines(tmp_path / "comparisons.jsonl", LINES)
    found = CoVal(min_comparisons=1).load(Files(tmp_path), "toy")
    lie, fair = ("Be kind.", "May I lie?"), ("Be kind.", "Is it fair?")
    assert texts(found) == [
        ("ann", lie, "pa", "pb"),
        ("ann", lie, "pa", "pc"),
        ("ann", lie, "pa", "pd"),
        ("ann", lie, "pb", "pc"),
        ("ann", lie, "pb", "pd"),
        ("ann", fair, "qx", "qy"),
        ("ann", fair, "qx", "qy"),
        ("bob", fair, "qz", "qx"),
        ("bob", fair, "qz", "qx"),
    ]
    assert found.group.tolist() == [0] * 5 + [1] * 4
    assert [message.role for message in found.contexts[0]] == ["system", "user"]
    assert (found.n_users, found.n_items) == (2, 7)
    # ann orders five pairs both ways and turns A and B; bob's D against A and B is turned twice.
    assert dict(found.counts) == {
        "prompts": 2,
        "assessments": 5,
        "assessments without a personal ranking": 2,
        "further rankings of the same kind in one assessment, not read": 0,
        "tied pairs dropped": 2,
        "pairs of two equal replies dropped": 1,
        "pairs ordered in a personal and a world ranking": 7,
        "of these, ordered the other way round for the world": 3,
    }
    assert properties(found)["world_gap"] == pytest.approx(3 / 7)
    pools = judged_pools(found, np.arange(len(found)))
    assert pools.largest == 4
    assert pools.utility[:4].tolist() == [3.0, 2.0, 0.0, 0.0]


def test_the_ranking_for_the_world_is_another_data_set_of_the_same_people(tmp_path: Path) -> None:
    write_lines(tmp_path / "comparisons.jsonl", LINES)
    found = CoVal(ranking="world", min_comparisons=1).load(Files(tmp_path), "toy")
    assert found.user_keys == ("ann", "bob", "cy")
    assert len(found) == 5 + 6 + 1 + 2
    assert texts(found)[0] == ("ann", ("Be kind.", "May I lie?"), "pb", "pa")
    assert found.counts["assessments without a world ranking"] == 1
    assert properties(found)["world_gap"] == pytest.approx(3 / 7)
    more = CoVal(ranking="world", min_comparisons=6).load(Files(tmp_path), "toy")
    assert more.user_keys == ("bob",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_id": 7}, "line 1: prompt_id is missing or not a text"),
        ({"prompt": {"messages": []}}, "line 1: prompt.messages is not a list of messages with role and content"),
        ({"responses": None}, "line 1: responses is not a list of objects"),
        ({"responses": [{"response_index": 0}]}, "line 1: response_index is '0', expected a letter, each once"),
        ({"responses": [{"response_index": "A", "messages": [SYSTEM]}]}, "line 1: response A is not one message of"),
        ({"metadata": {}}, "line 1: metadata.assessments is not a list of objects"),
        ({"metadata": {"assessments": [{}]}}, "line 1, assessment 1: annotator_id is missing or not a text"),
        (
            {"metadata": {"assessments": [assessment("ann", "A>E", None)]}},
            "line 1, assessment 1: the personal ranking is 'A>E', expected an order such as A>B=C of A, B, C, D",
        ),
        (
            {"metadata": {"assessments": [assessment("ann", "A", "A>B>A")]}},
            "line 1, assessment 1: the world ranking is 'A>B>A', expected an order",
        ),
        (
            {"metadata": {"assessments": [{"annotator_id": "ann", "ranking_blocks": {"world": "A>B"}}]}},
            "line 1, assessment 1: ranking_blocks.world is not a list of objects",
        ),
        ({"metadata": {"assessments": []}}, "toy: the file holds no personal ranking that prefers a reply"),
    ],
)
def test_a_line_that_is_not_to_the_schema_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_lines(tmp_path / "comparisons.jsonl", [{**LINES[0], **change}])
    assert message in refusal(lambda: CoVal(min_comparisons=1).load(Files(tmp_path), "toy"))


def test_the_two_entries_are_one_family() -> None:
    own, world = (registry.get("datasets", name) for name in ("coval", "coval-world"))
    assert own.family == world.family == "coval"
    loaders = [data.make_loader(entry) for entry in (own, world)]
    assert [loader.ranking for loader in loaders if isinstance(loader, CoVal)] == ["personal", "world"]
    assert not own.default
    assert not world.default
