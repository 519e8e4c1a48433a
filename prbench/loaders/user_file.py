"""Comparisons from a file of one's own: JSONL, JSON, CSV or Parquet, or a folder of such files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.base.files import write_json
from prbench.comparisons import Context
from prbench.loaders.new_entry import check_name, publish
from prbench.loaders.table import ATTRIBUTES, COUNTS, TABLE, write_table
from prbench.loaders.user_rows import FileRows, ImportOptions, Row, read_file


def import_table(
    path: Path,
    name: str,
    options: ImportOptions | None = None,
    *,
    replace: bool = False,
    file_rows: FileRows | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Make the comparisons in `path` a data set called `name`; returns the file of its entry.

    `file_rows` are its rows where they have been read already; `replace` takes the place of an imported data set.
    `attributes` are those of its users, by name and id (`prbench.loaders.attributes`). Raises InputError as
    `read_file`, and for a name that is taken.
    """
    check_name(name, replace=replace)
    file_rows = file_rows or read_file(path, options)
    users = len({row.user for row in file_rows.rows})
    if users < 2:
        raise InputError(
            f"{path} has one user only; a data set needs at least two",
            hint="for one user's own comparisons see `prbench user adapt --help`",
        )

    def write(folder: Path) -> None:
        # The users' own ids are in it.
        (folder / TABLE).touch(mode=0o600)
        write_table(folder / TABLE, map(_record, file_rows.rows))
        if file_rows.counts:
            write_json(folder / COUNTS, dict(file_rows.counts))
        if attributes:
            write_json(folder / ATTRIBUTES, attributes, private=True)

    n = len(file_rows.rows)
    items = {(row.context, reply) for row in file_rows.rows for reply in (row.chosen, row.rejected)}
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
                "prompts": len({row.context for row in file_rows.rows}),
                "items": len(items),
            },
        },
        replace=replace,
    )


def first_rows(file_rows: FileRows, count: int = 5) -> list[dict[str, Any]]:
    """The first rows as understood, texts shortened, for a table."""

    def short(text: str) -> str:
        return text if len(text) <= 160 else f"{text[:100]} … {text[-50:]}"

    return [
        {
            "where": row.where.rpartition(", ")[2],
            "user": short(row.user or ""),
            "context": "\n".join(f"{message.role}: {short(message.content)}" for message in row.context),
            "chosen": short(row.chosen),
            "rejected": short(row.rejected),
            **({} if row.conversation is None else {"conversation": short(row.conversation)}),
            **({} if row.seconds is None else {"seconds since 1970": row.seconds}),
        }
        for row in file_rows.rows[:count]
    ]


def read_rows(path: Path, *, needs_user: bool = True) -> Iterator[Row]:
    """The comparisons in a file as `read_file` reads them."""
    yield from read_file(path, needs_user=needs_user).rows


def _record(row: Row) -> dict[str, Any]:
    """A row as the table has it: without its place and what is not given."""
    record = {**row._asdict(), "context": _as_json(row.context)}
    return {column: value for column, value in record.items() if column != "where" and value is not None}


@lru_cache(maxsize=2**16)
def _as_json(context: Context) -> str:
    return json.dumps([message._asdict() for message in context], ensure_ascii=False)
