"""Entries and other records as rows, tables and JSON on stdout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


# A table with more keys than this is counted instead of shown.
LONG = 24


def show(value: Any) -> None:
    """Print a table, or anything else that rich shows."""
    from prbench.base.console import stdout

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
