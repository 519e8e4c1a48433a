"""Rows of judge models stand on the boards of the embedding rows of their data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.results.scores import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results

JUDGE = "judge"
SAMPLE_MARK = "\N{DOUBLE DAGGER}"


def is_judged(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is of a method that reads texts: a judge model stands where its encoder would."""
    return cell.get("reader") == JUDGE


def sample_of(cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The sample of test choices that a cell was tested on, None for all of them."""
    return cell["protocol"].get("test_sample") if is_judged(cell) else None


def placed(results: Results) -> Results:
    """The results with every judge row on each board of its data set, or on one of its own where there is none.

    A placed cell has the board's encoder, its judge model as `model`, and its method's own name as `own_method`; the
    name is followed by the judge model's where several judge models read for one method. Where rows were tested on a
    sample, `on_sample` holds the scores of the other rows on the sampled choices. Results without judge rows, and
    those that are placed, stay as they are.

    Raises InputError where rows of one data set were tested on different samples.
    """
    judged = [cell for cell in results.cells if is_judged(cell) and "model" not in cell]
    if not judged:
        return results
    others = [cell for cell in results.cells if not (is_judged(cell) and "model" not in cell)]
    boards: dict[str, list[str]] = {}
    for cell in others:
        known = boards.setdefault(cell["dataset"], [])
        known += [cell["encoder"]] * (cell["encoder"] not in known)
    models: dict[tuple[str, str, str], set[str]] = {}
    for cell in judged:
        models.setdefault(_row(cell), set()).add(cell["encoder"])
    moves: dict[tuple[str, str, str, str], list[tuple[str, str]]] = {}
    cells = list(others)
    for cell in judged:
        name = cell["method"]
        if len(models[_row(cell)]) > 1:
            name = f"{name} ({cell['encoder']})"
        places = boards.get(cell["dataset"]) or [sorted(set().union(*_all(models, cell["dataset"])))[0]]
        identity = (cell["dataset"], cell["encoder"], cell["method"], cell["selection"])
        moves[identity] = [(place, name) for place in places]
        cells += [
            {**cell, "encoder": place, "model": cell["encoder"], "method": name, "own_method": cell["method"]}
            for place in places
        ]
    scores = _moved(results.scores, moves)
    return replace(results, cells=cells, scores=scores, on_sample=_on_sample(scores, cells))


def _row(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    return cell["dataset"], cell["method"], cell["selection"]


def _all(models: Mapping[tuple[str, str, str], set[str]], dataset: str) -> list[set[str]]:
    return [names for (where, _, _), names in models.items() if where == dataset]


def _moved(
    scores: pd.DataFrame, moves: Mapping[tuple[str, str, str, str], Sequence[tuple[str, str]]]
) -> pd.DataFrame:
    """The scores with those of judge rows on every board where they stand."""
    import pandas as pd

    if not len(scores):
        return scores
    rows = dict(scores.groupby(list(COLUMNS), observed=True, sort=False).indices)
    judged = np.zeros(len(scores), dtype=bool)
    parts, encoders, methods = [], [], []
    for identity, places in moves.items():
        index = rows.get(identity)
        if index is None:
            continue
        judged[index] = True
        for encoder, method in places:
            parts.append(index)
            encoders.append(np.full(len(index), encoder, dtype=object))
            methods.append(np.full(len(index), method, dtype=object))
    kept = np.flatnonzero(~judged)
    order = np.concatenate([kept, *parts])
    frame = scores.iloc[order].reset_index(drop=True)
    for name, moved in (("encoder", encoders), ("method", methods)):
        values = np.concatenate([scores[name].to_numpy(dtype=object)[kept], *moved])
        frame[name] = pd.Categorical(values)
    return frame


def _on_sample(scores: pd.DataFrame, cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame | None:
    """The scores of rows tested on all choices, on the choices that sampled rows of their board were tested on."""
    import pandas as pd

    sampled = {tuple(cell[key] for key in COLUMNS): cell for cell in cells if sample_of(cell)}
    if not sampled or not len(scores):
        return None
    for dataset in sorted({cell["dataset"] for cell in sampled.values()}):
        kinds = {canonical_json(sample_of(c)) for c in sampled.values() if c["dataset"] == dataset}
        if len(kinds) > 1:
            raise InputError(
                f"rows on {dataset} were tested on different samples: {' and '.join(sorted(kinds))}",
                hint="run them with one --test-sample, or report them from folders of their own",
            )
    names = scores[list(COLUMNS)].astype(object)
    is_sampled = np.array([key in sampled for key in names.itertuples(index=False, name=None)], dtype=bool)
    where = ["dataset", "encoder", "split", "population", "user", "comparison"]
    chosen = pd.MultiIndex.from_frame(scores.loc[is_sampled, where].drop_duplicates())
    rest = scores[~is_sampled]
    return rest[pd.MultiIndex.from_frame(rest[where]).isin(chosen)]
