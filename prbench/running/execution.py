"""Where the jobs of a command are done, and what each of them may use: options as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from prbench.base.errors import InputError, near
from prbench.running.request import PlainRecord

ExecutorName = Literal["local", "slurm", "ray"]
# A job on a cluster computes on so many cores where nothing else is said.
CPUS = 4
STAND_INS = ("local",)
"""In place of Slurm: submitit's own processes of this machine."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Resources(PlainRecord):
    """What a job may use, in place of its estimate: cores, GPUs (a share of one below 1), GiB of memory, minutes."""

    cpus: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    memory: Positive | None = None
    minutes: Positive | None = None


class Execution(PlainRecord):
    """Where jobs are done: `workers` processes of this machine, or a cluster.

    `address` is that of a Ray cluster; `slurm` are options of sbatch, by submitit's names; `threads` are those of a
    job and `device` is where it computes, None and "auto" for what there is.
    """

    executor: ExecutorName = "local"
    workers: Annotated[int, Field(ge=1)] = 1
    address: str = "auto"
    slurm: tuple[tuple[str, str], ...] = ()
    resources: Resources = Resources()
    threads: Annotated[int, Field(ge=1)] | None = None
    device: str = "auto"

    @property
    def elsewhere(self) -> bool:
        """Whether a cluster does the jobs: then this machine need not have the device."""
        return self.executor != "local"

    @property
    def device_here(self) -> str:
        """Where this process computes, which plans the jobs."""
        return "cpu" if self.elsewhere else self.device

    @property
    def job_threads(self) -> int:
        """The compute threads of a job: on a cluster as many as its cores, here those of this process."""
        if not self.elsewhere:
            import torch

            return torch.get_num_threads()
        return self.threads or self.resources.cpus or CPUS


HERE = Execution()
"""In this process alone."""


def read_resources(text: str | None) -> Resources:
    """Resources from `memory=8,cpus=2,gpus=0.25,minutes=60`. Raises InputError for anything else."""
    hint = "for example --resources memory=8,cpus=2,gpus=0.25,minutes=60 (memory in GiB)"
    values: dict[str, Any] = {}
    for name, value in pairs((text or "").split(","), "--resources", hint):
        if name not in Resources.model_fields:
            raise InputError(f"--resources {name}: unknown{near(name, list(Resources.model_fields))}", hint=hint)
        values[name] = value
    try:
        return Resources.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        said = str(fault["msg"]).lower()
        raise InputError(f"--resources {fault['loc'][0]}={fault['input']}: {said}", hint=hint) from error


def read_slurm(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Options of sbatch from `partition=gpu` and the like. Raises InputError for anything else."""
    return tuple(pairs(given, "--slurm", "for example --slurm partition=gpu --slurm account=lab"))


def pairs(given: Sequence[str], option: str, hint: str) -> list[tuple[str, str]]:
    """Texts of the form NAME=VALUE, empty ones left out. Raises InputError, naming the option, for another form."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name and not equals:
            continue
        if not name or not value:
            raise InputError(f"{option} {text}: expected NAME=VALUE", hint=hint)
        if name in found:
            raise InputError(f"{option} {text}: {name} is given twice", hint=hint)
        found[name] = value
    return list(found.items())
