"""Encoders: from texts to embeddings. Each has an entry, NAME.toml, beside this file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.entries import EncoderEntry
from prbench.errors import InputError

if TYPE_CHECKING:
    from prbench.encoders.base import Encoder

OWN = "own"
"""The encoder's name of data that come with embeddings."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


OWN_ENTRY = EncoderEntry(
    name=OWN,
    title="the data set's own embeddings",
    target="prbench.encoders:OWN",
    licence="that of the data set",
    homepage="",
    summary="embeddings that came with the data set",
)


def encoder_entry_for(name: str) -> EncoderEntry:
    """The entry called `name`, or one made for a folder or a Hugging Face id ("organisation/model").

    "own" stands for the embeddings that a data set comes with. The made entry's name can be a folder's:
    "organisation--model", or a folder's own name and 8 hex digits of its path. Raises InputError, with the
    nearest names, when `name` is none of these.
    """
    from prbench import registry

    if name == OWN:
        return OWN_ENTRY
    if name in registry.names("encoders"):
        return registry.get("encoders", name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        safe = re.sub(r"[^\w.-]+", "-", folder.name).strip("-.") or "model"
        return _made(f"{safe}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}", str(folder), folder.name)
    if name.startswith(("/", "./", "../", "~")):
        raise InputError(f"--encoder {name}: there is no such folder")
    # A run's folder names a hub model as this function named it.
    hub_id = name if "/" in name else name.replace("--", "/", 1)
    if HUB_ID.fullmatch(hub_id):
        return _made(hub_id.replace("/", "--"), hub_id, hub_id)
    return registry.get("encoders", name)


def build_encoder(entry: EncoderEntry, *, device: str = "cpu") -> Encoder:
    """The encoder of an entry, without its weights; `device` decides what the options leave to the machine.

    Raises InputError for an option that the encoder does not have and for a model that cannot be had.
    """
    import inspect

    from prbench import registry
    from prbench.encoders.base import Encoder, resolved_device
    from prbench.entryfiles import near

    target = registry.load_target("encoders", entry)
    if not (isinstance(target, type) and issubclass(target, Encoder)):
        raise InputError(f"encoder {entry.name}: target {entry.target!r} is no prbench.encoders.base.Encoder")
    known = list(inspect.signature(target).parameters)
    for key in entry.options:
        if key not in known:
            raise InputError(
                f"encoder {entry.name}: options.{key}: there is no such option{near(key, known)}",
                hint=f"it has {', '.join(known) or 'none'}",
            )
    encoder = target(**entry.options)
    encoder.device = resolved_device(device)
    return encoder


def _made(name: str, model: str, title: str) -> EncoderEntry:
    return EncoderEntry(
        name=name,
        title=title,
        target="prbench.encoders.huggingface:HuggingFace",
        licence="see the model",
        homepage="" if Path(model).is_absolute() else f"https://huggingface.co/{model}",
        summary="a Hugging Face model named on the command line",
        options={"model": model},
    )
