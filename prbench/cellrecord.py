"""What cell.json says of a cell: what produced it, how it ended and, where it is done, what it cost.

More keys than these may be there. Every report, probe and user's state relies on those that are named here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prbench.entries import EncoderEntry, ProtocolEntry, Style
from prbench.files import canonical_json

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Accuracy = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """Strict in what it names, open to more."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class MethodPart(Part):
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


class Bounds(Part):
    """Mean accuracies of the true rewards, and of the best method without personalisation."""

    ceiling: Accuracy
    floor: Accuracy


class Truth(Part):
    """What is known of simulated users."""

    seen: Bounds
    unseen: Bounds
    overall: Bounds


class Counts(Part):
    """The sizes of a split."""

    seen_users: Count
    unseen_users: Count
    seen_train: Count
    seen_test: Count
    unseen_support: Count
    unseen_test: Count


class Tuned(Part):
    """The search that the parameters come from."""

    trials: Count
    tuning_splits: list[Count]
    seed: int


class Cost(Part):
    """Wall time in seconds."""

    fit: Seconds
    adapt: Seconds
    score: Seconds


class Parameters(Part):
    """Stored numbers of a fitted method."""

    shared: Count
    per_user: Count


class CellRecord(Part):
    """A cell, done or not."""

    format: int
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    key: Name
    dataset: Name
    encoder: Name
    encoder_entry: EncoderEntry
    method: Name
    title: str
    split: Count
    seed: int
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


def problem(record: dict[str, Any]) -> str:
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
