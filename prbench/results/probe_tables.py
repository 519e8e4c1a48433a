"""Probes whose outcome is a table of its own kind, beside the cell that they belong to; `probes.TABLES` lists the
kinds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError
from prbench.results import cells, digests, scores

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 200
POLICY = "policy"
"""The kind that has a file for each language model, `probe-policy-MODEL.parquet`."""
POOLS = ("own", "new", "high reward", "long", "other directions")
"""Where pools of candidates come from: the user's test groups, or new prompts, some of them shifted."""
WHOLE, REAL, TEXT = "int64", "float32", "str"
TABLES: dict[str, dict[str, str]] = {
    "strangers": {
        "user": WHOLE,
        "comparison": WHOLE,
        "stranger": WHOLE,
        "choices": WHOLE,
        "own": REAL,
        "other": REAL,
        "cold": REAL,
    },
    "exchange": {
        "user": WHOLE,
        "comparison": WHOLE,
        "margin": REAL,
        "exchanged": REAL,
        "tossed": REAL,
        "cold": REAL,
    },
    "agreement": {"user": WHOLE, "seen": WHOLE, "pairs": WHOLE, "rate": REAL, "planted": WHOLE},
    "units": {"dimension": WHOLE, "variance": REAL},
    "best-of-n": {
        "kind": WHOLE,
        "user": WHOLE,
        "pool": WHOLE,
        "item": WHOLE,
        "utility": REAL,
        "reward": REAL,
        "cold": REAL,
    },
    "updates": {
        "user": WHOLE,
        "comparison": WHOLE,
        "choices": WHOLE,
        "last": WHOLE,
        "margin": REAL,
        "cold": REAL,
        "seconds": REAL,
    },
    "mistakes": {"user": WHOLE, "comparison": WHOLE, "rate": REAL, "margin": REAL, "cold": REAL},
    "one-sided": {
        "user": WHOLE,
        "comparison": WHOLE,
        "both": REAL,
        "clicks": REAL,
        "rejections": REAL,
        "clicks_false": REAL,
        "rejections_false": REAL,
        "cold": REAL,
    },
    "groups": {
        "attribute": TEXT,
        "group": TEXT,
        "users": WHOLE,
        "splits": WHOLE,
        "accuracy": REAL,
        "gain": REAL,
        "gap": REAL,
        "gap_p": REAL,
        "gain_gap": REAL,
        "gain_gap_p": REAL,
    },
    "halves": {"user": WHOLE, "users": WHOLE, "rank": REAL, "first": REAL},
    "inference": {"attribute": TEXT, "users": WHOLE, "classes": WHOLE, "auc": REAL, "p": REAL},
    "taxes": {"user": WHOLE, "prompt": WHOLE, "cold": REAL, "adapted": REAL, "tossed": REAL},
    "asking": {"user": WHOLE, "rule": WHOLE, "questions": WHOLE, "accuracy": REAL, "cold": REAL},
    POLICY: {
        "user": WHOLE,
        "comparison": WHOLE,
        "model": TEXT,
        "summed": REAL,
        "per_token": REAL,
        "reward": REAL,
        "cold": REAL,
    },
}
"""Columns by kind. Numbers of users, comparisons and strangers count from 0; rates and margins as in scores.

strangers: a user's test choices after the first `choices` of a stranger's support (`other`) and of as many of the
user's own (`own`), for stranger 0, 1, ...
exchange: test choices after the user's support as it is (`margin`), with every label reversed (`exchanged`), and with
each label tossed (`tossed`).
agreement: the user's support rate and the number of `pairs` it rests on; `planted` is a simulated user's group, else
−1. best-of-n: every candidate of an unseen user's pools, with the user's utility and the rewards after and before
adapting; `kind` numbers `POOLS`.
updates: test choices after the first `choices` of the support in the order of time, or the `last` of these where it
is above 0; `seconds` is the cost of the update per user.
asking: a user's accuracy once so many questions were asked by a rule (its number in `protocol.questions.RULES`), and
before any; `questions` is −1 for the whole support.
mistakes: test choices after a support of whose labels a share, the `rate`, is flipped, hard pairs first.
one-sided: test choices after the support (`both`), after what it chose against drawn items (`clicks`), and after
drawn items against what it rejected; the share of each user's drawn pairs that are false, where utilities are known.
groups: each group of ten and more unseen users by an attribute, and the attribute's gaps, over all finished `splits`.
halves: the rank of a user's own other half among those of all `users`, and the chance that it is picked first.
inference: how well each attribute of so many unseen `users` is read off their states, and by chance.
taxes: how often a user's state prefers a prompt's reply of higher shared quality, before adapting, after it, and
after tossed labels.
policy: of each test choice the difference of log-probabilities under a language model, summed and per token, and of
rewards after and before adapting, each by its standard deviation over the seen users' training pairs; `model` is the
language model's name and fingerprint.
units: the variance over unseen users of each dimension of a latent state, in units of the prior's.
"""


def nothing(kind: str) -> pd.DataFrame:
    """What `read` gives where no cell has such a table."""
    import pandas as pd

    return pd.DataFrame({name: [] for name in (*scores.COLUMNS, "split", *TABLES[kind])})


def kind_of(path: Path) -> str | None:
    """The kind of table in a probe's file, None for a file of scores."""
    kind = path.stem.removeprefix("probe-")
    kind = POLICY if kind.startswith(f"{POLICY}-") else kind
    return kind if kind in TABLES else None


def read(runs: Path, kind: str) -> pd.DataFrame:
    """Every cell's table of a kind: the columns of `TABLES`, and dataset, encoder, method, selection and split.

    Empty where there is none. Raises InputError for a file that is damaged, or holds something else.
    """
    import pandas as pd

    parts = []
    for folder in cells.folders(runs):
        seals = digests.of(folder)
        for path in sorted(path for path in folder.glob(f"probe-{kind}*.parquet") if kind_of(path) == kind):
            if not seals.has(path):
                continue
            record = cells.read_record(folder)
            same: dict[str, Any] = {"split": record.split}
            same |= dict(zip(scores.COLUMNS, record.row, strict=True))
            parts.append(read_table(path, kind).assign(**same))
    return pd.concat(parts, ignore_index=True) if parts else nothing(kind)


def read_table(path: Path, kind: str) -> pd.DataFrame:
    """One table. Raises InputError when it is unreadable, lacks a column or holds other types."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    again = f"delete this file and run `prbench probe --kinds {kind}` again"
    content = digests.of(path.parent).read(path, again)
    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError, pa.ArrowException, MemoryError, OverflowError, LookupError, TypeError) as error:
        raise InputError(f"{path} is unreadable: {' '.join(str(error).split())[:200]}", hint=again) from error
    columns: Mapping[str, str] = TABLES[kind]
    if lacking := [name for name in columns if name not in frame]:
        raise InputError(f"{path} lacks the column {', '.join(lacking)}", hint=again)
    table: dict[str, Any] = {}
    for name, dtype in columns.items():
        if dtype == TEXT:
            if not all(isinstance(value, str) and len(value) <= LONGEST for value in frame[name]):
                raise InputError(f"{path}: the column {name} holds more than short texts", hint=again)
            table[name] = frame[name].to_numpy(object)
            continue
        known = pd.api.types.is_integer_dtype if dtype == WHOLE else pd.api.types.is_float_dtype
        if not known(frame[name]):
            raise InputError(f"{path}: the column {name} holds {frame[name].dtype}, not {dtype}", hint=again)
        table[name] = frame[name].to_numpy(np.dtype(dtype))
        if np.isinf(table[name]).any():
            raise InputError(f"{path}: the column {name} holds numbers that are not finite", hint=again)
    return pd.DataFrame(table)
