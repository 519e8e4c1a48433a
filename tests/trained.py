"""What trained tests measure, the bounds that they promise, and the starts over which these are judged.

A trained test fits something that starts from random numbers and asserts a bound. It carries the mark `trained` and
states each of its bounds by `measured` or `near`, with a control that misses the bound: the same method at cold start,
on labels that say nothing, or a plain baseline. A bound may be kept by luck, on this machine and not on the next;
`tests/robustness.py` therefore repeats these tests under other starts and compares each bound with what it finds.

All random numbers of trained tests, planted data included, come from streams named by `Rng`. `move` adds one more axis
to all of them, so that one number draws everything anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from math import log10
from pathlib import Path
from typing import Any

import torch

from prbench.seeds import Rng

RECORD = "PRBENCH_ROBUSTNESS_RECORD"
"""Names the file to which measurements go; bounds are then written down instead of asserted."""

START = "PRBENCH_ROBUSTNESS_START"
"""Names the start to which all random streams move; 0 is the one of `make test`."""


def move(start: int) -> None:
    """Give every random stream of this process the further axis ("start", `start`), unless that is 0."""
    if not start:
        return
    seed = Rng.seed.fget
    assert seed is not None

    def moved(stream: Rng) -> int:
        return int(seed(Rng(*stream.axes, "start", start)))

    Rng.seed = property(moved)  # type: ignore[assignment, method-assign]


def measured(
    what: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    control: float | None = None,
) -> None:
    """Assert that `value` keeps the bound and that `control` misses it.

    `control` is the same quantity of something that has learned nothing of what is tested. It is left out where
    another measurement of the test has it: where two bounds hold one value from both sides.
    """
    assert (at_least is None) != (at_most is None), "one bound: at_least or at_most"
    value, control = float(value), None if control is None else float(control)
    bound, sign = (at_least, 1) if at_least is not None else (at_most, -1)
    assert bound is not None
    if os.environ.get(RECORD):
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        line = {"test": test, "what": what, "value": value, "bound": bound, "sign": sign, "control": control}
        with Path(os.environ[RECORD]).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return
    assert sign * (value - bound) >= 0, f"{what}: {value:.6g}, {'at least' if sign > 0 else 'at most'} {bound:.6g}"
    if control is not None:
        assert sign * (control - bound) < 0, f"{what}: the control keeps the bound {bound:.6g} with {control:.6g}"


def distance(a: Any, b: Any) -> float:
    """The largest difference of two arrays or tensors of one shape."""
    a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max())


def near(what: str, found: Any, expected: Any, *, at_most: float, control: Any) -> None:
    """Assert that two arrays differ by no more than rounding and the ends of iterations, `at_most`, anywhere.

    `control` is what would be compared had nothing been learned, such as the values that a fit starts from. Errors of
    rounding spread over powers of ten, so their logarithms are what is measured.
    """
    error, control_error = (max(distance(x, expected), 1e-18) for x in (found, control))
    measured(f"log10 of {what}'s error", log10(error), at_most=log10(at_most), control=log10(control_error))


def all_near(
    what: str, found: Mapping[str, Any], expected: Mapping[str, Any], *, at_most: float, control: Mapping[str, Any]
) -> None:
    """`near` of the arrays of several names: of `found` the farthest counts, of `control` the nearest."""
    assert found.keys() == expected.keys() == control.keys()
    error = max(distance(found[name], expected[name]) for name in expected)
    control_error = min(distance(control[name], expected[name]) for name in expected)
    near(what, torch.tensor(error), torch.zeros(()), at_most=at_most, control=torch.tensor(control_error))
