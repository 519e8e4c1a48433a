"""A model of the machines that share a plan: who takes which job when, and what limits them.

As in a run, jobs are taken in the order of the plan, each by the next machine that is free, and a job is never
divided: all splits of a method on a data set are trained together. A machine opens a data set, once, before its first
job on it in a row.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

NEAR = 0.9
"""A run that lasts no longer than its longest job, but for a tenth, is limited by it."""
OPENING = 0.25
"""From this share of the machines' work on, opening data sets is what limits a run."""


class Job(NamedTuple):
    """A method on a data set, and the seconds that one machine takes for it."""

    name: str
    data: str
    seconds: float


class Schedule(NamedTuple):
    """How a plan goes on so many machines.

    `seconds` is when the last job ends, `share_busy` the share of the machines' time that goes into jobs,
    `speed_up` is against one machine; `limit` says in words what keeps it from being shorter.
    """

    machines: int
    seconds: float
    speed_up: float
    share_busy: float
    limit: str


def schedules(jobs: Sequence[Job], opening: Mapping[str, float], machines: Iterable[int]) -> list[Schedule]:
    """The plan on each number of machines; `opening` are the seconds that opening each data set takes."""
    alone, _ = last_end(jobs, opening, 1)
    return [_schedule(jobs, opening, count, alone) for count in machines]


def last_end(jobs: Sequence[Job], opening: Mapping[str, float], machines: int) -> tuple[float, float]:
    """When the last job ends, and the seconds that the machines spent on opening data sets."""
    free = [(0.0, number, "") for number in range(machines)]
    opened = end = 0.0
    for job in jobs:
        time, number, data = heapq.heappop(free)
        if data != job.data:
            time += opening.get(job.data, 0.0)
            opened += opening.get(job.data, 0.0)
        time += job.seconds
        end = max(end, time)
        heapq.heappush(free, (time, number, job.data))
    return end, opened


def _schedule(jobs: Sequence[Job], opening: Mapping[str, float], machines: int, alone: float) -> Schedule:
    end, opened = last_end(jobs, opening, machines)
    work = sum(job.seconds for job in jobs)
    longest = max(jobs, key=lambda job: job.seconds)
    sorted_end, _ = last_end(sorted(jobs, key=lambda job: -job.seconds), opening, machines)
    if machines > 1 and longest.seconds >= NEAR * end:
        limit = f"its longest job, {longest.name} on {longest.data}: more machines do not help"
    elif opened >= OPENING * (work + opened):
        limit = "opening the data sets on every machine"
    elif machines > 1 and sorted_end <= NEAR * end:
        limit = f"the order: long jobs begin late, longest first it would take {sorted_end:,.0f} s"
    else:
        limit = "the work: more machines help" if machines < len(jobs) else "the number of jobs"
    return Schedule(machines, end, alone / end, work / (end * machines), limit)
