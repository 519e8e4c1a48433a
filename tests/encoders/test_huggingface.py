"""Any Hugging Face model as an encoder: its own numbers, its own template, and one line when it will not do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_llama
import torch
from planted_encoder import texts_data

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message
from prbench.embedding.stage import embed, embedding_fingerprint
from prbench.encoders import encoder_entry_for
from prbench.encoders.base import TextError
from prbench.encoders.huggingface import HuggingFace

ASK: Context = (Message("user", "Which bicycle should I buy for a hilly city?"),)
TALK: Context = (
    Message("system", "Be brief."),
    Message("user", "Which one?"),
    Message("assistant", "The red one."),
    Message("user", "Why?"),
)


def one(encoder: Any, context: Context, response: str) -> torch.Tensor:
    return encoder.encode([(context, response)], device="cpu").embedding[0]


# Any Hugging Face model: the numbers


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("causal"), reward=False)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Stores and hashes of weights live in PRBENCH_HOME."""


def fp32(folder: Path, **options: Any) -> HuggingFace:
    return HuggingFace(model=str(folder), dtype="float32", **options)


def tokens(encoder: HuggingFace, context: Context, response: str) -> list[int]:
    return cut_tokens(encoder, context, response)[0]


def cut_tokens(encoder: HuggingFace, context: Context, response: str) -> tuple[list[int], bool]:
    [ids], cut = encoder._chat.read([(context, response)])
    return ids.tolist(), bool(cut)


def test_head_of_embedding_is_the_models_own_logit(reward_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(reward_model)).eval()
    encoder = fp32(reward_model)
    texts = [(TALK, "Because red is fast."), (ASK, ""), (ASK, "EMPTY STRING"), ((), "No context.")]
    encoded = encoder.encode(texts, device="cpu")
    head = encoder.head()
    assert head is not None
    assert encoded.reward is not None
    trapped = []
    for i, text in enumerate(texts):
        ids = torch.tensor([tokens(encoder, *text)])
        with torch.inference_mode():
            trapped.append(float(model(ids).logits))
            # The model's own pooling is right only without a padding token to look for.
            model.config.pad_token_id = None
            logit = model(ids).logits[0, 0]
            model.config.pad_token_id = tiny_llama.EOT
        torch.testing.assert_close(encoded.embedding[i] @ head, logit, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoded.reward[i], logit, atol=1e-5, rtol=1e-5)
    # Padding that equals the end token misleads transformers, so the test would notice pooling left to it.
    assert min(abs(a - float(b)) for a, b in zip(trapped, encoded.reward, strict=True)) > 1e-3
    assert len({round(float(reward), 4) for reward in encoded.reward}) == 4


def test_a_causal_model_gives_its_last_hidden_state_and_no_reward(causal_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(causal_model)).eval()
    encoder = fp32(causal_model)
    encoded = encoder.encode([(TALK, "Because.")], device="cpu")
    with torch.inference_mode():
        states = model(torch.tensor([tokens(encoder, TALK, "Because.")]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoded.embedding[0], states[-1][0, -1], atol=1e-6, rtol=1e-6)
    assert encoded.reward is None
    assert encoder.head() is None
    assert not encoder.has_reward


def test_mean_pooling_is_over_all_tokens_and_keeps_the_reward(reward_model: Path) -> None:
    """Rewards of both poolings come from the same pass over one text, in one process."""
    from transformers import AutoModel

    mean, last = fp32(reward_model, pooling="mean"), fp32(reward_model)
    model = AutoModel.from_pretrained(str(reward_model)).eval()
    with torch.inference_mode():
        states = model(torch.tensor([tokens(mean, ASK, "Yes.")])).last_hidden_state[0]
    encoded = mean.encode([(ASK, "Yes.")], device="cpu")
    torch.testing.assert_close(encoded.embedding[0], states.mean(0), atol=1e-6, rtol=1e-6)
    assert encoded.reward is not None
    assert torch.equal(encoded.reward, last.encode([(ASK, "Yes.")], device="cpu").reward)  # type: ignore[arg-type]
    assert mean.head() is None


def test_the_template_is_tokenised_once(reward_model: Path) -> None:
    encoder = fp32(reward_model)
    ids = tokens(encoder, TALK, "  Because red is fast.\n")
    assert ids.count(tiny_llama.BOS) == 1
    assert ids[0] == tiny_llama.BOS
    assert ids[-1] == tiny_llama.EOT
    text = tiny_llama.tokenizer().decode(ids)
    assert text == (
        "<|bos|><|start|>s:Be brief.<|eot|><|start|>u:Which one?<|eot|><|start|>a:The red one.<|eot|>"
        "<|start|>u:Why?<|eot|><|start|>a:Because red is fast.<|eot|>"
    )


def test_an_empty_response_is_not_the_word_for_it(reward_model: Path) -> None:
    encoder = fp32(reward_model)
    assert tiny_llama.tokenizer().decode(tokens(encoder, ASK, "")).endswith("<|start|>a:<|eot|>")
    assert not torch.equal(one(encoder, ASK, ""), one(encoder, ASK, "EMPTY"))


@pytest.mark.parametrize("variable", ["date_string", "strftime_now('%d %b %Y')"])
def test_a_template_that_writes_the_date_writes_the_same_every_day(tmp_path: Path, variable: str) -> None:
    folder = tiny_llama.build(
        tmp_path / "dated",
        template="{{ bos_token }}{{ " + variable + " }}{% for m in messages %} {{ m.content }}{% endfor %}",
    )
    encoder = fp32(folder)
    assert tiny_llama.tokenizer().decode(tokens(encoder, ASK, "Yes.")) == f"<|bos|>26 Jul 2024 {ASK[0].content} Yes."


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_lower_precision_is_stored_as_it_is(reward_model: Path, dtype: str, atol: float) -> None:
    entry = encoder_entry_for(str(reward_model))
    data = texts_data(["Because.", "Why not?", "No."], [TALK])
    low = embed(data, entry.model_copy(update={"options": {**entry.options, "dtype": dtype}}))
    exact = fp32(reward_model).encode([(TALK, r) for r in data.responses], device="cpu")
    assert str(low.embedding.dtype) == f"torch.{dtype}"
    torch.testing.assert_close(low.embedding.float(), exact.embedding, atol=atol, rtol=0.05)
    assert low.reward is not None
    assert low.head is not None
    assert low.reward.dtype == low.head.dtype == torch.float32
    torch.testing.assert_close(low.embedding.float() @ low.head, low.reward, atol=1e-5, rtol=1e-5)


# Any Hugging Face model: what is too long


def test_old_messages_go_first_and_the_system_message_stays(reward_model: Path) -> None:
    talk = (
        TALK[0],
        *(Message(role, f"{role} {i} {'x' * 20}") for i in range(6) for role in ("user", "assistant")),
        Message("user", "Why?"),
    )
    encoder = fp32(reward_model)
    ids, cut = cut_tokens(encoder, talk, "Because red is fast.")
    text = tiny_llama.tokenizer().decode(ids)
    assert cut
    assert len(ids) <= tiny_llama.POSITIONS
    assert text.startswith("<|bos|><|start|>s:Be brief.<|eot|><|start|>u:user 5 x")
    assert text.endswith("<|start|>u:Why?<|eot|><|start|>a:Because red is fast.<|eot|>")


def test_the_last_message_is_cut_on_the_left_as_little_as_needed(reward_model: Path) -> None:
    question = "".join(f"{i:03d} " for i in range(100)) + "so which?"
    encoder = fp32(reward_model)
    ids, cut = cut_tokens(encoder, (TALK[1], TALK[2], Message("user", question)), "The last.")
    text = tiny_llama.tokenizer().decode(ids)
    assert cut
    assert tiny_llama.POSITIONS - 1 <= len(ids) <= tiny_llama.POSITIONS
    kept = text.removeprefix("<|bos|><|start|>u:").removesuffix("<|eot|><|start|>a:The last.<|eot|>")
    assert question.endswith(kept)
    assert encoder.encode([(ASK, "a"), ((Message("user", question),), "b")], device="cpu").contexts_cut == 1


def test_a_response_that_fills_the_window_is_kept_and_one_token_more_refused(reward_model: Path) -> None:
    # BOS, and <|start|> role : <|eot|> for each of two messages, leave this many bytes.
    room = tiny_llama.POSITIONS - 9
    encoder = fp32(reward_model)
    ids, cut = cut_tokens(encoder, ASK, "x" * room)
    assert cut
    assert len(ids) == tiny_llama.POSITIONS
    assert ids.count(tiny_llama.tokenizer().convert_tokens_to_ids("x")) == room
    with pytest.raises(TextError, match=r"the response alone takes 161 tokens, .* reads at most 160"):
        cut_tokens(encoder, ASK, "x" * (room + 1))


def test_too_long_a_response_names_the_item_and_stores_nothing(reward_model: Path, prbench_home: Path) -> None:
    data = texts_data(["fine", "fine too", "x" * 500], [ASK])
    with pytest.raises(InputError, match=r"item 2 of toy cannot be encoded by .*the response alone takes") as error:
        embed(data, encoder_entry_for(str(reward_model)))
    assert "\n" not in str(error.value)
    assert not (prbench_home / "embeddings" / "toy").exists()


def test_max_length_shortens_and_never_exceeds_the_models_positions(reward_model: Path) -> None:
    assert fp32(reward_model, max_length=100).max_length == 100
    assert fp32(reward_model, max_length=10_000).max_length == tiny_llama.POSITIONS
    ids, cut = cut_tokens(fp32(reward_model, max_length=40), ASK, "Yes.")
    assert cut
    assert len(ids) == 40


def test_a_conversation_that_the_template_refuses_names_the_item(reward_model: Path) -> None:
    data = texts_data(["a", "b"], [ASK, (Message("tool", "x"),)])
    with pytest.raises(InputError, match=r"item 1 of toy .*refuses it: no role tool"):
        embed(data, encoder_entry_for(str(reward_model)))


# Any Hugging Face model: which model it is


def test_the_fingerprint_changes_with_what_changes_the_numbers_and_not_with_the_path(
    reward_model: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    first = fp32(reward_model).fingerprint()
    moved = copy_of(reward_model)
    renamed = moved.rename(tmp_path / reward_model.name)
    assert fp32(renamed).fingerprint() == first
    others = [
        HuggingFace(model=str(reward_model)).fingerprint(),
        fp32(reward_model, pooling="mean").fingerprint(),
        fp32(reward_model, max_length=50).fingerprint(),
        fp32(reward_model, attention="eager").fingerprint(),
        fp32(tiny_llama.build(tmp_path / "s" / reward_model.name, seed=1)).fingerprint(),
        fp32(
            tiny_llama.build(tmp_path / "t" / reward_model.name, template="{{ messages[-1].content }}")
        ).fingerprint(),
    ]
    assert all(other != first for other in others)
    assert first["attention"] == "sdpa"


def test_weights_that_change_in_place_are_noticed(reward_model: Path, copy_of: Callable[[Path], Path]) -> None:
    folder = copy_of(reward_model)
    before = fp32(folder).revision
    assert fp32(folder).revision == before
    tiny_llama.build(folder, seed=5)
    assert fp32(folder).revision != before


def test_a_store_keeps_its_attention_where_the_choice_is_left_to_the_machine(reward_model: Path) -> None:
    """Both texts come from the store: their bits are not computed again."""
    entry = encoder_entry_for(str(reward_model))
    eager = entry.model_copy(update={"options": {**entry.options, "attention": "eager"}})
    data, more = texts_data(["a", "b"]), texts_data(["a", "b", "c"])
    items = embed(data, eager)
    assert torch.equal(embed(more, entry).embedding[:2], items.embedding)
    assert embedding_fingerprint(more, entry) == embedding_fingerprint(more, eager)
    with pytest.raises(InputError, match="made with attention 'eager', the encoder now has 'sdpa'"):
        embed(more, entry.model_copy(update={"options": {**entry.options, "attention": "sdpa"}}))


def test_flash_attention_needs_its_package_and_a_gpu(reward_model: Path) -> None:
    with pytest.raises(InputError, match="flash_attention_2 needs a CUDA device"):
        fp32(reward_model, attention="flash_attention_2").prepare("cpu")


def test_embeddings_made_elsewhere_serve_where_the_model_is_not(
    reward_model: Path, copy_of: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second time the embeddings come from the store."""
    folder = copy_of(reward_model)
    entry = encoder_entry_for(str(folder))
    data = texts_data(["a", "b"])
    items = embed(data, entry)
    key = embedding_fingerprint(data, entry)
    (folder / "config.json").unlink()
    assert torch.equal(embed(data, entry).embedding, items.embedding)
    assert embedding_fingerprint(data, entry) == key
    assert "is not here; using the embeddings of revision" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(InputError, match=r"holds no config\.json"):
        embed(texts_data(["a", "c"]), entry)
    with pytest.raises(InputError, match=r"holds no config\.json"):
        embed(data, entry.model_copy(update={"options": {**entry.options, "pooling": "mean"}}))


# Any Hugging Face model: models that will not do


def keep_today(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% set f = '%d' %}{{ strftime_now(f) }}{{ messages[-1].content }}")


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def spoil_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "score.weight"}, folder / "model.safetensors", {"format": "pt"}
    )


def name_other_architecture(folder: Path) -> None:
    tiny_llama.change_config(folder, architectures=["LlamaForRewardModel"])


def bring_code(folder: Path) -> None:
    (folder / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    tiny_llama.change_config(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.Config"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (keep_today, "the chat template of copy writes today's date"),
        (spoil_config, "the configuration of copy cannot be read"),
        (spoil_tokenizer, "copy"),
        (spoil_weights, r"has no \*\.safetensors weights"),
        (cut_weights, "the weights of copy cannot be read"),
        (drop_head, r"the weights of copy lack score\.weight"),
        (name_other_architecture, "copy is a LlamaForRewardModel"),
        (bring_code, "the configuration of copy cannot be read"),
    ],
)
def test_a_model_that_will_not_do_is_one_line_and_leaves_nothing(
    reward_model: Path,
    copy_of: Callable[[Path], Path],
    prbench_home: Path,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    folder = copy_of(reward_model)
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        embed(texts_data(["a", "b"]), encoder_entry_for(str(folder)))
    assert "\n" not in str(error.value)
    assert not (prbench_home / "embeddings").exists()
    assert not (folder / "ran").exists()


def test_a_classifier_of_two_labels_needs_to_say_which_is_better(tmp_path: Path) -> None:
    folder = tiny_llama.build(tmp_path / "two", labels=2)
    with pytest.raises(
        InputError, match=r"a classifier with 2 labels \(0: LABEL_0, 1: LABEL_1\).*options\.label = 1"
    ):
        fp32(folder)
    with pytest.raises(InputError, match="label is 0 or 1"):
        HuggingFace(model=str(folder), dtype="float32", label=2)


def hub_error(kind: str) -> Exception:
    from huggingface_hub import errors

    if kind == "LocalEntryNotFoundError":
        return errors.LocalEntryNotFoundError("no connection\nat all")
    response = SimpleNamespace(headers={}, request=None, status_code=403)
    made: Exception = getattr(errors, kind)("no\nentry", response=response)
    return made


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("LocalEntryNotFoundError", "no connection to the hub .*--encoder FOLDER"),
        (
            "GatedRepoError",
            r"it is gated, its terms .*https://huggingface\.co/Skywork/Skywork-Reward-V2.*--encoder FOLDER",
        ),
        ("RepositoryNotFoundError", "nothing public of that name"),
        ("RevisionNotFoundError", r"no such revision \(at main\)"),
        ("HfHubHTTPError", "cannot download Skywork/Skywork-Reward-V2-Llama-3.1-8B: the hub says 403"),
    ],
)
def test_a_hub_model_that_cannot_be_had_says_what_to_place_where(
    monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=message) as error:
        embed(texts_data(["a", "b"]), encoder_entry_for("skywork-v2"))
    assert "\n" not in str(error.value)


def test_a_hub_model_is_pinned_by_its_commit_and_weights_come_last(
    monkeypatch: pytest.MonkeyPatch, reward_model: Path, tmp_path: Path
) -> None:
    """The same weights read one text by itself twice, in one process."""
    import huggingface_hub

    commit = tmp_path / "snapshots" / ("c0ffee" * 7)[:40]
    asked: list[tuple[str, bool]] = []

    def download(model: str, *, revision: str, allow_patterns: list[str], **_: Any) -> str:
        weights = any("safetensors" in pattern and "json" not in pattern for pattern in allow_patterns)
        asked.append((revision, weights))
        ignore = None if weights else shutil.ignore_patterns("*.safetensors")
        shutil.copytree(reward_model, commit, dirs_exist_ok=True, ignore=ignore)
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    encoder = HuggingFace(model="someone/tiny", dtype="float32")
    assert (encoder.id, encoder.revision) == ("someone/tiny", commit.name)
    assert asked == [("main", False)]
    encoder.prepare("cpu")
    assert asked == [("main", False), (commit.name, True)]
    assert torch.equal(one(encoder, ASK, "Yes."), one(fp32(reward_model), ASK, "Yes."))


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"attention": "fast"}, {"pooling": "max"}, {"max_length": -1}]
)
def test_options_out_of_range(reward_model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        HuggingFace(model=str(reward_model), **options)
