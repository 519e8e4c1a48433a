"""One user's workflow: a person's own choices in, that person's scores of new texts out."""

from __future__ import annotations

import json
import pydoc
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from safetensors.torch import save_file
from small_runs import make_plan, registry_folder, short, without_digests

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.encoders import build_encoder, encoder_entry_for
from prbench.loaders.user_file import import_table
from prbench.method import UserStates, load_tensors
from prbench.registry import methods as methods_module
from prbench.results import cells
from prbench.running import run
from prbench.user import files
from prbench.user import model as model_module
from prbench.user.model import Pair, UserModel, ranked

ENCODER = """
title = "planted"
target = "planted_encoder:Planted"
licence = ""
homepage = ""
summary = "numbers from the hash of a text"
[options]
revision = "{revision}"
dim = {dim}
"""

CONTEXT = (Message("user", "Which one?"),)


def planted_file(folder: Path, *, revision: str = "1", dim: int = 5) -> Path:
    path = folder / "encoders" / "planted.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(ENCODER.format(revision=revision, dim=dim))
    return path


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def choices(users: int = 6, prompts: int = 6) -> list[dict[str, str]]:
    return [
        {
            "user_id": f"worker-{u}",
            "prompt": f"question {p} to {u}?",
            "chosen": f"answer {p * 7 % 5} {p}{u}",
            "rejected": f"reply {p} {u}",
        }
        for u in range(users)
        for p in range(prompts)
    ]


PAIRS = [{"prompt": f"What about {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(6)]


@pytest.fixture
def home(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A registry with the planted encoder, and the data set "texts" imported into an empty PRBENCH_HOME."""
    folder = registry_folder(tmp_path / "registry")
    planted_file(folder)
    registry.reset()
    registry.use([folder])
    import_table(jsonl(tmp_path / "choices.jsonl", choices()), "texts")
    yield folder
    registry.reset()


def do_run(out: Path, methods: str = "lore,mrm", dataset: str = "texts", encoder: str | None = "planted") -> None:
    names = methods.split(",")
    plan = make_plan(names, [dataset], encoder=encoder, splits=1, overrides=settings(names), out=out)
    assert run.execute(plan).failed == 0


def settings(names: list[str]) -> list[str]:
    more = ["lore.bases=2", "lore.divisor=1.0", "mrm.inner_rate=1.0", "mrm.input_scale=1.0"]
    return [*short(*names), *(text for text in more if text.partition(".")[0] in names)]


LORE = "lore[adapt_steps=20,bases=2,divisor=1.0,steps=30]"
MRM = "mrm[epochs=4,inner_rate=1.0,input_scale=1.0]"


@pytest.fixture
def runs(home: Path, tmp_path: Path) -> Path:
    """A run of LoRe and MRM on texts with the planted encoder."""
    do_run(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "mine.jsonl", PAIRS)


def prbench(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    code, out, err = prbench(capsys, *words)
    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), err
    return err


def test_from_python_in_a_few_lines(home: Path, tmp_path: Path) -> None:
    """With a real model of transformers in a folder, named by its path."""
    model_folder = tiny_llama.build(tmp_path / "tiny-reward")
    do_run(tmp_path / "runs", "reference,lore", encoder=str(model_folder))

    model = UserModel.open(tmp_path / "runs", LORE)
    me = model.adapt([Pair("Dogs or cats?", "cats", "dogs"), Pair("Tea or coffee?", "tea", "coffee")])
    scores = model.score(me, "Dogs or cats?", ["cats", "dogs", "fish"])
    best = int(scores.argmax())

    assert scores.shape == (3,)
    # By hand: the encoder's vectors, V from the run's file, and the softmax of the state's two numbers.
    encoder = build_encoder(encoder_entry_for(str(model_folder)))
    context = (Message("user", "Dogs or cats?"),)
    e = encoder.encode([(context, text) for text in ("cats", "dogs", "fish")], device="cpu").embedding.float()
    (file,) = (tmp_path / "runs" / "texts").glob(f"*/{LORE.replace('[', '[[]')}/split-0-*/model.safetensors")
    expected = e @ load_tensors(file)[0]["bases"].T @ me.tensors["weight"][0].softmax(-1)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    assert best == int(expected.argmax())

    reference = UserModel.open(tmp_path / "runs", "reference")
    rewards = reference.score(reference.adapt([]), "Dogs or cats?", ["cats", "dogs", "fish"])
    torch.testing.assert_close(
        rewards, encoder.encode([(context, t) for t in ("cats", "dogs", "fish")], device="cpu").reward
    )


def test_adaptation_is_the_methods_own(runs: Path) -> None:
    """Without choices there is nothing to compute: the weights are the method's cold ones, copied."""
    for method in (LORE, MRM):
        model = UserModel.open(runs, method)
        me = model.adapt([Pair(**row) for row in PAIRS])
        nobody = model.adapt([])
        cold = model.method.cold_start(
            np.zeros(1, dtype=np.int64), model.embed([(CONTEXT, "a")]), rng=model_module.RNG
        )
        assert torch.equal(nobody.tensors["weight"], cold.tensors["weight"])
        assert not torch.allclose(me.tensors["weight"], nobody.tensors["weight"], atol=1e-3)
        # The order of the choices does not matter; what was chosen does.
        again = model.adapt([Pair(**row) for row in PAIRS[::-1]])
        torch.testing.assert_close(again.tensors["weight"], me.tensors["weight"], atol=1e-5, rtol=1e-5)
        turned = model.adapt([Pair(row["prompt"], row["rejected"], row["chosen"]) for row in PAIRS])
        assert not torch.allclose(turned.tensors["weight"], me.tensors["weight"], atol=1e-3)


def test_a_prompt_may_be_a_conversation(runs: Path) -> None:
    """A text and a conversation of one turn are the same messages: the same computation, twice in one process."""
    model = UserModel.open(runs, LORE)
    me = model.adapt([Pair([{"role": "user", "content": "Tea?"}], "yes", "no")])
    plain = model.adapt([Pair("Tea?", "yes", "no")])
    assert torch.equal(me.tensors["weight"], plain.tensors["weight"])
    chat = [
        {"role": "user", "content": "Tea?"},
        {"role": "assistant", "content": "Green?"},
        {"role": "user", "content": "Black."},
    ]
    assert not torch.equal(model.score(me, chat, ["yes"]), model.score(me, "Tea?", ["yes"]))


@pytest.mark.parametrize("method", [LORE, MRM])
def test_from_the_command_line(
    runs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    state = tmp_path / "me.safetensors"
    words = ["user", "adapt", "--run", runs, "--method", method, "--pairs", pairs, "--out", state, "--json"]
    code, out, _ = prbench(capsys, *words)
    assert code == 0
    shown = json.loads(out)
    assert (shown["comparisons"], shown["values"], shown["bytes of values"]) == (6, 2, 8)
    assert state.stat().st_size < 1024

    model = UserModel.open(runs, method)
    me = model.adapt([Pair(**row) for row in PAIRS])
    saved, origin = UserStates.load(state)
    torch.testing.assert_close(saved.tensors["weight"], me.tensors["weight"])
    assert origin["method"] == method
    assert (origin["dataset"], origin["encoder"], origin["split"]) == ("texts", "planted", "0")

    answers = ["blue", "green", "red", "yellow"]
    texts = jsonl(tmp_path / "new.jsonl", [{"prompt": "Which one?", "response": answer} for answer in answers])
    code, out, _ = prbench(capsys, "user", "score", "--state", state, "--texts", texts, "--json")
    expected = model.score(me, "Which one?", answers).tolist()
    rows = json.loads(out)
    assert code == 0
    assert [row["response"] for row in rows] == answers
    assert [row["row"] for row in rows] == [1, 2, 3, 4]
    assert [row["score"] for row in rows] == pytest.approx(expected, rel=1e-5)

    candidates = [
        {"prompt": "Which one?", "responses": answers},
        {"prompt": [{"role": "user", "content": "And now?"}], "responses": ["one", "two"]},
    ]
    code, out, _ = prbench(
        capsys, "user", "rank", "--state", state, "--texts", jsonl(tmp_path / "n.jsonl", candidates), "--json"
    )
    rows = json.loads(out)
    assert code == 0
    order = sorted(range(4), key=lambda i: -expected[i])
    assert [row["response"] for row in rows if row["prompt"] == 1] == [answers[i] for i in order]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 1, 2]
    assert len({row["score"] for row in rows}) == 6


def test_a_csv_may_hold_the_candidates(runs: Path, pairs: Path, tmp_path: Path) -> None:
    state = tmp_path / "me.safetensors"
    files.adapt(runs, LORE, pairs, state)
    table = tmp_path / "n.csv"
    table.write_text('prompt,responses\nWhich one?,"[""blue"", ""green""]"\n')
    ranked = files.rank(state, table)
    assert sorted(row["response"] for row in ranked) == ["blue", "green"]
    assert ranked[0]["score"] > ranked[1]["score"]


def broken_pairs(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "broken.jsonl"
    path.write_text(text)
    return path


GOOD = json.dumps(PAIRS[0]) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "broken.jsonl has no rows"),
        (GOOD + '{"prompt": "a", "chosen": ', "broken.jsonl, line 2"),
        (GOOD + GOOD + '{"prompt": "a", "chosen": "b"}\n', "broken.jsonl, line 3: rejected is missing"),
        (GOOD + '{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "broken.jsonl, line 2: "),
        (GOOD + '{"prompt": "a", "chosen": "", "rejected": "b"}\n', "broken.jsonl, line 2: "),
        (GOOD + '{"prompt": "a", "chosen": "nan", "rejected": "b"}\n', "is not finite"),
    ],
)
def test_bad_pairs_are_one_line_and_write_nothing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    state = tmp_path / "me.safetensors"
    path = broken_pairs(tmp_path, text)
    words = ["user", "adapt", "--run", runs, "--method", LORE, "--pairs", path, "--out", state]
    assert message in refusal(capsys, *words)
    assert not state.exists()


@pytest.mark.parametrize(
    ("command", "row", "message"),
    [
        ("score", {"prompt": "a"}, "line 1: 'response' must be a text"),
        ("score", {"prompt": "a", "response": " "}, "line 1: 'response' must be a text"),
        ("score", {"response": "a"}, "line 1: 'prompt' must be a text or a list of messages"),
        ("score", {"prompt": [{"role": "user"}], "response": "a"}, "line 1: prompt: message 1 needs"),
        ("score", {"prompt": ["hello"], "response": "a"}, "line 1: 'prompt' must be a text or a list of messages"),
        ("rank", {"prompt": "a", "responses": []}, "line 1: 'responses' must be a list of texts"),
        ("rank", {"prompt": "a", "responses": "[1"}, "line 1: 'responses' is not a JSON list"),
        ("rank", {"prompt": "a", "responses": ["b", 3]}, "line 1: 'responses' must be a text, found 3"),
        (
            "rank",
            {"prompt": "a", "response": "b"},
            "line 1 has 'response', not 'responses'\nhint: use `prbench user score`",
        ),
        (
            "score",
            {"prompt": "a", "responses": ["b"]},
            "line 1 has 'responses', not 'response'\nhint: use `prbench user rank`",
        ),
        ("rank", None, "t.jsonl has no rows"),
        ("score", None, "t.jsonl has no rows"),
    ],
)
def test_bad_texts_are_one_line(
    runs: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    row: dict[str, Any] | None,
    message: str,
) -> None:
    state = tmp_path / "me.safetensors"
    files.adapt(runs, LORE, pairs, state)
    texts = jsonl(tmp_path / "t.jsonl", [] if row is None else [row])
    assert message in refusal(capsys, "user", command, "--state", state, "--texts", texts)


def test_what_cannot_be_opened_is_one_line(
    runs: Path, home: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "me.safetensors"

    def adapt(*words: str | Path) -> str:
        message = refusal(capsys, "user", "adapt", "--pairs", pairs, "--out", state, *words)
        assert not state.exists()
        return message

    line = adapt("--run", runs, "--method", "lor")
    assert f"unknown method in {runs}: 'lor'" in line
    assert f"hint: it has {LORE}, {MRM}" in line
    line = adapt("--run", runs, "--method", LORE, "--split", "3")
    assert "has no split 3 of" in line
    assert "hint: it has texts with planted, splits 0 to 0" in line
    assert "on tiny" in adapt("--run", runs, "--method", LORE, "--dataset", "tiny")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} holds no fitted method" in adapt("--run", empty, "--method", LORE)
    do_run(tmp_path / "own", "lore", "tiny", None)
    message = adapt("--run", tmp_path / "own", "--method", LORE)
    assert "was fitted on embeddings that came with its data: new texts cannot be embedded" in message
    do_run(runs, "lore", "tiny", None)
    message = adapt("--run", runs, "--method", LORE)
    assert "has several fits of" in message
    assert "choose with --dataset and --encoder" in message
    (model,) = (runs / "texts" / "planted" / LORE).glob("split-0-*/model.safetensors")
    without_digests(model.parent)
    model.write_bytes(model.read_bytes()[:50])
    message = adapt("--run", runs, "--method", LORE, "--dataset", "texts")
    assert f"{model} is not a readable safetensors file" in message


def test_a_state_finds_its_own_fit_among_several(runs: Path, pairs: Path, tmp_path: Path) -> None:
    state = tmp_path / "me.safetensors"
    files.adapt(runs, LORE, pairs, state)
    texts = jsonl(tmp_path / "t.jsonl", [{"prompt": "Which one?", "response": "blue"}])
    before = files.score(state, texts)
    do_run(runs, "lore", "tiny", None)
    add_run(runs, "validation")
    assert files.score(state, texts) == before


def add_run(out: Path, selection: str) -> None:
    plan = make_plan(
        ["lore"], ["texts"], encoder="planted", splits=1, overrides=settings(["lore"]), selection=selection, out=out
    )
    assert run.execute(plan).failed == 0


def test_the_published_fit_serves_a_user_unless_another_is_named(
    runs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [(CONTEXT, "blue"), (CONTEXT, "green")]

    def scored(selection: str | None) -> list[float]:
        model = UserModel.open(runs, LORE, selection=selection)
        return model.score_texts(model.adapt([]), texts).tolist()

    published = scored(None)
    add_run(runs, "test-oracle,validation")
    assert scored(None) == scored("published") == scored("last") == published
    assert scored("validation") != published
    words = [
        "user",
        "adapt",
        "--run",
        runs,
        "--method",
        LORE,
        "--pairs",
        pairs,
        "--out",
        tmp_path / "x",
        "--selection",
    ]
    assert "what was chosen on test data serves no user" in refusal(capsys, *words, "test-oracle")
    message = refusal(capsys, *words, "tuned")
    assert f"has no fit of split 0 of {LORE} with --selection tuned" in message
    assert "hint: it has last, validation" in message
    assert "unknown selection 'lats'; did you mean last?" in refusal(capsys, *words, "lats")
    assert "a user has one fitted method" in refusal(capsys, *words, "last,validation")
    assert prbench(capsys, *words, "validation")[0] == 0


def test_a_fit_chosen_on_test_data_serves_no_user(home: Path, tmp_path: Path) -> None:
    add_run(tmp_path / "runs", "test-oracle")
    with pytest.raises(InputError, match="but one chosen on test data") as caught:
        UserModel.open(tmp_path / "runs", LORE)
    assert caught.value.hint == "run it again without --selection test-oracle"


def test_a_fit_without_the_mark_of_its_end_serves_no_user(home: Path, tmp_path: Path) -> None:
    """Nothing says then that the model is the one that was written: the same for a folder or a pipe in its place."""
    runs = tmp_path / "runs"
    add_run(runs, "last")
    (fit,) = cells.folders(runs)
    (fit / "DONE").unlink()
    for put in (lambda: None, (fit / "DONE").mkdir):
        put()
        with pytest.raises(InputError, match=r"split-0-\w+ lacks DONE") as caught:
            UserModel.open(runs, LORE)
        assert caught.value.hint == cells.REPEAT


def test_several_fits_say_what_chooses_among_them(home: Path, tmp_path: Path) -> None:
    import_table(jsonl(tmp_path / "more.jsonl", choices(users=5)), "more")
    out = tmp_path / "runs"
    for dataset in ("texts", "more"):
        do_run(out, "lore", dataset)
    with pytest.raises(InputError, match="has several fits of") as caught:
        UserModel.open(out, LORE)
    assert caught.value.hint == "choose with --dataset"
    shutil.rmtree(out)
    add_run(out, "validation,test-oracle")
    (fit,) = (f for f in cells.folders(out) if cells.read_record(f).selection == "validation")
    record = cells.read_record(fit)
    other = fit.with_name("split-0-other")
    shutil.copytree(fit, other)
    (without_digests(other) / "cell.json").write_text(
        json.dumps({**record.stored(), "selection": "tuned", "key": "other"})
    )
    with pytest.raises(InputError, match="has several fits of") as caught:
        UserModel.open(out, LORE)
    assert caught.value.hint == "choose with --selection"
    (without_digests(other) / "cell.json").write_text(json.dumps({**record.stored(), "key": "other"}))
    with pytest.raises(InputError, match="has several fits of") as caught:
        UserModel.open(out, LORE)
    assert caught.value.hint == "use runs folders of their own"


def test_a_users_products_are_as_exact_as_the_fits(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in cells.folders(runs):
        record = cells.read_record(folder)
        if record.method == LORE:
            stored = {**record.stored(), "precision": "medium"}
            (without_digests(folder) / "cell.json").write_text(json.dumps(stored))
    found: dict[str, list[str]] = {LORE: [], MRM: []}
    for method, seen in found.items():
        model = UserModel.open(runs, method)
        adapt, score = model.method.adapt_unseen, model.method.score
        encode = model.encoder.encode

        def noted(inner: Any, seen: list[str] = seen) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                seen.append(torch.get_float32_matmul_precision())
                return inner(*args, **options)

            return call

        monkeypatch.setattr(model.encoder, "encode", noted(encode))
        monkeypatch.setattr(model.method, "adapt_unseen", noted(adapt))
        monkeypatch.setattr(model.method, "score", noted(score))
        model.score(model.adapt([Pair("Tea?", "yes", "no")]), "Tea?", ["yes"])
        model.adapt([])
    # Embedding, adapting, embedding, scoring, and adapting without choices.
    assert found[LORE] == ["highest", "medium", "highest", "medium", "medium"]
    assert set(found[MRM]) == {"highest"}
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("damage", ["truncated", "missing", "another method's"])
def test_a_lost_model_is_one_line_with_the_next_command(
    runs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    (model,) = (runs / "texts" / "planted" / LORE).glob("split-0-*/model.safetensors")
    if damage == "truncated":
        without_digests(model.parent)
        model.write_bytes(model.read_bytes()[:50])
    elif damage == "missing":
        model.unlink()
    else:
        save_file({"something": torch.ones(2)}, model)
    words = ["user", "adapt", "--run", runs, "--method", LORE, "--pairs", pairs, "--out", tmp_path / "x"]
    message = refusal(capsys, *words)
    assert str(model.parent) in message
    assert "model.safetensors" in message
    assert f"hint: {'' if damage == 'missing' else 'delete this file and '}repeat the run" in message
    model.unlink(missing_ok=True)
    do_run(runs)
    assert prbench(capsys, *words)[0] == 0


def test_a_state_whose_run_is_gone_or_changed_is_refused(
    runs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, texts = tmp_path / "me.safetensors", jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "response": "b"}])
    files.adapt(runs, MRM, pairs, state)
    words = ["user", "score", "--state", state, "--texts", texts]
    (model,) = (runs / "texts" / "planted" / MRM).glob("split-0-*/model.safetensors")
    (other,) = (runs / "texts" / "planted" / LORE).glob("split-0-*")
    fitted = cells.read_record(model.parent)
    changed = methods_module.make_method(registry.get("methods", "mrm"), None, {}).load(model)
    tensors = changed.learned()
    without_digests(model.parent)
    changed.restore({**tensors, "bases": tensors["bases"] + 1}).save(model)
    assert f"was made with another fit of {MRM} than {runs} now holds" in refusal(capsys, *words)
    assert fitted.method == MRM
    shutil.rmtree(model.parent)
    assert f"unknown method in {runs}: '{MRM}'" in refusal(capsys, *words)
    assert other.is_dir()
    shutil.rmtree(runs)
    assert f"belongs to a method fitted in {runs}, which is gone" in refusal(capsys, *words)


def test_a_file_that_is_no_state_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "response": "b"}])
    (model,) = (runs / "texts" / "planted" / MRM).glob("split-0-*/model.safetensors")
    message = refusal(capsys, "user", "score", "--state", model, "--texts", texts)
    assert "holds no user states" in message
    message = refusal(capsys, "user", "score", "--state", texts, "--texts", texts)
    assert "is not a readable safetensors file" in message
    bare = tmp_path / "bare.safetensors"
    UserStates(np.zeros(1, dtype=np.int64)).save(bare)
    assert "is not a user state" in refusal(capsys, "user", "score", "--state", bare, "--texts", texts)


WRONG = {
    "another name": (lambda t: {"weights": t["weight"]}, "weight is no such tensor"),
    "one tensor more": (lambda t: {**t, "more": torch.zeros(1, 2)}, "more is float32 [2]"),
    "another shape": (lambda t: {"weight": torch.zeros(1, 10**6)}, "weight is float32 [1000000]"),
    "another type": (lambda t: {"weight": t["weight"].double()}, "weight is float64"),
    "none": (lambda t: {}, "weight is no such tensor"),
    "not a number": (lambda t: {"weight": t["weight"] * torch.nan}, "weight holds a value that is not finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_with_wrong_tensors_is_refused_before_it_is_used(
    case: str, runs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = WRONG[case]
    state, texts = tmp_path / "me.safetensors", jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "response": "b"}])
    files.adapt(runs, LORE, pairs, state)
    found, origin = UserStates.load(state)
    UserStates(found.users, change(found.tensors)).save(state, origin)
    said = refusal(capsys, "user", "score", "--state", state, "--texts", texts)
    assert f"{state}" in said
    assert message in said
    UserStates(np.array([0, 1]), {"weight": found.tensors["weight"].expand(2, -1)}).save(state, origin)
    assert "is not one person's state" in refusal(capsys, "user", "score", "--state", state, "--texts", texts)


def test_another_revision_of_the_encoder_is_refused(
    runs: Path, home: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (runs / "texts" / "planted" / LORE).glob("split-0-*")
    record = cells.read_record(folder).stored()
    assert record["encoder_fingerprint"] == {"id": "planted", "revision": "1", "dtype": "float32"}
    # The run's own entry pins the revision; a model whose content has changed shows in the fingerprint.
    record["encoder_fingerprint"]["revision"] = "0"
    (without_digests(folder) / "cell.json").write_text(json.dumps(record))
    message = refusal(capsys, "user", "adapt", "--run", runs, "--method", LORE, "--pairs", pairs, "--out", home / "x")
    assert "was fitted on embeddings of planted with revision 0, the encoder here has 1" in message
    assert not (home / "x").exists()


def test_a_changed_model_folder_is_refused(home: Path, tmp_path: Path) -> None:
    model_folder = tiny_llama.build(tmp_path / "tiny-reward")
    do_run(tmp_path / "runs", "lore", encoder=str(model_folder))
    UserModel.open(tmp_path / "runs", LORE)
    tiny_llama.build(model_folder, seed=1)
    with pytest.raises(InputError, match=r"was fitted on embeddings of tiny-reward-\w+ with revision"):
        UserModel.open(tmp_path / "runs", LORE)


def checkpoint(path: Path, **tensors: Any) -> Path:
    torch.save({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return path


def test_a_released_checkpoint_serves_a_user(
    home: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    v, w0 = torch.arange(15.0).reshape(3, 5).cos(), torch.tensor([0.5, 0.0, -0.5])
    released = checkpoint(tmp_path / "released.pt", layers__0__weight=v, shared_weight=w0)
    state = tmp_path / "me.safetensors"
    words = ["user", "adapt", "--run", released, "--method", "mrm", "--pairs", pairs, "--out", state]
    assert "does not say which embeddings it was trained on" in refusal(capsys, *words)
    code, _, err = prbench(capsys, *words, "--encoder", "planted")
    assert code == 0, err
    assert state.stat().st_size < 1024
    model = UserModel.open(released, "mrm", encoder="planted")
    texts = ["blue", "green"]
    e = model.embed([(CONTEXT, text) for text in texts]).embedding
    cold = model.score(model.adapt([]), "Which one?", texts)
    torch.testing.assert_close(cold, 0.01 * e @ v.T @ w0.softmax(-1))
    saved, _ = UserStates.load(state)
    warm = 0.01 * e @ v.T @ saved.tensors["weight"][0].softmax(-1)
    rows = jsonl(tmp_path / "t.jsonl", [{"prompt": "Which one?", "response": text} for text in texts])
    assert [row["score"] for row in files.score(state, rows)] == pytest.approx(warm.tolist())
    # One published step moves every logit by the step size.
    torch.testing.assert_close((saved.tensors["weight"][0] - w0).abs(), torch.full((3,), 5e-3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"shared_weight": torch.zeros(2)}, "lacks layers.0.weight, which"),
        ({"layers__0__weight": torch.zeros(2, 5)}, "lacks shared_weight, which"),
        ({}, "lacks layers.0.weight and shared_weight"),
        ({"layers__0__weight": torch.zeros(2, 5), "shared_weight": torch.zeros(3)}, "3 values for 2 bases"),
        ({"layers__0__weight": torch.zeros(5), "shared_weight": torch.zeros(5)}, "has 1 dimensions, not 2"),
        (
            {
                "layers__0__weight": torch.zeros(4, 5),
                "layers__1__weight": torch.zeros(2, 4),
                "shared_weight": torch.zeros(4),
            },
            "also has layers.1.weight: only one linear layer",
        ),
        (
            {"layers__0__weight": torch.zeros(2, 4096), "shared_weight": torch.zeros(2)},
            "the items have 5 dimensions, this MRM was fitted on 4096",
        ),
    ],
)
def test_other_checkpoints_are_refused(
    home: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tensors: dict[str, torch.Tensor],
    message: str,
) -> None:
    file, out = checkpoint(tmp_path / "c.pt", **tensors), tmp_path / "me.safetensors"
    words = ["--method", "mrm", "--encoder", "planted", "--pairs", pairs, "--out", out]
    found = refusal(capsys, "user", "adapt", "--run", file, *words)
    assert message in found
    assert str(file) in found
    assert not out.exists()


def test_files_that_are_no_checkpoint_are_refused(
    home: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["user", "adapt", "--encoder", "planted", "--pairs", pairs, "--out", tmp_path / "x", "--run"]
    assert f"{pairs} holds more than tensors, or is not a file of torch.save" in refusal(
        capsys, *words, pairs, "--method", "mrm"
    )
    empty = tmp_path / "empty.pt"
    empty.touch()
    assert f"{empty} is truncated or no file of torch.save" in refusal(capsys, *words, empty, "--method", "mrm")
    held = tmp_path / "list.pt"
    torch.save([1, 2], held)
    assert "lacks layers.0.weight and shared_weight" in refusal(capsys, *words, held, "--method", "mrm")
    assert "released checkpoints are MRM's, lore is none" in refusal(capsys, *words, held, "--method", "lore")
    own = ["user", "adapt", "--encoder", "own", "--pairs", pairs, "--out", tmp_path / "x", "--method", "mrm"]
    good = checkpoint(tmp_path / "g.pt", layers__0__weight=torch.zeros(2, 5), shared_weight=torch.zeros(2))
    assert "new texts cannot be embedded" in refusal(capsys, *own, "--run", good)
    assert not (tmp_path / "x").exists()


def test_a_state_serves_python_and_the_command_line_and_moves_with_its_run(
    runs: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command adapts in this process by the same computation."""
    model = UserModel.open(str(runs), LORE)
    me = model.adapt(PAIRS)
    model.save(me, str(tmp_path / "python.safetensors"))
    files.adapt(runs, LORE, pairs, tmp_path / "command.safetensors")
    saved, command = (UserStates.load(tmp_path / f"{name}.safetensors") for name in ("python", "command"))
    assert saved[1] == command[1]
    assert torch.equal(saved[0].tensors["weight"], command[0].tensors["weight"])
    python = (tmp_path / "python.safetensors").read_bytes()
    assert str(tmp_path).encode() not in python

    moved = tmp_path / "elsewhere" / "results"
    moved.parent.mkdir()
    shutil.move(runs, moved)
    (state := tmp_path / "away" / "me.safetensors").parent.mkdir()
    state.write_bytes(python)
    texts = jsonl(tmp_path / "t.jsonl", [{"prompt": "Which one?", "responses": ["blue", "green"]}])
    words = ["user", "rank", "--state", state, "--texts", texts]
    assert "which is gone\nhint: name the folder that holds it with --run" in refusal(capsys, *words)
    code, out, err = prbench(capsys, *words, "--run", moved, "--json")
    assert code == 0, err
    there, mine = UserModel.load(state, run=moved)
    expected = model.rank(me, "Which one?", ["blue", "green"])
    assert there.rank(mine, "Which one?", ["blue", "green"]) == expected
    assert [{"prompt": 1, **place._asdict()} for place in expected] == json.loads(out)


def test_equal_scores_share_a_rank() -> None:
    places = ranked([1.0, 3.0, 1.0, 0.5], ["a", "b", "c", "d"])
    assert [(place.rank, place.response) for place in places] == [(1, "b"), (2, "a"), (2, "c"), (4, "d")]


def test_adapting_says_how_many_own_choices_are_predicted(runs: Path, pairs: Path, tmp_path: Path) -> None:
    model = UserModel.open(runs, LORE)
    me = model.adapt(PAIRS)
    by_hand = []
    for state in (model.adapt([]), me):
        scores = [model.score(state, row["prompt"], [row["chosen"], row["rejected"]]) for row in PAIRS]
        by_hand.append(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scores))
    assert model.predicted(me, PAIRS) == tuple(by_hand)
    shown = files.adapt(runs, LORE, pairs, tmp_path / "me.safetensors")
    assert (shown["predicted before"], shown["predicted after"]) == tuple(by_hand)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, me: model.score(me, "Which one?", "blue"), "responses is a str, not a list of texts"),
        (lambda model, me: model.rank(me, "Which one?", []), "there is no text to score"),
        (lambda model, me: model.score(me, "Which one?", ["blue", " "]), "response 2: 'response' must be a text"),
        (lambda model, _: model.adapt("blue"), "pairs is a str, not a list of choices"),
        (lambda model, _: model.adapt(PAIRS[0]), "pairs is a dict, not a list of choices"),
        (lambda model, _: model.adapt(Pair("a", "b", "c")), "one choice was given where a list of choices belongs"),
        (lambda model, _: model.adapt([*PAIRS, {"prompt": "a", "chosen": "b"}]), "choice 7 has no 'rejected'"),
        (lambda model, _: model.adapt([Pair("a", "b", "b")]), "choice 1: chosen and rejected are the same text"),
        (lambda model, _: model.adapt([Pair("a", "", "b")]), "choice 1: 'chosen' must be a text"),
        (lambda model, _: model.adapt([Pair("", "a", "b")]), "choice 1: 'prompt' must be a text"),
    ],
)
def test_wrong_calls_are_refused(runs: Path, call: Callable[[UserModel, UserStates], Any], message: str) -> None:
    model = UserModel.open(runs, LORE)
    with pytest.raises(InputError, match=re.escape(message)):
        call(model, model.adapt([]))


def test_a_file_of_several_people_is_not_one_user(runs: Path, tmp_path: Path) -> None:
    several = jsonl(tmp_path / "all.jsonl", [{"user_id": i % 3, **row} for i, row in enumerate(PAIRS)])
    with pytest.raises(InputError, match="holds the choices of 3 people in user_id"):
        files.adapt(runs, LORE, several, tmp_path / "me.safetensors")
    assert not (tmp_path / "me.safetensors").exists()
    one = jsonl(tmp_path / "one.jsonl", [{"user_id": "me", **row} for row in PAIRS])
    assert files.adapt(runs, LORE, one, tmp_path / "me.safetensors")["comparisons"] == len(PAIRS)


def test_help_is_short_and_shows_every_call() -> None:
    text = pydoc.plain(pydoc.render_doc("prbench.user"))
    assert len(text.splitlines()) < 40
    assert "inherited" not in text
    for name in ("open", "adapt", "predicted", "score", "rank", "save", "load"):
        assert f".{name}(" in text
        assert callable(getattr(UserModel, name))
