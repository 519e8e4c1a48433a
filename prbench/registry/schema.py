"""What an entry file may say: one frozen pydantic record per kind. Unknown keys are errors."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from prbench.hyperparameters import OpenShare, Share

Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
GitBlob = Annotated[str, StringConstraints(pattern=r"^git:[0-9a-f]{40}$")]
"""The id of a file's bytes in git, for files of which no sha256 is published."""
Pin = Sha256 | GitBlob
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
DAY = r"^([0-9]{4}(-[0-9]{2}){0,2})?$"
"""YYYY-MM-DD, YYYY-MM or YYYY, or nothing."""
Marker = Literal[
    "o", "s", "D", "d", "^", "v", "<", ">", "P", "X", "x", "+", "*", "p", "h", "H", "8", "1", "2", "3", "4"
]
"""As matplotlib names them; those that prbench.reporting.looks can draw on a page as well."""
Kind = Literal["methods", "datasets", "encoders", "judges", "reports"]
SelectionRule = Literal["validation", "last", "test-oracle"]
Selection = Literal["published", "tuned", "validation", "last", "test-oracle"]
"""What `--selection` may ask for: the entry's own parameters and rule, tuned parameters, or a rule by name."""


class Record(BaseModel):
    """The strictness that all entries share."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Style(Record):
    """How a method looks, the same in every figure."""

    colour: Colour
    marker: Marker = "o"
    line: Literal["solid", "dashed", "dotted", "dashdot"] = "solid"


class SearchRange(Record):
    """One hyper-parameter's search space: a range (`low`, `high`), or `choices`.

    A range holds whole numbers if both of its ends are written as such; `log` searches it evenly in the logarithm.
    """

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: list[Any] | None = None

    @property
    def whole(self) -> bool:
        """Whether this is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _one_space(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either low and high or choices")
            if not self.choices:
                raise ValueError("choices must not be empty")
        elif self.low is None or self.high is None:
            raise ValueError("give both low and high, or choices")
        elif not -math.inf < self.low < self.high < math.inf:
            raise ValueError("low must be below high, both finite")
        elif self.log and self.low <= 0:
            raise ValueError("a logarithmic range must start above 0")
        return self


class Rounding(Record):
    """What `prbench probe --rounding` found for a method.

    `changed` is the share of test decisions that change where the embeddings do by one unit in the last place, `on`
    names data set, encoder and splits.
    """

    changed: Share
    on: str


class MethodEntry(Record):
    """methods/NAME.toml: one benchmarked method or variant.

    `params` are constructor arguments; a table inside it that is named like a data set or a data family
    overrides them there. `selection` is the rule the method's own recipe calls for. `starts` is given for methods
    that magnify rounding: the standard deviation of one fit's overall user accuracy over random starts, in points, as
    measured for this very entry. `verified` says which of the method's authors confirmed the entry, and when.
    """

    name: str
    title: str
    target: Target
    extends: str | None = None
    family: Literal["reference", "no personalisation", "personalised input", "personalised parameters", "judge"]
    paper: str
    summary: str
    selection: SelectionRule = "validation"
    params: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, SearchRange] = Field(default_factory=dict)
    style: Style
    published: str = ""
    starts: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    verified: str = ""
    rounding: Rounding | None = None
    default: bool = Field(default=True, description="part of `--methods all`")


class Download(Record):
    """Where a data set's raw files come from: `base` + "/" + path, each with its sha256, or "git:" and git's blob id.

    `base` is a URL, a folder below PRBENCH_HOME, or "hf://datasets/OWNER/NAME@REVISION". A file of the hub whose hash
    is not known has "" as its hash. `instead` are other files with the same contents, which nothing downloads: they
    are read where PRBENCH_DATA has all of them. `sizes` are the files' bytes, about, where they are known: for
    estimates, and checked by nothing. `copies` are the hashes of copies that were published elsewhere, of files that
    `files` does not pin: other bytes are accepted too, and `prbench data info` says which were found. `elsewhere`
    gives the files that lie under another base theirs.
    """

    base: str
    files: dict[str, Pin | Literal[""]]
    sizes: dict[str, int] = Field(default_factory=dict)
    instead: dict[str, Pin] = Field(default_factory=dict)
    copies: dict[str, Pin] = Field(default_factory=dict)
    elsewhere: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        unpinned = {self.elsewhere.get(path, self.base) for path, pin in self.files.items() if not pin}
        if not all(base.startswith("hf://datasets/") for base in unpinned):
            raise ValueError('only files of "hf://datasets/..." may go without a hash')
        for table, paths in (("sizes", self.sizes), ("copies", self.copies), ("elsewhere", self.elsewhere)):
            if unknown := sorted(set(paths) - set(self.files)):
                raise ValueError(f"{table} names {unknown[0]!r}, which is not one of the files")
        if local := sorted(
            path for path, base in self.elsewhere.items() if "://" not in base or "://" not in self.base
        ):
            raise ValueError(f"elsewhere names {local[0]!r}: both bases must be addresses")
        if pinned := sorted(path for path in self.copies if self.files[path]):
            raise ValueError(f"copies names {pinned[0]!r}, which files pins already")
        return self


class TestSample(Record):
    """Which test choices methods that read texts are tested on: a share of the users, and of each user's choices."""

    __test__ = False

    users: Annotated[float, Field(gt=0, le=1)] = 1.0
    choices: Annotated[float, Field(gt=0, le=1)] = 1.0


class DataSize(Record):
    """About how much a data set holds, for estimates before it is here; checked by nothing, 0 where unknown.

    `texts` are distinct (context, response) pairs, `tokens` those that a model reads of them.
    """

    comparisons: Annotated[int, Field(ge=0)] = 0
    texts: Annotated[int, Field(ge=0)] = 0
    tokens: Annotated[int, Field(ge=0)] = 0


class ModelSize(Record):
    """About how large a model is, for estimates before it is here; a copy of it is compared with `dim`; 0: unknown.

    `weights_gb` are the weights' files in 10^9 bytes, `dim` the width of an embedding.
    """

    weights_gb: Annotated[float, Field(ge=0)] = 0.0
    dim: Annotated[int, Field(ge=0)] = 0


class ProtocolEntry(Record):
    """How a data set is split. See prbench.protocol.splits.

    `name` is the rule; `unit` what is divided between train and test: each user's groups, or blocks (topics)
    across users, or the source's own marks. Limits apply to training comparisons only; 0 means no limit.
    `test_sample` concerns methods that read texts alone.
    """

    name: Literal["paper", "published-code", "chronological"] = "paper"
    unit: Literal["group", "block", "mark"] = "group"
    seen_share: OpenShare = 0.5
    test_share: OpenShare = 0.5
    seen_train_limit: Annotated[int, Field(ge=0)] = 0
    unseen_train_limit: Annotated[int, Field(ge=0)] = 0
    validation_share: OpenShare = 0.2
    splits: Annotated[int, Field(ge=1)] = 20
    test_sample: TestSample | None = None


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
    size: DataSize = DataSize()
    simulated: bool = False
    public: Annotated[str, StringConstraints(pattern=DAY)] = ""
    """When texts and labels were published: a judge model of a later day may have seen them; "" where not known."""
    default: bool = Field(default=True, description="part of `--dataset all`")


class EncoderEntry(Record):
    """prbench/encoders/NAME.toml: one way to turn texts into embeddings."""

    name: str
    title: str
    target: Target
    extends: str | None = None
    licence: str = ""
    homepage: str = ""
    summary: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    needs: str = ""
    """Extra pip requirement, empty if none."""
    size: ModelSize = ModelSize()


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class JudgeEntry(Record):
    """prbench/judging/NAME.toml: one judge model, which answers questions about texts.

    `options` are the constructor arguments of its backend. `released` is the day of the model's release (YYYY-MM-DD,
    YYYY-MM or YYYY), "" where it is not known. Prices are in `currency` per million tokens; none costs nothing.
    """

    name: str
    title: str
    target: Target
    extends: str | None = None
    licence: str
    homepage: str
    summary: str
    options: dict[str, Any] = Field(default_factory=dict)
    needs: str = ""
    """Extra pip requirement, empty if none."""
    released: Annotated[str, StringConstraints(pattern=DAY)] = ""
    price_in: Price = 0.0
    price_out: Price = 0.0
    currency: str = "USD"
    family: str = ""
    """The folder of the raw files below PRBENCH_DATA, where the answers were stored by others."""
    download: Download | None = None


class ReportEntry(Record):
    """reports/NAME.toml: one report and its pieces, in order."""

    name: str
    title: str
    target: Target
    summary: str
    extends: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


RECORDS: dict[
    Kind, type[MethodEntry] | type[DatasetEntry] | type[EncoderEntry] | type[JudgeEntry] | type[ReportEntry]
] = {
    "methods": MethodEntry,
    "datasets": DatasetEntry,
    "encoders": EncoderEntry,
    "judges": JudgeEntry,
    "reports": ReportEntry,
}
