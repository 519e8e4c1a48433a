"""How prbench scales: one grid with several numbers of workers, and the paper's whole grid on several machines.

The grid is the same plan each time, one thread a worker, in an empty folder of results: what differs is the number of
processes. The paper's grid is projected: its jobs are timed one by one on simulated data of the real shapes, from a
little of each recipe, and a model of the scheduler (`prbench.timing.schedule`) puts them on machines.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prbench import registry
from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry import methods as method_entries
from prbench.registry.schema import MethodEntry
from prbench.results import cells
from prbench.running import run
from prbench.running.execution import Execution
from prbench.running.plan import plan
from prbench.running.request import RunRequest
from prbench.timing import fit
from prbench.timing.recipe import TooLongError, recipe_time
from prbench.timing.schedule import Job, Schedule, schedules
from prbench.training.compute import compute_threads

GRID = ("bt", "lore", "lore-k2", "mrm", "mrm-batch-8", "np", "pal", "rfm")
"""Methods of similar length, as the rows of a table are."""
GRID_DATA, GRID_SPLITS = "simulated", 1
MACHINES = (1, 8, 64)
PAPER = {"prism": "sim-prism", "reddit100": "sim-reddit100", "reddit150": "sim-reddit150"}
"""The paper's data sets, and simulated ones of their shapes."""
ENCODERS = 2
SPLITS = 20
TWICE = ("validation",)
"""Rules under which a recipe is trained twice: to choose where it ends, and again on all choices."""


class Workers(NamedTuple):
    """The grid with so many workers: seconds, and the share of the ideal speed-up that was reached."""

    workers: int
    seconds: float
    speed_up: float
    efficiency: float


class Grid(NamedTuple):
    """One grid with several numbers of workers; `same_scores` says whether all of them gave the same bits."""

    methods: tuple[str, ...]
    data: str
    splits: int
    cores: int
    rows: list[Workers]
    same_scores: bool


class Projection(NamedTuple):
    """The paper's grid on several numbers of machines; `left_out` says what is not in it, and why."""

    jobs: list[Job]
    opening: dict[str, float]
    rows: list[Schedule]
    left_out: list[str]


def grid(
    workers: Sequence[int] | None = None,
    *,
    methods: Sequence[str] = GRID,
    data: str = GRID_DATA,
    splits: int = GRID_SPLITS,
    settings: Sequence[str] = (),
    rounds: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> Grid:
    """Run one grid with each number of workers (default: 1, 2 and, with four cores, 4), one thread each.

    They take turns for `rounds` rounds; of each the quickest time counts, for other programs only slow it down.
    `settings` are those of `--set`. Raises InputError for unknown names and where a job of the grid fails.
    """
    cores = _cores()
    counts = sorted(set(workers or [count for count in (1, 2, 4) if count <= max(2, cores)]) | {1})
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    made: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="prbench-scale-") as folder:
        for turn in range(rounds):
            for count in counts:
                out = Path(folder) / f"{turn}-{count}"
                request = RunRequest(
                    methods=tuple(methods),
                    datasets=(data,),
                    splits=splits,
                    device="cpu",
                    overrides=tuple(settings),
                    out=out,
                )
                with compute_threads(1):
                    outcome = run.execute(plan(request), execution=Execution(workers=count, threads=1))
                if outcome.failed:
                    raise InputError(f"{outcome.failed} results of the grid failed with {count} workers")
                seconds[count].append(outcome.seconds)
                made.add(_scores(outcome))
                told(f"{count} workers: {outcome.seconds:.1f} s")
    alone = min(seconds[1])
    rows = [
        Workers(count, min(own), alone / min(own), alone / min(own) / count) for count, own in sorted(seconds.items())
    ]
    return Grid(tuple(methods), data, splits, cores, rows, len(made) == 1)


def projection(
    machines: Sequence[int] = MACHINES,
    *,
    shapes: dict[str, str] | None = None,
    methods: Sequence[str] | None = None,
    splits: int = SPLITS,
    seconds: float = 1.0,
    device: str = "cpu",
    told: Callable[[str], None] = lambda _: None,
) -> Projection:
    """The grid of `prbench run --report paper` on machines like this one, with embeddings at hand.

    `shapes` are the simulated data sets in whose place each of the paper's is timed; `methods` are by default all of
    the report that read embeddings, on each data set and two encoders; updates of each are timed for `seconds`.
    Probes are left out. Raises InputError for unknown names.
    """
    shapes = PAPER if shapes is None else shapes
    entries = [registry.get("methods", name) for name in methods] if methods is not None else paper_methods()
    jobs: list[Job] = []
    opening: dict[str, float] = {}
    left_out = ["probes, and methods that ask a judge model"]
    for data, name in shapes.items():
        start = time.perf_counter()
        shape = fit.shape_of(name, splits)
        took = time.perf_counter() - start
        for entry in entries:
            told(f"{entry.name} on {name}")
            method = method_entries.make_method(entry, shape.entry, {})
            if reason := method.unsupported(shape.comparisons):
                left_out.append(f"{entry.name} on {data}: {reason}")
                continue
            try:
                timed = recipe_time(method, shape, device=device, seconds=seconds, expired=lambda: False, loop=False)
            except (TooLongError, RuntimeError, ValueError) as error:
                left_out.append(f"{entry.name} on {data}: {error}")
                continue
            trained = 2 if entry.selection in TWICE else 1
            jobs.append(Job(entry.name, data, trained * timed["fit_seconds"] + timed["rest_seconds"]))
        opening[data] = took
    # The two encoders' embeddings are of one width; a plan goes through one of them after the other.
    both = [
        Job(job.name, f"{job.data}, encoder {encoder}", job.seconds)
        for data in shapes
        for encoder in range(1, ENCODERS + 1)
        for job in jobs
        if job.data == data
    ]
    opened = {f"{data}, encoder {encoder}": took for data, took in opening.items() for encoder in (1, 2)}
    return Projection(both, opened, schedules(both, opened, machines) if both else [], left_out)


def paper_methods() -> list[MethodEntry]:
    """The methods of the report `paper` that read embeddings, in its order."""
    pieces: list[dict[str, Any]] = registry.get("reports", "paper").options["pieces"]
    names = dict.fromkeys(name for piece in pieces for name in piece.get("methods", ()))
    found = [registry.get("methods", name) for name in names]
    return [entry for entry in found if entry.family != "judge"]


def _scores(outcome: run.Outcome) -> str:
    """A digest of all margins of a run."""
    import pandas as pd

    state = hashlib.sha256()
    for job in outcome.plan.jobs:
        for cell in job.cells:
            table = pd.read_parquet(cells.scores_file(cell.folder, ALL_SHOTS))
            for column in ("margin", "cold_margin"):
                state.update(table[column].to_numpy().tobytes())
    return state.hexdigest()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
