"""Personalised DPO: what policies are trained on, and that a preference is learned, kept and judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import one_person
import pytest
import tiny_llama
from one_person import METHOD, Place

from prbench import cli
from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.policy import dpo, training
from prbench.policy.language_model import language_model, log_probabilities
from prbench.policy.pairs import BT, EVERYBODY, People, labelled, open_people, reward_margins
from prbench.policy.training import Recipe, TextPair
from prbench.protocol.metrics import decisions
from prbench.running.open_dataset import adapt_rng

TEMPLATE = tiny_llama.TEMPLATE + "{% if add_generation_prompt %}<|start|>a:{% endif %}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with one_person.made(tmp_path_factory.mktemp("dpo")) as place:
        yield place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "tiny"
    return tiny_llama.build(made, reward=False, template=TEMPLATE, positions=160)


@pytest.fixture(scope="module")
def people(place: Place) -> People:
    return open_people(place.runs, "texts", METHOD, "all")


def test_pairs_are_the_same_for_all_and_labels_are_those_of_each_reward(people: People) -> None:
    data, split = people.data, people.split
    labels, held_out = labelled(people, 0)
    users = people.users.tolist()
    assert list(labels) == [EVERYBODY, BT, *(f"user-{user}" for user in users)]
    everybody = labels[EVERYBODY]
    assert set(everybody.rows.tolist()) <= set(split.seen_train.tolist())
    assert not everybody.turned.any()
    tested = data.same_pair[split.unseen_test]
    assert not np.isin(data.same_pair[everybody.rows], tested).any()
    assert held_out + len(everybody.rows) == len(np.unique(data.same_pair[split.seen_train]))
    # Every label by hand, from the scores of the two replies.
    comparisons = people.setting.comparisons()
    support = comparisons.take(split.unseen_support)
    adapted = people.method.adapt_unseen(support, users=split.unseen, rng=adapt_rng(people.setting, split))
    for user in users:
        own = labels[f"user-{user}"]
        scores = [
            people.method.score(adapted, np.full(len(own.rows), user), comparisons.items.take(side[own.rows]))
            for side in (data.chosen, data.rejected)
        ]
        assert own.turned.tolist() == (scores[0] < scores[1]).tolist()
        assert own.rows.tolist() == everybody.rows.tolist()
    # What the people chose and the rewards' own accuracy on it.
    for user, (margins, _) in reward_margins(people).items():
        rows = people.test_rows(user)
        assert len(margins) == len(rows) == int((data.user[split.unseen_test] == user).sum())
    again, _ = labelled(people, 0)
    other, _ = labelled(people, 1)
    assert again[BT].rows.tolist() == labels[BT].rows.tolist() != other[BT].rows.tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"users": "99"}, "99 is not an unseen user of split 0"),
        ({"users": "any:500"}, "this split has"),
        ({"users": "ann"}, "expected numbers of users"),
        ({"users": ""}, "expected numbers of users"),
        ({"method": "lore"}, "unknown method on texts"),
        ({"dataset": "sim-text"}, "has no finished fit on sim-text"),
        ({"split": "7"}, "has no finished fit of split 7"),
        ({"policy": "gpt-4-verdicts"}, "is not a model whose weights are read here"),
        ({"rate": "2"}, "Invalid value for '--rate'"),
        ({"runs": "nowhere"}, "there is no results folder nowhere"),
    ],
)
def test_bad_input_is_one_line(
    place: Place, folder: Path, changes: dict[str, str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = {"dataset": "texts", "method": METHOD, "users": "any:1", "runs": str(place.runs), "policy": str(folder)}
    given |= {"out": str(tmp_path / "out"), **changes}
    assert cli.main(["policy", "dpo", *(word for key, value in given.items() for word in (f"--{key}", value))]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_and_needs_no_trl(
    place: Place, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking() -> None:
        raise InputError("DPO needs the package trl, which is not here", hint=training.INSTALL)

    monkeypatch.setattr(training, "require_trl", lacking)
    words = ["policy", "dpo", "--dataset", "texts", "--method", METHOD, "--users", "any:1", "--json"]
    words += ["--runs", str(place.runs), "--policy", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policies"], found["done"], found["steps"]) == (3, 0, 300)
    assert len(set(found["pairs"].values())) == 1
    assert cli.main(words) == 2
    assert "DPO needs the package trl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("turned", [False, True])
def test_a_planted_preference_is_learned_and_its_reverse_too(folder: Path, tmp_path: Path, turned: bool) -> None:
    """Replies that begin with one letter are preferred: held-out pairs follow the labels, in either direction."""
    policy = language_model(str(folder))
    draw = np.random.default_rng(0)

    def pair(number: int) -> tuple[tuple[Message, ...], str, str]:
        ends = ["".join(draw.choice(list("mnopqr"), 4)) for _ in range(2)]
        return (Message("user", f"Q{number}?"),), f"a{ends[0]}", f"z{ends[1]}"

    pairs = [pair(i) for i in range(40)]
    train = [TextPair(c, z, a) if turned else TextPair(c, a, z) for c, a, z in pairs[:24]]
    (tmp_path / "new").mkdir()
    steps: list[int] = []
    recipe = Recipe(steps=30, batch=8, rate=3e-2, rank=4)
    model = training.train(policy, train, recipe, tmp_path / "new", lambda: steps.append(1))
    assert len(steps) == 30
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "training.json"
    }  # fmt: skip
    assert str(folder.parent) not in (tmp_path / "new" / "adapter_config.json").read_text()

    def differences() -> np.ndarray[Any, Any]:
        one, other = (
            log_probabilities(model, [policy.sequence(p[0], p[side]) for p in pairs[24:]])[:, 0].double().numpy()
            for side in (1, 2)
        )
        return np.asarray(one - other)

    adapted = differences()
    with model.disable_adapter():
        moved = adapted - differences()
    share = float(decisions(moved).mean())
    assert share <= 0.1 if turned else share >= 0.9
    # The base is as it was: the next policy starts from it.
    policy.forget()
    with model.disable_adapter():
        before = log_probabilities(model, [policy.sequence(*pairs[0][:2])])
    np.testing.assert_allclose(log_probabilities(policy.weights, [policy.sequence(*pairs[0][:2])]), before, atol=1e-3)


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_the_command_trains_judges_and_goes_on(
    place: Place, people: People, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    out = tmp_path / "policies"
    user = int(people.users[0])
    words = ["policy", "dpo", "--dataset", "texts", "--method", METHOD, "--users", str(user), "--json"]
    words += ["--runs", str(place.runs), "--policy", str(folder), "--out", str(out), "--device", "cpu"]
    words += ["--steps", "3", "--batch", "2", "--rank", "2", "--rate", "0.01"]
    inner, trained = training.train, []

    def stops(*given: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(given)
        return inner(*given)

    monkeypatch.setattr(training, "train", stops)
    assert cli.main(words) == 130
    capsys.readouterr()
    assert len([path for path in out.iterdir() if not path.name.startswith(".")]) == 2
    monkeypatch.setattr(training, "train", inner)
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    names = sorted(path.name.rpartition("-")[0] for path in out.iterdir() if path.is_dir())
    assert names == [BT, EVERYBODY, f"user-{user}"]
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert left == {
        "adapter_config.json", "adapter_model.safetensors", "training.json", "policy.json", "results.json"
    }  # fmt: skip
    (row,) = found["users"]
    assert (row["user"], row["choices"]) == (user, len(people.test_rows(user)))
    (own,) = out.glob(f"user-{user}-*")
    record = json.loads((own / "policy.json").read_text())
    assert row["own policy"] == pytest.approx(decisions(np.array(record["margins"][str(user)])).mean())
    assert row["reference model"] == pytest.approx(decisions(np.array(record["reference"][str(user)])).mean())
    assert any(abs(value) > 1e-4 for value in record["margins"][str(user)])
    (margins, _) = reward_margins(people)[user]
    assert row["own reward"] == pytest.approx(decisions(margins).mean())

    # Done is done, other settings are other policies, and a changed adapter is told.
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["users"] == found["users"]
    assert dpo.outline(people, language_model(str(folder)), Recipe(), out)["done"] == 0
    weights = own / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert cli.main(words) == 2
    assert "is not the adapter that policy.json names" in capsys.readouterr().err
