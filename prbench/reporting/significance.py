"""Which differences are said to be real, and the marks that say so in tables."""

from __future__ import annotations

from prbench.reporting.board import Pair
from prbench.reporting.grid import DAGGER, STAR


def marks(pair: Pair | None, alpha: float) -> str:
    """The star of the corrected and Holm-adjusted test, the dagger of the plain one."""
    if pair is None:
        return ""
    star = STAR if pair.holm_table < alpha else ""
    return star + (DAGGER if pair.result.plain.p < alpha else "")
