"""Where jobs are done: in this process, in several of this machine, or on a cluster.

A job of a run is one method on one data set and encoder, with all its splits; one of tuning is the search for a
method on a data set, and one of probing has the probes of a row on a data set. Every executor gets the same plain
descriptions; texts are embedded before any of them is handed out.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prbench.base.errors import InputError
from prbench.method import Watch
from prbench.running.execution import Execution
from prbench.running.request import AnyDescription
from prbench.running.worker import Ended, InputFault, Line, Share, serve

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from prbench.running.needs import Needs
    from prbench.running.open_dataset import InMemory, OpenDataset

# How long a worker that is told to end may clear up, in seconds.
GRACE = 5.0


class Listener(Protocol):
    """Hears of the work: by the number of the job, in the order of the descriptions."""

    def begin(self, job: int) -> None:
        """A job begins."""

    def advance(self, job: int, share: float) -> None:
        """A further share of a job is done."""

    def tell(self, line: str) -> None:
        """A line for the user."""

    def end(self, job: int, outcome: Any) -> None:
        """A job is over, and came to this."""

    def lose(self, job: int, reason: str) -> None:
        """A job ended without an answer."""

    def hand_over(self, job: int, where: str) -> None:
        """A job is left to a scheduler, which does it when this program has ended."""


class Executor(Protocol):
    """Does jobs that are described by plain data."""

    def run(self, jobs: Sequence[AnyDescription], listener: Listener) -> None:
        """Do every job; one that fails costs only itself. Raises InputError where going on makes no sense."""


class Local:
    """This process, one job after the other, on the data sets that are open already.

    `work` gives the number of each job as its turn comes, and what does it: a call that is given a `Watch` and
    returns what the job came to.
    """

    def __init__(self, work: Generator[tuple[int, Callable[[Watch], Any]]]) -> None:
        self._work = work

    def run(self, jobs: Sequence[AnyDescription], listener: Listener) -> None:
        """As `Executor.run`; the descriptions are those of the work."""
        # However this ends, what the work claims is given back.
        with closing(self._work) as work:
            for number, do in work:
                listener.begin(number)

                def watch(share: float, number: int = number) -> None:
                    listener.advance(number, share)

                listener.end(number, do(watch))


@dataclass(frozen=True)
class Work:
    """What an executor is told of the jobs that it will be given, beside their descriptions.

    `settings` are the data sets of the jobs, and `needs` what each job needs, both in the order of the jobs; `folder`
    is where they write.
    """

    settings: Sequence[OpenDataset]
    needs: Callable[[Execution], Sequence[Needs]]
    folder: Path


def executor_for(execution: Execution, local: Local, work: Work, memory: InMemory) -> Executor:
    """What does jobs as `execution` says: `local` where that is one process.

    Texts are embedded first, but for Slurm, where jobs of their own do that. Raises InputError where they are not,
    and where what a cluster needs is not here.
    """
    if execution.executor == "slurm":
        from prbench.running.cluster import slurm

        slurm.require(execution)
        require_embedded(work.settings)
        return slurm.Slurm(execution, work.folder, work.needs(execution))
    if execution.executor == "ray":
        from prbench.running.cluster import ray_cluster, ray_connection

        ray_connection.imported()
        return ray_cluster.RayCluster(execution, work.needs, work.folder, work.settings, memory)
    if execution.workers == 1:
        return local
    for setting in {id(setting): setting for setting in work.settings}.values():
        memory.take(setting)
        setting.forget()
    return Processes(execution.workers)


def require_embedded(settings: Iterable[OpenDataset]) -> None:
    """Raise InputError, naming the command that embeds them, where texts of data sets have no embeddings."""
    for setting in {id(setting): setting for setting in settings}.values():
        if missing := setting.texts_to_embed():
            raise InputError(
                f"{missing:,} texts of {setting.entry.name} have no embeddings by {setting.encoder.name} yet",
                hint=f"first `prbench embed --dataset {setting.entry.name} --encoder {setting.encoder.name}"
                " --executor slurm`",
            )


class Processes:
    """Up to `count` processes of this machine. One that dies costs the job it had."""

    def __init__(self, count: int) -> None:
        self._count = count

    def run(self, jobs: Sequence[AnyDescription], listener: Listener) -> None:
        """As `Executor.run`. However this ends, no process is left."""
        waiting = deque(enumerate(jobs))
        # By their connection, which is of another class on Windows.
        workers: dict[Any, _Worker] = {}
        try:
            for _ in range(min(self._count, len(jobs))):
                worker = _Worker()
                workers[worker.connection] = worker
                worker.give(*waiting.popleft(), listener)
            while workers:
                for ready in wait(list(workers)):
                    worker = workers[ready]
                    try:
                        idle = worker.hear(listener)
                    except (EOFError, OSError):
                        listener.lose(worker.job, worker.death())
                        del workers[ready]
                        if not waiting:
                            continue
                        worker, idle = _Worker(), True
                        workers[worker.connection] = worker
                    if idle and waiting:
                        worker.give(*waiting.popleft(), listener)
                    elif idle:
                        worker.end()
                        del workers[ready]
        finally:
            for worker in workers.values():
                worker.process.terminate()
            for worker in workers.values():
                worker.end()


class _Worker:
    """A process and the job that it has."""

    def __init__(self) -> None:
        # A fresh interpreter: a copy of this one would share its locks and its threads.
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process: SpawnProcess = context.Process(target=serve, args=(there,), daemon=True)
        self.process.start()
        # Only the worker holds its end now, so that its death is heard of here.
        there.close()
        self.job = -1

    def give(self, number: int, description: AnyDescription, listener: Listener) -> None:
        self.job = number
        listener.begin(number)
        try:
            self.connection.send(description.model_dump_json())
        except OSError:
            # It is dead: `hear` finds the end of its messages.
            return

    def hear(self, listener: Listener) -> bool:
        """Take a message, and return whether the worker has nothing to do now. Raises EOFError where it is dead."""
        message = self.connection.recv()
        if isinstance(message, Share):
            listener.advance(self.job, message.share)
        elif isinstance(message, Line):
            listener.tell(message.text)
        elif isinstance(message, InputFault):
            raise InputError(message.message, hint=message.hint)
        else:
            assert isinstance(message, Ended)
            if message.error:
                listener.lose(self.job, message.error)
            else:
                listener.end(self.job, message.outcome)
            return True
        return False

    def death(self) -> str:
        """Why the process is no more."""
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = "; the system does this where memory runs out" if name == "SIGKILL" else ""
            return f"its worker process was ended by {name}{memory}"
        return f"its worker process ended with exit code {code}"

    def end(self) -> None:
        """End the process, with force where it takes its time, and wait for it."""
        self.connection.close()
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
