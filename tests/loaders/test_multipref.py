"""MultiPref on a file in its schema; every id and text in it is invented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upstream_fixtures import Files, refusal, texts, write_parquet

from prbench import data, registry
from prbench.loaders.multipref import FILE, MultiPref
from prbench.protocol.properties import properties

TEXT = pa.string()
QUESTIONS = ("overall", "helpful", "truthful", "harmless")
ANNOTATIONS = pa.list_(
    pa.struct(
        [
            ("evaluator", TEXT),
            *((f"{q}_pref", TEXT) for q in QUESTIONS),
            *((f"{q}_confidence", TEXT) for q in QUESTIONS),
            *((f"{q}_checked_reasons", pa.list_(TEXT)) for q in QUESTIONS[1:]),
            *((f"{q}_own_reason", TEXT) for q in QUESTIONS[1:]),
            ("time_spent", pa.int64()),
            ("timestamp", TEXT),
        ]
    )
)
PLAIN = (
    "comparison_id", "prompt_id", "text", "model_a", "completion_a", "model_b", "completion_b", "source", "category",
    "subject_study", "highest_level_degree",
)  # fmt: skip
SCHEMA = pa.schema(
    [
        *((name, TEXT) for name in PLAIN),
        ("normal_worker_annotations", ANNOTATIONS),
        ("expert_worker_annotations", ANNOTATIONS),
    ]
)
A2, A1, TIE, B1, B2 = (
    "A-is-clearly-better", "A-is-slightly-better", "Tie", "B-is-slightly-better", "B-is-clearly-better",
)  # fmt: skip

Judgement = tuple[str, str]
"""Worker, overall preference. The harmless one is always a tie, but for the worker "n1", who prefers A."""


def judged(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    return [
        {
            "evaluator": worker,
            **{f"{q}_pref": preference if q == "overall" else TIE for q in QUESTIONS},
            **({"harmless_pref": A1} if worker == "n1" else {}),
            "overall_confidence": "fairly-confident",
            "helpful_checked_reasons": ["More relevant"],
            "time_spent": 90,
            "timestamp": "Mon, 01 Apr 2024 10:00:00 GMT",
        }
        for worker, preference in judgements
    ]


def row(
    key: str, replies: tuple[str, str], normal: Sequence[Judgement], expert: Sequence[Judgement]
) -> dict[str, Any]:
    """A row; its key is "PROMPT-NUMBER"."""
    return {
        **dict.fromkeys(PLAIN, "invented"),
        "comparison_id": key,
        "prompt_id": key.partition("-")[0],
        "text": f"Question {key.partition('-')[0]}?",
        "completion_a": replies[0],
        "completion_b": replies[1],
        "normal_worker_annotations": judged(normal),
        "expert_worker_annotations": judged(expert),
    }


ROWS = [
    row("p-1", ("Good", "Bad"), [("n1", A2), ("n2", A1)], [("e1", B1), ("e2", TIE)]),
    row("p-2", ("Good", "Other"), [("n1", B2), ("n2", TIE)], [("e1", B2), ("n1", A1)]),
    row("q-1", ("Same", "Same"), [("n1", A1), ("n3", B1)], [("e1", TIE), ("e2", A1)]),
]


def load(folder: Path, rows: Sequence[Mapping[str, Any]] = ROWS, **options: Any) -> Any:
    write_parquet(folder / FILE, rows, SCHEMA)
    return MultiPref(**{"min_comparisons": 1, **options}).load(Files(folder), "toy")


def test_four_judgements_of_a_pair_are_comparisons_of_four_people(tmp_path: Path) -> None:
    found = load(tmp_path)
    asked = ("Question p?",)
    assert texts(found) == [
        ("n1", asked, "Good", "Bad"),
        ("n2", asked, "Good", "Bad"),
        ("e1", asked, "Bad", "Good"),
        ("n1", asked, "Other", "Good"),
        ("e1", asked, "Other", "Good"),
        ("n1", asked, "Good", "Other"),
    ]
    assert found.group.tolist() == [0] * 6
    assert (found.n_users, found.n_items) == (3, 3)
    assert dict(found.counts) == {
        "pairs": 3,
        "judgements of normal workers": 6,
        "judgements of expert workers": 6,
        "ties dropped": 3,
        "judgements of two equal replies dropped": 3,
    }
    # One of three people differs on the first pair; the first votes on the second one agree.
    assert properties(found)["disagreement"] == pytest.approx((2 / 3 + 0) / 2)


def test_people_and_question_may_be_chosen(tmp_path: Path) -> None:
    experts = load(tmp_path, people="expert")
    assert [row[0] for row in texts(experts)] == ["e1", "e1", "n1"]
    assert experts.counts["judgements of normal workers"] == 0
    harmless = load(tmp_path, aspect="harmless")
    assert [row[:1] + row[2:] for row in texts(harmless)] == [
        ("n1", "Good", "Bad"),
        ("n1", "Good", "Other"),
        ("n1", "Good", "Other"),
    ]
    often = load(tmp_path, min_comparisons=2)
    assert often.user_keys == ("n1", "e1")
    assert often.counts["users with fewer than 2 comparisons dropped"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "row 1: text is missing or not a text"),
        ({"expert_worker_annotations": None}, "row 1: expert_worker_annotations is not a list of annotations"),
        (
            {"normal_worker_annotations": [{"evaluator": None}]},
            "row 1: normal_worker_annotations: evaluator is missing or not a text",
        ),
        (
            {"normal_worker_annotations": judged([("n1", "A")])},
            "row 1: normal_worker_annotations: overall_pref is 'A', expected one of A-is-clearly-better",
        ),
        (
            {"normal_worker_annotations": [], "expert_worker_annotations": judged([("e1", TIE)])},
            "toy: the file holds no judgement that prefers a reply",
        ),
    ],
)
def test_a_row_that_is_not_to_the_schema_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(lambda: load(tmp_path, [{**ROWS[0], **change}]))


def test_a_missing_column_is_named_and_the_entry_makes_this_loader(tmp_path: Path) -> None:
    write_parquet(tmp_path / FILE, ROWS, SCHEMA)
    pq.write_table(pq.read_table(tmp_path / FILE).drop_columns(["prompt_id"]), tmp_path / FILE)
    assert f"{tmp_path / FILE} has no column prompt_id" in refusal(lambda: MultiPref().load(Files(tmp_path), "toy"))
    entry = registry.get("datasets", "multipref")
    assert isinstance(data.make_loader(entry), MultiPref)
    assert not entry.default
    assert entry.download is not None
    assert list(entry.download.files) == [FILE]
