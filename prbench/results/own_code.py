"""The source files behind a method of the user's own, kept beside its results for readers; never imported from there.

runs/code/<hash of the code>/<module>.py
"""

from __future__ import annotations

from pathlib import Path

from prbench.base.files import writing
from prbench.registry.code_hash import source_files
from prbench.results.record import CellRecord

FOLDER = "code"


def keep(runs: Path, record: CellRecord) -> Path | None:
    """Copy the files behind a cell's method, which this process has imported; None for a method of prbench."""
    if not record.code:
        return None
    folder = runs / FOLDER / record.code
    for name, file in source_files(record.entry.target.partition(":")[0]).items():
        place = folder / f"{name}.py"
        if not place.is_file():
            with writing(place) as temporary:
                temporary.write_bytes(file.read_bytes())
    return folder
