"""The DONE record of a finished cell: which files it has, their sha256, and the accuracies that they give.

A digest finds damage and careless edits, not deceit. Cells of an earlier prbench have no digests: they are read, and
counted as unverified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from prbench.base.errors import InputError
from prbench.base.files import file_sha256, write_json
from prbench.base.locks import alone
from prbench.base.reading import read_bytes, sealed
from prbench.protocol.metrics import decisions
from prbench.registry.schema import Sha256
from prbench.results.locks import SHARED
from prbench.results.sealed import read_perhaps_sealed

DONE = "DONE"
RECORD = "cell.json"


class DoneRecord(BaseModel):
    """What DONE says. `files` is empty in a cell of an earlier prbench; those `left_out` were not packed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    shots: list[int]
    files: dict[str, Sha256] = {}
    accuracy: dict[str, float] = {}
    left_out: list[Literal["model.safetensors"]] = []


@dataclass(frozen=True)
class Seals:
    """The digests of a cell's files, by name."""

    folder: Path
    files: Mapping[str, str] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    shots: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the cell was written with digests, so that a file without one is not part of it."""
        return RECORD in self.files

    def has(self, path: Path) -> bool:
        """Whether a file is part of the cell: one that a killed program left is not."""
        return path.is_file() and (not self.complete or path.name in self.files)

    def read(self, path: Path, hint: str) -> bytes:
        """The bytes of one of the cell's files. Raises InputError where they are not what was written."""
        content = read_bytes(path, hint=hint)
        self.compare(path, content, hint)
        return content

    def compare(self, path: Path, content: bytes, hint: str) -> None:
        """Raise InputError where `content`, read from one of the cell's files, is not what was written."""
        self._compare(path, hashlib.sha256(content).hexdigest(), hint)

    def check(self, path: Path, hint: str) -> None:
        """As `read`, for a file that something else reads."""
        try:
            self._compare(path, file_sha256(path) if path.name in self.files else "", hint)
        except OSError as error:
            raise InputError(f"{path} is unreadable: {error.strerror or error}", hint=hint) from error

    def _compare(self, path: Path, sha256: str, hint: str) -> None:
        if self.files.get(path.name, sha256) != sha256:
            raise InputError(f"{path} is damaged: its sha256 is not the one in {DONE}", hint=hint)


def of(folder: Path) -> Seals:
    """The digests of a cell; none where there is no DONE record or an earlier prbench wrote it.

    Raises InputError where DONE itself is damaged.
    """
    path = folder / DONE
    if not path.is_file():
        return Seals(folder)
    hint = f"delete {folder} and run again"
    record, has_digest = read_perhaps_sealed(path, DoneRecord, f"{path} is damaged", hint=hint)
    if bool(record.files) != has_digest:
        raise InputError(f"{path} is damaged: it lacks a part of its digests", hint=hint)
    return Seals(folder, record.files, record.accuracy, tuple(record.shots), tuple(record.left_out))


def write(folder: Path, shots: list[int], accuracy: Mapping[str, float]) -> None:
    """Write DONE for the files in `folder`, the last file of a cell."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != DONE}
    write_record(folder, shots, files, accuracy)


def write_record(
    folder: Path,
    shots: list[int],
    files: Mapping[str, str],
    accuracy: Mapping[str, float],
    left_out: Sequence[str] = (),
) -> None:
    """Write DONE with these digests; those of the files `left_out` are kept although the files are not there."""
    record = {"shots": shots, "files": dict(files), "accuracy": dict(accuracy)}
    write_json(folder / DONE, sealed(record | ({"left_out": list(left_out)} if left_out else {})))


def add(path: Path, runs: Path) -> None:
    """Take a file that was written later into the DONE record of its cell; `runs` is the results folder."""
    with alone(runs / SHARED, "done"):
        before = of(path.parent)
        files = {**before.files, path.name: file_sha256(path)}
        write_record(path.parent, list(before.shots), files, before.accuracy, before.left_out)


def accuracies(columns: Mapping[str, Any]) -> dict[str, float]:
    """The mean user accuracy of the seen, the unseen and all users in the columns of a scores file."""
    population = np.asarray(columns["population"]).astype(str)
    right, user = decisions(columns["margin"]), np.asarray(columns["user"])
    means: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for name in ("seen", "unseen"):
        mine = population == name
        if mine.any():
            _, place = np.unique(user[mine], return_inverse=True)
            means[name] = np.bincount(place, right[mine]) / np.bincount(place)
    accuracy = {name: float(values.mean()) for name, values in means.items()}
    return {**accuracy, "overall": float(np.concatenate(list(means.values())).mean())} if means else {}
