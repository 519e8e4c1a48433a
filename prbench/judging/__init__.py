"""Judge models: what answers questions about texts. Each has an entry, NAME.toml, beside this file."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.base.errors import InputError
from prbench.encoders.folder_names import folder_model, unknown_folder
from prbench.registry.schema import EncoderEntry, JudgeEntry

if TYPE_CHECKING:
    from prbench.judging.backend import Backend
    from prbench.judging.reader import Budget, Reader

LOCAL = "prbench.judging.local:LocalModel"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def judge_entry_for(name: str, *, option: str = "--judge") -> JudgeEntry:
    """The entry called `name`, or one made for a model's folder or Hugging Face id; `option` is where it was said.

    Raises InputError, with the nearest names, when `name` is none of these.
    """
    from prbench import registry

    if registry.known_name("judges", name) in registry.names("judges"):
        return registry.get("judges", name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        made, title = folder_model(folder, registry.names("judges"))
        return _made(made, str(folder), title)
    if name.startswith(("/", "./", "../", "~")):
        raise InputError(
            f"{option} {name} is not a folder", hint="name a model's folder, or see `prbench list judges`"
        )
    hub_id = name if "/" in name else name.replace("--", "/", 1)
    if HUB_ID.fullmatch(hub_id):
        return _made(hub_id.replace("/", "--"), hub_id, hub_id)
    raise unknown_folder(option, name, "judge model", registry.names("judges"), "prbench list judges")


def build_backend(entry: JudgeEntry, *, device: str = "cpu") -> Backend:
    """The backend of an entry, without weights and before any call.

    Raises InputError for an option that it does not have or cannot take, and for a model that cannot be had.
    """
    from prbench.base.errors import near
    from prbench.registry import targets
    from prbench.registry.arguments import argument_types, checked

    target = targets.load_target("judges", entry)
    signature = inspect.signature(target).parameters
    # A backend that reads files others stored is told of its entry.
    known = [key for key in signature if key != "entry"]
    types = argument_types(target)
    options = {}
    for key, value in entry.options.items():
        where = f"judge model {entry.name}: options.{key}"
        if key not in known:
            raise InputError(
                f"{where}: there is no such option{near(key, known)}", hint=f"it has {', '.join(known) or 'none'}"
            )
        options[key] = checked(value, types[key], where) if key in types else value
    if lacking := [k for k in known if signature[k].default is inspect.Parameter.empty and k not in options]:
        raise InputError(f"judge model {entry.name}: options: a value is needed for {', '.join(lacking)}")
    made: Backend = target(**options, **({"entry": entry} if "entry" in signature else {}))
    made.device = device
    return made


def open_reader(entry: JudgeEntry, *, device: str = "cpu", budget: Budget | None = None) -> Reader:
    """A judge model ready to be asked; no call is made yet. Raises InputError as `build_backend`."""
    from prbench.judging.reader import Reader

    return Reader(entry, build_backend(entry, device=device), budget=budget)


def recorded_entry(entry: EncoderEntry | JudgeEntry, where: Path | str) -> JudgeEntry:
    """The judge model's entry as results recorded it, if this prbench would use the same under that name.

    A model named on the command line has no entry: what reads it is always the same class. Raises InputError where
    the entry here names other code, or is gone.
    """
    from prbench import registry
    from prbench.registry import targets

    if not isinstance(entry, JudgeEntry):
        raise InputError(f"{where} names the encoder {entry.name}, not a judge model", hint="repeat the run here")
    if entry.name in registry.names("judges") or entry.target != LOCAL:
        targets.require_recorded("judges", entry.name, entry.target, where)
    return entry


def _made(name: str, model: str, title: str) -> JudgeEntry:
    return JudgeEntry(
        name=name,
        title=title,
        target=LOCAL,
        licence="see the model",
        homepage="" if Path(model).is_absolute() else f"https://huggingface.co/{model}",
        summary="a Hugging Face model named on the command line",
        options={"model": model},
    )
