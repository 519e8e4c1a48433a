"""A row's prompt and its two sides as chat messages: in the shapes that exports have, containers as text included."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from prbench.base.errors import InputError
from prbench.base.texts import canonical_text
from prbench.comparisons import Context, as_context
from prbench.loaders.reading import from_json

ASSISTANTS = ("assistant", "gpt", "bot", "model", "ai", "chatbot")
LIKE_MESSAGES = re.compile(r"\s*\[?\s*\[?\s*\{\s*(['\"])(role|content|from|value|type)\1\s*:")
LONGEST_CONTAINER = 2**24
SHORT_PROMPT = 12
"""Characters of a prompt below which replies begin with it by chance."""


class Comparison(NamedTuple):
    """Context, chosen and rejected response; `repeats_prompt` where both responses begin with the prompt's text."""

    context: Context
    chosen: str
    rejected: str
    repeats_prompt: bool


def comparison(record: Mapping[str, Any], where: str, *, allow_empty: bool = False) -> Comparison:
    """The comparison of a row in TRL's preference format.

    Raises InputError, beginning with `where`, for a missing prompt, for texts and messages that are not well formed,
    for sides that differ before their last message, for empty texts (of the responses unless `allow_empty`) and for
    two equal responses.
    """
    prompt = messages_in_text(record.get("prompt"), "prompt", where)
    context = () if prompt is None else messages(prompt, "prompt", where)
    sides = {side: messages_in_text(record.get(side), side, where) for side in ("chosen", "rejected")}
    for column, side in sides.items():
        if side is None:
            raise InputError(f"{where}: {column} is missing")
    if all(isinstance(side, str) for side in sides.values()):
        if prompt is None:
            raise InputError(f"{where}: prompt is missing", hint="only lists of messages can do without one")
        chosen, rejected = (text(side, column, where, allow_empty) for column, side in sides.items())
    else:
        for column, side in sides.items():
            if not isinstance(side, list):
                kind = type(side).__name__
                raise InputError(f"{where}: {column} is {kind}; both sides must be texts or lists of messages")
        first, second = (messages(side, column, where, allow_empty) for column, side in sides.items())
        if not _equal(first[:-1], second[:-1]):
            raise InputError(
                f"{where}: chosen and rejected differ before their last message",
                hint="make one row for each reply that was chosen",
            )
        for column, side in (("chosen", first), ("rejected", second)):
            if side[-1].role not in ASSISTANTS:
                raise InputError(
                    f"{where}: the last message of {column} has the role {side[-1].role[:40]!r}, not assistant"
                )
        shared = first[:-1]
        # Some files repeat the prompt at the start or the end of what the two sides share.
        repeats = _equal(shared[: len(context)], context) or _equal(shared[len(shared) - len(context) :], context)
        context = shared if shared and repeats else context + shared
        if not context:
            raise InputError(f"{where}: there is no prompt: chosen and rejected share no message before the response")
        chosen, rejected = first[-1].content, second[-1].content
    if chosen == rejected:
        raise InputError(f"{where}: chosen and rejected are the same", hint="leave the row out")
    prompt_text = context[-1].content
    repeats_prompt = all(after_prompt(side, prompt_text) is not None for side in (chosen, rejected))
    return Comparison(context, chosen, rejected, repeats_prompt)


def after_prompt(response: str, prompt: str) -> str | None:
    """What follows where `response` begins with `prompt` up to white space; None where it does not."""
    words = prompt.split()
    start = response.lstrip()
    if not words or not start.startswith(words[0]):
        return None
    prefix = re.match(r"\s+".join(map(re.escape, words)), start)
    return start[prefix.end() :].lstrip() if prefix else None


def long_enough(prompt: str) -> bool:
    """Whether two responses hardly begin with this prompt by chance."""
    return len(canonical_text(prompt)) >= SHORT_PROMPT


def messages_in_text(value: Any, column: str, where: str) -> Any:
    """`value`, or the list of messages that it spells as JSON or as Python's repr; other texts stay texts.

    Raises InputError where a text begins as a list of messages and is neither.
    """
    if not isinstance(value, str) or not LIKE_MESSAGES.match(value[:200]):
        return value
    if len(value) > LONGEST_CONTAINER:
        raise InputError(f"{where}: {column} is a list of messages as text, of {len(value):,} characters")
    try:
        parsed = from_json(value)
    except (ValueError, RecursionError):
        try:
            parsed = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            parsed = None
    parsed = [parsed] if isinstance(parsed, dict) else parsed
    if isinstance(parsed, list) and parsed and all(isinstance(message, dict) for message in parsed):
        # The literal may hold what JSON does not: bytes, sets, numbers as keys.
        try:
            json.dumps(parsed)
        except (TypeError, ValueError, RecursionError):
            parsed = None
        if parsed and all({"role", "content"} <= m.keys() or {"from", "value"} <= m.keys() for m in parsed):
            return parsed
        if parsed and all(m.get("type") == "text" and isinstance(m.get("text"), str) for m in parsed):
            return _parts(parsed, column, where)
    raise InputError(
        f"{where}: {column} looks like a list of messages written as text, and is neither JSON nor a Python literal",
        hint="write the lists as JSON (json.dumps), or leave the row out",
    )


def messages(value: Any, column: str, where: str, allow_empty: bool = False) -> Context:
    """Messages of a text or of a list of messages; the last may be empty where `allow_empty`."""
    if isinstance(value, list):
        if not value or not all(isinstance(message, Mapping) for message in value):
            raise InputError(f"{where}: {column} is not a list of messages with a role and a content")
        value = [_message(message, column, where) for message in value]
    elif not isinstance(value, str):
        raise InputError(f"{where}: {column} is {kind(value)}, expected a text or a list of messages")
    try:
        context = as_context(value)
    except InputError as error:
        raise InputError(f"{where}: {column}: {error.args[0]}") from error
    for place, message in enumerate(context, start=1):
        text(message.content, column, where, allow_empty and place == len(context))
        text(message.role, f"a role in {column}", where)
    return context


def _message(message: Mapping[str, Any], column: str, where: str) -> Mapping[str, Any]:
    """A message with `role` and `content`, also of ShareGPT's `from` and `value`, and of a list of text parts."""
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if isinstance(content, list):
        content = _parts(content, column, where)
    return {"role": role, "content": content}


def _parts(parts: list[Any], column: str, where: str) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            named = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise InputError(
                f"{where}: {column} has a part that is not text: {str(named)[:40]!r}", hint="leave the row out"
            )
    return "\n".join(texts)


def text(value: Any, column: str, where: str, allow_empty: bool = False) -> str:
    """`value`, which has to be a text that can be written; InputError beginning with `where` otherwise."""
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} is {kind(value)}, expected a text")
    if not value.strip() and not allow_empty:
        hint = "an empty reply of a model is data: `--empty keep` keeps such rows, `--empty drop` drops them"
        raise InputError(f"{where}: {column} is empty", hint=hint if column in ("chosen", "rejected") else None)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {column} holds half a character (a lone surrogate)") from error
    return value


def kind(value: Any) -> str:
    """A value's kind for a message."""
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return f"of the type {type(value).__name__}"


def _equal(a: Context, b: Context) -> bool:
    """Whether messages have the same roles and, but for white space and Unicode forms, the same contents."""
    return a == b or (
        len(a) == len(b)
        and all(
            x.role == y.role and canonical_text(x.content) == canonical_text(y.content)
            for x, y in zip(a, b, strict=True)
        )
    )
