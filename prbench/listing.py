"""Entries and other records as rows, tables and JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from prbench import registry
from prbench.entries import DatasetEntry, EncoderEntry, Kind, MethodEntry
from prbench.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table


# A table with more keys than this is counted instead of shown.
LONG = 24
# Parameters are counted for embeddings of an 8B model and these numbers of users.
DIM = 4096
USERS = (10, 100, 1_000, 10_000)


def rows(kind: Kind) -> list[dict[str, Any]]:
    """All entries of a kind, each with what a listing shows of it."""
    return [_row(entry) for entry in registry.all(kind)]


def full(name: str, kind: Kind | None = None) -> dict[str, Any]:
    """An entry with everything it inherits: kind, file and all of its keys.

    A method also has all of its hyper-parameters and its parameter counts, for which it is imported; where that
    fails, `broken` says why. Raises InputError for an unknown name, and for one that two kinds share when `kind`
    does not say which.
    """
    found = registry.kind_of(name, kind)
    entry = registry.get(found, name)
    record: dict[str, Any] = {"kind": found, "file": str(registry.source(found, name))}
    record |= entry.model_dump(mode="json", exclude_none=True)
    if isinstance(entry, MethodEntry):
        if unused := registry.unused_tables(entry):
            record["unused"] = [f"params.{table}: no data set or family of that name is known" for table in unused]
        try:
            record |= _made(entry)
        except InputError as error:
            record["broken"] = str(error)
    return record


def _made(entry: MethodEntry) -> dict[str, Any]:
    """What only the method itself knows: its hyper-parameters with their defaults, and its parameter counts.

    The hyper-parameters are those without any data set's own values. Each says whether the entry (or one that it
    extends) sets it or the constructor's default holds. Of the counts `shared` is what is trained for all users,
    `per_user` what is stored of one, and `total_by_users` all stored numbers. Where a user's come out of a forward
    pass and are not fitted, `trained_by_users` are the numbers without them. A method whose count depends on the data
    has none.
    """
    method = registry.make_method(entry, None, {})
    values = {
        name: {"value": value, "from": "entry" if name in entry.params else "default"}
        for name, value in method.hyper_parameters.items()
    }
    count = method.parameters_for(DIM)
    if count is None:
        return {"hyper_parameters": values, "parameter_count": "depends on the data"}
    totals = {str(users): count.total(users) for users in USERS}
    counts: dict[str, Any] = {
        "dim": DIM,
        "shared": count.shared,
        "per_user": count.per_user,
        "total_by_users": totals,
    }
    if method.encodes_users:
        counts["trained_by_users"] = dict.fromkeys(totals, count.shared)
    return {"hyper_parameters": values, "parameter_count": counts}


def brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a listing's row fits on a screen."""
    shown = {key: row[key] for key in ("name", "title", "family", "encoder", "needs") if row.get(key)}
    # Said of the few that must be asked for by name.
    asked_for = {"in_all": "no"} if row.get("default") is False else {}
    return shown | asked_for | {"summary": row["summary"]}


def _row(entry: registry.Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name, "title": entry.title}
    if isinstance(entry, MethodEntry):
        row |= {"family": entry.family, "selection": entry.selection, "default": entry.default, "paper": entry.paper}
    elif isinstance(entry, DatasetEntry):
        row |= {"family": entry.family, "encoder": entry.encoder, "default": entry.default, "licence": entry.licence}
    elif isinstance(entry, EncoderEntry):
        row |= {"needs": entry.needs, "licence": entry.licence}
    return row | {"summary": entry.summary}


def show(value: Any) -> None:
    """Print a table, or anything else that rich shows."""
    from prbench.console import stdout

    stdout().print(value)


def show_json(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def show_record(record: Mapping[str, Any], as_json: bool) -> None:
    """Print one record."""
    show_json(record) if as_json else show(record_table(record))


def show_rows(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print many records."""
    show_json(found) if as_json else show(rows_table(found))


def rows_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """A table with a column for every key that a row has."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = list(dict.fromkeys(column for row in found for column in row))
    for number, column in enumerate(columns):
        # The first column holds what a person types next: it is never shortened.
        table.add_column(column.replace("_", " "), no_wrap=number == 0, overflow="fold")
    for row in found:
        table.add_row(*(_text(row.get(column)) for column in columns))
    return table


def record_table(record: Mapping[str, Any]) -> Table:
    """A line per value; nested keys are joined by dots, and a table of many keys is only counted.

    A value that comes with its source, `{"value": 2, "from": "entry"}`, is one line.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for key, value in _flat(record):
        table.add_row(key, _text(value))
    return table


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for key, value in record.items():
        if _is_sourced(value):
            lines.append((f"{prefix}{key}", f"{_plain(value['value'])} ({value['from']})"))
        elif isinstance(value, Mapping) and len(value) > LONG and not any(map(_is_sourced, value.values())):
            lines.append((f"{prefix}{key}", f"{len(value)} of them; --json lists all"))
        elif isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", value))
    return lines


def _is_sourced(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"value", "from"}


def _text(value: Any) -> str:
    """A value as rich markup."""
    from rich.markup import escape

    return escape(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        parts = [str(part) for part in value] or ["none"]
        return ("\n" if any(" " in part for part in parts) else ", ").join(parts)
    return "" if value is None else str(value)
