"""Encoders: from texts to embeddings. Each has an entry, NAME.toml, beside this file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.base.errors import InputError
from prbench.base.files import expanded
from prbench.encoders.folder_names import folder_model, unknown_folder
from prbench.registry.schema import EncoderEntry

if TYPE_CHECKING:
    import inspect

    from prbench.encoders.base import Encoder

OWN = "own"
"""The encoder's name of data that come with embeddings."""

VARIANTS = {
    "pooling": ("last", "mean"),
    "dtype": ("bfloat16", "float16", "float32"),
    "form": ("template", "plain"),
    "system": ("apart", "folded"),
    "template_loss": ("refuse", "allow"),
}
"""Options that make other embeddings of a model: "NAME@mean", "NAME@mean-float32"."""

HUGGING_FACE = "prbench.encoders.huggingface:HuggingFace"
"""What reads a model that has no entry."""

MODEL_FILES = "config.json, tokenizer.json, tokenizer_config.json and *.safetensors"
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

    "own" stands for the embeddings that a data set comes with, "NAME@mean-float32" for the variant of an entry with
    these options, "NAME=FOLDER" for the entry NAME with a local copy of its model. The made entry's name can be a
    folder's: "organisation--model", or a folder's own name and 8 hex digits of its path. Raises InputError, with the
    nearest names, when `name` is none of these.
    """
    from prbench import registry

    if name == OWN:
        return OWN_ENTRY
    if "=" in name and not Path(name).expanduser().is_dir():
        from prbench.encoders.copies import copied

        base, _, copy = name.partition("=")
        return copied(base, Path(copy).expanduser())
    if name in registry.names("encoders"):
        return registry.get("encoders", name)
    folder = expanded(name)
    base, _, values = name.rpartition("@")
    if base and not folder.is_dir():
        return variant(encoder_entry_for(base), **_options(name, values))
    if folder.is_dir():
        folder = folder.resolve()
        entry_name, title = folder_model(folder, registry.names("encoders"))
        return _new_entry(entry_name, str(folder), title)
    if name.startswith(("/", "./", "../", "~")):
        raise InputError(f"--encoder {name} is not a folder", hint=_nearest_folder(folder))
    # A run's folder names a hub model as this function named it.
    hub_id = name if "/" in name else name.replace("--", "/", 1)
    if "/" in name and folder.parent.is_dir():
        # Its beginning is a folder here: a slip in a path, not a model of the hub.
        raise InputError(f"--encoder {name} is not a folder", hint=_nearest_folder(folder))
    if HUB_ID.fullmatch(hub_id):
        return _new_entry(hub_id.replace("/", "--"), hub_id, hub_id)
    known = registry.names("encoders")
    if registry.known_name("encoders", name) not in known:
        raise unknown_folder("--encoder", name, "encoder", known, "prbench list encoders")
    return registry.get("encoders", name)


def _declares(entry: EncoderEntry) -> bool:
    """Whether an entry's model is known to declare a pooling of its own; nothing is downloaded to find out."""
    model = str(entry.options.get("model", ""))
    folder = expanded(model)
    if folder.is_dir():
        return (folder / "modules.json").is_file()
    from huggingface_hub import try_to_load_from_cache

    return bool(HUB_ID.fullmatch(model)) and isinstance(try_to_load_from_cache(model, "modules.json"), str)


def _nearest_folder(folder: Path) -> str | None:
    """What else lies beside a folder that does not exist, for a message."""
    from prbench.base.errors import near

    beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    close = near(folder.name, beside).lstrip("; ")
    return close or f"a model's folder holds {MODEL_FILES}"


def variant(entry: EncoderEntry, **options: str) -> EncoderEntry:
    """The entry with other options of `VARIANTS`; it has another name, and a store of its own, where they differ.

    Raises InputError for an option that the encoder does not have.
    """
    parameters = _parameters(entry, options)
    changed = {}
    for key, value in options.items():
        if key == "pooling" and value == "last" and key not in entry.options and not _declares(entry):
            continue
        if entry.options.get(key, parameters[key].default) != value:
            changed[key] = value
    if not changed:
        return entry
    ordered = [changed[key] for key in VARIANTS if key in changed]
    return entry.model_copy(
        update={"name": f"{entry.name}@{'-'.join(ordered)}", "options": {**entry.options, **changed}}
    )


def with_options(entry: EncoderEntry, **options: str) -> EncoderEntry:
    """The entry with options that do not belong to its name; "auto" leaves an option as the entry has it.

    Raises InputError for an option that the encoder does not have.
    """
    given = {key: value for key, value in options.items() if value != "auto"}
    _parameters(entry, given)
    return entry.model_copy(update={"options": {**entry.options, **given}}) if given else entry


def _parameters(entry: EncoderEntry, wanted: Iterable[str]) -> Mapping[str, inspect.Parameter]:
    """The options that an entry's encoder takes. Raises InputError unless all `wanted` ones are among them."""
    import inspect

    from prbench.registry import targets

    parameters: Mapping[str, inspect.Parameter] = {}
    if entry.name != OWN:
        parameters = inspect.signature(targets.load_target("encoders", entry)).parameters
    for key in wanted:
        if key not in parameters:
            raise InputError(
                f"the encoder {entry.name} has no option {key}", hint=f"leave --{key.replace('_', '-')} out"
            )
    return parameters


def _options(name: str, values: str) -> dict[str, str]:
    """The options that the part of an encoder's name after "@" stands for."""
    options = {}
    for value in values.split("-"):
        key = next((key for key, known in VARIANTS.items() if value in known), None)
        if key is None or key in options:
            known = ", ".join(value for known in VARIANTS.values() for value in known)
            raise InputError(f"--encoder {name}: {value!r} is not a variant", hint=f"after @ come {known}")
        options[key] = value
    return options


def build_encoder(entry: EncoderEntry, *, device: str = "cpu") -> Encoder:
    """The encoder of an entry, without its weights; `device` decides what the options leave to the machine.

    Raises InputError for an option that the encoder does not have and for a model that cannot be had.
    """
    import inspect

    from prbench.base.errors import near
    from prbench.encoders.base import resolved_device
    from prbench.registry import targets

    target = targets.load_target("encoders", entry)
    known = list(inspect.signature(target).parameters)
    for key in entry.options:
        if key not in known:
            raise InputError(
                f"encoder {entry.name}: options.{key}: there is no such option{near(key, known)}",
                hint=f"it has {', '.join(known) or 'none'}",
            )
    encoder: Encoder = target(**entry.options)
    encoder.device = resolved_device(device)
    return encoder


def require_recorded(entry: EncoderEntry, where: Path | str) -> None:
    """Raise InputError unless an encoder that results name is one that this prbench would use under that name.

    A model named on the command line has no entry: what reads it is always the same class.
    """
    from prbench import registry
    from prbench.registry import targets

    name = entry.name.partition("@")[0]
    if entry.name == OWN or (name not in registry.names("encoders") and entry.target == HUGGING_FACE):
        return
    targets.require_recorded("encoders", name, entry.target, where)


def _new_entry(name: str, model: str, title: str) -> EncoderEntry:
    return EncoderEntry(
        name=name,
        title=title,
        target=HUGGING_FACE,
        licence="see the model",
        homepage="" if Path(model).is_absolute() else f"https://huggingface.co/{model}",
        summary="a Hugging Face model named on the command line",
        options={"model": model},
    )
