"""What a merge of several results folders recorded: rows that differ between machines, and what was kept apart.

runs/merge.json
runs/apart/<source>/<data set>/...      a results folder of its own, which no report of `runs` reads
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prbench.hyperparameters import Natural
from prbench.results.sealed import read_sealed

FILE = "merge.json"
APART = "apart"
AGAIN = "merge the folders again"

Number = Annotated[float, Field(allow_inf_nan=False)]


class MergePart(BaseModel):
    """What the parts of merge.json share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RowName(MergePart):
    """What names a row; `method` is empty where all rows of a data set and encoder are meant."""

    dataset: str
    encoder: str
    method: str = ""
    selection: str = ""

    @property
    def shown(self) -> str:
        """The row in one phrase."""
        where = f"{self.dataset} ({self.encoder})"
        return f"{self.method} ({self.selection}) on {where}" if self.method else f"all methods on {where}"


class DifferingRow(MergePart):
    """Two copies of a row that do not agree. `accuracy` are overall user accuracies, means over the splits in common.

    `decisions` is the largest share of a split's test decisions that differ, `used` the source that stands in the
    merged folder, empty where neither does.
    """

    row: RowName
    accuracy: dict[str, Number]
    splits: Natural
    decisions: Number
    used: str = ""


class ApartRow(MergePart):
    """Results that were kept apart, from which source, and why."""

    row: RowName
    source: str
    why: str


class Merge(MergePart):
    """merge.json. `twice` counts cells that several sources had, `identical` those of them with the same margins.

    `largest` is the largest difference of margins between agreeing copies, by method.
    """

    format: Literal[1]
    sources: list[str]
    prefer: str = ""
    cells: Natural
    twice: Natural
    identical: Natural
    largest: dict[str, Number] = {}
    differs: list[DifferingRow] = []
    apart: list[ApartRow] = []


def read(runs: Path | None) -> Merge | None:
    """The record of the merge that made a folder; None where none did. Raises InputError where it is damaged."""
    if runs is None or not (runs / FILE).is_file():
        return None
    return read_sealed(runs / FILE, Merge, f"{runs / FILE} is damaged", hint=AGAIN)
