"""The page of published claims: `prbench report claims`, and a page of the site."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prbench import registry
from prbench.base.console import stdout
from prbench.base.errors import InputError
from prbench.base.files import write_text
from prbench.registry import marks
from prbench.reporting import writers
from prbench.reporting.claims import MEASURES, Claim, Outcome, commands, outcomes, read_claims, verdict_of
from prbench.reporting.frames import _write_csv
from prbench.reporting.grid import DASH, Grid, TableCell, interval, percent
from prbench.reporting.site.pages import Link, render
from prbench.results import Results

HEADER = ("Data set", "Method", "What", "Printed", "Here", "Verdict", "95% interval", "Splits", "Read by", "Why")


class ExaminedClaim(NamedTuple):
    """A claim, what came of its tests, its verdict and the commands that make its rows."""

    claim: Claim
    outcomes: list[Outcome]
    verdict: str
    commands: list[str]
    grid: Grid


@marks.report
def claims(results: Results, out: Path, *, claims: Sequence[Any]) -> list[Path]:
    """Write claims.html, claims.csv and claims.md below `out`; returns their paths, the page first.

    `claims` are tables as in `prbench.reporting.claims.Claim`. Raises InputError for malformed ones, and where
    results that do not belong together would make a row.
    """
    import pandas as pd

    shown = examined(read_claims(claims, _entry_of(claims)), results)
    write_text(out / "claims.html", page(shown, []))
    write_text(out / "claims.md", "\n".join(f"{writers.markdown(each.grid)}" for each in shown))
    table = pd.DataFrame([_record(each.claim, outcome) for each in shown for outcome in each.outcomes])
    paths = [out / "claims.html", _write_csv(table, out / "claims.csv"), out / "claims.md"]
    for each in shown:
        stdout().print(writers.rich_table(each.grid))
    return paths


def examined(read: Sequence[Claim], results: Results) -> list[ExaminedClaim]:
    """Each claim against the results; those of which something was run come first."""
    examined_claims = []
    for claim in read:
        claim_outcomes = outcomes(claim, results)
        verdict = verdict_of(claim_outcomes)
        grid = _grid(claim, claim_outcomes, verdict)
        examined_claims.append(ExaminedClaim(claim, claim_outcomes, verdict, commands(claim.tests), grid))
    return sorted(examined_claims, key=lambda each: all(outcome.verdict == "not run" for outcome in each.outcomes))


def registered() -> list[Claim]:
    """The claims of the entry `claims`. Raises InputError where they are malformed."""
    where = str(registry.source("reports", "claims"))
    return read_claims(registry.get("reports", "claims").options.get("claims"), where)


def page(shown: Sequence[ExaminedClaim], links: Sequence[Link]) -> str:
    """The page; `links` are those of its search box."""
    return render("claims.html.j2", "", links, title="Published claims", shown=shown, measures=MEASURES)


def _entry_of(claims: Sequence[Any]) -> str:
    """The file of the entry that has these claims."""
    for name in registry.names("reports"):
        # An entry that is broken is another one.
        with contextlib.suppress(InputError):
            if registry.get("reports", name).options.get("claims") == list(claims):
                return str(registry.source("reports", name))
    return "claims"


def _grid(claim: Claim, claim_outcomes: Sequence[Outcome], verdict: str) -> Grid:
    return Grid(
        title=f"{claim.title} Verdict: {verdict}",
        header=HEADER,
        rows=[[TableCell(text) for text in _texts(outcome)] for outcome in claim_outcomes],
        rules=(),
        notes=[f"{claim.says} ({claim.source})", *claim.notes],
        label=f"claim:{claim.name}",
        first=("Printed", "Here", "Verdict", "Method"),
        file="claims.csv",
    )


def _texts(outcome: Outcome) -> list[str]:
    check = outcome.check
    difference = check.measure == "gain"
    number = percent(outcome.value, signed=difference, digits=2 if difference else 1)
    ends = interval(outcome.low, outcome.high) if difference else _between(outcome)
    return [
        check.dataset + (" (other data)" if check.related else ""),
        f"{check.method} − {check.over}" if check.over else check.method,
        check.measure + ("" if check.population == "overall" else f", {check.population}"),
        DASH if check.printed is None else f"{check.printed:.{check.digits}f}",
        f"spread {number}" if check.measure == "starts" and not math.isnan(outcome.value) else number,
        outcome.verdict,
        ends,
        str(outcome.splits or DASH),
        check.reader or "not said",
        outcome.why,
    ]


def _between(outcome: Outcome) -> str:
    return DASH if math.isnan(outcome.low) else f"[{percent(outcome.low)}, {percent(outcome.high)}]"


def _record(claim: Claim, outcome: Outcome) -> dict[str, Any]:
    check = outcome.check
    return {
        "claim": claim.name,
        **check.model_dump(exclude={"digits"}),
        "value": outcome.value,
        "low": outcome.low,
        "high": outcome.high,
        "n_splits": outcome.splits,
        "verdict": outcome.verdict,
        "why": outcome.why,
        "command": next(iter(commands([check])), ""),
    }
