"""What may share a table: results of the same data, embeddings, protocol, seeds and test comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.protocol import metrics

if TYPE_CHECKING:
    import pandas as pd

# What cells must agree on, and the words for it.
WORDS = {
    "data_fingerprint": "data",
    "embedding_fingerprint": "embeddings",
    "protocol": "protocol",
    "protocol_version": "version of the protocol",
    "seed": "seed",
    "split_file": "division of the split",
    "params": "parameters",
    "key": "cell key",
    "budget": "tuning budget",
    "sample": "sample of test choices",
}
# How many splits are run says nothing about what split i is.
# A sample concerns rows of judge models alone, which are compared with others on the sampled choices.
NOT_COMPARED = ("splits", "test_sample")


def refuse_mixtures(cells: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError where done cells of one data set and encoder do not belong in one table, naming both.

    They must agree on data, embeddings and protocol, and tuned ones on the budget of their tuning; a split must have
    one seed for all methods; and a row has one cell per split, with the same parameters in all of them.
    """
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    again = "run the older one again, or report from a folder of runs that belong together"
    keep_one = "give each variant an entry of its own (extends = ...), or remove one of the two"
    for cell in cells:
        if cell["status"] != "done":
            continue
        row = (cell["method"], cell["selection"])
        for key, where, hint in (
            ("data_fingerprint", (), again),
            ("embedding_fingerprint", (cell.get("model"),), again),
            ("protocol", (), again),
            ("protocol_version", (), again),
            ("seed", (cell["split"],), again),
            ("split_file", (cell["split"],), again),
            # Two data sets with other samples of test choices share no row; within a row all cells have one.
            ("sample", row, again),
            ("params", row, keep_one),
            ("key", (*row, cell["split"], cell.get("restart", 0)), keep_one),
            ("budget", (), "tune all of them with the same --trials, --splits and --seed, and run again"),
        ):
            if key == "budget" and "tuned" not in cell:
                continue
            other = first.setdefault((key, *where), cell)
            a, b = (_comparable(_value(c, key)) for c in (cell, other))
            if canonical_json(a) != canonical_json(b):
                message = f"{_name(cell)} and {_name(other)} differ in {WORDS[key]}: {_difference(a, b)}"
                raise InputError(message, hint=hint)


def _value(cell: Mapping[str, Any], key: str) -> Any:
    if key == "sample":
        return cell["protocol"].get("test_sample")
    return _budget(cell) if key == "budget" else cell.get(key, "")


def _budget(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a tuned cell's parameters were searched with."""
    return {name: cell["tuned"][name] for name in ("trials", "tuning_splits", "seed")}


def _comparable(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in NOT_COMPARED} if isinstance(value, Mapping) else value


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['dataset']}/{cell['encoder']}/{cell['method']} split {cell['split']} ({cell['selection']})"


def _difference(a: Any, b: Any) -> str:
    """The two values, or for tables the keys in which they differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
        return ", ".join(f"{k} {a.get(k)} and {b.get(k)}" for k in keys)
    return f"{a} and {b}"


def check_scored(users: pd.DataFrame, cells: Iterable[Mapping[str, Any]], shots: int) -> None:
    """Raise InputError unless done cells and scores at `shots` are the same set."""
    keys = [*metrics.ROW, "split", "restart"]
    scored = set(users[keys].drop_duplicates().itertuples(index=False, name=None))
    done = {(*(cell[key] for key in keys[:-1]), cell.get("restart", 0)) for cell in cells if cell["status"] == "done"}
    wanted = "all" if shots == metrics.ALL_SHOTS else f"all,{shots}"
    for keys_missing, what, hint in (
        (done - scored, f"has no scores at shots = {shots}", f"repeat the run with --shots {wanted}"),
        (scored - done, "has no record", "delete that cell's folder and run it again"),
    ):
        if keys_missing:
            dataset, encoder, method, _, split, restart = min(keys_missing)
            start = f" restart {restart}" if restart else ""
            raise InputError(f"{dataset}/{encoder}/{method} split {split}{start} {what}", hint=hint)


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
