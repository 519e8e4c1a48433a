"""`prbench.user.reward_function`: people's rewards for trl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import one_person
import pytest
import tiny_llama
from one_person import Place

from prbench.base.errors import InputError
from prbench.user import UserModel, reward_function
from prbench.user import model as model_module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with one_person.made(tmp_path_factory.mktemp("rewarded")) as place:
        yield place


def score(state: Path, prompt: Any, *responses: str) -> list[float]:
    model, me = model_module.open_state(state)
    return [float(value) for value in model.score(me, prompt, responses)]


def test_one_person_in_both_formats(place: Place) -> None:
    reward = reward_function(place.me)
    expected = score(place.me, "Tea?", "yes", "no")
    assert expected[0] != expected[1]
    # As trl calls it, with columns and callables that are of no concern here.
    more = {"completion_ids": [[1], [2]], "trainer_state": object(), "log_metric": print, "user": ["x", "y"]}
    assert reward(prompts=["Tea?", "Tea?"], completions=["yes", "no"], **more) == pytest.approx(expected)
    asked = [{"role": "user", "content": "Tea?"}]
    said = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    assert reward(prompts=[asked, asked], completions=said) == pytest.approx(expected)
    parts = [{"role": "user", "content": [{"type": "text", "text": "Te"}, {"type": "text", "text": "a?"}]}]
    assert reward(prompts=[parts], completions=said[:1]) == pytest.approx(expected[:1])
    assert reward.__name__ == "prbench_lore_adapt_steps_20_bases_2_divisor_1_0_steps_30"


def test_the_reply_is_the_last_message_and_goes_on_with_an_answer_begun(place: Place) -> None:
    reward = reward_function(place.me)
    asked = [{"role": "user", "content": "Tea?"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    tool = {"role": "tool", "name": "shop", "content": "green"}
    context = [*asked, {"role": "assistant", "content": ""}, {"role": "tool", "content": "green"}]
    found = reward(prompts=[asked], completions=[[call, tool, {"role": "assistant", "content": "yes"}]])
    assert found == pytest.approx(score(place.me, context, "yes"))
    begun = [*asked, {"role": "assistant", "content": "I say "}]
    found = reward(prompts=[begun], completions=[[{"role": "assistant", "content": "yes"}]])
    assert found == pytest.approx(score(place.me, "Tea?", "I say yes"))


def test_each_row_gets_the_reward_of_its_own_person(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, inner = [], UserModel._open.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(UserModel, "_open", classmethod(lambda cls, *a: loads.append(a) or inner(cls, *a)))
    reward = reward_function({"ann": place.me, "7": str(place.you)}, column="person")
    assert len(loads) == 1
    (model,) = {id(model): model for model, _ in reward._people.values()}.values()
    read: list[int] = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda texts: read.append(len(texts)) or embed(texts))
    found = reward(
        prompts=["Tea?"] * 5, completions=["yes", "yes", "no", "no", "yes"], person=["ann", 7, "ann", 7, "ann"]
    )
    assert read == [2]
    ann, ben = (score(state, "Tea?", "yes", "no") for state in (place.me, place.you))
    assert ann[0] != pytest.approx(ben[0])
    assert found == pytest.approx([ann[0], ben[0], ann[1], ben[1], ann[0]])


def test_to_say_nothing_pays_least(place: Place) -> None:
    reward = reward_function({"ann": place.me, "ben": place.you})
    found = reward(prompts=["Tea?"] * 4, completions=["yes", " \n", "no", ""], user=["ann", "ann", "ann", "ben"])
    assert found[1] == min(found[0], found[2])
    assert found[3] == 0


def test_what_cannot_be_rewarded_is_one_line(place: Place) -> None:
    reward = reward_function({"ann": place.me})
    with pytest.raises(InputError, match="no column 'user' that names the person"):
        reward(prompts=["a"], completions=["b"])
    with pytest.raises(InputError, match="names 'ben', of whom there is no state"):
        reward(prompts=["a"], completions=["b"], user=["ben"])
    with pytest.raises(InputError, match="a part of type 'image'"):
        reward(prompts=[[{"role": "user", "content": [{"type": "image"}]}]], completions=["b"], user=["ann"])
    model, me = model_module.open_state(place.me)
    with pytest.raises(InputError, match="a state in memory does not name its fit"):
        reward_function(me)
    assert reward_function(me, model=model)(["Tea?"], ["yes"]) == pytest.approx(score(place.me, "Tea?", "yes"))
    with pytest.raises(InputError, match="there is no person"):
        reward_function({})
    with pytest.raises(InputError, match="the name 3 is not a text"):
        reward_function({3: place.me})  # type: ignore[dict-item]


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chat", [True, False])
def test_grpo_trains_a_tiny_model_on_two_peoples_rewards(place: Place, tmp_path: Path, chat: bool) -> None:
    """trl logs the mean of what the function gave, and the weights move."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    template = tiny_llama.TEMPLATE + "{% if add_generation_prompt %}<|start|>a:{% endif %}"
    folder = tiny_llama.build(tmp_path / "tiny", reward=False, template=template)
    reward = reward_function({"ann": place.me, "ben": place.you})
    given: list[list[float]] = []

    def noted(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        given.append(reward(prompts, completions, **columns))
        assert isinstance(completions[0], list if chat else str)
        return given[-1]

    noted.__name__ = reward.__name__
    prompts: list[Any] = [f"Tea or coffee, {i}?" for i in range(4)]
    prompts = [[{"role": "user", "content": text}] for text in prompts] if chat else prompts
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=noted,
        args=GRPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=6,
            max_steps=2,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts, "user": ["ann", "ben", "ann", "ben"]}),
        processing_class=tiny_llama.tokenizer(template),
    )
    trainer.train()
    logged = [line[f"rewards/{reward.__name__}/mean"] for line in trainer.state.log_history if "reward" in line]
    assert logged == pytest.approx([sum(each) / len(each) for each in given], abs=1e-5)
    assert len({round(value, 6) for each in given for value in each}) > 2
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
