"""Threads, precision and memory of a computation."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from threadpoolctl import threadpool_limits


def peak_memory(device: str) -> int:
    """The most memory held so far, in bytes: by torch on a GPU since its counter was reset, else by this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    # Linux counts kibibytes, macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


# Updates that touch less than this run on one thread. On 2 cores with another program on them, 2 threads took 60 ms
# for a small update that one thread makes in 1 ms.
PARALLEL_BYTES = 4 * 2**20

Precision = Literal["highest", "high", "medium"]


@contextmanager
def threads_for(bytes_per_update: float) -> Iterator[None]:
    """One CPU thread while updates touch little memory: waking a second one would then cost more than it saves."""
    before = torch.get_num_threads()
    if bytes_per_update < PARALLEL_BYTES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
