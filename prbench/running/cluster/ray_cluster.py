"""Jobs as tasks of a Ray cluster: data once for each node, lost workers replaced, results in the driver's folder."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import home, write_text
from prbench.base.reading import parse_json
from prbench.results import cells
from prbench.results.claims import Claims
from prbench.running import tuned
from prbench.running.cluster import ray_connection, ray_tasks, returned, submissions
from prbench.running.cluster.batch import failure
from prbench.running.cluster.parcel import Parcel, collected, registry_parcel
from prbench.running.cluster.ray_tasks import OUT, TUNED, Begun, Errand, Mailbox, Sent
from prbench.running.cluster.shipment import packed
from prbench.running.cluster.submissions import Note, SubmittedJob
from prbench.running.execution import Execution
from prbench.running.needs import GIB, Needs
from prbench.running.request import (
    AnyDescription,
    EmbedDescription,
    JobDescription,
    ProbesDescription,
    StudyDescription,
)
from prbench.running.worker import Ended, InputFault, Line, Share

if TYPE_CHECKING:
    from prbench.running.executors import Listener
    from prbench.running.open_dataset import InMemory, OpenDataset

# How often a job is begun again after its worker or node was lost, and what memory it then asks for.
TRIES, MORE_MEMORY = 4, 2
# Seconds before that, for every time that it was begun, where memory ran out: other programs may need less by then.
REST = 5.0
# Seconds between looks at messages, and those that tasks get to clear up after Ctrl-C.
PAUSE, GRACE = 0.3, 8.0
# Data that would take more than this share of a node's object store are opened by each worker.
STORE_SHARE = 0.8


@dataclass
class _Attempt:
    """A job in the hands of the cluster: its number, how often it was begun, and what it asks for."""

    number: int
    tries: int
    needs: Needs


class RayCluster:
    """Does jobs on a Ray cluster. One whose worker or node is lost is begun again; Ctrl-C cancels all."""

    def __init__(
        self,
        execution: Execution,
        needs: Callable[[Execution], Sequence[Needs]],
        folder: Path,
        settings: Sequence[OpenDataset] = (),
        memory: InMemory | None = None,
    ) -> None:
        """`settings` are the data sets of the jobs where these work on open ones, which `memory` embeds."""
        self._execution, self._needs, self._runs = execution, needs, folder
        self._settings, self._memory = settings, memory
        self._lost: set[tuple[str, int, str]] = set()
        self._writers: dict[int, tuple[str, int, str]] = {}
        self._over: set[int] = set()

    def run(self, jobs: Sequence[AnyDescription], listener: Listener) -> None:
        """As `Executor.run`; however this ends, no task is left."""
        if not jobs:
            return
        with ray_connection.connected(self._execution.address) as ray:
            self._ray, self._listener = ray, listener
            nodes = ray_connection.machines(ray)
            device = self._device(nodes)
            execution = self._execution.model_copy(update={"device": device})
            needs = [ray_connection.within(each, nodes) for each in self._needs(execution)]
            self._jobs = [
                job.on(device).model_copy(update={"threads": min(job.threads, need.cpus), "memory": need.memory})
                for job, need in zip(jobs, needs, strict=True)
            ]
            self._shipments = self._shipped(nodes)
            self._folder = submissions.new_folder(self._runs)
            try:
                self._run_all(needs)
            finally:
                self._leave()

    def _device(self, nodes: Sequence[ray_connection.Machine]) -> str:
        if self._execution.device != "auto":
            return self._execution.device
        return "cuda" if any(node.gpus for node in nodes) else "cpu"

    def _shipped(self, nodes: Sequence[ray_connection.Machine]) -> dict[int, Any]:
        """References to the open data sets, by the identity of the setting."""
        found: dict[int, Any] = {}
        most = STORE_SHARE * min(node.objects for node in nodes)
        for setting in {id(setting): setting for setting in self._settings}.values():
            found[id(setting)] = self._ship(setting, most)
            setting.forget()
        return found

    def _ship(self, setting: OpenDataset, most: float) -> Any:
        if setting.reader is not None or self._memory is None:
            return None
        shipment = packed(setting, self._memory.take(setting))
        if shipment.size > most:
            stderr().print(
                f"{setting.entry.name} has {shipment.size / GIB:.1f} GiB of embeddings, and a node's object store"
                f" {most / STORE_SHARE / GIB:.1f} GiB: each worker reads them from PRBENCH_HOME, which all must see;"
                " `ray start --object-store-memory BYTES` gives more",
                markup=False,
                soft_wrap=True,
            )
            return None
        return self._ray.put(shipment)

    def _run_all(self, needs: Sequence[Needs]) -> None:
        ray = self._ray
        self._token = (str(self._folder / "token"), secrets.token_hex(16))
        write_text(Path(self._token[0]), self._token[1])
        self._registries = tuple(registry_parcel(folder) for folder in self._jobs[0].registry)
        record = [SubmittedJob(title=job.title, work=job.work, log=f"{n}.log") for n, job in enumerate(self._jobs)]
        submissions.write(self._folder, "ray", record)
        self._task = ray.remote(max_retries=0)(ray_tasks.perform)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        actor = ray.remote(Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
        self._mailbox = actor.remote()
        self._pending: dict[Any, _Attempt] = {}
        self._resting: list[tuple[float, _Attempt]] = []
        for number, each in enumerate(needs):
            self._begin(_Attempt(number, 1, each))
        while self._pending or self._resting:
            now = time.monotonic()
            for attempt in [attempt for since, attempt in self._resting if since <= now]:
                self._begin(attempt)
            self._resting = [(since, attempt) for since, attempt in self._resting if since > now]
            if not self._pending:
                time.sleep(PAUSE)
                continue
            ready, _ = ray.wait(list(self._pending), timeout=PAUSE)
            self._hear()
            for reference in ready:
                self._end(reference, self._pending.pop(reference))

    def _begin(self, attempt: _Attempt) -> None:
        job, needs = self._jobs[attempt.number], attempt.needs
        job = job.model_copy(update={"lost": tuple(sorted(self._lost))})
        errand = Errand(
            number=attempt.number,
            description=job.model_dump_json(),
            folder=str(Path.cwd()),
            home=str(home().absolute()),
            token=self._token,
            registries=self._registries,
        )
        seeds = _seeds(job)
        shipment = self._shipments[id(self._settings[attempt.number])] if self._settings else None
        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory, "name": job.title}
        reference = self._task.options(**options).remote(errand, seeds, shipment, _Tell(self._mailbox, errand.number))
        self._pending[reference] = attempt

    def _hear(self) -> None:
        """Pass the workers' messages on."""
        ray = self._ray
        try:
            messages = ray.get(self._mailbox.take.remote(), timeout=GRACE)
        except (ray.exceptions.RayError, TimeoutError):
            # Messages are for the display alone: where the machine that kept them is lost, another one goes on.
            return
        for number, message in messages:
            # A worker's messages and its answer travel apart: of a job that is over they may come late.
            if isinstance(message, Begun) and number not in self._over:
                self._writers[number] = message.writer
                submissions.write_note(self._folder, number, Note(state="running", writer=message.writer))
                self._listener.begin(number)
            elif isinstance(message, Share):
                self._listener.advance(number, message.share)
            elif isinstance(message, Line):
                self._note(number, message.text)

    def _note(self, number: int, text: str) -> None:
        """Keep what a job says in its log, and tell the user; of a traceback only the log has the lines."""
        with (self._folder / f"{number}.log").open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")
        if "\n" not in text.strip():
            self._listener.tell(text)

    def _end(self, reference: Any, attempt: _Attempt) -> None:
        errors, number = self._ray.exceptions, attempt.number
        try:
            sent: Sent = self._ray.get(reference)
        except errors.OutOfMemoryError:
            self._again(attempt, "its machine ran out of memory", more_memory=True)
        except errors.WorkerCrashedError:
            # The system ends processes where memory runs out, and does not say so.
            self._again(attempt, "its worker process was lost, as happens where memory runs out", more_memory=True)
        except errors.RayTaskError as error:
            said = " ".join(str(error.cause or error).split())[:300]
            self._lose(number, f"its worker could not begin: {said}")
        except errors.RayError as error:
            self._again(attempt, _in_words(error))
        else:
            # What it said before it ended comes first.
            self._hear()
            if isinstance(sent.ended, InputFault):
                raise InputError(sent.ended.message, hint=sent.ended.hint)
            if sent.files is not None:
                _take(self._jobs[number], sent.files)
            self._finish(number, sent.ended)

    def _finish(self, number: int, ended: Ended) -> None:
        self._over.add(number)
        if ended.error:
            self._lose(number, ended.error)
            return
        failed = failure(ended.outcome)
        submissions.write_note(self._folder, number, Note(state="done", reason=failed))
        self._listener.end(number, ended.outcome)

    def _lose(self, number: int, reason: str) -> None:
        self._over.add(number)
        submissions.write_note(self._folder, number, Note(state="failed", reason=reason))
        self._listener.lose(number, reason)

    def _again(self, attempt: _Attempt, why: str, *, more_memory: bool = False) -> None:
        """Begin a job again on what is left of the cluster; its claim and those of all lost workers are void."""
        number, needs = attempt.number, attempt.needs
        if number in self._writers:
            self._lost.add(self._writers.pop(number))
        if attempt.tries >= TRIES:
            self._lose(number, f"{why}; it was begun {attempt.tries} times")
            return
        if more_memory:
            needs = needs._replace(memory=MORE_MEMORY * needs.memory)
        needs = ray_connection.within(needs, ray_connection.machines(self._ray))
        asks = f" with {needs.memory / GIB:.1f} GiB" if more_memory else ""
        self._note(number, f"{self._jobs[number].title}: {why}; it is begun again{asks}")
        submissions.write_note(self._folder, number, Note(state="queued", reason=why))
        rest = REST * attempt.tries if more_memory else 0.0
        self._resting.append((time.monotonic() + rest, _Attempt(number, attempt.tries + 1, needs)))

    def _leave(self) -> None:
        """Cancel what is pending, with force where it takes its time; void the claims of what was ended so."""
        ray, pending = self._ray, list(getattr(self, "_pending", {}))
        with contextlib.suppress(Exception):
            for reference in pending:
                ray.cancel(reference, force=False)
            if pending:
                _, late = ray.wait(pending, num_returns=len(pending), timeout=GRACE)
                for reference in late:
                    ray.cancel(reference, force=True)
        Claims(self._runs, [*self._lost, *self._writers.values()]).clear()


@dataclass(frozen=True)
class _Tell:
    """Sends a worker's messages to the mailbox; travels with the task."""

    mailbox: Any
    number: int

    def __call__(self, message: ray_tasks.Message) -> None:
        """Send one, and do not wait for it."""
        self.mailbox.put.remote(self.number, message)


def _in_words(error: Exception) -> str:
    name = type(error).__name__
    return "its machine was lost" if name == "NodeDiedError" else f"the cluster lost it ({name})"


def _seeds(job: AnyDescription) -> Parcel | None:
    """The files that a job goes on from, for a worker that does not see them; none for one that begins."""
    if isinstance(job, ProbesDescription | EmbedDescription):
        return None
    out, files = job.request.out, {}
    if isinstance(job, JobDescription):
        dataset, encoder, method = parse_json(job.work)[:3]
        row = cells.row_folder(out, dataset, encoder, method)
        if row.is_dir():
            files = {f"{OUT}/{place}": content for place, content in collected(out, [row]).items()}
        if job.request.selection == "tuned":
            place = tuned.record_file(job.request.tuned, dataset, encoder, job.request.methods[0])
            if place.is_file():
                found = collected(job.request.tuned, [place])
                files |= {f"{TUNED}/{name}": content for name, content in found.items()}
    else:
        place = _record(job)
        if place.is_file():
            files = {f"{OUT}/{name}": content for name, content in collected(out, [place]).items()}
    return Parcel.of(files) if files else None


def _record(job: StudyDescription) -> Path:
    """Where the record of a search belongs."""
    _, dataset, encoder, method = parse_json(job.work)[:4]
    return tuned.record_file(job.request.out, dataset, encoder, method)


def _take(job: AnyDescription, files: Parcel) -> None:
    """Put what a worker sent where it belongs."""
    if isinstance(job, StudyDescription):
        returned.take_record(files, _record(job))
    elif isinstance(job, JobDescription):
        returned.take_cells(files, job.request.out)
