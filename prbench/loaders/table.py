"""Comparisons of one's own as the import leaves them: one Parquet file, and what was counted on the way.

A row has `user`, `context` (a JSON list of messages), `chosen` and `rejected`, and where the source had them
`conversation` and `seconds`. See `prbench.loaders.shapes` for the files that can be imported.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from prbench.base.reading import read_json
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.attributes import by_number
from prbench.loaders.building import Numbering

TABLE = "comparisons.parquet"
COUNTS = "counts.json"
"""What the import left out or changed, and how often; the file is there where it did."""
ATTRIBUTES = "attributes.json"
"""The people's attributes, by name and id; the file is there where the import was given any."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportedTable:
    """Loader of what `import_table` wrote. Users are numbered by first appearance.

    A group is a conversation where the rows name one, else a context: all that a user was asked about one prompt.
    """

    cached: ClassVar[bool] = False

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the order of the imported file."""
        import pandas as pd

        frame = pd.read_parquet(raw.path(TABLE))
        user, users = pd.factorize(frame["user"])
        context, contexts = pd.factorize(frame["context"])
        group = pd.factorize(frame["conversation"])[0] if "conversation" in frame else context
        items: Numbering[tuple[int, str]] = Numbering()
        chosen, rejected = (
            np.array([items[key] for key in zip(context.tolist(), frame[side], strict=True)], dtype=np.int64)
            for side in ("chosen", "rejected")
        )
        return PreferenceData(
            name=name,
            contexts=tuple(as_context(json.loads(text)) for text in contexts),
            item_context=np.array([number for number, _ in items], dtype=np.int64),
            responses=tuple(response for _, response in items),
            user=user.astype(np.int64),
            chosen=chosen,
            rejected=rejected,
            group=group.astype(np.int64),
            time=frame["seconds"].to_numpy(dtype=np.float64) if "seconds" in frame else None,
            user_keys=tuple(map(str, users)),
            counts={
                **{str(what): int(count) for what, count in _json(raw, COUNTS).items()},
                "users with one comparison, which cannot be divided": int((np.bincount(user) == 1).sum()),
            },
            attributes=by_number(_json(raw, ATTRIBUTES), [str(key) for key in users]),
        )


def _json(raw: RawSource, name: str) -> dict[str, Any]:
    file = next((path for path in raw.paths() if path.name == name), None)
    table: dict[str, Any] = {} if file is None else read_json(file)
    return table
