"""What cell.json says of a cell: what produced it, how it ended and, where it is done, what it cost.

More keys than these may be there. Every report, probe and user's state relies on those that are named here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from prbench.base.files import canonical_json
from prbench.hyperparameters import Natural
from prbench.registry.schema import EncoderEntry, JudgeEntry, ProtocolEntry
from prbench.results.record_parts import (
    Cost,
    Counts,
    Fit,
    Judging,
    MethodPart,
    Name,
    Parameters,
    Properties,
    RecordPart,
    Truth,
    Tuned,
    plain_table,
)

if TYPE_CHECKING:
    from prbench.results.key import CellKey

FORMAT = 1
Precision = Literal["highest", "high", "medium"]


class CellState(StrEnum):
    """How a cell stands. One that is missing has no record, or lost a file."""

    done = "done"
    missing = "missing"
    failed = "failed"
    skipped = "skipped"


class Recorded(RecordPart):
    """What is only recorded of a cell: nothing here changes its scores.

    encoder_entry: the encoder's entry as it was then.
    method: the row's name, with the parameters set by hand.
    protocol: the data set's, with its number of splits.
    simulated: whether the data are.
    truth: what is known of simulated users, None of real ones.
    threads: compute threads; None in cells of an earlier prbench.
    command: the command line that plans the same cells.
    tuned: the search that the parameters come from.
    properties: what the data are like; None in cells of an earlier prbench.
    commit: of the working tree of prbench, where it was run from one.
    machine: what kind of machine made the cell; not in cells of an earlier prbench.
    random_start: whether the method draws one; false where it declares that it draws nothing.
    reader: "judge" for methods that read texts; the encoder is then the judge model.
    data_public: since when the data set's texts and labels are public.
    known_before: whether the judge model may have seen them when it was trained.
    """

    dataset: Name
    encoder: Name
    encoder_entry: EncoderEntry | JudgeEntry
    method: Name
    title: str
    entry: MethodPart
    protocol: ProtocolEntry
    simulated: bool = False
    truth: Truth | None
    counts: Counts
    device: str
    threads: Annotated[int, Field(ge=1)] | None = None
    versions: dict[str, str]
    command: str = ""
    tuned: Tuned | None = None
    properties: Properties | None = None
    commit: str = ""
    machine: str = ""
    random_start: bool = True
    reader: str = ""
    data_public: str = ""
    known_before: bool = False


class PlannedRecord(Recorded):
    """A cell before it is made: its key, what the key is made of (see `key.CellKey`), and what is only recorded."""

    key: Name
    split: Natural
    seed: int
    draw: Natural = 0
    split_file: str = ""
    restart: Natural = 0
    selection: Name
    code: str = ""
    revision: Annotated[int, Field(ge=1)] = 1
    params: dict[str, Any]
    data_fingerprint: str
    embedding_fingerprint: str
    protocol_version: int
    precision: Precision = "highest"

    @classmethod
    def of(cls, key: CellKey, recorded: Recorded) -> PlannedRecord:
        """The record of a cell with this key."""
        return cls(
            **_values(recorded),
            key=key.digest(),
            split=key.split,
            seed=key.seed,
            draw=key.draw,
            split_file=key.split_file,
            restart=key.restart,
            selection=key.selection,
            code=key.code,
            revision=key.revision,
            params=dict(key.params),
            data_fingerprint=key.data,
            embedding_fingerprint=key.embedding,
            protocol_version=key.protocol_version,
            precision=key.precision,
        )

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Data set, encoder, method and selection."""
        return self.dataset, self.encoder, self.method, self.selection

    @property
    def published(self) -> bool:
        """Whether this is the method of its entry under the entry's own rule."""
        return (self.method, self.selection) == (self.entry.name, self.entry.selection)

    def stored_protocol(self) -> dict[str, Any]:
        """The protocol in plain values, as cell.json has it."""
        return plain_table(self.protocol.model_dump())

    def stored(self) -> dict[str, Any]:
        """The values for cell.json. What was added when there were cells already is left out at its default."""
        fields = type(self).model_fields
        values = {**self.model_dump(), "protocol": self.stored_protocol()}
        return {name: value for name, value in values.items() if name not in LATER or value != fields[name].default}


class CellRecord(PlannedRecord):
    """A cell, done or not; `reason` and `traceback` say why not."""

    format: int
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    traceback: str = ""

    @classmethod
    def ended(cls, planned: PlannedRecord, state: CellState, **values: Any) -> Self:
        """The record of a planned cell that came to this end."""
        later = DoneRecord.model_fields.keys() - PlannedRecord.model_fields.keys()
        known = {name: value for name, value in _values(planned).items() if name not in later}
        return cls(**{**known, "format": FORMAT, "status": state.value, **values})

    @property
    def done(self) -> bool:
        """Whether the cell has results."""
        return self.status == CellState.done


class DoneRecord(CellRecord):
    """A cell with results.

    encoder_fingerprint: what made the embeddings; None where they came with the data.
    trained_together: the number of splits in the batch; None in cells that do not say.
    finished: when, in UTC; not in cells of an earlier prbench.
    peak_memory_mb: of the process.
    judging: None for methods that read no texts.
    """

    encoder_fingerprint: dict[str, Any] | None
    seconds: Cost
    trained_together: Annotated[int, Field(ge=1)] | None = None
    finished: str = ""
    peak_memory_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    parameters: Parameters
    fit: Fit
    judging: Judging | None = None

    @property
    def lost_text(self) -> bool:
        """Whether the encoder's template left out part of the texts, as it was allowed to."""
        return (self.encoder_fingerprint or {}).get("template_loss") == "allow"


LATER = (
    "draw", "split_file", "restart", "code", "revision", "tuned", "random_start", "reason", "traceback", "threads",
    "trained_together", "properties", "reader", "data_public", "known_before", "judging", "commit", "machine",
    "finished",
)  # fmt: skip


def _values(part: RecordPart) -> dict[str, Any]:
    """What was given, named or not; parts stay parts."""
    return {name: getattr(part, name) for name in part.model_fields_set}


def finished(cells: Iterable[CellRecord]) -> list[DoneRecord]:
    """The cells with results."""
    return [cell for cell in cells if isinstance(cell, DoneRecord)]


def read(record: dict[str, Any]) -> CellRecord | str:
    """The record in plain values, or in one phrase what is wrong with it."""
    try:
        return (DoneRecord if record.get("status") == "done" else CellRecord).model_validate(record)
    except ValidationError as error:
        return _fault(error)


def _fault(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    if lacking := [_key(each["loc"]) for each in problems if each["type"] == "missing"]:
        return f"it lacks {', '.join(lacking)}"
    first = problems[0]
    text = first["msg"][:1].lower() + first["msg"][1:].partition(" or instance of ")[0]
    return f"{_key(first['loc'])}: {text}, found {canonical_json(first['input'])[:40]}"


def _key(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))
