"""Getting the files of a Hugging Face model: from a folder, or from the hub and its cache."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from prbench.base.errors import InputError
from prbench.base.files import digest, expanded, file_sha256, home, write_json
from prbench.base.git_lfs import require_contents
from prbench.base.network import hub_address, reachable
from prbench.base.reading import read_json
from prbench.encoders import MODEL_FILES
from prbench.encoders.base import ModelUnavailableError

SMALL = ["*.json", "*.jinja", "*.model", "*.txt"]
WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]


class Snapshot(NamedTuple):
    """A model's files: their folder, its name without a path, and the commit or hash that pins them."""

    folder: Path
    name: str
    revision: str


def snapshot(model: str, revision: str) -> Snapshot:
    """The small files of a model; a folder is taken as it is, a hub id looked up and downloaded.

    Raises ModelUnavailableError when they cannot be had, in one line that says what to place where.
    """
    folder = expanded(model)
    if folder.is_dir():
        folder = folder.resolve()
        if not (folder / "config.json").is_file():
            if (folder / "adapter_config.json").is_file():
                raise ModelUnavailableError(
                    f"{folder} is a LoRA adapter, not a whole model", hint="name the folder of a whole model here"
                )
            raise ModelUnavailableError(f"{folder} holds no config.json", hint=f"a model's folder has {MODEL_FILES}")
        return Snapshot(folder, folder.name, content_revision(digests(folder)))
    download = _download(model, revision, SMALL)
    return Snapshot(download, model, download.name)


def with_weights(model: str, small_files: Snapshot) -> Path:
    """The folder with the model's weights too, downloaded where they are not there yet.

    Raises ModelUnavailableError when there are none. Pickled weights are never read.
    """
    folder = small_files.folder
    if not expanded(model).is_dir():
        folder = _download(model, small_files.revision, [*SMALL, *WEIGHTS])
    if not any(folder.glob("*.safetensors")):
        raise ModelUnavailableError(
            f"{model} has no *.safetensors weights", hint="convert them with transformers' save_pretrained"
        )
    return folder


def weights_here(model: str, small_files: Snapshot) -> int | None:
    """The bytes of the model's weights on this machine, or None unless all are here. Nothing is downloaded."""
    folder = small_files.folder
    files = list(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not expanded(model).is_dir():
        try:
            files = [folder / name for name in set(read_json(index)["weight_map"].values())]
        except (InputError, KeyError, AttributeError, TypeError):
            return None
    if not files or not all(file.is_file() for file in files):
        return None
    return sum(file.stat().st_size for file in files)


def _download(model: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    from prbench.base.hub_errors import hub_errors

    with hub_errors(
        model,
        page=f"https://huggingface.co/{model}",
        revision=revision,
        instead=f"place {MODEL_FILES} in a folder and name it: --encoder NAME=FOLDER for the entry NAME, or"
        " --encoder FOLDER; or copy another machine's hub cache and set HF_HOME",
        as_error=ModelUnavailableError,
    ):
        offline = not reachable(hub_address())
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=offline))


# What transformers may read of a folder beside configuration, fast tokenizer and weights. Their digests join the
# revision where there are such files and the fast tokenizer does not stand in for them.
ALSO_READ = (
    *("added_tokens.json", "special_tokens_map.json", "modules.json", "sentence_bert_config.json"),
    *("adapter_config.json", "config_sentence_transformers.json"),
)
SLOW_TOKENIZERS = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "*.tiktoken", "*.bpe.codes")


def content_revision(sums: dict[str, str]) -> str:
    """16 hex digits of a folder's `digests`."""
    return digest(sums)


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder that tokenizer and model are read from, by its path in the folder.

    The digest of a file is kept with its size, times and inode, so that it is computed once; putting another file
    in its place, even one of the same size and time of change, gives it another inode or another ctime. Raises
    InputError for a file that Git LFS has not fetched.
    """
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", *ALSO_READ]
    patterns = ["*.safetensors", "[0-9]*_*/*.json", "[0-9]*_*/*.safetensors"]
    if not (folder / "tokenizer.json").is_file():
        patterns += SLOW_TOKENIZERS
    paths = {path for name in names if (path := folder / name).is_file()}
    paths |= {path for pattern in patterns for path in folder.glob(pattern)}
    memory = home() / "cache" / "weights.json"
    try:
        known = read_json(memory)
    except InputError:
        known = {}
    known = known if isinstance(known, dict) else {}
    before = dict(known)
    sums = {}
    for path in sorted(paths):
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = known.get(str(path))
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == state):
            require_contents(path)
            entry = known[str(path)] = [state, file_sha256(path)]
        sums[path.relative_to(folder).as_posix()] = entry[1]
    if known != before:
        write_json(memory, known)
    return sums
