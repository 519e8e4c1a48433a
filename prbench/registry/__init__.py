"""Entries: one TOML file per method, data set, encoder, judge model and report. Finding, reading and checking them.

An entry's name is its file's name without `.toml`. Entries are found in prbench itself, in the folders given to
`use` (the option `--registry`), among the data sets imported into `PRBENCH_HOME`, and in packages that name
themselves in the entry-point group `prbench.registry`. Nothing here imports what an entry's target names, until
`resolve` or `load_target` is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, overload

from prbench.base.errors import InputError, near, nearest
from prbench.base.files import home
from prbench.registry.finder import importable_from
from prbench.registry.schema import RECORDS, DatasetEntry, EncoderEntry, JudgeEntry, Kind, MethodEntry, ReportEntry
from prbench.registry.toml_files import forget, merge, read, validate

Entry = MethodEntry | DatasetEntry | EncoderEntry | JudgeEntry | ReportEntry

KINDS: tuple[Kind, ...] = get_args(Kind)
NOUNS: dict[Kind, str] = {
    "methods": "method",
    "datasets": "data set",
    "encoders": "encoder",
    "judges": "judge model",
    "reports": "report",
}
ENTRY_POINTS = "prbench.registry"
FOLDERS = "PRBENCH_REGISTRY"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Keys that a variant does not inherit.
OWN_KEYS = ("name", "title", "extends", "default", "starts", "verified", "rounding")

# Methods that adapt in different ways and train in seconds: a shared reward, one reward per user, an offset from the
# shared one, mixtures of shared bases, and starting weights made to be adapted.
QUICK = ("bt", "bt-ridge", "user-bt", "bt-offset", "lore", "maml", "mrm")
# Words that stand for several entries.
GROUPS = ("all", "quick")

_folders: tuple[Path, ...] = ()


def use(folders: Sequence[Path]) -> None:
    """Search these folders too, each holding `methods/`, `datasets/`, `encoders/`, `judges/` or
    `reports/`.

    An entry's target may be a module that lies in the same folder as `methods/`. Replaces the folders of an
    earlier call. Raises InputError for a folder without any of the five.
    """
    global _folders
    for folder in folders:
        if not any((folder / kind).is_dir() for kind in KINDS):
            fault = (
                "no folder"
                if not folder.is_dir()
                else "without a methods, datasets, encoders, judges or reports folder"
            )
            raise InputError(
                f"--registry {folder}: {fault}", hint="put entries in DIR/methods/NAME.toml and the like"
            )
    _folders = tuple(folder.resolve() for folder in folders)
    importable_from(_folders)


def named_folders() -> list[Path]:
    """The folders that `PRBENCH_REGISTRY` names, separated as in PATH."""
    return [Path(part) for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]


def used() -> tuple[Path, ...]:
    """The folders given to the last call of `use`."""
    return _folders


def reset() -> None:
    """Forget the folders given to `use` and everything read so far."""
    use([])
    forget()
    _entry_point_folders.cache_clear()


def folders(kind: Kind) -> list[Path]:
    """The existing folders that hold entries of a kind, prbench's own first."""
    places = [_own_folder(kind)]
    places += [folder / kind for folder in (*_folders, *_entry_point_folders())]
    if kind == "datasets":
        places.append(imported_folder())
    return list(dict.fromkeys(folder.resolve() for folder in places if folder.is_dir()))


def imported_folder() -> Path:
    """Where `data import` writes the entries of data sets."""
    return home() / "imported" / "datasets"


def may_name_code(kind: Kind, name: str) -> bool:
    """Whether the file that gives an entry its target may name code.

    An import writes data, and so does whoever hands on an imported data set: its entry may not, nor may one that
    inherits its loader.
    """
    path, key = source(kind, name), "loader" if kind == "datasets" else "target"
    table, passed = read(path), {name}
    while key not in table and isinstance(parent := table.get("extends"), str) and parent not in passed:
        passed.add(parent)
        path = source(kind, parent)
        table = read(path)
    return path.parent != imported_folder().resolve()


def names(kind: Kind) -> list[str]:
    """The names of all entries of a kind, sorted."""
    return sorted(_files(kind))


def source(kind: Kind, name: str, also: Sequence[str] = ()) -> Path:
    """The file of an entry. Raises InputError with the nearest names, of `also` too, when there is none."""
    files = _files(kind)
    name = known_name(kind, name)
    if name not in files:
        error = nearest(name, sorted([*files, *also]), noun=NOUNS[kind], listing=f"prbench list {kind}")
        if not _folders:
            error.hint = f"{error.hint}; entries of your own are found with --registry DIR or PRBENCH_REGISTRY"
        raise error
    return files[name]


def known_name(kind: Kind, name: str) -> str:
    """The name of the entry that is called `name` but for capitals, as in MRM; `name` itself where there is none."""
    files = _files(kind)
    if name in files:
        return name
    alike = [known for known in files if known.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else name


@overload
def get(kind: Literal["methods"], name: str) -> MethodEntry: ...
@overload
def get(kind: Literal["datasets"], name: str) -> DatasetEntry: ...
@overload
def get(kind: Literal["encoders"], name: str) -> EncoderEntry: ...
@overload
def get(kind: Literal["judges"], name: str) -> JudgeEntry: ...
@overload
def get(kind: Literal["reports"], name: str) -> ReportEntry: ...
@overload
def get(kind: Kind, name: str) -> Entry: ...
def get(kind: Kind, name: str) -> Entry:
    """One entry, its parents' keys merged in and everything checked.

    Raises InputError, in one line that names the file and the key, for an unknown name, malformed TOML, an
    unknown key, a wrong type or an inheritance that does not work.
    """
    return _load(kind, known_name(kind, name))[0]


@overload
def load_all(kind: Literal["methods"]) -> list[MethodEntry]: ...
@overload
def load_all(kind: Literal["datasets"]) -> list[DatasetEntry]: ...
@overload
def load_all(kind: Literal["encoders"]) -> list[EncoderEntry]: ...
@overload
def load_all(kind: Literal["judges"]) -> list[JudgeEntry]: ...
@overload
def load_all(kind: Literal["reports"]) -> list[ReportEntry]: ...
@overload
def load_all(kind: Kind) -> list[Entry]: ...
def load_all(kind: Kind) -> Sequence[Entry]:
    """All entries of a kind, by name. Raises InputError as `get` does."""
    return [get(kind, name) for name in names(kind)]


def select(kind: Kind, text: str) -> list[str]:
    """Names from a comma-separated list of names, patterns such as `mrm*`, `all` and `quick`; each once.

    `all` stands for the entries with `default = true`, of the methods `quick` for those of `QUICK`; a pattern for
    every name that it fits. Capitals do not count. Raises InputError for a name or pattern that fits nothing.
    """
    known = names(kind)
    chosen: dict[str, None] = {}
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError(f"no {NOUNS[kind]} named", hint=f"see `prbench list {kind}`")
    for part in parts:
        if part == "all":
            chosen.update(dict.fromkeys(entry.name for entry in load_all(kind) if getattr(entry, "default", True)))
            if kind == "datasets" and (left := sorted(_imported() - set(parts))):
                from prbench.base.console import stderr

                stderr().print(f"all leaves out imported data sets: {', '.join(left)}", markup=False, soft_wrap=True)
        elif part == "quick" and kind == "methods":
            chosen.update(dict.fromkeys(QUICK))
        elif _is_pattern(part):
            fitting = [name for name in known if fnmatchcase(name.casefold(), part.casefold())]
            if not fitting:
                base = part.removesuffix("-*")
                also = f"; {base!r} itself has no variants" if base in known else ""
                raise InputError(f"no {NOUNS[kind]} fits {part!r}{also}", hint=f"see `prbench list {kind}`")
            chosen.update(dict.fromkeys(fitting))
        else:
            source(kind, part, GROUPS if kind == "methods" else GROUPS[:1])
            chosen[known_name(kind, part)] = None
    return list(chosen)


def _imported() -> set[str]:
    """The names of imported data sets."""
    folder = imported_folder().resolve()
    return {name for name, file in _files("datasets").items() if file.parent == folder}


def _is_pattern(text: str) -> bool:
    """Whether a name is a pattern."""
    return any(character in text for character in "*?[")


def kind_of(name: str, kind: Kind | None = None) -> Kind:
    """The kind of the entry called `name`, where only one kind has that name or `kind` says which."""
    if kind:
        source(kind, name)
        return kind
    kinds: list[Kind] = [k for k in KINDS if known_name(k, name) in _files(k)]
    if not kinds:
        everything = sorted({known for k in KINDS for known in _files(k)})
        raise nearest(name, everything, noun="entry", listing="prbench list methods|datasets|encoders|judges|reports")
    if len(kinds) > 1:
        raise InputError(f"{name!r} is among the {' and the '.join(kinds)}", hint=f"add --kind {kinds[0]}")
    return kinds[0]


def comes_with_prbench(kind: Kind, name: str) -> bool:
    """Whether an entry of this name is one of prbench's own files; False where there is none."""
    file = _files(kind).get(name)
    return file is not None and file.parent == _own_folder(kind).resolve()


@lru_cache(maxsize=len(KINDS))
def _own_folder(kind: Kind) -> Path:
    """Where prbench's own entries of a kind are.

    A wheel holds them below prbench/_registry; an editable install and a checkout have them as top-level
    folders beside the package. Paths are used because an editable install's import hook finds no packages
    without Python files below another package.
    """
    package = Path(__file__).resolve().parents[1]
    if beside := {"encoders": "encoders", "judges": "judging"}.get(kind):
        return package / beside
    if (package / "_registry").is_dir():
        return package / "_registry" / kind
    if (package.parent / "pyproject.toml").is_file():
        return package.parent / kind
    raise InputError(f"prbench in {package} was installed without its entries", hint="install prbench again with pip")


@lru_cache(maxsize=1)
def _entry_point_folders() -> tuple[Path, ...]:
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    bases = []
    for point in entry_points(group=ENTRY_POINTS):
        where = f"the entry point {point.name} = {point.value} in the group {ENTRY_POINTS}"
        try:
            spec = find_spec(point.module)
        except ImportError as error:
            raise InputError(f"{where} names a module that cannot be found: {error}") from error
        if spec is None:
            raise InputError(f"{where} names a module that cannot be found")
        places = [Path(place) for place in spec.submodule_search_locations or ()]
        if not places and spec.origin:
            places = [Path(spec.origin).parent]
        bases += [place for place in places if any((place / kind).is_dir() for kind in KINDS)]
    return tuple(bases)


def _files(kind: Kind) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders(kind):
        try:
            with os.scandir(folder) as scan:
                listing = tuple(file.name for file in scan)
        except OSError as error:
            raise InputError(f"cannot list the entries in {folder}: {error.strerror or error}") from error
        entries = _entries(folder, listing)
        if double := files.keys() & entries.keys():
            name = min(double)
            raise InputError(
                f"two {kind} are called {name!r}: {files[name]} and {entries[name]}", hint="rename one of the files"
            )
        files |= entries
    return files


# Every look for an entry lists the folders; from the same listing follow the same names.
@lru_cache(maxsize=64)
def _entries(folder: Path, listing: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder's entries by name, sorted. Raises InputError for a name that cannot be one."""
    files: dict[str, Path] = {}
    for file in sorted(listing):
        if file.endswith(".toml"):
            name = file.removesuffix(".toml")
            if not NAME.fullmatch(name) or name in GROUPS:
                raise InputError(
                    f"{folder / file}: {name!r} cannot be a name", hint="use letters, digits, '-' and '_'"
                )
            files[name] = folder / file
    return files


def _load(kind: Kind, name: str, chain: tuple[str, ...] = ()) -> tuple[Entry, dict[str, Any]]:
    """An entry, and its table with everything inherited."""
    path = source(kind, name)
    table = read(path)
    if table.setdefault("name", name) != name:
        raise InputError(
            f"{path}: name is {table['name']!r}, but the file is called {path.name}", hint="leave it out"
        )
    parent = table.get("extends")
    if isinstance(parent, str):
        line = (*chain, name)
        if parent in line:
            circle = " -> ".join((*line[line.index(parent) :], parent))
            raise InputError(f"{path}: extends goes round in a circle: {circle}")
        if parent not in _files(kind):
            raise InputError(f"{path}: extends: there is no {NOUNS[kind]} {parent!r}{near(parent, names(kind))}")
        inherited = _load(kind, parent, line)[1]
        # A variant is what differs, and a title need not: its name tells it from what it extends.
        own_table = {"title": name} | table
        table = merge({key: value for key, value in inherited.items() if key not in OWN_KEYS}, own_table)
    return validate(RECORDS[kind], table, path), table
