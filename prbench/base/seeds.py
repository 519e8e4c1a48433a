"""Random streams named by what they are for, never by when they are drawn."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Rng:
    """A random stream identified by named axes, such as `Rng("mrm", "convarg", 42, "split", 3)`.

    Two streams with the same axes give the same numbers in any process and in any order of calls; streams
    that differ in one axis are independent.
    """

    def __init__(self, *axes: str | int) -> None:
        self.axes = axes

    def child(self, *axes: str | int) -> Rng:
        """The stream with further axes appended."""
        return Rng(*self.axes, *axes)

    @property
    def seed(self) -> int:
        """A 63-bit seed, the same on every platform and Python version."""
        text = "\x1f".join(f"{type(a).__name__}:{a}" for a in self.axes)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator at the start of this stream."""
        return np.random.default_rng(self.seed)

    def torch(self) -> torch.Generator:
        """A fresh CPU torch generator at the start of this stream.

        Draw on the CPU and move the numbers: they are then the same whatever the device.
        """
        import torch

        return torch.Generator().manual_seed(self.seed)

    def __repr__(self) -> str:
        return f"Rng({', '.join(map(repr, self.axes))})"
