"""Models that were given as folders stand in tables under their folder's own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from prbench.encoders.folder_names import plain_names

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results


def shown_names(results: Results) -> dict[str, str]:
    """What models are called in tables, by the names that results are stored under, where the two differ."""
    titles = {record.encoder: record.encoder_entry.title for record in results.cells}
    return {name: plain for name, plain in plain_names(titles).items() if plain != name}


def renamed_results(results: Results, shown: Mapping[str, str]) -> Results:
    """The results with other names of encoders and judge models."""
    cells = [
        record.model_copy(update={"encoder": shown.get(record.encoder, record.encoder)}) for record in results.cells
    ]
    rounding = {
        (dataset, shown.get(encoder, encoder), *rest): share
        for (dataset, encoder, *rest), share in results.rounding.items()
    }
    return replace(results, cells=cells, scores=renamed(results.scores, shown), rounding=rounding)


def renamed(frame: pd.DataFrame, shown: Mapping[str, str]) -> pd.DataFrame:
    """The frame with other names in its column `encoder`."""
    import pandas as pd

    if not shown or not len(frame):
        return frame
    column = frame["encoder"]
    if isinstance(column.dtype, pd.CategoricalDtype):
        return frame.assign(encoder=column.cat.rename_categories(lambda name: shown.get(name, name)))
    return frame.assign(encoder=column.map(lambda name: shown.get(name, name)))
