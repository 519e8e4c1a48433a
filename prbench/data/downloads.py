"""Raw files of a data set: at hand in PRBENCH_DATA, or downloaded once; used only after their hash is checked.

A file on the Hugging Face hub whose hash nobody published has none to check. It is pinned by the hub's revision,
its hash is part of what names the cache of the loaded data, and the loader checks its columns and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from prbench.base.errors import InputError
from prbench.base.files import file_git_blob, file_sha256, home, raw_data_folder, writing
from prbench.base.git_lfs import require_contents
from prbench.base.network import hub_address, reachable, require_usable_network_settings
from prbench.registry.schema import DatasetEntry, JudgeEntry

HUB = "hf://datasets/"
GIT = "git:"
"""What a pin begins with that is a git blob id and not a sha256."""


@dataclass(frozen=True)
class RawFile:
    """One raw file: its upstream path and address, its bytes (0: unknown), its hash ("": not pinned), where it is.

    The hash is a sha256, or "git:" and a git blob id.
    `here` is its place on this machine, or None; `place` is where prbench looks for it first without PRBENCH_DATA.
    """

    path: str
    address: str
    size: int
    hash: str
    here: Path | None
    place: Path

    @property
    def pinned(self) -> str:
        """Its hash, or that there is none."""
        return self.hash or "not pinned"


class RawFiles:
    """The raw files that a data set's entry names, each pinned by the hash that the entry gives, if any.

    A file is looked for in this order: `PRBENCH_DATA/<family>/<path>`, `PRBENCH_DATA/<data set>/<path>`,
    `PRBENCH_HOME/raw/<family>/<path>`, and then downloaded to the last of these. What comes from the Hugging Face hub
    (`base = "hf://datasets/OWNER/NAME@REVISION"`) stays in the hub's own cache instead. An entry whose
    `download.base` is not a URL but a relative folder (imported data) keeps its files in `PRBENCH_HOME/<base>`, and
    nowhere else. Where PRBENCH_DATA has all files of `download.instead`, these take the place of the others.
    """

    def __init__(self, entry: DatasetEntry | JudgeEntry) -> None:
        self.name = entry.name
        self.family = entry.family
        self.base = entry.download.base.rstrip("/") if entry.download else ""
        self.elsewhere = (
            {k: base.rstrip("/") for k, base in entry.download.elsewhere.items()} if entry.download else {}
        )
        self.hashes = dict(entry.download.files) if entry.download else {}
        self.sizes = dict(entry.download.sizes) if entry.download else {}
        self.copies = dict(entry.download.copies) if entry.download else {}
        instead = dict(entry.download.instead) if entry.download else {}
        for path in (*self.hashes, *instead, entry.family, *([] if self.is_remote else [self.base])):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                raise InputError(
                    f"data set {entry.name}: {path!r} leaves the data folder",
                    hint="name a path below it in the entry",
                )
        if instead and all(self._given(path) for path in instead):
            self.hashes = instead

    @property
    def is_remote(self) -> bool:
        """Whether the files can be downloaded."""
        return "://" in self.base

    def base_of(self, path: str) -> str:
        """What `path` is published under."""
        return self.elsewhere.get(path, self.base)

    def on_hub(self, path: str) -> bool:
        """Whether `path` comes from the Hugging Face hub."""
        return self.base_of(path).startswith(HUB)

    def url(self, path: str) -> str:
        """Where `path` is published."""
        if self.on_hub(path):
            repository, revision = self._repository(path)
            return f"https://huggingface.co/datasets/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"
        return f"{self.base_of(path)}/{quote(path)}"

    def listing(self) -> list[RawFile]:
        """Every file, by upstream path, and whether it is here; nothing is downloaded, and no hash is checked."""
        files = []
        for path in sorted(self.hashes):
            local = self._at_hand(path) or self._in_hub_cache(path)
            size = local.stat().st_size if local else self.sizes.get(path, 0)
            place = (self._own_folder() if self.is_remote else home() / self.base) / path
            files.append(RawFile(path, self.url(path), size, self.hashes[path], local, place))
        return files

    def _in_hub_cache(self, path: str) -> Path | None:
        """The file in the hub's own cache, where it is there."""
        if not self.on_hub(path):
            return None
        from huggingface_hub import try_to_load_from_cache

        repository, revision = self._repository(path)
        cached = try_to_load_from_cache(repository, path, repo_type="dataset", revision=revision)
        return Path(cached) if isinstance(cached, str) else None

    def identity(self) -> dict[str, str]:
        """What tells one version of the files from another, by upstream path: a hash, or the hub's revision.

        The hash is the pinned one; without one, that of the file at hand; without that file, the revision counts.
        """
        versions = {}
        for path, pinned in self.hashes.items():
            local = None if pinned else self._at_hand(path)
            versions[path] = pinned or (self._hash(local) if local else self._repository(path)[1])
        return versions

    def like_copies(self) -> dict[str, bool]:
        """Of the files here with copies elsewhere, by upstream path: whether the bytes are those of the copy."""
        local = {path: self._at_hand(path) or self._in_hub_cache(path) for path in sorted(self.copies)}
        return {
            path: self._hash(file, self.copies[path]) == self.copies[path] for path, file in local.items() if file
        }

    def paths(self) -> list[Path]:
        """Every file, in the sorted order of their upstream paths."""
        from prbench.base.console import progress

        names = sorted(self.hashes)
        if all(self._at_hand(name) for name in names):
            return [self.path(name) for name in names]
        with progress() as display:
            task = display.add_task(f"downloading {self.family}", total=len(names))
            paths = []
            for name in names:
                paths.append(self.path(name))
                display.advance(task)
            return paths

    def path(self, path: str) -> Path:
        """The local file of the upstream `path`.

        Raises InputError when its hash is not the pinned one, or when it is not at hand and cannot be downloaded.
        """
        if path not in self.hashes:
            raise KeyError(f"the entry of data set {self.name} names no file {path!r}")
        local = self._at_hand(path)
        if local is None:
            local = self._from_hub(path) if self.on_hub(path) else self._download(path)
        require_contents(local)
        if self.hashes[path]:
            self._check(local, self.hashes[path])
        return local

    def _at_hand(self, path: str) -> Path | None:
        if self.is_remote and (given := self._given(path)):
            return given
        file = (self._own_folder() if self.is_remote else home() / self.base) / path
        return file if file.is_file() else None

    def _given(self, path: str) -> Path | None:
        """The file in PRBENCH_DATA, where it is there."""
        given = raw_data_folder()
        folders = [given / self.family, given / self.name] if given else []
        return next((file for folder in folders if (file := folder / path).is_file()), None)

    def _own_folder(self) -> Path:
        return home() / "raw" / self.family

    def _repository(self, path: str) -> tuple[str, str]:
        """Owner and name, and revision, of the hub's data set that has `path`."""
        repository, _, revision = self.base_of(path).removeprefix(HUB).partition("@")
        return repository, revision or "main"

    def _hash(self, local: Path, like: str = "") -> str:
        """The hash of a file, of the kind that the pin `like` is."""
        try:
            return GIT + file_git_blob(local) if like.startswith(GIT) else file_sha256(local)
        except OSError as error:
            raise InputError(f"cannot read {local}: {error.strerror or error}") from error

    def _check(self, local: Path, expected: str) -> None:
        actual = self._hash(local, expected)
        if actual != expected:
            again = f"remove it and get it again: `prbench data get {self.name}`"
            remedy = again if self.is_remote else "import it again"
            raise InputError(f"{local} is not the expected file: {_differ(actual, expected)}", hint=remedy)

    def _by_hand(self, path: str) -> str:
        local = self._own_folder() / path
        return f"download it by hand to {local}, or set PRBENCH_DATA to a folder that has {self.family}/{path}"

    def _from_hub(self, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        from prbench.base.hub_errors import hub_errors

        repository, revision = self._repository(path)
        with hub_errors(
            f"{path} of the Hugging Face data set {repository}",
            page=f"https://huggingface.co/datasets/{repository}",
            revision=revision,
            instead=self._by_hand(path),
            as_error=InputError,
        ):
            return Path(
                hf_hub_download(
                    repository,
                    path,
                    repo_type="dataset",
                    revision=revision,
                    local_files_only=not reachable(hub_address()),
                )
            )

    def _download(self, path: str) -> Path:
        if not self.is_remote:
            raise InputError(f"{home() / self.base / path} is missing", hint=f"import {self.name} again")
        require_usable_network_settings()
        import logging

        import pooch
        import requests

        pooch.get_logger().setLevel(logging.WARNING)
        local = self._own_folder() / path
        url = self.url(path)
        by_hand = self._by_hand(path)
        if not reachable(url):
            raise InputError(f"cannot download {url}: no connection", hint=by_hand)
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            if self.hashes[path].startswith(GIT):
                # pooch knows no such hash: the file gets its name once it was compared.
                with writing(local) as part:
                    part.unlink()
                    pooch.retrieve(url, known_hash=None, fname=part.name, path=part.parent)
                    actual = self._hash(part, self.hashes[path])
                    if actual != self.hashes[path]:
                        message = f"{url} is not the expected file: {_differ(actual, self.hashes[path])}"
                        raise InputError(message, hint=by_hand)
                return local
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


def _differ(actual: str, expected: str) -> str:
    """The two hashes of a file that is not the expected one."""
    kind = "git blob id" if expected.startswith(GIT) else "sha256"
    return f"its {kind} is {actual.removeprefix(GIT)}, expected {expected.removeprefix(GIT)}"
