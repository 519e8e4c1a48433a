"""Turns "module:name" of an entry into the class or function that it names, where the entry may name it.

Trust follows where a file lies. Entries of prbench, of a folder given as `--registry` and of installed packages may
name code. Everything else (an entry that `data import` wrote, a cell of results) may only repeat what those name: it
is compared with them before anything is imported. What was imported is used only if it is what its kind calls for.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

from prbench import registry
from prbench.base.errors import InputError, near
from prbench.registry import Entry, _files, finder
from prbench.registry.marks import has_mark
from prbench.registry.schema import DatasetEntry, EncoderEntry, JudgeEntry, Kind

Role = Literal["methods", "datasets", "encoders", "judges", "reports", "pieces"]

BASES: dict[str, str] = {
    "methods": "prbench.method.Method",
    "encoders": "prbench.encoders.base.Encoder",
    "judges": "prbench.judging.backend.Backend",
}
"""What a class must be derived from. By name: importing these for every listing would import torch."""


def resolve(target: str, role: Role, *, file: Path | str | None = None, needs: str = "") -> Any:
    """Import "module:attribute" and return it, if it is what `role` calls for.

    `file` is the entry file to name in an error, `needs` what pip must install for the target. Nothing is called.
    Whoever passes a target vouches for it: one from an entry goes through `load_target`, one from results through
    `load_recorded`. Raises InputError when the module, something it imports, or the attribute is missing, when a
    module that is not prbench's fails while it is imported, and when the attribute is something else than a method,
    loader, encoder, backend of a judge model, report or piece.
    """
    where = f"{file}: target {_shown(target)}" if file else f"target {_shown(target)}"
    value = _imported(target, where, needs)
    _require_role(value, role, where)
    return value


def load_target(kind: Kind, entry: Entry) -> Any:
    """What an entry's target (a data set's loader) names.

    Raises InputError as `resolve`, and when the file that names the target was written by an import and the target
    is neither prbench's own nor named by an entry that may name code.
    """
    target = target_of(entry)
    file = _files(kind).get(entry.name)
    if file is not None and not registry.may_name_code(kind, entry.name) and not _is_named(kind, target):
        raise InputError(
            f"{file}: target {_shown(target)}: an imported entry may name only what prbench, a --registry folder or "
            "an installed package names",
            hint="import the data again, or move the entry into a --registry folder if you trust it",
        )
    return resolve(target, kind, file=file, needs=entry.needs if isinstance(entry, EncoderEntry | JudgeEntry) else "")


def require_recorded(kind: Kind, name: str, target: str, where: Path | str) -> None:
    """Raise InputError unless the present entry `name` names the `target` that results name; imports nothing."""
    if name not in _files(kind):
        raise InputError(
            f"{where}: there is no {registry.NOUNS[kind]} {_shown(name)} here, so it can be reported and not loaded",
            hint="add the --registry folder that has its entry",
        )
    present = target_of(registry.get(kind, name))
    if present != target:
        present_target = f"the {registry.NOUNS[kind]} {name} here has {_shown(present)}"
        raise InputError(
            f"{where} names the target {_shown(target)}, {present_target}",
            hint="repeat the run here: code is never taken from a folder of results",
        )


def target_of(entry: Entry) -> str:
    """An entry's target; a data set's loader."""
    return entry.loader if isinstance(entry, DatasetEntry) else entry.target


def _is_named(kind: Kind, target: str) -> bool:
    """Whether a target is prbench's own or named by an entry of this kind that may name code."""
    if target.partition(":")[0].partition(".")[0] == "prbench":
        return True
    trusted = (name for name in registry.names(kind) if registry.may_name_code(kind, name))
    return any(target_of(registry.get(kind, name)) == target for name in trusted)


def _imported(target: str, where: str, needs: str) -> Any:
    import importlib

    module_name, _, attribute = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if needs:
            raise InputError(f"{where} needs {missing}", hint=f"pip install {needs!r}") from error
        if module_name == missing or module_name.startswith(f"{missing}."):
            hint = f"install the package that has it, or put {missing}.py into the folder that --registry names"
            raise InputError(f"{where}: there is no module {missing}", hint=hint) from error
        raise InputError(f"{where}: {module_name} needs the module {missing}", hint="install it") from error
    except (Exception, SystemExit) as error:
        if module_name.partition(".")[0] == "prbench":
            raise
        raise _broken(where, f"importing {module_name}", module_name, error) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise InputError(f"{where}: {module_name} has no {attribute}{near(attribute, public)}")
    return getattr(module, attribute)


def _require_role(value: Any, role: Role, where: str) -> None:
    """Raise InputError unless what was imported is what its role calls for."""
    if role == "pieces" or role == "reports":
        mark: Literal["report", "piece"] = "piece" if role == "pieces" else "report"
        if not has_mark(value, mark):
            line = f"from prbench.reporting import {mark}"
            raise InputError(
                f"{where} is not marked as a {mark}", hint=f"if it is one, write @{mark} above it ({line})"
            )
        return
    if role == "datasets":
        if not (isinstance(value, type) and callable(getattr(value, "load", None))):
            raise InputError(
                f"{where} is not a loader", hint="a loader is a class with a method load, see prbench/loaders"
            )
        return
    base = BASES[role]
    if not (isinstance(value, type) and any(f"{c.__module__}.{c.__qualname__}" == base for c in value.__mro__)):
        raise InputError(f"{where} is not a subclass of {base}")
    if inspect.isabstract(value):
        lacking = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
        raise InputError(f"{where} is an abstract class: it does not define {lacking}")


def _broken(where: str, doing: str, module: str, error: BaseException) -> InputError:
    """What went wrong in code that is not prbench's, with the file and the line."""
    place = finder.place_of(error, module)
    fault = f"{type(error).__name__}: {finder.message_of(error)}".removesuffix(": ")
    return InputError(
        f"{where}: {doing} failed: {place}{fault}", hint="correct it; `prbench check METHOD` tries a method out"
    )


def _shown(text: str) -> str:
    """A name from a file, quoted and of bounded length."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
