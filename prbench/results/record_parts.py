"""The parts of a cell's record: what reports, probes and users' states read of it, by name.

A key that anything reads is named here or in `prbench.results.record`, with what it means; a record may hold more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from prbench.hyperparameters import Natural
from prbench.registry.schema import Rounding, Style

Name = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Accuracy = Annotated[float, Field(ge=0, le=1)]


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
            return plain_table(value.model_dump()) if isinstance(value, BaseModel) else value

        def __contains__(self, name: object) -> bool:
            return name in self.model_fields_set


class SparsePart(RecordPart):
    """A part whose names came to it over time: one that was not given a value is not written."""

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name in self.model_fields_set}


def plain_table(table: dict[str, Any]) -> dict[str, Any]:
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
    world_gap: float | None = None


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
