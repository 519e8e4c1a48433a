"""The one way in for files that a person gives: opened within limits, every failure one line with its place."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import stat
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from prbench.base.errors import InputError
from prbench.base.git_lfs import require_contents

LONGEST = 2**26
"""Characters in a line of JSONL or a cell of CSV; whole JSON files may have `LARGEST`."""
LARGEST = 2**30
SHOWN_COLUMNS = 20

Drop = Callable[[InputError], None]
"""Told of a faulty row that is left out, where such rows are."""

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def require_file(path: Path) -> None:
    """Raise InputError unless `path` is a regular file; a pipe or device would never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe or a device, not a file", hint="write its contents to a file first")
    with reading(path, lambda: str(path)):
        require_contents(path)


@contextmanager
def reading(path: Path, place: Callable[[], str]) -> Iterator[None]:
    """Whatever goes wrong while `path` is read is an InputError that begins with `place()`.

    `place` says how far the reader got, such as "FILE, after line 7".
    """
    try:
        yield
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise _not_this_encoding(place(), error) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{place()}: it holds half a character (a lone surrogate)") from error
    except RecursionError as error:
        raise InputError(f"{place()}: it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{place()}: no valid JSON: {error.msg} at column {error.colno}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or damaged; {place()}: {first_line(error)}") from error
    except MemoryError as error:
        raise InputError(f"{place()}: it does not fit into memory") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    except LookupError as error:
        raise InputError(f"{place()}: {first_line(error)}") from error
    except (ValueError, ArithmeticError, TypeError) as error:
        raise InputError(f"{place()}: {_reason(error)}") from error


@contextmanager
def open_text(path: Path, encoding: str | None = None) -> Iterator[io.TextIOBase]:
    """`path`, gzipped or not, as text: in `encoding`, else as its byte order mark says, else in UTF-8."""
    require_file(path)
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise InputError(
                f"--encoding {encoding!r} is not known", hint="such as utf-8, utf-16, latin-1, cp1252"
            ) from None
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as raw:
        buffered = io.BufferedReader(raw)
        start = buffered.peek(4)[:4]
        file_encoding = encoding or next((name for mark, name in BOMS if start.startswith(mark)), "utf-8")
        yield io.TextIOWrapper(buffered, encoding=file_encoding, newline="")


def lines_of(file: io.TextIOBase) -> Iterator[str]:
    """The lines of a file, ended by \\n, \\r or both. Raises ValueError for one longer than `LONGEST`."""
    # Other characters at which str.splitlines would divide may stand inside JSON's texts.
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise ValueError(f"a line has more than {LONGEST:,} characters")
        yield line


def from_json(text: str) -> Any:
    """The value of JSON. Raises ValueError and RecursionError; NaN, Infinity and half characters are refused."""
    value = json.loads(text, parse_constant=_refuse_constant)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def one_of(value: Any, known: Collection[str], where: str, column: str) -> str:
    """`value` where it is one of the texts `known`. Raises InputError for another one or another type."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{where}: {column} is {str(value)[:40]!r}, expected one of {', '.join(known)}")
    return value


def columns_shown(names: list[str]) -> str:
    """Column names for a message: not too many and none too long."""
    shown = ", ".join(name if len(name) <= 40 else f"{name[:18]}…{name[-18:]}" for name in names[:SHOWN_COLUMNS])
    more = f" and {len(names) - SHOWN_COLUMNS:,} more" if len(names) > SHOWN_COLUMNS else ""
    return "".join(c if c.isprintable() else "�" for c in shown) + more


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


class NotJSONError(ValueError):
    """JSON text holds NaN or Infinity, which JSON does not have."""


def _refuse_constant(text: str) -> NoReturn:
    raise NotJSONError(f"{text} is not a JSON value")


def _reason(error: Exception) -> str:
    if "integer string conversion" in str(error):
        return "a number has thousands of digits"
    return first_line(error)


def _not_this_encoding(place: str, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    if error.encoding not in ("utf-8", "utf_8", "utf-8-sig"):
        return InputError(f"{place}: not valid {error.encoding}: {error.reason}", hint="give another --encoding")
    sample = error.object[max(0, error.start - 200) : error.start + 200]
    guess = "utf-16" if sample.count(0) > len(sample) // 4 else "cp1252"
    known = "UTF-16" if guess == "utf-16" else "Latin-1 or Windows-1252"
    return InputError(
        f"{place}: no valid UTF-8 (byte 0x{byte:02x}: {error.reason}); it looks like {known}",
        hint=f"name it by `--encoding {guess}`, or convert the file: `iconv -f {guess} -t utf-8 FILE > NEW`",
    )
