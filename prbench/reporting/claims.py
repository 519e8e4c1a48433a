"""Published claims, and what stored results say of them: `reports/claims.toml`.

A claim is a sentence with its source and the rows that test it. Whether it agrees with results is computed from the
cells at hand and typed nowhere. A number agrees where it lies, within its rounding, in the 95% interval of ours over
splits that belongs to the corrected resampled t-test; a gain agrees where that interval lies above 0.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from prbench import registry
from prbench.base.errors import InputError
from prbench.encoders import OWN
from prbench.protocol import metrics, stats
from prbench.registry.schema import Record
from prbench.reporting.board import ORACLE, TUNED, resampling_ratio
from prbench.reporting.checks import refuse_mixtures
from prbench.reporting.placing import PlacedCell, PlacedResults, placed

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results

Measure = Literal["accuracy", "agreement", "gain", "starts", "three classes"]
Verdict = Literal["agrees", "differs", "open", "not run"]

MEASURES: Mapping[str, str] = {
    "accuracy": "mean user accuracy, a tie one half",
    "agreement": "share of single choices decided as the person did, without ties",
    "gain": "difference of the mean user accuracies of two rows",
    "starts": "a gap between two reports, against the spread over random starts",
    "three classes": "agreement with ties as a third class",
}
NEVER = {"three classes": "a tie is not a choice, so no row is tested on the votes that are ties"}
"""Measures that no cell can give, and why."""

NO_INTERVAL = "no interval: one split, or the same number in all of them"

STARTS = 2 * math.sqrt(2)
"""Two single fits differ by more than this many standard deviations over starts in 1 of 20 cases."""


class Check(Record):
    """A printed number, and the row that tests it.

    `reader` is the encoder or judge model, "" where the source does not say. `printed` is in % or points with
    `digits` decimals, `over` the other method of a gain. `related` marks a test on other data than the claim's: it
    informs, and decides nothing.
    """

    dataset: str
    method: str
    measure: Measure
    reader: str = ""
    printed: float | None = None
    digits: int = Field(default=1, ge=0, le=4)
    over: str = ""
    population: Literal["seen", "unseen", "overall"] = "overall"
    related: bool = False

    @property
    def methods(self) -> list[str]:
        """The methods whose rows are needed."""
        return [name for name in (self.method, self.over) if name]


def commands(checks: Sequence[Check]) -> list[str]:
    """The commands that make the rows of these checks, one for each data set and reader.

    Checks whose data set, methods or reader prbench lacks, and those that no cell can give, have none.
    """
    needed: dict[tuple[str, str, bool], list[str]] = {}
    known = {kind: registry.names(kind) for kind in ("datasets", "methods", "encoders", "judges")}
    for check in checks:
        registered = check.dataset in known["datasets"] and set(check.methods) <= set(known["methods"])
        if registered and check.measure not in NEVER:
            methods = needed.setdefault((check.dataset, check.reader, check.measure == "starts"), [])
            methods += [name for name in check.methods if name not in methods]
    command_lines = []
    for (dataset, reader, restarts), methods in needed.items():
        words = ["prbench", "run", "--dataset", dataset, "--methods", ",".join(methods)]
        if reader in known["judges"]:
            words += ["--judge", reader]
        elif reader in known["encoders"]:
            words += ["--encoder", reader]
        elif reader not in ("", OWN):
            continue
        command_lines.append(shlex.join([*words, *(["--restarts", "3"] if restarts else [])]))
    return command_lines


class Claim(Record):
    """What somebody published. `absent` says why its tests could not be run where prbench was built."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    says: str
    source: str
    absent: str = ""
    notes: list[str] = Field(default_factory=list)
    tests: list[Check] = Field(min_length=1)


class Outcome(NamedTuple):
    """What the cells say of a check: fractions, over how many splits, and the verdict with its reason."""

    check: Check
    verdict: Verdict
    why: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    splits: int = 0


def read_claims(tables: Any, where: str) -> list[Claim]:
    """The claims of a report's entry. Raises InputError that names the claim and the key at fault."""
    if not isinstance(tables, list) or not tables:
        raise InputError(f"{where}: claims is not a list of tables", hint="give each claim as [[options.claims]]")
    claims: list[Claim] = []
    for number, table in enumerate(tables, start=1):
        name = table.get("name", f"number {number}") if isinstance(table, dict) else f"number {number}"
        try:
            claim = Claim.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise InputError(f"{where}: claim {name}: {key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
        for check in claim.tests:
            if (check.measure == "gain") != bool(check.over):
                raise InputError(f"{where}: claim {name}: a gain, and nothing else, names another method in `over`")
            if check.printed is None and check.measure != "gain":
                raise InputError(f"{where}: claim {name}: a test of {check.measure} needs `printed`")
        if any(other.name == claim.name for other in claims):
            raise InputError(f"{where}: two claims are called {claim.name!r}")
        claims.append(claim)
    return claims


def outcomes(claim: Claim, results: Results) -> list[Outcome]:
    """Each check of a claim against the cells of `results`, in order. Raises InputError as `refuse_mixtures`."""
    standing = placed(results)
    return [_outcome(check, standing, claim.absent) for check in claim.tests]


def verdict_of(claim_outcomes: Sequence[Outcome]) -> str:
    """The claim's verdict in a few words: of its own tests, those on other data left out."""
    direct = [outcome for outcome in claim_outcomes if not outcome.check.related]
    counts = {kind: sum(outcome.verdict == kind for outcome in direct) for kind in ("agrees", "differs", "open")}
    run = sum(counts.values())
    if not run:
        return "not run here"
    if len(direct) == 1:
        return {"agrees": "agrees", "differs": "differs", "open": "not decided"}[direct[0].verdict]
    counted = [f"{count} of {len(direct)} {word}" for word, count in counts.items() if count]
    return ", ".join([*counted, *([f"{len(direct) - run} not run"] if run < len(direct) else [])])


def _outcome(check: Check, results: PlacedResults, absent: str) -> Outcome:
    if check.measure in NEVER:
        return Outcome(check, "not run", NEVER[check.measure])
    cells = _cells(results, check, check.method)
    if not cells:
        return Outcome(check, "not run", _lacking(check, check.method, absent))
    refuse_mixtures(cells)
    if check.measure == "starts":
        return _of_starts(check, _scores(results, cells))
    ratio = resampling_ratio(cells)
    if check.measure == "agreement":
        return _of_number(check, _agreement(_scores(results, cells), check.population), ratio)
    mine = _accuracies(_scores(results, cells), check.population)
    if check.measure == "accuracy":
        return _of_number(check, mine, ratio)
    others = _cells(results, check, check.over)
    if not others:
        return Outcome(check, "not run", _lacking(check, check.over, absent))
    refuse_mixtures([*cells, *others])
    theirs = _accuracies(_scores(results, others), check.population)
    shared = mine.index.intersection(theirs.index)
    return _of_gain(check, (mine[shared] - theirs[shared]).to_numpy(), ratio)


def _lacking(check: Check, method: str, absent: str) -> str:
    """Why there are no cells of a method."""
    if check.dataset not in registry.names("datasets"):
        reason = f"prbench has no data set {check.dataset}"
    elif method not in registry.names("methods"):
        reason = f"prbench has no method {method}"
    else:
        return absent if absent and not check.related else "these results have no such row"
    return f"{reason}; {absent}" if absent else reason


def _cells(results: PlacedResults, check: Check, method: str) -> list[PlacedCell]:
    """The cells with results of a method's published row, on all test choices."""
    cells = [
        cell
        for cell in results.cells
        if cell.result
        and (cell.dataset, cell.record.method) == (check.dataset, method)
        and check.reader in ("", cell.reader)
        and cell.record.published
        and cell.selection not in (ORACLE, TUNED)
        and not cell.sample
    ]
    # A judge model's row stands on several boards with the same scores; rows of several readers are several rows:
    # where the source names none, nothing says which is meant.
    if len({cell.reader for cell in cells}) != 1:
        return []
    return [cell for cell in cells if cell.encoder == cells[0].encoder]


def _scores(results: PlacedResults, cells: Sequence[PlacedCell]) -> pd.DataFrame:
    """The rows of scores of these cells of one row, adapted on all support choices."""
    frame = results.scores
    of_row = frame["shots"] == metrics.ALL_SHOTS
    for key, value in zip(metrics.ROW, cells[0].row, strict=True):
        of_row &= frame[key] == value
    return frame[of_row & frame["split"].isin([cell.record.split for cell in cells])]


def _accuracies(scores: pd.DataFrame, population: str) -> pd.Series:
    """The mean user accuracy of each split, over its random starts."""
    table = metrics.over_starts(metrics.split_metrics(metrics.user_metrics(scores)))
    return table[table["population"] == population].set_index("split")["accuracy"]


def _agreement(scores: pd.DataFrame, population: str) -> pd.Series:
    """The share of decided test choices that are right, of each split."""
    if population != "overall":
        scores = scores[scores["population"] == population]
    decided = scores[scores["margin"] != 0]
    return (decided["margin"] > 0).groupby(decided["split"]).mean()


def _of_number(check: Check, by_split: pd.Series, ratio: float) -> Outcome:
    values = by_split.to_numpy(dtype=np.float64)
    assert check.printed is not None
    mean = float(values.mean()) if len(values) else math.nan
    low, high = stats.mean_interval(values, ratio)
    if math.isnan(low):
        return Outcome(check, "open", NO_INTERVAL, mean, splits=len(values))
    half = 0.005 * 10.0**-check.digits
    printed = check.printed / 100
    fits = low <= printed + half and high >= printed - half
    reason = "the printed number lies in the interval" if fits else "the printed number lies outside of the interval"
    return Outcome(check, "agrees" if fits else "differs", reason, mean, low, high, len(values))


def _of_gain(check: Check, difference: np.ndarray[Any, np.dtype[np.float64]], ratio: float) -> Outcome:
    mean = float(difference.mean()) if len(difference) else math.nan
    low, high = stats.mean_interval(difference, ratio)
    if low > 0:
        return Outcome(check, "agrees", "the interval lies above 0", mean, low, high, len(difference))
    if high < 0:
        return Outcome(check, "differs", "the interval lies below 0", mean, low, high, len(difference))
    reason = "these splits do not tell the two apart" if low <= 0 else NO_INTERVAL
    return Outcome(check, "open", reason, mean, low, high, len(difference))


def _of_starts(check: Check, scores: pd.DataFrame) -> Outcome:
    table = metrics.spread_over_starts(metrics.split_metrics(metrics.user_metrics(scores)))
    [row] = table[table["population"] == check.population].to_dict("records")
    spread, splits = float(row["spread"]), int(scores["split"].nunique())
    if math.isnan(spread):
        return Outcome(check, "not run", "one random start a split: the spread needs --restarts 3", splits=splits)
    assert check.printed is not None
    reach = STARTS * spread
    explains = check.printed / 100 <= reach
    reason = f"two single fits differ by more than {100 * reach:.1f} points in 1 of 20 cases"
    return Outcome(check, "agrees" if explains else "differs", reason, spread, splits=splits)
