"""Time and memory of every method's fit on the shapes of the paper's data sets, all splits together."""

from __future__ import annotations

from typing import Any

import torch

from prbench.timing import fit
from prbench.timing.gpu.choosing import TABLE_1, entries, made
from prbench.timing.gpu.part import Clock, Goal, Outcome, Setting
from prbench.timing.recipe import TooLongError, recipe_time

GRID_SECONDS, TIMES_AS_FAST = 600.0, 500.0
REDDIT_SHAPES = 2
"""The paper's grid has Reddit-100 and Reddit-150, of one size but for 50 choices of each seen user."""


def measure(setting: Setting, clock: Clock) -> Outcome:
    """A row for each method on each shape, as `recipe_time`: how long the recipe takes on the device, all of it."""
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
                timed = recipe_time(
                    method,
                    shape,
                    device=setting.device,
                    seconds=min(setting.size.seconds, share.left),
                    expired=lambda: share.left <= 0,  # noqa: B023 - called within this turn alone
                )
            except TooLongError:
                outcome.left_out.append(f"{name}: {entry.name} (one split takes longer than there was time)")
                continue
            except (RuntimeError, ValueError, ArithmeticError) as error:
                timed = {"error": f"{type(error).__name__}: {error}"}
            outcome.rows.append({"method": entry.name, "shape": name, **timed})
        del shape
        _let_go(setting)
    outcome.goals = _goals(setting, outcome.rows)
    return outcome


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
