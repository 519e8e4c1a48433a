"""Which program does which piece of work, where several write to one results folder.

    runs/.claims/<digest of the work's name>.json     who does it, rewritten every 30 seconds

A claim of this host is void when its process is gone. One of another host is void when its file has not changed for
ten minutes, as watched by this process's own clock: the clocks of two hosts are never compared. Where the last
program ends, the folder goes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prbench.base import locks as base_locks
from prbench.base.errors import InputError
from prbench.base.files import digest, write_json
from prbench.base.processes import Writer, host, is_gone, this_process
from prbench.base.reading import read_json
from prbench.results import locks

Work = TypeVar("Work")

BEAT = 30.0
SILENCE = 600.0
PAUSE = 0.2


class Held(NamedTuple):
    """A claim: the work's name, and the program that does it."""

    name: str
    writer: Writer


class Claims:
    """The claims of the programs that write to the results folder `runs`."""

    def __init__(self, runs: Path, lost: Iterable[tuple[str, int, str]] = ()) -> None:
        """`lost` are programs that whoever started them knows to be gone: host, number and start of the process."""
        self.folder = runs / locks.SHARED
        self._lost = {Writer(*each) for each in lost}
        # The latest content of each claim of another host, and when it was first read.
        self._watched: dict[Path, tuple[Any, float]] = {}

    @contextlib.contextmanager
    def alone(self, name: str = "claims") -> Iterator[None]:
        """Wait until no other program is inside `alone(name)` of this folder, and keep the others out."""
        with base_locks.alone(self.folder, name):
            yield

    def clear(self) -> None:
        """Remove what this and earlier programs left of their claims and locks, where nobody else holds any."""
        with contextlib.suppress(OSError, InputError):
            if self.folder.is_dir():
                with self.alone():
                    for path in self.folder.glob("*.json"):
                        if not self._is_held(path):
                            path.unlink(missing_ok=True)
        locks.clear(self.folder)

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Claim the work called `name` for the time inside; False where another living program has it."""
        path = self.folder / f"{digest(name)}.json"
        writer = this_process()
        with self.alone():
            mine = not self._is_held(path)
            if mine:
                write_json(path, {**writer._asdict(), "name": name, "beat": 0})
        if not mine:
            yield False
            return
        over = threading.Event()
        heart = threading.Thread(target=_beat, args=(path, writer, name, over), daemon=True)
        heart.start()
        try:
            yield True
        finally:
            over.set()
            heart.join()
            path.unlink(missing_ok=True)

    def each(
        self, work: Sequence[Work], *, name: Callable[[Work], str], is_open: Callable[[Work], bool]
    ) -> Generator[Work]:
        """Each piece of `work` that is still open once it is claimed, in order; it is held while it is being done.

        What other programs hold is passed over, and looked at again when the rest is done, until nothing is left. Who
        may stop before the end closes the generator, which gives the claim back.
        """
        waiting = list(work)
        while waiting:
            elsewhere = []
            for piece in waiting:
                with self.hold(name(piece)) as mine:
                    if not mine:
                        elsewhere.append(piece)
                    elif is_open(piece):
                        yield piece
            waiting = elsewhere
            if waiting:
                time.sleep(PAUSE)

    def held(self) -> list[Held]:
        """What programs hold now, or did when they were last heard of; nothing is written for this question."""
        claims = []
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(InputError, LookupError, TypeError, ValueError):
                claim = read_json(path)
                writer = Writer(str(claim["host"]), int(claim["pid"]), str(claim["start"]))
                if not is_gone(writer):
                    claims.append(Held(str(claim["name"]), writer))
        return claims

    def _is_held(self, path: Path) -> bool:
        """Whether a living program has a claim; called alone."""
        try:
            claim = read_json(path)
            writer = Writer(str(claim["host"]), int(claim["pid"]), str(claim["start"]))
        except (InputError, LookupError, TypeError, ValueError):
            # There is none, or something else than a claim.
            return False
        if writer in self._lost:
            return False
        if writer.host == host():
            return not is_gone(writer)
        content, since = self._watched.get(path, (None, 0.0))
        if content != claim:
            self._watched[path] = (claim, time.monotonic())
            return True
        return time.monotonic() - since < SILENCE


def _beat(path: Path, writer: Writer, name: str, over: threading.Event) -> None:
    """Rewrite a claim until it is over, so that other hosts see that its program lives."""
    count = 0
    while not over.wait(BEAT):
        count += 1
        # A full disk must not end the work; the claim is then lost after ten minutes at worst.
        with contextlib.suppress(InputError, OSError):
            write_json(path, {**writer._asdict(), "name": name, "beat": count})
