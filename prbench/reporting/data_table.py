"""The table of what the data are like, beside every leaderboard; from the cells' records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prbench.protocol.properties import LEAST_REPEATERS, LEAST_REPEATS
from prbench.reporting.grid import DASH, Grid, TableCell, percent
from prbench.reporting.placing import PlacedCell
from prbench.results.record import CellRecord
from prbench.results.record_parts import Properties

if TYPE_CHECKING:
    import pandas as pd

CAPTION = (
    "Properties of the data, not of a method; – where the results do not say. Disagreement: chance in % that two "
    "different annotators of a pair differ, each pair that several judged counting once; it holds differences of "
    "taste as well as noise. Majority: accuracy in % of the majority of the others on those pairs, a bound without "
    "personalisation: an ideal rule that is the same for all reaches at least this on pairs that recur. Consistency: "
    "chance in % that a person judges a pair the same way again; with at least "
    f"{LEAST_REPEATS} repeats of {LEAST_REPEATERS} users, the bound with personalisation follows under noise that is "
    "equal and symmetric (else “not identified”). Per item: judgements per item. Pairs known: test pairs in % that "
    "anybody trained on. Longer wins: % of pairs that the longer response wins; 50 if length tells nothing. Room: on "
    "simulated data, points from the best rule without personalisation to the true rewards; 0 leaves nothing to gain."
)
"""The meaning and unit of each column."""
COLUMNS = (
    "dataset", "encoder", "disagreement", "shared_pairs", "shared_votes", "majority", "consistency", "repeats",
    "repeaters", "consistency_bound", "choices_least", "choices_median", "choices_most", "per_item", "pairs_shared",
    "pairs_known", "longer_wins", "world_gap", "ceiling", "floor", "room",
)  # fmt: skip
PLAIN = (
    "disagreement", "shared_pairs", "shared_votes", "majority", "consistency", "repeats", "repeaters",
    "consistency_bound", "per_item", "pairs_shared", "longer_wins", "world_gap",
)  # fmt: skip
WORLD_GAP = (
    " World differs: of the pairs that people order by their own taste and by what is right for the world, those in "
    "% that the two order the other way round."
)
"""Added to the caption where a data set has both rankings."""


def properties_frame(cells: Iterable[PlacedCell]) -> pd.DataFrame:
    """properties.csv: one row per data set and encoder, NaN where no record tells.

    `pairs_known`, `ceiling`, `floor` and `room` are means over the splits; the rest is of the whole data set.
    """
    import pandas as pd

    by_setting: dict[tuple[str, str], list[CellRecord]] = {}
    for cell in cells:
        by_setting.setdefault(cell.board, []).append(cell.record)
    records = [_record(setting, records_of_setting) for setting, records_of_setting in sorted(by_setting.items())]
    return pd.DataFrame(records, columns=list(COLUMNS))


def _record(setting: tuple[str, str], cells: list[CellRecord]) -> dict[str, Any]:
    properties = next((cell.properties for cell in cells if cell.properties), Properties())
    known = properties.model_dump()
    record: dict[str, Any] = dict(zip(("dataset", "encoder"), setting, strict=True))
    record |= {name: _number(known.get(name)) for name in PLAIN}
    choices = properties.choices or [math.nan] * 3
    record |= dict(zip(("choices_least", "choices_median", "choices_most"), choices, strict=True))
    # A split has one division, whatever the methods: one of its cells tells it.
    splits = {cell.split: cell for cell in cells}.values()
    shares = [
        (cell.counts.test_pairs_trained_on or 0) / cell.counts.test_pairs for cell in splits if cell.counts.test_pairs
    ]
    record["pairs_known"] = _mean(shares)
    bounds = [cell.truth.overall for cell in splits if cell.truth]
    record["ceiling"] = _mean([each.ceiling for each in bounds])
    record["floor"] = _mean([each.floor for each in bounds])
    return record | {"room": record["ceiling"] - record["floor"]}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def properties_grid(frame: pd.DataFrame, *, label: str = "properties") -> Grid:
    """The table of `properties_frame`'s rows."""
    known = (
        "Data set", "Choices per user", "Disagreement", "Majority", "on pairs", "Consistency", "of repeats",
        "Bound with", "Per item", "Pairs known", "Longer wins",
    )  # fmt: skip
    # Few sources ask for both, and the table is wide.
    both = bool(frame["world_gap"].notna().any())
    lines = [_line(r, world_gap=both) for r in frame.to_dict("records")]
    header = (*known, *(["World differs"] if both else []), "Room")
    return Grid("The data", header, lines, (), [CAPTION + (WORLD_GAP if both else "")], label)


def _line(r: Mapping[Any, Any], *, world_gap: bool) -> list[TableCell]:
    identified = r["consistency_bound"]
    unknown = DASH if math.isnan(r["repeats"]) else "not identified"
    choices = (r["choices_median"], r["choices_least"], r["choices_most"])
    texts = [
        f"{r['dataset']} ({r['encoder']})",
        DASH if math.isnan(choices[0]) else "{:g} ({:g}–{:g})".format(*choices),
        percent(r["disagreement"]),
        percent(r["majority"]),
        _count(r["shared_pairs"]),
        percent(r["consistency"]),
        _count(r["repeats"]),
        unknown if math.isnan(identified) else percent(identified),
        DASH if math.isnan(r["per_item"]) else f"{r['per_item']:.1f}",
        percent(r["pairs_known"]),
        percent(r["longer_wins"]),
        *([percent(r["world_gap"])] if world_gap else []),
        percent(r["room"], signed=True),
    ]
    return [TableCell(text) for text in texts]


def _count(value: float) -> str:
    return DASH if math.isnan(value) else f"{value:,.0f}"
