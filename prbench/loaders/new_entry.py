"""What every import shares: the new data set's name, its folder and its entry, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.base.files import file_sha256, home, require_writable, write_json, write_text, writing_folder
from prbench.base.reading import parse_toml, read_bytes, read_json
from prbench.registry.schema import DatasetEntry

UNFINISHED = ".unfinished"
"""Beside the imported data sets: the name of the one that is being written. A killed import leaves it."""


def check_name(name: str, *, replace: bool = False) -> None:
    """Raise InputError unless `name` can be a new data set's name, or with `replace` that of an imported one."""
    from prbench import registry

    if not registry.NAME.fullmatch(name) or name in ("all", "datasets"):
        raise InputError(f"{name!r} cannot be a data set's name", hint="use letters, digits, '-' and '_'")
    if name in registry.names("datasets"):
        file = registry.source("datasets", name)
        imported = file.is_relative_to((home() / "imported").resolve())
        if imported and replace:
            return
        hint = "choose another name, or give --replace to replace it" if imported else "choose another name"
        raise InputError(f"there is a data set {name!r} already: {file}", hint=hint)


def publish(name: str, write: Callable[[Path], None], entry: Mapping[str, Any], *, replace: bool = False) -> Path:
    """Write a new data set and its entry; returns the entry's file.

    `write` is given an empty folder to write the data's files to; they end in PRBENCH_HOME/imported/<name>, and
    `entry` plus a [download] table that pins them ends in PRBENCH_HOME/imported/datasets/<name>.toml, where the
    registry finds it. `replace` takes the place of an imported data set: its files are written beside the old ones
    (<name>.2, then <name> again), and the entry, written last, turns from the ones to the others in one step. Raises
    InputError when the disk is full or not writable; all is then as it was.
    """
    imported = home() / "imported"
    file = imported / "datasets" / f"{name}.toml"
    with _one_at_a_time(name, replace):
        _finish(imported)
        folders = _folders(imported, name)
        if _base_of(file) == folders[0].relative_to(home()).as_posix():
            folders.reverse()
        new, old = folders
        write_json(imported / UNFINISHED, {"name": name})
        try:
            with writing_folder(new) as temporary:
                write(temporary)
                hashes = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            table = {**entry, "download": {"base": new.relative_to(home()).as_posix(), "files": hashes}}
            text = to_toml(table)
            DatasetEntry.model_validate({"name": name, **tomllib.loads(text)})
            write_text(file, text)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        else:
            shutil.rmtree(old, ignore_errors=True)
        finally:
            (imported / UNFINISHED).unlink(missing_ok=True)
    return file


def _folders(imported: Path, name: str) -> list[Path]:
    return [imported / name, imported / f"{name}.2"]


def _finish(imported: Path) -> None:
    """Remove the data that a killed import left and that no entry names; where an entry is unreadable, they stay."""
    from prbench import registry

    file = imported / UNFINISHED
    with contextlib.suppress(InputError, LookupError, TypeError):
        name = read_json(file)["name"]
        entry = imported / "datasets" / f"{name}.toml"
        base = _base_of(entry)
        is_name = registry.NAME.fullmatch(name) and name != "datasets"
        if is_name and (base is not None or not entry.exists()):
            for folder in _folders(imported, name):
                if base != folder.relative_to(home()).as_posix():
                    shutil.rmtree(folder, ignore_errors=True)
    file.unlink(missing_ok=True)


def _base_of(file: Path) -> str | None:
    """The folder below PRBENCH_HOME that an imported data set's entry names; None without a readable entry."""
    with contextlib.suppress(InputError, ValueError, LookupError, TypeError):
        return str(parse_toml(read_bytes(file))["download"]["base"])
    return None


@contextlib.contextmanager
def _one_at_a_time(name: str, replace: bool) -> Iterator[None]:
    """Let one import publish at a time: of two with one name the first wins, and the other is told."""
    from filelock import FileLock

    require_writable(home() / "imported")
    (home() / "imported").mkdir(parents=True, exist_ok=True)
    with FileLock(home() / "imported" / ".lock"):
        check_name(name, replace=replace)
        yield


def to_toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """A table of strings, numbers, lists of these and tables, as TOML."""
    lines = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    text = "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = (*path, key)
            text += f"\n[{'.'.join(map(_key, inner))}]\n{to_toml(value, inner)}"
    return text


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's, but for the character DEL.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
