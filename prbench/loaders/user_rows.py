"""The comparisons of a file of one's own as understood, row by row; who is who is decided over the whole file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.comparisons import Context
from prbench.loaders.chats import after_prompt, comparison, kind, long_enough
from prbench.loaders.identities import Identities
from prbench.loaders.reading import Drop
from prbench.loaders.rows import kind_of
from prbench.loaders.shapes import Shape, columns_of, rows_of

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
class FileRows:
    """The rows of a file as understood, what was counted, and what to tell the person whose file it is."""

    rows: list[Row]
    counts: Counter[str]
    notes: list[str]


class DroppedRows:
    """Rows left out, by reason, with the first places of each."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}

    def __call__(self, error: InputError) -> None:
        """Enter the row that `error` is about."""
        where, _, reason = str(error.args[0]).partition(": ")
        self.places.setdefault(reason or "cannot be read", []).append(where.rpartition(", ")[2])

    def sentences(self) -> list[str]:
        """A sentence for each reason."""
        return [
            f"{len(places):,} rows left out: {reason} ({', '.join(places[:LINES_SHOWN])}"
            f"{', ...' if len(places) > LINES_SHOWN else ''})"
            for reason, places in self.places.items()
        ]


class _Collector:
    """Rows entered one by one, and who is who in all of them. `counts` may have counts of the file's shape already.

    `blank_is_empty`: a missing value of a reply is an empty text, as CSV files have it.
    """

    def __init__(
        self, options: ImportOptions, columns: Mapping[str, str], counts: Counter[str], *, blank_is_empty: bool
    ) -> None:
        self.rows: list[Row] = []
        self._options, self._columns, self._counts = options, columns, counts
        self._blank_is_empty = blank_is_empty
        self._repeats_prompt: list[bool] = []
        # What recurs is held once.
        self._texts: dict[str, str] = {}
        self._contexts: dict[Context, Context] = {}
        self.users, self._conversations = Identities(columns["user"]), Identities(columns["conversation"])

    def enter(self, where: str, record: dict[str, Any]) -> None:
        """Add one row. Raises InputError, naming `where`, for a faulty one, which is then not among the rows."""
        if self._blank_is_empty:
            record = {**record, **{side: "" for side in ("chosen", "rejected") if record[side] is None}}
        understood = comparison(record, where, allow_empty=self._options.empty is not None)
        if not (understood.chosen.strip() and understood.rejected.strip()):
            self._counts[EMPTY if self._options.empty == "drop" else EMPTY_KEPT] += 1
            if self._options.empty == "drop":
                return
        user, conversation = record["user"], record["conversation"]
        if conversation is not None:
            self._conversations.check(conversation, where)
        time = None if record["timestamp"] is None else _seconds(record["timestamp"], where)
        self._require_in_every_row_or_none("timestamp", time, lambda row: row.seconds, where)
        self._require_in_every_row_or_none("conversation", conversation, lambda row: row.conversation, where)
        if user is not None:
            self.users.add(user, where)
        if conversation is not None:
            self._conversations.add(conversation, where)
        # The ids follow once all rows are known.
        unnamed = None if conversation is None else ""
        context = self._contexts.setdefault(understood.context, understood.context)
        chosen, rejected = (self._texts.setdefault(side, side) for side in (understood.chosen, understood.rejected))
        self.rows.append(Row(where, None, context, chosen, rejected, unnamed, time))
        self._repeats_prompt.append(understood.repeats_prompt)

    def _require_in_every_row_or_none(
        self, part: str, value: Any, value_of: Callable[[Row], Any], where: str
    ) -> None:
        if self.rows and (value is None) != (value_of(self.rows[0]) is None):
            state = "is missing here" if value is None else "is given here but was missing"
            raise InputError(f"{where}: {self._columns[part]} {state}", hint="give it in every row or in none")

    def columns_read(self) -> dict[str, str]:
        """The columns of the parts that the rows have."""
        absent = {"conversation"} if self.rows[0].conversation is None else set()
        absent |= {"timestamp"} if self.rows[0].seconds is None else set()
        return {part: column for part, column in self._columns.items() if part not in absent}

    def resolved(self) -> list[Row]:
        """All rows with their ids, and without prompts in replies. Raises InputError where only some have them."""
        rows = _without_prompts(self.rows, self._repeats_prompt, self._options.prompt_in_replies, self._counts)
        if keys := self._conversations.resolved():
            for i, key in enumerate(keys):
                rows[i] = rows[i]._replace(conversation=self._texts.setdefault(key, key))
        # Where no user is asked for, some rows may name one.
        if len(keys := self.users.resolved()) == len(rows):
            for i, key in enumerate(keys):
                rows[i] = rows[i]._replace(user=self._texts.setdefault(key, key))
        return rows


def read_file(path: Path, options: ImportOptions | None = None, *, needs_user: bool = True) -> FileRows:
    """All comparisons in `path`, who is who decided over the whole file; without `needs_user`, no user is asked for.

    Raises InputError, naming the line or row, for a missing column or value, NaN, empty texts, a response that is
    both chosen and rejected, ids that lost digits, a chat that is written as text and cannot be read, a conversation
    or a time that only some rows have, replies that begin with the prompt in some rows only; and for a file with no
    rows and for one that cannot be read.
    """
    options = options or ImportOptions()
    dropped = DroppedRows()
    drop: Drop | None = dropped if options.drop_bad else None
    counts: Counter[str] = Counter()
    shape, columns = columns_of(path, options.shape, options.columns, options.encoding)
    blank_is_empty = options.empty is not None and kind_of(path) in (".csv", ".tsv")
    collector = _Collector(options, columns, counts, blank_is_empty=blank_is_empty)
    with progress() as display:
        task = display.add_task(f"reading {path.name}", total=None)
        source = rows_of(path, shape, columns, counts, needs_user=needs_user, encoding=options.encoding, drop=drop)
        for number, (where, record) in enumerate(source):
            try:
                collector.enter(where, record)
            except InputError as error:
                if drop is None:
                    if needs_user:
                        leaves = "`--drop-bad` leaves such rows out and counts them"
                        error.hint = f"{error.hint}; {leaves}" if error.hint else leaves
                    raise
                drop(error)
            if number % 1000 == 0:
                display.update(task, completed=number)
    if not collector.rows:
        reason = f" that can be used; {dropped.sentences()[0]}" if dropped.places else ""
        raise InputError(f"{path} has no rows{reason}")
    for reason, places in dropped.places.items():
        counts[f"rows left out: {reason}"] += len(places)
    notes = [] if shape == "pairs" else [f"read as {shape}: {_columns_note(collector.columns_read())}"]
    notes += dropped.sentences() + collector.users.doubts()
    rows = collector.resolved()
    notes += [f"{count:,} {what}" for what, count in counts.items() if not what.startswith("rows left out: ")]
    return FileRows(rows, counts, notes)


def _without_prompts(
    rows: list[Row], repeats: list[bool], choice: Literal["cut", "keep"] | None, counts: Counter[str]
) -> list[Row]:
    """The rows, the prompt cut from both replies where all of them begin with it."""
    decisive = [again for row, again in zip(rows, repeats, strict=True) if long_enough(row.context[-1].content)]
    if choice == "keep" or not any(decisive):
        return rows
    if choice is None and not all(repeats):
        example = next(row for row, again in zip(rows, repeats, strict=True) if again and long_enough(_prompt(row)))
        raise InputError(
            f"{example.where}: both replies begin with the prompt, as in {sum(repeats):,} of {len(rows):,} rows",
            hint="`--prompt-in-replies cut` cuts it there, `--prompt-in-replies keep` leaves all replies as they are",
        )
    cut_rows = []
    for row, again in zip(rows, repeats, strict=True):
        chosen, rejected = (after_prompt(side, _prompt(row)) for side in (row.chosen, row.rejected))
        if not again or chosen is None or rejected is None or not chosen or not rejected:
            cut_rows.append(row)
            continue
        counts[CUT] += 1
        cut_rows.append(row._replace(chosen=chosen, rejected=rejected))
    return cut_rows


def _prompt(row: Row) -> str:
    return row.context[-1].content


def _columns_note(columns: Mapping[str, str]) -> str:
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
