"""Margins from outside: a table of (split, comparison key, margin before, margin after) as a row of results.

For methods that nobody else can rerun: an outside model behind an interface, or code that is not public. The row is
checked against the very test choices of its splits, and is marked as submitted wherever it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.reading import require_regular
from prbench.comparisons import IntArray, PreferenceData
from prbench.protocol import PROTOCOL_VERSION
from prbench.protocol.splits import TUNING_FROM, Split, make_split
from prbench.registry.schema import ProtocolEntry
from prbench.results import submitted
from prbench.sharing.keys import comparison_keys

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("split", "comparison", "margin_before", "margin_after")
SHAPE = f"a table with the columns {', '.join(COLUMNS)}, as .csv, .jsonl or .parquet"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def import_margins(
    file: Path, data: PreferenceData, protocol: ProtocolEntry, name: str, runs: Path, *, seed: int
) -> Path:
    """Take a table of margins into the results folder `runs`; returns the file of the row's record.

    Raises InputError that names the line for a comparison that `data` do not have or that is not tested in its split,
    for one named twice, for a margin that is not a finite number, and for a split of which a test choice is missing.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"--name {name!r} cannot be a name", hint="use letters, digits, '-', '_' and '.'")
    if registry.known_name("methods", name) in registry.names("methods"):
        raise InputError(
            f"--name {name}: that is a method here, and submitted scores are not a run of it",
            hint=f"for example --name {name}-ours",
        )
    table = _read(file)
    row_of = {key: row for row, key in enumerate(comparison_keys(data))}
    numbers = _numbers(table, file)
    parts = []
    for number in sorted(set(numbers.tolist())):
        split = make_split(data, protocol, index=number, seed=seed)
        lines = np.flatnonzero(numbers == number)
        rows = _rows([str(table["comparison"].iloc[i]) for i in lines], lines, split, data, row_of, file)
        parts.append((split, lines, rows))
    return submitted.write(
        runs,
        {
            "format": 1,
            "note": submitted.NOTE,
            "name": name,
            "dataset": data.name,
            "data_fingerprint": data.fingerprint,
            "protocol": protocol,
            "protocol_version": PROTOCOL_VERSION,
            "seed": seed,
            "choices": {str(split.index): len(rows) for split, _, rows in parts},
        },
        _scores(table, data, parts),
    )


def _read(file: Path) -> pd.DataFrame:
    """The table, its columns checked."""
    import pandas as pd
    import pyarrow as pa

    require_regular(file, hint=SHAPE)
    try:
        if file.suffix == ".csv":
            table = pd.read_csv(file, dtype={"comparison": str})
        elif file.suffix == ".jsonl":
            table = pd.read_json(file, lines=True, dtype={"comparison": str}, precise_float=True)
        elif file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            raise InputError(f"{file} is not {SHAPE}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{file} is unreadable: {' '.join(str(error).split())[:200]}", hint=SHAPE) from error
    if lacking := [name for name in COLUMNS if name not in table]:
        raise InputError(f"{file} lacks the column {', '.join(lacking)}", hint=SHAPE)
    if not len(table):
        raise InputError(f"{file} has no rows", hint=SHAPE)
    for name in ("margin_before", "margin_after"):
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        # Margins are stored as float32.
        wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
        if wrong.any():
            line = int(np.argmax(wrong))
            raise InputError(
                f"{file}, row {line + 1}: {name} is {str(table[name].iloc[line])!r}, not a finite number"
            )
        table[name] = values
    return table


def _numbers(table: pd.DataFrame, file: Path) -> IntArray:
    import pandas as pd

    values = pd.to_numeric(table["split"], errors="coerce").to_numpy(float)
    wrong = ~((values >= 0) & (values < TUNING_FROM) & (values == np.floor(values)))
    if wrong.any():
        line = int(np.argmax(wrong))
        raise InputError(
            f"{file}, row {line + 1}: split is {str(table['split'].iloc[line])!r}, not a number from 0 to "
            f"{TUNING_FROM - 1}"
        )
    return values.astype(np.int64)


def _rows(
    keys: Sequence[str],
    lines: IntArray,
    split: Split,
    data: PreferenceData,
    row_of: Mapping[str, int],
    file: Path,
) -> IntArray:
    """The data's row of each key of one split. Raises InputError as `import_margins`."""
    wanted = np.concatenate([split.seen_test, split.unseen_test])
    tested, line_of = set(wanted.tolist()), dict[int, int]()
    for key, line in zip(keys, lines.tolist(), strict=True):
        where = f"{file}, row {line + 1}"
        row = row_of.get(key)
        if row is None:
            raise InputError(
                f"{where}: {data.name} has no comparison {key[:80]}",
                hint=f"keys are those of `prbench splits export --dataset {data.name}`",
            )
        if row not in tested:
            raise InputError(f"{where}: comparison {key} is not a test choice of split {split.index}")
        if row in line_of:
            raise InputError(f"{where}: comparison {key} of split {split.index} is in row {line_of[row] + 1} already")
        line_of[row] = line
    if missing := [row for row in wanted.tolist() if row not in line_of]:
        key = next(key for key, row in row_of.items() if row == missing[0])
        raise InputError(
            f"{file}: split {split.index} lacks {len(missing):,} of its {len(wanted):,} test choices, the "
            f"first is {key}",
            hint="submit every test choice of a split, seen and unseen users', or leave the whole split out",
        )
    return np.array(list(line_of), dtype=np.int64)


def _scores(
    table: pd.DataFrame, data: PreferenceData, parts: Sequence[tuple[Split, IntArray, IntArray]]
) -> pd.DataFrame:
    import pandas as pd

    frames: list[Any] = []
    for split, lines, rows in parts:
        frames.append(
            pd.DataFrame(
                {
                    "split": np.full(len(rows), split.index, dtype=np.int64),
                    "population": np.where(np.isin(data.user[rows], split.seen), "seen", "unseen"),
                    "user": data.user[rows].astype(np.int32),
                    "comparison": rows,
                    "margin": table["margin_after"].to_numpy()[lines].astype(np.float32),
                    "cold_margin": table["margin_before"].to_numpy()[lines].astype(np.float32),
                }
            ).sort_values(["population", "user", "comparison"], kind="stable")
        )
    joined: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return joined
