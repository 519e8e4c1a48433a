"""Results that a worker without a shared disk sent back: taken into the folder of results, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from prbench.base.errors import InputError
from prbench.base.files import writing, writing_folder
from prbench.base.reading import read_bytes
from prbench.results import cells as results
from prbench.results import digests, own_code
from prbench.results.record import CellState
from prbench.running import tuned
from prbench.running.cluster.parcel import Parcel

CELL_DEPTH = 5
"""data set / encoder / method / split / file."""


def take_cells(parcel: Parcel, runs: Path) -> None:
    """Put cells, and the code behind own methods, where they belong in `runs`.

    A finished cell is compared with its digests first. Raises InputError for one that does not match them, and for a
    place that results do not have.
    """
    cells: dict[PurePosixPath, dict[str, bytes]] = {}
    for place, content in parcel.opened().items():
        path = PurePosixPath(place)
        if len(path.parts) == CELL_DEPTH and path.parts[3].startswith("split-"):
            cells.setdefault(path.parent, {})[path.name] = content
        elif len(path.parts) == 3 and path.parts[0] == own_code.FOLDER and path.suffix == ".py":
            if not (runs / path).is_file():
                with writing(runs / path) as temporary:
                    temporary.write_bytes(content)
        else:
            raise InputError(f"a worker sent {place}, which is not a file of results")
    for where, files in cells.items():
        _take_cell(runs / where, files)


def _take_cell(folder: Path, files: Mapping[str, bytes]) -> None:
    with writing_folder(folder) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if results.read_record(temporary).done:
            seals = digests.of(temporary)
            for name, content in files.items():
                if name != digests.DONE and seals.files.get(name) != hashlib.sha256(content).hexdigest():
                    raise InputError(
                        f"a worker sent {folder / name} with another sha256 than its {digests.DONE} names"
                    )
        elif (folder / "cell.json").is_file() and results.status(folder)[0] == CellState.done:
            raise InputError(f"a worker sent a failure of {folder}, which is finished", hint="run again")


def take_record(parcel: Parcel, path: Path) -> None:
    """Put a record of tuning where it belongs, unless the one there has more trials."""
    for place, content in parcel.opened().items():
        if PurePosixPath(place).name != path.name:
            raise InputError(f"a worker sent {place}, which is not the record {path.name}")
        with writing(path) as temporary:
            temporary.write_bytes(content)
            sent = tuned.read(temporary)
            if path.is_file() and len(tuned.read(path).trials) > len(sent.trials):
                temporary.write_bytes(read_bytes(path))
