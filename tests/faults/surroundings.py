"""Commands where the surroundings are hostile: a full disk, folders that are read-only, a clock that goes backwards.

    PYTHONPATH=tests:tests/faults python tests/faults/surroundings.py 60

A full disk is a small file system in memory, which only root may mount, where nobody else sees it: it is gone with the
campaign, however that ends. Root's programs on read-only folders first give up the privilege to write there all the same.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import campaign
import programs
from stories import Story, left, stories, undisturbed

CLONE_NEWNS = 0x20000
HOUR = 3600.0
SPACE = 2**26
NO_PLACE = ("the disk is full", "No space left on device")
NO_PERMISSION = ("no permission", "cannot write", "Permission denied")


def surroundings(folder: Path, count: int, seed: int = 0, every: Sequence[Story] = ()) -> campaign.Figures:
    """Try `count` commands, each of the three surroundings with the stories (all, where none are given) in turn."""
    draw, figures = random.Random(seed), campaign.Figures("surroundings")
    folder.mkdir(parents=True, exist_ok=True)
    every = every or stories(folder / "bases")
    own_mounts()
    for number in range(count):
        story = every[number // 3 % len(every)]
        expected = undisturbed(story, folder / "whole").made
        place = folder / "try"
        if number % 3 == 0:
            _full_disk(story, place, draw, expected, figures)
        elif number % 3 == 1:
            _read_only(story, place, figures)
        else:
            _backwards(story, place, draw, expected, figures)
    return figures


def own_mounts() -> None:
    """Give this process file systems of its own, where it may have them: what it mounts is then gone with it."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _full_disk(
    story: Story, folder: Path, draw: random.Random, expected: dict[str, str], figures: campaign.Figures
) -> None:
    """Let the disk be full somewhere in the work, then give it more space and run again."""
    folder.mkdir()
    if not _mount(folder, f"size={SPACE}"):
        figures.note("full disks left out: mounting a file system needs root") if not figures.notes else None
        folder.rmdir()
        return
    try:
        words = story.start(folder)
        page = os.statvfs(folder).f_frsize
        used = (os.statvfs(folder).f_blocks - os.statvfs(folder).f_bfree) * page
        size = used + page * (2 + draw.randrange(40))
        what = f"full disk, {story.name}, {size - used:,} bytes free"
        assert _mount(folder, f"remount,size={size}")
        # What it says must not be what fills the disk.
        ended = programs.Program(words, folder, name="../said").end()
        full = ended.code in (1, 2) and any(text in ended.err for text in NO_PLACE)
        if ended.traceback or not (full or ended.code == 0):
            figures.fault("traceback" if ended.traceback else "another exit code", f"{what}: {ended}")
        try:
            before = story.made(folder)
        except Exception as error:
            figures.fault("lost", f"{what}: {error!r}")
            before = {}
        assert _mount(folder, f"remount,size={SPACE}")
        again = programs.Program(words, folder, name="../said").end()
        if again.traceback or again.code not in story.agrees:
            figures.fault("traceback" if again.traceback else "another exit code", f"{what}, again: {again}")
        figures.compare(what, story.made(folder), expected, before=before if story.before != before else {})
        if remains := left(folder):
            figures.fault("left behind", f"{what}: {remains}")
        figures.tried += 1
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def _read_only(story: Story, folder: Path, figures: campaign.Figures) -> None:
    """Let nothing be writable: one line, and all stays as it was."""
    words = story.start(folder)
    before = story.made(folder)
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)

    ended = programs.Program(words, folder, before=programs.without_privileges, name="../said").end()
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)
    what = f"read-only, {story.name}"
    if ended.traceback or ended.code != 2 or not any(text in ended.err for text in NO_PERMISSION):
        figures.fault("traceback" if ended.traceback else "another exit code", f"{what}: {ended}")
    if len(ended.err.strip().splitlines()) > 3:
        figures.fault("more than a line", f"{what}: {ended.err}")
    figures.compare(what, story.made(folder), before, before={})
    shutil.rmtree(folder)
    figures.tried += 1


def _backwards(
    story: Story, folder: Path, draw: random.Random, expected: dict[str, str], figures: campaign.Figures
) -> None:
    """Let each look at the clock show an hour less, and let files be of tomorrow."""
    words = story.start(folder)
    tomorrow = time.time() + 24 * HOUR
    for path in folder.rglob("*"):
        if draw.random() < 0.5:
            os.utime(path, (tomorrow, tomorrow))
    ended = programs.done(words, folder, before=_turn_back)
    what = f"clock, {story.name}"
    if ended.traceback or ended.code != 0:
        figures.fault("traceback" if ended.traceback else "another exit code", f"{what}: {ended}")
    figures.compare(what, story.made(folder), expected, before={})
    if remains := left(folder):
        figures.fault("left behind", f"{what}: {remains}")
    shutil.rmtree(folder)
    figures.tried += 1


def _turn_back() -> None:
    looks, real = [0], time.time

    def earlier() -> float:
        looks[0] += 1
        return real() - HOUR * looks[0]

    def in_nanoseconds(now: Callable[[], float] = earlier) -> int:
        return int(now() * 1e9)

    time.time, time.time_ns = earlier, in_nanoseconds


if __name__ == "__main__":
    campaign.main(surroundings)
