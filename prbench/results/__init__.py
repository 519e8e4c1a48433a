"""The results store: one folder per cell (data set, encoder, method, split), written once and whole.

    runs/<data set>/<encoder>/<method>/split-<i>-<key>/
        cell.json               what produced it
        model.safetensors       what the method learned, without users' states
        scores-all.parquet      one row per held-out comparison
        scores-<k>.parquet      unseen users adapted on k shots
        DONE                    written last
    runs/<data set>/<encoder>/<method>/split-<i>-restart-<r>-<key>/
        the same of a further random start, r = 1, 2, ...

A cell that failed or is not supported holds cell.json with its status and reason instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import digests
from prbench.results.cells import REPEAT, SCORES, _lost, folders, read_record, scores_file
from prbench.results.record import CellRecord
from prbench.results.scores import COLUMNS, _population_kind, _read_scores, _scores_files

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Results:
    """Everything a runs folder holds.

    `scores` has one row per held-out comparison with dataset, encoder, method, selection, population
    (categoricals), split, restart (the split's random start, 0 for the first), user, shots (int32;
    `metrics.ALL_SHOTS` for all), comparison (int64), margin and cold_margin (float32).
    A margin of 0 is a tie. `cells` are the records of all cells, done or not (`record.finished` gives those with
    results). `folder` is where they were read. `rounding` is the share of test decisions that rounding probes
    changed, by `COLUMNS`, where there are such probes.
    """

    scores: pd.DataFrame
    cells: list[CellRecord]
    folder: Path | None = None
    rounding: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def load(runs: Path) -> Results:
    """Read a runs folder.

    Raises InputError when there is nothing in it, when a file is broken or of another version, and when two
    different results claim the same split of the same method.
    """
    if not runs.is_dir():
        raise InputError(f"there is no results folder {runs}", hint="make one with `prbench run`")
    by_identity: dict[tuple[Any, ...], tuple[Path, CellRecord]] = {}
    for folder in folders(runs):
        record = read_record(folder)
        identity = (*record.row, record.split, record.restart)
        other = by_identity.get(identity)
        if other and record.done and other[1].done:
            raise InputError(
                f"two different results for split {record.split} of {record.method} on {record.dataset}: "
                f"{other[0]} and {folder}",
                hint="they differ in parameters, seed or data: delete one, or keep them in folders of their own",
            )
        if record.done and (lost := _lost(folder)):
            raise InputError(f"{folder} lacks {lost}", hint=REPEAT)
        if not other or not other[1].done:
            by_identity[identity] = (folder, record)
    cells = [record for _, record in by_identity.values()]
    _say_unverified([folder for folder, record in by_identity.values() if record.done])
    parts = [
        _read_scores(path, record)
        for folder, record in by_identity.values()
        if record.done
        for path in _scores_files(folder)
    ]
    if not cells:
        raise InputError(f"{runs} holds no results", hint="make some with `prbench run`")
    return Results(_joined(parts), cells, runs, rounding=_rounding(by_identity.values()))


def _rounding(cells: Iterable[tuple[Path, CellRecord]]) -> dict[tuple[str, ...], float]:
    """The mean over a row's cells that have a rounding probe."""
    from prbench.results.probes import changed_by_rounding

    shares: dict[tuple[str, ...], list[float]] = {}
    for folder, record in cells:
        if record.done:
            share = changed_by_rounding(folder, scores_file(folder, ALL_SHOTS))
            if share is not None:
                shares.setdefault(tuple(getattr(record, name) for name in COLUMNS), []).append(share)
    return {row: sum(each) / len(each) for row, each in shares.items()}


def _say_unverified(done: list[Path]) -> None:
    """One line on stderr where cells have no digests."""
    if older := sum(not digests.of(folder).complete for folder in done):
        from prbench.base.console import stderr

        remark = f"{older} of {len(done)} results were made before prbench kept digests: damage to them is not found"
        stderr().print(remark, soft_wrap=True)


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
            codes_of_parts = [frame[name].cat.codes for _, frame in parts]
            codes_of = np.concatenate([np.zeros(0, dtype=np.int8), *codes_of_parts])
            columns[name] = pd.Categorical.from_codes(codes_of, dtype=_population_kind())
        else:
            columns[name] = np.concatenate(
                [np.zeros(0, dtype=kind), *(frame[name].to_numpy(kind) for _, frame in parts)]
            )
    for name in ("split", "restart", "shots"):
        columns[name] = np.repeat(np.array([same[name] for same, _ in parts], dtype=np.int32), lengths)
    return pd.DataFrame(columns)
