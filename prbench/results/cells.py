"""A cell's folder on disk: what is written when, and how a finished cell is told from an unfinished one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, write_json, writing, writing_folder
from prbench.base.reading import SEAL, parse_json, read_bytes, sealed, unsealed
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import digests
from prbench.results import record as record_module
from prbench.results.record import CellRecord, CellState, DoneRecord, PlannedRecord

if TYPE_CHECKING:
    from prbench.method import Method


FORMAT = record_module.FORMAT
DONE = digests.DONE
MODEL = "model.safetensors"
CHECKPOINTS = "checkpoints"
"""The folder, in that of a cell, of what a long training has kept; it is gone once the cell is done."""
REPEAT = "repeat the run: it makes this cell again"
REFIT = "`prbench run --refit` makes it again, with its model"
AGAIN = f"delete this file and {REPEAT}"
LONGEST_NAME = 100
RECORD_BYTES = 2**26
SEALED = "sealed"
SCORES = {
    "population": "category",
    "user": "int32",
    "comparison": "int64",
    "margin": "float32",
    "cold_margin": "float32",
}
"""The columns of a scores file; `load` adds `COLUMNS`, split, restart and shots."""


def cell_folder(runs: Path, record: PlannedRecord) -> Path:
    """Where a cell with this record belongs.

    Names are shortened for the file system; the key keeps cells of two such methods apart.
    """
    start = f"restart-{record.restart}-" if record.restart else ""
    name = f"split-{record.split}-{start}{record.key}"
    return row_folder(runs, record.dataset, record.encoder, record.method) / name


def row_folder(runs: Path, dataset: str, encoder: str, method: str) -> Path:
    """Where the cells of a row belong, under every selection."""
    return runs / dataset / encoder / re.sub(r"[^\w.=,\[\]+-]+", "_", method)[:LONGEST_NAME]


def scores_file(folder: Path, shots: int) -> Path:
    """The scores of a cell at a number of shots."""
    return folder / f"scores-{'all' if shots == ALL_SHOTS else shots}.parquet"


def status(folder: Path, *, with_model: bool = False) -> tuple[CellState, str]:
    """How a cell stands, and the reason where there is one.

    A finished cell that lost a file is missing: the next run makes it again. One that was packed without its model is
    done, but missing where it is to be had `with_model`. Raises InputError as `read_record`.
    """
    if not (folder / "cell.json").is_file():
        return CellState.missing, ""
    record = read_record(folder)
    if record.done and (lost := _lost(folder)):
        return CellState.missing, f"{lost} is gone"
    if with_model and record.done and is_packed(folder):
        return CellState.missing, "its model was not packed"
    return CellState(record.status), record.reason


def _lost(folder: Path) -> str | None:
    """The first file that a finished cell lacks."""
    needed = (DONE, MODEL, scores_file(folder, ALL_SHOTS).name)
    lost = [name for name in needed if not (folder / name).is_file()]
    return None if lost == [MODEL] and is_packed(folder) else next(iter(lost), None)


def is_packed(folder: Path) -> bool:
    """Whether a finished cell came without its model: done for reports, and nothing can be adapted from it."""
    return MODEL in digests.of(folder).left_out


def require_this_version(runs: Path) -> None:
    """Raise InputError when `runs` holds results of another version: a report could not read them with new ones."""
    for folder in folders(runs):
        read_record(folder)


def write_done(runs: Path, record: DoneRecord, method: Method, scores: Mapping[int, Mapping[str, Any]]) -> Path:
    """Write a finished cell; `scores` are columns by number of shots. The folder appears whole or not at all."""
    folder = cell_folder(runs, record)
    with writing_folder(folder) as temporary:
        write_json(temporary / "cell.json", record.stored())
        method.save(temporary / MODEL)
        for shots, columns in scores.items():
            write_scores(scores_file(temporary, shots), columns)
        accuracy = digests.accuracies(scores[ALL_SHOTS]) if ALL_SHOTS in scores else {}
        digests.write(temporary, sorted(scores), accuracy)
    return folder


def write_undone(runs: Path, record: PlannedRecord, state: CellState, reason: str, *, traceback: str = "") -> Path:
    """Record that a cell failed (`failed`, tried again by the next run) or cannot be (`skipped`), and why."""
    folder = cell_folder(runs, record)
    with writing_folder(folder) as temporary:
        whole = CellRecord.ended(record, state, reason=reason, traceback=traceback).stored()
        # Said apart from the digest, so that a record that lost it does not pass for one of an earlier prbench.
        whole |= {SEALED: True}
        write_json(temporary / "cell.json", sealed(json.loads(canonical_json(whole))))
        if (folder / CHECKPOINTS).is_dir():
            # What was trained before the failure is gone on with.
            shutil.copytree(folder / CHECKPOINTS, temporary / CHECKPOINTS)
    return folder


def load_method(folder: Path, record: PlannedRecord) -> Method:
    """The method that a finished cell fitted, without users' states.

    A folder of results names no code: what is imported is what the present entry of the method names. Raises
    InputError when there is no such entry or it names something else, when the cell lost a file, when its model
    cannot be read, and when a method of the user's own was edited since.
    """
    from prbench.registry import code_hash, targets

    path = folder / MODEL
    if is_packed(folder):
        raise InputError(
            f"{folder} was packed without its model: it can be reported, and not adapted or probed", hint=REFIT
        )
    # Without its DONE nothing says which model this was.
    if lost := _lost(folder):
        raise InputError(f"{folder} lacks {lost}", hint=REPEAT)
    digests.of(folder).check(path, AGAIN)
    name, target = record.entry.name, record.entry.target
    targets.require_recorded("methods", name, target, folder / "cell.json")
    if record.code != code_hash.code_before_import(target):
        raise InputError(f"{folder} was made by other code of {record.method}", hint=REPEAT)
    cls = targets.resolve(target, "methods", file=folder / "cell.json")
    try:
        unfitted: Method = cls(**record.params)
        return unfitted.load(path)
    except InputError as error:
        raise InputError(str(error.args[0]), hint=error.hint or AGAIN) from error
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, MemoryError) as error:
        fault = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"{path} is not a model of {record.method}: {fault}", hint=AGAIN) from error


def add_scores(path: Path, columns: Mapping[str, Any], runs: Path) -> None:
    """Write one more scores file into a finished cell of `runs`, and take it into the cell's DONE record."""
    write_scores(path, columns)
    digests.add(path, runs)


def has_scores(path: Path) -> bool:
    """Whether a file of scores is there and part of its cell. Raises InputError where DONE is damaged."""
    return digests.of(path.parent).has(path)


def write_scores(path: Path, columns: Mapping[str, Any]) -> None:
    """Write one scores file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")


def read_record(folder: Path) -> CellRecord:
    """A cell's record; see `prbench.results.record`.

    Raises InputError when it is unreadable, damaged or of another version.
    """
    path, hint = folder / "cell.json", f"delete {folder} and run again"
    content = read_bytes(path, most=RECORD_BYTES, hint=hint)
    try:
        table: dict[str, Any] = parse_json(content)
    except ValueError as error:
        raise InputError(f"{path} is unreadable: {error}", hint=hint) from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        version = table.get("format") if isinstance(table, dict) else None
        raise InputError(
            f"{path} has results format {version}, this prbench reads format {FORMAT}",
            hint="use another folder (--out of `prbench run`, --runs of a report), or the prbench that wrote it",
        )
    plain = {name: value for name, value in table.items() if name not in (SEAL, SEALED)}
    record = record_module.read(plain)
    if isinstance(record, str):
        raise InputError(f"{path} is not a record of a cell: {record}", hint=hint)
    if record.done:
        digests.of(folder).compare(path, content, hint)
    elif not unsealed(table, path, hint=hint)[1] and table.get(SEALED):
        raise InputError(f"{path} is damaged: it lacks its sha256", hint=hint)
    return record


def has_seal(folder: Path) -> bool:
    """Whether the record of a failed or skipped cell carries a digest of itself."""
    return SEAL in parse_json(read_bytes(folder / "cell.json", most=RECORD_BYTES))


def folders(runs: Path) -> Iterator[Path]:
    """Every cell's folder below `runs`, in the order of their names."""
    for record in sorted(runs.glob("*/*/*/split-*/cell.json")):
        yield record.parent
