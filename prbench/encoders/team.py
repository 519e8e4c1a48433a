"""Processes that share the work, one per GPU, started by `accelerate launch` or `torchrun`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from prbench.base.errors import InputError
from prbench.encoders.base import resolved_device


@dataclass(frozen=True)
class Team:
    """The place of this process among `size` that share the work, and the device that is its own."""

    device: str
    index: int = 0
    size: int = 1
    state: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.index == 0

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def leave(self) -> None:
        """Part from the other processes."""
        if self.state is not None:
            self.state.destroy_process_group()


def join(device: str) -> Team:
    """The team of this process on `device` ("auto", "cpu", "cuda"): itself alone, unless it was launched with others.

    Raises InputError when it was, and accelerate, which connects them, is not installed.
    """
    device = resolved_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Team(device)
    try:
        from accelerate import PartialState
    except ImportError:
        raise InputError(
            "several processes share the work through accelerate, which is not installed",
            hint="pip install 'prbench[multi-gpu]', or run a single process",
        ) from None
    state = PartialState(cpu=device == "cpu")
    own_device = str(state.device) if device.startswith("cuda") else device
    return Team(own_device, state.process_index, state.num_processes, state)
