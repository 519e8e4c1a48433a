"""The figures of a campaign, and what its program prints."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("lost", "doubled", "silently different", "traceback")
SHOWN = 1_500


@dataclass
class Figures:
    """How many cases were tried, what went wrong in them by kind, and notes."""

    name: str
    tried: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def fault(self, kind: str, what: str) -> None:
        """Enter a fault, and say on stderr what it was."""
        self.faults[kind] += 1
        shown = what if len(what) <= SHOWN else f"{what[:200]} ... {what[-SHOWN:]}"
        sys.stderr.write(f"{self.name}: {kind}: {shown}\n")

    def note(self, text: str) -> None:
        """Enter what else the person who reads the figures should know."""
        self.notes.append(text)

    def compare(
        self, what: str, made: Mapping[str, str], expected: Mapping[str, str], *, before: Mapping[str, str]
    ) -> None:
        """Enter what is not there, what was there `before` and is gone or other now, and what is not as expected."""
        for name in sorted(expected.keys() | before.keys()):
            if name not in made:
                self.fault("lost", f"{what}: {name}")
            elif name in before and made[name] != before[name]:
                self.fault("doubled", f"{what}: {name} was made again, and is other now")
            elif made[name] != expected.get(name):
                self.fault("silently different", f"{what}: {name}")
        for name in sorted(made.keys() - expected.keys()):
            self.fault("silently different", f"{what}: {name} should not be there")

    def twice(self, what: str, names: Sequence[str]) -> None:
        """Enter work that was done twice."""
        for name in names:
            self.fault("doubled", f"{what}: {name}")

    def __str__(self) -> str:
        kinds = dict.fromkeys(KINDS, 0) | dict(self.faults)
        said = ", ".join(f"{kind} {count or 'none'}" for kind, count in kinds.items())
        return f"{self.name:14} {self.tried:6} tried: {said}" + "".join(f"\n{'':14} {note}" for note in self.notes)


def main(campaign: Callable[[Path, int, int], Figures]) -> None:
    """Run a campaign as `program COUNT [SEED]`, print its figures, and exit with 1 where there is a fault."""
    # Who is told to end first removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["PRBENCH_HOME"] = f"{name}/home"
        figures = campaign(Path(name), count, seed)
    sys.stdout.write(f"{figures}\n")
    sys.exit(bool(figures.faults))
