"""Does a described job in this process, once its own code is known to be what the job was planned with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError
from prbench.method import Watch
from prbench.running.request import AnyDescription

if TYPE_CHECKING:
    from prbench.running.open_dataset import OpenDataset


def do(description: AnyDescription, watch: Watch, opened: dict[str, list[OpenDataset]]) -> Any:
    """Do a job and return what it came to; `opened` keeps the data set of the last one, for the next.

    Raises InputError where a method's own code is not that of the description, and as the job does.
    """
    import torch

    from prbench.running import embedding_jobs, job, probe, tune
    from prbench.training.compute import limit_memory

    enter(description)
    torch.set_num_threads(description.threads)
    limit_memory(description.memory)
    if description.kind == "tune":
        tune.perform(description, watch, opened)
        return None
    if description.kind == "probe":
        return probe.perform(description, watch, opened)
    if description.kind == "embed":
        embedding_jobs.perform(description, watch)
        return None
    return job.perform(description, watch, opened)


def enter(description: AnyDescription) -> None:
    """Use the description's folders of further entries. Raises InputError where their code is not what it names."""
    from prbench import registry
    from prbench.registry.code_hash import code_of

    if registry.used() != description.registry:
        registry.use(description.registry)
    for target, code in description.code.items():
        try:
            found = code_of(target)
        except ImportError as error:
            raise InputError(
                f"{target} cannot be imported where {description.title or 'the job'} is done: {error}",
                hint="install its package there, or put its module into the folder given as --registry",
            ) from error
        if found != code:
            raise InputError(
                f"{target} has other code where {description.title or 'the job'} is done ({found}) than where it was"
                f" planned ({code})",
                hint="start again after editing, and install the same version of its package on every machine",
            )


def opened_as(description: AnyDescription) -> str:
    """The name under which `do` looks for an open data set."""
    from prbench.running import embedding_jobs, job, probe, tune

    if description.kind == "tune":
        return tune.opened_as(description)
    if description.kind == "probe":
        return probe.opened_as(description)
    if description.kind == "embed":
        return embedding_jobs.opened_as(description)
    return job.opened_as(description)
