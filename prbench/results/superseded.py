"""Results of a method's earlier code: set aside when the edited method runs, so that no report mixes the two.

runs/<data set>/<encoder>/<method>/superseded/split-<i>-<key>/
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prbench.base.files import require_writable
from prbench.results import cells as cells_module
from prbench.results import scores

FOLDER = "superseded"
WHY = "its code is not what it was when it ran before"


def cells_of_older_code(runs: Path, record: Mapping[str, Any]) -> list[Path]:
    """The cells of all splits of a planned cell's method, data set, encoder and selection that other code made.

    None for a method of prbench, whose records name no code. Raises InputError as `cells_module.read_record`.
    """
    if not record.get("code"):
        return []
    found = []
    for cell in sorted(cells_module.cell_folder(runs, record).parent.glob("split-*/cell.json")):
        other = cells_module.read_record(cell.parent)
        same = all(other[key] == record[key] for key in scores.COLUMNS)
        if same and other.get("code") != record["code"]:
            found.append(cell.parent)
    return found


def set_aside(cells: list[Path]) -> None:
    """Move cells where no report reads them; a cell set aside before under the same name is replaced."""
    for cell in cells:
        target = cell.parent / FOLDER / cell.name
        require_writable(target)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        cell.rename(target)
