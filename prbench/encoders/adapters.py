"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) as peft saves them: what a folder says, and merging into the base.

An adapter names its base model and holds the changes to it alone. `adapter_config.json` is read as data: what would
make peft import modules is refused, and pickled weights are never read.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.base.files import digest, expanded, file_sha256
from prbench.base.reading import read_json
from prbench.encoders import HUB_ID
from prbench.encoders.base import ModelUnavailableError
from prbench.encoders.hub_models import Snapshot, digests, snapshot

INSTALL = "pip install 'peft>=0.18'"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
# What peft's names of tensors begin with.
PREFIX = "base_model.model."
HEAD = re.compile(r"\.(score|classifier|classifier\.out_proj)\.(modules_to_save\.)?weight$")
BASE = f"place the base's files in a folder and name it in {CONFIG}, as base_model_name_or_path"
MERGE = "merge it with peft (merge_and_unload), save the whole model and its tokenizer, and name that folder"


@dataclass(frozen=True)
class Adapter:
    """The LoRA adapter in `folder`, made for the model `base` (a folder, or an id of the hub at `revision`).

    `rewards` says that it was trained to give rewards; `labels` are then the outputs of the reward head that it
    brings, 0 where the base has the head.
    """

    folder: Path
    base: str
    revision: str
    rewards: bool
    labels: int

    @property
    def description(self) -> str:
        """What the folder is, for messages."""
        return f"{self.folder} is a LoRA adapter of the model {self.base}"

    @property
    def brings_tokenizer(self) -> bool:
        """Whether its folder holds a tokenizer, which then stands in for that of the base."""
        return any((self.folder / name).is_file() for name in TOKENIZERS)


def adapter_in(model: str) -> Adapter | None:
    """The adapter in the folder `model`, None where that is not a folder of one.

    Raises InputError for another kind of adapter than LoRA, for one without safetensors weights, for a folder that
    holds a whole model too, and for one that does not say what its base is.
    """
    folder = expanded(model)
    if not (folder / CONFIG).is_file():
        return None
    folder = folder.resolve()
    if any(folder.glob("model*.safetensors")):
        raise InputError(
            f"{folder} holds a model and an adapter ({CONFIG}), so that it is not clear which one is meant",
            hint="put the adapter's files into a folder of their own",
        )
    return read_adapter(folder)


def read_adapter(folder: Path) -> Adapter:
    """What `CONFIG` and `WEIGHTS` of a folder say. Raises InputError as `adapter_in` does."""
    try:
        settings = read_json(folder / CONFIG, infinite=True)
        kind, base, revision = (
            settings.get("peft_type"),
            settings.get("base_model_name_or_path"),
            settings.get("revision"),
        )
    except (InputError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read as the configuration of an adapter: {error}") from error
    if kind != "LORA":
        raise InputError(f"{folder} is an adapter of kind {kind}; LoRA adapters are read", hint=MERGE)
    if settings.get("megatron_config"):
        # peft imports the module that this names.
        raise InputError(f"{folder / CONFIG}: megatron_config is not read", hint=MERGE)
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{folder / CONFIG} does not name a base model", hint="write it there: base_model_name_or_path"
        )
    weights_sha256(folder)
    rewards = settings.get("task_type") == "SEQ_CLS"
    return Adapter(folder, base, str(revision or "main"), rewards, _labels(folder) if rewards else 0)


def weights_sha256(folder: Path) -> str:
    """The sha256 of an adapter's weights. Raises InputError where there are none, and for pickled ones."""
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InputError(f"{folder} holds no {WEIGHTS}", hint="save a LoRA adapter with peft, as safetensors")
    return file_sha256(weights)


def has_peft() -> bool:
    """Whether the package that reads adapters is installed."""
    return importlib.util.find_spec("peft") is not None


def require_peft(adapter: Adapter) -> None:
    """Raise ModelUnavailableError unless peft is installed."""
    if not has_peft():
        raise ModelUnavailableError(
            f"{adapter.description}: reading it needs the package peft", hint=f"{INSTALL}; or {MERGE}"
        )


def base_of(adapter: Adapter) -> Snapshot:
    """The small files of an adapter's base. Raises ModelUnavailableError where these, or peft, cannot be had."""
    require_peft(adapter)
    try:
        if expanded(adapter.base).is_dir() or HUB_ID.fullmatch(adapter.base):
            return snapshot(adapter.base, adapter.revision)
    except ModelUnavailableError as error:
        raise ModelUnavailableError(
            f"{adapter.description}, which cannot be had: {error.args[0]}", hint=BASE
        ) from error
    raise ModelUnavailableError(f"{adapter.description}, which is not here", hint=BASE)


def revision_of(adapter: Adapter, base: Snapshot) -> str:
    """What pins the files of an adapter and of its base."""
    return digest([base.revision, digests(adapter.folder)])


def adapted_config(adapter: Adapter, config: Any) -> Any:
    """The base's configuration, with the reward head that the adapter brings.

    Raises InputError for an adapter that was trained to give rewards where neither has a head for them.
    """
    if not adapter.rewards:
        return config
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    kind = mapping.get(type(config), None)
    if adapter.labels and kind is not None:
        config.num_labels = adapter.labels
        config.architectures = [kind.__name__]
    elif not (config.architectures or [""])[0].endswith("ForSequenceClassification"):
        raise InputError(
            f"{adapter.description} for rewards, but neither of them has a reward head",
            hint="save the head too (peft: modules_to_save), or task_type null reads the states alone",
        )
    return config


def merged(model: Any, adapter: Adapter, name: str) -> Any:
    """`model`, a model of transformers on the CPU, with the adapter's changes added to its weights.

    An adapter made for the model with a head is fitted to the model without it too. Raises InputError for an adapter
    that does not fit, in whole or in part: peft itself leaves what has no place at random or zero.
    """
    require_peft(adapter)
    import peft
    from safetensors import SafetensorError, safe_open
    from torch import nn

    try:
        with safe_open(adapter.folder / WEIGHTS, framework="pt") as file:
            # A language model's head takes no part in the states.
            there = {key for key in file.keys() if not key.startswith(f"{PREFIX}lm_head.")}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{adapter.folder / WEIGHTS} cannot be read: {error}") from error
    inside = str(getattr(model, "base_model_prefix", ""))
    whole = bool(inside) and not hasattr(model, inside) and all(key.startswith(f"{PREFIX}{inside}.") for key in there)
    holder = nn.Module()
    if whole:
        setattr(holder, inside, model)
    try:
        settings = peft.LoraConfig.from_pretrained(str(adapter.folder))
        # The classes of tasks ask for methods that the bare model does not have, and change nothing of the weights.
        settings.task_type = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = peft.PeftModel.from_pretrained(
                holder if whole else model, str(adapter.folder), config=settings, torch_device="cpu"
            )
        wanted = set(peft.get_peft_model_state_dict(tuned, save_embedding_layers=False))
        lacking = sorted(key for key in wanted - there if not key.startswith(f"{PREFIX}lm_head."))
        odd = sorted(there - wanted - set(tuned.state_dict()))
        if lacking or odd:
            what = f"lacks {lacking[0]}" if lacking else f"has {odd[0]}, which has no place there"
            raise InputError(f"{name}: the LoRA adapter does not fit its base {adapter.base}: it {what}")
        result: Any = tuned.merge_and_unload()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"{name}: the LoRA adapter does not fit its base {adapter.base}: {' '.join(lines[:2])}", hint=MERGE
        ) from error
    return getattr(result, inside) if whole else result


def _labels(folder: Path) -> int:
    """The outputs of the reward head among an adapter's tensors, 0 where there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys() if HEAD.search(key)]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    return min((int(shape[0]) for shape in shapes if len(shape) == 2), default=0)
