"""The folder of a LoRA adapter as encoder: its base with the adapter merged in, or one line that says what is lacking."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
from planted_encoder import texts_data
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.embedding.stage import embed
from prbench.encoders import adapters, encoder_entry_for
from prbench.encoders.base import ModelUnavailableError
from prbench.encoders.huggingface import HuggingFace
from prbench.encoders.presence import presence

# peft reads an attribute that transformers is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
TEXTS = [((Message("user", "Why?"),), "So it is."), ((Message("user", "Why?"),), "Because of the weather.")]


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Digests and stores live in PRBENCH_HOME."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_llama.build(tmp_path / "base", reward=False)


def adapt(base: Path, folder: Path, kind: Any, **settings: Any) -> Any:
    """A random adapter of the model that `kind` makes of `base`, saved in `folder`; the adapted model."""
    import peft

    torch.manual_seed(1)
    asked = peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)
    adapted = peft.get_peft_model(kind, asked)
    adapted.save_pretrained(folder)
    return adapted.eval()


def by_hand(folder: Path, base: str, **changes: Any) -> Path:
    """The files of an adapter whose tensors do not matter."""
    folder.mkdir()
    said = {"peft_type": "LORA", "base_model_name_or_path": base, "task_type": None, "r": 2, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    return folder


def tokens(encoder: HuggingFace) -> list[torch.Tensor]:
    return [torch.tensor([ids.tolist()]) for ids in encoder._chat.read(TEXTS)[0]]


@pytest.mark.extras
@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoModel])
def test_states_are_those_of_the_adapted_model(base: Path, tmp_path: Path, kind: Any) -> None:
    adapted = adapt(base, tmp_path / "mine", kind.from_pretrained(base))
    encoder = HuggingFace(model=str(tmp_path / "mine"), dtype="float32")
    found = encoder.encode(TEXTS, device="cpu").embedding
    body = adapted.get_base_model()
    body = body.model if kind is AutoModelForCausalLM else body
    with torch.inference_mode():
        right = torch.stack([body(ids).last_hidden_state[0, -1] for ids in tokens(encoder)])
    assert torch.allclose(found, right, atol=1e-5)
    plain = HuggingFace(model=str(base), dtype="float32")
    assert not torch.allclose(found, plain.encode(TEXTS, device="cpu").embedding, atol=1e-2)
    assert (encoder.id, encoder.has_reward) == ("mine", False)
    assert encoder.revision != plain.revision


@pytest.mark.extras
def test_a_reward_head_that_the_adapter_brings_gives_the_rewards(base: Path, tmp_path: Path) -> None:
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    adapted = adapt(base, tmp_path / "rewards", whole, task_type="SEQ_CLS")
    encoder = HuggingFace(model=str(tmp_path / "rewards"), dtype="float32")
    assert encoder.has_reward
    found = encoder.encode(TEXTS, device="cpu")
    with torch.inference_mode():
        states = [adapted.get_base_model().model(ids).last_hidden_state[0, -1] for ids in tokens(encoder)]
        right = torch.stack([adapted.get_base_model().score(state)[0] for state in states])
    assert found.reward is not None
    assert torch.allclose(found.reward, right, atol=1e-4)
    head = encoder.head()
    assert head is not None
    assert torch.allclose(found.embedding @ head, right, atol=1e-4)


@pytest.mark.extras
def test_the_revision_follows_adapter_and_base_and_the_own_tokenizer_counts(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    adapt(base, folder, AutoModelForCausalLM.from_pretrained(base))
    seen = {HuggingFace(model=str(folder)).revision}
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({key: value * 2 for key, value in weights.items()}, folder / "adapter_model.safetensors")
    seen.add(HuggingFace(model=str(folder)).revision)
    tiny_llama.build(base, reward=False, seed=5)
    seen.add(HuggingFace(model=str(folder)).revision)
    assert len(seen) == 3
    tiny_llama.tokenizer("{% for m in messages %}[{{ m.content }}]{% endfor %}").save_pretrained(folder)
    assert HuggingFace(model=str(folder))._chat.rendered(*TEXTS[0])[0] == "[Why?][So it is.]"


@pytest.mark.extras
def test_a_data_set_is_embedded_with_it(base: Path, tmp_path: Path) -> None:
    adapt(base, tmp_path / "mine", AutoModelForCausalLM.from_pretrained(base))
    entry = encoder_entry_for(str(tmp_path / "mine"))
    assert presence(entry).weights
    assert torch.isfinite(embed(texts_data(["a", "b"]), entry).embedding).all()


@pytest.mark.extras
def test_an_adapter_of_another_model_is_one_line(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    adapt(base, folder, AutoModelForCausalLM.from_pretrained(base))
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(key for key in weights if ".layers.1." in key)
    cases = {
        "lacks": {key: value for key, value in weights.items() if key != name},
        "no place": {**weights, name.replace(".layers.1.", ".layers.7."): weights[name].clone()},
        "size mismatch": {**weights, name: torch.zeros(2, 99)},
    }
    for said, tensors in cases.items():
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(InputError, match=f"mine: the LoRA adapter does not fit its base .*{said}"):
            HuggingFace(model=str(folder), dtype="float32").encode(TEXTS, device="cpu")


def test_without_peft_one_line_says_what_the_folder_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = by_hand(tmp_path / "mine", str(base))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModelUnavailableError, match=r"mine is a LoRA adapter of the model .*base: reading it needs"
    ) as e:
        HuggingFace(model=str(folder))
    assert "pip install 'peft>=0.18'" in str(e.value)
    assert not presence(encoder_entry_for(str(folder))).readable


def test_a_base_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "require_peft", lambda adapter: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gone = by_hand(tmp_path / "gone", str(tmp_path / "no-such-base"))
    with pytest.raises(ModelUnavailableError, match=r"adapter of the model .*no-such-base, which is not here") as e:
        HuggingFace(model=str(gone))
    assert "base_model_name_or_path" in str(e.value)
    hub = by_hand(tmp_path / "hub", "nobody/nothing")
    with pytest.raises(ModelUnavailableError, match="adapter of the model nobody/nothing, which cannot be had"):
        HuggingFace(model=str(hub))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "is an adapter of kind PREFIX_TUNING"),
        ({"megatron_config": {"a": 1}}, "megatron_config is not read"),
        ({"base_model_name_or_path": None}, "does not name a base model"),
        ({"task_type": "SEQ_CLS"}, "for rewards, but neither of them has a reward head"),
    ],
)
def test_what_is_not_read_is_one_line(
    base: Path, tmp_path: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "require_peft", lambda adapter: None)
    folder = by_hand(tmp_path / "mine", str(base), **changes)
    with pytest.raises(InputError, match=said):
        HuggingFace(model=str(folder))


def test_pickled_weights_and_a_model_beside_an_adapter_are_refused(base: Path, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "mine", str(base))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"holds no adapter_model\.safetensors"):
        HuggingFace(model=str(folder))
    by_hand(tmp_path / "other", str(base))
    (tmp_path / "other/adapter_config.json").rename(base / "adapter_config.json")
    with pytest.raises(InputError, match="holds a model and an adapter"):
        HuggingFace(model=str(base))
