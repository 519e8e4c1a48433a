"""Two and four programs at once on one folder: each piece of work is done once, and all of them end well.

PYTHONPATH=tests:tests/faults python tests/faults/side_by_side.py 40
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import campaign
import programs
from stories import Story, left, stories, undisturbed

from prbench.embedding.store import EmbeddingStore
from prbench.results import cells
from prbench.running import study

NUMBERS = (2, 4)
LOG = "work.log"
TOLD = "there is a data set 'mine' already"
"""What all but one of several imports are told."""


def side_by_side(folder: Path, count: int, seed: int = 0, every: Sequence[Story] = ()) -> campaign.Figures:
    """Start `count` groups of programs, the stories (all, where none are given) in turn."""
    figures = campaign.Figures("side by side")
    folder.mkdir(parents=True, exist_ok=True)
    every = every or stories(folder / "bases")
    for number in range(count):
        story = every[number % len(every)]
        expected = undisturbed(story, folder / "whole").made
        _one(story, folder / "try", NUMBERS[(number // len(every) + seed) % 2], expected, figures)
    return figures


def _one(story: Story, folder: Path, several: int, expected: dict[str, str], figures: campaign.Figures) -> None:
    what = f"{several} programs, {story.name}"
    words = story.start(folder)
    log = folder / LOG
    log.touch()
    group = [programs.Program(words, folder, before=_counting(log), name=f"program-{i}") for i in range(several)]
    ends = [program.end() for program in group]
    for end in ends:
        refused = story.name == "import" and end.code == 2 and TOLD in end.err
        if end.traceback or (end.code and not refused):
            figures.fault("traceback" if end.traceback else "another exit code", f"{what}: {end}")
    if story.name == "import" and sum(end.code == 0 for end in ends) != 1:
        figures.fault("another exit code", f"{what}: {[end.code for end in ends]}")
    figures.compare(what, story.made(folder), expected, before={})
    work = Counter(log.read_text().splitlines())
    figures.twice(what, [f"{piece}, {times} times" for piece, times in work.items() if times > 1])
    if remains := left(folder):
        figures.fault("left behind", f"{what}: {remains}")
    shutil.rmtree(folder)
    figures.tried += several


def _counting(log: Path) -> Callable[[], None]:
    """What lets a program write a line for each cell, trial, probe and embedding that it makes."""

    def say(piece: str) -> None:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.write(handle, f"{piece}\n".encode())
        os.close(handle)

    def wrapped(do: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            say(name(*given))
            return do(*given, **named)

        return call

    def install() -> None:
        cells.write_done = wrapped(
            cells.write_done, lambda _, record, *__: f"{record.dataset} {record.method} {record.split}"
        )
        cells.add_scores = wrapped(cells.add_scores, lambda path, *_: str(path))
        study._trial = wrapped(study._trial, lambda s, *_: f"{s.name} trial {len(s.record.trials)}")
        EmbeddingStore.append = wrapped(  # type: ignore[method-assign]
            EmbeddingStore.append, lambda _, keys, *__: "\n".join(key.hex() for key in keys)
        )

    return install


if __name__ == "__main__":
    campaign.main(side_by_side)
