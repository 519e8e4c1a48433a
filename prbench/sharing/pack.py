"""Results that travel: finished cells with records and margins, without models, texts, ids and machine paths.

    results.tar.zst, or a folder for a data set repository
        pack.json       every cell with the digest of its DONE record
        README.md       what the folder holds, for the page of a data set repository
        merge.json      where the results were merged
        <data set>/<encoder>/<method>/split-<i>-<key>/      as in a folder of results

Cells that failed or are not supported come along, so that a report says why a row lacks numbers.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

import prbench
from prbench.base.errors import InputError
from prbench.base.files import canonical_json, file_sha256, write_json, write_text, writing_folder
from prbench.base.reading import read_json, sealed
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry.schema import Sha256
from prbench.results import cells, digests, merged, probe_tables, scores, submitted
from prbench.results import record as record_module
from prbench.results.record import CellRecord, CellState
from prbench.results.sealed import read_sealed
from prbench.results.verify import is_whole
from prbench.sharing.archive import SUFFIX, unpack_archive, write_archive
from prbench.sharing.travelling import travelling

FORMAT = 1
MANIFEST = "pack.json"
CARD = "README.md"
AGAIN = "get the pack again"
CELL_FILE = re.compile(r"cell\.json|DONE|model\.safetensors|(?:scores|probe)-[\w.+-]{1,120}\.parquet")
CARD_TEXT = """---
configs:
- config_name: margins
  data_files: "*/*/*/split-*/scores-all.parquet"
tags:
- personalised reward models
- prbench
---

# Results of prbench

{cells} results of prbench {version}, {models} the fitted models: one folder for each data set, encoder, method and
split. `cell.json` says what produced a result, `scores-all.parquet` holds the margin of every held-out comparison
before and after adaptation, `DONE` the sha256 of the files. Users and comparisons are numbers of the data set; no
texts and no ids of people are here.

    prbench report leaderboard --runs THIS_FOLDER
"""


class PackManifest(BaseModel):
    """pack.json: cells and submitted rows by their place in the pack, each with the digest of its seal."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1]
    prbench: str
    models: bool
    cells: dict[str, Sha256]
    submitted: dict[str, Sha256] = {}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.cells and not self.submitted:
            raise ValueError("it lists nothing")
        return self


@dataclass(frozen=True)
class Packed:
    """What was packed, and where."""

    path: Path
    done: int
    undone: int
    models: bool


def pack(runs: Path, out: Path, *, with_models: bool = False) -> Packed:
    """Pack every cell of `runs` into `out`: an archive where the name ends in .tar.zst, else a new folder.

    Damaged cells are refused, not packed. Raises InputError as `cells.read_record`, where `runs` holds nothing, and
    where `out` is there already.
    """
    archive = out.name.endswith(SUFFIX)
    if not archive and out.suffix in (".zst", ".tar", ".gz", ".tgz", ".zip"):
        raise InputError(f"--out {out}: an archive is called ...{SUFFIX}", hint="--out results.tar.zst, or a folder")
    if out.exists() and (archive or not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="name a new file or folder")
    if archive:
        with tempfile.TemporaryDirectory(dir=_beside(out), prefix=".packing-") as folder:
            done, undone = _fill(runs, Path(folder), with_models)
            write_archive(Path(folder), out)
    else:
        with writing_folder(out) as folder_:
            done, undone = _fill(runs, folder_, with_models)
    return Packed(out, done, undone, with_models)


def _beside(path: Path) -> Path:
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    return path.absolute().parent


def _fill(runs: Path, folder: Path, with_models: bool) -> tuple[int, int]:
    """Write the pack of `runs` into `folder`; returns how many cells are done and how many are not."""
    if not runs.is_dir():
        raise InputError(f"there is no results folder {runs}", hint="make one with `prbench run`")
    listed: dict[str, str] = {}
    done = 0
    for cell in cells.folders(runs):
        record = cells.read_record(cell)
        target = folder / cell.relative_to(runs)
        target.mkdir(parents=True)
        if record.done:
            _pack_done(cell, record, target, with_models)
            done += 1
        else:
            clean = {**travelling(record.stored()), "format": cells.FORMAT}
            write_json(target / "cell.json", sealed(json.loads(canonical_json(clean))))
        listed[target.relative_to(folder).as_posix()] = file_sha256(_seal(target))
    handed_in: dict[str, str] = {}
    for path in submitted.files(runs):
        row = submitted.read(path)
        copy = submitted.write(folder, row.record.model_dump(exclude={"margins"}), row.margins)
        handed_in[copy.relative_to(folder).as_posix()] = file_sha256(copy)
    if not listed and not handed_in:
        raise InputError(f"{runs} holds no results", hint="make some with `prbench run`")
    if before := merged.read(runs):
        write_json(folder / merged.FILE, sealed(json.loads(canonical_json(before.model_dump()))))
    manifest = {
        "format": FORMAT,
        "prbench": prbench.__version__,
        "models": with_models,
        "cells": listed,
        "submitted": handed_in,
    }
    write_json(folder / MANIFEST, sealed(manifest))
    card = {"cells": len(listed), "version": prbench.__version__, "models": "with" if with_models else "without"}
    write_text(folder / CARD, CARD_TEXT.format(**card))
    return done, len(listed) - done


def _seal(cell: Path) -> Path:
    """The file whose digest stands for a cell: DONE covers all others, and an undone cell has its record only."""
    return cell / digests.DONE if (cell / digests.DONE).is_file() else cell / "cell.json"


def _pack_done(cell: Path, record: CellRecord, target: Path, with_models: bool) -> None:
    state, why = cells.status(cell)
    if state != CellState.done:
        raise InputError(f"{cell}: {why}", hint=cells.REPEAT)
    is_whole(cell)
    if with_models and cells.is_packed(cell):
        raise InputError(f"{cell} was packed without its model", hint="leave out --with-models")
    seals = digests.of(cell)
    write_json(target / "cell.json", travelling(record.stored()))
    probed = sorted(path for path in cell.glob("probe-*.parquet") if seals.has(path))
    accuracy: dict[str, float] = {}
    for path in [*scores._scores_files(cell), *probed]:
        kind = probe_tables.kind_of(path) if path in probed else None
        if kind is not None:
            table = probe_tables.read_table(path, kind)
            cells.write_scores(
                target / path.name, {name: table[name].to_numpy() for name in probe_tables.TABLES[kind]}
            )
            continue
        # Written anew, so that nothing but the columns of the format comes along.
        frame = scores.read_scores_file(path, cells.AGAIN)
        columns = {name: frame[name].astype(str) if name == "population" else frame[name] for name in cells.SCORES}
        cells.write_scores(target / path.name, {name: column.to_numpy() for name, column in columns.items()})
        if path == cells.scores_file(cell, ALL_SHOTS):
            accuracy = digests.accuracies(columns)
    model = cell / cells.MODEL
    if with_models:
        seals.check(model, cells.AGAIN)
        shutil.copyfile(model, target / cells.MODEL)
    files = {path.name: file_sha256(path) for path in sorted(target.iterdir())}
    left_out = [] if with_models else [cells.MODEL]
    # The model's digest stays, so that whoever has the model can tell that it is the one.
    if left_out and (known := seals.files.get(cells.MODEL) or (file_sha256(model) if model.is_file() else "")):
        files[cells.MODEL] = known
    digests.write_record(target, _shots(target), files, accuracy, left_out)


def _shots(cell: Path) -> list[int]:
    few = [int(match[1]) for path in cell.iterdir() if (match := scores.SHOTS_FILE.fullmatch(path.name))]
    return [ALL_SHOTS, *sorted(few)]


def unpack(path: Path, out: Path) -> int:
    """Unpack an archive into the new folder `out`, check all of it, and return the number of cells.

    Raises InputError, and leaves nothing, where a member is not a file of results, a cell is damaged, missing,
    unlisted or in another place than its record says.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="name a new folder")
    with writing_folder(out) as folder:
        unpack_archive(path, folder, _is_of_a_pack)
        return len(check_pack(folder, shown=path).cells)


def _is_of_a_pack(parts: tuple[str, ...]) -> bool:
    if len(parts) == 1:
        return parts[0] in (MANIFEST, CARD, merged.FILE)
    if len(parts) == 3:
        return parts[0] == submitted.FOLDER and parts[2].endswith((".json", ".parquet"))
    return len(parts) == 5 and parts[3].startswith("split-") and CELL_FILE.fullmatch(parts[4]) is not None


def is_pack(path: Path) -> bool:
    """Whether a path is an archive or a folder that `pack` wrote."""
    return path.is_file() or (path / MANIFEST).is_file()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A folder of results, whether `path` is one, a pack or an archive; packs are checked whole first."""
    if path.is_file():
        with tempfile.TemporaryDirectory(prefix="prbench-pack-") as folder:
            unpack_archive(path, Path(folder), _is_of_a_pack)
            check_pack(Path(folder), shown=path)
            yield Path(folder)
        return
    if is_pack(path):
        check_pack(path)
    yield path


def check_pack(folder: Path, *, shown: Path | None = None) -> PackManifest:
    """Read a pack's manifest and compare every cell with it.

    Raises InputError naming the first cell that is missing, unlisted, damaged or in another place than it says.
    """
    shown = shown or folder
    manifest = read_manifest(folder, shown)
    present = {cell.relative_to(folder).as_posix() for cell in cells.folders(folder)}
    if missing := sorted(manifest.cells.keys() - present):
        raise InputError(f"{shown} lacks {missing[0]}, which {MANIFEST} lists", hint=AGAIN)
    if further := sorted(present - manifest.cells.keys()):
        raise InputError(f"{shown} holds {further[0]}, which {MANIFEST} does not list", hint=AGAIN)
    for name, known in manifest.cells.items():
        cell = folder / name
        try:
            record = cells.read_record(cell)
        except InputError as error:
            fault = str(error.args[0]).replace(f"{folder}/", "")
            raise InputError(f"{shown}: {fault}", hint=AGAIN) from error
        if cells.cell_folder(folder, record) != cell:
            raise InputError(f"{shown}: {name} is not where its record belongs", hint=AGAIN)
        if file_sha256(_seal(cell)) != known:
            raise InputError(f"{shown}: {name} is damaged: its sha256 is not the one in {MANIFEST}", hint=AGAIN)
    handed_in = {path.relative_to(folder).as_posix(): file_sha256(path) for path in submitted.files(folder)}
    if handed_in != manifest.submitted:
        strange = min(handed_in.items() ^ manifest.submitted.items())[0]
        raise InputError(f"{shown}: {strange} is not as {MANIFEST} lists it", hint=AGAIN)
    submitted.load(folder)
    return manifest


def quick_record(cell: Path) -> CellRecord:
    """A record without its digests, for folders that hold records alone. Raises InputError where it is none."""
    table = read_json(cell / "cell.json", hint=AGAIN, most=cells.RECORD_BYTES)
    record = record_module.read(table) if isinstance(table, dict) else ""
    if isinstance(record, str):
        raise InputError(f"{cell}/cell.json is not a record of a cell", hint=AGAIN)
    return record


def read_manifest(folder: Path, shown: Path) -> PackManifest:
    """pack.json of a folder; `shown` names it in messages. Raises InputError where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{shown} lacks {MANIFEST}", hint="make a pack with `prbench results pack`")
    return read_sealed(path, PackManifest, f"{shown}: {MANIFEST}", hint=AGAIN)
