"""Every method fitted on the device and on the CPU: do both decide alike?

Each device does what a run with `--device` does: it fits, and adapts and scores from what was fitted; whatever a
method computes in torch's own functions on the CPU there, it computes there here. Processes of one thread each share
the fits, and a fit that the time does not suffice for is left out.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np
import torch

from prbench import registry
from prbench.comparisons import FloatArray, IntArray, Items
from prbench.method import FitProblem
from prbench.protocol.metrics import decisions
from prbench.protocol.selection import overall_accuracy, test_margins
from prbench.sharing.agreement import DECISIONS, POINTS, Agreement, rows_agree
from prbench.timing import fit
from prbench.timing.fit import Shape
from prbench.timing.gpu.choosing import entries, made
from prbench.timing.gpu.part import Clock, Goal, Outcome, Setting
from prbench.training.compute import computing

ASKED_EVERY = 0.05
"""Seconds between two looks at whether a fit is done."""


class Fitted(NamedTuple):
    """A method fitted on a device: for each split its margins of all test choices [n] and its accuracy.

    `error` says what went wrong, or why the method cannot be fitted at all (`unsupported`).
    """

    method: str
    device: str
    seconds: float
    margins: list[FloatArray]
    accuracies: list[float]
    error: str = ""
    unsupported: bool = False


def measure(setting: Setting, clock: Clock) -> Outcome:
    """A row for each method: how far the device and the CPU are apart, and whether they agree by prbench's rule."""
    size, outcome = setting.size, Outcome()
    outcome.facts = {
        "data": f"{size.compared_on}, {size.compared} splits",
        "recipe": "the whole recipe, nothing chosen on held-out choices; float32 products in float32",
        "rule": f"at most {DECISIONS:.0%} of the decisions and {POINTS} points of user accuracy of any split differ; "
        "where an entry says what random starts are worth: the means over splits differ by less than they explain",
    }
    names = [entry.name for entry in entries(setting)]
    tasks = [(name, device, size.compared_on, size.compared) for name in names for device in ("cpu", setting.device)]
    sides: dict[str, list[Fitted]] = {name: [] for name in names}
    for fitted in _all(tasks, setting.workers, clock):
        setting.say(f"agreement: {fitted.method} on {fitted.device}, {fitted.seconds:.0f} s")
        sides[fitted.method].append(fitted)
    for name, pair in sides.items():
        if any(side.unsupported for side in pair):
            outcome.left_out.append(f"{name} ({pair[0].error})")
        elif errors := [f"{side.device}: {side.error}" for side in pair if side.error]:
            outcome.rows.append({"method": name, "verdict": "failed", "error": "; ".join(errors)})
        elif len(pair) < 2:
            outcome.left_out.append(f"{name} (the time was up)")
        else:
            cpu, device = sorted(pair, key=lambda side: side.device != "cpu")
            outcome.rows.append(compared(cpu, device, registry.get("methods", name).starts))
    judged = [row["verdict"] in AGREEING for row in outcome.rows]
    outcome.goals = [
        Goal(
            "every method decides on this device as on the CPU",
            float(sum(judged)) if judged else None,
            f"of {len(judged)} methods",
            all(judged) if judged else None,
        )
    ]
    return outcome


AGREEING = ("identical", "agrees", "agrees within random starts")


def compared(cpu: Fitted, device: Fitted, starts: float | None) -> dict[str, Any]:
    """The row of a method from both sides; `starts` is its entry's, in points."""
    apart = [
        Agreement(
            float((decisions(a) != decisions(b)).mean()),
            accuracy,
            float(np.abs(a - b).max()),
            identical=np.array_equal(a, b),
        )
        for a, b, accuracy in zip(
            cpu.margins, device.margins, zip(cpu.accuracies, device.accuracies, strict=True), strict=True
        )
    ]
    if all(split.identical for split in apart):
        verdict = "identical"
    elif all(split.agrees for split in apart):
        verdict = "agrees"
    elif starts is not None and rows_agree([split.accuracy for split in apart], (starts, starts)):
        verdict = "agrees within random starts"
    else:
        verdict = "differs"
    return {
        "method": cpu.method,
        "verdict": verdict,
        "decisions_that_differ": max(split.decisions for split in apart),
        "largest_margin_difference": max(split.margin for split in apart),
        "margin_root_mean_square": float(np.sqrt(np.mean(np.concatenate(cpu.margins) ** 2))),
        "accuracy_cpu": float(np.mean(cpu.accuracies)),
        "accuracy_device": float(np.mean(device.accuracies)),
        "largest_points_apart": max(100 * abs(a - b) for a, b in (split.accuracy for split in apart)),
        "seconds_cpu": cpu.seconds,
        "seconds_device": device.seconds,
    }


def fitted_on(method: str, device: str, data: str, splits: int) -> Fitted:
    """Fit, adapt and score a method on the first `splits` splits of a simulated data set, all trained together."""
    shape = _shape(data, splits)
    unfitted = made(registry.get("methods", method), shape.entry)
    if reason := unfitted.unsupported(shape.comparisons):
        return Fitted(method, device, 0.0, [], [], reason, unsupported=True)
    start = time.perf_counter()
    try:
        with computing("highest"):
            together = [unfitted.fresh() for _ in shape.splits]
            nothing = shape.comparisons.take(np.empty(0, dtype=np.int64))
            problems = [FitProblem(train, nothing, rng) for train, rng in zip(shape.trains, shape.rngs, strict=True)]
            type(unfitted).fit_splits(together, problems, device=device)
            scored = [
                test_margins(one, shape.comparisons, split, rng)
                for one, split, rng in zip(together, shape.splits, shape.rngs, strict=True)
            ]
    except (RuntimeError, ValueError, ArithmeticError, TypeError) as error:
        return Fitted(method, device, time.perf_counter() - start, [], [], f"{type(error).__name__}: {error}")
    margins = [torch.cat([part.margin for part in parts]).double().cpu().numpy() for parts in scored]
    accuracies = [overall_accuracy(*parts) for parts in scored]
    return Fitted(method, device, time.perf_counter() - start, margins, accuracies)


@lru_cache(maxsize=1)
def _shape(data: str, splits: int) -> Shape:
    """A data set whose items also have prompts' embeddings, which some methods read: the mean of a prompt's items."""
    shape = fit.shape_of(data, splits)
    items, truth = shape.comparisons.items, shape.data.truth
    assert truth is not None
    if truth.prompt is not None:
        items = replace(items, context=prompt_means(items, truth.prompt))
    return replace(shape, comparisons=replace(shape.comparisons, items=items))


def prompt_means(items: Items, prompt: IntArray) -> torch.Tensor:
    """For each item the mean embedding of the items that answer the same prompt: [m, d]."""
    owner = torch.from_numpy(np.unique(prompt, return_inverse=True)[1].reshape(-1))
    sums = items.embedding.new_zeros(int(owner.max()) + 1, items.dim).index_add_(0, owner, items.embedding)
    return (sums / torch.bincount(owner)[:, None])[owner]


def _all(tasks: list[tuple[str, str, str, int]], workers: int, clock: Clock) -> Iterator[Fitted]:
    """The fits as they end, until the time is up; with one worker in this process."""
    if workers == 1:
        for fitted in starmap(fitted_on, tasks):
            yield fitted
            if clock.left <= 0:
                return
        return
    # Leaving the pool ends its processes, whatever they are doing.
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        waiting = [pool.apply_async(fitted_on, task) for task in tasks]
        while waiting and clock.left > 0:
            done = [result for result in waiting if result.ready()]
            waiting = [result for result in waiting if result not in done]
            for result in done:
                yield result.get()
            if not done:
                time.sleep(ASKED_EVERY)
