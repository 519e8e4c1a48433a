"""Time and memory of every method's fit on the shapes of the paper's data sets, all splits together."""

from __future__ import annotations

import time
from typing import Any

import torch

from prbench.method import FitProblem, Method
from prbench.protocol.selection import test_margins
from prbench.protocol.splits import Split
from prbench.timing import fit
from prbench.timing.fit import Shape
from prbench.timing.gpu.choosing import TABLE_1, entries, made
from prbench.timing.gpu.part import Clock, Goal, Outcome, Setting
from prbench.training.compute import computing, peak_memory
from prbench.training.gradient import GradientMethod, SplitBatch

GRID_SECONDS, TIMES_AS_FAST = 600.0, 500.0
REDDIT_SHAPES = 2
"""The paper's grid has Reddit-100 and Reddit-150, of one size but for 50 choices of each seen user."""


class _TooLongError(Exception):
    """A fit took longer than there was time."""


def measure(setting: Setting, clock: Clock) -> Outcome:
    """A row for each method on each shape.

    `fit_seconds` is projected from some updates of all splits; of methods that are solved it is one split's whole fit
    times their number. `rest_seconds` is adapting to unseen users and scoring all test choices, of all splits.
    `ratio_to_loop` is against the plain loop of the published recipe, one user and one split at a time, on the CPU.
    """
    outcome = Outcome(
        {"splits": setting.size.splits, "recipe": "the whole recipe, nothing chosen on held-out choices"}
    )
    found = entries(setting)
    for place, name in enumerate(setting.size.shapes):
        share = Clock(clock.left / (len(setting.size.shapes) - place))
        setting.say(f"fits: making {name}")
        shape = fit.shape_of(name, setting.size.splits)
        for number, entry in enumerate(found):
            if share.left <= 0:
                outcome.left_out.append(f"{name}: {', '.join(e.name for e in found[number:])} (the time was up)")
                break
            method = made(entry, shape.entry)
            if reason := method.unsupported(shape.comparisons):
                outcome.left_out.append(f"{name}: {entry.name} ({reason})")
                continue
            setting.say(f"fits: {entry.name} on {name}")
            try:
                row = _row(entry.name, method, shape, setting, share)
            except _TooLongError:
                outcome.left_out.append(f"{name}: {entry.name} (one split takes longer than there was time)")
                continue
            except (RuntimeError, ValueError, ArithmeticError) as error:
                row = {"method": entry.name, "shape": name, "error": f"{type(error).__name__}: {error}"}
            outcome.rows.append(row)
        del shape
        _let_go(setting)
    outcome.goals = _goals(setting, outcome.rows)
    return outcome


def _row(name: str, method: Method, shape: Shape, setting: Setting, share: Clock) -> dict[str, Any]:
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    count, seconds = len(shape.splits), min(setting.size.seconds, share.left)
    row: dict[str, Any] = {"method": name, "shape": shape.entry.name}
    with computing("highest"):
        if isinstance(method, GradientMethod):
            timed = fit.engine(method, shape.trains, shape.rngs, setting.device, seconds)
            row |= {
                "fit_is": "projected",
                "seconds_per_update": timed.seconds,
                "updates": timed.updates,
                "setup_seconds": timed.setup,
                "fit_seconds": timed.setup + timed.seconds * timed.updates,
            }
            if method.plain_loop(shape.trains[0], shape.rngs[0]) is not None:
                loop = fit.loop(method, shape.trains[0], shape.rngs[0], "cpu", seconds)
                row |= {"loop_seconds": loop * count, "ratio_to_loop": loop * count / timed.seconds}
            (snapshot,) = method.train_splits(SplitBatch(shape.trains[:1], shape.rngs[:1], [{1}], setting.device))
            fitted: Method = method.fresh().accept(snapshot.tensors, shape.trains[0], shape.rngs[0])
        else:
            fitted = method
            start = fit.now(setting.device)
            _solve(method, shape, setting.device, share)
            row |= {"fit_is": "one split, times their number"}
            row |= {"fit_seconds": (fit.now(setting.device) - start) * count}
        row["peak_memory_gb"] = peak_memory(setting.device) / 1e9
        row["rest_seconds"] = _rest(fitted, shape, shape.splits[0]) * count
    return row


def _solve(method: Method, shape: Shape, device: str, share: Clock) -> None:
    """Fit the first split. Raises _TooLongError where the time is up in the middle."""

    def watch(_: float) -> None:
        if share.left <= 0:
            raise _TooLongError

    nothing = shape.comparisons.take(shape.splits[0].seen_train[:0])
    problem = FitProblem(shape.trains[0], nothing, shape.rngs[0])
    type(method).fit_splits([method], [problem], device=device, watch=watch)


def _rest(fitted: Method, shape: Shape, split: Split) -> float:
    start = time.perf_counter()
    test_margins(fitted, shape.comparisons, split, shape.rngs[0])
    return time.perf_counter() - start


def _let_go(setting: Setting) -> None:
    if setting.on_gpu:
        torch.cuda.empty_cache()


def _goals(setting: Setting, rows: list[dict[str, Any]]) -> list[Goal]:
    by_place = {(row["shape"], row["method"]): row for row in rows if "error" not in row}
    total: float | None = 0.0
    for i, shape in enumerate(setting.size.shapes):
        for name in TABLE_1:
            row = by_place.get((shape, name))
            total = None if row is None or total is None else total + _times(i) * _seconds(row)
    ratio = by_place.get((setting.size.shapes[0], "mrm"), {}).get("ratio_to_loop")
    return [
        Goal(
            f"Table 1's grid ({', '.join(TABLE_1)}; {setting.size.splits} splits of PRISM, Reddit-100 and "
            f"Reddit-150) within {GRID_SECONDS:.0f} s",
            total,
            "s",
            None if total is None else total < GRID_SECONDS,
        ),
        Goal(
            f"an update of MRM at least {TIMES_AS_FAST:.0f} times as fast as the published recipe's loop on the CPU",
            ratio,
            "times",
            None if ratio is None else ratio >= TIMES_AS_FAST,
        ),
    ]


def _times(place: int) -> int:
    return REDDIT_SHAPES if place else 1


def _seconds(row: dict[str, Any]) -> float:
    return float(row["fit_seconds"]) + float(row["rest_seconds"])
