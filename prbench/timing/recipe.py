"""How long a whole recipe takes, from a little of it: fitting, adapting and scoring all splits of a shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from prbench.method import FitProblem, Method
from prbench.protocol.selection import test_margins
from prbench.timing import fit
from prbench.timing.fit import Shape
from prbench.training.compute import computing, peak_memory
from prbench.training.gradient import GradientMethod, SplitBatch


class TooLongError(Exception):
    """A fit took longer than there was time."""


def recipe_time(
    method: Method, shape: Shape, *, device: str, seconds: float, expired: Callable[[], bool], loop: bool = True
) -> dict[str, Any]:
    """Seconds of fitting (`fit_seconds`) and of adapting and scoring (`rest_seconds`) all splits, and more.

    A fit is projected from about `seconds` of updates of all splits; of methods that are solved it is one split's
    whole fit times their number. With `loop` the plain loop of the published recipe on the CPU, one user and one
    split at a time, is timed where there is one. Raises TooLongError where time has `expired` within a single fit.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    count = len(shape.splits)
    row: dict[str, Any] = {}
    with computing("highest"):
        if isinstance(method, GradientMethod):
            timed = fit.engine(method, shape.trains, shape.rngs, device, seconds)
            row |= {
                "fit_is": "projected",
                "seconds_per_update": timed.seconds,
                "updates": timed.updates,
                "setup_seconds": timed.setup,
                "fit_seconds": timed.setup + timed.seconds * timed.updates,
            }
            if loop and method.plain_loop(shape.trains[0], shape.rngs[0]) is not None:
                looped = fit.loop(method, shape.trains[0], shape.rngs[0], "cpu", seconds)
                row |= {"loop_seconds": looped * count, "ratio_to_loop": looped * count / timed.seconds}
            (snapshot,) = method.train_splits(SplitBatch(shape.trains[:1], shape.rngs[:1], [{1}], device))
            fitted: Method = method.fresh().accept(snapshot.tensors, shape.trains[0], shape.rngs[0])
        else:
            fitted = method
            start = fit.now(device)
            _solve(method, shape, device, expired)
            row |= {"fit_is": "one split, times their number", "fit_seconds": (fit.now(device) - start) * count}
        row["peak_memory_gb"] = peak_memory(device) / 1e9
        start = time.perf_counter()
        test_margins(fitted, shape.comparisons, shape.splits[0], shape.rngs[0])
        row["rest_seconds"] = (time.perf_counter() - start) * count
    return row


def _solve(method: Method, shape: Shape, device: str, expired: Callable[[], bool]) -> None:
    """Fit the first split. Raises TooLongError where the time is up in the middle."""

    def watch(_: float) -> None:
        if expired():
            raise TooLongError

    nothing = shape.comparisons.take(shape.splits[0].seen_train[:0])
    problem = FitProblem(shape.trains[0], nothing, shape.rngs[0])
    type(method).fit_splits([method], [problem], device=device, watch=watch)
