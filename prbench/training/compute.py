"""Threads, precision and memory of a computation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psutil
import torch
from threadpoolctl import threadpool_limits


def peak_memory(device: str) -> int:
    """The most memory held so far, in bytes: by torch on a GPU since its counter was reset, else by this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # Linux counts kibibytes, macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# Work is divided among threads only where each then touches this much in an update. On 2 cores with another program
# on them, 2 threads took 60 ms for a small update that one thread makes in 1 ms.
PARALLEL_BYTES = 4 * 2**20
# How many threads train splits side by side now: they share the memory that is free.
_beside = 1
# The most that this process may hold, 0 for all there is: on a cluster a machine is shared with other jobs.
_limit = 0

Precision = Literal["highest", "high", "medium"]


@contextmanager
def beside(threads: int) -> Iterator[None]:
    """While `threads` threads train splits side by side; see `free_memory`."""
    global _beside
    before, _beside = _beside, threads
    try:
        yield
    finally:
        _beside = before


def free_memory(device: str) -> int:
    """The bytes that are free on the device, on a CPU each training thread's share of them."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    free = int(psutil.virtual_memory().available)
    if _limit:
        free = min(free, max(0, _limit - int(psutil.Process().memory_info().rss)))
    return free // _beside


def limit_memory(most: int) -> None:
    """Let this process choose what it lays out as if it had `most` bytes; 0 for all that the machine has."""
    global _limit
    _limit = most


@contextmanager
def computing(precision: Precision = "highest") -> Iterator[None]:
    """What holds while a method is fitted, adapted or scored; put back after.

    `precision` says how exact products of float32 matrices are inside, as torch's `set_float32_matmul_precision`:
    "highest" multiplies in float32. "high" may use TF32 on a GPU. "medium" may round factors to bfloat16, which a
    CPU with matrix units (AMX) multiplies several times as fast; sums stay in float32.

    numpy's and scipy's own products run on one CPU thread, for their threads and torch's hinder each other: on 2
    cores a fit whose gradients are torch's and whose minimiser is scipy's took five times as long with both.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def compute_threads(threads: int | None, workers: int = 1) -> Iterator[None]:
    """The number of compute threads of this process, and of each worker that it starts; put back after.

    By default as many as torch takes, with several workers each an equal share of the cores.
    """
    before = torch.get_num_threads()
    if threads is not None or workers > 1:
        torch.set_num_threads(threads or max(1, _cores() // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    """The number of CPU cores that this process may use."""
    # macOS has no such mask.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
