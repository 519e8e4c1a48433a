"""Raw files of a data set: at hand in PRBENCH_DATA, or downloaded once; used only after their hash is checked."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import quote

from prbench.entries import DatasetEntry
from prbench.errors import InputError
from prbench.files import file_sha256, home, raw_data_folder


class RawFiles:
    """The raw files that a data set's entry names, each pinned by its sha256.

    A file is looked for in this order: `PRBENCH_DATA/<family>/<path>`, `PRBENCH_DATA/<data set>/<path>`,
    `PRBENCH_HOME/raw/<family>/<path>`, and then downloaded to the last of these. An entry whose `download.base`
    is no URL but a relative folder (imported data) keeps its files in `PRBENCH_HOME/<base>`, and nowhere else.
    """

    def __init__(self, entry: DatasetEntry) -> None:
        self.name = entry.name
        self.family = entry.family
        self.base = entry.download.base.rstrip("/") if entry.download else ""
        self.hashes = dict(entry.download.files) if entry.download else {}
        for path in (*self.hashes, entry.family, *([] if self.is_remote else [self.base])):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                raise InputError(
                    f"data set {entry.name}: {path!r} leaves the data folder",
                    hint="name a path below it in the entry",
                )

    @property
    def is_remote(self) -> bool:
        """Whether the files can be downloaded."""
        return "://" in self.base

    def url(self, path: str) -> str:
        """Where `path` is published."""
        return f"{self.base}/{quote(path)}"

    def paths(self) -> list[Path]:
        """Every file, in the sorted order of their upstream paths."""
        from prbench.console import progress

        names = sorted(self.hashes)
        if all(self._at_hand(name) for name in names):
            return [self.path(name) for name in names]
        with progress() as display:
            task = display.add_task(f"downloading {self.family}", total=len(names))
            found = []
            for name in names:
                found.append(self.path(name))
                display.advance(task)
            return found

    def path(self, path: str) -> Path:
        """The local file of the upstream `path`.

        Raises InputError when its hash is not the pinned one, or when it is not at hand and cannot be downloaded.
        """
        if path not in self.hashes:
            raise KeyError(f"the entry of data set {self.name} names no file {path!r}")
        local = self._at_hand(path)
        if local is None:
            return self._download(path)
        self._check(local, self.hashes[path])
        return local

    def _at_hand(self, path: str) -> Path | None:
        if not self.is_remote:
            folders = [home() / self.base]
        else:
            given = raw_data_folder()
            folders = [given / self.family, given / self.name] if given else []
            folders.append(self._own_folder())
        return next((file for folder in folders if (file := folder / path).is_file()), None)

    def _own_folder(self) -> Path:
        return home() / "raw" / self.family

    def _check(self, local: Path, expected: str) -> None:
        try:
            found = file_sha256(local)
        except OSError as error:
            raise InputError(f"cannot read {local}: {error.strerror or error}") from error
        if found != expected:
            remedy = (
                f"remove it and get it again: `prbench data get {self.name}`" if self.is_remote else "import it again"
            )
            raise InputError(
                f"{local} is not the expected file: its sha256 is {found}, expected {expected}", hint=remedy
            )

    def _download(self, path: str) -> Path:
        if not self.is_remote:
            raise InputError(f"{home() / self.base / path} is missing", hint=f"import {self.name} again")
        import logging

        import pooch
        import requests

        pooch.get_logger().setLevel(logging.WARNING)
        local = self._own_folder() / path
        url = self.url(path)
        by_hand = f"download it by hand to {local}, or set PRBENCH_DATA to a folder that has {self.family}/{path}"
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(url, known_hash=f"sha256:{self.hashes[path]}", fname=local.name, path=local.parent)
        except requests.RequestException as error:
            response = getattr(error, "response", None)
            reason = f"the server says {response.status_code}" if response is not None else type(error).__name__
            raise InputError(f"cannot download {url}: {reason}", hint=by_hand) from error
        except ValueError as error:
            # pooch discards what it downloaded; only its message holds the hash that was found.
            if "hash" not in str(error).lower():
                raise InputError(f"cannot download {url}: {error}", hint=by_hand) from error
            raise InputError(f"{url} is not the expected file: {error}", hint=by_hand) from error
        except OSError as error:
            raise InputError(f"cannot write {local}: {error.strerror or error}", hint=by_hand) from error
        return local
