"""What an entry file may say: one frozen pydantic record per kind. Unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
Share = Annotated[float, Field(gt=0, lt=1)]
Kind = Literal["methods", "datasets", "encoders", "reports"]
SelectionRule = Literal["validation", "last", "test-oracle"]


class Record(BaseModel):
    """The strictness that all entries share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Style(Record):
    """How a method looks, the same in every figure."""

    colour: Colour
    marker: str = "o"
    line: Literal["solid", "dashed", "dotted", "dashdot"] = "solid"


class SearchRange(Record):
    """One hyper-parameter's search space: a range (`low`, `high`) or `choices`."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: list[Any] | None = None


class MethodEntry(Record):
    """methods/NAME.toml: one benchmarked method or variant.

    `params` are constructor arguments; a table inside it that is named like a data set or a data family
    overrides them there. `selection` is the rule the method's own recipe calls for.
    """

    name: str
    title: str
    target: Target
    extends: str | None = None
    family: Literal["reference", "no personalisation", "personalised input", "personalised parameters"]
    paper: str
    summary: str
    selection: SelectionRule = "validation"
    params: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, SearchRange] = Field(default_factory=dict)
    style: Style
    published: str = ""
    default: bool = Field(default=True, description="part of `--methods all`")


class Download(Record):
    """Where a data set's raw files come from: `base` + "/" + path, each with its sha256."""

    base: str
    files: dict[str, Sha256]


class ProtocolEntry(Record):
    """How a data set is split. See prbench.splits.

    `name` is the rule; `unit` what is divided between train and test: each user's groups, or blocks (topics)
    across users, or the source's own marks. Limits apply to training comparisons only; 0 means no limit.
    """

    name: Literal["paper", "published-code"] = "paper"
    unit: Literal["group", "block", "mark"] = "group"
    seen_share: Share = 0.5
    test_share: Share = 0.5
    seen_train_limit: Annotated[int, Field(ge=0)] = 0
    unseen_train_limit: Annotated[int, Field(ge=0)] = 0
    validation_share: Share = 0.2
    splits: Annotated[int, Field(ge=1)] = 20


class DatasetEntry(Record):
    """datasets/NAME.toml: one data setting."""

    name: str
    title: str
    loader: Target
    extends: str | None = None
    family: str
    licence: str
    homepage: str
    citation: str
    summary: str
    encoder: str
    """Name of the default encoder; "own" for data that come with embeddings."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the loader."""
    download: Download | None = None
    protocol: ProtocolEntry = ProtocolEntry()
    expect: dict[str, int] = Field(default_factory=dict)
    """Counts checked after loading: users, comparisons, prompts, items."""
    simulated: bool = False
    default: bool = Field(default=True, description="part of `--dataset all`")


class EncoderEntry(Record):
    """prbench/encoders/NAME.toml: one way to turn texts into embeddings."""

    name: str
    title: str
    target: Target
    extends: str | None = None
    licence: str
    homepage: str
    summary: str
    options: dict[str, Any] = Field(default_factory=dict)
    needs: str = ""
    """What to install, as a pip command's argument, where it is no core dependency."""


class ReportEntry(Record):
    """reports/NAME.toml: one report and its pieces, in order."""

    name: str
    title: str
    target: Target
    summary: str
    extends: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


RECORDS: dict[Kind, type[MethodEntry] | type[DatasetEntry] | type[EncoderEntry] | type[ReportEntry]] = {
    "methods": MethodEntry,
    "datasets": DatasetEntry,
    "encoders": EncoderEntry,
    "reports": ReportEntry,
}
