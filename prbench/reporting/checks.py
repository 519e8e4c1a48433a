"""What may share a table: results of the same data, embeddings, protocol, seeds and test comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.protocol import metrics
from prbench.reporting.placing import PlacedCell
from prbench.results.record import CellRecord

if TYPE_CHECKING:
    import pandas as pd

# How many splits are run says nothing about what split i is.
# A sample concerns rows of judge models alone, which are compared with others on the sampled choices.
NOT_COMPARED = ("splits", "test_sample")


class Agreement(NamedTuple):
    """Something in which cells must agree: the words for it, its value, which cells it binds, and what to do."""

    words: str
    value: Any
    among: tuple[Any, ...]
    hint: str


AGAIN = "run the older one again, or report from a folder of runs that belong together"
KEEP_ONE = "give each variant an entry of its own (extends = ...), or remove one of the two"
TUNE_ALIKE = "tune all of them with the same --trials, --splits and --seed, and run again"


def refuse_mixtures(cells: Iterable[PlacedCell]) -> None:
    """Raise InputError where done cells of one data set and encoder do not belong in one table, naming both.

    They must agree on data, embeddings and protocol, and tuned ones on the budget of their tuning; a split must have
    one seed for all methods; and a row has one cell per split, with the same parameters in all of them.
    """
    first: dict[tuple[Any, ...], tuple[Any, PlacedCell]] = {}
    for cell in cells:
        if not cell.result:
            continue
        for words, value, among, hint in _agreements(cell, cell.result):
            known, other = first.setdefault((words, *among), (value, cell))
            if canonical_json(value) != canonical_json(known):
                message = f"{_name(cell)} and {_name(other)} differ in {words}: {_difference(value, known)}"
                raise InputError(message, hint=hint)


def _agreements(cell: PlacedCell, record: CellRecord) -> list[Agreement]:
    """What a cell must share with others, in the order in which it is named."""
    row, split, tuned = cell.row_key, record.split, record.tuned
    embedding = (cell.reader,) if cell.judged else ()
    sample = record.protocol.test_sample
    agreements = [
        Agreement("data", record.data_fingerprint, (), AGAIN),
        Agreement("embeddings", record.embedding_fingerprint, embedding, AGAIN),
        Agreement("protocol", record.protocol.model_dump(exclude=set(NOT_COMPARED)), (), AGAIN),
        Agreement("version of the protocol", record.protocol_version, (), AGAIN),
        Agreement("seed", record.seed, (split,), AGAIN),
        Agreement("division of the split", record.split_file, (split,), AGAIN),
        # Two data sets with other samples of test choices share no row; within a row all cells have one.
        Agreement("sample of test choices", sample and sample.model_dump(), row, AGAIN),
        Agreement("parameters", record.params, row, KEEP_ONE),
        Agreement("cell key", record.key, (*row, split, record.restart), KEEP_ONE),
    ]
    if tuned:
        budget = {"trials": tuned.trials, "tuning_splits": tuned.tuning_splits, "seed": tuned.seed}
        agreements.append(Agreement("tuning budget", budget, (), TUNE_ALIKE))
    return agreements


def _name(cell: PlacedCell) -> str:
    return f"{cell.dataset}/{cell.encoder}/{cell.method} split {cell.record.split} ({cell.selection})"


def _difference(a: Any, b: Any) -> str:
    """The two values, or for tables the keys in which they differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        return ", ".join(f"{k} {a.get(k)} and {b.get(k)}" for k in keys)
    return f"{a} and {b}"


def check_scored(users: pd.DataFrame, cells: Iterable[PlacedCell], shots: int) -> None:
    """Raise InputError unless done cells and scores at `shots` are the same set."""
    keys = [*metrics.ROW, "split", "restart"]
    scored = set(users[keys].drop_duplicates().itertuples(index=False, name=None))
    done = {(*cell.row, cell.result.split, cell.result.restart) for cell in cells if cell.result}
    shots_option = "all" if shots == metrics.ALL_SHOTS else f"all,{shots}"
    for keys_missing, fault, hint in (
        (done - scored, f"has no scores at shots = {shots}", f"repeat the run with --shots {shots_option}"),
        (scored - done, "has no record", "delete that cell's folder and run it again"),
    ):
        if keys_missing:
            dataset, encoder, method, _, split, restart = min(keys_missing)
            start = f" restart {restart}" if restart else ""
            raise InputError(f"{dataset}/{encoder}/{method} split {split}{start} {fault}", hint=hint)


def refuse_unlike_tests(users: pd.DataFrame) -> None:
    """Raise InputError when two methods of one data set and encoder were tested on different comparisons."""
    tests = users.groupby(["split", "population", "user"], observed=True)["comparisons"].agg(["min", "max"])
    rows = users[[*metrics.ROW, "split", "restart"]].drop_duplicates().groupby("split").size()
    tested = users.groupby(["split", "population", "user"], observed=True).size()
    unlike = (tests["min"] != tests["max"]) | (
        tested != rows.reindex(tested.index.get_level_values("split")).to_numpy()
    )
    if unlike.any():
        split, population, user = unlike.index[int(np.argmax(unlike.to_numpy()))]
        where = users[(users["split"] == split) & (users["population"] == population) & (users["user"] == user)]
        counts = ", ".join(f"{r.method} ({r.selection}): {r.comparisons}" for r in where.itertuples())
        raise InputError(
            f"{where.iloc[0]['dataset']}/{where.iloc[0]['encoder']} split {split}: the methods were tested on "
            f"different comparisons of {population} user {user} ({counts})",
            hint="run the older ones again",
        )
