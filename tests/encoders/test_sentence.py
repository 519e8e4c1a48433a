"""A sentence encoder's own pooling is followed: by hand here, and beside sentence-transformers in `extras`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.encoders import encoder_entry_for, variant
from prbench.encoders.huggingface import HuggingFace
from prbench.encoders.minilm import weights_folder

TEXTS = [
    ((Message("user", "Which bicycle?"),), "The red one."),
    ((Message("user", "Why?"),), "It is fast, and cheap."),
]


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Digests live in PRBENCH_HOME."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights_folder(), tmp_path / "minilm"))


def declare(folder: Path, *modes: str, dense: bool = False, normalise: bool = False) -> None:
    names = ["Transformer", "Pooling"] + ["Dense"] * dense + ["Normalize"] * normalise
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": i,
                    "name": str(i),
                    "path": f"{i}_{name}" if i else "",
                    "type": f"sentence_transformers.models.{name}",
                }
                for i, name in enumerate(names)
            ]
        )
    )
    flags = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    config = {"word_embedding_dimension": 384, **{f"pooling_mode_{flag}": flag in modes for flag in flags}}
    for i, name in enumerate(names[1:], start=1):
        (folder / f"{i}_{name}").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if dense:
        torch.manual_seed(0)
        width = 384 * len(modes)
        weights = {"linear.weight": torch.randn(24, width) / width**0.5, "linear.bias": torch.randn(24)}
        save_file(weights, folder / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
        layer = {"in_features": width, "out_features": 24, "bias": True}
        activation = {"activation_function": "torch.nn.modules.activation.Tanh"}
        (folder / "2_Dense" / "config.json").write_text(json.dumps({**layer, **activation}))


def test_the_declared_mean_is_taken_and_not_the_last_token(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = HuggingFace(model=str(folder), dtype="float32")
    inputs = AutoTokenizer.from_pretrained(folder)("Which bicycle?\nThe red one.", return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0]
    mean = states.mean(0)
    found = encoder.encode(TEXTS, device="cpu").embedding[0]
    torch.testing.assert_close(found, mean / mean.norm() * 384**0.5, atol=1e-4, rtol=1e-4)
    assert encoder.fingerprint()["pooling"] == "mean, normalised, times sqrt(384)"
    assert encoder.max_length == 256
    last = HuggingFace(model=str(folder), dtype="float32", pooling="last").encode(TEXTS, device="cpu").embedding[0]
    torch.testing.assert_close(last, states[-1], atol=1e-4, rtol=1e-4)


def test_asking_for_the_last_token_is_another_encoder_only_where_a_pooling_is_declared(folder: Path) -> None:
    entry = encoder_entry_for(str(folder))
    assert variant(entry, pooling="last").name == f"{entry.name}@last"
    skywork = encoder_entry_for("skywork-v2")
    assert variant(skywork, pooling="last") is skywork


def test_a_module_that_is_not_followed_is_one_line(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("models.Normalize", "models.LSTM"))
    with pytest.raises(InputError, match=r"has a module LSTM, which is not followed.*--pooling mean"):
        HuggingFace(model=str(folder))
    assert HuggingFace(model=str(folder), pooling="mean").dim == 384


@pytest.mark.extras
@pytest.mark.parametrize(
    ("modes", "dense", "normalise"),
    [
        (("mean_tokens",), False, True),
        (("cls_token",), False, False),
        (("max_tokens", "mean_tokens"), False, True),
        (("mean_sqrt_len_tokens",), False, False),
        (("weightedmean_tokens",), False, False),
        (("lasttoken",), False, True),
        (("mean_tokens",), True, True),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    folder: Path, modes: tuple[str, ...], dense: bool, normalise: bool
) -> None:
    library = pytest.importorskip("sentence_transformers")
    declare(folder, *modes, dense=dense, normalise=normalise)
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(
        [f"{context[0].content}\n{response}" for context, response in TEXTS], convert_to_tensor=True
    )
    encoder = HuggingFace(model=str(folder), dtype="float32")
    found = encoder.encode(TEXTS, device="cpu").embedding
    scale = encoder.dim**0.5 if normalise else 1.0
    torch.testing.assert_close(found / scale, expected.cpu(), atol=1e-5, rtol=1e-4)
