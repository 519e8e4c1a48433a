"""The parts one after another, each with its share of the time; what is measured is written after each of them."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import prbench
from prbench.base import provenance
from prbench.base.errors import InputError
from prbench.base.files import require_writable, write_text
from prbench.encoders.base import require_device, resolved_device
from prbench.timing.gpu import agreement, fits, machine, page, reading
from prbench.timing.gpu.choosing import entries
from prbench.timing.gpu.part import SIZES, Clock, Outcome, Setting

JSON, PAGE = "gpu.json", "index.html"
MINUTES = 9.0
RESERVED = 5.0
"""Seconds that are kept for writing."""
PROCESSES = 12
NO_GPU = "this is not a measurement of a GPU: it shows that every part runs"


class Part(NamedTuple):
    """A part, its share of the time (what one leaves goes to the later ones), and what does it."""

    name: str
    share: float
    measure: Callable[[Setting, Clock], Outcome]


PARTS = (
    Part("machine", 0.04, machine.measure),
    Part("reading", 0.26, reading.measure),
    Part("memory", 0.05, reading.exhaust),
    Part("fits", 0.35, fits.measure),
    Part("agreement", 0.30, agreement.measure),
)


def measure(
    out: Path,
    *,
    device: str = "auto",
    size: str = "",
    minutes: float = MINUTES,
    methods: Sequence[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run every part within `minutes`, write `gpu.json` and `index.html` to `out`, and return what the JSON has.

    `size` is "real" (the default on a GPU) or "tiny" (that on a CPU); `methods` are all by default; `say` hears of
    each step. A part that fails costs only itself. Raises InputError where there is no GPU, unless `device` is "cpu",
    and for an unknown size, device or method.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - rich may not be here
    device = _device(device)
    size = size or ("tiny" if device == "cpu" else "real")
    if size not in SIZES:
        raise InputError(f"--size {size}: there is no such size", hint=f"it is one of {', '.join(SIZES)}")
    workers = max(1, min(PROCESSES, (os.cpu_count() or 1) - 1)) if device != "cpu" else 1
    setting = Setting(device, SIZES[size], None if methods is None else tuple(methods), say, workers)
    entries(setting)
    require_writable(out)
    whole = Clock(60 * minutes - RESERVED)
    start = time.monotonic()
    found: dict[str, Any] = {
        "what": "prbench bench gpu" if setting.on_gpu else NO_GPU,
        "on_gpu": setting.on_gpu,
        "size": setting.size.name,
        "prbench": prbench.__version__,
        "commit": provenance.commit(),
        "host": platform.node(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes_allowed": minutes,
        "parts": {},
    }
    for i, part in enumerate(PARTS):
        allowed = max(0.0, whole.left) * part.share / sum(other.share for other in PARTS[i:])
        began = time.monotonic()
        say(f"{part.name}: {allowed:.0f} s")
        found["parts"][part.name] = {**_done(part, setting, Clock(allowed)), "seconds": time.monotonic() - began}
        found["seconds"] = time.monotonic() - start
        _write(out, found)
    return found


def _device(device: str) -> str:
    """The device, never a CPU that was not named."""
    if device == "auto" and resolved_device(device) == "cpu":
        raise InputError(
            "there is no GPU here that torch can use: nothing was measured",
            hint="--device cpu goes through every part at a tiny size; it is not a measurement of a GPU",
        )
    device = resolved_device(device)
    require_device(device)
    return device


def _done(part: Part, setting: Setting, clock: Clock) -> dict[str, Any]:
    try:
        return asdict(part.measure(setting, clock))
    except Exception as error:
        setting.say(f"{part.name} failed: {type(error).__name__}: {error}")
        failed = asdict(Outcome(left_out=[f"the rest of this part: {type(error).__name__}: {error}"]))
        return {**failed, "traceback": traceback.format_exc()}


def _write(out: Path, found: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    plain = _finite(found)
    write_text(out / JSON, json.dumps(plain, indent=2, allow_nan=False, default=str) + "\n")
    write_text(out / PAGE, page.render(plain))


def _finite(value: Any) -> Any:
    """The value with numbers that JSON has none for as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
