"""Figures that look the same for everyone: no setting of the person's matplotlib, no backend, no raw warning."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Text stays text in the PDF; the file says nothing of when it was made, so that equal results give equal files.
SETTINGS: dict[str, Any] = {"pdf.fonttype": 42, "axes.titlesize": "medium", "legend.frameon": False}
METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}}


@contextmanager
def own_style(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """matplotlib's defaults, seaborn's paper style on a white grid, `SETTINGS` and then `changes`.

    What a matplotlibrc, MPLBACKEND or earlier code of this process set does not count here, but again after it.
    A character that the font lacks is drawn as a box, without a warning.
    """
    _import_without_backend()
    import seaborn as sns
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        rcdefaults()
        rcParams.update(sns.axes_style("whitegrid") | sns.plotting_context("paper") | SETTINGS | dict(changes or {}))
        yield


def _import_without_backend() -> None:
    """Import pyplot, as seaborn does, with a backend that is always there: notebooks name one that may not be."""
    if "matplotlib" in sys.modules:
        return
    named = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib.pyplot  # noqa: F401
    finally:
        if named is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = named
