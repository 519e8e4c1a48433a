"""Options that say where jobs are done."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from prbench.base.errors import InputError

if TYPE_CHECKING:
    from prbench.running.execution import Execution


class Executor(StrEnum):
    """What does the jobs."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


ExecutorName = Annotated[
    Executor,
    typer.Option(
        "--executor", help="Where jobs are done: local, this machine; slurm, queued as one array; ray, on a cluster."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start Ray here.",
        show_default="auto",
    ),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="NAME=VALUE",
        help="Option of sbatch such as partition=gpu; cluster=local tries it without Slurm. Repeatable.",
    ),
]
JobResources = Annotated[
    str | None,
    typer.Option(
        "--resources",
        metavar="NAME=VALUE,...",
        help="What a job on a cluster may use instead of the estimate: memory (GiB), cpus, gpus, minutes.",
    ),
]


def execution(
    executor: Executor,
    workers: int,
    threads: int | None,
    address: str | None,
    slurm: list[str] | None,
    resources: str | None,
    device: str,
) -> Execution:
    """Where the jobs of a command are done. Raises InputError for options that do not go together."""
    from prbench.running.execution import Execution, read_resources, read_slurm

    for option, given, needed in (
        ("--address", address is not None, Executor.ray),
        ("--slurm", bool(slurm), Executor.slurm),
    ):
        if given and executor is not needed:
            raise InputError(f"{option} is for --executor {needed}", hint=f"add --executor {needed}, or leave it out")
    if executor is Executor.local and resources:
        raise InputError("--resources is for clusters", hint="add --executor slurm or ray; here there is --threads")
    if executor is not Executor.local and workers > 1:
        raise InputError(
            f"--workers is for this machine, and --executor {executor} has its own",
            hint="leave out --workers; --slurm array_parallelism=N limits the jobs of an array",
        )
    found = Execution(
        executor=executor.value,
        workers=workers,
        address=address or "auto",
        slurm=read_slurm(slurm or []),
        resources=read_resources(resources),
        threads=threads,
        device=device,
    )
    if threads and found.resources.cpus and threads > found.resources.cpus:
        raise InputError(f"--threads {threads}: --resources gives a job {found.resources.cpus} cpus")
    return found
