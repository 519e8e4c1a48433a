"""MT-bench human judgments: both layouts give the same rows, and the real votes what was published of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prbench import data, registry
from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData
from prbench.data import describe
from prbench.data.downloads import RawFiles
from prbench.loaders.mt_bench import EMPTY, HUB_FILE, SAME_TEXT, TIES, MTBenchHuman, read_votes, two_turns
from prbench.protocol.repeats import REPEATS, join_repeats

ENTRY = registry.get("datasets", "mt-bench-human")

QUESTIONS = {81: ["Write.", "Again."], 82: ["Add.", "Subtract."]}
ANSWERS = {
    "model-x": {81: ["x one", "x two"], 82: ["same", "differs"]},
    "model-y": {81: ["y one", "y two"], 82: ["same", ""]},
}
VOTES = [
    ("judge-1", 81, 1, "model_a"),
    ("judge-1", 81, 2, "model_b"),
    ("judge-2", 81, 1, "tie"),
    ("judge-2", 82, 1, "model_a"),
    ("judge-2", 82, 2, "model_a"),
    ("judge-1", 81, 1, "model_a"),
]


class Folder:
    """Local files in place of downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, path: str) -> Path:
        return self.folder / path

    def paths(self) -> list[Path]:
        return sorted(file for file in self.folder.rglob("*") if file.is_file())


def lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def votes() -> list[dict[str, Any]]:
    return [
        {"judge": j, "model_a": "model-x", "model_b": "model-y", "question_id": q, "turn": t, "winner": w}
        for j, q, t, w in VOTES
    ]


def release(folder: Path) -> Folder:
    lines(folder / "human.jsonl", votes())
    lines(folder / "question.jsonl", [{"question_id": q, "turns": turns} for q, turns in QUESTIONS.items()])
    for model, answers in ANSWERS.items():
        rows = [{"question_id": q, "choices": [{"index": 0, "turns": turns}]} for q, turns in answers.items()]
        lines(folder / "model_answer" / f"{model}.jsonl", rows)
    return Folder(folder)


def hub(folder: Path) -> Folder:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def conversation(model: str, question: int) -> list[dict[str, str]]:
        texts = zip(QUESTIONS[question], ANSWERS[model][question], strict=True)
        return [
            {"content": text, "role": role}
            for pair in texts
            for text, role in zip(pair, ("user", "assistant"), strict=True)
        ]

    rows = [
        {**vote, **{f"conversation_{s}": conversation(vote[f"model_{s}"], vote["question_id"]) for s in "ab"}}
        for vote in reversed(votes())
    ]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / HUB_FILE)
    return Folder(folder)


def load(folder: Folder, **options: Any) -> PreferenceData:
    return MTBenchHuman(min_comparisons=1, **options).load(folder, "mt-bench-human")


def test_votes_become_comparisons(tmp_path: Path) -> None:
    found = load(release(tmp_path))
    said = [
        (found.user_keys[u], found.contexts[found.item_context[c]][0].content, found.responses[c], found.responses[r])
        for u, c, r in zip(found.user, found.chosen, found.rejected, strict=True)
    ]
    turns = [two_turns(first, "Again.", second) for first, second in (("x one", "x two"), ("y one", "y two"))]
    assert said == [
        ("judge-1", "Write.", "x one", "y one"),
        ("judge-1", "Write.", "x one", "y one"),
        ("judge-1", "Write.", turns[1], turns[0]),
        ("judge-2", "Add.", two_turns("same", "Subtract.", "differs"), two_turns("same", "Subtract.", "")),
    ]
    assert found.group.tolist() == [0, 0, 0, 1]
    assert found.block is not None
    assert found.block.tolist() == [81, 81, 81, 82]
    assert dict(found.counts) == {"votes": 6, TIES: 1, SAME_TEXT: 1, EMPTY: 1}
    assert join_repeats(found).counts[REPEATS] == 1
    assert len(load(Folder(tmp_path), empty_replies="drop")) == 3


def test_the_hubs_rows_are_the_same(tmp_path: Path) -> None:
    assert load(hub(tmp_path / "hub")).fingerprint == load(release(tmp_path / "release")).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner": "model_c"}, "human.jsonl, line 7: winner is 'model_c'"),
        ({"winner": ["model_a"]}, "human.jsonl, line 7: winner is \"['model_a']\", expected one of model_a"),
        ({"turn": 3}, "line 7: turn is 3, expected 1 or 2"),
        ({"judge": None}, "line 7: model_a, model_b or judge is missing"),
        ({"question_id": "81"}, "line 7: question_id is missing or not a whole number"),
        ({"question_id": 99}, "there is no question 99 in question.jsonl"),
        ({"model_a": "model-z"}, "there is no answer of 'model-z' to question 81"),
    ],
)
def test_a_faulty_vote_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = release(tmp_path)
    lines(tmp_path / "human.jsonl", [*votes(), {**votes()[0], **change}])
    with pytest.raises(InputError) as caught:
        load(folder)
    assert message in str(caught.value)


def test_the_real_votes(shared_data: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRBENCH_DATA", str(shared_data))
    every = MTBenchHuman(min_comparisons=1).load(RawFiles(ENTRY), "mt-bench-human")
    assert dict(every.counts) == {"votes": 3355, TIES: 780, SAME_TEXT: 1, EMPTY: 9}
    assert (len(every), every.n_users) == (2574, 65)
    per_user = np.bincount(every.user)
    assert [(per_user >= least).sum() for least in (20, 30, 100)] == [59, 53, 4]
    assert np.median(per_user) == 36
    found = data.load(ENTRY)
    told = describe.describe(found, ENTRY)
    assert not [name for name in told["counts"] if name.startswith("expected")]
    assert round(told["disagreement"], 2) == 0.17
    assert "expert" not in json.dumps(told)


@pytest.mark.parametrize(("turn", "with_ties", "without"), [(1, 0.666, 0.859), (2, 0.657, 0.853)])
def test_gpt4_agrees_with_people_as_published(turn: int, with_ties: float, without: float, shared_data: Path) -> None:
    folder = shared_data / "mt-bench-human"
    verdicts = {
        (v.question, v.model_a, v.model_b): v.winner for v in read_votes(folder / "gpt4_pair.jsonl") if v.turn == turn
    }
    agreed, decided = [], []
    for vote in read_votes(folder / "human.jsonl"):
        if vote.turn != turn:
            continue
        straight, turned = (vote.question, vote.model_a, vote.model_b), (vote.question, vote.model_b, vote.model_a)
        verdict = verdicts[straight] if straight in verdicts else verdicts[turned]
        if straight not in verdicts and verdict is not None:
            verdict = 1 - verdict
        agreed.append(verdict == vote.winner)
        if verdict is not None and vote.winner is not None:
            decided.append(verdict == vote.winner)
    assert round(float(np.mean(agreed)), 3) == with_ties
    assert round(float(np.mean(decided)), 3) == without
