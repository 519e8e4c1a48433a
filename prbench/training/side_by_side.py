"""The splits that a method trains, and threads that train some of them each, side by side.

Every operation of such a thread is made by it alone. Which splits it has changes no bit of any of them
(`training.steady`), so that neither the number of threads nor that of splits does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.method import Watch
from prbench.training.compute import beside

if TYPE_CHECKING:
    from torch import Tensor


class Snapshot(NamedTuple):
    """The parameters of one split after `unit` epochs (or steps) of training."""

    split: int
    unit: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SplitBatch:
    """Splits to train together.

    Split i trains on `trains[i]` and draws from `rngs[i]`. `wanted[i]` are the epochs (or steps) after which it
    yields a snapshot; its training ends with the largest. `watch` is told the share of the longest split's work as it
    gets done.
    """

    trains: Sequence[Comparisons]
    rngs: Sequence[Rng]
    wanted: Sequence[Collection[int]]
    device: str = "cpu"
    watch: Watch | None = None

    def tell(self, share: float) -> None:
        """Report progress."""
        if self.watch:
            self.watch(share)

    def take(self, block: Sequence[int]) -> SplitBatch:
        """Some of the splits, whose progress is their share of the whole."""
        share, watch = len(block) / len(self.trains), self.watch
        return SplitBatch(
            [self.trains[i] for i in block],
            [self.rngs[i] for i in block],
            [self.wanted[i] for i in block],
            self.device,
            None if watch is None else lambda done: watch(share * done),
        )


class _StoppedError(Exception):
    """The training that a thread belongs to has ended."""


Train = Callable[[SplitBatch], Iterator[Snapshot]]


def side_by_side(train: Train, work: SplitBatch, queues: Sequence[Sequence[Sequence[int]]]) -> Iterator[Snapshot]:
    """The snapshots of `train` on blocks of splits: each of `queues` has the blocks that one thread does in turn.

    `work.watch` is called by the caller's thread. Whatever a thread raises is raised here; the others end with their
    update then, and also when the caller stops early.
    """
    if len(queues) == 1:
        yield from _in_this_thread(train, work, queues[0])
    else:
        yield from _in_threads(train, work, queues)


def _trained(train: Train, work: SplitBatch, blocks: Sequence[Sequence[int]]) -> Iterator[Snapshot]:
    """The snapshots of blocks, one after another, under the splits' positions in `work`."""
    for block in blocks:
        for split, unit, tensors in train(work.take(block)):
            yield Snapshot(block[split], unit, tensors)


def _in_this_thread(train: Train, work: SplitBatch, blocks: Sequence[Sequence[int]]) -> Iterator[Snapshot]:
    """Each operation of the training is made by the caller's thread alone."""
    before = torch.get_num_threads()
    snapshots = _trained(train, work, blocks)
    while True:
        # What the caller does with a snapshot takes as many threads as where there are several queues.
        torch.set_num_threads(1)
        try:
            snapshot = next(snapshots, None)
        finally:
            torch.set_num_threads(before)
        if snapshot is None:
            return
        yield snapshot


def _in_threads(train: Train, work: SplitBatch, queues: Sequence[Sequence[Sequence[int]]]) -> Iterator[Snapshot]:
    """A thread for each queue; snapshots, progress and errors reach the caller's thread, None ends a thread's."""
    news: SimpleQueue[Snapshot | float | Exception | None] = SimpleQueue()
    stop = threading.Event()

    def hear(share: float) -> None:
        if stop.is_set():
            raise _StoppedError
        news.put(share)

    def run(blocks: Sequence[Sequence[int]]) -> None:
        torch.set_num_threads(1)
        try:
            for snapshot in _trained(train, replace(work, watch=hear), blocks):
                news.put(snapshot)
        except _StoppedError:
            pass
        except Exception as error:
            news.put(error)
        finally:
            news.put(None)

    before = torch.get_num_threads()
    threads = [threading.Thread(target=run, args=(blocks,)) for blocks in queues]
    with beside(len(threads)):
        try:
            for thread in threads:
                thread.start()
            running = len(threads)
            while running:
                item = news.get()
                if item is None:
                    running -= 1
                elif isinstance(item, Exception):
                    raise item
                elif isinstance(item, Snapshot):
                    yield item
                else:
                    work.tell(item)
        finally:
            stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            # Threads that start later take the number that was set last, by whichever thread.
            torch.set_num_threads(before)
