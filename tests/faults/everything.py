"""All campaigns, one after another, each as a program of its own; prints their figures.

    PYTHONPATH=tests:tests/faults:tests/loaders python tests/faults/everything.py [SHARE] [SEED]

SHARE of the cases are tried: 1 takes about 20 minutes, the sample of `make test-extras` a minute or two.
"""

from __future__ import annotations

import subprocess
import sys
import time
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
"""Cases of each campaign in about 20 minutes on two cores."""


def main(share: float = 1.0, seed: int = 0) -> int:
    """Run every campaign; 1 where one of them found a fault."""
    failed = 0
    for name, cases, more in CASES:
        begin = time.monotonic()
        file = Path(__file__).with_name(f"{name}.py")
        command = [sys.executable, "-P", str(file), str(max(1, round(share * cases))), str(seed), *more]
        ended = subprocess.run(command, check=False, text=True, capture_output=True)
        sys.stderr.write(ended.stderr)
        sys.stdout.write(f"{ended.stdout.rstrip()}\n{'':14} {time.monotonic() - begin:.0f} s\n")
        sys.stdout.flush()
        failed += ended.returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*(kind(text) for kind, text in zip((float, int), sys.argv[1:], strict=False))))
