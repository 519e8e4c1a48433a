"""The key of a cell: the digest of exactly what changes its scores. What is only recorded is in `record`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from prbench.base.files import digest
from prbench.results.record import FORMAT, Precision

LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class CellKey:
    """What changes the scores of a cell.

    `data` and `embedding` are fingerprints, `protocol` the values of its entry but for the number of splits. `draw`
    is the split's, `split_file` the digest of a division that the protocol does not draw, `restart` numbers the
    split's random starts, `code` stands for the source of a method that is not prbench's, `rule` is what a tuned
    cell chose by, and `models` is the digest of the further judge models that parameters name. A field with a default
    was added when there were results already, and is part of the key only away from it.
    """

    protocol_version: int
    data: str
    embedding: str
    protocol: Mapping[str, Any]
    split: int
    seed: int
    target: str
    params: Mapping[str, Any]
    selection: str
    draw: int = 0
    code: str = ""
    revision: int = 1
    rule: str = ""
    precision: Precision = "highest"
    split_file: str = ""
    restart: int = 0
    models: str = ""

    def digest(self) -> str:
        """The first hex digits of the sha256 of the canonical JSON of these values."""
        named = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        values = {name: value for name, (value, default) in named.items() if value != default}
        return digest({"format": FORMAT, **values}, length=LENGTH)
