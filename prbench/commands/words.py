"""The words of a command line, made ready before they are parsed: `help`, `--registry`, options given twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prbench.base.errors import InputError
from prbench.commands.options import LIST


def ready(words: Sequence[str], program: Any) -> list[str]:
    """The words as `program`, the command tree, is to parse them.

    `help X` and `version` are the options of that name, `--registry DIR` may stand anywhere, and the values of an
    option that takes a list are joined where it is given again. Raises InputError for any other option that is given
    a second value.
    """
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    elif list(words) == ["version"]:
        words = ["--version"]
    return joined(_registry_first(words), program)


def _registry_first(words: Sequence[str]) -> list[str]:
    first: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--registry":
            folder = next(left, None)
            if folder is None:
                raise InputError("--registry needs a folder", hint="--registry DIR, with entries in DIR/methods")
            first += [word, folder]
        elif word.startswith("--registry="):
            first.append(word)
        else:
            rest.append(word)
    if "" in first or "--registry=" in first:
        raise InputError("--registry names no folder", hint="--registry DIR, with entries in DIR/methods")
    return first + rest


def joined(words: Sequence[str], program: Any) -> list[str]:
    """The words with each option given once: lists are joined by commas. Raises InputError as `ready`."""
    kept: list[str] = []
    # Where the value of an option stands in `kept`, and the name it was given under.
    places: dict[str, tuple[int, str]] = {}
    options, command = _valued(program), program
    i = 0
    while i < len(words):
        word = words[i]
        if word == "--":
            return [*kept, *words[i:]]
        name, given, value = word.partition("=")
        if name not in options:
            if commands := getattr(command, "commands", None):
                command = commands.get(word, command)
                options = options | _valued(command)
            kept.append(word)
            i += 1
            continue
        parameter = options[name]
        if not given:
            if i + 1 == len(words):
                return [*kept, word]
            value = words[i + 1]
        i += 1 if given else 2
        if parameter.name not in places or parameter.multiple:
            kept.append(f"{name}={value}") if name.startswith("--") else kept.extend([name, value])
            places.setdefault(parameter.name, (len(kept) - 1, name))
            continue
        place, first = places[parameter.name]
        if parameter.metavar != LIST:
            before = kept[place].removeprefix(f"{first}=")
            raise InputError(f"{name} is given twice: {before} and {value}", hint=f"give {name} once")
        kept[place] += f",{value}"
    return kept


def _valued(command: Any) -> dict[str, Any]:
    """The command's options that take a value, by each of their names."""
    options: dict[str, Any] = {}
    for parameter in getattr(command, "params", []):
        if parameter.param_type_name == "option" and not parameter.is_flag and not getattr(parameter, "count", False):
            options |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), parameter)
    return options
