"""What a job needs of a machine: an estimate that a cluster's scheduler is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from prbench.embedding.store import EmbeddingStore
from prbench.method import Method
from prbench.running.execution import Execution
from prbench.running.open_dataset import OpenDataset
from prbench.running.outline import SLOWEST, fit_seconds, is_measured

GIB = 2**30
# The interpreter with torch, and what a small fit adds to it.
BASE = 0.75 * GIB
# Copies of what is learned while it is trained: weights, gradient, two moments and the best so far.
COPIES = 5
# The rows of the two sides of a comparison and their difference, where a fit lays them out.
ROWS = 3
# Beside the estimate: room for what it does not count, and the least that is asked for, in bytes and seconds.
ROOM, LEAST_SECONDS = 1.25, 600.0
# An estimate of time is that of two idle cores; a limit must hold on a slow and busy machine.
SLOWNESS = 4.0
# Small fits share a GPU: up to so many bytes each, a job takes this share of it.
GPU_SHARES = ((4 * GIB, 0.25), (8 * GIB, 0.5))


class Needs(NamedTuple):
    """Cores, GPUs (a share of one below 1), bytes of memory, and the seconds after which a job is overdue."""

    cpus: int
    gpus: float
    memory: int
    seconds: float

    @staticmethod
    def largest(each: Sequence[Needs]) -> Needs:
        """What is enough for every one of them."""
        return Needs(*(max(values) for values in zip(*each, strict=True)))

    def in_place(self, execution: Execution) -> Needs:
        """These needs, where `--resources` says nothing else."""
        given = execution.resources
        return Needs(
            given.cpus or self.cpus,
            self.gpus if given.gpus is None else given.gpus,
            self.memory if given.memory is None else int(given.memory * GIB),
            self.seconds if given.minutes is None else given.minutes * 60,
        )


def fit_needs(method: Method, name: str, setting: OpenDataset, execution: Execution, fits: float = 1.0) -> Needs:
    """What fitting and scoring all splits of a data set takes, or a share or multiple (`fits`) of that in time.

    Time is that measured of the method, or of the one that it is a variant of, on two cores, in proportion to
    comparisons, splits and width; a method that was not measured counts as the slowest that was.
    """
    dim, splits = width_of(setting), max(1, len(setting.splits))
    rows = len(setting.data)
    learned = method.parameters_for(dim)
    numbers = 0 if learned is None else learned.total(setting.data.n_users)
    data = 4 * dim * (setting.data.n_items + ROWS * rows)
    memory = ROOM * (BASE + data + 4 * COPIES * numbers * splits)
    seconds = fit_seconds(name if is_measured(name) else SLOWEST, rows, dim, splits)
    gpus = 0.0
    if execution.device.startswith("cuda"):
        gpus = next((share for most, share in GPU_SHARES if memory <= most), 1.0)
    needs = Needs(execution.job_threads, gpus, int(memory), LEAST_SECONDS + SLOWNESS * seconds * fits)
    return needs.in_place(execution)


def width_of(setting: OpenDataset) -> int:
    """The width of a data set's embeddings, where it is known; 0 for texts that a judge model reads."""
    if setting.reader is not None:
        return 0
    if setting.data.embedded is not None:
        return setting.data.embedded.dim
    store = None if setting.store is None else EmbeddingStore.open_or_none(setting.store)
    if store is not None and store.manifest is not None:
        return store.manifest.dim
    size = getattr(setting.encoder, "size", None)
    return int(size.dim) if size is not None else 0
