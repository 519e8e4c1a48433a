"""A sample of the campaigns in one program, which imports torch and makes the folders they start from once.

    PYTHONPATH=tests:tests/faults:tests/loaders python tests/faults/sample.py quick|long

`quick` takes seconds: a few cases of each campaign, on commands that need no run; then one more of each with a fault
planted, which has to be found. `flips` has its own sample beside the tests of damage.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import campaign
import fuzz
import planted_encoder
from damaged_commands import damaged_commands
from kills import kills
from side_by_side import side_by_side
from stories import LIGHT, stories
from surroundings import surroundings

from prbench.data import describe
from prbench.encoders.base import Encoded, Text

# Processes of their own take seconds to start.
SLOW = "workers"


def quick(folder: Path) -> Iterator[campaign.Figures]:
    """A few cases of each campaign; those called "planted" have to find a fault."""
    light = {story.name: story for story in stories(folder / "bases", LIGHT)}
    embed, both = [light["embed"]], [light["import"], light["embed"]]
    yield kills(folder / "kills", 2, 0, both)
    yield side_by_side(folder / "beside", 1, 0, embed)
    yield surroundings(folder / "around", 3, 0, both)
    yield damaged_commands(folder / "damaged", 1, 0, both)
    plant_other_numbers()
    yield planted(kills(folder / "kills", 1, 0, embed))
    yield planted(side_by_side(folder / "beside", 1, 0, embed))
    yield planted(surroundings(folder / "around", 1, 0, embed))
    plant_a_traceback()
    yield planted(damaged_commands(folder / "damaged-too", 1, 0, embed))
    os.environ["PRBENCH_HOME"] = f"{folder}/home"
    yield fuzz.fuzz(folder / "fuzz", 1)
    plant_a_reader(folder / "given")
    yield planted(fuzz.fuzz(folder / "fuzz-too", 5))


def planted(figures: campaign.Figures) -> campaign.Figures:
    """The figures of a campaign in which a fault was planted."""
    figures.name = f"planted {figures.name}"
    return figures


def plant_other_numbers() -> None:
    """Let an encoder give other vectors than it did."""
    encode = planted_encoder.Planted.encode

    def doubled(self: planted_encoder.Planted, texts: Sequence[Text], *, device: str) -> Encoded:
        encoded = encode(self, texts, device=device)
        return replace(encoded, embedding=2 * encoded.embedding)

    planted_encoder.Planted.encode = doubled  # type: ignore[method-assign]


def plant_a_traceback() -> None:
    """Let describing data raise what is not meant for a person."""

    def raises(*_: object) -> None:
        raise RuntimeError("planted")

    describe.describe = raises  # type: ignore[assignment]


def plant_a_reader(file: Path) -> None:
    """Let the only reader be one that is at a loss with every file but the right one."""
    file.write_bytes(b"whole")
    table = {b"whole": "read"}
    fuzz.readers = lambda _: iter([fuzz.Reader("planted", file, b"whole", lambda: table[file.read_bytes()])])


def long(folder: Path) -> Iterator[campaign.Figures]:
    """More cases of each, over all commands."""
    every = [story for story in stories(folder / "bases") if story.name != SLOW]
    yield kills(folder / "kills", 6, 0, every)
    yield side_by_side(folder / "beside", 3, 0, every)
    yield surroundings(folder / "around", 6, 0, every)
    yield damaged_commands(folder / "damaged", 2, 0, every)
    os.environ["PRBENCH_HOME"] = f"{folder}/home"
    yield fuzz.fuzz(folder / "fuzz", 140)


def main(which: str) -> int:
    """Run a sample and print its figures; 1 where there is a fault that nobody planted, or a planted one is missed."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["PRBENCH_HOME"] = f"{name}/home"
        for figures in {"quick": quick, "long": long}[which](Path(name)):
            sys.stdout.write(f"{figures}\n")
            sys.stdout.flush()
            wrong += bool(figures.faults) != figures.name.startswith("planted ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
