"""Locks of a results folder, `runs/.claims/<name>.lock`, of which nothing is left when the last program goes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import Timeout

from prbench.base.errors import InputError
from prbench.base.locks import alone

SHARED = ".claims"
"""Beside the data sets of a results folder: what its programs tell one another."""


def clear(folder: Path) -> None:
    """Remove the locks of `folder` that nobody holds, and the folder, where no claim is left in it."""
    if not folder.is_dir():
        return
    with contextlib.suppress(OSError, InputError), alone(folder, "claims"):
        if any(folder.glob("*.json")):
            return
        for path in folder.glob("*.lock"):
            if path.stem != "claims":
                with contextlib.suppress(Timeout), alone(folder, path.stem, timeout=0):
                    path.unlink()
        (folder / "claims.lock").unlink()
        folder.rmdir()
