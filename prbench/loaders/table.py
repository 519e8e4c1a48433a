"""Comparisons of one's own as the import leaves them: one Parquet file, and what was counted on the way.

A row has `user`, `context` (a JSON list of messages), `chosen` and `rejected`, and where the source had them
`conversation` and `seconds`. See `prbench.loaders.shapes` for the files that can be imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from prbench.base.reading import read_json
from prbench.comparisons import IntArray, PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.attributes import by_number
from prbench.loaders.building import Numbering

TABLE = "comparisons.parquet"
COUNTS = "counts.json"
"""What the import left out or changed, and how often; the file is there where it did."""
ATTRIBUTES = "attributes.json"
"""The people's attributes, by name and id; the file is there where the import was given any."""
ROWS_AT_ONCE = 65_536
"""Rows that are in memory as the file has them; what recurs among all of them is held once."""


def write_table(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write comparisons, all of which have the same columns, a piece at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rest = iter(records)
    first = list(islice(rest, ROWS_AT_ONCE))
    names = list(first[0])
    schema = pa.schema([(name, pa.float64() if name == "seconds" else pa.large_string()) for name in names])
    with pq.ParquetWriter(path, schema) as file:
        while first:
            columns = {name: [record[name] for record in first] for name in names}
            file.write_table(pa.table(columns, schema=schema))
            first = list(islice(rest, ROWS_AT_ONCE))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportedTable:
    """Loader of what `import_table` wrote. Users are numbered by first appearance.

    A group is a conversation where the rows name one, else a context: all that a user was asked about one prompt.
    """

    cached: ClassVar[bool] = False

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the order of the imported file."""
        import pyarrow.parquet as pq

        path = raw.path(TABLE)
        with pq.ParquetFile(path) as file:
            given = file.schema_arrow.names
        users: Numbering[str] = Numbering()
        contexts: Numbering[str] = Numbering()
        conversations: Numbering[Hashable] = Numbering()
        items: Numbering[tuple[int, str]] = Numbering()
        user = _numbered(path, "user", users.__getitem__)
        context = _numbered(path, "context", contexts.__getitem__)
        group = _numbered(path, "conversation", conversations.__getitem__) if "conversation" in given else context
        # Items are numbered by all chosen replies first.
        chosen, rejected = (_items(path, side, context, items) for side in ("chosen", "rejected"))
        return PreferenceData(
            name=name,
            contexts=tuple(as_context(json.loads(text)) for text in contexts),
            item_context=np.array([number for number, _ in items], dtype=np.int64),
            responses=tuple(response for _, response in items),
            user=user,
            chosen=chosen,
            rejected=rejected,
            group=group,
            time=_floats(path, "seconds") if "seconds" in given else None,
            user_keys=tuple(map(str, users)),
            counts={
                **{str(what): int(count) for what, count in _json(raw, COUNTS).items()},
                "users with one comparison, which cannot be divided": int((np.bincount(user) == 1).sum()),
            },
            attributes=by_number(_json(raw, ATTRIBUTES), [str(key) for key in users]),
        )


def _values(path: Path, column: str) -> Iterator[list[Any]]:
    """The values of a column, a piece of the file at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column]):
            yield batch.column(0).to_pylist()


def _numbered(path: Path, column: str, number: Callable[[Any], int]) -> IntArray:
    """The numbers [n] of a column's values."""
    parts = [np.fromiter(map(number, values), np.int64, len(values)) for values in _values(path, column)]
    return np.concatenate(parts)


def _items(path: Path, side: str, context: IntArray, items: Numbering[tuple[int, str]]) -> IntArray:
    """The items [n] of one side: a reply in the context of its row."""
    parts, start = [], 0
    for values in _values(path, side):
        keys = zip(context[start : start + len(values)].tolist(), values, strict=True)
        parts.append(np.fromiter((items[key] for key in keys), np.int64, len(values)))
        start += len(values)
    return np.concatenate(parts)


def _floats(path: Path, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([np.array(values, dtype=np.float64) for values in _values(path, column)])


def _json(raw: RawSource, name: str) -> dict[str, Any]:
    file = next((path for path in raw.paths() if path.name == name), None)
    table: dict[str, Any] = {} if file is None else read_json(file)
    return table
