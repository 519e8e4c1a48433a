"""A process that does one described job after the other for another process."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from prbench.base.errors import InputError
from prbench.running.cluster.dispatch import do
from prbench.running.request import AnyDescription

if TYPE_CHECKING:
    from prbench.running.open_dataset import OpenDataset


class Share(NamedTuple):
    """A further share of the job is done."""

    share: float


class Line(NamedTuple):
    """A line that is for the user."""

    text: str


class InputFault(NamedTuple):
    """Something the user gave is wrong."""

    message: str
    hint: str | None


class Ended(NamedTuple):
    """The job is over: what it came to, or in one line why it came to nothing."""

    outcome: Any
    error: str = ""


def serve(connection: Connection) -> None:
    """Do the jobs that come in until the other side closes the connection."""
    # Ctrl-C reaches every process of a terminal: the one that gives out jobs ends this one, and waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # So that a temporary folder is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outbox = _Outbox(connection)
    sys.stderr = TextLines(lambda line: outbox.send(Line(line)))
    opened: dict[str, list[OpenDataset]] = {}
    descriptions: TypeAdapter[AnyDescription] = TypeAdapter(AnyDescription)
    while True:
        try:
            text = connection.recv()
        except (EOFError, OSError):
            return
        try:
            _do(descriptions.validate_json(text), outbox, opened)
        except InputError as error:
            outbox.send(InputFault(str(error.args[0]), error.hint))
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            outbox.send(Ended(None, message))


def _do(description: AnyDescription, outbox: _Outbox, opened: dict[str, list[OpenDataset]]) -> None:
    """Do a job. `opened` keeps the data set of the last one, for the next."""

    def watch(share: float) -> None:
        outbox.send(Share(share))

    outbox.send(Ended(do(description, watch, opened)))


def _end_with_parent() -> None:
    """End this process when the one that gives out jobs is gone, in the middle of whatever it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Outbox:
    """Sends messages, one at a time: lines may come from other threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Share | Line | InputFault | Ended) -> None:
        with self._lock:
            self._connection.send(message)


class TextLines(io.TextIOBase):
    """Sends whole lines to the process that has the terminal, where they do not break its display."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._rest = ""

    def writable(self) -> bool:
        """As a stream of text."""
        return True

    def write(self, text: str) -> int:
        """As a stream of text; the start of a line is kept until the line is whole."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._send(line)
        return len(text)
