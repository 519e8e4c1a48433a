"""Humour: which of two one-line English texts (puns, other jokes, proverbs) crowd workers find funnier.

Simpson, Do Dinh, Miller and Gurevych, "Predicting Humorousness and Metaphor Novelty with Gaussian Process Preference
Learning", ACL 2019. Five workers judge each pair; a worker's id is the same on every pair.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder, keep_frequent
from prbench.loaders.reading import columns_shown, one_of, open_text, reading

FILE = "results.tsv"
COLUMNS = ("Worker ID", "Answer", "Text A", "Text B")
ANSWERS = {"A": 0, "B": 1, "X": None}
QUESTION = "Which is funnier?"

TIES = "ties dropped"
SAME_TEXT = "answers on two equal texts dropped"


class Answer(NamedTuple):
    """One worker's answer on a pair of texts; `funnier` is 0, 1, or None for a tie."""

    worker: str
    texts: tuple[str, str]
    funnier: int | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Humour:
    """Loader of the humour judgements. Ties and answers on two equal texts are dropped and counted.

    Users are the workers with at least `min_comparisons` comparisons left. All texts have one context, the question;
    an item is a text, a group an unordered pair of texts.
    """

    min_comparisons: Annotated[int, Field(ge=1)] = 50

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the file's order. Raises InputError naming the line that is not to the schema."""
        builder = Builder("answers", TIES, SAME_TEXT)
        context = as_context(QUESTION)
        for answer in read_answers(raw.path(FILE)):
            builder.counts["answers"] += 1
            if answer.funnier is None:
                builder.counts[TIES] += 1
            elif answer.texts[0] == answer.texts[1]:
                builder.counts[SAME_TEXT] += 1
            else:
                chosen, rejected = answer.texts[answer.funnier], answer.texts[1 - answer.funnier]
                builder.add(answer.worker, context, chosen, rejected, group=tuple(sorted(answer.texts)))
        return keep_frequent(
            builder.build(name, empty="the file holds no answer that prefers a text"), self.min_comparisons
        )


def read_answers(path: Path) -> Iterator[Answer]:
    """The file's rows. Raises InputError naming the line that is not to the schema."""
    line = 1
    with reading(path, lambda: f"{path}, after line {line}"), open_text(path) as file:
        # Not strict: a joke may hold quotation marks of its own, as the authors' code reads them.
        rows = csv.reader(file, delimiter="\t")
        try:
            header = next(rows, [])
            if header != list(COLUMNS):
                header_text = f"it has {columns_shown(header)}" if header else "it is empty"
                raise InputError(f"{path} does not have the columns {', '.join(COLUMNS)}", hint=header_text)
            for cells in rows:
                line = rows.line_num
                where = f"{path}, line {line}"
                if len(cells) != len(COLUMNS):
                    raise InputError(f"{where}: {len(cells)} cells, expected {len(COLUMNS)}")
                worker, answer, *texts = cells
                for column, cell in zip(COLUMNS, cells, strict=True):
                    if not cell.strip():
                        raise InputError(f"{where}: {column} is empty")
                    if "\n" in cell:
                        raise InputError(f"{where}: {column} has several lines (a quotation mark is not closed)")
                choice = ANSWERS[one_of(answer, ANSWERS, where, "Answer")]
                yield Answer(worker, (texts[0], texts[1]), choice)
        except csv.Error as error:
            raise InputError(f"{path}, after line {line}: no valid table: {error}") from error
