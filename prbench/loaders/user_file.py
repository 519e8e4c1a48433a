"""Comparisons from a file of one's own: JSONL, CSV or Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.comparisons import Context, as_context
from prbench.loaders.new_entry import check_name, publish
from prbench.loaders.rows import records
from prbench.loaders.table import TABLE


class Row(NamedTuple):
    """One comparison. `where` names file and line; `user`, `conversation` and `seconds` are None where not given."""

    where: str
    user: str | None
    context: Context
    chosen: str
    rejected: str
    conversation: str | None
    seconds: float | None


def import_table(path: Path, name: str) -> Path:
    """Make the comparisons in `path` a data set called `name`; returns the file of its entry.

    Raises InputError, naming the line or row, for a missing column or value, NaN, empty texts, a response that is
    both chosen and rejected, a `conversation_id` or `timestamp` that only some rows have; and for a file with no
    rows or with one user only, for an unknown file type, and for a name that is taken.
    """
    check_name(name)
    columns: dict[str, list[Any]] = {column: [] for column in Row._fields if column != "where"}
    with progress() as display:
        task = display.add_task(f"reading {path.name}", total=None)
        for number, row in enumerate(read_rows(path)):
            for column, values in columns.items():
                value = getattr(row, column)
                if values and (value is None) != (values[0] is None):
                    label = {"seconds": "timestamp", "conversation": "conversation_id"}[column]
                    here = "is missing here" if value is None else "is given here but was missing"
                    raise InputError(f"{row.where}: {label} {here}", hint="give it in every row or in none")
                values.append(_as_json(value) if column == "context" else value)
            if number % 1000 == 0:
                display.update(task, completed=number)
    if not columns["user"]:
        raise InputError(f"{path} has no rows")
    users = len(set(columns["user"]))
    if users < 2:
        raise InputError(
            f"{path} has one user only; a data set needs at least two",
            hint="for one user's own comparisons see `prbench user adapt --help`",
        )

    def write(folder: Path) -> None:
        import pandas as pd

        # The users' own ids are in it.
        (folder / TABLE).touch(mode=0o600)
        frame = pd.DataFrame({column: values for column, values in columns.items() if values[0] is not None})
        frame.to_parquet(folder / TABLE, index=False)

    n = len(columns["user"])
    items = {
        (c, r) for side in ("chosen", "rejected") for c, r in zip(columns["context"], columns[side], strict=True)
    }
    return publish(
        name,
        write,
        {
            "title": name,
            "loader": "prbench.loaders.table:ImportedTable",
            "family": name,
            "licence": "not stated",
            "homepage": "",
            "citation": "",
            "summary": f"{n:,} comparisons by {users:,} users, imported from {path.name}",
            "encoder": "minilm",
            "default": False,
            "protocol": {"name": "paper", "unit": "group"},
            "expect": {
                "users": users,
                "comparisons": n,
                "prompts": len(set(columns["context"])),
                "items": len(items),
            },
        },
    )


def read_rows(path: Path, *, needs_user: bool = True) -> Iterator[Row]:
    """The comparisons in a JSONL, CSV or Parquet file; without `needs_user`, a `user_id` is not asked for.

    Raises InputError as `import_table` does for one row's faults.
    """
    required = (*(("user_id",) if needs_user else ()), "chosen", "rejected")
    for where, record in records(path, required, ("user_id", "prompt", "conversation_id", "timestamp")):
        for column in required:
            if record.get(column) is None:
                raise InputError(f"{where}: {column} is missing")
        context, chosen, rejected = _comparison(record, where)
        user, conversation, time = (record.get(column) for column in ("user_id", "conversation_id", "timestamp"))
        yield Row(
            where,
            None if user is None else _identity(user, "user_id", where),
            context,
            chosen,
            rejected,
            None if conversation is None else _identity(conversation, "conversation_id", where),
            None if time is None else _seconds(time, where),
        )


def _comparison(record: Mapping[str, Any], where: str) -> tuple[Context, str, str]:
    """Context, chosen and rejected response of a row in TRL's preference format."""
    prompt = record.get("prompt")
    context = () if prompt is None else _messages(prompt, "prompt", where)
    sides = {column: record[column] for column in ("chosen", "rejected")}
    if all(isinstance(side, str) for side in sides.values()):
        if prompt is None:
            raise InputError(f"{where}: prompt is missing", hint="only lists of messages can do without one")
        chosen, rejected = (_text(side, column, where) for column, side in sides.items())
    else:
        for column, side in sides.items():
            if not isinstance(side, list):
                kind = type(side).__name__
                raise InputError(f"{where}: {column} is {kind}; both sides must be texts or lists of messages")
        first, second = (_messages(side, column, where) for column, side in sides.items())
        if first[:-1] != second[:-1]:
            raise InputError(
                f"{where}: chosen and rejected differ before their last message",
                hint="make one row for each reply that was chosen",
            )
        for column, side in (("chosen", first), ("rejected", second)):
            if side[-1].role != "assistant":
                raise InputError(
                    f"{where}: the last message of {column} has the role {side[-1].role!r}, not assistant"
                )
        shared = first[:-1]
        # Some files repeat the prompt at the start or the end of what the two sides share.
        repeats = shared[: len(context)] == context or shared[len(shared) - len(context) :] == context
        context = shared if shared and repeats else context + shared
        if not context:
            raise InputError(f"{where}: there is no prompt: chosen and rejected share no message before the response")
        chosen, rejected = first[-1].content, second[-1].content
    if chosen == rejected:
        raise InputError(f"{where}: chosen and rejected are the same", hint="leave the row out")
    return context, chosen, rejected


def _messages(value: Any, column: str, where: str) -> Context:
    if isinstance(value, list):
        if not value or not all(isinstance(message, Mapping) for message in value):
            raise InputError(f"{where}: {column} is not a list of messages with a role and a content")
    elif not isinstance(value, str):
        raise InputError(f"{where}: {column} is {_kind(value)}, expected a text or a list of messages")
    try:
        context = as_context(value)
    except InputError as error:
        raise InputError(f"{where}: {column}: {error.args[0]}") from error
    for message in context:
        _text(message.content, column, where)
        _text(message.role, f"a role in {column}", where)
    return context


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} is {_kind(value)}, expected a text")
    if not value.strip():
        raise InputError(f"{where}: {column} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {column} holds half a character (a lone surrogate)") from error
    return value


def _identity(value: Any, column: str, where: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return _text(value, column, where)
    raise InputError(f"{where}: {column} is {_kind(value)}, expected a text or a whole number")


def _seconds(value: Any, where: str) -> float:
    """Seconds since 1970 of an ISO 8601 text or a date-time (UTC where it names no zone); a number as it is."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value.strip())
            except ValueError:
                raise InputError(f"{where}: timestamp is neither a number nor an ISO 8601 date and time") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise InputError(f"{where}: timestamp is {_kind(value)}, expected a number or an ISO 8601 date and time")


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return f"of the type {type(value).__name__}"


def _as_json(context: Context) -> str:
    return json.dumps([message._asdict() for message in context], ensure_ascii=False)
