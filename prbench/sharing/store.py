"""A store of many people's results: a folder (or a git checkout), or a data set repository of the Hugging Face hub.

    store/submissions/<id>/      a pack; the id is the digest of its list of cells

Nothing leaves before all of it was checked, and nothing is sent unless that was asked for. What is fetched is checked
in the same way, and merged by the rule for copies of a cell.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prbench.base.errors import InputError
from prbench.base.files import digest, writing_folder
from prbench.results import cells
from prbench.results.merged import Merge
from prbench.sharing import pack as packing
from prbench.sharing.checks import Board, check
from prbench.sharing.merge import merge

SUBMISSIONS = "submissions"
HUB = "hf://datasets/"


class Store(Protocol):
    """Where submissions are kept."""

    def records(self) -> Path:
        """A folder with at least the records of all submissions."""

    def everything(self) -> Path:
        """A folder with all submissions."""

    def add(self, folder: Path, name: str) -> str:
        """Add the pack `folder` as submission `name`; returns where it is now."""


@dataclass(frozen=True)
class FolderStore:
    """A plain folder."""

    folder: Path

    def records(self) -> Path:
        """As `Store.records`."""
        return self.folder

    def everything(self) -> Path:
        """As `Store.everything`."""
        return self.folder

    def add(self, folder: Path, name: str) -> str:
        """As `Store.add`: whole or not at all."""
        target = self.folder / SUBMISSIONS / name
        with writing_folder(target) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True)
        return str(target)


@dataclass(frozen=True)
class HubStore:
    """A data set repository OWNER/NAME of the hub; additions are pull requests to it."""

    name: str

    def records(self) -> Path:
        """As `Store.records`: the small files alone are downloaded."""
        return self._download([f"{SUBMISSIONS}/*/{packing.MANIFEST}", f"{SUBMISSIONS}/*/*/*/*/split-*/cell.json"])

    def everything(self) -> Path:
        """As `Store.everything`."""
        return self._download([f"{SUBMISSIONS}/**"])

    def add(self, folder: Path, name: str) -> str:
        """As `Store.add`: opens a pull request and returns its address."""
        from huggingface_hub import HfApi

        with self._errors("submit to"):
            done = HfApi().upload_folder(
                repo_id=self.name,
                repo_type="dataset",
                folder_path=folder,
                path_in_repo=f"{SUBMISSIONS}/{name}",
                commit_message=f"Add results {name}",
                create_pr=True,
            )
        return str(done.pr_url)

    def _download(self, patterns: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        with self._errors("download"):
            return Path(snapshot_download(self.name, repo_type="dataset", allow_patterns=patterns))

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        from prbench.base.hub_errors import hub_errors

        page = f"https://huggingface.co/datasets/{self.name}"
        instead = "use a folder: --store PATH"
        with hub_errors(
            f"{HUB}{self.name}", page=page, revision="main", instead=instead, as_error=InputError, action=action
        ):
            yield


def open_store(where: str) -> Store:
    """The store of `--store`: hf://datasets/OWNER/NAME, or a folder that is there."""
    if where.startswith(HUB):
        return HubStore(where.removeprefix(HUB).strip("/"))
    if "://" in where:
        raise InputError(f"--store {where} is not a store", hint=f"a folder, or {HUB}OWNER/NAME")
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", hint="make the store's folder first")
    return FolderStore(folder)


@dataclass(frozen=True)
class Submission:
    """What would be, or was, submitted: its name, its size and, once it is sent, where it is."""

    name: str
    cells: int
    rows: int
    bytes: int
    place: str = ""


def submit(runs: Path, store: Store, *, send: bool) -> Submission:
    """Check results (a folder, pack or archive) for a store, and `send` them there without models.

    Raises InputError as `check`, where the store has these results already, and where it has results of other data
    under the name of the same data set.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(packing.opened(runs))
        if not packing.is_pack(folder):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prbench-submission-")))
            folder = packing.pack(folder, place / "pack").path
        boards = check(folder, shown=runs)
        manifest = packing.read_manifest(folder, runs)
        if manifest.models:
            raise InputError(f"{runs} was packed with models", hint="pack it again without --with-models")
        name = digest({"cells": manifest.cells, "submitted": manifest.submitted})
        _require_new(name, boards, store.records())
        return Submission(
            name=name,
            cells=len(manifest.cells),
            rows=len({Path(cell).parent for cell in manifest.cells}) + len(manifest.submitted),
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            place=store.add(folder, name) if send else "",
        )


def _require_new(name: str, boards: dict[Board, set[str]], store: Path) -> None:
    place = store / SUBMISSIONS
    if (place / name).is_dir():
        raise InputError(f"the store has these results already, as {name}")
    for other in sorted(place.glob("*")) if place.is_dir() else ():
        for cell in cells.folders(other):
            record = packing.quick_record(cell)
            known = boards.get((record.dataset, record.encoder), set())
            if further := sorted(known - {record.data_fingerprint}):
                raise InputError(
                    f"{record.dataset} is other data here (fingerprint {further[0]}) than in the store "
                    f"({record.data_fingerprint}, {other.name})",
                    hint="give a data set of your own a name of its own, or get the data set again",
                )


@dataclass(frozen=True)
class Fetched:
    """What was fetched: the merge, and why submissions were left out."""

    merge: Merge
    left_out: list[str] = field(default_factory=list)


def fetch(store: Store, out: Path, *, prefer: str = "") -> Fetched:
    """Merge all submissions of a store into the new folder `out`.

    A submission that does not keep the rules is left out and told. Raises InputError where nothing is left, and as
    `merge`.
    """
    place = store.everything() / SUBMISSIONS
    good: list[Path] = []
    left_out = []
    for folder in sorted(place.glob("*")) if place.is_dir() else ():
        if not (folder / packing.MANIFEST).is_file():
            continue
        try:
            check(folder, shown=Path(folder.name))
        except InputError as error:
            left_out.append(f"{folder.name} is left out: {error.args[0]}")
        else:
            good.append(folder)
    if not good:
        reason = f"; {left_out[0]}" if left_out else ""
        raise InputError(f"the store has no results to fetch{reason}")
    chosen = place / prefer if prefer else None
    if chosen and chosen not in good:
        raise InputError(
            f"--prefer {prefer} is not among the submissions", hint=", ".join(path.name for path in good)
        )
    return Fetched(merge(good, out, prefer=chosen, least=1), left_out)
