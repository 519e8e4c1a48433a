"""Reads JSONL files line by line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from prbench.base.errors import InputError


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file, gzipped or not; blank lines are passed over.

    Raises InputError naming file and line for a line that is not a JSON object, for NaN and for a truncated file.
    """
    number = 0
    decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                value = decode(line)
                if not isinstance(value, dict):
                    raise InputError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}")
                yield number, value
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: no valid JSON: {error.msg} at column {error.colno}") from error
    except _NotJSONError as error:
        raise InputError(f"{path}, line {number}: {error} is not a JSON value", hint="leave the row out") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after line {number}: no valid UTF-8: {error.reason}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or damaged after line {number}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


class _NotJSONError(ValueError):
    """JSON text holds NaN or Infinity, which JSON does not have."""


def _refuse_constant(text: str) -> NoReturn:
    raise _NotJSONError(text)
