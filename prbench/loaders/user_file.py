"""Comparisons from a file of one's own: JSONL, JSON, CSV or Parquet, or a folder of such files."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.base.files import write_json
from prbench.comparisons import Context
from prbench.loaders.chats import after_prompt, comparison, kind, long_enough
from prbench.loaders.identities import Identities
from prbench.loaders.new_entry import check_name, publish
from prbench.loaders.reading import Drop
from prbench.loaders.rows import kind_of
from prbench.loaders.shapes import Shape, columns_of, rows_of
from prbench.loaders.table import ATTRIBUTES, COUNTS, TABLE

EMPTY = "comparisons with an empty reply left out"
EMPTY_KEPT = "comparisons with an empty reply kept"
CUT = "comparisons whose replies began with the prompt, which was cut"
LINES_SHOWN = 5


class Row(NamedTuple):
    """One comparison. `where` names file and line; `user`, `conversation` and `seconds` are None where not given."""

    where: str
    user: str | None
    context: Context
    chosen: str
    rejected: str
    conversation: str | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to read a file. `shape` None guesses by the columns; `columns` names the column of a part of a row.

    `drop_bad` leaves out rows that cannot be used and counts them. `empty` says what happens to rows with an empty
    reply; without it they are faults. `prompt_in_replies` decides where replies begin with their prompt in some rows
    only.
    """

    shape: Shape | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    drop_bad: bool = False
    empty: Literal["keep", "drop"] | None = None
    prompt_in_replies: Literal["cut", "keep"] | None = None


@dataclass(eq=False)
class Found:
    """The rows of a file as understood, what was counted, and what to tell the person whose file it is."""

    rows: list[Row]
    counts: Counter[str]
    said: list[str]


class Dropped:
    """Rows left out, by reason, with the first places of each."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}

    def __call__(self, error: InputError) -> None:
        """Enter the row that `error` is about."""
        where, _, reason = str(error.args[0]).partition(": ")
        self.places.setdefault(reason or "cannot be read", []).append(where.rpartition(", ")[2])

    def said(self) -> list[str]:
        """A sentence for each reason."""
        return [
            f"{len(places):,} rows left out: {reason} ({', '.join(places[:LINES_SHOWN])}"
            f"{', ...' if len(places) > LINES_SHOWN else ''})"
            for reason, places in self.places.items()
        ]


def import_table(
    path: Path,
    name: str,
    options: ImportOptions | None = None,
    *,
    replace: bool = False,
    found: Found | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Make the comparisons in `path` a data set called `name`; returns the file of its entry.

    `found` are its rows where they have been read already; `replace` takes the place of an imported data set.
    `attributes` are those of its users, by name and id (`prbench.loaders.attributes`). Raises
    InputError as `read_file`, and for a name that is taken.
    """
    check_name(name, replace=replace)
    found = found or read_file(path, options)
    columns: dict[str, list[Any]] = {
        column: [_as_json(row.context) if column == "context" else getattr(row, column) for row in found.rows]
        for column in Row._fields
        if column != "where"
    }
    users = len(set(columns["user"]))
    if users < 2:
        raise InputError(
            f"{path} has one user only; a data set needs at least two",
            hint="for one user's own comparisons see `prbench user adapt --help`",
        )

    def write(folder: Path) -> None:
        import pandas as pd

        # The users' own ids are in it.
        (folder / TABLE).touch(mode=0o600)
        frame = pd.DataFrame({column: values for column, values in columns.items() if values[0] is not None})
        frame.to_parquet(folder / TABLE, index=False)
        if found.counts:
            write_json(folder / COUNTS, dict(found.counts))
        if attributes:
            write_json(folder / ATTRIBUTES, attributes, private=True)

    n = len(columns["user"])
    items = {
        (c, r) for side in ("chosen", "rejected") for c, r in zip(columns["context"], columns[side], strict=True)
    }
    return publish(
        name,
        write,
        {
            "title": name,
            "loader": "prbench.loaders.table:ImportedTable",
            "family": name,
            "licence": "not stated",
            "homepage": "",
            "citation": "",
            "summary": f"{n:,} comparisons by {users:,} users, imported from {path.name}",
            "encoder": "minilm",
            "default": False,
            "protocol": {"name": "paper", "unit": "group"},
            "expect": {
                "users": users,
                "comparisons": n,
                "prompts": len(set(columns["context"])),
                "items": len(items),
            },
        },
        replace=replace,
    )


def read_file(path: Path, options: ImportOptions | None = None, *, needs_user: bool = True) -> Found:
    """All comparisons in `path`, who is who decided over the whole file; without `needs_user`, no user is asked for.

    Raises InputError, naming the line or row, for a missing column or value, NaN, empty texts, a response that is
    both chosen and rejected, ids that lost digits, a chat that is written as text and cannot be read, a conversation
    or a time that only some rows have, replies that begin with the prompt in some rows only; and for a file with no
    rows and for one that cannot be read.
    """
    options = options or ImportOptions()
    dropped = Dropped()
    drop: Drop | None = dropped if options.drop_bad else None
    counts: Counter[str] = Counter()
    shape, columns = columns_of(path, options.shape, options.columns, options.encoding)
    users, conversations = Identities(columns["user"]), Identities(columns["conversation"])
    rows: list[Row] = []
    repeats_prompt: list[bool] = []

    def enter(where: str, record: dict[str, Any]) -> None:
        sides = {side: record[side] for side in ("chosen", "rejected")}
        if options.empty and kind_of(path) in (".csv", ".tsv"):
            sides = {side: "" if value is None else value for side, value in sides.items()}
        found = comparison({**record, **sides}, where, allow_empty=options.empty is not None)
        if not (found.chosen.strip() and found.rejected.strip()):
            counts[EMPTY if options.empty == "drop" else EMPTY_KEPT] += 1
            if options.empty == "drop":
                return
        conversation = record["conversation"]
        if conversation is not None:
            conversations.check(conversation, where)
        time = None if record["timestamp"] is None else _seconds(record["timestamp"], where)
        given = {columns["timestamp"]: time, columns["conversation"]: conversation}
        if rows:
            first = (rows[0].seconds, rows[0].conversation)
            for (label, value), before in zip(given.items(), first, strict=True):
                if (value is None) != (before is None):
                    here = "is missing here" if value is None else "is given here but was missing"
                    raise InputError(f"{where}: {label} {here}", hint="give it in every row or in none")
        if record["user"] is not None:
            users.add(record["user"], where)
        if conversation is not None:
            conversations.add(conversation, where)
        has = None if conversation is None else ""
        rows.append(Row(where, None, found.context, found.chosen, found.rejected, has, time))
        repeats_prompt.append(found.repeats_prompt)

    with progress() as display:
        task = display.add_task(f"reading {path.name}", total=None)
        source = rows_of(path, shape, columns, counts, needs_user=needs_user, encoding=options.encoding, drop=drop)
        for number, (where, record) in enumerate(source):
            try:
                enter(where, record)
            except InputError as error:
                if drop is None:
                    if needs_user:
                        leaves = "`--drop-bad` leaves such rows out and counts them"
                        error.hint = f"{error.hint}; {leaves}" if error.hint else leaves
                    raise
                drop(error)
            if number % 1000 == 0:
                display.update(task, completed=number)
    if not rows:
        left = f" that can be used; {dropped.said()[0]}" if dropped.places else ""
        raise InputError(f"{path} has no rows{left}")
    for reason, places in dropped.places.items():
        counts[f"rows left out: {reason}"] += len(places)
    absent = {"conversation"} if rows[0].conversation is None else set()
    absent |= {"timestamp"} if rows[0].seconds is None else set()
    read = {part: column for part, column in columns.items() if part not in absent}
    said = [] if shape == "pairs" else [f"read as {shape}: {_parts_said(read)}"]
    said += dropped.said() + users.doubts()
    rows = _without_prompts(rows, repeats_prompt, options.prompt_in_replies, counts)
    if conversation_ids := conversations.resolved():
        rows = [row._replace(conversation=key) for row, key in zip(rows, conversation_ids, strict=True)]
    # Where no user is asked for, some rows may name one.
    if len(who := users.resolved()) == len(rows):
        rows = [row._replace(user=key) for row, key in zip(rows, who, strict=True)]
    said += [f"{count:,} {what}" for what, count in counts.items() if not what.startswith("rows left out: ")]
    return Found(rows, counts, said)


def first_rows(found: Found, count: int = 5) -> list[dict[str, Any]]:
    """The first rows as understood, texts shortened, for a table."""

    def short(text: str) -> str:
        return text if len(text) <= 160 else f"{text[:100]} … {text[-50:]}"

    return [
        {
            "where": row.where.rpartition(", ")[2],
            "user": short(row.user or ""),
            "context": "\n".join(f"{message.role}: {short(message.content)}" for message in row.context),
            "chosen": short(row.chosen),
            "rejected": short(row.rejected),
            **({} if row.conversation is None else {"conversation": short(row.conversation)}),
            **({} if row.seconds is None else {"seconds since 1970": row.seconds}),
        }
        for row in found.rows[:count]
    ]


def read_rows(path: Path, *, needs_user: bool = True) -> Iterator[Row]:
    """The comparisons in a file as `read_file` reads them."""
    yield from read_file(path, needs_user=needs_user).rows


def _without_prompts(
    rows: list[Row], repeats: list[bool], choice: Literal["cut", "keep"] | None, counts: Counter[str]
) -> list[Row]:
    """The rows, the prompt cut from both replies where all of them begin with it."""
    telling = [again for row, again in zip(rows, repeats, strict=True) if long_enough(row.context[-1].content)]
    if choice == "keep" or not any(telling):
        return rows
    if choice is None and not all(repeats):
        some = next(row for row, again in zip(rows, repeats, strict=True) if again and long_enough(_asked(row)))
        raise InputError(
            f"{some.where}: both replies begin with the prompt, as in {sum(repeats):,} of {len(rows):,} rows",
            hint="`--prompt-in-replies cut` cuts it there, `--prompt-in-replies keep` leaves all replies as they are",
        )
    cut_rows = []
    for row, again in zip(rows, repeats, strict=True):
        chosen, rejected = (after_prompt(side, _asked(row)) for side in (row.chosen, row.rejected))
        if not again or chosen is None or rejected is None or not chosen or not rejected:
            cut_rows.append(row)
            continue
        counts[CUT] += 1
        cut_rows.append(row._replace(chosen=chosen, rejected=rejected))
    return cut_rows


def _asked(row: Row) -> str:
    return row.context[-1].content


def _parts_said(columns: Mapping[str, str]) -> str:
    return ", ".join(part if part == column else f"{part} is {column}" for part, column in columns.items())


def _seconds(value: Any, where: str) -> float:
    """Seconds since 1970 of an ISO 8601 text or a date-time (UTC where it names no zone); a number as it is."""
    try:
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                try:
                    value = datetime.fromisoformat(value.strip())
                except ValueError:
                    raise InputError(
                        f"{where}: timestamp is neither a number nor an ISO 8601 date and time"
                    ) from None
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    except (OverflowError, OSError, ValueError) as error:
        raise InputError(f"{where}: timestamp is out of range") from error
    raise InputError(f"{where}: timestamp is {kind(value)}, expected a number or an ISO 8601 date and time")


def _as_json(context: Context) -> str:
    return json.dumps([message._asdict() for message in context], ensure_ascii=False)
