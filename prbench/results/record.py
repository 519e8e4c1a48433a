"""What cell.json says of a cell: what produced it, how it ended and, where it is done, what it cost.

More keys than these may be there. Every report, probe and user's state relies on those that are named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from prbench.base.files import canonical_json
from prbench.hyperparameters import Natural
from prbench.registry.schema import EncoderEntry, JudgeEntry, ProtocolEntry, Rounding, Style

if TYPE_CHECKING:
    from prbench.results.key import CellKey

FORMAT = 1
Precision = Literal["highest", "high", "medium"]

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
    """Strict in what it names, open to more. Read by attributes.

    By name, as a table, it gives plain values: for scripts that knew records as tables. prbench itself does not do
    so, and the type checker sees none of it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    if not TYPE_CHECKING:

        def keys(self) -> Iterator[str]:
            """The names that were given a value."""
            return iter(self.model_fields_set)

        def get(self, name: str, default: Any = None) -> Any:
            """The plain value of a name, `default` where none was given."""
            return self[name] if name in self.model_fields_set else default

        def __getitem__(self, name: str) -> Any:
            try:
                value = getattr(self, name)
            except AttributeError as error:
                raise KeyError(name) from error
            return _plain(value.model_dump()) if isinstance(value, BaseModel) else value

        def __contains__(self, name: object) -> bool:
            return name in self.model_fields_set


class SparsePart(RecordPart):
    """A part whose names came to it over time: one that was not given a value is not written."""

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name in self.model_fields_set}


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    """A protocol without a sample is written as before there were samples."""
    return {name: value for name, value in table.items() if name != "test_sample" or value is not None}


class MethodPart(SparsePart):
    """The method's entry as it was then; see `prbench.registry.schema.MethodEntry`.

    verified: which of the method's authors confirmed it; not in cells of an earlier prbench.
    rounding: how far rounding changes its decisions; not in cells of an earlier prbench.
    """

    name: Name
    title: str
    target: str
    selection: Name
    style: Style
    family: str
    paper: str
    summary: str
    published: str
    verified: str = ""
    rounding: Rounding | None = None


class Bounds(RecordPart):
    """Mean accuracies of the true rewards, and of the best method without personalisation."""

    ceiling: Accuracy
    floor: Accuracy


class Truth(RecordPart):
    """What is known of simulated users."""

    seen: Bounds
    unseen: Bounds
    overall: Bounds

    def table(self) -> dict[str, dict[str, float]]:
        """Ceiling and floor, by population."""
        return {
            population: {"ceiling": bounds.ceiling, "floor": bounds.floor}
            for population, bounds in (("seen", self.seen), ("unseen", self.unseen), ("overall", self.overall))
        }


class Counts(SparsePart):
    """The sizes of a split, in users and choices. Those with a default are not in cells of an earlier prbench.

    repeats, opposite_repeats: choices of a person who had judged the pair before, the same way and the other way.
    users_with_one_comparison, dropped_users_without_train_or_test: people in no split, and why.
    test_items, test_pairs: distinct ones among the test choices; `..._trained_on`: those that are in training too.
    equal_vectors: test choices between two replies with one embedding; known once the cell is made.
    """

    seen_users: Natural
    unseen_users: Natural
    seen_train: Natural
    seen_test: Natural
    unseen_support: Natural
    unseen_test: Natural
    repeats: Natural | None = None
    opposite_repeats: Natural | None = None
    users_with_one_comparison: Natural | None = None
    dropped_users_without_train_or_test: Natural | None = None
    test_items: Natural | None = None
    test_items_trained_on: Natural | None = None
    test_pairs: Natural | None = None
    test_pairs_trained_on: Natural | None = None
    equal_vectors: Natural | None = None

    @property
    def users(self) -> int:
        """Seen and unseen users."""
        return self.seen_users + self.unseen_users

    def table(self) -> dict[str, int]:
        """The counts that are known, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class Properties(SparsePart):
    """What the data are like; see `prbench.protocol.properties`. None where the data do not tell."""

    disagreement: float | None = None
    majority: float | None = None
    shared_pairs: Natural | None = None
    shared_votes: Natural | None = None
    pairs_shared: float | None = None
    consistency: float | None = None
    repeats: Natural | None = None
    repeaters: Natural | None = None
    consistency_bound: float | None = None
    choices: list[float] | None = None
    per_item: float | None = None
    longer_wins: float | None = None
    groups: list[str] | None = None


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


class Fit(SparsePart):
    """What the fit decided, as the method says; a method may say more, or nothing.

    rule: the selection rule that was followed.
    chosen: the epoch, step or strength that was chosen, or the list of strengths.
    curve, curve_error: the accuracy of each candidate, and its standard error over users.
    refitted_on: the choices that the method was fitted on again after choosing.
    independent_of_batch: whether no bit depends on the splits that were trained beside this one.
    nothing_chosen: the method was given choices to choose by, and read none of them.
    """

    rule: str = ""
    chosen: Any = None
    curve: dict[str, float] | None = None
    curve_error: dict[str, float] | None = None
    refitted_on: str = ""
    independent_of_batch: bool = False
    nothing_chosen: bool = False


class Calls(SparsePart):
    """What a judge model was asked at one stage: a split's share where splits share work.

    asked: requests, those included that a stored answer saved; cost: in the currency of the judge model's entry.
    models, days: how many answers came from each model name, and on each day.
    """

    asked: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    seconds: float = 0.0
    cost: float = 0.0
    models: dict[str, int] = {}
    days: dict[str, int] = {}


class VerdictShares(SparsePart):
    """How verdicts in both orders came about, as shares of a population; see `prbench.running.judged`.

    None where there is nothing that a share could be of.
    """

    failed_orders: float | None = None
    contradicted: float | None = None
    first_share: float | None = None
    strict_accuracy: float | None = None


class Judging(SparsePart):
    """What calls of judge models cost at the fit and at the test, and how verdicts came about, by population."""

    fit: Calls = Calls()
    test: Calls = Calls()
    verdicts: dict[str, VerdictShares] = {}

    @property
    def stages(self) -> tuple[Calls, Calls]:
        """The calls of the fit and those of the test."""
        return self.fit, self.test


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
        return _plain(self.protocol.model_dump())

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
    said = first["msg"][:1].lower() + first["msg"][1:].partition(" or instance of ")[0]
    return f"{_key(first['loc'])}: {said}, found {canonical_json(first['input'])[:40]}"


def _key(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))
