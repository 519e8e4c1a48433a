"""Rows of JSONL, JSON, CSV and Parquet files, each with the place to name when something is wrong with it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.loaders.json_lines import json_lines
from prbench.loaders.reading import (
    LARGEST,
    LONGEST,
    Drop,
    columns_shown,
    first_line,
    from_json,
    open_text,
    reading,
    require_file,
)

Record = tuple[str, dict[str, Any]]

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
DELIMITERS = (",", ";", "\t", "|")


def kind_of(path: Path) -> str:
    """The ending of a file, in lower case and without .gz."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def shards(path: Path) -> list[Path]:
    """The files to read: `path` itself, or the files of a folder in the order of their names, all of one kind."""
    if not path.is_dir():
        require_file(path)
        return [path]
    files = sorted(file for file in path.iterdir() if kind_of(file) in ENDINGS and file.is_file())
    kinds = {kind_of(file) for file in files}
    if len(kinds) != 1:
        content = f"files of the types {', '.join(sorted(kinds))}" if kinds else "no file to read"
        raise InputError(f"the folder {path} has {content}", hint="give a file, or a folder with one kind of files")
    for file in files:
        require_file(file)
    return files


def records(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str],
    *,
    encoding: str | None = None,
    drop: Drop | None = None,
) -> Iterator[Record]:
    """Place ("FILE, line 7" or "FILE, row 7") and values of each row; a value that is not there is None.

    A folder is read as its files, one after another. Of CSV and Parquet only the `required` and `optional` columns
    are read. Raises InputError when a required column is missing, for an unknown file type, and for a file that
    cannot be read or parsed, with the line; with `drop`, it is told of rows that cannot be read instead.
    """
    files = shards(path)
    for file in files:
        if kind_of(file) not in ENDINGS or (kind_of(file) == ".parquet" and file.suffix == ".gz"):
            kind = kind_of(file) or "(no ending)"
            raise InputError(f"{file} is of the unknown type {kind}", hint="give a .jsonl, .csv or .parquet file")
    return (record for file in files for record in _records(file, required, optional, encoding, drop))


def _records(
    path: Path, required: Sequence[str], optional: Sequence[str], encoding: str | None, drop: Drop | None
) -> Iterator[Record]:
    kind = kind_of(path)
    if kind in (".jsonl", ".ndjson"):
        return ((f"{path}, line {n}", record) for n, record in json_lines(path, encoding=encoding, drop=drop))
    if kind == ".json":
        return _json_array(path, encoding)
    if kind == ".parquet":
        return _parquet(path, required, optional, drop)
    return _csv(path, required, optional, encoding, drop)


def column_names(path: Path, encoding: str | None = None) -> list[str]:
    """The columns of the (first) file: of CSV and Parquet its header, else the keys of its first object."""
    file = shards(path)[0]
    kind = kind_of(file)
    if kind == ".parquet":
        import pyarrow.parquet as pq

        with _reading_parquet(file, lambda: str(file)), pq.ParquetFile(file) as table:
            return list(table.schema_arrow.names)
    if kind in (".csv", ".tsv"):
        try:
            with reading(file, lambda: f"{file}, line 1"), _cells(file, encoding) as (rows, _):
                return list(next(rows, []))
        except csv.Error as error:
            raise InputError(f"{file}, line 1: no valid CSV: {error}") from error
    for _, record in _records(file, (), (), encoding, None):
        return [str(key) for key in record]
    return []


def _json_array(path: Path, encoding: str | None) -> Iterator[Record]:
    """The objects of a file that holds one JSON list."""
    where = str(path)
    with reading(path, lambda: where), open_text(path, encoding) as file:
        text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InputError(f"{path} has more than {LARGEST:,} characters", hint="write a JSON object per line")
        value = from_json(text)
        if not isinstance(value, list):
            kind = "one JSON object" if isinstance(value, dict) else f"one JSON value ({type(value).__name__})"
            raise InputError(f"{path} is {kind}, not a list of rows", hint="write a JSON list, or an object per line")
        for number, record in enumerate(value, start=1):
            where = f"{path}, row {number}"
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected a JSON object, found {type(record).__name__}")
            yield where, record


@contextmanager
def _cells(path: Path, encoding: str | None) -> Iterator[tuple[Iterator[list[str]], str]]:
    """The rows of a CSV file and its delimiter: a tab in .tsv, else the one that its first line has most of."""
    limit = csv.field_size_limit(LONGEST)
    try:
        with open_text(path, encoding) as file:
            if kind_of(path) == ".tsv":
                delimiter = "\t"
                yield csv.reader(file, delimiter=delimiter, strict=True), delimiter
                return
            header = file.readline(LONGEST)
            bare = re.sub(r'"[^"]*"', "", header)
            delimiter = max(DELIMITERS, key=bare.count)
            yield csv.reader(chain([header], file), delimiter=delimiter, strict=True), delimiter
    finally:
        csv.field_size_limit(limit)


def _csv(
    path: Path, required: Sequence[str], optional: Sequence[str], encoding: str | None, drop: Drop | None
) -> Iterator[Record]:
    line = 0
    with reading(path, lambda: f"{path}, after line {line}"):
        try:
            with _cells(path, encoding) as (rows, _):
                header = next(rows, [])
                line = 1
                _need(path, required, header)
                place = {column: header.index(column) for column in (*required, *optional) if column in header}
                for cells in rows:
                    line = rows.line_num  # type: ignore[attr-defined]
                    if not cells:
                        continue
                    if len(cells) == len(header):
                        yield f"{path}, line {line}", {column: cells[i] or None for column, i in place.items()}
                        continue
                    error = InputError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}")
                    if drop is None:
                        raise error
                    drop(error)
        except csv.Error as error:
            raise InputError(f"{path}, after line {line}: no valid CSV: {error}") from error


@contextmanager
def _reading_parquet(path: Path, place: Callable[[], str]) -> Iterator[None]:
    import pyarrow as pa

    with reading(path, place):
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{place()}: no readable Parquet: {first_line(error)}") from error


def _parquet(path: Path, required: Sequence[str], optional: Sequence[str], drop: Drop | None) -> Iterator[Record]:
    import pyarrow.parquet as pq

    row = 0
    with _reading_parquet(path, lambda: f"{path}, after row {row}"), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _need(path, required, names)
        columns = [name for name in dict.fromkeys((*required, *optional)) if name in names]
        for batch in file.iter_batches(batch_size=8192, columns=columns):
            try:
                values: list[dict[str, Any]] | None = batch.to_pylist()
            except (ValueError, ArithmeticError):
                # One value of the batch cannot be had: text that is not UTF-8, a time out of range.
                values = None
            for i in range(batch.num_rows):
                row += 1
                where = f"{path}, row {row}"
                try:
                    with _reading_parquet(path, lambda: where):  # noqa: B023
                        record = batch.slice(i, 1).to_pylist()[0] if values is None else values[i]
                except InputError as error:
                    if drop is None:
                        raise
                    drop(error)
                    continue
                yield where, record


def _need(path: Path, required: Sequence[str], columns: Sequence[str]) -> None:
    missing = [column for column in required if column not in columns]
    if missing:
        have = f"it has {columns_shown(list(columns))}" if columns else "it is empty"
        raise InputError(f"{path} has no column {' and no column '.join(missing)}", hint=have)
