"""All campaigns, each as a program of its own, as many at once as there are cores; prints their figures.

    PYTHONPATH=tests:tests/faults:tests/loaders python tests/faults/everything.py [SHARE] [SEED]

SHARE of the cases are tried: 1 takes about 20 minutes on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CASES: list[tuple[str, int, tuple[str, ...]]] = [
    ("kills", 270, ()),
    ("side_by_side", 54, ()),
    ("surroundings", 108, ()),
    ("damaged_commands", 200, ()),
    ("fuzz", 12_000, ()),
    ("flips", 10_000, ("bits",)),
    ("flips", 3_000, ("cuts",)),
    ("flips", 3_000, ("pages",)),
]
"""Cases of each campaign, the longest one first."""


def main(share: float = 1.0, seed: int = 0) -> int:
    """Run every campaign; 1 where one of them found a fault."""

    def ran(case: tuple[str, int, tuple[str, ...]]) -> tuple[bool, str, str]:
        name, cases, more = case
        begin, file = time.monotonic(), Path(__file__).with_name(f"{name}.py")
        command = [sys.executable, "-P", str(file), str(max(1, round(share * cases))), str(seed), *more]
        ended = subprocess.run(command, check=False, text=True, capture_output=True)
        said = f"{ended.stdout.rstrip()}\n{'':14} {time.monotonic() - begin:.0f} s\n"
        return ended.returncode != 0, said, ended.stderr

    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for faulty, figures, told in pool.map(ran, CASES):
            sys.stderr.write(told)
            sys.stdout.write(figures)
            sys.stdout.flush()
            failed += faulty
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*(kind(text) for kind, text in zip((float, int), sys.argv[1:], strict=False))))
