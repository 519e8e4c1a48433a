"""Records of tuning: one JSON file per data set, encoder and method, written after every trial.

    tuned/<data set>/<encoder>/<method>.json

The file is both the log of trials and the result: the trials so far, the data and code they rest on, and the best
of them. It is not a registry entry: it applies only to the data set it was tuned on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, digest, write_json
from prbench.base.reading import SEAL, read_json, sealed, unsealed
from prbench.registry import methods
from prbench.registry.code_hash import code_of
from prbench.registry.schema import MethodEntry, Record, SearchRange, SelectionRule
from prbench.registry.toml_files import validate

if TYPE_CHECKING:
    from prbench.running.open_dataset import OpenDataset


FORMAT = 1
Accuracy = Annotated[float, Field(ge=0, le=1)]

WORDS = {
    "target": "class",
    "code": "code of its own",
    "revision": "revision of the method",
    "rule": "rule",
    "params": "published parameters",
    "search": "search space",
    "data_fingerprint": "data",
    "embedding_fingerprint": "embeddings",
    "protocol": "protocol",
    "protocol_version": "version of the protocol",
    "splits": "tuning splits",
    "seed": "seed",
}
"""The words for what trials rest on."""


class Basis(Record):
    """What the trials of one method on one data set rest on; another basis makes other trials.

    `rule` and `params` are the published setting, `params` with the method's `key_parameters`. `splits` are the
    indices of the tuning splits and `seed` is the base seed that they are drawn from. `code` stands for the source
    of a method that is not prbench's, `revision` is that of its class.
    """

    target: str
    code: str = ""
    revision: int = 1
    rule: SelectionRule
    params: dict[str, Any]
    search: dict[str, SearchRange]
    data_fingerprint: str
    embedding_fingerprint: str
    protocol: dict[str, Any]
    protocol_version: int
    splits: list[int]
    seed: int


class Trial(Record):
    """One setting that was tried: its parameters and rule, and the user accuracies that it reached.

    `objective` is the mean of `splits`, the overall accuracy on each tuning split; None where the trial failed, for
    `reason`. `chosen` is what each split's fit chose (an epoch, a strength). A setting that was tried before, in
    trial `repeats`, is not fitted again.
    """

    number: Annotated[int, Field(ge=0)]
    params: dict[str, Any]
    rule: SelectionRule
    objective: Accuracy | None = None
    seen: Accuracy | None = None
    unseen: Accuracy | None = None
    splits: list[Accuracy] = Field(default_factory=list)
    chosen: list[Any] = Field(default_factory=list)
    repeats: int | None = None
    reason: str = ""
    seconds: Annotated[float, Field(ge=0)] = 0.0


class TuningRecord(Record):
    """What tuning found for a method on a data set. `untuned` says why there is nothing to tune, where that is so."""

    format: Literal[1] = 1
    method: str
    dataset: str
    encoder: str
    basis: Basis
    sampler: str
    budget: Annotated[int, Field(ge=1)]
    untuned: str = ""
    trials: list[Trial] = Field(default_factory=list)
    best: int | None = None
    versions: dict[str, str]
    command: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if [trial.number for trial in self.trials] != list(range(len(self.trials))):
            raise ValueError("the trials are not numbered 0, 1, ...")
        if len(self.trials) > self.budget:
            raise ValueError(f"there are {len(self.trials)} trials in a budget of {self.budget}")
        for trial in self.trials:
            if bool(trial.reason) == (trial.objective is not None):
                raise ValueError(f"trial {trial.number} must have either an objective or a reason")
            if trial.params.keys() != self.basis.search.keys():
                raise ValueError(f"the parameters of trial {trial.number} are not those of the search")
        if self.best != best_of(self.trials):
            raise ValueError(f"best is {self.best}, but the trials say {best_of(self.trials)}")
        return self

    @property
    def finished(self) -> bool:
        """Whether nothing is left to try."""
        return bool(self.untuned) or len(self.trials) == self.budget

    @property
    def published(self) -> Trial | None:
        """The trial of the published setting: the first one."""
        return self.trials[0] if self.trials else None

    @property
    def tuned(self) -> Trial | None:
        """The best trial."""
        return None if self.best is None else self.trials[self.best]

    @property
    def failed(self) -> int:
        """The number of trials that failed."""
        return sum(bool(trial.reason) for trial in self.trials)

    @property
    def without_effect(self) -> bool:
        """Whether several settings were tried and all of them did equally well."""
        tried = [t for t in self.trials if t.repeats is None]
        return len(tried) > 2 and len({(t.objective, tuple(t.splits)) for t in tried}) == 1

    def with_trial(self, trial: Trial) -> TuningRecord:
        """The record with one trial more."""
        trials = [*self.trials, trial]
        return self.model_copy(update={"trials": trials, "best": best_of(trials)})

    def provenance(self) -> dict[str, Any]:
        """What a result made with the tuned parameters says of them."""
        assert self.tuned is not None
        assert self.published is not None
        table = self.model_dump(mode="json", exclude={"trials": {"__all__": {"seconds"}}})
        # What was typed is not what was found; older records have no command.
        del table["command"]
        # Records made before revisions were counted keep their digest.
        if self.basis.revision == 1:
            del table["basis"]["revision"]
        return {
            "record": digest(table),
            "trials": self.budget,
            "failed": self.failed,
            "best": self.best,
            "params": self.tuned.params,
            "rule": self.tuned.rule,
            "objective": {"published": self.published.objective, "tuned": self.tuned.objective},
            "tuning_splits": self.basis.splits,
            "seed": self.basis.seed,
            "sampler": self.sampler,
            "versions": self.versions,
            **({"command": self.command} if self.command else {}),
        }


def best_of(trials: Sequence[Trial]) -> int | None:
    """The number of the trial with the highest objective, the first of equals; None where all failed."""
    done = [trial for trial in trials if trial.objective is not None]
    return max(done, key=lambda trial: (trial.objective or 0.0, -trial.number)).number if done else None


def record_file(tuned: Path, dataset: str, encoder: str, method: str) -> Path:
    """Where the record of a method on a data set belongs."""
    return tuned / dataset / encoder / f"{method}.json"


def write(path: Path, record: TuningRecord) -> None:
    """Write a record; the file is the old or the new one, never half of one."""
    write_json(path, sealed(record.model_dump(mode="json")))


def read(path: Path) -> TuningRecord:
    """Read a record. Raises InputError, in one line that names the file, when it is none or contradicts itself."""
    hint = f"delete {path} and tune again"
    table = read_json(path, hint=hint)
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        found = table.get("format") if isinstance(table, dict) else None
        raise InputError(f"{path} has tuning format {found}, this prbench reads format {FORMAT}", hint=hint)
    plain = {key: value for key, value in table.items() if key != SEAL}
    try:
        record = validate(TuningRecord, plain, path)
    except InputError as error:
        cause = error.__cause__
        # The input of a check of the whole record is the whole record: its message alone is one line.
        whole = [str(e["msg"]).removeprefix("Value error, ") for e in cause.errors() if not e["loc"]] if isinstance(
            cause, ValidationError) else []  # fmt: skip
        message = f"{path}: {whole[0]}" if whole else str(error.args[0])
        raise InputError(message, hint=hint) from error
    unsealed(table, path, hint=hint)
    return record


def require_basis(record: TuningRecord, basis: Basis, path: Path, *, ignoring: Sequence[str] = (), hint: str) -> None:
    """Raise InputError, naming what differs, unless the record's trials rest on `basis`."""
    mine, wanted = record.basis.model_dump(mode="json"), basis.model_dump(mode="json")
    changed = [
        WORDS[key]
        for key in wanted
        if key not in ignoring and canonical_json(mine[key]) != canonical_json(wanted[key])
    ]
    if changed:
        raise InputError(f"{path} rests on another {', another '.join(changed)}", hint=hint)


def tune_command(method: str, dataset: str, encoder: str | None, tuned: Path) -> str:
    """The command that makes a record."""
    named = f" --encoder {encoder}" if encoder else ""
    return f"`prbench tune --methods {method} --dataset {dataset}{named} --trials N --out {tuned}`"


def nothing_to_tune(entry: MethodEntry) -> str:
    """Why a method cannot be tuned on any data set, or nothing."""
    return "" if entry.search else "its entry has no [search], so there is nothing to tune"


def basis(setting: OpenDataset, entry: MethodEntry, seed: int, protocol_version: int) -> Basis:
    """What the tuning of a method on a setting's splits, drawn from the base seed `seed`, rests on."""
    method = methods.make_method(entry, setting.entry, {})
    return Basis(
        target=entry.target,
        code=code_of(entry.target),
        revision=method.revision,
        rule=entry.selection,
        params=method.key_parameters,
        search=entry.search,
        data_fingerprint=setting.data.fingerprint,
        embedding_fingerprint=setting.embedding_fingerprint,
        protocol=setting.entry.protocol.model_dump(exclude={"splits", "test_sample"}),
        protocol_version=protocol_version,
        splits=[split.index for split in setting.splits],
        seed=seed,
    )


def for_run(
    tuned: Path, setting: OpenDataset, entry: MethodEntry, protocol_version: int, encoder: str | None
) -> TuningRecord | None:
    """The finished record to run a method with on a setting; None where the method has nothing to tune.

    `encoder` is what the user named, for the command in a hint. Raises InputError where there is no record, where it
    is unfinished or every trial failed, where it rests on something else than the run does, and where a split that
    the run would report was tuned on.
    """
    if nothing_to_tune(entry):
        return None
    names = entry.name, setting.entry.name, setting.encoder.name
    method, dataset, encoder_name = names
    path = record_file(tuned, dataset, encoder_name, method)
    command = tune_command(method, dataset, encoder, tuned)
    if not path.is_file():
        raise InputError(f"{method} is not tuned on {dataset} with {encoder_name}: no {path}", hint=f"run {command}")
    record = read(path)
    if (record.method, record.dataset, record.encoder) != names:
        said = f"{record.method} on {record.dataset} with {record.encoder}"
        raise InputError(f"{path} is the record of {said}", hint=f"delete it and run {command}")
    mine = basis(setting, entry, record.basis.seed, protocol_version)
    require_basis(record, mine, path, ignoring=("splits",), hint=f"delete it and run {command}")
    if not record.finished:
        done = f"{len(record.trials)} of {record.budget} trials"
        raise InputError(f"{path}: the tuning of {method} stopped after {done}", hint=f"go on with {command}")
    if not record.untuned and record.tuned is None:
        raise InputError(f"{path}: every trial of {method} failed, the first with {record.trials[0].reason}")
    # The published-code protocol draws a split from seed + index alone.
    tuned_on = {record.basis.seed + index for index in record.basis.splits}
    if shared := sorted(tuned_on & {split.seed for split in setting.splits}):
        raise InputError(
            f"{dataset}: the split of seed {shared[0]} would be reported, and {method} was tuned on it",
            hint="choose a --seed that is further away from the one of `prbench tune`",
        )
    return record


def require_one_budget(records: Sequence[TuningRecord]) -> None:
    """Raise InputError unless the records of a data set were given the same trials, splits and seed."""
    first: TuningRecord | None = None
    for record in (r for r in records if not r.untuned):
        first = first or record
        mine, theirs = (
            f"{r.budget} trials on tuning splits {', '.join(map(str, r.basis.splits))} of seed {r.basis.seed}"
            for r in (record, first)
        )
        if mine != theirs:
            raise InputError(
                f"{record.dataset}: {first.method} was tuned with {theirs}, {record.method} with {mine}",
                hint="tune all of them with the same --trials, --splits and --seed",
            )
