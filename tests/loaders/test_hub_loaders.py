"""PersonalLLM, PersonalRewardBench, Community Alignment and RewardBench 2 on files in their schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from upstream_fixtures import (
    PERSONAL,
    REWARDBENCH2,
    Files,
    community_row,
    personal_row,
    personalllm_row,
    refusal,
    texts,
    write_community,
    write_parquet,
)

from prbench import registry
from prbench.loaders.community_alignment import CommunityAlignment
from prbench.loaders.personalllm import FILES, REWARD_MODELS, PersonalLLM
from prbench.loaders.personalrewardbench import PersonalRewardBench
from prbench.loaders.rewardbench2 import RewardBench2, subset_accuracy
from prbench.protocol.splits import make_split


def drop(file: Path, *columns: str) -> None:
    write = pq.read_table(file).drop_columns(list(columns))
    pq.write_table(write, file)


# PersonalLLM


def one_model(best: int, model: int = 0) -> list[list[float]]:
    """Scores in which `model` likes reply `best` (of 0..7) most and the one after it least; the others do not care."""
    scores = np.zeros((8, 10))
    scores[best, model], scores[(best + 1) % 8, model] = 1, -1
    return scores.tolist()


def write_personalllm(folder: Path, train: int = 6, test: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for file, count in zip(FILES, (train, test), strict=True):
        write_parquet(
            folder / file, [personalllm_row(f"{file[5:9]}{i}", rng.normal(size=(8, 10)) * 3) for i in range(count)]
        )
    return folder


SMALL: dict[str, Any] = {"users": 3, "train_prompts": 5, "test_prompts": 2}


def test_personalllm_users_prefer_the_best_reply_over_the_worst(tmp_path: Path) -> None:
    # With weights on one model only, the reply that it likes most is every user's; here all ten agree.
    scores = sum(np.array(one_model(3, model)) for model in range(10))
    for file in FILES:
        write_parquet(tmp_path / file, [personalllm_row(f"{file[5:9]}{i}", scores.tolist()) for i in range(5)])
    found = PersonalLLM(users=2, train_prompts=5, test_prompts=3).load(Files(tmp_path), "toy")
    assert found.user_keys == ("simulated-0", "simulated-1")
    assert len(found) == 2 * (5 + 3)
    assert {row[2][-1] for row in texts(found)} == {"4"}
    assert {row[3][-1] for row in texts(found)} == {"5"}
    assert found.mark is not None
    assert found.mark.tolist() == [0] * 5 + [1] * 3 + [0] * 5 + [1] * 3
    assert {row[1][0][:4] for row, mark in zip(texts(found), found.mark, strict=True) if mark == 0} == {"trai"}
    assert {row[1][0][:4] for row, mark in zip(texts(found), found.mark, strict=True) if mark == 1} == {"test"}


def test_personalllm_users_differ_and_are_the_same_again_whatever_their_number(tmp_path: Path) -> None:
    write_personalllm(tmp_path)
    found = PersonalLLM(**SMALL).load(Files(tmp_path), "toy")
    again = PersonalLLM(**{**SMALL, "users": 5}).load(Files(tmp_path), "toy")
    assert texts(found) == texts(again)[: len(found)]
    other = PersonalLLM(**SMALL, seed=1).load(Files(tmp_path), "toy")
    assert texts(other) != texts(found)
    chosen = [{row[2] for row in texts(found) if row[0] == f"simulated-{user}"} for user in range(3)]
    assert chosen[0] != chosen[1]
    assert found.counts["prompts judged"] == 3 * 7
    assert len(np.unique(found.group)) == len(found.contexts)


def test_personalllm_standardised_scores_ignore_a_models_scale_and_raw_ones_do_not(tmp_path: Path) -> None:
    for name, scale in (("plain", 1.0), ("loud", 1000.0)):
        rng = np.random.default_rng(0)
        for file in FILES:
            made = []
            for i in range(6):
                scores = rng.normal(size=(8, 10))
                scores[:, 0] = scores[:, 0] * scale + 7
                made.append(personalllm_row(f"{file[5:9]}{i}", scores))
            write_parquet(tmp_path / name / file, made)
    choices: dict[str, Any] = {}
    for kind in ("raw", "standardised"):
        loader = PersonalLLM(**SMALL, alpha=10.0, scores=kind)
        choices[kind] = [texts(loader.load(Files(tmp_path / name), "toy")) for name in ("plain", "loud")]
    assert choices["standardised"][0] == choices["standardised"][1]
    assert choices["raw"][0] != choices["raw"][1]


def test_personalllm_random_pairs_are_two_replies_by_reward(tmp_path: Path) -> None:
    scores = np.repeat(np.arange(8.0)[:, None], 10, axis=1)
    for file in FILES:
        write_parquet(tmp_path / file, [personalllm_row(f"{file[5:9]}{i}", scores) for i in range(40)])
    found = PersonalLLM(users=2, train_prompts=40, test_prompts=40, pairs="random").load(Files(tmp_path), "toy")
    sides = [(int(row[2][-1]), int(row[3][-1])) for row in texts(found)]
    assert all(better > worse for better, worse in sides)
    assert len(set(sides)) > 10


def test_personalllm_counts_ties_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    write_personalllm(tmp_path)
    file = tmp_path / FILES[0]
    write_parquet(file, [personalllm_row(f"p{i}", np.zeros((8, 10))) for i in range(5)])
    found = PersonalLLM(**SMALL).load(Files(tmp_path), "toy")
    assert found.counts["choices between equal rewards or texts dropped"] == 3 * 5
    assert len(found) == 3 * 2
    said = refusal(lambda: PersonalLLM(**SMALL, scores="standardised").load(Files(tmp_path), "toy"))
    assert f"{file}: the scores of {REWARD_MODELS[0]} are all the same" in said
    assert f"{file} has 5 prompts, 47 are asked for" in refusal(lambda: PersonalLLM().load(Files(tmp_path), "toy"))
    bad = personalllm_row("p", np.ones((8, 10)))
    write_parquet(file, [bad, {**bad, "response_3_beaver_7b": float("nan")}])
    message = f"{file}, row 2: response_3_beaver_7b is nan, not a finite number"
    assert message in refusal(lambda: PersonalLLM(**SMALL).load(Files(tmp_path), "toy"))
    drop(file, "response_8_mistral_ray", "prompt")
    said = refusal(lambda: PersonalLLM(**SMALL).load(Files(tmp_path), "toy"))
    assert f"{file} has no column prompt and no column response_8_mistral_ray" in said


def test_the_personalllm_entry_is_lores_setting(tmp_path: Path) -> None:
    entry = registry.get("datasets", "personalllm")
    options = {**entry.options, "users": 30, "train_prompts": 12, "test_prompts": 4}
    found = PersonalLLM(**options).load(Files(write_personalllm(tmp_path, 12)), "toy")
    split = make_split(found, entry.protocol, index=0)
    assert (len(split.seen), len(split.unseen)) == (20, 10)
    assert len(split.seen_train) == 20 * 12
    assert len(split.unseen_support) == 10 * 9


# PersonalRewardBench


def write_personal(folder: Path) -> Path:
    train = [
        personal_row("u1", "c1", "Tea?", "Yes.", "No.", "train"),
        personal_row("u1", "c2", "Milk?", "A bit.", "None.", "val"),
        personal_row("u2", "c3", "Tea?", "No.", "Yes.", "train"),
    ]
    train[1]["context"] = [
        {"role": "user", "content": "Tea?"},
        {"role": "model", "content": "Yes."},
        {"role": "user", "content": "Milk?"},
    ]
    test = [
        personal_row("u1", "c4", "Cake?", "Lots.", "Little.", "test"),
        personal_row("u2", "c3", "Cake?", "Little.", "Lots.", "test"),
        personal_row("u2", "c5", "Pie?", "Same.", "Same.", "test"),
    ]
    for file, part in (("test", test), ("train", train), ("validation", [])):
        write_parquet(folder / f"default/{file}/0000.parquet", part, PERSONAL)
    return folder


def test_personalrewardbench_keeps_the_sources_own_parts(tmp_path: Path) -> None:
    found = PersonalRewardBench().load(Files(write_personal(tmp_path)), "toy")
    assert texts(found) == [
        ("u1", ("Cake?",), "Lots.", "Little."),
        ("u2", ("Cake?",), "Little.", "Lots."),
        ("u1", ("Tea?",), "Yes.", "No."),
        ("u1", ("Tea?", "Yes.", "Milk?"), "A bit.", "None."),
        ("u2", ("Tea?",), "No.", "Yes."),
    ]
    assert found.mark is not None
    assert found.mark.tolist() == [1, 1, 0, 0, 0]
    assert found.group.tolist() == [0, 1, 2, 3, 1]
    assert [message.role for message in found.contexts[2]] == ["user", "assistant", "user"]
    assert found.counts["rows marked val, used as train"] == 1
    assert found.counts["rows with two equal replies dropped"] == 1
    entry = registry.get("datasets", "prism-personalrewardbench")
    assert (entry.protocol.name, entry.protocol.unit) == ("paper", "mark")
    assert registry.get("datasets", "arena-personalrewardbench").expect == {"users": 131}


def test_personalrewardbench_takes_plain_texts_too_and_groups_by_context_without_conversations(
    tmp_path: Path,
) -> None:
    plain = [
        {"user_id": 7, "context": "Tea?", "chosen": "Yes.", "rejected": "No.", "split": "train"},
        {"user_id": 7, "context": "Tea?", "chosen": "Please.", "rejected": "No.", "split": "test"},
    ]
    write_parquet(tmp_path / "only.parquet", plain)
    found = PersonalRewardBench().load(Files(tmp_path), "toy")
    assert texts(found) == [("7", ("Tea?",), "Yes.", "No."), ("7", ("Tea?",), "Please.", "No.")]
    assert found.group.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "row 1: split is 'dev', expected one of train, val, test"),
        ({"user_id": None}, "row 1: user_id is neither a text nor a whole number"),
        ({"context": []}, "row 1: context is neither a text nor a list of messages"),
        (
            {"context": [{"role": "user", "content": None}]},
            "row 1: context: message 1 needs a 'role' and a 'content'",
        ),
        ({"chosen": [{"role": "user", "content": "Hm?"}]}, "row 1: chosen holds 1 messages, expected one reply"),
        ({"rejected": [{"role": "assistant", "content": "A"}] * 2}, "row 1: rejected holds 2 messages, expected one"),
    ],
)
def test_personalrewardbench_refuses_other_rows(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "default/train/0000.parquet"
    write_parquet(file, [{**personal_row("u1", "c1", "Tea?", "Yes.", "No.", "train"), **change}], PERSONAL)
    assert f"{file}, {message}" in refusal(lambda: PersonalRewardBench().load(Files(tmp_path), "toy"))
    drop(file, "user_id", "split")
    said = refusal(lambda: PersonalRewardBench().load(Files(tmp_path), "toy"))
    assert f"{file} has no column user_id and no column split" in said


# Community Alignment


def replies(text: str) -> Sequence[str]:
    return [f"{text}{letter}" for letter in "ABCD"]


def test_community_alignment_pairs_the_preferred_reply_and_stops_at_an_incomplete_turn(tmp_path: Path) -> None:
    write_community(
        tmp_path,
        [
            community_row(
                "c1", "a1", [('Tea,\n"please"?', "response_b", replies("x")), ("More?", "response_d", replies("y"))]
            ),
            # The second turn has no preferred reply, so the history of the third is unknown.
            community_row(
                "c2",
                "a1",
                [
                    ("Cake?", "response_a", replies("z")),
                    ("Pie?", None, replies("w")),
                    ("Jam?", "response_c", replies("v")),
                ],
            ),
            community_row("c3", "a2", [("Tea?", "response_a", ["Yes.", "Yes.", "No.", None])]),
            community_row("c4", "a1", [("Thé ?", "response_a", replies("f"))], language="fr"),
            community_row("c5", "a2", [("Hm?", "response_a", ["Same."] * 4)]),
            community_row("c6", "a2", []),
        ],
    )
    found = CommunityAlignment(min_conversations=1).load(Files(tmp_path), "toy")
    tea = ('Tea,\n"please"?',)
    assert texts(found) == [
        ("a1", tea, "xB", "xA"),
        ("a1", tea, "xB", "xC"),
        ("a1", tea, "xB", "xD"),
        ("a1", (*tea, "xB", "More?"), "yD", "yA"),
        ("a1", (*tea, "xB", "More?"), "yD", "yB"),
        ("a1", (*tea, "xB", "More?"), "yD", "yC"),
        ("a1", ("Cake?",), "zA", "zB"),
        ("a1", ("Cake?",), "zA", "zC"),
        ("a1", ("Cake?",), "zA", "zD"),
        ("a2", ("Tea?",), "Yes.", "No."),
    ]
    assert found.group.tolist() == [0] * 6 + [1] * 3 + [2]
    for key, expected in {
        "conversations": 6,
        "conversations in other languages dropped": 1,
        "conversations without a usable turn dropped": 2,
        "turns after an incomplete one dropped": 1,
        "replies with the preferred one's text dropped": 1 + 3,
        "users with fewer than 1 conversations dropped": 0,
    }.items():
        assert found.counts[key] == expected, key
    fewer = CommunityAlignment(min_conversations=2).load(Files(tmp_path), "toy")
    assert fewer.user_keys == ("a1",)
    assert fewer.counts["users with fewer than 2 conversations dropped"] == 1
    assert fewer.counts["conversations of dropped users"] == 1
    everything = CommunityAlignment(min_conversations=1, language="").load(Files(tmp_path), "toy")
    assert len(everything) == len(found) + 3


def test_community_alignment_refuses_other_files(tmp_path: Path) -> None:
    file = tmp_path / "community_alignment.csv"
    write_community(tmp_path, [community_row("c1", "a1", [("Tea?", "A", replies("x"))])])
    loader = CommunityAlignment(min_conversations=1)
    said = refusal(lambda: loader.load(Files(tmp_path), "toy"))
    assert f"{file}, line 2: first_turn_preferred_response is 'A', expected response_a to _d" in said
    file.write_text(file.read_text().replace("annotator_id", "who"))
    assert f"{file} has no column annotator_id" in refusal(lambda: loader.load(Files(tmp_path), "toy"))
    write_community(tmp_path, [community_row("c1", "a1", [("Tea?", "response_a", replies("x"))])])
    said = refusal(lambda: CommunityAlignment(language="hi").load(Files(tmp_path), "toy"))
    assert "no annotator has 10 conversations in the language 'hi'" in said


# RewardBench 2


def test_rewardbench2_is_one_user_with_a_good_reply_against_each_bad_one(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", REWARDBENCH2)
    found = RewardBench2().load(Files(tmp_path), "toy")
    assert found.user_keys == ("everybody",)
    assert [row[1:] for row in texts(found)] == [
        (("Capital of France?",), "Paris.", "Rome."),
        (("Capital of France?",), "Paris.", "Lyon."),
        (("Capital of France?",), "Paris.", "Nice."),
        (("Capital of Italy?",), "Rome.", "Paris."),
        (("Capital of Italy?",), "Rome.", "Milan."),
        (("Capital of Italy?",), "Rome.", "Turin."),
        (("One and one?",), "Two.", "Three."),
        (("One and one?",), "Two.", "Four."),
    ]
    assert found.block is not None
    assert found.block.tolist() == [0] * 6 + [2] * 2
    assert found.counts["prompts of the subset Ties dropped"] == 1
    assert found.counts["pairs of equal replies dropped"] == 1


def test_rewardbench2_accuracy_needs_the_good_reply_above_every_bad_one(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", REWARDBENCH2)
    found = RewardBench2().load(Files(tmp_path), "toy")
    score = np.zeros(found.n_items)
    score[found.chosen] = 1.0
    assert subset_accuracy(found, score) == {"Factuality": 1.0, "Math": 1.0, "mean": 1.0}
    # One of three bad replies as good as the good one: the prompt is lost.
    score[found.rejected[4]] = 1.0
    assert subset_accuracy(found, score) == {"Factuality": 0.5, "Math": 1.0, "mean": 0.75}
    assert subset_accuracy(found, -score)["mean"] == 0.0


def test_rewardbench2_refuses_other_rows(tmp_path: Path) -> None:
    file = tmp_path / "data/test-00000-of-00001.parquet"
    for change, message in (
        ({"subset": "Chat"}, "row 1: subset is 'Chat', expected one of Factuality, Precise IF"),
        ({"rejected": []}, "row 1: prompt is not a text, or chosen or rejected is not a list of texts"),
    ):
        write_parquet(file, [{**REWARDBENCH2[0], **change}, REWARDBENCH2[1]])
        assert f"{file}, {message}" in refusal(lambda: RewardBench2().load(Files(tmp_path), "toy"))
    drop(file, "subset")
    assert f"{file} has no column subset" in refusal(lambda: RewardBench2().load(Files(tmp_path), "toy"))
