"""Training an adapter on a judge model's own weights with trl, pass after pass; each is on disk when it is done.

A pass is a training of its own: what it shuffles and draws follows from its number alone, so that a run that goes on
after a crash has the bits of one that did not crash. What is kept of a pass is the adapter and the optimiser's state,
as safetensors; none of the files that trl or transformers write are used.
"""

from __future__ import annotations

import importlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.base.seeds import Rng
from prbench.judging.adapted import AdaptedModel, quiet
from prbench.method import SEAL, load_tensors, save_tensors, tensors_digest

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER, STATE = "adapter.", "optimiser."
SEEDS = 2**31


class Pass(NamedTuple):
    """What a pass over the rows left: its number from 1, the adapter's numbers, the mean loss, further measures."""

    number: int
    tensors: dict[str, Tensor]
    loss: float
    measures: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """How much is trained, and how: `passes` over the rows, `batch` of them an update, a constant rate."""

    passes: int
    batch: int
    rate: float
    weight_decay: float = 0.0


class Stage(ABC):
    """One kind of training."""

    # What its checkpoints are called.
    name: str

    @abstractmethod
    def trainer(self, model: AdaptedModel, common: dict[str, Any], rows: Any, optimizers: Any) -> Any:
        """The trainer of trl for a pass; `common` are arguments that all kinds share, `rows` a data set."""

    def measures(self, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """What is told of a pass beside its loss, from the trainer's log."""
        return {}


def train(
    stage: Stage,
    model: AdaptedModel,
    rows: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    rng: Rng,
    checkpoints: Path | None = None,
) -> Iterator[Pass]:
    """Train from the numbers that the adapter holds now, and yield every pass.

    Passes that `checkpoints` holds of the same training are read and not trained again. Others' files there, and
    damaged ones, are trained anew.
    """
    import torch

    parameters = [parameter for _, parameter in model.trained()]
    of = digest([stage.name, recipe.__dict__, list(rng.axes), list(rows), tensors_digest(model.tensors(), {})])
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.weight_decay)
    for number in range(1, recipe.passes + 1):
        file = None if checkpoints is None else checkpoints / f"{stage.name}-{number}.safetensors"
        found = _stored(file, of, number, optimiser)
        if found is None:
            loss, measures = _run(stage, model, rows, recipe, optimiser, rng.child("pass", number))
            found = Pass(number, model.tensors(), loss, measures)
            if file is not None:
                _store(file, of, found, optimiser)
        else:
            model.load(found.tensors)
        yield found
        # Whoever judged the pass may have loaded other numbers meanwhile.
        model.load(found.tensors)


def _run(
    stage: Stage,
    model: AdaptedModel,
    rows: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    optimiser: Any,
    rng: Rng,
) -> tuple[float, dict[str, float]]:
    """One pass: its mean loss and measures."""
    import torch
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar

    on_gpu = model.device.startswith("cuda")
    halved = next(model.peft.get_base_model().parameters()).dtype == torch.bfloat16
    order = rng.child("order").numpy().permutation(len(rows)).tolist()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, quiet():
        common = {
            "output_dir": folder,
            "per_device_train_batch_size": min(recipe.batch, len(rows)),
            "num_train_epochs": 1,
            "learning_rate": recipe.rate,
            "lr_scheduler_type": "constant",
            "seed": rng.seed % SEEDS,
            "use_cpu": not on_gpu,
            "bf16": on_gpu and halved,
            # Half of the memory for a fifth of the time: large models need it.
            "gradient_checkpointing": on_gpu,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "max_grad_norm": 1.0,
        }
        steady = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 1.0)
        data = Dataset.from_list([dict(rows[i]) for i in order])
        trainer = stage.trainer(model, common, data, (optimiser, steady))
        # Its log goes to the standard output, which is for data.
        from transformers import PrinterCallback, ProgressCallback

        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        outcome = trainer.train()
        history = trainer.state.log_history
    model.peft.eval()
    return float(outcome.training_loss), stage.measures(history)


def _store(file: Path, of: str, found: Pass, optimiser: Any) -> None:
    tensors = {f"{ADAPTER}{name}": tensor for name, tensor in found.tensors.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"{STATE}{i}.{name}": value.detach().cpu().reshape(value.shape) for name, value in state.items()}
    told = {"of": of, "loss": repr(found.loss), **{f"measure.{k}": repr(v) for k, v in found.measures.items()}}
    save_tensors(file, tensors, {**told, SEAL: tensors_digest(tensors, told)})


def _stored(file: Path | None, of: str, number: int, optimiser: Any) -> Pass | None:
    """A pass that was stored, and the optimiser's state then; None for what is not there, damaged or of another."""
    if file is None or not file.is_file():
        return None
    try:
        tensors, told = load_tensors(file)
    except InputError:
        return None
    seal = told.pop(SEAL, "")
    if told.get("of") != of or seal != tensors_digest(tensors, told):
        return None
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(STATE):
            place, _, what = name.removeprefix(STATE).partition(".")
            states.setdefault(int(place), {})[what] = tensor
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    own = {name.removeprefix(ADAPTER): tensor for name, tensor in tensors.items() if name.startswith(ADAPTER)}
    measures = {k.removeprefix("measure."): float(v) for k, v in told.items() if k.startswith("measure.")}
    return Pass(number, own, float(told["loss"]), measures)


def _made(trainer: Any, model: AdaptedModel, settings: Any, rows: Any, optimizers: Any, **more: Any) -> Any:
    """A trainer of trl's with what all of them are given."""
    tokenizer = model.own.tokenizer
    return trainer(
        model=model.peft, args=settings, train_dataset=rows, processing_class=tokenizer, optimizers=optimizers, **more
    )


class RewardStage(Stage):
    """Bradley–Terry training of a reward model (trl's RewardTrainer). Rows have `chosen_ids` and `rejected_ids`."""

    name = "reward"

    def trainer(self, model: AdaptedModel, common: dict[str, Any], rows: Any, optimizers: Any) -> Any:
        """See `Stage.trainer`. Rows are as long as the model reads, so that none is left out for its length."""
        trl: Any = importlib.import_module("trl")
        settings = trl.RewardConfig(**common, max_length=None, disable_dropout=True)
        return _made(trl.RewardTrainer, model, settings, rows, optimizers)


class SupervisedStage(Stage):
    """Training on texts that are to be written (trl's SFTTrainer). Rows have `input_ids` and `labels`, −100 where a
    token is not to be learned.
    """

    name = "supervised"

    def trainer(self, model: AdaptedModel, common: dict[str, Any], rows: Any, optimizers: Any) -> Any:
        """See `Stage.trainer`."""
        trl: Any = importlib.import_module("trl")
        settings = trl.SFTConfig(**common, max_length=None, packing=False)
        return _made(trl.SFTTrainer, model, settings, rows, optimizers)


@dataclass(frozen=True)
class ReinforcedStage(Stage):
    """Reinforcement by a reward that can be checked (trl's GRPOTrainer). Rows have `prompt`, as messages, and what
    else the rewards need; each of these gets the completions' texts and those columns, and gives a number for each.

    Of every prompt `completions` texts of at most `limit` tokens are drawn at `temperature`; their rewards are
    compared with one another. There is no reference model.
    """

    rewards: tuple[Callable[..., list[float]], ...]
    completions: int
    limit: int
    temperature: float

    name = "reinforced"

    def trainer(self, model: AdaptedModel, common: dict[str, Any], rows: Any, optimizers: Any) -> Any:
        """See `Stage.trainer`. An update sees as many prompts as a batch has."""
        trl: Any = importlib.import_module("trl")
        prompts = common["per_device_train_batch_size"]
        own = common | {"per_device_train_batch_size": self.completions, "gradient_accumulation_steps": prompts}
        settings = trl.GRPOConfig(
            **own,
            num_generations=self.completions,
            max_completion_length=self.limit,
            temperature=self.temperature,
            beta=0.0,
        )
        rewards = [_of_texts(reward) for reward in self.rewards]
        return _made(trl.GRPOTrainer, model, settings, rows, optimizers, reward_funcs=rewards)

    def measures(self, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The mean reward, and how often all completions of a prompt had one reward, so that nothing was learned."""
        found = {"reward": "reward", "alike": "frac_reward_zero_std"}
        told = {name: [float(line[key]) for line in history if key in line] for name, key in found.items()}
        return {name: sum(values) / len(values) for name, values in told.items() if values}


def _of_texts(reward: Callable[..., list[float]]) -> Callable[..., list[float]]:
    """The reward for what trl hands over: each completion as a list with one message, columns as keywords."""

    def of_completions(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
        return reward([said[-1]["content"] for said in completions], **columns)

    of_completions.__name__ = reward.__name__
    return of_completions
