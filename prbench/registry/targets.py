"""Turns "module:name" of an entry into the class or function that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.registry import Entry, _files, finder
from prbench.registry.schema import DatasetEntry, EncoderEntry, Kind
from prbench.registry.toml_files import near


def resolve(target: str, *, file: Path | None = None, needs: str = "") -> Any:
    """Import "module:attribute" and return it.

    `file` is the entry file to name in an error, `needs` what pip must install for the target. Raises
    InputError when the module, something it imports, or the attribute is missing, and when a module that is not
    prbench's fails while it is imported.
    """
    import importlib

    module_name, _, attribute = target.partition(":")
    where = f"{file}: target {target!r}" if file else f"target {target!r}"
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


def _broken(where: str, doing: str, module: str, error: BaseException) -> InputError:
    """What went wrong in code that is not prbench's, with the file and the line."""
    place = finder.place_of(error, module)
    said = f"{type(error).__name__}: {finder.message_of(error)}".removesuffix(": ")
    return InputError(
        f"{where}: {doing} failed: {place}{said}", hint="correct it; `prbench check METHOD` tries a method out"
    )


def load_target(kind: Kind, entry: Entry) -> Any:
    """What an entry's target (a data set's loader) names."""
    target = entry.loader if isinstance(entry, DatasetEntry) else entry.target
    needs = entry.needs if isinstance(entry, EncoderEntry) else ""
    return resolve(target, file=_files(kind).get(entry.name), needs=needs)
