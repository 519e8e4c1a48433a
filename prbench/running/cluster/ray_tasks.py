"""What a worker of a Ray cluster does: a described job, told of while it goes on, with results on the way home."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import prbench
from prbench.base import provenance
from prbench.base.errors import InputError
from prbench.base.files import home
from prbench.base.processes import this_process
from prbench.base.reading import read_bytes
from prbench.running.cluster.parcel import Parcel, collected, unpacked_registry
from prbench.running.cluster.shipment import Shipment, unpacked
from prbench.running.request import AnyDescription, JobDescription, StudyDescription
from prbench.running.worker import Ended, InputFault, Line, Share, TextLines

if TYPE_CHECKING:
    from prbench.running.open_dataset import OpenDataset

# Seconds between two messages about shares of one job: a display needs no more.
SAID_EVERY = 0.5
OUT, TUNED = "out", "tuned"

_opened: dict[str, list[OpenDataset]] = {}
"""What the last job of this worker was done on, for the next."""


class Begun(NamedTuple):
    """A worker has begun a job: the process that it is, as claims name it, and its machine."""

    writer: tuple[str, int, str]
    machine: str


Message = Begun | Share | Line


class Sent(NamedTuple):
    """What a job came to, and the files that the driver is to take where the worker has no disk in common with it."""

    ended: Ended | InputFault
    files: Parcel | None = None


class Mailbox:
    """Keeps the messages of all workers until the driver takes them; an actor of the cluster."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []

    def put(self, number: int, message: Message) -> None:
        """Keep a message of job `number`."""
        self._messages.append((number, message))

    def take(self) -> list[tuple[int, Message]]:
        """All messages since the last call."""
        found, self._messages = self._messages, []
        return found


@dataclass(frozen=True)
class Errand:
    """Where a job was planned: what its worker needs to find the same there, or to see that it cannot.

    `token` is the path of a file and what is in it: a worker that reads the same has that disk too. `registries` are
    the files of the description's folders of entries, in its order.
    """

    number: int
    description: str
    folder: str
    home: str
    token: tuple[str, str]
    software: tuple[str, str] = field(default_factory=lambda: software())
    registries: tuple[Parcel, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether this machine sees the folder of the results."""
        try:
            return read_bytes(Path(self.token[0])) == self.token[1].encode()
        except InputError:
            return False


def software() -> tuple[str, str]:
    """The version of prbench, and its commit where it runs from a checkout."""
    return prbench.__version__, provenance.commit()


def perform(errand: Errand, files: Parcel | None, shipment: Shipment | None, tell: Callable[[Message], None]) -> Sent:
    """Do a job here; nothing is raised but what ends the process.

    `files` are what the job goes on from, for a worker that does not see the folder of the results. `shipment` is the
    open data set; None for one that the worker opens itself.
    """
    from pydantic import TypeAdapter

    adapter: TypeAdapter[AnyDescription] = TypeAdapter(AnyDescription)
    tell(Begun(this_process(), os.uname().nodename if hasattr(os, "uname") else ""))
    # Ray puts the folder of the driver on the path, where a folder `datasets` is no package.
    sys.path[:] = [place for place in sys.path if place not in ("", errand.folder)]
    try:
        with _lines(tell), _place(errand, adapter.validate_json(errand.description), files) as (description, tree):
            _require_same(errand)
            description = _with_registries(description, errand)
            before = _digests(tree)
            outcome = _do(description, shipment, tell)
            return Sent(Ended(outcome), _changed(tree, before))
    except InputError as error:
        return Sent(InputFault(str(error.args[0]), error.hint))
    except Exception as error:
        tell(Line(traceback.format_exc()))
        return Sent(Ended(None, " ".join(f"{type(error).__name__}: {error}".split())))


def _do(description: AnyDescription, shipment: Shipment | None, tell: Callable[[Message], None]) -> Any:
    from prbench.running.cluster.dispatch import do, enter, opened_as

    enter(description)
    said, waiting = time.monotonic(), 0.0

    def watch(share: float) -> None:
        nonlocal said, waiting
        waiting += share
        if time.monotonic() - said > SAID_EVERY:
            tell(Share(waiting))
            said, waiting = time.monotonic(), 0.0

    if shipment is not None and (name := opened_as(description)) not in _opened:
        _opened.clear()
        _opened[name] = [unpacked(shipment, description.computes_on)]
    outcome = do(description, watch, _opened)
    tell(Share(waiting))
    return outcome


def _require_same(errand: Errand) -> None:
    here, there = software(), errand.software
    if here != there:
        said = [f"{version}{f' of commit {commit[:12]}' if commit else ''}" for version, commit in (here, there)]
        raise InputError(
            f"a worker has prbench {said[0]}, this command is of prbench {said[1]}",
            hint="install the same prbench on every machine of the cluster",
        )


def _with_registries(description: AnyDescription, errand: Errand) -> AnyDescription:
    """The description with folders of entries that are here: those of the driver where this machine sees them."""
    if errand.shared:
        return description
    folders = tuple(unpacked_registry(parcel, home()) for parcel in errand.registries)
    return description.model_copy(update={"registry": folders})


@contextlib.contextmanager
def _place(
    errand: Errand, description: AnyDescription, files: Parcel | None
) -> Iterator[tuple[AnyDescription, Path | None]]:
    """Where a job reads and writes: the driver's folders, or a temporary one with the files that it goes on from."""
    if errand.shared:
        os.chdir(errand.folder)
        if Path(errand.home).is_dir():
            os.environ["PRBENCH_HOME"] = errand.home
        yield description, None
        return
    with tempfile.TemporaryDirectory(prefix="prbench-") as name:
        tree = Path(name)
        if files is not None:
            files.unpack(tree)
        if not isinstance(description, JobDescription | StudyDescription):
            raise InputError(
                "a worker does not see the folder that this command works on, and probes and embedding need it",
                hint="put --runs, and PRBENCH_HOME for embeddings, on a disk that every machine of the cluster sees",
            )
        if isinstance(description, JobDescription):
            update = {"out": tree / OUT, "tuned": tree / TUNED}
            request: Any = description.request.model_copy(update=update)
        else:
            request = description.request.model_copy(update={"out": tree / OUT})
        yield description.model_copy(update={"request": request}), tree


def _digests(tree: Path | None) -> dict[str, int]:
    """What tells whether a file below `tree` has been written since."""
    if tree is None:
        return {}
    return {place: hash(content) for place, content in collected(tree, [tree / OUT]).items()}


def _changed(tree: Path | None, before: dict[str, int]) -> Parcel | None:
    """The files below `out` that are new or other than before, and those that lie in the same cell as such a file."""
    if tree is None:
        return None
    files = collected(tree, [tree / OUT])
    folders = {place.rpartition("/")[0] for place, content in files.items() if before.get(place) != hash(content)}
    found = {place: content for place, content in files.items() if place.rpartition("/")[0] in folders}
    return Parcel.of({place.removeprefix(f"{OUT}/"): content for place, content in found.items()})


@contextlib.contextmanager
def _lines(tell: Callable[[Message], None]) -> Iterator[None]:
    """While a job is done, what it says on stderr goes to the driver."""
    before = sys.stderr
    sys.stderr = TextLines(lambda line: tell(Line(line)))
    try:
        yield
    finally:
        sys.stderr = before
