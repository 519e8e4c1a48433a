"""Which code and which machine: read from files and the platform, no program is run."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("scipy", "pandas", "safetensors", "transformers", "tokenizers")


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of the checkout that prbench runs from, 40 hex digits; "" for an installed package."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        if git.is_file():
            git = (git.parent / git.read_text(encoding="utf-8").partition("gitdir:")[2].strip()).resolve()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        shared = git / "commondir"
        common = (git / shared.read_text(encoding="utf-8").strip()).resolve() if shared.is_file() else git
        for folder in (git, common):
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8").strip()
        lines = (common / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of packages that numbers may depend on, of those that are installed."""
    version_of = {}
    for name in PACKAGES:
        try:
            version_of[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return version_of


@lru_cache(maxsize=1)
def machine() -> str:
    """The system, the processor and its cores; no name of the host."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor
        )
    except OSError:
        pass
    return f"{platform.system()} {platform.machine()}, {processor}, {os.cpu_count()} cores"
