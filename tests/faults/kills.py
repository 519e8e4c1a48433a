"""Commands stopped at random moments, by kill -9, SIGTERM or Ctrl-C, and run again.

    PYTHONPATH=tests python tests/faults/kills.py 200

Nothing that was finished before may be lost, done again or different, and nothing else may be left.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import campaign
import programs
from stories import Story, Whole, left, stories, undisturbed

from prbench.results import digests

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
INTERRUPTED = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 143}, signal.SIGINT: {-2, 130}}


def kills(folder: Path, count: int, seed: int = 0, every: Sequence[Story] = ()) -> campaign.Figures:
    """Stop `count` commands, the stories (all, where none are given) in turn."""
    draw, figures = random.Random(seed), campaign.Figures("kills")
    folder.mkdir(parents=True, exist_ok=True)
    every = every or stories(folder / "bases")
    landed: Counter[str] = Counter()
    for number in range(count):
        story = every[number % len(every)]
        whole = undisturbed(story, folder / "whole")
        number_of_signal = draw.choice(SIGNALS)
        landed[story.name] += _one(story, folder / "try", number_of_signal, draw.random(), whole, figures)
    figures.note(f"landed: {', '.join(f'{name} {n}' for name, n in landed.items())}")
    return figures


def _one(
    story: Story,
    folder: Path,
    stop: int,
    share: float,
    whole: Whole,
    figures: campaign.Figures,
) -> bool:
    """Stop a story after a `share` of its time and run it again; whether the signal found it running."""
    expected, seconds = whole
    what = f"{story.name}, {signal.Signals(stop).name} at {share * seconds:.2f} s"
    words = story.start(folder)
    program = programs.Program(words, folder)
    time.sleep(share * seconds)
    landed = program.runs()
    program.send(stop)
    ended = program.end()
    # A program that is told in its last moments may end as if it had not been.
    if ended.traceback or ended.code not in INTERRUPTED[signal.Signals(stop)] | {0}:
        figures.fault("traceback" if ended.traceback else "another exit code", f"{what}: {ended}")
    try:
        before = story.made(folder)
    except Exception as error:
        figures.fault("lost", f"{what}: {error!r}")
        before = {}
    times = _times(folder)
    again = programs.done(words, folder)
    if again.traceback or again.code not in story.agrees or (again.code and before != expected):
        figures.fault("traceback" if again.traceback else "another exit code", f"{what}, again: {again}")
    figures.compare(what, story.made(folder), expected, before=before if story.before != before else {})
    later = _times(folder)
    figures.twice(what, [name for name, moment in times.items() if later.get(name) not in (moment, None)])
    if remains := left(folder):
        figures.fault("left behind", f"{what}: {remains}")
    shutil.rmtree(folder)
    figures.tried += 1
    return landed


def _times(folder: Path) -> dict[str, int]:
    """The file system's number of each file that a finished cell says it has: another one where it is made again."""
    return {
        f"{done.parent.relative_to(folder)}/{name}": (done.parent / name).stat().st_ino
        for done in (folder / "runs").glob("*/*/*/*/DONE")
        for name in digests.of(done.parent).files
    }


if __name__ == "__main__":
    campaign.main(kills)
