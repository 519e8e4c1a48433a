"""One policy: a LoRA adapter trained by trl's DPO (Rafailov et al. 2023) on labelled pairs of responses.

Only safetensors and JSON stay: trl's own output, with its pickled arguments and states of the optimiser, goes when a
policy is done. A policy is whole or not there; an interruption costs the one in progress.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prbench.base.errors import InputError
from prbench.base.files import file_sha256, write_json
from prbench.base.reading import read_json, sealed
from prbench.comparisons import Context, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prbench.policy.language_model import LanguageModel

WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "policy.json"
INSTALL = "pip install 'prbench[policy]'"


@dataclass(frozen=True)
class Recipe:
    """How a policy is trained: `batch` pairs a step, the learning `rate`, DPO's `beta`, the adapter's `rank`."""

    steps: int = 300
    batch: int = 8
    rate: float = 1e-4
    beta: float = 0.1
    rank: int = 16
    seed: int = 0


class TextPair(NamedTuple):
    """Two responses to a context, the preferred one first."""

    context: Context
    chosen: str
    rejected: str


def require_trl() -> None:
    """Raise InputError unless trl and peft are installed."""
    for name in ("trl", "peft", "datasets"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"DPO needs the package {name}, which is not here", hint=INSTALL)


def train(
    policy: LanguageModel, pairs: Sequence[TextPair], recipe: Recipe, folder: Path, watch: Callable[[], None]
) -> Any:
    """Train an adapter on `pairs`, save it in `folder`, which is there, and return the model with it.

    Every policy of one recipe starts from the same adapter and takes its pairs in the same order, again from the
    beginning where there are fewer than its steps need. `watch` is told of each step. Raises InputError where trl or
    peft is not here, and where the training runs out of finite numbers.
    """
    require_trl()
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import DPOConfig, DPOTrainer

    class Steps(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch()

    policy.forget()
    weights, tokenizer = policy.weights, policy.chat_tokenizer
    if policy.gguf:
        # What was read from the file are plain numbers; transformers refuses to train what is marked as quantised.
        weights.is_quantized = False
    cpu = policy.device == "cpu"
    needed = pairs[: recipe.steps * recipe.batch]
    said = [
        {
            "prompt": policy.messages(pair.context),
            "chosen": policy.messages([Message("assistant", pair.chosen)]),
            "rejected": policy.messages([Message("assistant", pair.rejected)]),
        }
        for pair in needed
    ]
    workspace = folder / "trainer"
    with _quiet():
        settings = DPOConfig(
            output_dir=str(workspace),
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.rate,
            beta=recipe.beta,
            max_length=policy.context,
            seed=recipe.seed,
            data_seed=recipe.seed,
            save_strategy="no",
            report_to="none",
            logging_steps=max(1, recipe.steps // 20),
            disable_tqdm=True,
            use_cpu=cpu,
            bf16=not cpu,
            gradient_checkpointing=not cpu,
        )
    adapter = LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    set_seed(recipe.seed)
    with _quiet():
        trainer = DPOTrainer(
            model=weights,
            args=settings,
            train_dataset=Dataset.from_list(said),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[Steps()],
        )
        # stdout is for prbench's own results.
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]
    if not losses or not all(map(math.isfinite, losses)):
        raise InputError("the training came to numbers that are not finite", hint="take a lower --rate")
    model = trainer.model.eval()
    model.save_pretrained(str(workspace / "adapter"), safe_serialization=True)
    shutil.copyfile(workspace / "adapter" / WEIGHTS, folder / WEIGHTS)
    # The folder on this machine that the weights came from tells nobody else anything.
    config = {**read_json(workspace / "adapter" / CONFIG), "base_model_name_or_path": policy.name}
    write_json(folder / CONFIG, config)
    shutil.rmtree(workspace)
    write_json(folder / "training.json", {"recipe": asdict(recipe), "pairs": len(needed), "losses": losses})
    return model


def finish(folder: Path, content: dict[str, Any]) -> None:
    """Write a policy's record beside its adapter, with the adapter's digest."""
    write_json(folder / RECORD, sealed({**content, "adapter_sha256": file_sha256(folder / WEIGHTS)}))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and notes of trl, transformers and datasets, which would tear prbench's own display."""
    import datasets

    from prbench.encoders.base import quiet_transformers

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    root = logging.getLogger("trl")
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
