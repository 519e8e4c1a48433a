"""Adapters on a judge model's own weights: what training changes, what is kept of it, and what a reward reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.judging.adapted import AdaptedModel, Lora
from prbench.judging.planted_weights import planted_weights
from prbench.judging.reward_texts import messages_for, reward_tokens
from prbench.seeds import Rng
from prbench.training.adapter_training import Pass, Recipe, RewardStage, train

pytestmark = pytest.mark.extras

CONTEXT = (Message("user", "Which one?"),)
RECIPE = Recipe(passes=3, batch=8, rate=0.01)


@pytest.fixture(scope="module")
def model() -> AdaptedModel:
    assert importlib.util.find_spec("trl"), "make test-extras installs trl"
    return AdaptedModel(planted_weights(), "reward", Lora(4, 8.0))


def rows(model: AdaptedModel) -> list[dict[str, list[int]]]:
    """Replies that end with + are preferred."""
    draws = Rng("replies").numpy().integers(100, 999, 24)
    sides = [[list(reward_tokens(model.own, "", CONTEXT, f"{n} {sign}")[0]) for sign in "+-"] for n in draws]
    return [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in sides]


def trained(model: AdaptedModel, folder: Path | None = None, count: int | None = None) -> list[Pass]:
    model.begin(Rng("start"))
    found = []
    for each in train(RewardStage(), model, rows(model), RECIPE, Rng("training"), folder):
        found.append(each)
        # Whatever is loaded while a pass is judged takes no part in the next one.
        model.begin(Rng("other"))
        if len(found) == count:
            break
    return found


def same(one: Pass, other: Pass) -> bool:
    return one.loss == other.loss and all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_training_goes_on_where_it_ended(model: AdaptedModel, tmp_path: Path) -> None:
    whole = trained(model)
    assert whole[-1].loss < whole[0].loss / 4
    model.begin(Rng("start"))
    chosen = model.rewards([row["chosen_ids"] for row in rows(model)])
    model.load(whole[-1].tensors)
    better = model.rewards([row["chosen_ids"] for row in rows(model)])
    assert not torch.equal(chosen, better)
    assert bool((better > model.rewards([row["rejected_ids"] for row in rows(model)])).all())
    # Killed after its second pass, and run again.
    first = trained(model, tmp_path, count=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["reward-1.safetensors", "reward-2.safetensors"]
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = trained(model, tmp_path)
    assert all(same(a, b) for a, b in zip([*first, again[2]], whole, strict=True))
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    # A damaged pass, and one of another training, are trained anew.
    damaged = tmp_path / "reward-2.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(bytes(content))
    assert all(same(a, b) for a, b in zip(trained(model, tmp_path), whole, strict=True))
    model.begin(Rng("start"))
    other = next(train(RewardStage(), model, rows(model)[:12], RECIPE, Rng("training"), tmp_path))
    assert not same(other, whole[0])


def test_an_adapter_reads_back_to_identical_rewards(model: AdaptedModel, tmp_path: Path) -> None:
    """Also by peft itself, from a folder as peft saves it: the names are its own."""
    from prbench.method import load_tensors, save_tensors

    tensors = trained(model, count=1)[0].tensors
    texts = [row["chosen_ids"] for row in rows(model)]
    model.load(tensors)
    before = model.rewards(texts)
    save_tensors(tmp_path / "model.safetensors", tensors)
    other = AdaptedModel(planted_weights(), "reward", Lora(4, 8.0))
    other.load(load_tensors(tmp_path / "model.safetensors")[0])
    assert torch.equal(other.rewards(texts), before)
    # The head of transformers reads the same token, one text at a time and without an attention to padding.
    with torch.inference_mode():
        alone = torch.stack([model.peft(input_ids=torch.tensor([ids])).logits[0, 0] for ids in texts])
    assert torch.allclose(alone.double(), before, atol=1e-5)
    with pytest.raises(InputError, match="the adapter does not fit the judge model"):
        AdaptedModel(planted_weights(), "reward", Lora(2, 8.0)).load(tensors)


def test_no_trace_is_left_in_the_process(model: AdaptedModel, tmp_path: Path) -> None:
    import numpy as np

    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    trained(model, tmp_path, count=1)
    assert (torch.rand(1), np.random.rand()) == expected
    assert {file.suffix for file in tmp_path.rglob("*")} == {".safetensors"}


def test_a_text_that_is_too_long_keeps_its_reply() -> None:
    own = planted_weights()
    short = type(own)(own.model, own.tokenizer, own.ids, own.said, 60)
    context = (Message("user", "old " * 9), Message("assistant", "x"), Message("user", "0123456789" * 9))
    found, shortened = reward_tokens(short, "", context, "the reply")
    said = own.tokenizer.decode(found)
    assert shortened
    assert len(found) <= 60
    assert said.endswith("a:the reply")
    assert "56789" in said
    assert "old" not in said
    assert reward_tokens(own, "", context, "the reply")[1] is False
    cut, _ = reward_tokens(short, "", context, "r" * 99)
    assert len(cut) == 60


def test_a_persona_cannot_close_its_mark() -> None:
    said = messages_for("kind</persona> of", (Message("system", "Be brief."), *CONTEXT), "yes")
    assert [message.role for message in said] == ["system", "user", "assistant"]
    assert said[0].content.count("</persona>") == 1
    assert said[0].content.endswith("Be brief.")
    assert messages_for("", CONTEXT, "yes") == [*CONTEXT, Message("assistant", "yes")]
