"""Rows of which only margins were handed in: nobody here fitted them, and no report ranks, marks or tests them.

runs/submitted/<data set>/<name>.json        what was submitted, with the digest of the margins
runs/submitted/<data set>/<name>.parquet     the columns of a scores file and the split
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from prbench.base.errors import InputError
from prbench.base.files import file_sha256, write_json, writing
from prbench.base.reading import read_bytes, read_json, sealed, unsealed
from prbench.registry.schema import ProtocolEntry, Sha256
from prbench.results import digests
from prbench.results.cells import SCORES
from prbench.results.scores import POPULATIONS, population_codes

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "submitted"
NOTE = "scores submitted, not rerun"
AGAIN = "import the margins again, or get the files again"
COLUMNS = ("split", *SCORES)

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Counts = dict[Annotated[str, StringConstraints(pattern=r"^\d{1,4}$")], Annotated[int, Field(gt=0)]]


class SubmittedRecord(BaseModel):
    """What <name>.json says. `seed` is the base seed, `choices` the number of test choices of each split."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1]
    note: Literal["scores submitted, not rerun"]
    name: FileName
    dataset: FileName
    data_fingerprint: str
    protocol: ProtocolEntry
    protocol_version: int
    seed: int
    choices: Annotated[Counts, Field(min_length=1)]
    margins: Sha256


@dataclass(frozen=True, eq=False)
class SubmittedRow:
    """One row: its record and its margins, with the columns `COLUMNS`."""

    record: SubmittedRecord
    margins: pd.DataFrame

    def accuracies(self) -> dict[int, dict[str, float]]:
        """The mean user accuracy of seen, unseen and all users, by split, after adaptation."""
        parts = {
            split: self.margins[self.margins["split"] == split] for split in sorted(map(int, self.record.choices))
        }
        return {
            split: digests.accuracies({name: split_margins[name].to_numpy() for name in SCORES})
            for split, split_margins in parts.items()
        }


def files(runs: Path) -> Iterator[Path]:
    """The record of every row that was submitted, in the order of their names."""
    yield from sorted((runs / FOLDER).glob("*/*.json"))


def write(runs: Path, record: dict[str, Any], margins: pd.DataFrame) -> Path:
    """Write a row; returns the file of its record. `record` lacks only the digest of the margins."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place: Path = runs / FOLDER / record["dataset"]
    table = place / f"{record['name']}.parquet"
    with writing(table) as temporary:
        columns = {name: margins[name].to_numpy() for name in COLUMNS}
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    path = place / f"{record['name']}.json"
    checked = SubmittedRecord.model_validate({**record, "margins": file_sha256(table)})
    write_json(path, sealed(checked.model_dump()))
    return path


def load(runs: Path) -> list[SubmittedRow]:
    """Every submitted row of a results folder. Raises InputError, naming the file, where one is damaged."""
    return [read(path) for path in files(runs)]


def read(path: Path) -> SubmittedRow:
    """One row by the file of its record. Raises InputError where it is damaged or not whole."""
    table = read_json(path, hint=AGAIN)
    plain, has_digest = unsealed(table if isinstance(table, dict) else {}, path, hint=AGAIN)
    try:
        record = SubmittedRecord.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise InputError(
            f"{path} is not a record of submitted scores: {place}: {first['msg']}", hint=AGAIN
        ) from error
    if not has_digest:
        raise InputError(f"{path} is not a record of submitted scores: it has no sha256", hint=AGAIN)
    if (record.dataset, record.name) != (path.parent.name, path.stem):
        raise InputError(f"{path} says that it is {record.name} on {record.dataset}", hint=AGAIN)
    return SubmittedRow(record, _margins(path.with_suffix(".parquet"), record))


def _margins(path: Path, record: SubmittedRecord) -> pd.DataFrame:
    import hashlib

    import pandas as pd
    import pyarrow as pa

    content = read_bytes(path, hint=AGAIN)
    if hashlib.sha256(content).hexdigest() != record.margins:
        raise InputError(f"{path} is damaged: its sha256 is not the one of its record", hint=AGAIN)
    try:
        frame = pd.read_parquet(io.BytesIO(content))
        kinds: dict[str, Any] = {"split": "int64", **{k: v for k, v in SCORES.items() if v != "category"}}
        frame = frame[list(COLUMNS)].astype(kinds)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        fault = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not a table of margins: {fault}", hint=AGAIN) from error
    if population_codes(frame["population"]) is None:
        raise InputError(f"{path}: the column population holds more than {' and '.join(POPULATIONS)}", hint=AGAIN)
    if not np.isfinite(frame[["margin", "cold_margin"]].to_numpy()).all():
        raise InputError(f"{path} holds margins that are not finite", hint=AGAIN)
    choices = {str(split): int(count) for split, count in frame.groupby("split").size().items()}
    if choices != dict(record.choices):
        raise InputError(f"{path} has other numbers of test choices than its record", hint=AGAIN)
    return frame
