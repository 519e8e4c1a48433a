"""Embeddings as the published MRM scripts write them: a tensor of rows, and who preferred which row.

The tensor file holds one float tensor [rows, d]. The JSON file maps each user's id to a list of records with
`chosen_idx` and `rejected_idx` (rows of the tensor), and optionally `conversation_id`, `chosen_score` and
`rejected_score` (the reward model's own scores of the two rows) and `split` ("train", "validation" or "test").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.base.git_lfs import require_contents
from prbench.comparisons import Items, PreferenceData
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Numbering
from prbench.loaders.new_entry import check_name, publish
from prbench.loaders.reading import open_text, reading

if TYPE_CHECKING:
    import torch

TENSORS = "comparisons.safetensors"
USERS = "users.json"
MARKS = {"train": 0, "validation": 1, "test": 1}
ROWS_AT_ONCE = 4096


class Meta(NamedTuple):
    """The JSON file: users in its order; per comparison [n] user, rows, group and mark; per row a score."""

    users: list[str]
    user: list[int]
    chosen: list[int]
    rejected: list[int]
    group: list[int]
    mark: list[int] | None
    score: dict[int, float] | None


def import_embeddings(pt: Path, meta: Path, name: str) -> Path:
    """Make the published scripts' files a data set called `name`; returns the file of its entry.

    Users, and each user's comparisons and conversations, keep the order of the JSON file, which the protocol
    `published-code` needs to draw the splits of the published code. A record without `conversation_id` is a group
    of its own. Rows that nobody compared are left out. Error messages count users and records from 1 in the order
    of the file, since user ids may be private.

    Raises InputError for a file without such a tensor or JSON; a tensor that is not two-dimensional or not of
    floats; NaN or infinity in a compared row or a score; an index out of range; two scores for one row; `split` or
    scores that only some records have; fewer than two users; and for a name that is taken.
    """
    import torch

    check_name(name)
    embedding = _read_tensor(pt)
    table = _read_meta(meta, rows=len(embedding))
    used, position = np.unique(np.array([table.chosen, table.rejected], dtype=np.int64), return_inverse=True)
    chosen, rejected = position.reshape(2, -1)
    kept = _finite_rows(embedding, used, table, pt, meta)
    tensors = {
        "embedding": kept,
        "user": torch.tensor(table.user, dtype=torch.int64),
        "chosen": torch.from_numpy(chosen),
        "rejected": torch.from_numpy(rejected),
        "group": torch.tensor(table.group, dtype=torch.int64),
    }
    if table.mark is not None:
        tensors["mark"] = torch.tensor(table.mark, dtype=torch.int64)
    if table.score is not None:
        tensors["reward"] = torch.tensor([table.score[row] for row in used.tolist()], dtype=torch.float32)

    def write(folder: Path) -> None:
        from prbench.method import save_tensors

        save_tensors(folder / TENSORS, tensors, {"unused_rows": str(len(embedding) - len(used))})
        private = folder / USERS
        private.touch(mode=0o600)
        private.write_text(json.dumps(table.users), encoding="utf-8")

    n = len(table.user)
    return publish(
        name,
        write,
        {
            "title": name,
            "loader": "prbench.loaders.mrm_files:ImportedEmbeddings",
            "family": name,
            "licence": "not stated",
            "homepage": "",
            "citation": "",
            "summary": f"{n:,} comparisons by {len(table.users):,} users, {kept.shape[1]} numbers per item, "
            f"imported from {pt.name} and {meta.name}",
            "encoder": "own",
            "default": False,
            "protocol": {"name": "published-code", "unit": "group" if table.mark is None else "mark"},
            "expect": {"users": len(table.users), "comparisons": n, "items": len(used)},
        },
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportedEmbeddings:
    """Loader of what `import_embeddings` wrote: ready embeddings, no texts."""

    cached: ClassVar[bool] = False

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the order of the imported file, with `embedded` items."""
        from prbench.method import load_tensors

        tensors, metadata = load_tensors(raw.path(TENSORS))
        users = json.loads(raw.path(USERS).read_text(encoding="utf-8"))
        columns: dict[str, Any] = {
            column: tensors[column].numpy()
            for column in ("user", "chosen", "rejected", "group", "mark")
            if column in tensors
        }
        per_user = np.bincount(columns["user"], minlength=len(users))
        return PreferenceData(
            name=name,
            contexts=(),
            item_context=np.empty(0, dtype=np.int64),
            responses=(),
            user_keys=tuple(users),
            embedded=Items(embedding=tensors["embedding"], reward=tensors.get("reward")),
            counts={
                "users without comparisons": int((per_user == 0).sum()),
                "users with one comparison, which cannot be divided": int((per_user == 1).sum()),
                "rows that nobody compared, left out": int(metadata["unused_rows"]),
            },
            **columns,
        )


def read_pt(path: Path, hint: str) -> Any:
    """What torch.save wrote to a .pt file, mapped into memory where the file's format allows it.

    Nothing but tensors and plain containers is ever built. Raises InputError, with `hint`, when there is no such
    file, when it is truncated and when it holds anything else.
    """
    import warnings
    from pickle import UnpicklingError

    import torch

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        require_contents(path)
        with path.open("rb") as file:
            mappable = file.read(2) == b"PK"
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it may not know; what it cannot read is refused below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except UnpicklingError as error:
        # torch's refusal: with weights_only it reads by its own code, never pickle's, but raises pickle's error.
        raise InputError(
            f"{path} holds more than tensors, or is not a file of torch.save; it was not read", hint=hint
        ) from error
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise InputError(f"{path} is truncated or no file of torch.save", hint=hint) from error


def _read_tensor(path: Path) -> torch.Tensor:
    import torch

    hint = "save one float tensor [rows, d] with torch.save"
    value = read_pt(path, hint)
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path} holds a {type(value).__name__}, not a tensor", hint=hint)
    if value.layout is not torch.strided or value.dtype not in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    ):
        raise InputError(f"{path} holds a tensor of {value.dtype}, not of floats", hint=hint)
    if value.ndim != 2 or not value.shape[0] or not value.shape[1]:
        raise InputError(f"{path} holds a tensor of shape {list(value.shape)}, not [rows, d]", hint=hint)
    return value.detach()


def _finite_rows(
    embedding: torch.Tensor, used: np.ndarray[Any, Any], meta: Meta, pt: Path, meta_file: Path
) -> torch.Tensor:
    """The rows `used`, float64 narrowed to float32; InputError naming the row and a record with NaN or infinity."""
    import torch

    from prbench.base.console import progress

    dtype = torch.float32 if embedding.dtype == torch.float64 else embedding.dtype
    kept = torch.empty((len(used), embedding.shape[1]), dtype=dtype)
    with progress() as display:
        task = display.add_task(f"reading {pt.name}", total=len(used))
        for start in range(0, len(used), ROWS_AT_ONCE):
            part = torch.from_numpy(used[start : start + ROWS_AT_ONCE])
            rows = embedding[part].to(dtype)
            finite = torch.isfinite(rows).all(dim=1)
            if not bool(finite.all()):
                row = int(part[int((~finite).nonzero()[0])])
                sides = zip(meta.chosen, meta.rejected, strict=True)
                first = next(i for i, side in enumerate(sides) if row in side)
                user = meta.user[first]
                record = first - meta.user.index(user) + 1
                raise InputError(
                    f"{pt}: row {row} has NaN or infinity; {_place(meta_file, user + 1, record)} uses it",
                    hint="embed that text again, in a wider number format",
                )
            kept[start : start + len(rows)] = rows
            display.advance(task, len(rows))
    return kept


def _read_meta(path: Path, *, rows: int) -> Meta:
    table = _read_json(path)
    user: list[int] = []
    chosen: list[int] = []
    rejected: list[int] = []
    group: list[int] = []
    marks: list[int | None] = []
    scores: dict[int, float] = {}
    scored: list[bool] = []
    groups: Numbering[str | int] = Numbering()
    for number, where, record in _records(path, table):
        first, second = (_index(record, side, rows, where) for side in ("chosen_idx", "rejected_idx"))
        if first == second:
            raise InputError(f"{where}: chosen_idx and rejected_idx are the same row")
        conversation = record.get("conversation_id")
        if isinstance(conversation, bool) or not isinstance(conversation, str | int | None):
            raise InputError(f"{where}: conversation_id is neither a text nor a whole number")
        user.append(number)
        chosen.append(first)
        rejected.append(second)
        # A number that no conversation has: each such record is its own group.
        group.append(groups[-len(user) if conversation is None else str(conversation)])
        marks.append(_mark(record, where))
        scored.append(_score(record, ((first, "chosen_score"), (second, "rejected_score")), scores, where))
        for column, has in (("split", marks[-1] is not None), ("chosen_score", scored[-1])):
            if has != ((marks[0] is not None) if column == "split" else scored[0]):
                raise InputError(
                    f"{where}: {column} is {'given' if has else 'missing'} here, unlike in the first record",
                    hint="give it in every record or in none",
                )
    if len(set(user)) < 2:
        raise InputError(
            f"{path}: {len(set(user))} of its users have comparisons; a data set needs at least two users"
        )
    mark = None if marks[0] is None else [value for value in marks if value is not None]
    return Meta(list(table), user, chosen, rejected, group, mark, scores if scored[0] else None)


def _read_json(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise InputError(f"{path}: a user or a key of a record appears twice")
        return table

    with reading(path, lambda: str(path)), open_text(path) as file:
        try:
            table = json.loads(file.read(), object_pairs_hook=unique)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {error.lineno}: no valid JSON: {error.msg} at column {error.colno}"
            ) from error
    if not isinstance(table, dict):
        raise InputError(f"{path} holds a {type(table).__name__}, expected an object: user -> list of records")
    return table


def _records(path: Path, table: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """User number, place to name, and record."""
    for number, records in enumerate(table.values()):
        if not isinstance(records, list):
            raise InputError(f"{path}, user {number + 1}: expected a list of records, found {type(records).__name__}")
        for i, record in enumerate(records, start=1):
            where = _place(path, number + 1, i)
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected an object, found {type(record).__name__}")
            yield number, where, record


def _place(path: Path, user: int, record: int) -> str:
    return f"{path}, user {user}, record {record}"


def _index(record: dict[str, Any], column: str, rows: int, where: str) -> int:
    value = record.get(column)
    if value is None:
        raise InputError(f"{where}: {column} is missing")
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where}: {column} is {value!r}, not a whole number")
    if not 0 <= value < rows:
        raise InputError(f"{where}: {column} is {value}, but the tensor has rows 0 to {rows - 1}")
    return value


def _mark(record: dict[str, Any], where: str) -> int | None:
    split = record.get("split")
    if split is None:
        return None
    if not isinstance(split, str) or split not in MARKS:
        raise InputError(f"{where}: split is {split!r}, expected one of {', '.join(MARKS)}")
    return MARKS[split]


def _score(record: dict[str, Any], sides: tuple[tuple[int, str], ...], scores: dict[int, float], where: str) -> bool:
    """Enter the record's scores; whether it has them."""
    given = [column for _, column in sides if record.get(column) is not None]
    if not given:
        return False
    for row, column in sides:
        value = record.get(column)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{where}: {column} is {value!r}, not a finite number")
        if scores.setdefault(row, float(value)) != value:
            raise InputError(f"{where}: {column} of row {row} is {value}, an earlier record says {scores[row]}")
    return True
