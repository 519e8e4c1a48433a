"""`prbench run --config run.toml`: what a command line would say, from a file; `--print-config` writes one.

A key is an option without its dashes: `methods = ["bt", "mrm"]`, `split-files = "splits"`. A file names no code and
no folder of entries: `--registry` stays on the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from prbench.base.errors import InputError, near
from prbench.base.reading import require_regular
from prbench.commands.options import LIST

NOT_IN_A_FILE = ("config", "print_config", "dry_run", "as_json", "help")


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the values of a file for options that the command line does not give.

    Raises InputError, naming the file and the key, for an unknown key and for a value of a wrong type.
    """
    if path is None or context.resilient_parsing:
        return path
    from prbench.registry import toml_files

    require_regular(path, hint="write one with `prbench run ... --print-config > run.toml`")
    options = _options(context)
    values: dict[str, Any] = {}
    for key, value in toml_files.read(path).items():
        if key not in options:
            raise InputError(
                f"{path}: {key}: run has no such option{near(key, list(options))}", hint="see `prbench run --help`"
            )
        values[options[key].name] = _value(options[key], value, f"{path}: {key}")
    context.default_map = {**(context.default_map or {}), **values}
    return path


def config_of(context: typer.Context) -> str:
    """The options of a command line as a file for `--config`, defaults included."""
    lines = []
    for key, option in _options(context).items():
        value = _plain(context.params.get(option.name))
        if value in (None, [], False):
            continue
        if option.metavar == LIST:
            value = [part.strip() for part in value.split(",") if part.strip()]
        # JSON's strings, numbers, truth values and lists are TOML's.
        lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines)


def _options(context: typer.Context) -> dict[str, Any]:
    """The command's options by their long name without dashes."""
    options: dict[str, Any] = {}
    for option in context.command.params:
        if option.name not in NOT_IN_A_FILE and (long := [name for name in option.opts if name.startswith("--")]):
            options[long[0].removeprefix("--")] = option
    return options


def _value(option: Any, value: Any, where: str) -> Any:
    """A file's value in the form that the command line gives it."""
    if option.metavar == LIST:
        parts = value if isinstance(value, list) else [value]
        if not parts or not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
            raise InputError(f"{where}: expected a list of names", hint='as in ["bt", "mrm"]')
        return ",".join(map(str, parts))
    if option.multiple:
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise InputError(f"{where}: expected a list of texts", hint='as in ["mrm.epochs=10"]')
        return value
    wanted: tuple[type, ...] = (str,)
    if option.is_flag:
        wanted = (bool,)
    elif option.type_descriptor.annotation is int:
        wanted = (int,)
    if (
        isinstance(value, Mapping | list)
        or not isinstance(value, wanted)
        or isinstance(value, bool) != option.is_flag
    ):
        words = {str: "a text", bool: "true or false", int: "a whole number"}
        raise InputError(f"{where}: expected {words[wanted[0]]}, found {json.dumps(value, default=str)[:60]}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
