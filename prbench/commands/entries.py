"""Listings of entries: in brief, and one in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prbench import registry
from prbench.base.errors import InputError
from prbench.registry import methods as method_makers
from prbench.registry.schema import DatasetEntry, EncoderEntry, JudgeEntry, Kind, MethodEntry

NOT_PINNED = "not pinned: no sha256 is published"
# Parameters are counted for embeddings of an 8B model and these numbers of users.
DIM = 4096
USERS = (10, 100, 1_000, 10_000)


def rows(kind: Kind) -> list[dict[str, Any]]:
    """All entries of a kind, each with what a listing shows of it."""
    return [_row(entry) for entry in registry.load_all(kind)]


def full(name: str, kind: Kind | None = None) -> dict[str, Any]:
    """An entry with everything it inherits: kind, file and all of its keys.

    A method also has all of its hyper-parameters and its parameter counts, for which it is imported; where that
    fails, `broken` says why. Raises InputError for an unknown name, and for one that two kinds share when `kind`
    does not say which.
    """
    entry_kind = registry.kind_of(name, kind)
    entry = registry.get(entry_kind, name)
    record: dict[str, Any] = {"kind": entry_kind, "file": str(registry.source(entry_kind, name))}
    record |= entry.model_dump(mode="json", exclude_none=True)
    if not any(record.get("size", {}).values()):
        record.pop("size", None)
    if isinstance(entry, DatasetEntry) and entry.download:
        record["download"]["files"] = {path: sha256 or NOT_PINNED for path, sha256 in entry.download.files.items()}
    if isinstance(entry, MethodEntry):
        if unused := method_makers.unused_tables(entry):
            record["unused"] = [f"params.{table}: no data set or family of that name is known" for table in unused]
        try:
            record |= _constructed(entry)
        except InputError as error:
            record["broken"] = str(error)
    return record


def _constructed(entry: MethodEntry) -> dict[str, Any]:
    """What only the method itself knows: its hyper-parameters with their defaults, and its parameter counts.

    The hyper-parameters are those without any data set's own values. Each says whether the entry (or one that it
    extends) sets it or the constructor's default holds. Of the counts `shared` is what is trained for all users,
    `per_user` what is stored of one, and `total_by_users` all stored numbers. Where a user's come out of a forward
    pass and are not fitted, `trained_by_users` are the numbers without them. A method whose count depends on the data
    has none.
    """
    method = method_makers.make_method(entry, None, {})
    values = {
        name: {"value": value, "from": "entry" if name in entry.params else "default"}
        for name, value in method.hyper_parameters.items()
    }
    count = method.parameters_for(DIM)
    if count is None:
        return {"hyper_parameters": values, "parameter_count": "depends on the data"}
    totals = {str(users): count.total(users) for users in USERS}
    counts: dict[str, Any] = {
        "dim": DIM,
        "shared": count.shared,
        "per_user": count.per_user,
        "total_by_users": totals,
    }
    if method.encodes_users:
        counts["trained_by_users"] = dict.fromkeys(totals, count.shared)
    return {"hyper_parameters": values, "parameter_count": counts}


def family_place(family: str) -> tuple[bool, str]:
    """Personalised methods come first."""
    return not family.startswith("personalised"), family


def brief(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a listing's row fits on a screen."""
    shown = {key: row[key] for key in ("name", "title", "family", "encoder", "released", "needs") if row.get(key)}
    in_all = {"in_all": row["default"]} if "default" in row else {}
    return shown | in_all | {"summary": row["summary"]}


def _row(entry: registry.Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"name": entry.name, "title": entry.title}
    if isinstance(entry, MethodEntry):
        row |= {"family": entry.family, "selection": entry.selection, "default": entry.default, "paper": entry.paper}
    elif isinstance(entry, DatasetEntry):
        row |= {"family": entry.family, "encoder": entry.encoder, "default": entry.default, "licence": entry.licence}
    elif isinstance(entry, JudgeEntry):
        row |= {"released": entry.released, "needs": entry.needs, "licence": entry.licence}
    elif isinstance(entry, EncoderEntry):
        row |= {"needs": entry.needs, "licence": entry.licence}
    return row | {"summary": entry.summary}
