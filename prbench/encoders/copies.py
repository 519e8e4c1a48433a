"""A local copy of a published model, read under its published name: `--encoder skywork-v2=FOLDER`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from prbench.base.errors import InputError
from prbench.base.reading import read_bytes, read_json
from prbench.encoders import HUGGING_FACE, MODEL_FILES, encoder_entry_for
from prbench.encoders.hub_models import Snapshot, content_revision, digests
from prbench.registry.schema import EncoderEntry

# How far the size of a copy's weights may lie from the entry's, which is about.
SIZE_SHARE = 0.1
COMMIT = re.compile(r"[0-9a-f]{40}")


def copied(name: str, folder: Path) -> EncoderEntry:
    """The entry called `name`, its model's files being read from `folder`.

    Raises InputError for an entry without a model of the hub, and for a folder whose model is not as wide or not as
    large as the entry says; the end token that an entry names is checked where the model is opened.
    """
    entry = encoder_entry_for(name)
    option = f"--encoder {name}={folder}"
    if entry.target != HUGGING_FACE:
        raise InputError(
            f"{option}: {name} does not read a model's folder", hint=f"--encoder {name}, or --encoder FOLDER"
        )
    if not folder.is_dir():
        raise InputError(f"{option}: {folder} is not a folder", hint=f"a model's folder holds {MODEL_FILES}")
    config = folder / "config.json"
    try:
        width = read_json(config, infinite=True).get("hidden_size")
    except (InputError, AttributeError) as error:
        raise InputError(
            f"{option}: {config} cannot be read", hint=f"a model's folder holds {MODEL_FILES}"
        ) from error
    if entry.size.dim and width != entry.size.dim:
        raise InputError(
            f"{option}: its states are {width} wide, those of {entry.options['model']} {entry.size.dim}",
            hint="--encoder FOLDER takes another model, under its own name",
        )
    weights_gb = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    known = entry.size.weights_gb
    if known and abs(weights_gb - known) > SIZE_SHARE * known:
        raise InputError(
            f"{option}: its weights are {weights_gb:.1f} GB, those of {entry.options['model']} about {known:.1f}",
            hint="copy all *.safetensors files; --encoder FOLDER takes another model, under its own name",
        )
    return entry.model_copy(update={"options": {**entry.options, "copy": str(folder.resolve())}})


def copy_of(model: str, folder: Path) -> Snapshot:
    """The files of a copy of the hub's `model`, pinned by the commit that they are of, else by their contents.

    The commit is known of folders that the hub's own tools wrote, and counts where the contents are what these tools
    noted: then embeddings are the same ones as by the hub's id. Raises InputError for an unfetched file of Git LFS.
    """
    sums = digests(folder)
    return Snapshot(folder, model, _commit(folder, sums) or content_revision(sums))


def _commit(folder: Path, sums: dict[str, str]) -> str:
    """The commit that every file of `sums` is of, or "" where that is not known of one, or is not so."""
    commits = set()
    for path, sha256 in sums.items():
        commit, etag = _noted(folder, path)
        if etag not in (sha256, _blob(folder / path) if len(etag) == 40 else ""):
            return ""
        commits.add(commit)
    return commits.pop() if len(commits) == 1 else ""


def _noted(folder: Path, path: str) -> tuple[str, str]:
    """Commit and hash of a file as the hub's tools noted them, "" where they did not."""
    file = folder / path
    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
        # The hub's cache: the file links to a blob that is called by its hash.
        return folder.name, file.resolve().name
    try:
        lines = read_bytes(folder / ".cache/huggingface/download" / f"{path}.metadata").decode().split()
    except (InputError, UnicodeDecodeError):
        return "", ""
    return (lines[0], lines[1]) if len(lines) > 1 and COMMIT.fullmatch(lines[0]) else ("", "")


def _blob(path: Path) -> str:
    """The hash that git gives a file's contents."""
    contents = read_bytes(path)
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents, usedforsecurity=False).hexdigest()
