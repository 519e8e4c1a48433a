"""Numbers quoted from papers: reports/published/NAME.toml, each file one paper.

They are shown beside ours only where the data set and the encoder are the paper's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from prbench.base.errors import InputError
from prbench.base.reading import parse_toml, read_bytes
from prbench.registry import folders
from prbench.registry.schema import Record

DATASETS = ("prism", "reddit100", "reddit150")
OVERALL = 2
# Printed to one digit, each of two numbers is less than 0.05 off: apart by 0.1 or more, they cannot be equal.
ROUNDING = 0.1 - 1e-9
# [seen, unseen, overall], and [overall, worst 10%, 20%, 50%], in %.
Populations = Annotated[list[float], Field(min_length=3, max_length=3)]
Worst = Annotated[list[float], Field(min_length=4, max_length=4)]


class Accuracy(Record):
    """One row of an accuracy table: [seen, unseen, overall] in % per data set, and their standard deviations over
    splits in points. `encoder` or `judge`, the name of a judge model's entry, says what read the texts.
    """

    label: str
    method: str
    encoder: str = ""
    judge: str = ""
    prism: Populations | None = None
    reddit100: Populations | None = None
    reddit150: Populations | None = None
    prism_std: Populations | None = None
    reddit100_std: Populations | None = None
    reddit150_std: Populations | None = None


class Robustness(Record):
    """One row of an ablation table: [overall, worst 10%, 20%, 50%] in % of seen and of unseen users, and their
    standard deviations over splits in points.
    """

    label: str
    method: str
    encoder: str
    dataset: str
    seen: Worst
    unseen: Worst
    seen_std: Worst | None = None
    unseen_std: Worst | None = None


class PrintedAccuracy(NamedTuple):
    """One method's [seen, unseen, overall] in %, and their standard deviations over splits where they are printed.

    `doubtful` says that the overall value cannot be a mean of the other two. `judge` is the judge model, where the
    method reads texts.
    """

    means: list[float]
    spreads: list[float] | None
    doubtful: bool
    judge: str = ""

    def other(self, reader: str) -> bool:
        """Whether the paper's judge model is another than `reader`: the numbers do not compare then."""
        return bool(self.judge) and self.judge != reader

    def text(self, population: int, reader: str = "") -> str:
        """One of the values as the paper prints it, with the judge model's name where it is not `reader`."""
        spread = f"±{self.spreads[population]:.1f}" if self.spreads else ""
        mark = " (as printed)" if self.doubtful and population == OVERALL else ""
        by = f" by {self.judge}" if self.other(reader) else ""
        return f"{self.means[population]:.1f}{spread}{mark}{by}"


class PaperNumbers(Record):
    """What one paper prints. `splits` is over how many it averages, 0 where unknown."""

    title: str
    source: str
    splits: int
    notes: list[str] = Field(default_factory=list)
    accuracy: list[Accuracy] = Field(default_factory=list)
    robustness: list[Robustness] = Field(default_factory=list)

    def rows(self, dataset: str, encoder: str, *, judged: bool = False) -> dict[str, PrintedAccuracy]:
        """The accuracies by method on exactly this data set and encoder; empty on any other. With `judged` those of
        judge models on this data set too: their rows stand on every board of it.
        """
        if dataset not in DATASETS:
            return {}
        return {
            row.method: PrintedAccuracy(values, getattr(row, f"{dataset}_std"), not _between(values), row.judge)
            for row in self.accuracy
            if (judged if row.judge else row.encoder == encoder) and (values := getattr(row, dataset))
        }

    def elsewhere(self, dataset: str, encoder: str) -> dict[str, list[str]]:
        """The encoders with which the paper prints a method on this data set, where this one is not among them."""
        if dataset not in DATASETS:
            return {}
        encoders_of: dict[str, list[str]] = {}
        for row in self.accuracy:
            # Rows of methods that read texts have no encoder.
            if getattr(row, dataset) and row.encoder != "text":
                encoders_of.setdefault(row.method, []).append(row.encoder)
        return {method: encoders for method, encoders in encoders_of.items() if encoder not in encoders}

    def robustness_rows(self, dataset: str, encoder: str) -> dict[str, Robustness]:
        """The ablation rows by method on exactly this data set and encoder."""
        return {r.method: r for r in self.robustness if (r.dataset, r.encoder) == (dataset, encoder)}


class Contradiction(NamedTuple):
    """An overall accuracy that no mixture of the printed seen and unseen ones can give."""

    label: str
    dataset: str
    seen: float
    unseen: float
    overall: float

    def __str__(self) -> str:
        where = "above" if self.overall > max(self.seen, self.unseen) else "below"
        return (
            f"{self.label} on {self.dataset}: overall {self.overall} lies {where} both seen {self.seen} and unseen "
            f"{self.unseen}"
        )


def contradictions(published: PaperNumbers) -> Iterator[Contradiction]:
    """Rows whose overall accuracy lies outside of seen and unseen by more than rounding can explain."""
    for row in published.accuracy:
        for dataset in DATASETS:
            values = getattr(row, dataset)
            if not values:
                continue
            if not _between(values):
                yield Contradiction(row.label, dataset, *values)


def _between(values: list[float]) -> bool:
    """Whether the overall value can be a mean of the seen and the unseen one."""
    seen, unseen, overall = values
    return min(seen, unseen) - ROUNDING < overall < max(seen, unseen) + ROUNDING


def load(name: str) -> PaperNumbers:
    """The numbers in reports/published/NAME.toml. Raises InputError when there is no such file or it is malformed."""
    files = [folder / "published" / f"{name}.toml" for folder in folders("reports")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(f"there are no published numbers {name!r}", hint=f"expected in {files[0]}")
    try:
        return PaperNumbers.model_validate(parse_toml(read_bytes(file)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{file}: {key}: {first['msg'].lower()}") from error
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
