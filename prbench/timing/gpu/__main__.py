"""`python -m prbench.timing.gpu`: as `prbench bench gpu`, from a checkout on a machine with little installed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prbench.base.errors import InputError
from prbench.timing.gpu.part import SIZES
from prbench.timing.gpu.run import MINUTES, PAGE, measure


@contextmanager
def _empty_home() -> Iterator[None]:
    """A home without data of the user's own, where none is named: what prbench brings is measured."""
    if os.environ.get("PRBENCH_HOME"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="prbench-") as folder:
        os.environ["PRBENCH_HOME"] = folder
        yield


def main() -> int:
    """Measure; returns the exit code: 2 where something that was asked for cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m prbench.timing.gpu", description=measure.__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of gpu.json and index.html")
    parser.add_argument("--device", default="auto", help="cuda, or cpu to go through every part at a tiny size")
    parser.add_argument("--size", choices=sorted(SIZES), default="", help="default: real on a GPU, tiny on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all parts together")
    parser.add_argument("--methods", default="", help="only these methods, comma-separated")
    given = parser.parse_args()
    names = [name.strip() for name in given.methods.split(",") if name.strip()] or None
    try:
        with _empty_home():
            measure(given.out, device=given.device, size=given.size, minutes=given.minutes, methods=names)
    except InputError as error:
        sys.stderr.write(f"error: {error.args[0]}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return 2
    sys.stdout.write(f"{given.out / PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
