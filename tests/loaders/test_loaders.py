"""The loaders of real votes: hand-made files with known answers, the published counts, and the cache around them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest

from prbench import data, registry
from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.data import describe
from prbench.loaders.convarg import ConvArg
from prbench.loaders.crowdrag import CrowdRAG, without_citations
from prbench.loaders.json_lines import json_lines
from prbench.registry.schema import DatasetEntry

A, B, C = ("a", "First text."), ("b", "A second, longer text."), ("c", "Third.")


@dataclass
class Files:
    """Local files by upstream path, unchecked."""

    folder: Path

    def path(self, path: str) -> Path:
        return self.folder / path

    def paths(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


def debate(
    stance: str, *pairs: tuple[tuple[str, str], tuple[str, str], Sequence[tuple[str, str]]], title: str = "Tea?"
) -> str:
    """A file of UKPConvArg1's form; votes are (worker, value), a minute apart, all of competence 0.5."""
    text = '<?xml version="1.0"?>\n<list>'
    minute = 0
    for first, second, votes in pairs:
        text += f"<annotatedArgumentPair><id>{first[0]}_{second[0]}</id>"
        for tag, (key, words) in (("arg1", first), ("arg2", second)):
            text += f"<{tag}><stance>{stance}</stance><text>{escape(words)}</text><id>{key}</id></{tag}>"
        text += f"<debateMetaData><title>{escape(title)}</title></debateMetaData><mTurkAssignments>"
        for worker, value in votes:
            text += (
                f"<mTurkAssignment><turkID>{worker}</turkID><value>{value}</value><turkCompetence>0.5</turkCompetence>"
                f"<assignmentSubmitTime>1970-01-01 00:{minute:02}:00.0 UTC</assignmentSubmitTime></mTurkAssignment>"
            )
            minute += 1
        text += "</mTurkAssignments></annotatedArgumentPair>"
    return text + "</list>"


def convarg(tmp_path: Path, files: Mapping[str, str], **options: Any) -> PreferenceData:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return ConvArg(**{"min_comparisons": 1, **options}).load(Files(tmp_path), "toy")


def test_convarg_reads_votes_in_the_files_sorted_order(tmp_path: Path) -> None:
    found = convarg(
        tmp_path,
        {
            "z_no.xml": debate("No", (A, B, [("worker-a", "a1"), ("worker-c", "a2")])),
            "b_yes.xml": debate(
                "Yes", (A, B, [("worker-b", "a2"), ("worker-a", "equal")]), (C, A, [("worker-a", "a1")])
            ),
        },
    )
    assert found.user_keys == ("worker-b", "worker-a", "worker-c")
    assert found.user.tolist() == [0, 1, 1, 2]
    assert [context[0].content for context in found.contexts] == [
        "Debate: Tea?\nStance: Yes\nGive a convincing argument for this stance.",
        "Debate: Tea?\nStance: No\nGive a convincing argument for this stance.",
    ]
    # The same argument id under another stance is another item.
    assert found.responses == (A[1], B[1], C[1], A[1], B[1])
    assert found.item_context.tolist() == [0, 0, 0, 1, 1]
    assert found.chosen.tolist() == [1, 2, 3, 4]
    assert found.rejected.tolist() == [0, 0, 4, 3]
    assert found.group.tolist()[2] == found.group.tolist()[3]
    assert len(set(found.group.tolist())) == 3
    assert found.block is not None
    assert found.block.tolist() == [0, 0, 0, 0]
    assert found.time is not None
    assert found.time.tolist() == [0.0, 120.0, 0.0, 60.0]
    assert found.counts["votes"] == 5
    assert found.counts["equal votes dropped"] == 1


def test_convarg_keeps_a_pair_together_in_both_orders_and_with_copies_of_a_text(tmp_path: Path) -> None:
    copy = ("a-again", A[1])
    found = convarg(
        tmp_path,
        {
            "x.xml": debate(
                "Yes",
                (A, B, [("worker-a", "a1")]),
                (B, A, [("worker-a", "a1")]),
                (B, copy, [("worker-a", "a2")]),
                (A, copy, [("worker-a", "a2")]),
                (A, C, [("worker-a", "a2")]),
            )
        },
    )
    assert found.group[0] == found.group[1] == found.group[2]
    assert len({int(found.group[i]) for i in (0, 3, 4)}) == 3
    assert found.n_items == 4
    assert found.counts["comparisons of two arguments with the same text"] == 1


def test_convarg_blocks_are_debates_with_both_stances(tmp_path: Path) -> None:
    vote = [("worker-a", "a1")]
    found = convarg(
        tmp_path,
        {
            "1.xml": debate("Yes", (A, B, vote), title="One"),
            "2.xml": debate("No", (A, B, vote), title="One"),
            "3.xml": debate("Yes", (A, B, vote), title="Two"),
        },
    )
    assert found.block is not None
    assert found.block.tolist() == [0, 0, 1]
    assert len(found.contexts) == 3


def test_convarg_drops_and_counts_users_with_few_comparisons(tmp_path: Path) -> None:
    votes = [("worker-a", "a1"), ("worker-b", "a1"), ("worker-b", "a2")]
    found = convarg(tmp_path, {"x.xml": debate("Yes", (A, B, votes), (A, C, votes[:1]))}, min_comparisons=2)
    assert found.user_keys == ("worker-a", "worker-b")
    found = convarg(
        tmp_path, {"x.xml": debate("Yes", (A, B, votes), (A, C, [("worker-d", "a1")]))}, min_comparisons=2
    )
    assert found.user_keys == ("worker-b",)
    # Nobody who is left compared C.
    assert found.responses == (A[1], B[1])
    assert found.counts["users with fewer than 2 comparisons dropped"] == 2
    assert found.counts["comparisons of dropped users"] == 2
    with pytest.raises(InputError, match="no user has 3 comparisons; the most that one user has is 2"):
        convarg(tmp_path, {}, min_comparisons=3)


def test_convarg_can_drop_less_competent_workers(tmp_path: Path) -> None:
    text = debate("Yes", (A, B, [("worker-a", "a1"), ("worker-b", "a2")]))
    text = text.replace("<turkCompetence>0.5", "<turkCompetence>0.9", 1)
    found = convarg(tmp_path, {"x.xml": text}, min_competence=0.9)
    assert found.user_keys == ("worker-a",)
    assert found.counts["votes of less competent workers dropped"] == 1


BAD_XML = {
    "truncated": (lambda text: text[: len(text) // 2], "x.xml is not a complete XML file"),
    "no XML": (lambda _: "hello", "x.xml is not a complete XML file"),
    "empty": (lambda _: "", "x.xml is not a complete XML file"),
    "entities": (
        lambda text: text.replace("<list>", '<!DOCTYPE list [<!ENTITY e "boom">]><list>').replace("First", "&e;"),
        "x.xml declares a document type",
    ),
    "unknown vote": (lambda text: text.replace(">a1<", ">a3<"), "x.xml, pair a_b: a vote is 'a3'"),
    "no title": (lambda text: text.replace("Tea?", " "), "pair a_b: <debateMetaData/title> is missing or empty"),
    "no worker": (lambda text: text.replace("<turkID>worker-a</turkID>", ""), "pair a_b: <turkID> is missing"),
    "bad time": (
        lambda text: text.replace("1970-01-01", "yesterday"),
        "pair a_b: <assignmentSubmitTime> is 'yesterday",
    ),
    "two texts": (lambda text: text[: -len("</list>")] + text.replace("First", "Worst")[28:], "argument a has two"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_a_broken_xml_file_gets_one_line(case: str, tmp_path: Path) -> None:
    spoil, message = BAD_XML[case]
    with pytest.raises(InputError) as caught:
        convarg(tmp_path, {"x.xml": spoil(debate("Yes", (A, B, [("worker-a", "a1")])))})
    assert message in str(caught.value)
    assert str(tmp_path / "x.xml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "worker" not in str(caught.value)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def rating(first: str, second: str, workers: Sequence[str], **votes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"query_id": "q1", "response_a": first, "response_b": second, "worker": list(workers)}
    for criterion, choices in votes.items():
        row[f"{criterion}_vote"] = list(choices)
        row[f"{criterion}_spam_probability"] = [0.25 * (i + 1) for i in range(len(choices))]
    return row


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    write_jsonl(
        tmp_path / "raw/study1_responses_human.jsonl.gz",
        [
            {"response": "h", "timestamp": 5, "text": "Early [0]."},
            {"response": "h", "timestamp": 9, "text": "Late, written first."},
            {"response": "h", "timestamp": 9, "text": "Late [0, 10]."},
            {"response": "h", "timestamp": 7, "text": "Middle."},
        ],
    )
    write_jsonl(
        tmp_path / "raw/study1_responses_llm.jsonl.gz", [{"response": "l", "text": "- Model [1,2,] text[3]."}]
    )
    write_jsonl(tmp_path / "raw/study1_retrieval.jsonl.gz", [{"topic": "q1", "query": "what is tea"}])
    write_jsonl(
        tmp_path / "artifacts/ratings.jsonl.gz",
        [
            rating("h", "l", ["worker-a", "worker-b"], coverage_deep=["A", "N"], quality_overall=["B", "A"]),
            rating("l", "h", ["worker-b", "worker-a"], coverage_deep=["b", "n"], quality_overall=["a", "b"]),
        ],
    )
    return tmp_path


CRITERIA = ["quality_overall", "coverage_deep"]


def test_crowdrag_rebuilds_texts_and_reads_every_criterion(answers: Path) -> None:
    found = CrowdRAG(criteria=CRITERIA, min_comparisons=1).load(Files(answers), "toy")
    assert found.user_keys == ("worker-a", "worker-b")
    assert [context[0].content for context in found.contexts] == [
        "what is tea\n\nJudge the answer by: depth of coverage.",
        "what is tea\n\nJudge the answer by: overall quality.",
    ]
    text = {"h": "Late.", "l": "- Model text."}
    shown = [
        (
            int(found.user[i]),
            int(found.item_context[found.chosen[i]]),
            found.responses[found.chosen[i]],
            found.responses[found.rejected[i]],
        )
        for i in range(len(found))
    ]
    assert shown == [
        (0, 0, text["h"], text["l"]),
        (0, 1, text["l"], text["h"]),
        (1, 1, text["h"], text["l"]),
        (1, 0, text["h"], text["l"]),
        (1, 1, text["l"], text["h"]),
        (0, 1, text["h"], text["l"]),
    ]
    # One pair of answers, in either order and on any criterion, is one group.
    assert set(found.group.tolist()) == {0}
    assert found.n_items == 4
    assert (found.counts["votes"], found.counts["ties dropped"]) == (8, 2)


def test_crowdrag_can_drop_likely_spam(answers: Path) -> None:
    found = CrowdRAG(criteria=CRITERIA, min_comparisons=1, drop_spam=0.25).load(Files(answers), "toy")
    # Only the first vote of each list has a probability as low as 0.25.
    assert found.counts["votes that are likely spam dropped"] == 2
    assert len(found) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("End [0, 10].", "End."),
        ("a [1,2,3] b[4] c", "a b c"),
        ("typed [9 9], [ 7], [6.9] and [1,2,].", "typed,, and."),
        ("line\n[3] next", "line\n next"),
        ("kept [sic] and [...] and [a1] and []", "kept [sic] and [...] and [a1] and []"),
    ],
)
def test_only_citation_marks_are_removed(text: str, expected: str) -> None:
    assert without_citations(text) == expected


BAD_RATINGS = {
    "unknown vote": ({"quality_overall_vote": ["A", "X"]}, "a vote on quality_overall is 'x'"),
    "short list": ({"quality_overall_vote": ["A"]}, "differ in length"),
    "no list": ({"coverage_deep_spam_probability": None}, "'coverage_deep_spam_probability' is missing or no list"),
    "unknown answer": ({"response_b": "lost"}, "no text is known for response 'lost'"),
    "unknown query": ({"query_id": "q9"}, "no query is known for topic 'q9'"),
    "no answer": ({"response_a": None}, "'response_a' is missing or no text"),
}


@pytest.mark.parametrize("case", BAD_RATINGS)
def test_a_broken_rating_is_named_by_its_line(case: str, answers: Path) -> None:
    change, message = BAD_RATINGS[case]
    path = answers / "artifacts/ratings.jsonl.gz"
    rows = [row for _, row in json_lines(path)]
    write_jsonl(path, [rows[0], {**rows[1], **change}])
    with pytest.raises(InputError) as caught:
        CrowdRAG(criteria=CRITERIA, min_comparisons=1).load(Files(answers), "toy")
    assert f"{path}, line 2: " in str(caught.value)
    assert message in str(caught.value)
    assert "worker-" not in str(caught.value)


def test_a_truncated_gzip_is_named(answers: Path) -> None:
    path = answers / "artifacts/ratings.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"ratings\.jsonl\.gz is truncated or damaged"):
        CrowdRAG(criteria=CRITERIA).load(Files(answers), "toy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": }\n', "line 2: no valid JSON"),
        ('{"a": 1}\n\n[1]\n', "line 3: expected a JSON object, found list"),
        ('{"a": NaN}\n', "line 1: NaN is not a JSON value"),
    ],
)
def test_a_bad_json_line_is_numbered(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        list(json_lines(path))


# --- the cache, the options and the description


def toy_entry(**changes: Any) -> DatasetEntry:
    return registry.get("datasets", "convarg").model_copy(
        update={"name": "toy", "family": "toy", "options": {"min_comparisons": 1}, "expect": {}, **changes}
    )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prbench_home: Path) -> DatasetEntry:
    """An entry whose one raw file is at hand."""
    from prbench.base.files import file_sha256

    monkeypatch.setenv("PRBENCH_DATA", str(tmp_path))
    file = tmp_path / "toy" / "x.xml"
    file.parent.mkdir()
    file.write_text(debate("Yes", (A, B, [("worker-a", "a1"), ("worker-b", "a2")]), (A, C, [("worker-a", "a2")])))
    download = toy_entry().download
    assert download is not None
    return toy_entry(download=download.model_copy(update={"files": {"x.xml": file_sha256(file)}}))


def same(left: PreferenceData, right: PreferenceData) -> bool:
    columns = ("item_context", "user", "chosen", "rejected", "group", "block", "time")
    return (
        left.contexts == right.contexts
        and left.responses == right.responses
        and left.user_keys == right.user_keys
        and left.counts == right.counts
        and left.mark is None
        and right.mark is None
        and all(np.array_equal(getattr(left, c), getattr(right, c)) for c in columns)
    )


def test_the_second_load_reads_the_cache(
    toy: DatasetEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = data.load(toy)
    (tmp_path / "toy" / "x.xml").unlink()
    second = data.load(toy)
    assert same(first, second)
    assert first.fingerprint == second.fingerprint
    # A setting that differs in its protocol alone shares the cache, under its own name.
    assert data.load(toy.model_copy(update={"name": "toy-topics"})).name == "toy-topics"
    assert capsys.readouterr().out == ""


def test_worker_ids_are_kept_apart_and_private(toy: DatasetEntry) -> None:
    data.load(toy)
    files = {file.name: file for file in data.cache_folder(toy).iterdir()}
    assert files["users.parquet"].stat().st_mode & 0o777 == 0o600
    for name, file in files.items():
        assert (b"worker-a" in file.read_bytes()) == (name == "users.parquet"), name


@pytest.mark.parametrize("victim", ["comparisons.parquet", "users.parquet", "data.json"])
def test_a_damaged_cache_is_told_and_made_again(
    victim: str, toy: DatasetEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    first = data.load(toy)
    file = data.cache_folder(toy) / victim
    file.write_bytes(file.read_bytes()[:20])
    second = data.load(toy)
    assert same(first, second)
    assert "is damaged" in capsys.readouterr().err
    data.load(toy)
    assert capsys.readouterr().err == ""


def test_a_cache_with_another_choice_is_noticed(toy: DatasetEntry, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    first = data.load(toy)
    file = data.cache_folder(toy) / "comparisons.parquet"
    table = pd.read_parquet(file)
    table.loc[0, ["chosen", "rejected"]] = table.loc[0, ["rejected", "chosen"]].to_numpy().copy()
    table.to_parquet(file, index=False)
    assert same(data.load(toy), first)
    assert "does not match its sha256" in capsys.readouterr().err


def test_other_options_are_another_cache(toy: DatasetEntry) -> None:
    other = toy.model_copy(update={"options": {"min_comparisons": 2}})
    assert data.load(toy).n_users == 2
    assert data.load(other).n_users == 1
    assert data.cache_folder(toy) != data.cache_folder(other)


def test_a_count_that_is_not_expected_is_reported_and_recorded(
    toy: DatasetEntry, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = toy.model_copy(update={"expect": {"users": 3, "comparisons": 3}})
    for _ in range(2):
        found = data.load(entry)
        assert found.counts["expected users"] == 3
        assert "expected comparisons" not in found.counts
        captured = capsys.readouterr()
        assert "toy has 2 users, its entry expects 3" in captured.err
        assert captured.out == ""
    assert "expected users" not in data.load(toy).counts
    with pytest.raises(InputError, match=r"\[expect\] names 'user'"):
        data.load(toy.model_copy(update={"expect": {"user": 2}}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_comparison": 50}, "no option 'min_comparison'.*it has min_comparisons, min_competence"),
        ({"min_comparisons": "50"}, "option min_comparisons: .*integer"),
        ({"min_comparisons": 0}, "option min_comparisons: .*greater than or equal to 1"),
        ({"min_competence": 1.5}, "option min_competence: .*less than or equal to 1"),
    ],
)
def test_a_wrong_option_gets_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"data set toy.*{message}"):
        data.make_loader(toy_entry(options=options))


def test_an_unknown_criterion_gets_one_line() -> None:
    entry = registry.get("datasets", "crowdrag").model_copy(update={"options": {"criteria": ["beauty"]}})
    with pytest.raises(InputError, match=r"data set crowdrag, option criteria\.0: "):
        data.make_loader(entry)


def by_hand() -> PreferenceData:
    """Four items of lengths 1, 2, 3, 3 in one context, three users."""
    rows = np.array(
        [
            # user, chosen, rejected
            (0, 0, 1),
            (1, 0, 1),
            (2, 1, 0),
            (0, 2, 3),
            (0, 3, 2),
            (1, 2, 3),
            (0, 2, 0),
        ],
        dtype=np.int64,
    )
    return PreferenceData(
        name="hand",
        contexts=(as_context("?"),),
        item_context=np.zeros(4, dtype=np.int64),
        responses=("a", "bb", "ccc", "ddd"),
        user=rows[:, 0],
        chosen=rows[:, 1],
        rejected=rows[:, 2],
        group=np.array([0, 0, 0, 1, 1, 1, 2], dtype=np.int64),
        user_keys=("worker-a", "worker-b", "worker-c"),
        counts={"votes": 7},
    )


def test_the_description_by_hand() -> None:
    told = describe.describe(by_hand(), toy_entry())
    # Pair (0, 1): users 0 and 1 against 2: two of three couples differ. Pair (2, 3): user 1 agrees with the first vote
    # of user 0. Each pair counts once.
    assert told["disagreement"] == pytest.approx((2 / 3 + 0) / 2)
    assert told["pairs_shared"] == 2
    # Of four comparisons of unequal lengths the longer wins two: (2: bb over a) and (6: ccc over a).
    assert told["longer_wins"] == pytest.approx(2 / 4)
    assert told["mean_characters"] == pytest.approx(9 / 4)
    assert told["comparisons_per_user"] == {"min": 1.0, "q1": 1.5, "median": 2.0, "q3": 3.0, "max": 4.0}
    assert told["users_with_one_comparison"] == 1
    assert (told["users"], told["comparisons"], told["prompts"], told["items"], told["groups"]) == (3, 7, 1, 4, 3)
    assert told["counts"] == {"votes": 7}
    assert "worker" not in json.dumps(told)


def test_disagreement_is_unknown_where_nobody_shares_a_pair() -> None:
    alone = by_hand().select_users(np.array([0]))
    told = describe.describe(alone, toy_entry())
    assert told["disagreement"] is None
    assert told["pairs_shared"] == 0


# --- the published counts, on the real files


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The real raw files, and one cache for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_DATA", str(shared_data))
        patch.setenv("PRBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def load_real(name: str, **options: Any) -> tuple[PreferenceData, DatasetEntry]:
    entry = registry.get("datasets", name)
    if options:
        entry = entry.model_copy(update={"options": options, "expect": {}})
    return data.load(entry), entry


def at_least(found: PreferenceData, *least: int) -> list[int]:
    per_user = np.bincount(found.user)
    return [int((per_user >= k).sum()) for k in least]


@pytest.mark.usefixtures("real")
def test_convarg_has_the_published_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found, entry = load_real("convarg")
    assert "warning" not in capsys.readouterr().err
    told = describe.describe(found, entry)
    assert (told["users"], told["comparisons"]) == (173, 40_546)
    assert (told["prompts"], told["items"], told["blocks"]) == (32, 1_052, 16)
    assert round(told["mean_characters"]) == 261
    assert round(told["disagreement"], 2) == 0.29
    assert not any(name.startswith("expected") for name in found.counts)
    topics, _ = load_real("convarg-topics")
    assert topics.fingerprint == found.fingerprint


@pytest.mark.usefixtures("real")
@pytest.mark.extras
def test_all_workers_of_convarg_have_the_published_counts() -> None:
    found, entry = load_real("convarg", min_comparisons=1)
    assert (found.n_users, len(found)) == (3_801, 65_340)
    assert at_least(found, 10, 20, 50, 100) == [869, 444, 173, 91]
    told = describe.describe(found, entry)
    assert round(told["longer_wins"], 3) == 0.685
    assert round(told["disagreement"], 2) == 0.29


@pytest.mark.usefixtures("real")
def test_a_group_of_convarg_is_one_pair_of_texts() -> None:
    found, _ = load_real("convarg")
    sides = zip(found.chosen.tolist(), found.rejected.tolist(), strict=True)
    pairs = [frozenset((found.item_context[i], found.responses[i]) for i in side) for side in sides]
    group_of: dict[frozenset[Any], int] = {}
    for pair, group in zip(pairs, found.group.tolist(), strict=True):
        assert group_of.setdefault(pair, group) == group
    assert len(set(group_of.values())) == len(group_of)


@pytest.mark.usefixtures("real")
def test_crowdrag_has_the_published_counts(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = load_real("crowdrag")
    assert "warning" not in capsys.readouterr().err
    assert (found.n_users, len(found.contexts), found.n_items) == (403, 65 * 7, 390 * 7)
    everyone, _ = load_real("crowdrag", min_comparisons=1)
    assert len(everyone) == 33_955
    assert at_least(everyone, 20, 50, 100) == [420, 403, 49]
    overall, entry = load_real("crowdrag", min_comparisons=10, criteria=["quality_overall"])
    assert (overall.n_users, len(overall)) == (420, 6_760)
    assert round(describe.describe(overall, entry)["disagreement"], 2) == 0.42
    assert not any("[0" in text or "[1" in text for text in found.responses)


@pytest.mark.usefixtures("real")
def test_no_pair_of_crowdrag_is_in_two_groups() -> None:
    found, _ = load_real("crowdrag")
    groups: dict[frozenset[str], set[int]] = {}
    for chosen, rejected, group in zip(found.chosen, found.rejected, found.group.tolist(), strict=True):
        pair = frozenset((found.responses[chosen], found.responses[rejected]))
        groups.setdefault(pair, set()).add(group)
    assert all(len(of_pair) == 1 for of_pair in groups.values())
    assert len(groups) == len(np.unique(found.group))


def test_the_loaders_load_nothing_heavy_before_they_are_used() -> None:
    code = (
        "import sys, prbench.data, prbench.loaders.convarg, prbench.loaders.crowdrag, prbench.loaders.table, "
        "prbench.loaders.mrm_files\n"
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'pooch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_is_the_same_every_time(tmp_path: Path) -> None:
    files = {"x.xml": debate("Yes", (A, B, [("worker-a", "a1"), ("worker-b", "a2")]))}
    first, second = convarg(tmp_path, files), convarg(tmp_path, files)
    assert first.fingerprint == second.fingerprint
    assert replace(first, user_keys=("worker-a", "worker-x")).fingerprint != first.fingerprint
