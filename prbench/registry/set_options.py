"""The `--set METHOD.PARAMETER=VALUE` options of a command."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from prbench.base.errors import InputError
from prbench.base.reading import parse_toml
from prbench.registry import source


class SetOption(NamedTuple):
    """One `--set METHOD.PARAMETER=VALUE`."""

    method: str
    parameter: str
    value: Any


def parse_set(text: str) -> SetOption:
    """Read `mrm.bases=4`. The value is a TOML value; a bare word is a string."""
    match = re.fullmatch(r"\s*([^.=\s]+)\.([^.=\s]+)\s*=\s*(.*?)\s*", text)
    if not match:
        raise InputError(f"--set {text}: expected METHOD.PARAMETER=VALUE", hint="for example --set mrm.bases=4")
    method, parameter, value = match.groups()
    try:
        read = parse_toml(f"value = {value}")
        if list(read) != ["value"]:
            raise InputError(f"--set {text}: one value is expected", hint="for example --set mrm.bases=4")
        return SetOption(method, parameter, read["value"])
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[A-Za-z_][\w./:+-]*", value):
            return SetOption(method, parameter, value)
        raise InputError(
            f"--set {text}: {value!r} is not a TOML value", hint="quote text that is not a word"
        ) from error
    except ValueError as error:
        raise InputError(f"--set {text}: {error}") from error


def parse_sets(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parameters by method from several `--set`. Raises InputError for an unknown method, and for one set twice."""
    overrides: dict[str, dict[str, Any]] = {}
    for text in texts:
        setting = parse_set(text)
        source("methods", setting.method)
        if setting.parameter in overrides.get(setting.method, {}):
            raise InputError(f"--set {text}: {setting.method}.{setting.parameter} is set twice", hint="leave one out")
        overrides.setdefault(setting.method, {})[setting.parameter] = setting.value
    return overrides
