"""A sample of all campaigns in one program, which imports torch and makes the folders they start from once.

PYTHONPATH=tests:tests/faults:tests/loaders python tests/faults/sample.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from damaged_commands import damaged_commands
from fuzz import fuzz
from kills import kills
from side_by_side import side_by_side
from stories import stories
from surroundings import surroundings

# Processes of their own take seconds to start.
SLOW = "workers"


def main() -> int:
    """Run the sample and print its figures; 1 where there is a fault."""
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PRBENCH_HOME"] = f"{name}/home"
        every = [story for story in stories(folder / "bases") if story.name != SLOW]
        found = [
            kills(folder / "kills", 6, 0, every),
            side_by_side(folder / "beside", 3, 0, every),
            surroundings(folder / "around", 6, 0, every),
            damaged_commands(folder / "damaged", 2, 0, every),
        ]
        os.environ["PRBENCH_HOME"] = f"{name}/home"
        found.append(fuzz(folder / "fuzz", 140))
    for figures in found:
        sys.stdout.write(f"{figures}\n")
        faults += figures.faults.total()
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
