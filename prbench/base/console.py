"""Progress and messages on stderr; data goes to stdout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


WIDE = 160


def stderr() -> Console:
    """A console on stderr; what a terminal would obey is spelled out in every text that is printed on it."""
    from rich.console import Console

    from prbench.base.screen_text import visible

    class Messages(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **options)

    return Messages(stderr=True, highlight=False)


def stdout() -> Console:
    """A console on stdout, for tables that a person reads; into a pipe or file they are laid out wide."""
    import os

    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    return console


@contextmanager
def progress(unit: str = "") -> Iterator[Progress]:
    """A progress display with rate, elapsed time and time left, on stderr; it vanishes when done.

    `unit` is what is counted, such as "tokens".
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.1f} {unit}".rstrip() + "/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = stderr()
    # Into a file it could only leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        yield display
