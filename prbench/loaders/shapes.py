"""The shapes in which people keep choices, each turned into rows with a user, a prompt, a chosen and a rejected side.

`pairs` has a column for each side (several rejected replies of one chosen reply may be a list); `label` has two
replies and who won; `arena` is that with the columns of Chatbot Arena; `ratings` has a reply and its rating in each
row; `ranked` has a list of replies, best first or with a list of ranks.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.loaders.reading import Drop, columns_shown
from prbench.loaders.rows import Record, column_names, records

Shape = Literal["pairs", "label", "arena", "ratings", "ranked"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

PLAIN = {"user": "user_id", "prompt": "prompt", "conversation": "conversation_id", "timestamp": "timestamp"}
COLUMNS: dict[Shape, dict[str, str]] = {
    "pairs": {**PLAIN, "chosen": "chosen", "rejected": "rejected"},
    "label": {**PLAIN, "first": "response_a", "second": "response_b", "winner": "winner"},
    "arena": {
        **PLAIN,
        "user": "judge",
        "first": "conversation_a",
        "second": "conversation_b",
        "winner": "winner",
    },
    "ratings": {**PLAIN, "response": "response", "rating": "rating"},
    "ranked": {**PLAIN, "responses": "responses", "ranking": "ranking"},
}
"""What each shape reads, and the column it is read from where no other is named."""

OPTIONAL = ("prompt", "conversation", "timestamp", "ranking")
NEEDS_PROMPT: tuple[Shape, ...] = ("ratings", "ranked")
WINNERS = ("winner", "preference", "preferred", "label", "choice")
SIDES = (
    ("response_a", "response_b"),
    ("conversation_a", "conversation_b"),
    ("response_1", "response_2"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("output_1", "output_2"),
)
FIRST = {"a", "model_a", "response_a", "first", "left", "1st", "response 1", "response_1", "option_a"}
SECOND = {"b", "model_b", "response_b", "second", "right", "2nd", "response 2", "response_2", "option_b"}
TIE = {"tie", "tie (bothbad)", "bothbad", "both_bad", "both", "neither", "equal", "same", "draw", "tied", "c"}

TIES = "ties left out"


def columns_of(
    path: Path, shape: Shape | None, given: Mapping[str, str], encoding: str | None
) -> tuple[Shape, dict[str, str]]:
    """The shape of a file and the column of each part of it; `given` names columns by hand.

    Without a shape it follows from the columns: two responses and a winner, a rating, a ranking, else pairs. Raises
    InputError for a given name that the shape does not read.
    """
    names = [] if shape and shape != "label" else column_names(path, encoding)
    if shape is None:
        shape = _shape(names, given)
    columns = dict(COLUMNS[shape])
    if shape == "label":
        columns |= dict(
            zip(("first", "second"), next((s for s in SIDES if set(s) <= set(names)), SIDES[0]), strict=True)
        )
        columns["winner"] = next((name for name in WINNERS if name in names), "winner")
    for part, column in given.items():
        if part not in columns:
            raise InputError(
                f"--{part} {column}: the format {shape} has no such part", hint=f"it has --{', --'.join(columns)}"
            )
        columns[part] = column
    return shape, columns


def _shape(names: Sequence[str], given: Mapping[str, str]) -> Shape:
    have = set(names)
    if {"chosen", "rejected"} <= have | given.keys():
        return "pairs"
    if {"judge", "conversation_a", "conversation_b", "winner"} <= have:
        return "arena"
    if {"first", "second"} <= given.keys() or any(set(sides) <= have for sides in SIDES):
        return "label"
    if {"response", "rating"} <= have | given.keys():
        return "ratings"
    if "responses" in have | given.keys():
        return "ranked"
    return "pairs"


def rows_of(
    path: Path,
    shape: Shape,
    columns: Mapping[str, str],
    counts: Counter[str],
    *,
    needs_user: bool = True,
    encoding: str | None = None,
    drop: Drop | None = None,
) -> Iterator[Record]:
    """Place and record of each comparison, with the keys user, prompt, chosen, rejected, conversation and timestamp.

    Ties are left out and counted. Raises InputError for missing columns and values; `drop` is told instead of rows.
    """
    optional = [
        columns[part] for part in columns if part in OPTIONAL and not (part == "prompt" and shape in NEEDS_PROMPT)
    ]
    required = [column for column in columns.values() if column not in optional]
    if not needs_user:
        required.remove(columns["user"])
        optional.append(columns["user"])

    late = {columns[part] for part in ("chosen", "rejected") if part in columns}

    def parts() -> Iterator[Record]:
        for where, record in records(path, required, optional, encoding=encoding, drop=drop):
            lacking = next((c for c in required if record.get(c) is None and c not in late), None)
            if lacking is not None:
                _fault(InputError(f"{where}: {lacking} is missing", hint=_hint(record, columns, lacking)), drop)
                continue
            yield where, {part: record.get(column) for part, column in columns.items()}

    def each(make: Callable[[str, dict[str, Any], Counter[str]], Iterable[Record]]) -> Iterator[Record]:
        for where, record in parts():
            try:
                pairs = list(make(where, record, counts))
            except InputError as error:
                _fault(error, drop)
                continue
            yield from pairs

    if shape == "pairs":
        return each(_pairs)
    if shape in ("label", "arena"):
        column = columns["winner"]
        labelled = records(path, (column,), (), encoding=encoding, drop=lambda _: None)
        numbers = _numbers({_word(record.get(column)) for _, record in labelled})
        return each(lambda where, record, counts: _label(where, record, counts, numbers, columns))
    if shape == "ratings":
        return _ratings(parts(), counts, drop)
    return each(_ranked)


def _hint(record: Mapping[str, Any], columns: Mapping[str, str], column: str) -> str | None:
    part = next(part for part, name in columns.items() if name == column)
    return None if column in record else f"the row has {columns_shown(list(map(str, record)))}; name it by --{part}"


def _fault(error: InputError, drop: Drop | None) -> None:
    if drop is None:
        raise error
    drop(error)


def _pairs(where: str, record: dict[str, Any], counts: Counter[str]) -> Iterable[Record]:
    rejected = record["rejected"]
    several = isinstance(rejected, list) and rejected and all(isinstance(each, str | list) for each in rejected)
    if not several or (isinstance(record["chosen"], list) and not all(isinstance(each, list) for each in rejected)):
        return [(where, record)]
    return [(where, {**record, "rejected": each}) for each in rejected]


def _word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def _numbers(words: set[str]) -> dict[str, int]:
    """Which side a number means: 0 and 1, or 1 and 2; empty where the column does not tell."""
    digits = {word for word in words if word.isdigit()}
    if digits in ({"0"}, {"0", "1"}):
        return {"0": 0, "1": 1}
    if digits in ({"2"}, {"1", "2"}):
        return {"1": 0, "2": 1}
    return {}


def _label(
    where: str, record: dict[str, Any], counts: Counter[str], numbers: Mapping[str, int], columns: Mapping[str, str]
) -> Iterable[Record]:
    word = _word(record["winner"])
    sides = [record["first"], record["second"]]
    if word in TIE:
        counts[TIES] += 1
        return []
    if word in FIRST | {columns["first"].lower()}:
        winner = 0
    elif word in SECOND | {columns["second"].lower()}:
        winner = 1
    elif word in numbers:
        winner = numbers[word]
    else:
        raise InputError(
            f"{where}: {columns['winner']} is {word[:40]!r}, which names neither side",
            hint="write a, b or tie; numbers are 0 and 1, or 1 and 2, in the whole column",
        )
    common = {part: record.get(part) for part in ("user", "prompt", "conversation", "timestamp")}
    return [(where, {**common, "chosen": sides[winner], "rejected": sides[1 - winner]})]


def _ratings(parts: Iterator[Record], counts: Counter[str], drop: Drop | None) -> Iterator[Record]:
    """Each two responses of one person to one prompt (of one conversation, where rows name them)."""
    groups: dict[str, list[tuple[str, float, dict[str, Any]]]] = {}
    for where, record in parts:
        try:
            rating = float(record["rating"]) if not isinstance(record["rating"], bool | list | dict) else float("nan")
        except (TypeError, ValueError, OverflowError):
            rating = float("nan")
        if not abs(rating) < float("inf"):
            _fault(InputError(f"{where}: rating is {str(record['rating'])[:40]!r}, not a number"), drop)
            continue
        key = canonical_json([str(record["user"]), record["prompt"], str(record["conversation"])])
        groups.setdefault(key, []).append((where, rating, record))
    for rated in groups.values():
        for (_, a, first), (where, b, second) in itertools.combinations(rated, 2):
            if a == b:
                counts[TIES] += 1
                continue
            better, worse = (first, second) if a > b else (second, first)
            yield where, {**better, "chosen": better["response"], "rejected": worse["response"]}


def _ranked(where: str, record: dict[str, Any], counts: Counter[str]) -> Iterable[Record]:
    replies, ranks = record["responses"], record["ranking"]
    if isinstance(replies, str) or isinstance(ranks, str):
        replies, ranks = (_literal(value, where) for value in (replies, ranks))
    if not isinstance(replies, list) or len(replies) < 2:
        raise InputError(f"{where}: responses is not a list of two or more")
    ranks = list(range(len(replies))) if ranks is None else ranks
    if (
        not isinstance(ranks, list)
        or len(ranks) != len(replies)
        or not all(isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank for rank in ranks)
    ):
        raise InputError(f"{where}: ranking is not a list of {len(replies)} numbers, one for each response")
    pairs = []
    for i, j in itertools.combinations(range(len(replies)), 2):
        if ranks[i] == ranks[j]:
            counts[TIES] += 1
            continue
        better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
        pairs.append((where, {**record, "chosen": replies[better], "rejected": replies[worse]}))
    return pairs


def _literal(value: Any, where: str) -> Any:
    """A list written as text in JSON or as Python's repr, as in a cell of CSV."""
    import ast

    from prbench.loaders.reading import from_json

    if not isinstance(value, str):
        return value
    try:
        return from_json(value)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
            raise InputError(
                f"{where}: a list is written as text, and is neither JSON nor a Python literal"
            ) from error
