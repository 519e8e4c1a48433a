"""Model folders as people have them: what pins their contents, how much they read, and what is no model at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
import transformers
from planted_encoder import texts_data
from safetensors.torch import load_file, save_file

from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.embedding.stage import embed
from prbench.encoders import encoder_entry_for, hub_models
from prbench.encoders.base import require_device
from prbench.encoders.huggingface import HuggingFace
from prbench.encoders.transformer_models import POSITIONS_AFTER_PADDING, usable_positions


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Digests live in PRBENCH_HOME."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama.build(tmp_path / "model")


def revision(folder: Path) -> str:
    return hub_models.snapshot(str(folder), "main").revision


def swap(path: Path) -> None:
    """Other contents of the same size, with the old file's time stamps."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def renamed(path: Path) -> None:
    """As `swap`, by a new file in the old one's place."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    swap(other)
    other.replace(path)


@pytest.mark.parametrize("change", [swap, renamed])
def test_weights_of_the_same_size_and_time_are_noticed(model: Path, change: Callable[[Path], None]) -> None:
    before = revision(model)
    assert revision(model) == before
    change(model / "model.safetensors")
    assert revision(model) != before


@pytest.mark.parametrize(
    "name",
    [
        *("special_tokens_map.json", "added_tokens.json", "modules.json", "sentence_bert_config.json"),
        *("1_Pooling/config.json", "2_Dense/model.safetensors", "spiece.model", "vocab.txt", "merges.txt"),
    ],
)
def test_every_file_that_is_read_belongs_to_the_revision(model: Path, name: str) -> None:
    (model / "tokenizer.json").unlink()
    before = revision(model)
    path = model / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    added = revision(model)
    path.write_text("[]")
    assert len({before, added, revision(model)}) == 3


def test_a_file_that_nothing_reads_changes_nothing(model: Path) -> None:
    before = revision(model)
    (model / "README.md").write_text("hello")
    # The fast tokenizer is read, not this.
    (model / "vocab.txt").write_text("hello")
    assert revision(model) == before


def test_contents_are_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision(model)
    monkeypatch.setattr(hub_models, "file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    revision(model)


def test_a_pointer_of_git_lfs_is_named(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n")
    entry = encoder_entry_for(str(model))
    with pytest.raises(InputError, match=r"model\.safetensors is a pointer of Git LFS, not the file.*git lfs pull"):
        embed(texts_data(["a", "b"]), entry)


def test_a_slip_in_a_folders_name_is_no_model_of_the_hub(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(InputError, match=rf"{tmp_path.name}/modle is not a folder.*did you mean model"):
        encoder_entry_for(f"{tmp_path.name}/modle")


def test_a_cpu_build_of_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    # A build for CPUs finds no GPU, on whatever machine this runs.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"--device cuda: the installed torch .* is a build for CPUs alone"):
        require_device("cuda")


# Positions


def tiny(kind: str, positions: int) -> Any:
    config = transformers.AutoConfig.for_model(kind)
    small = {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "attention_window": 8,
        "entity_vocab_size": 5,
        "entity_emb_size": 16,
        "coordinate_size": 2,
        "shape_size": 4,
        "max_tree_id_unit_embeddings": 4,
        "languages": ("en_XX",),
        "default_language": "en_XX",
        "visual_embed": False,
        "emb_layer_norm_before": False,
        "token_dropout": False,
    }
    for name, value in small.items():
        if name == "position_embedding_type" or hasattr(config, name):
            setattr(config, name, value)
    if kind == "lilt":
        config.hidden_size = 24
    if kind == "longformer":
        config.attention_window = [8]
    return transformers.AutoModel.from_config(config).eval()


def fits(model: Any, length: int) -> bool:
    ids = torch.full((1, length), 7)
    try:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("kind", POSITIONS_AFTER_PADDING)
def test_what_is_usable_of_the_positions_stated_works_and_one_more_does_not(kind: str) -> None:
    model = tiny(kind, 34)
    usable = usable_positions(model.config)
    assert usable == 32
    assert fits(model, usable)
    assert not fits(model, usable + 1) or kind == "longformer"


@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert", "deberta-v2", "albert"])
def test_other_types_use_all_their_positions(kind: str) -> None:
    model = tiny(kind, 34)
    assert usable_positions(model.config) == 34
    assert fits(model, 34)


def test_a_long_context_is_cut_to_what_roberta_reads(tmp_path: Path) -> None:
    model = tiny("roberta", 66)
    folder = tmp_path / "roberta"
    model.save_pretrained(folder)
    tiny_llama.tokenizer().save_pretrained(folder)
    encoder = HuggingFace(model=str(folder), dtype="float32")
    assert encoder.max_length == 64
    encoded = encoder.encode([((Message("user", "x" * 300),), "the reply")], device="cpu")
    assert encoded.contexts_cut == 1
    assert torch.isfinite(encoded.embedding).all()


# Numbers


@pytest.mark.parametrize("engine", ["trie", "padded"])
def test_float16_that_overflows_is_called_that(model: Path, engine: str) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] *= 3e5
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1e4
    save_file(tensors, path, metadata={"format": "pt"})
    entry = encoder_entry_for(str(model))
    options = {**entry.options, "dtype": "float16", "engine": engine}
    with pytest.raises(InputError, match=r"NaN or infinite.*float16.*--dtype bfloat16 or float32"):
        embed(texts_data(["a", "b"]), entry.model_copy(update={"options": options}))
