"""Does it matter to a person? `prbench report matters --runs runs --out out`.

Which tables and figures there are is data (reports/matters.toml); each is a function of the evidence, as in the
paper's report, and may say in sentences what follows from its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.protocol import stats
from prbench.registry import marks
from prbench.reporting.paper import write_pieces

if TYPE_CHECKING:
    from prbench.results import Results

WHERE = "reports/matters.toml"
TITLE = "Does it matter to a person?"


@marks.report
def matters(
    results: Results,
    out: Path,
    *,
    pieces: Sequence[Any],
    baseline: str = "bt",
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
) -> list[Path]:
    """Write every piece and a page with all of them; returns the paths. Raises InputError as the paper's report."""
    return write_pieces(results, out, pieces, WHERE, baseline, alpha, resamples, title=TITLE)
