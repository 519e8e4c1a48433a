"""What cell.json says of a cell: what produced it, how it ended and, where it is done, what it cost.

More keys than these may be there. Every report, probe and user's state relies on those that are named here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prbench.base.files import canonical_json
from prbench.hyperparameters import Natural
from prbench.registry.schema import EncoderEntry, JudgeEntry, ProtocolEntry, Style

Name = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Accuracy = Annotated[float, Field(ge=0, le=1)]


class CellState(StrEnum):
    """How a cell stands. One that is missing has no record, or lost a file."""

    done = "done"
    missing = "missing"
    failed = "failed"
    skipped = "skipped"


class RecordPart(BaseModel):
    """Strict in what it names, open to more."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class MethodPart(RecordPart):
    """The method's entry as it was then."""

    name: Name
    title: str
    target: str
    selection: Name
    style: Style
    family: str
    paper: str
    summary: str
    published: str


class Bounds(RecordPart):
    """Mean accuracies of the true rewards, and of the best method without personalisation."""

    ceiling: Accuracy
    floor: Accuracy


class Truth(RecordPart):
    """What is known of simulated users."""

    seen: Bounds
    unseen: Bounds
    overall: Bounds


class Counts(RecordPart):
    """The sizes of a split."""

    seen_users: Natural
    unseen_users: Natural
    seen_train: Natural
    seen_test: Natural
    unseen_support: Natural
    unseen_test: Natural


class Tuned(RecordPart):
    """The search that the parameters come from."""

    trials: Natural
    tuning_splits: list[Natural]
    seed: int


class Cost(RecordPart):
    """Wall time in seconds."""

    fit: Seconds
    adapt: Seconds
    score: Seconds


class Parameters(RecordPart):
    """Stored numbers of a fitted method."""

    shared: Natural
    per_user: Natural


class CellRecord(RecordPart):
    """A cell, done or not."""

    format: int
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    key: Name
    dataset: Name
    encoder: Name
    encoder_entry: EncoderEntry | JudgeEntry
    method: Name
    title: str
    split: Natural
    seed: int
    restart: Natural = 0
    random_start: bool = True
    selection: Name
    entry: MethodPart
    params: dict[str, Any]
    data_fingerprint: str
    embedding_fingerprint: str
    protocol: ProtocolEntry
    protocol_version: int
    truth: Truth | None
    counts: Counts
    device: str
    threads: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["highest", "high", "medium"] = "highest"
    versions: dict[str, str]
    command: str = ""
    tuned: Tuned | None = None


class DoneRecord(CellRecord):
    """A cell with results. `encoder_fingerprint` is None where the embeddings came with the data."""

    encoder_fingerprint: dict[str, Any] | None
    seconds: Cost
    peak_memory_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    parameters: Parameters
    fit: dict[str, Any]


def fault(record: dict[str, Any]) -> str:
    """What is wrong with the record of a cell, in one phrase; empty where nothing is."""
    try:
        (DoneRecord if record.get("status") == "done" else CellRecord).model_validate(record)
    except ValidationError as error:
        found = error.errors(include_url=False)
        if lacking := [_key(each["loc"]) for each in found if each["type"] == "missing"]:
            return f"it lacks {', '.join(lacking)}"
        first = found[0]
        said = first["msg"][:1].lower() + first["msg"][1:].partition(" or instance of ")[0]
        return f"{_key(first['loc'])}: {said}, found {canonical_json(first['input'])[:40]}"
    return ""


def _key(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))
