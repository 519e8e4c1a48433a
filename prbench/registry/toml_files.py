"""Reading an entry file: TOML to a checked record, and what is wrong with it in one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from prbench.base.errors import InputError, near
from prbench.base.reading import parse_toml, read_bytes

Model = TypeVar("Model", bound=BaseModel)

TOML_BYTES = 2**24
PIECES = ("options", "pieces")
PATTERNS = {"target": '"module:Name"', "loader": '"module:Name"', "colour": '"#rrggbb"'}


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file, fresh when the file has changed.

    Raises InputError with the file and the line when it is malformed, no UTF-8 or unreadable.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return deepcopy(_read(path, status.st_mtime_ns, status.st_size))


def forget() -> None:
    """Read every file anew."""
    _read.cache_clear()


@lru_cache(maxsize=1024)
def _read(path: Path, _modified: int, _size: int) -> dict[str, Any]:
    try:
        return parse_toml(read_bytes(path, most=TOML_BYTES))
    except ValueError as error:
        message = str(error)
        place = re.search(r" \(at line (\d+), column \d+\)$", message)
        line = f" line {place[1]}" if place else ""
        malformed = "malformed TOML: " if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise InputError(f"{path}{line}: {malformed}{message}") from error


def merge(parent: Mapping[str, Any], child: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """A child's table over its parent's: tables merge key by key, any other value replaces the parent's.

    A report's pieces merge by name: one that the parent has too is changed key by key in its place, others follow.
    `path` is where in the entry the two tables are.
    """
    merged = dict(parent)
    for key, value in child.items():
        old = parent.get(key)
        # A search range is one value: half a range and half a list of choices would be neither.
        if isinstance(value, dict) and isinstance(old, dict) and path != ("search",):
            merged[key] = merge(old, value, (*path, key))
        elif (*path, key) == PIECES and _are_named(old) and _are_named(value):
            named = {table["name"]: table for table in old or ()}
            for table in value:
                named[table["name"]] = merge(named.get(table["name"], {}), table, PIECES)
            merged[key] = list(named.values())
        else:
            merged[key] = value
    return merged


def _are_named(tables: Any) -> bool:
    """Whether this is a list of tables that each have a name, and no two the same."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return False
    names = [table.get("name") for table in tables]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def validate(record: type[Model], table: Mapping[str, Any], path: Path) -> Model:
    """The record in a table. Raises InputError that names `path`, each key at fault and what was expected."""
    try:
        return record.model_validate(table)
    except ValidationError as error:
        problems = [_problem(record, fault) for fault in error.errors(include_url=False, include_context=True)]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        missing = any(fault["type"] == "missing" and len(fault["loc"]) == 1 for fault in error.errors())
        alone = missing and "extends" in record.model_fields and "extends" not in table
        hint = 'add it; a variant has all but its differences from extends = "NAME"' if alone else None
        raise InputError(f"{path}: {'; '.join(problems[:3])}{more}", hint=hint) from error


def _problem(record: type[BaseModel], error: Mapping[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}{near(location[-1], _keys_at(record, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    if error["type"] == "string_pattern_mismatch" and location[-1] in PATTERNS:
        return f"{key}: expected {PATTERNS[location[-1]]}, not {error['input']!r}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}, not {error['input']!r}"


def _keys_at(record: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys a nested table may have."""
    for part in location:
        field = record.model_fields.get(str(part))
        inner = field.annotation if field else None
        candidates = [
            kind for kind in (inner, *get_args(inner)) if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not candidates:
            return []
        record = candidates[0]
    return list(record.model_fields)
