"""Reward heads as transformers computes them: on the first token, on the mean, and with two labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
import transformers

from prbench import cli
from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.encoders.base import Text
from prbench.encoders.huggingface import HuggingFace

SMALL = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 130,
    "pad_token_id": 0,
    "type_vocab_size": 1,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {}),
    "electra": ("Electra", {"embedding_size": 16}),
    "deberta-v2": (
        "DebertaV2",
        {"pooler_hidden_size": 16, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "modernbert": ("ModernBert", {"classifier_pooling": "mean", "global_attn_every_n_layers": 1}),
    "distilbert": ("DistilBert", {"dim": 16, "hidden_dim": 16, "n_layers": 2, "n_heads": 2}),
}
TEXTS: list[Text] = [((Message("user", "Q?"),), reply) for reply in ("No.", "A much longer reply than that.", "Yes")]


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Digests live in PRBENCH_HOME."""


def build(folder: Path, kind: str, labels: int = 1) -> Path:
    """A small random reward model of a kind, with a byte tokenizer without a chat template."""
    torch.manual_seed(0)
    prefix, more = KINDS[kind]
    config = transformers.AutoConfig.for_model(kind, **(SMALL | more), num_labels=labels)
    model = getattr(transformers, f"{prefix}ForSequenceClassification")(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tiny_llama.tokenizer(None).save_pretrained(folder)
    return folder


@torch.inference_mode()
def logits(folder: Path, encoder: HuggingFace) -> torch.Tensor:
    """What transformers' own class says of each text by itself, [texts, labels]."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = encoder._chat.read(TEXTS)[0]
    return torch.cat([model(input_ids=torch.tensor(ids.tolist())[None]).logits for ids in tokens])


@pytest.mark.parametrize("kind", KINDS)
def test_the_reward_is_the_models_own_and_linear_in_the_embedding(kind: str, tmp_path: Path) -> None:
    folder = build(tmp_path / kind, kind)
    encoder = HuggingFace(model=str(folder), dtype="float32")
    assert encoder.has_reward
    found = encoder.encode(TEXTS, device="cpu")
    own = logits(folder, encoder)[:, 0]
    assert found.reward is not None
    assert torch.allclose(found.reward, own, atol=1e-4)
    assert own.std() > 0.01
    head = encoder.head()
    assert head is not None
    differences = (found.embedding[1:] - found.embedding[:1]) @ head
    assert torch.allclose(differences, own[1:] - own[:1], atol=1e-4)
    assert "ForSequenceClassification" in encoder.fingerprint()["head"]
    assert "last linear layer of the head" in encoder.example(TEXTS[0])["read_out"]


def test_two_labels_are_their_difference(tmp_path: Path) -> None:
    folder = build(tmp_path / "two", "bert", labels=2)
    encoders = [HuggingFace(model=str(folder), dtype="float32", label=label) for label in (0, 1)]
    own = logits(folder, encoders[0])
    rewards = [encoder.encode(TEXTS, device="cpu").reward for encoder in encoders]
    assert rewards[1] is not None
    assert torch.allclose(rewards[1], own[:, 1] - own[:, 0], atol=1e-4)
    assert rewards[0] is not None
    assert torch.allclose(rewards[0], -rewards[1], atol=1e-5)
    assert encoders[0].fingerprint() != encoders[1].fingerprint()


def test_two_labels_of_a_language_model(tmp_path: Path) -> None:
    folder = tiny_llama.build(tmp_path / "two", labels=2)
    encoder = HuggingFace(model=str(folder), dtype="float32", label=1)
    found = encoder.encode(TEXTS, device="cpu")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = encoder._chat.read(TEXTS)[0][0].tolist()
    with torch.inference_mode():
        state = model.model(input_ids=torch.tensor(ids)[None]).last_hidden_state[0, -1]
        own = model.score(state)
    assert found.reward is not None
    assert torch.allclose(found.reward[0], own[1] - own[0], atol=1e-4)


def test_what_cannot_be_a_reward_says_what_can(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a classifier with 3 labels .*options\.label = 1"):
        HuggingFace(model=str(build(tmp_path / "three", "bert", labels=3)))
    with pytest.raises(InputError, match=r"reads (whole )?texts"):
        HuggingFace(model=str(build(tmp_path / "bert", "bert")), pooling="mean")


def test_encoder_show_prints_the_text_with_its_special_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_llama.build(tmp_path / "my-model")
    assert cli.main(["encoder", "show", str(folder), "--prompt", "Ask", "--response", "Told"]) == 0
    shown = capsys.readouterr().out
    assert "<|start|>u:Ask<|eot|><|start|>a:Told<|eot|>" in shown
    assert "the final hidden state of the last token, '<|eot|>'" in shown
    assert cli.main(["encoder", "show", str(tmp_path / "my-modle")]) == 2
    assert "is not a folder" in capsys.readouterr().err
