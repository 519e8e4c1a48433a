"""Reading what another program, or another person, may have written: bounded, and wrong in one line.

Digests: a JSON document that prbench writes on its own is `sealed`: its key "sha256" is that of the canonical JSON of
all else in it. A digest finds damage and careless edits, not deceit.
"""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.base.files import digest

DEPTH = 100
JSON_BYTES = 2**28
SEAL = "sha256"
LONG_NUMBER = "a number has thousands of digits"
HALF = re.compile(r"\\u[dD][89a-fA-F]")


def require_regular(path: Path, *, hint: str | None = None) -> None:
    """Raise InputError unless `path` is a file: opening a pipe or a device could wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{path} is unreadable: {error.strerror or error}", hint=hint) from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is unreadable: it is not a regular file", hint=hint)


def read_bytes(path: Path, *, most: int | None = None, hint: str | None = None) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises InputError, with `hint`, where that cannot be."""
    require_regular(path, hint=hint)
    try:
        if most is not None and (size := path.stat().st_size) > most:
            raise InputError(f"{path} is unreadable: it has {size:,} bytes, {most:,} are the most", hint=hint)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} is unreadable: {error.strerror or error}", hint=hint) from error


def parse_json(content: bytes | str, *, infinite: bool = False) -> Any:
    """The value of a JSON document; `infinite` takes NaN and infinities, which Python's own writers put there.

    Raises ValueError, in one line, for what is not UTF-8 or not JSON, for NaN and infinities where they are not
    taken, for half a character (a lone surrogate), for numbers of thousands of digits, and for lists in lists more
    than `DEPTH` deep.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    try:
        value = json.loads(text, parse_constant=float if infinite else _no_number, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    if text.count("[") + text.count("{") > DEPTH:
        _require_flat(value)
    if HALF.search(text):
        _require_whole_characters(value)
    return value


def parse_toml(content: bytes | str) -> dict[str, Any]:
    """The table of a TOML document.

    Raises ValueError, in one line, for what is not UTF-8 or not TOML (tomllib's own, with the line), for numbers of
    thousands of digits, and for lists and tables more than `DEPTH` deep.
    """
    try:
        table = tomllib.loads(content if isinstance(content, str) else content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        # Python's own message names a setting of its own.
        raise ValueError(LONG_NUMBER) from error
    _require_flat(table)
    return table


def _require_whole_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character (a lone surrogate)") from error


def _require_flat(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} deep")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(LONG_NUMBER) from error


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def read_json(path: Path, *, hint: str | None = None, most: int = JSON_BYTES, infinite: bool = False) -> Any:
    """The value of a JSON file. Raises InputError that names the file, with `hint`, as `parse_json`."""
    content = read_bytes(path, most=most, hint=hint)
    try:
        return parse_json(content, infinite=infinite)
    except ValueError as error:
        raise InputError(f"{path} is unreadable: {error}", hint=hint) from error


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` with the digest of itself."""
    plain = {key: each for key, each in value.items() if key != SEAL}
    return {**plain, SEAL: digest(plain, length=64)}


def unsealed(value: Mapping[str, Any], path: Path, *, hint: str | None = None) -> tuple[dict[str, Any], bool]:
    """What `sealed` was given, and whether there was a digest: an earlier prbench wrote none.

    Raises InputError, naming `path`, where the digest is another one.
    """
    plain = {key: each for key, each in value.items() if key != SEAL}
    if SEAL not in value:
        return plain, False
    if value[SEAL] != digest(plain, length=64):
        raise InputError(f"{path} is damaged: its contents do not match its sha256", hint=hint)
    return plain, True
