"""Every answer on disk the moment it is there, so that no call is made twice.

PRBENCH_HOME/answers/<judge model>-<8 hex digits of its identity>.sqlite
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, digest, home
from prbench.judging.backend import Answer, Request
from prbench.judging.prompts import VERSION

LENGTH = 32
WAIT = 60.0
AT_ONCE = 500


def store_of(name: str, identity: dict[str, Any]) -> Path:
    """The file of a judge model's answers."""
    return home() / "answers" / f"{name}-{digest(identity, length=8)}.sqlite"


class AnswerStore:
    """Answers by request, for one judge model; several threads and processes may use one file.

    `path` None keeps nothing on disk. Answers are written one by one, each in a transaction of its own: what was
    answered before a crash stays. A failure is not stored: it is tried again by the next run.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = identity
        self._lock = threading.Lock()
        self._memory: dict[str, Answer] = {}
        self._connection: sqlite3.Connection | None = None

    def key(self, request: Request) -> str:
        """What names an answer: the model, the prompt and how it was asked."""
        return digest({"model": self._identity, "prompts": VERSION, **request.content()}, length=LENGTH)

    def find(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are there, by key. Raises InputError for a damaged file."""
        wanted = list(dict.fromkeys(keys))
        found = {key: self._memory[key] for key in wanted if key in self._memory}
        left = [key for key in wanted if key not in found]
        if self.path is None or not left or not self.path.is_file():
            return found
        with self._errors(), self._lock:
            database = self._open()
            for start in range(0, len(left), AT_ONCE):
                part = left[start : start + AT_ONCE]
                marks = ",".join("?" * len(part))
                for key, text in database.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part):
                    found[key] = self._memory[key] = self._read(text)
        return found

    def add(self, key: str, answer: Answer) -> None:
        """Store an answer."""
        self._memory[key] = answer
        if self.path is None:
            return
        with self._errors(), self._lock:
            database = self._open()
            with database:
                database.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, canonical_json(asdict(answer)))
                )

    def _read(self, text: str) -> Answer:
        known = {f.name for f in fields(Answer)}
        try:
            values = json.loads(text)
            if values.get("logprobs") is not None:
                values["logprobs"] = tuple(float(v) for v in values["logprobs"])
            return Answer(**{name: value for name, value in values.items() if name in known})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            assert self.path is not None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=WAIT, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing; only a machine that loses power may lose the last answers.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            with self._connection:
                self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)")
        return self._connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror or error}", hint="set PRBENCH_HOME") from error
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError:
        return InputError(
            f"{self.path} cannot be used as a store of answers: {error}",
            hint="free space on the disk, or move the file away: its calls are then made again",
        )

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
