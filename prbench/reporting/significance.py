"""Which differences are said to be real: the test, the families it is adjusted over, verdicts, and their words.

The rule is one everywhere: the corrected resampled t-test (Nadeau and Bengio 2003), adjusted by Holm's procedure over
a family of comparisons that was fixed before the results were seen. `Verdict.sign` is the only place that decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from prbench.protocol import stats
from prbench.reporting.grid import DAGGER, STAR, STARTS

if TYPE_CHECKING:
    from prbench.reporting.pairs import Pair

TEST = "corrected resampled t-test"
# A difference below this many standard errors of the random starts is marked.
START_ERRORS = 2
STARTS_SAID = "other random starts may explain it"


def rule(family: str = "") -> str:
    """The test with what it is adjusted over, such as "corrected resampled t-test, Holm over all 3 pairs"."""
    return f"{TEST}, Holm {family}" if family else TEST


def plain_rule(alpha: float) -> str:
    """The criterion that papers print, and why it is not the one that decides."""
    return f"p < {alpha:g} in a plain paired t-test, which takes splits for independent"


def listed_here(count: int, noun: str) -> str:
    """Such as "the 3 rows listed here" or "the one row listed here"."""
    return f"the {count} {noun}s listed here" if count > 1 else f"the one {noun} listed here"


def star_note(alpha: float, family: str, test: str = f"the {TEST}") -> str:
    """The star in words, for a table's notes; `family` names the comparisons, such as "the 3 rows listed here"."""
    return f"{STAR}: p < {alpha:g} in {test}, Holm-adjusted over {family}."


def dagger_note(alpha: float) -> str:
    """The dagger in words, for a table's notes."""
    return f"{DAGGER}: {plain_rule(alpha)}; without adjustment, the criterion that papers print."


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family after Holm's procedure, in the same order; see `stats.holm` for those undefined."""
    return [float(p) for p in stats.holm(p_values)]


class Verdict(NamedTuple):
    """A comparison, the adjusted p-value that decides it, and the words for its test."""

    pair: Pair
    p: float
    test: str = TEST

    def sign(self, alpha: float) -> int:
        """1 where a beats b beyond noise, −1 where it falls short; 0 where noise may explain it or p is undefined."""
        if not self.p < alpha:
            return 0
        return 1 if self.pair.result.difference > 0 else -1

    def undecided(self, alpha: float) -> bool:
        """Whether a test was made and did not tell the two apart."""
        return not math.isnan(self.p) and self.sign(alpha) == 0

    def interval(self, alpha: float) -> stats.Interval:
        """The interval of the difference that agrees with the adjusted p-value: without 0 exactly where p < alpha."""
        return agreeing_interval(self.pair.result, self.p, alpha)


@dataclass(frozen=True)
class Family:
    """Comparisons that are judged together; `name` says which, such as "over all 3 pairs"."""

    name: str
    pairs: Sequence[Pair]

    def adjusted(self) -> list[float]:
        """Holm's adjustment of the corrected test's p-values, in the order of the pairs."""
        return holm_adjusted([pair.result.corrected.p for pair in self.pairs])

    def verdicts(self) -> list[Verdict]:
        """A verdict on every comparison."""
        return [Verdict(pair, p, rule(self.name)) for pair, p in zip(self.pairs, self.adjusted(), strict=True)]


def agreeing_interval(result: stats.Comparison, adjusted: float, alpha: float) -> stats.Interval:
    """`result.interval`, which is of level 1 − alpha, widened by as much as `adjusted` is above the test's own p.

    Adjusted and plain p-value differ by a factor; dividing alpha by it makes interval and adjusted p agree.
    """
    from scipy.stats import t as student

    raw = result.corrected.p
    low, high = result.interval
    if math.isnan(low) or math.isnan(raw) or math.isnan(adjusted):
        return stats.NO_INTERVAL
    if raw <= 0 or adjusted <= raw or high <= low:
        return result.interval
    degrees = result.n_splits - 1
    wider = float(student.isf(alpha * raw / adjusted / 2, degrees) / student.isf(alpha / 2, degrees))
    half = wider * (high - low) / 2
    return stats.Interval(result.difference - half, result.difference + half)


def marks(pair: Pair | None, alpha: float) -> str:
    """The star of the corrected and Holm-adjusted test, the dagger of the plain one, and that of random starts."""
    if pair is None:
        return ""
    star = STAR if Verdict(pair, pair.p_table).sign(alpha) else ""
    return star + (DAGGER if pair.result.plain.p < alpha else "") + starts_mark(pair)


def starts_mark(pair: Pair) -> str:
    """The mark of a difference that other random starts may explain."""
    return STARTS if starts_may_explain(pair.result, pair.start_error) else ""


def starts_may_explain(result: stats.Comparison, error: float) -> bool:
    """Whether a difference is smaller than what random starts leave in it; false where their spread is not known.

    `error` is `stats.start_error` of the two that are compared.
    """
    return abs(result.difference) < START_ERRORS * error


def starts_rule() -> str:
    """The rule of the mark in words, for a table's notes."""
    return (
        f"{STARTS}: {STARTS_SAID}: the difference is below {START_ERRORS} standard errors, as the spread over starts "
        "within splits gives them; a row fitted from one start counts as without spread."
    )
