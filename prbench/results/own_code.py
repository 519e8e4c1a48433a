"""The source files behind a method of the user's own, kept beside its results for readers; never imported from there.

runs/code/<hash of the code>/<module>.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prbench.base.files import writing
from prbench.registry.code_hash import source_files

FOLDER = "code"


def keep(runs: Path, record: Mapping[str, Any]) -> Path | None:
    """Copy the files behind a cell's method, which this process has imported; None for a method of prbench."""
    code = record.get("code")
    if not code:
        return None
    folder = runs / FOLDER / str(code)
    for name, file in source_files(record["entry"]["target"].partition(":")[0]).items():
        place = folder / f"{name}.py"
        if not place.is_file():
            with writing(place) as temporary:
                temporary.write_bytes(file.read_bytes())
    return folder
