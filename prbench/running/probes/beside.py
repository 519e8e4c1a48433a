"""The finished fit of another method beside a cell: same data, same split."""

from __future__ import annotations

from pathlib import Path

from prbench.method import Method
from prbench.protocol.splits import Split
from prbench.results import cells
from prbench.results.record import CellState, PlannedRecord
from prbench.running.skipping import NotApplicableError


def fit_of_bt(folder: Path, split: Split) -> Method:
    """The finished fit of bt on the split of the cell in `folder`. Raises NotApplicableError where there is none."""
    own = cells.read_record(folder)
    for other in sorted((folder.parents[1] / "bt").glob(f"split-{split.index}-*")):
        if cells.status(other)[0] != CellState.done:
            continue
        record = cells.read_record(other)
        if not record.restart and record.selection != "test-oracle" and _based_on(record) == _based_on(own):
            return cells.load_method(other, record)
    raise NotApplicableError(f"this needs the fit of bt on split {split.index} of {own.dataset}: run bt first")


def _based_on(record: PlannedRecord) -> tuple[object, ...]:
    return record.data_fingerprint, record.embedding_fingerprint, record.seed, record.protocol
