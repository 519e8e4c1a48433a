"""What of an encoder is on this machine, found without the network and without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from prbench.encoders import HUB_ID, HUGGING_FACE, OWN
from prbench.encoders.adapters import INSTALL, Adapter, adapter_in, has_peft
from prbench.encoders.hub_models import Snapshot, weights_here
from prbench.registry.schema import EncoderEntry

# One of these beside config.json, and texts can be counted.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")


@dataclass(frozen=True)
class Presence:
    """Whether an encoder's small files (configuration, tokenizer) and its weights are here; `lacks` in words.

    `model` is where it comes from: a model's id or folder, a package, or "" where nothing is known to be needed.
    """

    model: str
    readable: bool
    weights: bool
    lacks: str = ""


def presence(entry: EncoderEntry) -> Presence:
    """What of an entry's model is here. An encoder of another kind than prbench's own counts as here."""
    if entry.name == OWN:
        return Presence("", True, True)
    if entry.needs:
        package = entry.needs.partition("==")[0]
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            return Presence(entry.needs, False, False, f"pip install {entry.needs}")
        return Presence(entry.needs, True, True)
    if entry.target != HUGGING_FACE:
        return Presence("", True, True)
    model = str(entry.options.get("model", ""))
    copy = str(entry.options.get("copy", ""))
    folder = Path(copy or model).expanduser()
    if folder.is_dir():
        if (adapter := adapter_in(str(folder))) is not None:
            return _with_base(adapter)
        return Presence(str(folder), True, any(folder.glob("*.safetensors")))
    cached = _cached(model, str(entry.options.get("revision", "main")))
    if cached is None:
        return Presence(model, False, False, f"the model {model}")
    here = weights_here(model, Snapshot(cached, model, "")) is not None
    return Presence(model, True, here, "" if here else f"the weights of {model}")


def _with_base(adapter: Adapter) -> Presence:
    """What of an adapter's base, and of the package that reads it, is here."""
    if not has_peft():
        return Presence(str(adapter.folder), False, False, INSTALL)
    base = Path(adapter.base).expanduser()
    if base.is_dir():
        return Presence(str(adapter.folder), True, any(base.glob("*.safetensors")))
    cached = _cached(adapter.base, adapter.revision)
    if cached is None:
        return Presence(str(adapter.folder), False, False, f"the model {adapter.base}")
    here = weights_here(adapter.base, Snapshot(cached, adapter.base, "")) is not None
    return Presence(str(adapter.folder), True, here, "" if here else f"the weights of {adapter.base}")


def _cached(model: str, revision: str) -> Path | None:
    """The folder of a hub model's small files in the hub's cache, where configuration and tokenizer are there."""
    if not HUB_ID.fullmatch(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if any((folder / name).is_file() for name in TOKENIZERS) else None
