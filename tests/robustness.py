"""Reruns the trained tests under other starts and says how far inside its bound each of their measurements lies.

    python tests/robustness.py                       all trained tests, 20 starts, with 1 and with 2 threads
    python tests/robustness.py -k gpo --threads 1    some of them, with 1 thread
    python tests/robustness.py --keep seen.jsonl     write down each start; the same command goes on where it stopped
                                                 (delete the file when tests have changed)

A start gives every random stream one more axis (`trained.move`): planted data, first weights and orders of training are
drawn anew. Start 0, that of `make test`, is not among them. A line of the table is one measurement of one test. Its
distance is that of the mean from the bound in standard deviations over the starts, and so is its control's, which lies
on the other side. A bound that is kept on every one of 20 starts may still fail on the next machine, so what counts is
the distance: below 4 the exit status is 1, as it is where a test fails for another reason.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import trained

FAR = 4.0
CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass
class Measurement:
    """The values that one measurement took, and those of its control, over the starts."""

    bound: float
    sign: int
    values: list[float] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)

    def distance(self) -> float:
        """The mean's distance inside the bound, in sample standard deviations."""
        return apart(self.values, self.bound, self.sign)

    def control_distance(self) -> float:
        """The distance of the control's mean outside the bound; infinite where there is no control."""
        return apart(self.controls, self.bound, -self.sign) if self.controls else math.inf


@dataclass
class Outcome:
    """What the tests measured at one start, and what else went wrong there."""

    start: int
    lines: list[dict[str, object]]
    errors: list[str]


class Kept:
    """Outcomes of earlier runs of one selection of tests in a file, one a line; without a file nothing is kept."""

    def __init__(self, file: Path | None, **selection: object) -> None:
        self.file, self.selection = file, json.loads(json.dumps(selection))

    def at(self, start: int) -> Outcome | None:
        """The outcome at `start` under this selection, if there is one."""
        if self.file is None or not self.file.exists():
            return None
        for row in map(json.loads, self.file.read_text().splitlines()):
            if row["selection"] == self.selection and row["start"] == start:
                return Outcome(start, row["lines"], row["errors"])
        return None

    def add(self, outcome: Outcome) -> None:
        """Append an outcome."""
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps({"selection": self.selection, **vars(outcome)}) + "\n")


def apart(values: list[float], bound: float, sign: int) -> float:
    """How many sample standard deviations the mean of `values` lies above (`sign` 1) or below (-1) `bound`."""
    gap, spread = sign * (float(np.mean(values)) - bound), float(np.std(values, ddof=1))
    return gap / spread if spread else math.copysign(math.inf, gap)


def repeated(start: int, *, threads: int, selection: str, paths: list[str], kept: Kept) -> Outcome:
    """Run the trained tests once, in a process of their own, whose caches and compute threads are its own too."""
    if (earlier := kept.at(start)) is not None:
        return earlier
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            trained.START: str(start),
            trained.RECORD: str(record),
        }
        words = ["-m", "trained", "-q", "-rf", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-k", selection]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pytest", *words, *paths],
            cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = record.read_text().splitlines() if record.exists() else []
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    # 5: the selection is empty.
    if done.returncode not in (0, 1, 5):
        failed.append(f"pytest ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    outcome = Outcome(start, [json.loads(line) for line in lines], failed)
    kept.add(outcome)
    return outcome


def collected(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], Measurement]:
    """The measurements by test and name."""
    found: dict[tuple[str, str], Measurement] = {}
    for outcome in outcomes:
        for line in outcome.lines:
            key = str(line["test"]), str(line["what"])
            one = found.setdefault(key, Measurement(line["bound"], line["sign"]))  # type: ignore[arg-type]
            one.values.append(line["value"])  # type: ignore[arg-type]
            if line["control"] is not None:
                one.controls.append(line["control"])  # type: ignore[arg-type]
    return found


def table(found: dict[tuple[str, str], Measurement]) -> list[str]:
    """One line a measurement, those nearest to their bound first."""
    rows = [f"{'mean':>9} {'sd':>9} {'bound':>11} {'distance':>9} {'control':>9} {'distance':>9} {'starts':>6}  test"]
    for (test, what), one in sorted(found.items(), key=lambda item: nearest(item[1])):
        bound = f"{'>=' if one.sign > 0 else '<='} {one.bound:.4g}"
        control = (
            f"{np.mean(one.controls):9.4g} {one.control_distance():9.1f}" if one.controls else f"{'-':>9} {'-':>9}"
        )
        rows.append(
            f"{np.mean(one.values):9.4g} {np.std(one.values, ddof=1):9.2g} {bound:>11} {one.distance():9.1f} {control} "
            f"{len(one.values):6}  {test.partition('::')[2]}: {what}"
        )
    return rows


def nearest(one: Measurement) -> float:
    """The smaller of the distances of the measurement and of its control."""
    return min(one.distance(), one.control_distance())


def main() -> int:
    """Run, print one table for each number of threads, and say whether every bound is far enough."""
    parser = argparse.ArgumentParser(description="Reruns the trained tests under other starts.")
    parser.add_argument("--starts", type=int, default=20, help="how many starts (default 20; 2 or more)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="compute threads (default 1 2)")
    parser.add_argument("--jobs", type=int, default=1, help="starts that run side by side (default 1)")
    parser.add_argument("-k", default="", dest="selection", help="pytest's expression over the names of tests")
    parser.add_argument("--keep", type=Path, help="a file of outcomes; starts that it holds are not run again")
    parser.add_argument("paths", nargs="*", default=["tests"], help="test files or folders (default tests)")
    asked = parser.parse_args()
    good = True
    for threads in asked.threads:
        selected = {"threads": threads, "selection": asked.selection, "paths": asked.paths}
        run = partial(repeated, **selected, kept=Kept(asked.keep, **selected))
        with ThreadPoolExecutor(asked.jobs) as pool:
            outcomes = list(pool.map(run, range(1, asked.starts + 1)))
        found = collected(outcomes)
        print(f"{threads} thread{'s' * (threads > 1)}, {asked.starts} starts")  # noqa: T201
        print("\n".join(table(found)))  # noqa: T201
        errors = [f"start {outcome.start}: {error}" for outcome in outcomes for error in outcome.errors]
        near = sum(not nearest(one) >= FAR for one in found.values())
        print("\n".join([*errors, f"{len(found)} measurements, {near} nearer than {FAR:g}, {len(errors)} errors"]))  # noqa: T201
        good = good and bool(found) and not near and not errors
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
