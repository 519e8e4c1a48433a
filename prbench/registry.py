"""Entries: one TOML file per method, data set, encoder and report. Finding, reading and checking them.

An entry's name is its file's name without `.toml`. Entries are found in prbench itself, in the folders given to
`use` (the option `--registry`), among the data sets imported into `PRBENCH_HOME`, and in packages that name
themselves in the entry-point group `prbench.registry`. Nothing here imports what an entry's target names, until
`resolve` or `load_target` is called.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

from prbench import modules
from prbench.arguments import argument_types, checked, finite
from prbench.entries import RECORDS, DatasetEntry, EncoderEntry, Kind, MethodEntry, ReportEntry
from prbench.entryfiles import forget, merge, near, read, validate
from prbench.errors import InputError, nearest
from prbench.files import home
from prbench.modules import importable_from

if TYPE_CHECKING:
    from prbench.method import Method

Entry = MethodEntry | DatasetEntry | EncoderEntry | ReportEntry

KINDS: tuple[Kind, ...] = get_args(Kind)
NOUNS: dict[Kind, str] = {"methods": "method", "datasets": "data set", "encoders": "encoder", "reports": "report"}
ENTRY_POINTS = "prbench.registry"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# What a child never takes from its parent: what it is called, and whether `all` means it.
OWN_KEYS = ("name", "title", "extends", "default")

_folders: tuple[Path, ...] = ()


def use(folders: Sequence[Path]) -> None:
    """Search these folders too, each holding `methods/`, `datasets/`, `encoders/` or `reports/`.

    An entry's target may be a module that lies in the same folder as `methods/`. Replaces the folders of an
    earlier call. Raises InputError for a folder without any of the four.
    """
    global _folders
    for folder in folders:
        if not any((folder / kind).is_dir() for kind in KINDS):
            what = "no folder" if not folder.is_dir() else "without a methods, datasets, encoders or reports folder"
            raise InputError(f"--registry {folder}: {what}", hint="put entries in DIR/methods/NAME.toml and the like")
    _folders = tuple(folder.resolve() for folder in folders)
    importable_from(_folders)


def reset() -> None:
    """Forget the folders given to `use` and everything read so far."""
    use([])
    forget()
    _entry_point_folders.cache_clear()


def folders(kind: Kind) -> list[Path]:
    """The existing folders that hold entries of a kind, prbench's own first."""
    found = [_own_folder(kind)]
    found += [folder / kind for folder in (*_folders, *_entry_point_folders())]
    if kind == "datasets":
        found.append(home() / "imported" / "datasets")
    return list(dict.fromkeys(folder.resolve() for folder in found if folder.is_dir()))


def names(kind: Kind) -> list[str]:
    """The names of all entries of a kind, sorted."""
    return sorted(_files(kind))


def source(kind: Kind, name: str) -> Path:
    """The file of an entry. Raises InputError with the nearest names when there is none."""
    files = _files(kind)
    if name not in files:
        raise nearest(name, sorted(files), noun=NOUNS[kind], listing=f"prbench list {kind}")
    return files[name]


@overload
def get(kind: Literal["methods"], name: str) -> MethodEntry: ...
@overload
def get(kind: Literal["datasets"], name: str) -> DatasetEntry: ...
@overload
def get(kind: Literal["encoders"], name: str) -> EncoderEntry: ...
@overload
def get(kind: Literal["reports"], name: str) -> ReportEntry: ...
@overload
def get(kind: Kind, name: str) -> Entry: ...
def get(kind: Kind, name: str) -> Entry:
    """One entry, its parents' keys merged in and everything checked.

    Raises InputError, in one line that names the file and the key, for an unknown name, malformed TOML, an
    unknown key, a wrong type or an inheritance that does not work.
    """
    return _load(kind, name)[0]


@overload
def all(kind: Literal["methods"]) -> list[MethodEntry]: ...
@overload
def all(kind: Literal["datasets"]) -> list[DatasetEntry]: ...
@overload
def all(kind: Literal["encoders"]) -> list[EncoderEntry]: ...
@overload
def all(kind: Literal["reports"]) -> list[ReportEntry]: ...
@overload
def all(kind: Kind) -> list[Entry]: ...
def all(kind: Kind) -> Sequence[Entry]:
    """All entries of a kind, by name. Raises InputError as `get` does."""
    return [get(kind, name) for name in names(kind)]


def select(kind: Kind, wanted: str) -> list[str]:
    """Names from a comma-separated list of names, patterns such as `mrm*`, and `all`; each once, in that order.

    `all` stands for the entries with `default = true`; a pattern for every name that it fits. Raises InputError
    for a name or pattern that fits nothing.
    """
    known = names(kind)
    chosen: dict[str, None] = {}
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    if not parts:
        raise InputError(f"no {NOUNS[kind]} named", hint=f"see `prbench list {kind}`")
    for part in parts:
        if part == "all":
            chosen.update(dict.fromkeys(entry.name for entry in all(kind) if getattr(entry, "default", True)))
        elif _is_pattern(part):
            fitting = [name for name in known if fnmatchcase(name, part)]
            if not fitting:
                raise InputError(f"no {NOUNS[kind]} fits {part!r}", hint=f"see `prbench list {kind}`")
            chosen.update(dict.fromkeys(fitting))
        else:
            source(kind, part)
            chosen[part] = None
    return list(chosen)


def _is_pattern(text: str) -> bool:
    """Whether a name is a pattern."""
    return any(character in text for character in "*?[")


def kind_of(name: str, kind: Kind | None = None) -> Kind:
    """The kind of the entry called `name`, where only one kind has that name or `kind` says which."""
    if kind:
        source(kind, name)
        return kind
    found: list[Kind] = [k for k in KINDS if name in _files(k)]
    if not found:
        everything = sorted({known for k in KINDS for known in _files(k)})
        raise nearest(name, everything, noun="entry", listing="prbench list methods|datasets|encoders|reports")
    if len(found) > 1:
        raise InputError(f"{name!r} is among the {' and the '.join(found)}", hint=f"add --kind {found[0]}")
    return found[0]


def resolve(target: str, *, file: Path | None = None, needs: str = "") -> Any:
    """Import "module:attribute" and return it.

    `file` is the entry file to name in an error, `needs` what pip must install for the target. Raises
    InputError when the module, something it imports, or the attribute is missing, and when a module that is not
    prbench's fails while it is imported.
    """
    import importlib

    module_name, _, attribute = target.partition(":")
    where = f"{file}: target {target!r}" if file else f"target {target!r}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if needs:
            raise InputError(f"{where} needs {missing}", hint=f"pip install {needs!r}") from error
        if module_name == missing or module_name.startswith(f"{missing}."):
            hint = f"install the package that has it, or put {missing}.py into the folder that --registry names"
            raise InputError(f"{where}: there is no module {missing}", hint=hint) from error
        raise InputError(f"{where}: {module_name} needs the module {missing}", hint="install it") from error
    except (Exception, SystemExit) as error:
        if module_name.partition(".")[0] == "prbench":
            raise
        raise _broken(where, f"importing {module_name}", module_name, error) from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise InputError(f"{where}: {module_name} has no {attribute}{near(attribute, public)}")
    return getattr(module, attribute)


def _broken(where: str, doing: str, module: str, error: BaseException) -> InputError:
    """What went wrong in code that is not prbench's, with the file and the line."""
    place = modules.place_of(error, module)
    said = f"{type(error).__name__}: {modules.message_of(error)}".removesuffix(": ")
    return InputError(
        f"{where}: {doing} failed: {place}{said}", hint="correct it; `prbench check METHOD` tries a method out"
    )


def load_target(kind: Kind, entry: Entry) -> Any:
    """What an entry's target (a data set's loader) names."""
    target = entry.loader if isinstance(entry, DatasetEntry) else entry.target
    needs = entry.needs if isinstance(entry, EncoderEntry) else ""
    return resolve(target, file=_files(kind).get(entry.name), needs=needs)


class Setting(NamedTuple):
    """One `--set METHOD.PARAMETER=VALUE`."""

    method: str
    parameter: str
    value: Any


def parse_set(text: str) -> Setting:
    """Read `mrm.bases=4`. The value is a TOML value; a bare word is a string."""
    match = re.fullmatch(r"\s*([^.=\s]+)\.([^.=\s]+)\s*=\s*(.*?)\s*", text)
    if not match:
        raise InputError(f"--set {text}: expected METHOD.PARAMETER=VALUE", hint="for example --set mrm.bases=4")
    method, parameter, value = match.groups()
    try:
        read = tomllib.loads(f"value = {value}")
        if list(read) != ["value"]:
            raise InputError(f"--set {text}: one value is expected", hint="for example --set mrm.bases=4")
        return Setting(method, parameter, read["value"])
    except tomllib.TOMLDecodeError as error:
        if re.fullmatch(r"[A-Za-z_][\w./:+-]*", value):
            return Setting(method, parameter, value)
        raise InputError(f"--set {text}: {value!r} is no TOML value", hint="quote text that is no word") from error


def parse_sets(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parameters by method from several `--set`. Raises InputError for an unknown method, and for one set twice."""
    overrides: dict[str, dict[str, Any]] = {}
    for text in texts:
        setting = parse_set(text)
        source("methods", setting.method)
        if setting.parameter in overrides.get(setting.method, {}):
            raise InputError(f"--set {text}: {setting.method}.{setting.parameter} is set twice", hint="leave one out")
        overrides.setdefault(setting.method, {})[setting.parameter] = setting.value
    return overrides


def params_for(entry: MethodEntry, dataset: DatasetEntry | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A method's constructor arguments on a data set.

    The plain values of [params], then those of the table named like the data set's family, then those of the
    table named like the data set, then `overrides`.
    """
    merged = {key: value for key, value in entry.params.items() if not isinstance(value, dict)}
    for table in (dataset.family, dataset.name) if dataset else ():
        merged.update(entry.params.get(table, {}))
    return {**merged, **overrides}


def make_method(entry: MethodEntry, dataset: DatasetEntry | None, overrides: Mapping[str, Any]) -> Method:
    """The unfitted method of an entry, with its parameters on a data set.

    Raises InputError for a target that is no Method, for a parameter that its constructor does not have (with
    the nearest it has, also in tables for other data sets) or of the wrong type, and for one that is missing.
    """
    import inspect

    from prbench.method import Method

    file = _files("methods").get(entry.name)
    where = str(file or entry.name)
    target = load_target("methods", entry)
    if not (isinstance(target, type) and issubclass(target, Method)):
        raise InputError(f"{where}: target {entry.target!r} is no subclass of prbench.method.Method")
    signature = inspect.signature(target).parameters
    known = list(signature)
    for key in overrides:
        if key not in signature:
            raise InputError(
                f"--set {entry.name}.{key}: {entry.name} has no parameter {key!r}{near(key, known)}",
                hint=f"it has {', '.join(known) or 'none'}",
            )
    for key, value in entry.params.items():
        path = (
            {f"params.{key}.{inner}": inner for inner in value} if isinstance(value, dict) else {f"params.{key}": key}
        )
        for shown, name in path.items():
            if name not in signature:
                raise InputError(
                    f"{where}: {shown}: {target.__name__} has no parameter {name!r}{near(name, known)}",
                    hint=f"it has {', '.join(known) or 'none'}",
                )
    params = params_for(entry, dataset, overrides)
    for key, value in {**entry.params, **overrides}.items():
        if not finite(value):
            shown = f"--set {entry.name}.{key}" if key in overrides else f"{where}: params.{key}"
            raise InputError(f"{shown}: {value} is no number that a method can have")
    missing = [name for name, p in signature.items() if p.default is p.empty and name not in params]
    if missing:
        raise InputError(f"{where}: params: {target.__name__} needs a value for {', '.join(missing)}")
    types = argument_types(target)
    for key, value in params.items():
        if key in types:
            shown = f"--set {entry.name}.{key}" if key in overrides else f"{where}: params.{key}"
            params[key] = checked(value, types[key], shown)
    try:
        method: Method = target(**params)
    except InputError:
        raise
    except Exception as error:
        if target.__module__.partition(".")[0] == "prbench":
            raise
        raise _broken(where, f"making {target.__name__}", target.__module__, error) from error
    if unkept := [name for name in signature if not hasattr(method, name)]:
        lost = ", ".join(unkept)
        raise InputError(
            f"{where}: {target.__name__} does not keep its hyper-parameter {lost}",
            hint=f"say self.{unkept[0]} = {unkept[0]} in its constructor",
        )
    return method


def unused_tables(entry: MethodEntry) -> list[str]:
    """The tables inside [params] that are named like no known data set or family, so that nothing reads them."""
    datasets = all("datasets")
    known = {entry.name for entry in datasets} | {entry.family for entry in datasets}
    return [key for key, value in entry.params.items() if isinstance(value, dict) and key not in known]


def _own_folder(kind: Kind) -> Path:
    """Where prbench's own entries of a kind are.

    A wheel holds them below prbench/_registry; an editable install and a checkout have them as top-level
    folders beside the package. Paths are used because an editable install's import hook finds no packages
    without Python files below another package.
    """
    package = Path(__file__).resolve().parent
    if kind == "encoders":
        return package / "encoders"
    if (package / "_registry").is_dir():
        return package / "_registry" / kind
    if (package.parent / "pyproject.toml").is_file():
        return package.parent / kind
    raise InputError(f"prbench in {package} was installed without its entries", hint="install prbench again with pip")


@lru_cache(maxsize=1)
def _entry_point_folders() -> tuple[Path, ...]:
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    found = []
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
        found += [place for place in places if any((place / kind).is_dir() for kind in KINDS)]
    return tuple(found)


def _files(kind: Kind) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders(kind):
        for path in sorted(folder.glob("*.toml")):
            name = path.stem
            if not NAME.fullmatch(name) or name == "all":
                raise InputError(f"{path}: {name!r} cannot be a name", hint="use letters, digits, '-' and '_'")
            if name in files:
                raise InputError(
                    f"two {kind} are called {name!r}: {files[name]} and {path}", hint="rename one of the files"
                )
            files[name] = path
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
        own = {"title": name} | table
        table = merge({key: value for key, value in inherited.items() if key not in OWN_KEYS}, own)
    return validate(RECORDS[kind], table, path), table
