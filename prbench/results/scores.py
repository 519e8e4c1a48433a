"""A cell's scores: one row per held-out comparison."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import digests
from prbench.results.cells import AGAIN, SCORES, scores_file
from prbench.results.record import PlannedRecord

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


COLUMNS = ("dataset", "encoder", "method", "selection")
POPULATIONS = ("seen", "unseen")
SHOTS_FILE = re.compile(r"scores-(0|[1-9][0-9]*)\.parquet")


def _scores_files(folder: Path) -> list[Path]:
    """The scores of a finished cell at every number of shots."""
    seals = digests.of(folder)
    few = sorted(p for p in folder.glob("scores-*.parquet") if SHOTS_FILE.fullmatch(p.name) and seals.has(p))
    return [scores_file(folder, ALL_SHOTS), *few]


def read_scores_file(path: Path, again: str) -> pd.DataFrame:
    """The columns of one file as `SCORES` has them, `population` as a categorical of `POPULATIONS`.

    Raises InputError with the hint `again` when it is unreadable or empty, or when a column is missing or holds
    something else.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    content = digests.of(path.parent).read(path, again)
    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError, pa.ArrowException, MemoryError, OverflowError, LookupError, TypeError) as error:
        raise InputError(f"{path} is unreadable: {' '.join(str(error).split())[:200]}", hint=again) from error
    if lacking := [name for name in SCORES if name not in frame]:
        raise InputError(f"{path} lacks the column {', '.join(lacking)}", hint=again)
    if not len(frame):
        raise InputError(f"{path} has no rows", hint=again)
    if (codes := population_codes(frame["population"])) is None:
        raise InputError(f"{path}: the column population holds more than {' and '.join(POPULATIONS)}", hint=again)
    columns: dict[str, Any] = {"population": pd.Categorical.from_codes(codes, dtype=_population_kind())}
    for name in list(SCORES)[1:]:
        whole = SCORES[name].startswith("int")
        known = pd.api.types.is_integer_dtype if whole else pd.api.types.is_float_dtype
        if not known(frame[name]):
            kind = "whole numbers" if whole else "numbers"
            raise InputError(f"{path}: the column {name} holds {frame[name].dtype}, not {kind}", hint=again)
        if frame[name].isna().any():
            raise InputError(f"{path}: the column {name} lacks values", hint=again)
        if whole and not (frame[name].between(0, np.iinfo(SCORES[name]).max)).all():
            raise InputError(f"{path}: the column {name} holds numbers out of its range", hint=again)
        columns[name] = frame[name].to_numpy(SCORES[name])
        if not whole and not np.isfinite(columns[name]).all():
            raise InputError(f"{path}: the column {name} holds numbers that are not finite", hint=again)
    return pd.DataFrame(columns)


def population_codes(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.intp]] | None:
    """The place of each value in `POPULATIONS`; None where one of them is something else."""
    import pandas as pd

    try:
        codes = pd.Index(POPULATIONS).get_indexer(pd.Index(column))
    except TypeError:
        # Lists and tables of Parquet have no hash.
        return None
    return None if (codes < 0).any() else codes


def _population_kind() -> pd.CategoricalDtype:
    import pandas as pd

    return pd.CategoricalDtype(list(POPULATIONS))


def _read_scores(path: Path, record: PlannedRecord) -> tuple[dict[str, Any], pd.DataFrame]:
    """What is the same in all lines of a scores file, and its columns `SCORES`."""
    few = SHOTS_FILE.fullmatch(path.name)
    same: dict[str, Any] = dict(zip(COLUMNS, record.row, strict=True))
    same |= {"split": record.split, "restart": record.restart}
    again = (
        f"delete this file and repeat the run with --shots all,{few[1]}: it makes this file only" if few else AGAIN
    )
    return same | {"shots": int(few[1]) if few else ALL_SHOTS}, read_scores_file(path, again)
