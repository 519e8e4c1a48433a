"""What a message says reaches the model, or one line names the role and the template that leave it out."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch
from planted_encoder import texts_data

from prbench import registry
from prbench.base.errors import InputError
from prbench.comparisons import Context, Message
from prbench.embedding.facts import stored
from prbench.embedding.job import store_folder
from prbench.embedding.stage import embed
from prbench.embedding.store import EmbeddingStore
from prbench.encoders import encoder_entry_for, variant
from prbench.encoders.base import TextError
from prbench.encoders.delivery import folded, lost_messages
from prbench.encoders.huggingface import HuggingFace

START = "{{ bos_token }}{% for m in messages %}"
KNOWN = (
    START + "{% if m.role in ('user', 'assistant', 'system') %}<|start|>{{ m.role[0] }}:{{ m.content | trim }}<|eot|>"
    "{% endif %}{% endfor %}"
)
THOUGHTS = START + "<|start|>{{ m.role[0] }}:{{ m.content.split('</think>')[-1] | trim }}<|eot|>{% endfor %}"
NO_SYSTEM = (
    START + "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|start|>{{ m.role[0] }}:{{ m.content }}<|eot|>{% endfor %}"
)


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Stores live in PRBENCH_HOME."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    templates = {"known": KNOWN, "thoughts": THOUGHTS, "nosystem": NO_SYSTEM, "plain": None}
    return {name: tiny_llama.build(folder / name, template=text) for name, text in templates.items()}


def read(folder: Path, context: Context, response: str, **options: str) -> str:
    encoder = HuggingFace(model=str(folder), dtype="float32", **options)  # type: ignore[arg-type]
    return encoder._chat.rendered(context, response)[0]


@pytest.mark.parametrize(
    ("role", "as_"),
    [("human", "u"), ("prompter", "u"), ("developer", "s"), ("gpt", "a"), ("bot", "a"), ("model", "a")],
)
def test_role_names_of_common_exports_are_read_as_the_templates_own(
    models: dict[str, Path], role: str, as_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    context = (Message(role, "Something"), Message("user", "Why?"))
    text = read(models["known"], context, "Because.")
    assert text == f"<|bos|><|start|>{as_}:Something<|eot|><|start|>u:Why?<|eot|><|start|>a:Because.<|eot|>"
    assert f"does not know the role '{role}': read as" in " ".join(capsys.readouterr().err.split())


def test_a_role_that_the_template_writes_is_left_alone(models: dict[str, Path]) -> None:
    assert "<|start|>h:Hm<|eot|>" in read(models["thoughts"], (Message("human", "Hm"),), "Yes.")


@pytest.mark.parametrize("place", [0, 1])
def test_a_role_that_vanishes_is_an_error_that_names_role_and_template(models: dict[str, Path], place: int) -> None:
    context = [Message("user", "One?"), Message("user", "Two?")]
    context[place] = Message("tool", "a number")
    data = texts_data(["a", "b"], [tuple(context)])
    with pytest.raises(InputError, match=r"item 0 of toy .*template of known leaves out the messages of role 'tool'"):
        embed(data, encoder_entry_for(str(models["known"])))


def test_a_short_text_that_stands_elsewhere_by_chance_is_still_missed(models: dict[str, Path]) -> None:
    with pytest.raises(TextError, match="role 'tool'"):
        read(models["known"], (Message("tool", "a"), Message("user", "a")), "a")


def test_thoughts_that_are_cut_are_an_error_and_allowing_it_marks_every_row(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts of equal tokens share one row that is computed once."""
    replies = ["<think>Step by step.</think>It is 4.", "<think>A guess.</think>It is 4.", "It is 5."]
    data = texts_data(replies)
    plain = encoder_entry_for(str(models["thoughts"]))
    with pytest.raises(InputError, match="leaves out a part of a message of role 'assistant'"):
        embed(data, plain)
    entry = variant(plain, template_loss="allow")
    assert entry.name == f"{plain.name}@allow"
    items = embed(data, entry)
    assert torch.equal(items.embedding[0], items.embedding[1])
    assert EmbeddingStore.open(store_folder("toy", entry.name)).encoder["template_loss"] == "allow"
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of role 'assistant'" in said
    assert "3 distinct texts make 2 different token sequences" in said
    # Without thoughts there is nothing to refuse.
    embed(texts_data(["It is 4.", "It is 5."]), plain)


def test_data_info_counts_the_texts_that_lose_something(models: dict[str, Path]) -> None:
    replies = ["<think>Step by step.</think>It is 4.", "<think>A guess.</think>It is 5.", "It is 6.", "It is 7."]
    data = texts_data(replies)
    name = str(models["thoughts"])
    dataset = registry.get("datasets", "simulated").model_copy(update={"family": "toy", "encoder": name})
    before = stored(data, dataset)
    assert (before["lost_texts"], before["missing"]) == (2, 4)
    allowing = encoder_entry_for(f"{name}@allow")
    embed(data, allowing, family="toy")
    after = stored(data, dataset, f"{name}@allow")
    assert (after["lost_texts"], after["missing"], after["texts"], after["vectors"]) == (2, 0, 4, 4)
    assert after["template_loss"] == "allow"
    assert stored(data, dataset, f"{name}@plain")["lost_texts"] == 0
    assert (
        "System role not supported"
        in stored(
            texts_data(["a", "b"], [(Message("system", "S"), Message("user", "Why?"))]),
            dataset,
            str(models["nosystem"]),
        )["problem"]
    )


def test_white_space_alone_is_no_loss() -> None:
    messages = [{"role": "user", "content": "  a\n\n b "}, {"role": "assistant", "content": ""}]
    assert lost_messages(messages, "<user>a b</user>") == []
    assert lost_messages(messages, "<user>a</user>") == [0]


def test_a_system_message_is_folded_into_the_users_where_asked(models: dict[str, Path]) -> None:
    context = (Message("system", "Be brief."), Message("user", "Why?"))
    with pytest.raises(TextError, match=r"System role not supported; --system folded puts"):
        read(models["nosystem"], context, "So.")
    text = read(models["nosystem"], context, "So.", system="folded")
    assert text == "<|bos|><|start|>u:Be brief.\n\nWhy?<|eot|><|start|>a:So.<|eot|>"
    assert encoder_entry_for(f"{models['nosystem']}@folded").name.endswith("@folded")
    # Nobody to fold it into: a message of the user's.
    alone = [{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}]
    assert folded(alone) == [{"role": "user", "content": "S"}, {"role": "assistant", "content": "A"}]


def test_a_model_without_a_template_reads_plain_text_and_says_so(models: dict[str, Path]) -> None:
    talk = (Message("user", "One?"), Message("assistant", "Yes."), Message("user", "Why?"))
    assert read(models["plain"], talk[:1], "So.") == "<|bos|>One?\nSo."
    assert read(models["plain"], talk, "So.") == "<|bos|>user: One?\nassistant: Yes.\nuser: Why?\nSo."
    entry = encoder_entry_for(str(models["plain"]))
    embed(texts_data(["a", "b"]), entry)
    assert EmbeddingStore.open(store_folder("toy", entry.name)).encoder["form"] == "plain"
    with pytest.raises(InputError, match="has no chat template"):
        embed(texts_data(["a", "b"]), variant(entry, form="template"))


def test_the_beginning_of_a_long_plain_text_goes(models: dict[str, Path]) -> None:
    text = read(models["plain"], (Message("user", "x" * 300 + " so which?"),), "The last.")
    assert text.startswith("<|bos|>xxx")
    assert text.endswith("x so which?\nThe last.")
    assert len(text) - len("<|bos|>") + 1 == tiny_llama.POSITIONS


def test_fingerprints_of_models_with_a_template_are_as_before(models: dict[str, Path]) -> None:
    made = HuggingFace(model=str(models["known"])).fingerprint()
    assert list(made) == ["id", "revision", "dtype", "template", "pooling", "max_length", "engine", "attention"]
