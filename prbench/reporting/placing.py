"""Where cells stand in reports: rows of judge models stand on the boards of the embedding rows of their data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.registry.schema import TestSample
from prbench.reporting.naming import renamed_results, shown_names
from prbench.results.record import CellRecord, DoneRecord
from prbench.results.scores import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results

JUDGE = "judge"
SAMPLE_MARK = "\N{DOUBLE DAGGER}"

RowName = tuple[str, str, str, str]
"""Data set, encoder, method and selection: `COLUMNS`."""


@dataclass(frozen=True)
class PlacedCell:
    """A cell on a board: its record, the board's encoder, and what its row is called there.

    A judge model's cell names that model as the encoder of its record, and stands on boards of other encoders; the
    name of its row ends with the judge model's where several judge models read for one method.
    """

    record: CellRecord
    encoder: str
    method: str

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.record.dataset

    @property
    def selection(self) -> str:
        """The selection rule."""
        return self.record.selection

    @property
    def row_key(self) -> tuple[str, str]:
        """What names the row within its board: method and selection."""
        return self.method, self.selection

    @property
    def row(self) -> RowName:
        """Data set, encoder, method and selection."""
        return self.dataset, self.encoder, self.method, self.selection

    @property
    def board(self) -> tuple[str, str]:
        """Data set and encoder."""
        return self.dataset, self.encoder

    @property
    def reader(self) -> str:
        """The encoder or judge model that read the texts."""
        return self.record.encoder

    @property
    def judged(self) -> bool:
        """Whether the method reads texts: a judge model stands where its encoder would."""
        return self.record.reader == JUDGE

    @property
    def sample(self) -> TestSample | None:
        """The sample of test choices that a judge model's cell was tested on, None for all of them."""
        return self.record.protocol.test_sample if self.judged else None

    @property
    def result(self) -> DoneRecord | None:
        """The record where the cell has results."""
        return self.record if isinstance(self.record, DoneRecord) else None


@dataclass(frozen=True, eq=False)
class PlacedResults:
    """`Results` with every cell and every line of the scores on the boards where they stand.

    `on_sample` holds the scores of rows tested on all choices, on the choices that the sampled rows of their board
    were tested on; None where no row was tested on a sample. `shown` are the names of models that were given as
    folders, by those that results are stored under, where the two differ.
    """

    scores: pd.DataFrame
    cells: list[PlacedCell]
    folder: Path | None = None
    on_sample: pd.DataFrame | None = None
    rounding: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)


def results_of(cells: Iterable[PlacedCell]) -> list[DoneRecord]:
    """The records of the cells that have results."""
    return [cell.result for cell in cells if cell.result]


def placed(results: Results | PlacedResults) -> PlacedResults:
    """The results with every judge row on each board of its data set, or on one of its own where there is none.

    Results that are placed stay as they are. Raises InputError where rows of one data set were tested on different
    samples.
    """
    if isinstance(results, PlacedResults):
        return results
    shown = shown_names(results)
    if shown:
        results = renamed_results(results, shown)
    boards: dict[str, list[str]] = {}
    models: dict[tuple[str, str, str], set[str]] = {}
    for record in results.cells:
        if record.reader == JUDGE:
            models.setdefault(_across_readers(record), set()).add(record.encoder)
        else:
            known = boards.setdefault(record.dataset, [])
            known += [record.encoder] * (record.encoder not in known)
    moves: dict[RowName, list[tuple[str, str]]] = {}
    judged: list[PlacedCell] = []
    for record in (each for each in results.cells if each.reader == JUDGE):
        several = len(models[_across_readers(record)]) > 1
        name = f"{record.method} ({record.encoder})" if several else record.method
        places = boards.get(record.dataset) or [sorted(set().union(*_all(models, record.dataset)))[0]]
        moves[record.row] = [(place, name) for place in places]
        judged += [PlacedCell(record, place, name) for place in places]
    cells = [PlacedCell(r, r.encoder, r.method) for r in results.cells if r.reader != JUDGE] + judged
    scores = _moved(results.scores, moves) if moves else results.scores
    return PlacedResults(scores, cells, results.folder, _on_sample(scores, cells), results.rounding, shown)


def _across_readers(record: CellRecord) -> tuple[str, str, str]:
    return record.dataset, record.method, record.selection


def _all(models: Mapping[tuple[str, str, str], set[str]], dataset: str) -> list[set[str]]:
    return [names for (where, _, _), names in models.items() if where == dataset]


def _moved(scores: pd.DataFrame, moves: Mapping[RowName, Sequence[tuple[str, str]]]) -> pd.DataFrame:
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


def _on_sample(scores: pd.DataFrame, cells: Sequence[PlacedCell]) -> pd.DataFrame | None:
    """The scores of rows tested on all choices, on the choices that sampled rows of their board were tested on."""
    import pandas as pd

    sampled = {cell.row: cell.sample for cell in cells if cell.sample}
    if not sampled or not len(scores):
        return None
    for dataset in sorted({row[0] for row in sampled}):
        kinds = {canonical_json(sample.model_dump()) for row, sample in sampled.items() if row[0] == dataset}
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
