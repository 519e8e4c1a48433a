"""Records that travel: a JSON file that carries its digest, read as one kind of record."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from prbench.base.errors import InputError
from prbench.base.reading import read_json, unsealed

Sealed = TypeVar("Sealed", bound=BaseModel)


def read_sealed(path: Path, kind: type[Sealed], fault: str, *, hint: str) -> Sealed:
    """The record in a file.

    Raises InputError that begins with `fault`, and names the key, where it is not one of `kind` or has no digest;
    and one that names `path` where it cannot be read or its digest is another one.
    """
    record, has_digest = read_perhaps_sealed(path, kind, fault, hint=hint)
    if not has_digest:
        raise InputError(f"{fault}: it has no sha256", hint=hint)
    return record


def read_perhaps_sealed(path: Path, kind: type[Sealed], fault: str, *, hint: str) -> tuple[Sealed, bool]:
    """As `read_sealed`, but a digest may be lacking, as in earlier records: the record, and whether it has one."""
    table = read_json(path, hint=hint)
    if not isinstance(table, dict):
        raise InputError(f"{fault}: it holds no table", hint=hint)
    plain, has_digest = unsealed(table, path, hint=hint)
    try:
        return kind.model_validate(plain), has_digest
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise InputError(f"{fault}: {place}: {first['msg']}", hint=hint) from error
