"""Which program wrote a file, and whether it still lives."""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple


class Writer(NamedTuple):
    """A process: the machine that numbers it, its number and its start, which tells it from a later one."""

    host: str
    pid: int
    start: str


@lru_cache(maxsize=1)
def host() -> str:
    """8 hex digits of this machine, of its boot and of the name space of its process numbers.

    Two containers of one machine number their processes apart, so they count as two hosts.
    """
    import hashlib
    import platform

    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def this_process() -> Writer:
    """The process that asks."""
    pid = os.getpid()
    return Writer(host(), pid, start_of(pid) or "0")


def start_of(pid: int) -> str | None:
    """When a process of this host started, in a unit of the system's; None where there is no such process."""
    try:
        # The name of a program, in brackets, may hold anything; the state and the rest follow it.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        pass
    import psutil

    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.Error:
        return None


def is_gone(writer: Writer) -> bool:
    """Whether a process of this host has ended; False for one of another host, of which nothing is known here."""
    return writer.host == host() and start_of(writer.pid) != writer.start
