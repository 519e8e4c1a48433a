"""Checking the values of an entry, or of `--set`, against the constructor or function that takes them."""

from __future__ import annotations

import collections.abc
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_type_hints

from prbench.base.errors import InputError, near


def argument_types(target: Callable[..., Any]) -> dict[str, Any]:
    """The types of a callable's arguments; those that exist only for type checkers cannot be checked."""
    function: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:
        # One name that exists only for type checkers spoils all hints at once.
        hints = _each(function)
    return {key: hint for key, hint in hints.items() if key != "return"}


def _each(function: Any) -> dict[str, Any]:
    """Type hints one by one, without those of unknown names."""
    module = sys.modules.get(getattr(function, "__module__", ""))
    # Often imported for type checkers alone, and what an entry can give.
    names = {
        **vars(collections.abc),
        "Any": Any,
        "Literal": Literal,
        "Path": Path,
        **(vars(module) if module else {}),
    }
    hints: dict[str, Any] = {}
    for key, hint in getattr(function, "__annotations__", {}).items():
        try:
            hints |= get_type_hints(SimpleNamespace(__annotations__={key: hint}), names, include_extras=True)
        except Exception:
            continue
    return hints


def finite(value: Any) -> bool:
    """Whether no number in `value` is NaN or infinite: results say what made them, in JSON, which has neither."""
    if isinstance(value, Mapping):
        return all(finite(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(finite(part) for part in value)
    return not isinstance(value, float) or math.isfinite(value)


def checked(value: Any, annotation: Any, shown: str) -> Any:
    """`value` as the annotated type, where pydantic knows the type. Raises InputError when it is none."""
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
    from pydantic_core import to_json

    try:
        adapter = TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return value
    try:
        # JSON's rules let a list stand for a tuple and 1 for 1.0, but neither 1.5 for an int nor "4" for 4.
        return adapter.validate_json(to_json(value, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        message = str(error.errors(include_url=False)[0]["msg"])
        raise InputError(f"{shown}: {message[:1].lower()}{message[1:]}, not {value!r}") from error


def options(make: Any, given: Mapping[str, Any], *, positional: int, where: str) -> dict[str, Any]:
    """The keyword arguments of a function, which takes `positional` other ones first, from an entry's [options].

    Raises InputError that names `where` for what cannot be called so, and for an option that is unknown, missing or
    of the wrong type.
    """
    try:
        parameters = list(inspect.signature(make).parameters.values())
        inspect.signature(make).bind_partial(*[None] * positional)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: target: {getattr(make, '__name__', make)!r} cannot be called with {positional} arguments",
            hint="its target is a function (results, out, *, options) that returns the files that it wrote",
        ) from error
    named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)][positional:]
    known = {p.name: p for p in named}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    types = argument_types(make)
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known and not anything:
            hint = f"it has {', '.join(known) or 'none'}"
            raise InputError(f"{where}: options.{key}: there is no such option{near(key, list(known))}", hint=hint)
        if not finite(value):
            raise InputError(f"{where}: options.{key}: {value} is not a finite number")
        if key in known and known[key].annotation is not inspect.Parameter.empty and key not in types:
            raise InputError(
                f"{where}: options.{key}: an entry cannot give a {known[key].annotation}", hint="leave it out"
            )
        arguments[key] = (
            checked(value, types[key], f"{where}: options.{key}") if key in types and key in known else value
        )
    if missing := [name for name, p in known.items() if p.default is p.empty and name not in given]:
        raise InputError(f"{where}: options: a value is needed for {', '.join(missing)}")
    return arguments
