"""Names of models that are given as folders: the folder's own name, and what tells folders of one name apart."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path

from prbench.base.errors import InputError, near

MARKED = re.compile(r"(?P<plain>.+)-[0-9a-f]{8}(?P<variant>@.*)?")


def folder_model(folder: Path, entries: Container[str]) -> tuple[str, str]:
    """Name and title of the model in a folder, given as an absolute path.

    The name is the folder's own and 8 hex digits of its path, under which results are kept. The title is the folder's
    own name alone unless one of `entries` is called so; `plain_names` takes it from there.
    """
    plain = _safe(folder.name) or "model"
    name = f"{plain}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return name, name if plain in entries else folder.name


def plain_names(titles: Mapping[str, str]) -> dict[str, str]:
    """What each model is called in a table, by its name: that of its folder, where no other model is called so.

    `titles` are the titles that the models' entries have, by their names.
    """
    plain = {name: _plain(name, title) for name, title in titles.items()}
    counts = Counter(plain.values())
    return {name: each if counts[each] == 1 else name for name, each in plain.items()}


def unknown_folder(option: str, name: str, noun: str, known: list[str], listing: str) -> InputError:
    """An error for a name that is neither one of the `known` entries nor a folder here, with the nearest of both.

    Of folders those are named that hold a model.
    """
    here = Path.cwd()
    close = near(name, [*known, *sorted(path.parent.name for path in here.glob("*/config.json"))])
    return InputError(
        f"unknown {noun} {name!r}: {option} {name} is neither an entry nor a folder in {here}{close}",
        hint=f"see `{listing}`; entries of your own are found with --registry DIR",
    )


def _plain(name: str, title: str) -> str:
    parts = MARKED.fullmatch(name)
    if parts is None or parts["plain"] != (_safe(title) or "model"):
        return name
    return parts["plain"] + (parts["variant"] or "")


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
