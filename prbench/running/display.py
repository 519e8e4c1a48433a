"""One progress bar for the jobs of a run, a search or some probes, whoever does them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from prbench.base.console import stderr

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """The listener that shows jobs in one bar: their `names`, and what each of them counts in it (`sizes`).

    A subclass takes over what a job came to (`end`) and what is lost with it (`lose`). On a cluster either may come
    without a `begin`.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[float], display: Progress, bar: TaskID) -> None:
        self.names = names
        self.sizes = sizes
        self._display, self._bar = display, bar
        self._busy: dict[int, str] = {}

    def begin(self, job: int) -> None:
        """A job begins."""
        self._busy[job] = self.names[job]
        self._describe()

    def advance(self, job: int, share: float) -> None:
        """A further share of a job is done."""
        self._display.advance(self._bar, share * self.sizes[job])

    def tell(self, line: str) -> None:
        """A line for the user."""
        stderr().print(escape(line), soft_wrap=True)

    def end(self, job: int, outcome: Any) -> None:
        """A job is over."""
        self._busy.pop(job, None)
        self._describe()

    def lose(self, job: int, reason: str) -> None:
        """A job ended without an answer."""
        self.tell(f"{self.names[job]} failed: {reason}")
        self._busy.pop(job, None)
        self._describe()

    def hand_over(self, job: int, where: str) -> None:
        """A job is left to a scheduler."""
        self.tell(f"{self.names[job]} {where}")

    def _describe(self) -> None:
        self._display.update(self._bar, description=escape(", ".join(self._busy.values())))
