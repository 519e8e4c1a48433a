"""Splits as files: one JSON manifest a split, which names every comparison by its key.

    splits/
        splits.json      the files of the folder with their sha256
        split-0.json     who is seen and unseen, and which comparisons are train, support and test

A split that is read back is the one that the protocol draws, where it has the same rows in the same order: its cells
then have the same keys. Any other division is run as it stands, and its cells have keys of their own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from prbench.base.errors import InputError
from prbench.base.files import digest, file_sha256, write_json, writing_folder
from prbench.base.reading import sealed
from prbench.comparisons import IntArray, PreferenceData
from prbench.hyperparameters import Natural
from prbench.protocol import PROTOCOL_VERSION
from prbench.protocol.repeats import require_apart, shared_with_training
from prbench.protocol.splits import TUNING_FROM, Split, make_split
from prbench.registry.schema import ProtocolEntry, Sha256
from prbench.results.sealed import Sealed, read_sealed
from prbench.sharing.keys import ComparisonKey, Portability, comparison_keys, portability

FORMAT = 1
INDEX = "splits.json"
AGAIN = "get the file again, or make it with `prbench splits export`"
PARTS = {"seen": ("train", "test"), "unseen": ("support", "test")}
"""What each population's comparisons are for."""

Keys = list[ComparisonKey]


class Part(BaseModel):
    """What files of splits share: strict, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UserPart(Part):
    """One user's comparisons. `train` belongs to seen users, `support` to unseen ones; both are in drawn order."""

    population: Literal["seen", "unseen"]
    train: Keys = []
    support: Keys = []
    test: Keys
    id: str | None = None

    def rows(self) -> Keys:
        """Everything, in the order of the parts."""
        return [*self.train, *self.support, *self.test]


class SplitManifest(Part):
    """split-<i>.json. `seed` is the base seed: split i is drawn with seed + i."""

    format: Literal[1]
    dataset: str
    data_fingerprint: str
    comparison_keys: Portability
    protocol: ProtocolEntry
    protocol_version: int
    split: Annotated[int, Field(ge=0, lt=TUNING_FROM)]
    seed: int
    draw: Natural
    dropped: dict[str, Natural]
    users: list[UserPart]


class SplitIndex(Part):
    """splits.json: the files that belong together."""

    format: Literal[1]
    files: dict[Annotated[str, Field(pattern=r"^split-\d{1,4}\.json$")], Sha256]


def export(
    data: PreferenceData, protocol: ProtocolEntry, splits: Sequence[Split], out: Path, *, with_ids: bool = False
) -> list[Path]:
    """Write the manifests of `splits` and their index into the new folder `out`; returns the files.

    Users' source ids are written only `with_ids`, into files that their owner alone can read. Raises InputError
    where `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} is not an empty folder", hint="name a new folder")
    keys = comparison_keys(data)
    with writing_folder(out) as temporary:
        for split in splits:
            path = temporary / f"split-{split.index}.json"
            if with_ids:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            write_json(path, sealed(_manifest(data, protocol, split, keys, with_ids)))
            if with_ids:
                path.chmod(0o600)
        files = {path.name: file_sha256(path) for path in sorted(temporary.glob("split-*.json"))}
        write_json(temporary / INDEX, sealed({"format": FORMAT, "files": files}))
    return [out / f"split-{split.index}.json" for split in splits] + [out / INDEX]


def _manifest(
    data: PreferenceData, protocol: ProtocolEntry, split: Split, keys: list[str], with_ids: bool
) -> dict[str, Any]:
    def of(rows: IntArray, user: int) -> list[str]:
        return [keys[row] for row in rows[data.user[rows] == user]]

    users = []
    for population, numbers in (("seen", split.seen), ("unseen", split.unseen)):
        for user in numbers.tolist():
            parts = {part: of(getattr(split, f"{population}_{part}"), user) for part in PARTS[population]}
            users.append({"population": population, **parts} | ({"id": data.user_keys[user]} if with_ids else {}))
    return {
        "format": FORMAT,
        "dataset": data.name,
        "data_fingerprint": data.fingerprint,
        "comparison_keys": portability(data),
        "protocol": protocol.model_dump(),
        "protocol_version": PROTOCOL_VERSION,
        "split": split.index,
        "seed": split.seed - split.index,
        "draw": split.draw,
        "dropped": dict(split.dropped),
        "users": users,
    }


class SplitFiles:
    """A folder of manifests that were read: all of one data set and protocol, by rising number."""

    def __init__(self, folder: Path, manifests: Mapping[Path, SplitManifest]) -> None:
        self.folder = folder
        self.manifests = dict(sorted(manifests.items(), key=lambda item: item[1].split))
        first = next(iter(self.manifests.values()))
        self.dataset, self.protocol = first.dataset, first.protocol

    def splits(self, data: PreferenceData) -> list[Split]:
        """The splits on `data`. Raises InputError naming the first comparison that `data` do not have."""
        row_of = {key: row for row, key in enumerate(comparison_keys(data))}
        return [_split(data, manifest, row_of, path) for path, manifest in self.manifests.items()]


def read_folder(folder: Path) -> SplitFiles:
    """Read the manifests of a folder.

    Raises InputError, naming the file, where one is damaged, missing or of another version of the protocol, and
    where two are of different data sets or protocols or have one number.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder of split files {folder}", hint="make one with `prbench splits export`")
    paths = sorted(folder.glob("split-*.json"))
    if (folder / INDEX).is_file():
        index: SplitIndex = _read(folder / INDEX, SplitIndex)
        paths = [folder / name for name in index.files]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{folder} lacks {path.name}, which {INDEX} lists", hint=AGAIN)
            if file_sha256(path) != index.files[path.name]:
                raise InputError(f"{path} is damaged: its sha256 is not the one in {INDEX}", hint=AGAIN)
    if not paths:
        raise InputError(f"{folder} holds no split files", hint="make some with `prbench splits export`")
    manifests: dict[Path, SplitManifest] = {path: _read(path, SplitManifest) for path in paths}
    first_path, first = next(iter(manifests.items()))
    numbers: dict[int, Path] = {}
    for path, manifest in manifests.items():
        if manifest.protocol_version != PROTOCOL_VERSION:
            raise InputError(
                f"{path} is of version {manifest.protocol_version} of the protocol, this prbench has version "
                f"{PROTOCOL_VERSION}",
                hint="export the splits again with this prbench",
            )
        for name in ("dataset", "protocol", "comparison_keys"):
            if getattr(manifest, name) != getattr(first, name):
                raise InputError(
                    f"{path} and {first_path} are of different kinds: their {name.replace('_', ' ')} differs",
                    hint="keep the split files of each data set and protocol in a folder of their own",
                )
        if (other := numbers.setdefault(manifest.split, path)) != path:
            raise InputError(f"{path} and {other} both say that they are split {manifest.split}", hint=AGAIN)
    return SplitFiles(folder, manifests)


def _read(path: Path, kind: type[Sealed]) -> Sealed:
    """A file as a record of `kind`. Raises InputError that names the file and the key."""
    return read_sealed(path, kind, f"{path} is not a file of splits", hint=AGAIN)


def _split(data: PreferenceData, manifest: SplitManifest, row_of: Mapping[str, int], path: Path) -> Split:
    """One manifest on `data`: the split of the protocol where it is that one, else a split of its own."""
    sides: dict[int, UserPart] = {}
    taken: set[str] = set()
    for number, part in enumerate(manifest.users):
        _require_whole(part, number, path)
        for key in part.rows():
            if key not in row_of:
                raise InputError(
                    f"{path} is of other data than {data.name}: there is no comparison {key}",
                    hint=f"it was made from {manifest.dataset}, fingerprint {manifest.data_fingerprint}; here "
                    f"{data.name} has {data.fingerprint}",
                )
            if key in taken:
                raise InputError(f"{path} names the comparison {key} twice", hint=AGAIN)
            taken.add(key)
        users = {int(data.user[row_of[key]]) for key in part.rows()}
        if len(users) > 1 or users & sides.keys():
            raise InputError(f"{path}: users.{number} is not one person of {data.name}", hint=AGAIN)
        sides[users.pop()] = part
    rows = {f"{p}_{part}": _rows(sides, p, part, row_of) for p, parts in PARTS.items() for part in parts}
    people = {p: np.array(sorted(u for u, s in sides.items() if s.population == p), dtype=np.int64) for p in PARTS}
    for population, numbers in people.items():
        if not len(numbers):
            raise InputError(f"{path} has no {population} user", hint=AGAIN)
    if (drawn := _drawn(data, manifest)) and _is(drawn, people, rows):
        return drawn
    train = np.concatenate([rows["seen_train"], rows["unseen_support"]])
    test = np.concatenate([rows["seen_test"], rows["unseen_test"]])
    require_apart(data, train, test)
    return Split(
        index=manifest.split,
        seed=manifest.seed + manifest.split,
        **people,
        **rows,
        dropped=manifest.dropped,
        shared=shared_with_training(data, train, test),
        draw=manifest.draw,
        file=digest([part.model_dump(exclude={"id"}) for part in manifest.users]),
    )


def _require_whole(part: UserPart, number: int, path: Path) -> None:
    """Raise InputError unless a user has the parts of its population, and something in each."""
    wanted = PARTS[part.population]
    for name in ("train", "support", "test"):
        if bool(getattr(part, name)) != (name in wanted):
            state = "lacks" if name in wanted else "has"
            raise InputError(f"{path}: users.{number}, who is {part.population}, {state} {name} rows", hint=AGAIN)


def _rows(sides: Mapping[int, UserPart], population: str, part: str, row_of: Mapping[str, int]) -> IntArray:
    """The rows of a part, users ascending; those of a test in the data's order, as every split has them."""
    rows: list[int] = []
    for user in sorted(sides):
        if sides[user].population == population:
            part_rows = [row_of[key] for key in getattr(sides[user], part)]
            rows += sorted(part_rows) if part == "test" else part_rows
    return np.array(rows, dtype=np.int64)


def _drawn(data: PreferenceData, manifest: SplitManifest) -> Split | None:
    """The split that the protocol draws under the manifest's number, or None where it draws none."""
    try:
        return make_split(data, manifest.protocol, index=manifest.split, seed=manifest.seed, draw=manifest.draw)
    except InputError:
        return None


def _is(split: Split, people: Mapping[str, IntArray], rows: Mapping[str, IntArray]) -> bool:
    return all(np.array_equal(getattr(split, name), values) for name, values in {**people, **rows}.items())
