"""manifest.json of an embedding store: what made its shards, and which there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from prbench.base.errors import InputError
from prbench.base.reading import SEAL, read_json, unsealed
from prbench.registry.schema import Record, Sha256

FORMAT = 1
SHARD_ROWS = 4096
KEY_BYTES = 32
WIDEST = 1_000_000
"""No embedding is wider: a damaged width must not ask for more memory than there is."""
MANIFEST = "manifest.json"
StoredType = Literal["float32", "float16", "bfloat16"]
STORED_TYPES = get_args(StoredType)


class Shard(Record):
    """One shard file: its name, its rows, the sha256 of its bytes, and for how many rows a context was cut."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5}\.safetensors$")]
    rows: Annotated[int, Field(ge=1)]
    sha256: Sha256
    contexts_cut: Annotated[int, Field(ge=0)] = 0


class Manifest(Record):
    """What manifest.json says. `data` maps the data sets whose texts were encoded here to their fingerprints."""

    format: Literal[1]
    encoder: dict[str, Any]
    dim: Annotated[int, Field(ge=1, le=WIDEST)]
    dtype: StoredType
    reward: bool
    head: list[float] | None
    data: dict[str, str]
    shards: list[Shard]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None where there is none. Raises InputError when it is broken."""
    path, hint = folder / MANIFEST, "delete its folder and run `prbench embed` again"
    if not path.exists():
        return None
    value = read_json(path, hint=hint)
    if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
        raise InputError(
            f"{path} has format {value['format']!r}; this prbench reads format {FORMAT}",
            hint="move its folder away and run `prbench embed` again",
        )
    plain = {key: each for key, each in value.items() if key != SEAL} if isinstance(value, dict) else value
    try:
        manifest = Manifest.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise InputError(
            f"{path}: {where}: {first['msg']}", hint="delete its folder and run `prbench embed` again"
        ) from error
    unsealed(value, path, hint=hint)
    return manifest
