"""Reddit TL;DR: each drop counted on files in the release's schema, the published variant, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from upstream_fixtures import Files, reddit_row, refusal, texts, write_reddit

from prbench import registry
from prbench.comparisons import PreferenceData
from prbench.loaders.reddit import RedditTLDR
from prbench.protocol.splits import make_split


def reddit(folder: Path, **options: Any) -> PreferenceData:
    return RedditTLDR(**options).load(Files(folder), "toy")


POST, OTHER = "My cat sits on my keyboard. \n", "I lost my bicycle."


def small_reddit(folder: Path) -> Path:
    """worker-a: 3 + 2 comparisons, worker-b: 2 + 0 (and one on news), worker-c: 0 + 1."""
    return write_reddit(
        folder,
        [
            reddit_row("worker-a", POST, " Cat sits.", " Keyboard cat.", 1),
            reddit_row("worker-b", POST, " Keyboard cat.", " Cat sits.", 1),
            reddit_row("worker-a", OTHER, " Lost it.", " Bike gone.", 0),
            reddit_row("worker-a", OTHER, " Lost it.", "Lost it.", 0),
            reddit_row("worker-a", OTHER, " Bike gone.", " No bike.", 0),
            reddit_row("worker-b", OTHER, " No bike.", " Lost it.", 0),
            reddit_row(None, OTHER, " No bike.", " Lost it.", 0),
        ],
        [
            reddit_row("worker-a", POST, " Cat sits.", " Cat types.", 0, key="t3_crosspost"),
            reddit_row("worker-a", "Only for validation.", " A.", " B.", 1),
            reddit_row("worker-b", None, " News.", " Other news.", 1),
            reddit_row("worker-c", OTHER, " Lost it.", " No bike.", 1),
            reddit_row("worker-c", "  ", " Nothing.", " Void.", 1),
        ],
    )


def test_reddit_prompts_with_the_post_alone_and_drops_by_reason(tmp_path: Path) -> None:
    found = reddit(small_reddit(tmp_path), min_comparisons=1)
    assert found.user_keys == ("worker-a", "worker-b", "worker-c")
    assert texts(found) == [
        ("worker-a", (POST,), "Keyboard cat.", "Cat sits."),
        ("worker-b", (POST,), "Cat sits.", "Keyboard cat."),
        ("worker-a", (OTHER,), "Lost it.", "Bike gone."),
        ("worker-a", (OTHER,), "Bike gone.", "No bike."),
        ("worker-b", (OTHER,), "No bike.", "Lost it."),
        ("worker-a", (POST,), "Cat sits.", "Cat types."),
        ("worker-a", ("Only for validation.",), "B.", "A."),
        ("worker-c", (OTHER,), "No bike.", "Lost it."),
    ]
    assert found.mark is not None
    assert found.mark.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    # The same post under another id is the same group.
    assert found.group.tolist() == [0, 0, 1, 1, 1, 0, 2, 1]
    assert dict(found.counts) == {
        "rows": 12,
        "rows on CNN/DM articles dropped": 1,
        "rows without a post dropped": 1,
        "rows without a worker dropped": 1,
        "rows with two equal summaries dropped": 1,
    }


def test_reddit_keeps_the_workers_with_enough_comparisons(tmp_path: Path) -> None:
    found = reddit(small_reddit(tmp_path), min_comparisons=5)
    assert found.user_keys == ("worker-a",)
    assert found.counts["users with fewer than 5 comparisons dropped"] == 2
    assert found.counts["comparisons of dropped users"] == 3
    assert "the most that one user has is 5" in refusal(lambda: reddit(tmp_path, min_comparisons=6))


def test_reddit_as_the_published_code_keeps_the_workers_of_both_files(tmp_path: Path) -> None:
    found = reddit(small_reddit(tmp_path), **registry.get("datasets", "reddit100-published-code").options)
    # worker-b's only validation row is on a news article: the published code has that worker too.
    assert found.user_keys == ("worker-a", "worker-b")
    assert found.counts["rows of workers in one file only dropped"] == 1
    protocol = registry.get("datasets", "reddit100-published-code").protocol
    assert (protocol.name, protocol.unit, protocol.seen_train_limit) == ("published-code", "mark", 100)
    assert registry.get("datasets", "reddit150-published-code").protocol.seen_train_limit == 150


def test_no_reddit_post_is_in_a_users_train_and_test_side(tmp_path: Path) -> None:
    rows = [
        reddit_row(f"worker-{worker}", f"Post {post}.", f" S{post}.", f" T{post}.", (worker + i) % 2)
        for worker in range(6)
        for post in range(8)
        for i in range(3)
    ]
    found = reddit(write_reddit(tmp_path, rows[:70], rows[70:]), min_comparisons=24)
    assert found.n_users == 6
    for index in range(3):
        split = make_split(found, registry.get("datasets", "reddit100").protocol, index=index)
        for train, test in ((split.seen_train, split.seen_test), (split.unseen_support, split.unseen_test)):
            assert len(train)
            assert len(test)
            sides = [set(zip(found.user[side], found.group[side], strict=True)) for side in (train, test)]
            assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": 2}, "row 2: choice is 2, expected 0 or 1"),
        ({"choice": None}, "row 2: choice is None, expected 0 or 1"),
        ({"summaries": [{"text": "one", "policy": "p", "note": None}]}, "row 2: summaries are not a list of two"),
        ({"summaries": [{"text": None, "policy": "p", "note": None}] * 2}, "row 2: a summary has no text"),
        ({"info": None}, "row 2: info has no id and no post"),
    ],
)
def test_reddit_refuses_a_row_that_is_not_to_the_schema(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [reddit_row("worker-a", POST, " A.", " B.", 1) for _ in range(3)]
    write_reddit(tmp_path, [rows[0], {**rows[1], **change}], rows)
    said = refusal(lambda: reddit(tmp_path, min_comparisons=1))
    assert f"{tmp_path / 'comparisons/train/0000.parquet'}, {message}" in said
    assert "worker-a" not in said


def test_reddit_names_the_missing_columns_and_a_truncated_file(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    small_reddit(tmp_path)
    file = tmp_path / "comparisons/train/0000.parquet"
    whole = file.read_bytes()
    pq.write_table(pq.read_table(file).drop_columns(["worker", "choice"]), file)
    assert f"{file} has no column choice and no column worker" in refusal(lambda: reddit(tmp_path))
    file.write_bytes(whole[:-20])
    assert f"{file}, after row 0: no readable Parquet" in refusal(lambda: reddit(tmp_path))
