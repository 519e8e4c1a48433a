"""A registry of small simulated data sets and planted methods, for runs that take a fraction of a second."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from prbench.running.plan import Plan, plan
from prbench.running.request import RunRequest

METHODS = ("Good", "Raises", "NanOnSplit1", "FewShots", "Unsupported", "IgnoresTheRule", "LastBit")

DATASET = """
title = "{name}"
loader = "prbench.loaders.simulated:Simulated"
family = "{name}"
licence = "CC0-1.0"
homepage = ""
citation = ""
summary = "small"
encoder = "own"
simulated = true
[options]
users = {users}
dim = 10
{layout}
clusters = 2
reward_directions = 2
temperature = 0.3
seed = {seed}
[protocol]
splits = 3
"""

METHOD = """
title = "{target}"
target = "planted_methods:{target}"
family = "personalised parameters"
paper = ""
summary = "planted"
selection = "last"
[style]
colour = "#000000"
"""

POSTS = "posts = 40\nresponses = 3\ncomparisons = 24\npairs_per_post = 2"
# Every user has prompts of its own: an item is in the train side or in the test side, never in both.
DIALOGUES = "dialogues = 8\nresponses = 3\nturns = 2.0"

# Budgets that make a fit take milliseconds.
SHORT = (
    "bt.steps=30",
    "lore.steps=30",
    "lore.adapt_steps=20",
    "lore-early.steps=30",
    "mrm.epochs=4",
    "mrm-paper.epochs=4",
    "mrm-no-basis.epochs=2",
)


def short(*methods: str) -> list[str]:
    """The `--set` values of `SHORT` that belong to these methods."""
    return [text for text in SHORT if text.partition(".")[0] in methods]


def registry_folder(folder: Path) -> Path:
    """Entries tiny (posts), tiny2 (posts, other users) and own-prompts (dialogues), and one per planted method."""
    for kind in ("datasets", "methods"):
        (folder / kind).mkdir(parents=True)
    for name, users, layout, seed in (
        ("tiny", 10, POSTS, 0),
        ("tiny2", 8, POSTS, 1),
        ("own-prompts", 10, DIALOGUES, 2),
    ):
        text = DATASET.format(name=name, users=users, layout=layout, seed=seed)
        (folder / "datasets" / f"{name}.toml").write_text(text)
    for target in METHODS:
        (folder / "methods" / f"{target.lower()}.toml").write_text(METHOD.format(target=target))
    return folder


def without_digests(folder: Path) -> Path:
    """Let a cell be as an earlier prbench wrote it, so that a test may change its files; returns its folder."""
    (folder / "DONE").write_text('{"shots": [-1]}')
    return folder


def make_plan(methods: Sequence[str], datasets: Sequence[str], **options: Any) -> Plan:
    """The plan of a request with these further values."""
    return plan(RunRequest(methods=tuple(methods), datasets=tuple(datasets), **options))


def scores(out: Path) -> dict[str, pd.DataFrame]:
    """Every scores file below `out`, by its path."""
    return {str(p.relative_to(out)): pd.read_parquet(p) for p in sorted(out.glob("*/*/*/split-*/scores-*.parquet"))}


def assert_same_scores(a: Path, b: Path) -> None:
    """The same files with the same bits in them."""
    first, second = scores(a), scores(b)
    assert first
    assert sorted(first) == sorted(second)
    for name, frame in first.items():
        pd.testing.assert_frame_equal(frame, second[name], check_exact=True, obj=name)


def without_finished(stderr: str) -> str:
    """What a run says beside its line for each finished method."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not re.search(r": \d+ splits? in ", line))
