"""Entries and other records as rows, tables and JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from prbench import registry
from prbench.entries import DatasetEntry, EncoderEntry, Kind, MethodEntry

if TYPE_CHECKING:
    from rich.table import Table


# A table with more keys than this is counted instead of shown.
LONG = 12


def rows(kind: Kind) -> list[dict[str, Any]]:
    """All entries of a kind, each with what a listing shows of it."""
    return [_row(entry) for entry in registry.all(kind)]


def full(name: str, kind: Kind | None = None) -> dict[str, Any]:
    """An entry with everything it inherits: kind, file and all of its keys.

    Raises InputError for an unknown name, and for one that two kinds share when `kind` does not say which.
    """
    found = registry.kind_of(name, kind)
    entry = registry.get(found, name)
    record: dict[str, Any] = {"kind": found, "file": str(registry.source(found, name))}
    record |= entry.model_dump(mode="json", exclude_none=True)
    if isinstance(entry, MethodEntry) and (unused := registry.unused_tables(entry)):
        record["unused"] = [f"params.{table}: no data set or family of that name is known" for table in unused]
    return record


def brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a listing's row fits on a screen."""
    return {key: row[key] for key in ("name", "title", "family", "encoder", "needs", "summary") if row.get(key)}


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
    """A line per value; nested keys are joined by dots, and a table of many keys is only counted."""
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
        if isinstance(value, Mapping) and len(value) > LONG:
            lines.append((f"{prefix}{key}", f"{len(value)} of them; --json lists all"))
        elif isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", value))
    return lines


def _text(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        parts = [str(part) for part in value] or ["none"]
        return escape(("\n" if any(" " in part for part in parts) else ", ").join(parts))
    return escape("" if value is None else str(value))
