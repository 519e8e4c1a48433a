"""The options that reports share, `[options]` of a report's entry: what they may be."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from prbench import registry
from prbench.base.errors import InputError, near

if TYPE_CHECKING:
    from prbench.reporting.placing import PlacedResults
    from prbench.results import Results

LEAST_RESAMPLES = 100


def require_options(results: PlacedResults, *, baseline: Any, alpha: Any, resamples: Any, shots: Any = -1) -> None:
    """Raise InputError for an option of another type or outside its range, and for a baseline that is not a method.

    A registered method that was not run may be the baseline: the report then says that there is none.
    """
    correct = "correct [options] of the report's entry"
    if not isinstance(alpha, float | int) or isinstance(alpha, bool) or not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha!r}, not a number between 0 and 1", hint=correct)
    if not _whole(resamples) or resamples < LEAST_RESAMPLES:
        raise InputError(f"resamples is {resamples!r}, not a whole number from {LEAST_RESAMPLES}", hint=correct)
    if not _whole(shots) or shots < -1:
        raise InputError(f"shots is {shots!r}, not a whole number from 0, or -1 for all there are", hint=correct)
    rows = sorted({cell.method for cell in results.cells})
    if not isinstance(baseline, str) or baseline not in {*rows, *registry.names("methods")}:
        guess = near(baseline, rows) if isinstance(baseline, str) else ""
        raise InputError(
            f"baseline is {baseline!r}, which no row has{guess}",
            hint=f"correct --baseline or [options] of the report's entry: there are {', '.join(rows)}",
        )


def of_methods(results: Results, patterns: str) -> Results:
    """The part of the results that belongs to methods named by `patterns`: names and patterns, comma-separated.

    Raises InputError for a name or pattern that no row has.
    """
    from prbench.results import Results

    chosen = set(rows_named(results, patterns, "--methods"))
    scores = results.scores[results.scores["method"].isin(chosen)]
    cells = [cell for cell in results.cells if cell.method in chosen]
    return Results(scores, cells, results.folder, results.rounding)


def rows_named(results: Results, patterns: str, option: str) -> list[str]:
    """The methods of the results that `patterns` name, sorted. Raises InputError for one that no row has."""
    rows = sorted({cell.method for cell in results.cells})
    chosen: set[str] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        fitting = {name for name in rows if name == pattern or fnmatchcase(name, pattern)}
        if not fitting:
            raise InputError(
                f"{option} {pattern}: no row fits it{near(pattern, rows)}", hint=f"there are {', '.join(rows)}"
            )
        chosen |= fitting
    if not chosen:
        raise InputError(f"{option} is empty", hint=f"there are {', '.join(rows)}")
    return sorted(chosen)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
