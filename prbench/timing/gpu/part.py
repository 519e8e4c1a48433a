"""What a part of the measurement is given, and the time it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prbench.encoders.engines import Model

Record = dict[str, Any]


class Clock:
    """The time that a part may take, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative where it took longer."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Size:
    """How large everything is: that of real use, or one at which a CPU shows that the path works.

    `model` is a configuration of `prbench.timing.embed`. `shapes` are the simulated data sets that fits are timed on,
    with `splits` splits; `compared_on` is the one whose `compared` splits are fitted on both devices. `seconds` is
    how long updates are timed.
    """

    name: str
    model: str
    shapes: tuple[str, ...]
    splits: int
    compared_on: str
    compared: int
    seconds: float


SIZES = {
    "real": Size("real", "8b", ("sim-prism", "sim-reddit100"), 20, "simulated", 3, 2.0),
    "tiny": Size("tiny", "tiny", ("simulated",), 2, "simulated", 1, 0.05),
}


@dataclass(eq=False)
class Setting:
    """The device, the size, the methods that are asked for (None: all), and what parts leave for later ones."""

    device: str
    size: Size
    methods: tuple[str, ...] | None
    say: Callable[[str], None]
    workers: int = 1
    model: Model | None = None
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether this is a measurement of a GPU."""
        return self.device.startswith("cuda")


@dataclass(eq=False)
class Outcome:
    """What a part found: facts of the whole, a table of rows, goals, and what was left out and why."""

    facts: Record = field(default_factory=dict)
    rows: list[Record] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """A goal, what was measured (None where it was not), and whether it is met."""

    goal: str
    measured: float | None
    unit: str
    met: bool | None
