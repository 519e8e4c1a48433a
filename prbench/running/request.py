"""A run and its jobs as plain data: what another process needs to do the same."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from prbench import registry
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.splits import DEFAULT_SEED
from prbench.registry.schema import EncoderEntry, TestSample
from prbench.training.compute import Precision


class PlainRecord(BaseModel):
    """Frozen, closed to unknown keys, and the same after a way through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CallBudget(PlainRecord):
    """The most that a run may call a judge model for: 0 for no limit; `cost` is in the entry's currency."""

    calls: Annotated[int, Field(ge=0)] = 0
    tokens: Annotated[int, Field(ge=0)] = 0
    cost: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class RunRequest(PlainRecord):
    """What to run: names, the conditions of all results, and the folders.

    `encoder` is for methods that read embeddings, `judge` for those that read texts, which alone `test_sample` and
    `budget` concern.

    `limit` is the most comparisons of each user. `shots` are numbers of support comparisons, `ALL_SHOTS` for all.
    `split_files` is a folder of splits, in place of `splits` and `seed`. Methods that have a random start are fitted
    from `restarts` of them on every split. `selection` is a comma-separated list, see
    `prbench.protocol.selection.parse_selections`; `overrides` are the values of `--set`; tuned parameters are read
    from the folder `tuned`. `refit` makes cells again that were packed without their models.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    encoder: str | None = None
    judge: str | None = None
    test_sample: TestSample | None = None
    budget: CallBudget = CallBudget()
    splits: Annotated[int, Field(ge=1)] | None = None
    split_files: Path | None = None
    restarts: Annotated[int, Field(ge=1)] = 1
    limit: Annotated[int, Field(ge=2)] | None = None
    seed: int = DEFAULT_SEED
    shots: tuple[int, ...] = (ALL_SHOTS,)
    selection: str | None = None
    device: str = "auto"
    overrides: tuple[str, ...] = ()
    out: Path = Path("runs")
    tuned: Path = Path("tuned")
    precision: Precision = "highest"
    refit: bool = False

    def command(self) -> str:
        """The command line that plans the same cells, without the folders of results and of a model's local copy."""
        words = ["prbench", *registry_words(), "run"]
        words += ["--methods", ",".join(self.methods), "--dataset", ",".join(self.datasets)]
        words += ["--encoder", self.encoder.partition("=")[0]] if self.encoder else []
        words += ["--judge", self.judge] if self.judge else []
        if self.test_sample:
            words += ["--test-sample", f"users={self.test_sample.users:g},choices={self.test_sample.choices:g}"]
        words += ["--splits", str(self.splits)] if self.splits else []
        words += ["--restarts", str(self.restarts)] if self.restarts > 1 else []
        words += ["--limit", str(self.limit)] if self.limit else []
        shots = ",".join("all" if k == ALL_SHOTS else str(k) for k in self.shots)
        if self.split_files is None:
            words += ["--seed", str(self.seed)]
        else:
            words += ["--split-files", self.split_files.absolute().name]
        words += ["--shots", shots]
        words += ["--selection", self.selection] if self.selection else []
        words += ["--device", self.device]
        words += [word for text in self.overrides for word in ("--set", text)]
        words += ["--precision", self.precision] if self.precision != "highest" else []
        return shlex.join(words)


def registry_words() -> list[str]:
    """The options that name the folders of further entries in use: as seen from here where they lie below."""
    here = Path.cwd()
    shown = [str(f.relative_to(here)) if f.is_relative_to(here) else str(f) for f in registry.used()]
    return [word for folder in shown for word in ("--registry", folder)]


class TuneRequest(PlainRecord):
    """What to tune: names, the budget of every method, and the folder of the records.

    `splits` is the number of tuning splits, drawn from `seed`.
    """

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    trials: Annotated[int, Field(ge=1)]
    splits: Annotated[int, Field(ge=1)] = 3
    encoder: str | None = None
    seed: int = DEFAULT_SEED
    device: str = "auto"
    out: Path = Path("tuned")


class Description(PlainRecord, ABC):
    """A job for another process: with the folders of further entries and the number of compute threads.

    `title` is what people call it, `work` the name under which programs claim it. `code` has the code of every target
    outside prbench that it uses, which must be the same where the job is done. The job keeps within `memory` bytes
    where it can choose, 0 for what is free. `lost` are programs that are known to be gone: their claims are void.
    """

    registry: tuple[Path, ...] = ()
    threads: Annotated[int, Field(ge=1)]
    title: str = ""
    work: str = ""
    code: dict[str, str] = {}
    memory: Annotated[int, Field(ge=0)] = 0
    lost: tuple[tuple[str, int, str], ...] = ()

    @abstractmethod
    def on(self, device: str) -> Self:
        """The same job, computed on `device`."""

    @property
    @abstractmethod
    def computes_on(self) -> str:
        """The device that it is computed on."""


class StudyDescription(Description):
    """The search for one method on one data set: `request` names these only; `command` is for its record."""

    kind: Literal["tune"] = "tune"
    request: TuneRequest
    command: str = ""

    def on(self, device: str) -> Self:
        """As in `Description`."""
        return self.model_copy(update={"request": self.request.model_copy(update={"device": device})})

    @property
    def computes_on(self) -> str:
        """As in `Description`."""
        return self.request.device


class ProbesDescription(Description):
    """Probes of cells of one row on one data set: the cells' folders in `runs`, each with the probe's name.

    `policy` finds the language model of those that ask one.
    """

    kind: Literal["probe"] = "probe"
    runs: Path
    device: str
    probes: tuple[tuple[Path, str], ...]
    policy: str = ""

    def on(self, device: str) -> Self:
        """As in `Description`."""
        return self.model_copy(update={"device": device})

    @property
    def computes_on(self) -> str:
        """As in `Description`."""
        return self.device


class JobDescription(Description):
    """All splits of one method on one data set and encoder, under one selection, from one random start each.

    `request` names this method, data set and selection only, `restart` numbers the start; `command` is that of the
    whole run, for the records. `split` is given where each split has items of its own and is run by itself.
    """

    kind: Literal["run"] = "run"
    request: RunRequest
    command: str
    restart: Annotated[int, Field(ge=0)] = 0
    split: Annotated[int, Field(ge=0)] | None = None

    def on(self, device: str) -> Self:
        """As in `Description`; the command says so too."""
        command = self.command.replace(f" --device {self.request.device}", f" --device {device}")
        request = self.request.model_copy(update={"device": device})
        return self.model_copy(update={"request": request, "command": command})

    @property
    def computes_on(self) -> str:
        """As in `Description`."""
        return self.request.device


class EmbedDescription(Description):
    """Share `index` of `count` of encoding the texts of a data set that had no embedding when it was divided."""

    kind: Literal["embed"] = "embed"
    dataset: str
    encoder: EncoderEntry
    device: str
    token_budget: Annotated[int, Field(ge=0)] = 0
    index: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1)]

    def on(self, device: str) -> Self:
        """As in `Description`."""
        return self.model_copy(update={"device": device})

    @property
    def computes_on(self) -> str:
        """As in `Description`."""
        return self.device


AnyDescription = Annotated[
    JobDescription | StudyDescription | ProbesDescription | EmbedDescription, Field(discriminator="kind")
]
