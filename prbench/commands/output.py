"""Entries and other records as rows, tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from prbench.base.layout import Sheet


# A table with more keys than this is counted instead of shown.
LONG = 24


def show(value: Any) -> None:
    """Print a table, or anything else that rich shows."""
    from prbench.base.console import stdout

    stdout().print(value)


def show_json(value: Any) -> None:
    """Print JSON."""
    # Where stdout cannot spell every character, JSON's own escapes do.
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not unicode, allow_nan=False, default=str))


def show_record(record: Mapping[str, Any], as_json: bool) -> None:
    """Print one record."""
    show_json(record) if as_json else show(record_table(record))


def show_rows(records: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print many records."""
    show_json(records) if as_json else show(rows_table(records))


def rows_table(
    records: Sequence[Mapping[str, Any]], *, title: str = "", order: Sequence[str] = (), needed: int = 1
) -> Sheet:
    """A table with a column for every key that a row has; a terminal too narrow for `needed` of them shows blocks.

    `order` names the keys that matter most first, and without it the last of them, in which listings describe.
    """
    from prbench.base.layout import Sheet, prose_columns

    columns = list(dict.fromkeys(column for row in records for column in row))
    rows = [[_plain(row.get(column)) for column in columns] for row in records]
    return Sheet(
        header=[column.replace("_", " ") for column in columns],
        rows=rows,
        title=title,
        prose=prose_columns(rows),
        order=[columns.index(name) for name in (*order, *columns[-1:], *columns[1:-1]) if name in columns],
        needed=needed,
        whole=not any(" " in row[0] for row in rows if row),
        elsewhere="--json",
    )


def record_table(record: Mapping[str, Any]) -> Sheet:
    """A line per value; nested keys are joined by dots, and a table of many keys is only counted.

    A value that comes with its source, `{"value": 2, "from": "entry"}`, is one line.
    """
    from prbench.base.layout import Sheet

    rows = [[key, _plain(value)] for key, value in _flat(record)]
    return Sheet(header=("", ""), rows=rows, prose=frozenset({1}), headed=False)


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


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value + 0.0:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        parts = [str(part) for part in value] or ["none"]
        return ("\n" if any(" " in part for part in parts) else ", ").join(parts)
    return "" if value is None else str(value)
