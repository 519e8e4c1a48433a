"""Models of transformers: their configuration, kind, attention and weights. Code that a model brings is never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prbench.base.errors import InputError
from prbench.encoders.adapters import HEAD, Adapter, adapted_config, merged
from prbench.encoders.base import quiet_transformers
from prbench.encoders.chat import unreadable
from prbench.encoders.engines import Model
from prbench.encoders.reward_head import reward_labels, reward_layer

POSITIONS_AFTER_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Model types whose first token's position is the one after the padding token's."""
FLASH_CAPABILITY = (8, 0)


def usable_positions(config: Any) -> int:
    """How many tokens a model of this configuration reads, 0 where it states no limit.

    RoBERTa and its kin count positions from the one after the padding token's, so that fewer are usable than stated.
    """
    stated = int(getattr(config, "max_position_embeddings", 0) or 0)
    if config.model_type in POSITIONS_AFTER_PADDING and stated:
        padding = getattr(config, "pad_token_id", None)
        return stated - (1 if padding is None else int(padding)) - 1
    return stated


def has_flash_attention(device: str) -> bool:
    """Whether the package flash-attn and a device that it supports are here."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return (
        device.startswith("cuda")
        and is_flash_attn_2_available()
        and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
    )


def read_config(name: str, folder: Path) -> Any:
    """The configuration in a folder. Raises InputError where it is unreadable."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(name, "configuration", error) from error


def has_reward(name: str, config: Any, label: int | None) -> bool:
    """Whether a model has a reward head. Raises InputError for a model of neither kind."""
    architecture = (getattr(config, "architectures", None) or ["Model"])[0]
    if architecture.endswith("ForSequenceClassification"):
        reward_labels(name, config, label)
        return True
    if architecture.endswith(("ForCausalLM", "ForMaskedLM", "Model")) and not architecture.endswith("RewardModel"):
        return False
    raise InputError(
        f"{name} is a {architecture}; prbench reads sequence-classification and causal models of transformers",
        hint="another kind needs a class of your own and an entry in DIR/encoders, given as --registry DIR",
    )


def takes_sdpa(config: Any, reward: bool) -> bool:
    """Whether transformers' class of this model takes torch's own attention; a few old ones do not."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if reward else MODEL_MAPPING
    return bool(getattr(mapping.get(type(config), None), "_supports_sdpa", True))


def reads_last_token(config: Any) -> bool:
    """Whether transformers' class for rewards of this model puts a linear layer `score` on the last token."""
    import inspect

    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    from transformers.modeling_layers import GenericForSequenceClassification

    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    kind: Any = mapping.get(type(config), None)
    if kind is None or issubclass(kind, GenericForSequenceClassification):
        return True
    return "self.score =" in inspect.getsource(kind.__init__)


def require_attention(name: str, attention: str, device: str) -> None:
    """Raise InputError for flash_attention_2 where it cannot run."""
    if attention != "flash_attention_2":
        return
    from transformers.utils.import_utils import is_flash_attn_2_available

    if not device.startswith("cuda") or not is_flash_attn_2_available():
        raise InputError(
            f"{name}: attention flash_attention_2 needs a CUDA device and the package flash-attn",
            hint="use --attention sdpa; embeddings made with the other attention stay in a store of their own",
        )


def load_model(
    name: str,
    folder: Path,
    reward: bool,
    dtype: torch.dtype,
    attention: str,
    device: str,
    label: int | None,
    adapter: Adapter | None = None,
) -> Model:
    """The model of a folder on a device, with its reward head where `reward`, and `adapter` merged in.

    Raises InputError where it cannot be had.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if reward else AutoModel
    try:
        with quiet_transformers():
            model, report = kind.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
                **({} if adapter is None else {"config": adapted_config(adapter, read_config(name, folder))}),
            )
            if adapter is not None:
                model = merged(model, adapter, name)
        model = model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise InputError(f"{name} does not fit into the memory of {device}", hint="try --device cpu") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise unreadable(name, "weights", error) from error
    # transformers fills missing weights with random numbers.
    # A pooler is not part of the states; sentence encoders and masked language models often come without its weights.
    brought = adapter is not None and adapter.labels > 0
    missing = sorted(
        key
        for key in report["missing_keys"]
        if (reward or not key.startswith("pooler.")) and not (brought and HEAD.search(f".{key}"))
    )
    if missing:
        raise InputError(
            f"the weights of {name} lack {missing[0]}" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
        )
    if not reward:
        return Model(model, None, device, attention)
    base, head = reward_layer(name, model, label)
    return Model(base, head, device, attention)
