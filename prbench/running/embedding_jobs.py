"""Embedding divided into shares that are jobs of their own: each writes what it has encoded to the same store.

Which texts go through the model together follows from the data and from what was stored before they were first
embedded, so embeddings have the same bits whatever the number of shares, and however often one is begun again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prbench import data as datasets
from prbench import registry
from prbench.base.console import progress
from prbench.comparisons import PreferenceData
from prbench.embedding import shares as shares_module
from prbench.embedding import stage
from prbench.embedding.job import EmbeddingJob, open_job
from prbench.embedding.store import SHARD_ROWS
from prbench.encoders import OWN
from prbench.method import Watch
from prbench.registry.code_hash import code_of
from prbench.registry.schema import DatasetEntry, EncoderEntry
from prbench.running.display import Display
from prbench.running.execution import Execution
from prbench.running.executors import Executor, Processes
from prbench.running.needs import BASE, LEAST_SECONDS, ROOM, SLOWNESS, Needs
from prbench.running.outline import BYTES_PER_PARAMETER, CPU_RATE, GPU_RATE
from prbench.running.request import EmbedDescription

# More shares than these are no quicker to finish than they are to begin.
MOST_SHARES = 64
CHARACTERS_PER_TOKEN = 4

_open: dict[str, EmbeddingJob] = {}
"""The last job of this process, whose model is in memory."""


class Shares(Display):
    """The display of shares, which counts those that came to nothing and those that wait for a scheduler."""

    lost = 0
    handed_over = 0

    def lose(self, job: int, reason: str) -> None:
        """A share ended without an answer."""
        self.lost += 1
        super().lose(job, reason)

    def hand_over(self, job: int, where: str) -> None:
        """A share is left to a scheduler."""
        self.handed_over += 1
        super().hand_over(job, where)


def embed(
    data: PreferenceData,
    dataset: DatasetEntry,
    encoder: EncoderEntry,
    execution: Execution,
    *,
    shares: int | None = None,
    token_budget: int = 0,
) -> Shares | None:
    """Encode the texts that the store lacks, in shares that an executor does; None where there is nothing to encode.

    Raises InputError as `prbench.embedding.stage.embed`.
    """
    if data.embedded is not None or encoder.name == OWN:
        stage.plan_embedding(data, encoder, family=dataset.family, device=execution.device_here)
        return None
    device = "cuda" if execution.elsewhere and execution.device.startswith("cuda") else execution.device_here
    job = open_job(data, encoder, dataset.family, device, token_budget)
    missing = len(job.missing())
    if not missing:
        return None
    job.require_encoder()
    count = shares or min(MOST_SHARES, math.ceil(missing / SHARD_ROWS))
    job.store.begin(job.fingerprint, job.keys)
    described = [
        EmbedDescription(
            dataset=dataset.name,
            encoder=encoder,
            device=device,
            token_budget=token_budget,
            index=index,
            count=count,
            registry=registry.used(),
            threads=execution.job_threads,
            title=f"embedding {data.name} with {job.called}, share {index + 1} of {count}",
            work=f"embedding {job.fingerprint} share {index + 1} of {count}",
            code={encoder.target: code} if (code := code_of(encoder.target)) else {},
        )
        for index in range(count)
    ]
    with progress("texts") as display:
        bar = display.add_task("", total=missing)
        listener = Shares([each.title for each in described], [missing / count] * count, display, bar)
        _executor(execution, job, count).run(described, listener)
    return listener


def _executor(execution: Execution, job: EmbeddingJob, count: int) -> Executor:
    folder = job.store.folder
    if execution.executor == "slurm":
        from prbench.running.cluster import slurm

        slurm.require(execution)
        return slurm.Slurm(execution, folder, [share_needs(job, count, execution)] * count)
    if execution.executor == "ray":
        from prbench.running.cluster import ray_cluster

        def needs(where: Execution) -> Sequence[Needs]:
            return [share_needs(job, count, where)] * count

        return ray_cluster.RayCluster(execution, needs, folder)
    return Processes(execution.workers)


def share_needs(job: EmbeddingJob, count: int, execution: Execution) -> Needs:
    """What encoding one of `count` shares takes: the weights and their room, and the time of two operations for each
    parameter and token, of which a text is taken to have one for four characters."""
    gpu = execution.device.startswith("cuda")
    weights = job.entry.size.weights_gb * 1e9
    characters = sum(map(len, job.data.responses)) + sum(
        len(message.content) for context in job.data.contexts for message in context
    )
    operations = 2 * weights / BYTES_PER_PARAMETER * characters / CHARACTERS_PER_TOKEN / count
    seconds = LEAST_SECONDS + SLOWNESS * operations / (GPU_RATE if gpu else CPU_RATE)
    # Weights pass through the machine's own memory on their way to a GPU.
    memory = ROOM * (BASE + weights + 4 * characters)
    return Needs(execution.job_threads, float(gpu), int(memory), seconds).in_place(execution)


def perform(description: EmbedDescription, watch: Watch) -> None:
    """Encode a described share and store it."""
    same = description.model_dump_json(include={"dataset", "encoder", "device", "token_budget"})
    if same not in _open:
        _open.clear()
        entry = registry.get("datasets", description.dataset)
        data = datasets.load(entry)
        _open[same] = open_job(data, description.encoder, entry.family, description.device, description.token_budget)
    shares_module.encode_share(_open[same], description.index, description.count, description.device, watch)


def opened_as(description: EmbedDescription) -> str:
    """Shares keep what they have open themselves."""
    return ""


def summary(listener: Shares | None) -> dict[str, int]:
    """How many shares came to nothing or wait, where there are any."""
    if listener is None:
        return {}
    found = {"shares_lost": listener.lost, "shares_handed_over": listener.handed_over}
    return {name: count for name, count in found.items() if count}
