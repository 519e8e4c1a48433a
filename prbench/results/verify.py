"""Check a whole folder of results: every file against its digest, every accuracy against the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, digests, scores

TOLERANCE = 1e-9


def verify(runs: Path, watch: Callable[[], None] | None = None) -> dict[str, Any]:
    """How many cells are as they were written: `cells`, `verified`, `unverified`, `damaged`, and `problems`.

    A cell of an earlier prbench has no digests: it is read and counted as unverified. A failed or skipped cell has
    one file. Raises InputError where there are no results.
    """
    if not runs.is_dir():
        raise InputError(f"there is no results folder {runs}", hint="make one with `prbench run`")
    counts, problems = {"cells": 0, "verified": 0, "unverified": 0, "damaged": 0}, []
    for folder in cells.folders(runs):
        counts["cells"] += 1
        try:
            counts["verified" if is_whole(folder) else "unverified"] += 1
        except InputError as error:
            counts["damaged"] += 1
            problems.append(str(error.args[0]))
        if watch:
            watch()
    if not counts["cells"]:
        raise InputError(f"{runs} holds no results", hint="make some with `prbench run`")
    return {"runs": str(runs), **counts, "problems": problems}


def is_whole(folder: Path) -> bool:
    """Whether a cell has digests that its files match; False where it has none. Raises InputError on damage."""
    record = cells.read_record(folder)
    if not record.done:
        return cells.has_seal(folder)
    state, reason = cells.status(folder)
    if state != "done":
        raise InputError(f"{folder}: {reason}")
    seals = digests.of(folder)
    for name in seals.files.keys() - set(seals.left_out):
        seals.check(folder / name, cells.AGAIN)
    frame = scores.read_scores_file(cells.scores_file(folder, ALL_SHOTS), cells.AGAIN)
    accuracies = digests.accuracies({name: frame[name].to_numpy() for name in cells.SCORES})
    for name, value in seals.accuracy.items():
        if abs(accuracies.get(name, -1.0) - value) > TOLERANCE:
            fault = f"{digests.DONE} has another accuracy of {name} users than the scores give"
            raise InputError(f"{folder}: {fault}")
    return seals.complete
