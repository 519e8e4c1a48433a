"""Results of an earlier state of a method, its entry or its data: set aside when the method runs again, so that no
report mixes the two.

runs/<data set>/<encoder>/<method>/superseded/split-<i>-<key>/    (or split-<i>-restart-<r>-<key>/)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prbench import registry
from prbench.base.files import canonical_json, require_writable
from prbench.base.leftovers import replace_folder
from prbench.results import cells as cells_module
from prbench.results.record import PlannedRecord

FOLDER = "superseded"
OTHER_CODE = "its code has changed since it ran"
OTHER_DATA = "the data set has changed since it ran"


@dataclass(frozen=True)
class Older:
    """Cells of all splits that an earlier state made, and in one phrase what has changed since."""

    cells: list[Path]
    why: str

    def __bool__(self) -> bool:
        return bool(self.cells)


def older_cells(runs: Path, record: PlannedRecord) -> Older:
    """The cells of all splits of a planned cell's method, data set, encoder and selection that an earlier state made.

    An earlier state is other code of a method that is not prbench's, a lower `revision` of the method's class, other
    parameters of an entry whose class is prbench's, and another fingerprint of a data set that comes with prbench.
    Tuned parameters are none of these: they belong to a record of tuning. Raises InputError as
    `cells_module.read_record`.
    """
    folders: list[Path] = []
    why: dict[str, None] = {}
    for file in sorted(cells_module.cell_folder(runs, record).parent.glob("split-*/cell.json")):
        other = cells_module.read_record(file.parent)
        if other.row != record.row:
            continue
        if changes := _changes(other, record):
            folders.append(file.parent)
            why |= dict.fromkeys(changes)
    return Older(folders, " and ".join(why))


def _changes(older: PlannedRecord, record: PlannedRecord) -> list[str]:
    """What has changed since a cell was made, where that is a reason to set it aside."""
    changes = []
    if record.code and older.code != record.code:
        changes.append(OTHER_CODE)
    if older.revision < record.revision:
        changes.append(
            f"its results were of revision {older.revision}, the method now has revision {record.revision}"
        )
    if not record.code and record.selection != "tuned":
        a, b = older.params, record.params
        if names := [key for key in sorted({*a, *b}) if canonical_json(a.get(key)) != canonical_json(b.get(key))]:
            changes.append(f"its entry had another value of {', '.join(names)}")
    if older.data_fingerprint != record.data_fingerprint and registry.comes_with_prbench("datasets", record.dataset):
        changes.append(OTHER_DATA)
    return changes


def set_aside(older: Older) -> Path:
    """Move cells to where no report reads them, and return that folder.

    A cell set aside before under the same name is replaced. Raises InputError without permission.
    """
    place = older.cells[0].parent / FOLDER
    for cell in older.cells:
        target = place / cell.name
        require_writable(target)
        place.mkdir(exist_ok=True)
        replace_folder(cell, target)
    return place
