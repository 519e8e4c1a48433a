"""The results store: one folder per cell (data set, encoder, method, split), written once and whole.

    runs/<data set>/<encoder>/<method>/split-<i>-<key>/
        cell.json               what produced it
        model.safetensors       what the method learned, without users' states
        scores-all.parquet      one row per held-out comparison
        scores-<k>.parquet      unseen users adapted on k shots
        DONE                    written last

A cell that failed or is not supported holds cell.json with its status and reason instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench import cellrecord
from prbench.errors import InputError
from prbench.files import write_json, writing, writing_folder

if TYPE_CHECKING:
    import pandas as pd

    from prbench.method import Method

FORMAT = 1
ALL = -1
"""The number of shots that stands for all the support there is."""
DONE = "DONE"
MODEL = "model.safetensors"
REPEAT = "repeat the run: it makes this cell again"
AGAIN = f"delete this file and {REPEAT}"
COLUMNS = ("dataset", "encoder", "method", "selection")
LONGEST_NAME = 100
SCORES = {
    "population": "category",
    "user": "int32",
    "comparison": "int64",
    "margin": "float32",
    "cold_margin": "float32",
}
"""The columns of a scores file; `load` adds `COLUMNS`, split and shots."""
POPULATIONS = ("seen", "unseen")
SHOTS_FILE = re.compile(r"scores-(0|[1-9][0-9]*)\.parquet")


@dataclass(frozen=True, eq=False)
class Results:
    """Everything a runs folder holds.

    `scores` has one row per held-out comparison with dataset, encoder, method, selection, population
    (categoricals), split, user, shots (int32; `ALL` = -1), comparison (int64), margin and cold_margin (float32).
    `cells` are the records of all cells, done or not; a margin of 0 is a tie. `folder` is where they were read.
    """

    scores: pd.DataFrame
    cells: list[dict[str, Any]]
    folder: Path | None = None


def cell_folder(runs: Path, record: Mapping[str, Any]) -> Path:
    """Where a cell with this record belongs.

    A method's name may hold any value of `--set`; the key tells methods apart that share a folder.
    """
    method = re.sub(r"[^\w.=,\[\]+-]+", "_", record["method"])[:LONGEST_NAME]
    place = (record["dataset"], record["encoder"], method)
    return runs.joinpath(*place) / f"split-{record['split']}-{record['key']}"


def scores_file(folder: Path, shots: int) -> Path:
    """The scores of a cell at a number of shots."""
    return folder / f"scores-{'all' if shots == ALL else shots}.parquet"


def status(folder: Path) -> tuple[str, str]:
    """`done`, `failed`, `skipped` or `missing`, and the reason where there is one.

    A finished cell that lost a file is missing: the next run makes it again. Raises InputError as `read_record`.
    """
    if not (folder / "cell.json").is_file():
        return "missing", ""
    record = read_record(folder)
    if record["status"] == "done" and (lost := _lost(folder)):
        return "missing", f"{lost} is gone"
    return record["status"], record.get("reason", "")


def _lost(folder: Path) -> str | None:
    """The first file that a finished cell lacks."""
    needed = (DONE, MODEL, scores_file(folder, ALL).name)
    return next((name for name in needed if not (folder / name).is_file()), None)


def require_this_version(runs: Path) -> None:
    """Raise InputError when `runs` holds results of another version: a report could not read them with new ones."""
    for folder in folders(runs):
        read_record(folder)


def write_done(
    runs: Path, record: Mapping[str, Any], method: Method, scores: Mapping[int, Mapping[str, Any]]
) -> Path:
    """Write a finished cell; `scores` are columns by number of shots. The folder appears whole or not at all."""
    folder = cell_folder(runs, record)
    with writing_folder(folder) as temporary:
        write_json(temporary / "cell.json", {**record, "format": FORMAT, "status": "done"})
        method.save(temporary / MODEL)
        for shots, columns in scores.items():
            write_scores(scores_file(temporary, shots), columns)
        write_json(temporary / DONE, {"shots": sorted(scores)})
    return folder


def write_undone(runs: Path, record: Mapping[str, Any], state: str, reason: str) -> Path:
    """Record that a cell failed (`failed`, tried again by the next run) or cannot be (`skipped`), and why."""
    folder = cell_folder(runs, record)
    with writing_folder(folder) as temporary:
        write_json(temporary / "cell.json", {**record, "format": FORMAT, "status": state, "reason": reason})
    return folder


def load_method(folder: Path, record: Mapping[str, Any]) -> Method:
    """The method that a finished cell fitted, without users' states.

    Raises InputError when it cannot be read, or when a method of the user's own was edited since.
    """
    from prbench import registry, sourcecode

    path = folder / MODEL
    if not path.is_file():
        raise InputError(f"{folder} lacks {MODEL}", hint=REPEAT)
    try:
        made: Method = registry.resolve(record["entry"]["target"])(**record["params"])
        if record.get("code", "") != sourcecode.code_of(record["entry"]["target"]):
            raise InputError(f"{folder} was made by other code of {record['method']}", hint=REPEAT)
        return made.load(path)
    except InputError as error:
        raise InputError(str(error.args[0]), hint=error.hint or AGAIN) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is no model of {record['method']}: {error!r}", hint=AGAIN) from error


def write_scores(path: Path, columns: Mapping[str, Any]) -> None:
    """Write one scores file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with writing(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")


def read_record(folder: Path) -> dict[str, Any]:
    """A cell's record; see `cellrecord`. Raises InputError when it is unreadable, damaged or of another version."""
    path = folder / "cell.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is unreadable: {error}", hint=f"delete {folder} and run again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise InputError(
            f"{path} has results format {found}, this prbench reads format {FORMAT}",
            hint="use another folder (--out of `prbench run`, --runs of a report), or the prbench that wrote it",
        )
    if problem := cellrecord.problem(record):
        raise InputError(f"{path} is no record of a cell: {problem}", hint=f"delete {folder} and run again")
    return record


def folders(runs: Path) -> Iterator[Path]:
    """Every cell's folder below `runs`, in the order of their names."""
    for record in sorted(runs.glob("*/*/*/split-*/cell.json")):
        yield record.parent


def load(runs: Path) -> Results:
    """Read a runs folder.

    Raises InputError when there is nothing in it, when a file is broken or of another version, and when two
    different results claim the same split of the same method.
    """
    if not runs.is_dir():
        raise InputError(f"there is no results folder {runs}", hint="make one with `prbench run`")
    found: dict[tuple[Any, ...], tuple[Path, dict[str, Any]]] = {}
    for folder in folders(runs):
        record = read_record(folder)
        identity = tuple(record[key] for key in (*COLUMNS, "split"))
        other = found.get(identity)
        if other and record["status"] == other[1]["status"] == "done":
            raise InputError(
                f"two different results for split {record['split']} of {record['method']} on {record['dataset']}: "
                f"{other[0]} and {folder}",
                hint="they differ in parameters, seed or data: delete one, or keep them in folders of their own",
            )
        if record["status"] == "done" and (lost := _lost(folder)):
            raise InputError(f"{folder} lacks {lost}", hint=REPEAT)
        if not other or other[1]["status"] != "done":
            found[identity] = (folder, record)
    cells = [record for _, record in found.values()]
    parts = [
        _read_scores(path, record)
        for folder, record in found.values()
        if record["status"] == "done"
        for path in _scores_files(folder)
    ]
    if not cells:
        raise InputError(f"{runs} holds no results", hint="make some with `prbench run`")
    return Results(_joined(parts), cells, runs)


def _scores_files(folder: Path) -> list[Path]:
    """The scores of a finished cell at every number of shots."""
    few = sorted(path for path in folder.glob("scores-*.parquet") if SHOTS_FILE.fullmatch(path.name))
    return [scores_file(folder, ALL), *few]


def read_scores_file(path: Path, again: str) -> pd.DataFrame:
    """The columns of one file as `SCORES` has them, `population` as a categorical of `POPULATIONS`.

    Raises InputError with the hint `again` when it is unreadable or empty, or when a column is missing or holds
    something else.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} is unreadable: {error}", hint=again) from error
    if lacking := [name for name in SCORES if name not in frame]:
        raise InputError(f"{path} lacks the column {', '.join(lacking)}", hint=again)
    if not len(frame):
        raise InputError(f"{path} has no rows", hint=again)
    codes = pd.Index(POPULATIONS).get_indexer(pd.Index(frame["population"]))
    if codes.min() < 0:
        raise InputError(f"{path}: the column population holds more than {' and '.join(POPULATIONS)}", hint=again)
    columns: dict[str, Any] = {"population": pd.Categorical.from_codes(codes, dtype=_population_kind())}
    for name in list(SCORES)[1:]:
        whole = SCORES[name].startswith("int")
        known = pd.api.types.is_integer_dtype if whole else pd.api.types.is_float_dtype
        if not known(frame[name]):
            kind = "whole numbers" if whole else "numbers"
            raise InputError(f"{path}: the column {name} holds {frame[name].dtype}, not {kind}", hint=again)
        columns[name] = frame[name].to_numpy(SCORES[name])
    return pd.DataFrame(columns)


def _population_kind() -> pd.CategoricalDtype:
    import pandas as pd

    return pd.CategoricalDtype(list(POPULATIONS))


def _read_scores(path: Path, record: Mapping[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
    """What is the same in all lines of a scores file, and its columns `SCORES`."""
    few = SHOTS_FILE.fullmatch(path.name)
    same = {name: record[name] for name in (*COLUMNS, "split")}
    again = (
        f"delete this file and repeat the run with --shots all,{few[1]}: it makes this file only" if few else AGAIN
    )
    return same | {"shots": int(few[1]) if few else ALL}, read_scores_file(path, again)


def _joined(parts: list[tuple[dict[str, Any], pd.DataFrame]]) -> pd.DataFrame:
    """All lines in one table, column by column: millions of repeated names would take minutes as text."""
    import numpy as np
    import pandas as pd

    lengths = [len(frame) for _, frame in parts]
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        known = sorted({same[name] for same, frame in parts if len(frame)})
        codes = {value: code for code, value in enumerate(known)}
        each = np.array([codes.get(same[name], -1) for same, _ in parts], dtype=np.int32)
        columns[name] = pd.Categorical.from_codes(np.repeat(each, lengths), dtype=pd.CategoricalDtype(known))
    for name, kind in SCORES.items():
        if name == "population":
            found = [frame[name].cat.codes for _, frame in parts]
            codes_of = np.concatenate([np.zeros(0, dtype=np.int8), *found])
            columns[name] = pd.Categorical.from_codes(codes_of, dtype=_population_kind())
        else:
            columns[name] = np.concatenate(
                [np.zeros(0, dtype=kind), *(frame[name].to_numpy(kind) for _, frame in parts)]
            )
    for name in ("split", "shots"):
        columns[name] = np.repeat(np.array([same[name] for same, _ in parts], dtype=np.int32), lengths)
    return pd.DataFrame(columns)
