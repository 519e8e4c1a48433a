"""What is known of the people beside their choices: categories from a file with one row a person."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.loaders.chats import kind
from prbench.loaders.identities import Identities
from prbench.loaders.rows import column_names, records
from prbench.protocol.groups import LEAST, shown_groups

USER = "user_id"
UNKNOWN = "not given"
MOST, LONGEST = 50, 100
"""Attributes in a file, and characters of a name or value."""


@dataclass(eq=False)
class AttributeTable:
    """Categories by attribute and user's id, and what to tell the person whose file it is."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def read_attributes(
    path: Path, users: Sequence[str], *, column: str | None = None, encoding: str | None = None
) -> AttributeTable:
    """The attributes in `path` of the users with these ids; `column` holds the id, by default `user_id`.

    Every other column is an attribute. A value that is missing, and a user without a row, is "not given"; rows of
    other people are left out and counted. An attribute without two groups of ten and more users is left out with its
    reason: nothing of it could be shown, and its values may tell who a person is. Raises InputError naming the line
    for a person with two rows, an id that lost digits and a value that is no category; and for a file without an
    attribute or without any of these users.
    """
    columns = column_names(path, encoding)
    user = column if column in columns else USER
    if user not in columns:
        raise InputError(
            f"{path} has no column {column or USER}", hint="a row is a person; other columns are attributes"
        )
    names = [name for name in columns if name != user]
    if not names or len(names) > MOST:
        raise InputError(f"{path} has {len(names)} columns beside {user}, from 1 to {MOST} can be attributes")
    for name in names:
        if not name.strip() or len(name) > LONGEST or not name.isprintable():
            raise InputError(f"{path}: the column {name[:LONGEST]!r} cannot be the name of an attribute")
    identities, rows, places = Identities(user), [], []
    for place, record in records(path, [user], names, encoding=encoding):
        identities.add(record[user], place)
        rows.append([_category(record.get(name), name, place) for name in names])
        places.append(place)
    by_user: dict[str, list[str]] = {}
    for key, row, place in zip(identities.resolved(), rows, places, strict=True):
        if key in by_user:
            raise InputError(f"{place}: a second row of one person", hint="give one row for each person")
        by_user[key] = row
    known = [key for key in users if key in by_user]
    if not known:
        raise InputError(
            f"{path} has a row of none of the {len(users):,} people who chose", hint=f"compare the ids in {user}"
        )
    table = AttributeTable()
    if absent := len(users) - len(known):
        table.sentences.append(f"{absent:,} of {len(users):,} people have no row: {UNKNOWN}")
    if others := len(by_user) - len(known):
        table.sentences.append(f"rows of people who chose nothing, left out: {others:,}")
    for number, name in enumerate(names):
        values = {key: by_user[key][number] if key in by_user else UNKNOWN for key in users}
        shown = set(shown_groups(list(values.values()))) - {""}
        if len(shown) < 2:
            table.sentences.append(f"{name} left out: it has no two groups of {LEAST} and more people")
            continue
        table.values[name] = values
    return table


def _category(value: Any, name: str, place: str) -> str:
    """A value as text. Raises InputError for one that is no category."""
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    ):
        return UNKNOWN
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int | float | bool):
        raise InputError(f"{place}: {name} is {kind(value)}, expected a text or a number")
    text = str(value).strip()
    if len(text) > LONGEST or not text.isprintable():
        raise InputError(
            f"{place}: {name} is not a category: it is longer than {LONGEST} characters or not printable"
        )
    return text


def by_number(table: Mapping[str, Mapping[str, str]], users: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The attributes by user number, as `PreferenceData.attributes` has them."""
    return {name: tuple(values.get(key, UNKNOWN) for key in users) for name, values in table.items()}
