"""Engines: all of them read a text as the model reads it alone; what fits, what does not, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_encoder import texts_data

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message
from prbench.embedding.stage import embed
from prbench.encoders import encoder_entry_for, engines
from prbench.encoders.base import Encoded, Text
from prbench.encoders.engines import ENGINES, Model, verify_tree_mask
from prbench.encoders.huggingface import HuggingFace

POST = "My brother took my bicycle without asking, sold it, and now says that I never used it anyway."


def talk(*contents: str) -> Context:
    return tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))


def conversation(opening: str) -> list[Text]:
    """Three turns of several replies each, of which the first goes into the history."""
    texts = []
    said: list[str] = [opening]
    for turn, replies in enumerate((4, 2, 3)):
        answers = [f"{opening[:8]}: reply {k} of turn {turn}, {'indeed ' * (k + 1)}" for k in range(replies)]
        texts += [(talk(*said), answer) for answer in answers]
        said += [answers[0], f"And what then, after turn {turn}?"]
    return texts


# Conversations of several turns, a post with five summaries, equal and whole-prefix texts, no context, no response.
TEXTS: list[Text] = [
    *conversation("Which bicycle should I buy?"),
    *conversation("Which book should I read?"),
    *((talk(POST), f" Summary {k}: {'sold ' * k}the bicycle.") for k in range(5)),
    (talk(POST), ""),
    (talk(POST), "Summary"),
    ((Message("system", "Be brief."), *talk(POST)), "A brief summary."),
    ((), "No context."),
    ((), "No context at all."),
    # Equal tokens from different texts, since the template trims.
    (talk(POST), "  Summary  "),
]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("reward"), positions=600)


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("causal"), reward=False, positions=600)


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Stores and hashes of weights live in PRBENCH_HOME."""


def made(folder: Path, *, budget: int = 0, **options: Any) -> HuggingFace:
    encoder = HuggingFace(model=str(folder), **{"dtype": "float32", **options})
    encoder.token_budget = budget
    return encoder


# Equality


@pytest.fixture(scope="module")
def references(reward_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoded]:
    """By pooling."""
    poolings = ("last", "mean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        return {p: made(reward_model, engine="batch1", pooling=p).encode(TEXTS, device="cpu") for p in poolings}


@pytest.mark.parametrize("budget", [0, 700, 1])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize(("engine", "attention"), [("trie", "sdpa"), ("trie", "eager"), ("padded", "sdpa")])
def test_engines_agree_with_batch_1(
    reward_model: Path, references: dict[str, Encoded], engine: str, attention: str, pooling: str, budget: int
) -> None:
    reference = references[pooling]
    encoder = made(reward_model, engine=engine, attention=attention, pooling=pooling, budget=budget)
    encoded = encoder.encode(TEXTS, device="cpu")
    torch.testing.assert_close(encoded.embedding, reference.embedding, atol=1e-5, rtol=0)
    assert encoded.reward is not None
    assert reference.reward is not None
    torch.testing.assert_close(encoded.reward, reference.reward, atol=1e-5, rtol=0)
    if engine == "padded" and budget == 700:
        assert encoder.plan(TEXTS).packed > sum(
            {ids.tobytes(): len(ids) for ids in encoder._chat.read(TEXTS)[0]}.values()
        )
    # Different texts have different embeddings, so that rows in a wrong order would show.
    distinct = torch.unique((reference.embedding * 1e3).round(), dim=0)
    assert len(distinct) == len(TEXTS) - 1


def test_batch_1_is_the_models_own_computation(causal_model: Path) -> None:
    """Engine batch1 is the model's forward pass of one sequence: the same call, twice in one process."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(causal_model)).eval()
    encoder = made(causal_model, engine="batch1")
    sequences, _ = encoder._chat.read(TEXTS)
    encoded = encoder.encode(TEXTS, device="cpu")
    with torch.inference_mode():
        for ids, embedding in zip(sequences, encoded.embedding, strict=True):
            states = model(torch.tensor([ids.tolist()]), output_hidden_states=True).hidden_states
            assert torch.equal(states[-1][0, -1], embedding)


# Of rows read together in half precision, against the row alone: relative error and cosine of the embedding.
@pytest.mark.parametrize(
    ("engine", "dtype", "error", "cosine"),
    [("trie", "bfloat16", 0.05, 0.998), ("padded", "bfloat16", 0.05, 0.998), ("trie", "float16", 0.01, 0.9999)],
)
def test_half_precision_is_within_its_noise(
    reward_model: Path, engine: str, dtype: str, error: float, cosine: float
) -> None:
    texts = TEXTS[:9]
    alone = made(reward_model, engine="batch1", dtype=dtype).encode(texts, device="cpu").embedding.float()
    found = made(reward_model, engine=engine, dtype=dtype).encode(texts, device="cpu").embedding.float()
    assert float(((found - alone).norm(dim=1) / alone.norm(dim=1)).max()) < error
    assert float(torch.cosine_similarity(found, alone).min()) > cosine


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=10),
    st.sampled_from([1, 16, 64]),
    st.sampled_from(["last", "mean"]),
)
def test_random_tries_agree_with_batch_1(llama: Model, drawn: list[list[int]], budget: int, pooling: Any) -> None:
    sequences = [np.array(ids, dtype=np.int32) for ids in drawn]
    found = {}
    for engine in ENGINES.values():
        tries = engine.tries(sequences, [len(ids) % 2 for ids in sequences], budget=budget, balance=np.inf)
        states = list(engines.run(llama, engine, tries, budget=budget, balance=np.inf, pooling=pooling))
        number = np.array([n for part in states for n in part.number])
        assert sorted(number) == list(range(len(sequences)))
        found[engine.name] = torch.cat([part.embedding for part in states])[np.argsort(number)]
    torch.testing.assert_close(found["trie"], found["batch1"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["padded"], found["batch1"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from transformers import AutoModel

    folder = tiny_llama.build(tmp_path_factory.mktemp("llama"), reward=False)
    return Model(AutoModel.from_pretrained(str(folder)).eval(), None, "cpu", "sdpa")


# How much is read


def test_every_shared_token_is_read_once(causal_model: Path) -> None:
    encoder = made(causal_model, budget=10**6)
    assert encoder.fingerprint()["engine"] == "trie"
    # Without heads there is no attention to weigh against sharing.
    encoder._config.num_attention_heads = 0
    sequences, _ = encoder._chat.read(TEXTS)
    beginnings = set()
    for row, ((context, _), ids) in enumerate(zip(TEXTS, sequences, strict=True)):
        users = [message.content for message in context if message.role == "user"]
        # A post or conversation shares; the template's first tokens are not shared between conversations.
        group = (context[0].role, users[0]) if context else row
        beginnings |= {(group, tuple(ids[: k + 1].tolist())) for k in range(len(ids))}
    work = encoder.plan(TEXTS)
    assert work.lengths.tolist() == [len(ids) for ids in sequences]
    assert sum(map(len, work.tries)) == len(beginnings) < int(work.lengths.sum()) / 3
    assert len(beginnings) <= work.packed < 1.1 * len(beginnings)


def test_equal_texts_of_different_users_are_read_once(causal_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal texts share one row that is computed once."""
    read: list[int] = []
    real = engines.forward
    monkeypatch.setattr(engines, "forward", lambda *a: (read.append(len(a[2].number)), real(*a))[1])
    contexts = [talk(POST), talk(POST)]
    items = embed(texts_data(["same", "same", "other", "same"], contexts), encoder_entry_for(str(causal_model)))
    assert sum(read) == 2 + 3 + 3
    assert torch.equal(items.embedding[0], items.embedding[1])
    assert torch.equal(items.embedding[0], items.embedding[3])


@pytest.mark.parametrize("engine", ["trie", "padded", "batch1"])
def test_shares_hold_every_text_once_and_are_about_equally_large(causal_model: Path, engine: str) -> None:
    work = made(causal_model, engine=engine).plan(TEXTS)
    shares = [work.share(i, 3) for i in range(3)]
    rows = [row for share in shares for part in share.run("cpu") for row in part.rows]
    assert sorted(rows) == list(range(len(TEXTS)))
    assert sum(share.packed for share in shares) >= sum(map(len, work.tries))


def test_what_is_done_adds_up_to_the_total(causal_model: Path) -> None:
    for engine in ENGINES:
        work = made(causal_model, engine=engine, budget=500).plan(TEXTS)
        assert sum(part.done for part in work.run("cpu")) == work.total == work.packed


# Memory


class Small:
    """A model that runs out of memory above so many tokens at a time."""

    def __init__(self, base: Any, room: int) -> None:
        self.base, self.room, self.passes = base, room, list[tuple[int, bool]]()

    def __call__(self, *, input_ids: torch.Tensor, **inputs: Any) -> Any:
        fits = input_ids.numel() <= self.room
        self.passes.append((input_ids.numel(), fits))
        if not fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.base(input_ids=input_ids, **inputs)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        found: Iterator[torch.nn.Parameter] = self.base.parameters()
        return found


@pytest.mark.parametrize("engine", ["trie", "padded"])
def test_where_memory_runs_out_the_budget_is_halved_and_nothing_is_lost(
    reward_model: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = made(reward_model, engine=engine).encode(TEXTS, device="cpu")
    encoder = made(reward_model, engine=engine)
    model = encoder._load("cpu")
    small = Small(model.base, 600)
    encoder._loaded = Model(small, model.head, "cpu", model.attention)
    encoded = encoder.encode(TEXTS, device="cpu")
    torch.testing.assert_close(encoded.embedding, expected.embedding, atol=1e-5, rtol=0)
    tried = [size for size, fits in small.passes if not fits]
    assert tried
    assert small.passes[0][1] is False
    assert all(size <= first // 2 for first, size in pairwise(tried))
    said = capsys.readouterr().err.split("\n")
    assert sum("out of memory on cpu: going on with" in line for line in said) == len(tried)


def test_a_conversation_that_does_not_fit_by_itself_is_one_line(reward_model: Path) -> None:
    encoder = made(reward_model)
    model = encoder._load("cpu")
    encoder._loaded = Model(Small(model.base, 50), model.head, "cpu", model.attention)
    with pytest.raises(InputError, match="tokens does not fit into the memory of cpu") as error:
        encoder.encode(TEXTS, device="cpu")
    assert "\n" not in str(error.value)


# Which engine


def config(**changes: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(max_position_embeddings=4096, **changes)


def test_the_engine_is_chosen_by_what_the_model_can_take() -> None:
    from transformers import BertConfig, Gemma3TextConfig, MistralConfig, Qwen2Config

    assert engines.suitable(config(), 4096) == "trie"
    assert engines.suitable(Qwen2Config(), 4096) == "trie"
    assert engines.suitable(MistralConfig(sliding_window=1000), 900) == "trie"
    assert engines.suitable(MistralConfig(sliding_window=1000), 4096) == "padded"
    assert engines.suitable(Gemma3TextConfig(sliding_window=1000), 4096) == "padded"
    assert engines.suitable(BertConfig(), 512) == "padded"
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert engines.suitable(config(rope_parameters=rope), 4096) == "batch1"


@pytest.mark.parametrize("kind", engines.TREES)
def test_models_that_get_tries_by_default_read_them_as_single_texts(kind: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModel

    torch.manual_seed(0)
    tiny = CONFIG_MAPPING[kind](
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    base = AutoModel.from_config(tiny, attn_implementation="sdpa").eval()
    for parameter in base.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    verify_tree_mask(Model(base, None, "cpu", "sdpa"), kind, 64)


def test_a_model_that_sees_forward_is_found_out_when_it_is_loaded() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tiny = BertConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    base = BertModel(tiny, add_pooling_layer=False).eval()
    for parameter in base.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    with pytest.raises(InputError, match=r"does not take an attention mask for tries.*--engine padded"):
        verify_tree_mask(Model(base, None, "cpu", "sdpa"), "bert", 64)


def test_a_wrong_combination_is_one_line(reward_model: Path) -> None:
    with pytest.raises(InputError, match="flash_attention_2 takes no mask for tries"):
        made(reward_model, engine="trie", attention="flash_attention_2")
    with pytest.raises(InputError, match="engine is one of auto, trie, padded, batch1, not 'fast'"):
        made(reward_model, engine="fast")


def test_a_model_whose_positions_depend_on_the_batch_is_read_one_by_one(tmp_path: Path) -> None:
    folder = tiny_llama.build(tmp_path / "dynamic")
    tiny_llama.change_config(folder, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert made(folder).fingerprint()["engine"] == "batch1"
    with pytest.raises(InputError, match=r"cannot use the engine padded: its rotary positions.*--engine batch1"):
        made(folder, engine="padded")


def test_flash_attention_is_taken_where_it_is_installed_and_of_use(
    reward_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import import_utils

    def attention(device: str, **options: Any) -> str:
        encoder = made(reward_model, **{"dtype": "bfloat16", "engine": "padded", **options})
        encoder.device = device
        found: str = encoder.fingerprint()["attention"]
        return found

    assert attention("cuda") == "sdpa"
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert attention("cuda") == attention("cuda:1") == "flash_attention_2"
    assert attention("cpu") == attention("cuda", dtype="float32") == attention("cuda", engine="trie") == "sdpa"
    assert attention("cuda", engine="auto") == "sdpa"
    assert attention("cuda", engine="auto", attention="flash_attention_2") == "flash_attention_2"
    assert made(reward_model, attention="flash_attention_2").fingerprint()["engine"] == "padded"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert attention("cuda") == "sdpa"


# Templates and their tokens


END = "<|eot|>"


def test_an_end_token_that_padding_shares_is_refused_where_the_entry_names_it(reward_model: Path) -> None:
    with pytest.raises(InputError, match=r"the padding token of .* is its end token '<\|eot\|>'") as error:
        made(reward_model, end=END)
    assert "\n" not in str(error.value)
    assert made(reward_model).max_length == 600


def test_another_padding_token_or_none_will_do(tmp_path: Path) -> None:
    for pad in (None, tiny_llama.START):
        assert made(tiny_llama.build(tmp_path / f"pad{pad}", pad=pad), end=END).id == f"pad{pad}"


def test_a_template_that_ends_otherwise_is_refused_where_the_entry_names_the_end(tmp_path: Path) -> None:
    folder = tiny_llama.build(tmp_path / "line", template=tiny_llama.TEMPLATE + "\n ", pad=None)
    with pytest.raises(InputError, match=r"ends a conversation with 'Ġ', not with the end token '<\|eot\|>'"):
        made(folder, end=END)
    assert made(folder).has_reward


def test_a_template_that_writes_bos_twice_is_refused(tmp_path: Path) -> None:
    folder = tiny_llama.build(tmp_path / "twice", template="{{ bos_token }}" + tiny_llama.TEMPLATE)
    with pytest.raises(InputError, match="writes the beginning-of-text token twice"):
        made(folder)


def test_padding_that_is_the_end_of_a_reward_model_is_said(
    reward_model: Path, causal_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(causal_model).prepare("cpu")
    assert not capsys.readouterr().err
    made(reward_model).prepare("cpu")
    assert "rewards here come from the end" in " ".join(capsys.readouterr().err.split())


def test_tokens_are_those_of_transformers_own_rendering(reward_model: Path) -> None:
    """return_dict=False: transformers 5 returns a BatchEncoding otherwise, which no model takes."""
    tokenizer = tiny_llama.tokenizer()
    sequences, cut = made(reward_model)._chat.read(TEXTS)
    assert not cut
    for (context, response), ids in zip(TEXTS, sequences, strict=True):
        messages = [*(message._asdict() for message in context), {"role": "assistant", "content": response}]
        assert ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
