"""What the pieces of this report share: families of tests over the rows of one table, and sentences from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray
from prbench.protocol import stats
from prbench.reporting.grid import STAR, interval, percent
from prbench.reporting.page.findings import listed
from prbench.reporting.significance import TEST, holm_adjusted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RowTest:
    """One row's difference with its test; `p` is Holm-adjusted over the rows of its table, NaN where undefined."""

    name: str
    result: stats.Comparison
    p: float

    def sign(self, alpha: float) -> int:
        """1 where the difference is above 0 beyond noise, −1 where below; 0 where noise may explain it."""
        if not self.p < alpha:
            return 0
        return 1 if self.result.difference > 0 else -1

    def text(self, alpha: float, digits: int = 1) -> str:
        """The difference in points, with a star where it is beyond noise."""
        return percent(self.result.difference, signed=True, digits=digits) + STAR * bool(self.sign(alpha))

    @property
    def over_users(self) -> str:
        """The interval of the bootstrap over users, in points."""
        return interval(*self.result.bootstrap)


def by_user(frame: pd.DataFrame, column: str) -> FloatArray:
    """A column of lines with `user` and `split` as [users, splits], NaN where a user was not tested."""
    return np.asarray(frame.pivot(index="user", columns="split", values=column).to_numpy(dtype=np.float64))


def family(
    differences: Mapping[str, FloatArray], *, ratio: float, alpha: float, resamples: int, axes: Sequence[str]
) -> dict[str, RowTest]:
    """Each row's differences [users, splits] from 0, tested; p-values adjusted over all of them by Holm.

    `ratio` as `stats.resampling_ratio`, NaN where the corrected test is not defined; `axes` name the random streams.
    """
    results = {
        name: stats.compare(
            d, np.zeros_like(d), ratio=ratio, rng=Rng("matters", *axes, name), level=1 - alpha, resamples=resamples
        )
        for name, d in differences.items()
    }
    adjusted = holm_adjusted([result.corrected.p for result in results.values()])
    return {name: RowTest(name, results[name], float(p)) for name, p in zip(results, adjusted, strict=True)}


def rule_of(count: int, alpha: float) -> str:
    """The test with its family and level, for sentences and captions."""
    return f"{TEST}, Holm over the {count} rows, p < {alpha:g}"


def sorted_by_sign(tests: Mapping[str, RowTest], alpha: float) -> tuple[list[str], list[str], list[str]]:
    """The names whose difference is above 0 beyond noise, below it, and neither (undefined tests included)."""
    signs = {name: tested.sign(alpha) for name, tested in tests.items()}
    return tuple([name for name, sign in signs.items() if sign == s] for s in (1, -1, 0))  # type: ignore[return-value]


def undefined(tests: Mapping[str, RowTest]) -> bool:
    """Whether no row's test is defined."""
    return all(math.isnan(tested.p) for tested in tests.values())


def names(titles: Sequence[str]) -> str:
    """A list of names, "none" where there is none."""
    return listed(list(titles)) if titles else "none"
