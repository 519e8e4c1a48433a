"""What results must keep before they leave for a public store, and again when they come from one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, scores, submitted
from prbench.results.key import LENGTH
from prbench.results.record import CellRecord
from prbench.results.verify import verify
from prbench.sharing.pack import check_pack

KEY = re.compile(rf"[0-9a-f]{{{LENGTH}}}")
ORACLE = "test-oracle"

Board = tuple[str, str]


def check(folder: Path, *, shown: Path | None = None) -> dict[Board, set[str]]:
    """The data fingerprints of each (data set, encoder) in a pack that may be submitted.

    Raises InputError, in one line that names the result, where the pack is not whole, a record is not one, a digest
    or an accuracy does not fit the margins, a key is not well formed, a row was chosen on test data, a split has
    another number of test choices than its record says, or a row lacks a split.
    """
    shown = shown or folder
    check_pack(folder, shown=shown)
    if any(cells.folders(folder)):
        outcome = verify(folder)
        if outcome["damaged"]:
            raise InputError(
                str(outcome["problems"][0]).replace(f"{folder}/", f"{shown}: "), hint="pack the results again"
            )
        if outcome["unverified"]:
            raise InputError(f"{shown} holds {outcome['unverified']} results without digests", hint="pack them again")
    boards: dict[Board, set[str]] = {}
    splits: dict[Board, dict[tuple[str, str], set[int]]] = {}
    for name, record, cell in _records(folder):
        if not KEY.fullmatch(record.key):
            raise InputError(f"{shown}: {name}: its key {record.key[:40]!r} is not {LENGTH} hex digits")
        if record.selection == ORACLE:
            raise InputError(
                f"{shown}: {name} was chosen on test data, which is not a result",
                hint="keep such rows in a folder of results of their own",
            )
        if not record.done:
            continue
        _require_choices(f"{shown}: {name}", record, cell)
        board = record.dataset, record.encoder
        boards.setdefault(board, set()).add(record.data_fingerprint)
        rows = splits.setdefault(board, {})
        rows.setdefault((record.method, record.selection), set()).add(record.split)
    for (dataset, encoder), rows in splits.items():
        wanted = set(range(max(map(max, rows.values())) + 1))
        for (method, selection), there in rows.items():
            if missing := sorted(wanted - there):
                raise InputError(
                    f"{shown}: {method} ({selection}) on {dataset} ({encoder}) lacks split {missing[0]}",
                    hint="every row has all splits from 0 to the last one that any row of its data set has",
                )
    for row in submitted.load(folder):
        boards.setdefault((row.record.dataset, submitted.FOLDER), set()).add(row.record.data_fingerprint)
    return boards


def _records(folder: Path) -> Iterator[tuple[str, CellRecord, Path]]:
    for cell in cells.folders(folder):
        yield cell.relative_to(folder).as_posix(), cells.read_record(cell), cell


def _require_choices(where: str, record: CellRecord, cell: Path) -> None:
    """Raise InputError unless each file of scores has as many test choices as the split."""
    wanted = {"seen": record.counts.seen_test, "unseen": record.counts.unseen_test}
    for path in scores._scores_files(cell):
        frame = scores.read_scores_file(path, cells.AGAIN)
        expected = wanted if path == cells.scores_file(cell, ALL_SHOTS) else {"seen": 0, "unseen": wanted["unseen"]}
        counts = {population: int((frame["population"] == population).sum()) for population in expected}
        distinct = len(frame[["user", "comparison"]].drop_duplicates())
        if counts != expected or distinct != len(frame):
            raise InputError(
                f"{where}: {path.name} has {len(frame):,} test choices, {distinct:,} of them different; its split "
                f"has {sum(expected.values()):,}"
            )
