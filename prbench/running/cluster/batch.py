"""A described job as a program of its own, started by a scheduler: it says beside its log how it stands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.processes import this_process
from prbench.running.cluster.submissions import Note, write_note

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


class Task:
    """Job `number` of a submission: called where it is to be done, with a description as JSON.

    Schedulers write their call down as a pickle, so it holds texts alone.
    """

    def __init__(self, folder: str, number: int, description: str, started_in: str, home: str) -> None:
        self.folder, self.number, self.description = folder, number, description
        self.started_in, self.home = started_in, home

    def __call__(self) -> None:
        """Do the job. What goes wrong is said on stderr, which is its log, and in its note."""
        os.chdir(self.started_in)
        os.environ["PRBENCH_HOME"] = self.home
        place = Path(self.folder)
        write_note(place, self.number, Note(state="running", writer=this_process()))
        note = noted(self._do)
        write_note(place, self.number, note)
        if note.reason:
            print(f"prbench: {note.reason}", file=sys.stderr, flush=True)  # noqa: T201 - this is its log

    def _do(self) -> str:
        from pydantic import TypeAdapter

        from prbench.running.cluster.dispatch import do
        from prbench.running.request import AnyDescription

        adapter: TypeAdapter[AnyDescription] = TypeAdapter(AnyDescription)
        return failure(do(adapter.validate_json(self.description), lambda share: None, {}))

    def checkpoint(self) -> DelayedSubmission:
        """What is to be started in place of this where the scheduler takes its machine away: the same again."""
        from submitit.helpers import DelayedSubmission

        write_note(Path(self.folder), self.number, Note(state="queued"))
        return DelayedSubmission(self)


def noted(do: Callable[[], str]) -> Note:
    """What a job's note says after `do`, which returns what failed in it."""
    from prbench.base.errors import InputError

    try:
        return Note(state="done", reason=do())
    except InputError as error:
        said = f"{error.args[0]}" + (f" ({error.hint})" if error.hint else "")
        return Note(state="failed", reason=said)
    except Exception as error:
        import traceback

        traceback.print_exc()
        return Note(state="failed", reason=" ".join(f"{type(error).__name__}: {error}".split()))


def failure(outcome: Any) -> str:
    """What of a job's outcome failed, in a few words; "" where nothing did."""
    from prbench.results.record import CellState
    from prbench.running.job import CellEnd
    from prbench.running.probe import Untold

    if isinstance(outcome, Untold):
        return f"{outcome.failed} probes failed" if outcome.failed else ""
    ends = [end for end in outcome or () if isinstance(end, CellEnd)]
    failed = [end for end in ends if end.state == CellState.failed]
    return f"{len(failed)} of {len(ends)} cells failed: {failed[0].reason}" if failed else ""
