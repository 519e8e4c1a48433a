"""Rows of a JSONL, CSV or Parquet file, each with the place to name when something is wrong with it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.loaders.json_lines import json_lines

Record = tuple[str, dict[str, Any]]

# A cell may hold a whole conversation; csv's own limit is 128 KiB.
LONGEST_CELL = 2**31 - 1


def records(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Record]:
    """Place ("FILE, line 7" or "FILE, row 7") and values of each row; a value that is not there is None.

    Of CSV and Parquet only the `required` and `optional` columns are read. Raises InputError when a required
    column is missing, for an unknown file type, and for a file that cannot be read or parsed, with the line.
    """
    kind = path.suffix.lower() if path.suffix.lower() != ".gz" else "".join(path.suffixes[-2:]).lower()
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if kind in (".jsonl", ".ndjson", ".jsonl.gz"):
        return ((f"{path}, line {number}", record) for number, record in json_lines(path))
    if kind in (".csv", ".tsv"):
        return _csv(path, required, optional, "\t" if kind == ".tsv" else ",")
    if kind == ".parquet":
        return _parquet(path, required, optional)
    what = "one JSON value, not one per line" if kind == ".json" else f"of the unknown type {kind or '(no ending)'}"
    raise InputError(f"{path} is {what}", hint="give a .jsonl, .csv or .parquet file")


def _csv(path: Path, required: Sequence[str], optional: Sequence[str], delimiter: str) -> Iterator[Record]:
    line = 1
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            _need(path, required, header)
            place = {column: header.index(column) for column in (*required, *optional) if column in header}
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}")
                yield f"{path}, line {line}", {column: _cell(cells[i], column) for column, i in place.items()}
    except csv.Error as error:
        raise InputError(f"{path}, after line {line}: no valid CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after line {line}: no valid UTF-8: {error.reason}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    finally:
        csv.field_size_limit(limit)


def _cell(text: str, column: str) -> Any:
    """A cell's value: a list of messages where it is one in JSON, None where it is empty, else its text."""
    if not text:
        return None
    if column in ("prompt", "chosen", "rejected") and text.lstrip().startswith("[{"):
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            return text
        if all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in value):
            return value
    return text


def _parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _need(path, required, names)
            columns = [name for name in dict.fromkeys((*required, *optional)) if name in names]
            for batch in file.iter_batches(batch_size=8192, columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    yield f"{path}, row {row}", record
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}, after row {row}: no readable Parquet: {reason}") from error


def _need(path: Path, required: Sequence[str], found: Sequence[str]) -> None:
    missing = [column for column in required if column not in found]
    if missing:
        have = f"it has {', '.join(found)}" if found else "it is empty"
        raise InputError(f"{path} has no column {' and no column '.join(missing)}", hint=have)
