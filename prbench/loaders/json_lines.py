"""Reads JSONL files line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.loaders.reading import Drop, NotJSONError, from_json, lines_of, open_text, reading


def json_lines(
    path: Path, *, encoding: str | None = None, drop: Drop | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file, gzipped or not; blank lines are passed over.

    Raises InputError naming file and line for what is not a JSON object, for NaN and for a truncated file. With
    `drop` it is told of lines that are not objects instead, and reading goes on.
    """
    number = 0
    with reading(path, lambda: f"{path}, after line {number}"), open_text(path, encoding) as file:
        for number, line in enumerate(lines_of(file), start=1):
            if not line.strip():
                continue
            try:
                yield number, _object(path, number, line)
            except InputError as error:
                if drop is None:
                    raise
                drop(error)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    where = f"{path}, line {number}"
    with reading(path, lambda: where):
        try:
            value = from_json(line)
        except NotJSONError as error:
            raise InputError(f"{where}: {error}", hint="leave the row out") from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
        return value
