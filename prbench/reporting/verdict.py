"""Does personalising pay here? One answer for a board, by a rule that is fixed before its results are seen.

A method gains only where it beats both its own cold start and the reference: `bt-ridge`, or `bt` where that was not
run. Its p-value is the larger of the two tests', Holm-adjusted over the personalised methods that were asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prbench.base.seeds import Rng
from prbench.protocol import stats
from prbench.reporting.grid import percent
from prbench.reporting.pairs import user_values
from prbench.reporting.significance import (
    STARTS_SAID,
    TEST,
    Verdict,
    agreeing_interval,
    holm_adjusted,
    starts_may_explain,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from prbench.reporting.board import Board, Row

    FloatArray = npt.NDArray[np.float64]

REFERENCES = ("bt-ridge", "bt")
PERSONALISED = ("personalised input", "personalised parameters")
# Adaptation that changes fewer decisions than this is called no personalisation.
FEW_FLIPS = 0.01
POWER = 0.8
DRAWS = 2_000


@dataclass(frozen=True)
class Gain:
    """A personalised row against the reference and against its own cold start, and the p-value of both together.

    `start_errors` are the standard errors that random starts leave in the two differences.
    """

    row: Row
    over_reference: stats.Comparison
    over_cold_start: stats.Comparison
    p: float
    start_errors: tuple[float, float] = (math.nan, math.nan)

    @property
    def starts_may_explain(self) -> bool:
        """Whether the deciding difference is smaller than what random starts leave in it."""
        return starts_may_explain(self.deciding, self.start_errors[0 if self.decided_by_reference else 1])

    @property
    def deciding(self) -> stats.Comparison:
        """The comparison that the p-value belongs to."""
        return max((self.over_reference, self.over_cold_start), key=one_sided)

    @property
    def decided_by_reference(self) -> bool:
        """Whether that is the comparison with the reference."""
        return self.deciding is self.over_reference


@dataclass(frozen=True)
class Answer:
    """What a board says. `gains` are all that were asked, the largest deciding difference first.

    `detectable` are the smallest gains over the reference that this many and twice as many users show with a
    probability of 80%, as fractions; NaN where no test can be made.
    """

    reference: Row | None
    asked: tuple[Row, ...]
    gains: tuple[Gain, ...] = ()
    users: int = 0
    detectable: tuple[float, float] = (math.nan, math.nan)

    def winners(self, alpha: float) -> list[Gain]:
        """The rows that gain beyond noise, the most accurate first."""
        won = [gain for gain in self.gains if gain.p < alpha]
        return sorted(won, key=lambda gain: -gain.row.value("overall"))

    @property
    def hardly_adapt(self) -> bool:
        """Whether no row flips one decision in a hundred."""
        return bool(self.asked) and all(row.value("overall", "flip_rate") < FEW_FLIPS for row in self.asked)


def one_sided(result: stats.Comparison) -> float:
    """The p-value of a claim that the first is better: 1 where it is not, else that of the two-sided test."""
    return 1.0 if result.difference <= stats.ROUNDING else result.corrected.p


def _personalised(row: Row) -> bool:
    """Whether a row is one of those whose gain answers the question; of judges, those that know a user's choices."""
    adapts = row.family == "judge" and row.value("overall", "flip_rate") > 0
    return row.family in PERSONALISED or adapts


def answer(board: Board, users: pd.DataFrame) -> Answer:
    """The board's answer; `users` is `metrics.user_metrics` of the board, as means over the starts of each split."""
    asked = tuple(r for r in board.rows if r.rankable and r.counted and _personalised(r))
    reference = next((r for name in REFERENCES for r in _rows_of(board, name)), None)
    if reference is None or not asked:
        return Answer(reference, asked)
    base = user_values(users, reference, "accuracy")
    comparisons = []
    differences = []
    for row in asked:
        adapted, cold = (user_values(users, row, metric) for metric in ("accuracy", "cold_start"))
        shared = base.reindex(index=adapted.index, columns=adapted.columns)
        over_reference, over_cold = (
            stats.compare(
                adapted.to_numpy(),
                other.to_numpy(),
                ratio=board.ratio,
                rng=Rng("no bootstrap"),
                level=1 - board.alpha,
                resamples=0,
            )
            for other in (shared, cold)
        )
        comparisons.append((row, over_reference, over_cold))
        differences.append((adapted - shared).to_numpy())
    # An undefined p-value of either test leaves the claim without one.
    raw = [float(np.maximum(one_sided(a), one_sided(b))) for _, a, b in comparisons]
    gains = [
        Gain(row, a, b, float(p), _start_errors(row, reference, a.n_splits, b.n_splits))
        for (row, a, b), p in zip(comparisons, holm_adjusted(raw), strict=True)
    ]
    gains.sort(key=lambda gain: (gain.p if not math.isnan(gain.p) else 2.0, -gain.deciding.difference))
    level = board.alpha / len(asked)
    rng = Rng("power", board.dataset, board.encoder).numpy()
    seed = int(rng.integers(2**31))
    detectable = [
        float(np.median([smallest_gain(d, board.ratio, level, times=times, seed=seed) for d in differences]))
        for times in (1, 2)
    ]
    return Answer(reference, asked, tuple(gains), len(base), (detectable[0], detectable[1]))


def _start_errors(row: Row, reference: Row, splits: int, own_splits: int) -> tuple[float, float]:
    """What random starts leave in a row's differences from the reference and from its own cold start."""
    gain = row.gain_start_std.get("overall", math.nan), row.starts
    return (
        stats.start_error([row.start_spread(), reference.start_spread()], splits),
        stats.start_error([gain], own_splits),
    )


def smallest_gain(difference: FloatArray, ratio: float, alpha: float, *, times: int = 1, seed: int = 0) -> float:
    """The smallest true gain that the corrected test finds with a probability of 80%, by simulation.

    `difference` [users, splits]: what one row has more than another, NaN where a user was not tested. Users are drawn
    with replacement, `times` as many as there are, from the differences less their mean; a gain g is then found where
    (mean + g) / standard error exceeds the test's bound, so the 80% quantile of bound · error − mean is the answer.
    NaN where no test can be made.
    """
    from scipy.stats import t as student

    tested = ~np.isnan(difference)
    splits = int(tested.any(axis=0).sum())
    if splits < 2 or len(difference) < 2 or math.isnan(ratio):
        return math.nan
    tested, difference = tested[:, tested.any(axis=0)], difference[:, tested.any(axis=0)]
    values = np.where(tested, difference - np.nanmean(difference), 0.0)
    n = len(values)
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(times * n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    count = weight @ tested
    means = np.divide(weight @ values, count, out=np.zeros_like(count), where=count > 0)
    error = np.sqrt((1 / splits + ratio) * means.var(axis=1, ddof=1))
    bound = float(student.isf(alpha / 2, splits - 1))
    return float(np.quantile(bound * error - means.mean(axis=1), POWER))


def sentences(board: Board) -> list[str]:
    """The answer in words; no sentence where the board has none."""
    verdict = board.answer
    if verdict is None or not verdict.asked:
        return []
    if verdict.reference is None:
        return ["Whether personalising pays cannot be said: neither bt-ridge nor bt has results on all splits."]
    reference = verdict.reference.title
    instead = "" if verdict.reference.method == REFERENCES[0] else " (bt-ridge, the reference, was not run)"
    count = len(verdict.asked)
    rows = f"{count} personalised {'rows' if count > 1 else 'row'}"
    family = f", Holm over the {count} asked" if count > 1 else ""
    both = f"both its own cold start and {reference}{instead}"
    if verdict.hardly_adapt:
        flips = _listed([f"{row.title} {100 * row.value('overall', 'flip_rate'):.1f}%" for row in verdict.asked])
        return [
            "These results do not say whether personalising pays: the personalised methods hardly adapt (decisions "
            f"flipped: {flips}). Run methods that adapt in other ways."
        ]
    known = [gain for gain in verdict.gains if not math.isnan(gain.p)]
    if not known:
        return [f"Whether personalising pays cannot be tested: {_untested(board)}."]
    winners = verdict.winners(board.alpha)
    texts = []
    if winners:
        each = _listed([_words(gain, board, reference) for gain in winners])
        texts.append(
            f"Personalising pays here: {len(winners)} of {rows} beat{'s' * (len(winners) == 1)} {both}: {each}; "
            f"{TEST}, the larger p of the two tests{family}."
        )
        texts += _level(winners, board)
    else:
        near = [gain for gain in known if gain.deciding.difference > stats.ROUNDING]
        most = f"; the nearest to it is {_words(near[0], board, reference)}" if near else (
            "; each is level with one of the two or below it"
        )  # fmt: skip
        none = f"None of {rows} is" if count > 1 else "The personalised row is not"
        texts.append(
            f"A gain from personalising is not shown here. {none} better beyond noise than {both}{most} "
            f"({TEST}, the larger p of the two tests{family})."
        )
    detectable, twice = verdict.detectable
    if not math.isnan(detectable):
        texts.append(
            f"These {verdict.users} users and {board.splits} splits would show a gain over {reference} of "
            f"{100 * detectable:.1f} points with a probability of {POWER:.0%} (simulated from the stored "
            f"differences, median over the rows); with twice the users, of {100 * twice:.1f} points."
        )
    return texts


def _level(winners: Sequence[Gain], board: Board) -> list[str]:
    """Which of the rows that gain cannot be told apart from the best of them."""
    best = winners[0].row
    level = [best]
    for gain in winners[1:]:
        pair = board.pair(best, gain.row, "overall")
        if pair is None or not Verdict(pair, pair.p_all_pairs).sign(board.alpha):
            level.append(gain.row)
    if len(winners) == 1:
        return []
    if len(level) == 1:
        return [f"{best.title} is ahead of the others that gain."]
    return [f"Not told apart as the best of them: {_listed([row.title for row in level])}."]


def _words(gain: Gain, board: Board, reference: str) -> str:
    """Such as "MRM, +5.0 points over BT-ridge (adjusted 95% interval +3.0 to +7.0; p = 0.004)"."""
    result = gain.deciding
    other = reference if gain.decided_by_reference else "its cold start"
    low, high = agreeing_interval(result, gain.p, board.alpha)
    between = f"{percent(low, signed=True)} to {percent(high, signed=True)}"
    ends = f"adjusted {100 * (1 - board.alpha):g}% interval {between}; "
    p = "p < 0.001" if gain.p < 0.001 else f"p = {gain.p:.3f}"
    points = percent(result.difference, signed=True)
    starts = f"; {STARTS_SAID}" if gain.starts_may_explain else ""
    return f"{gain.row.title}, {points} points over {other} ({'' if math.isnan(low) else ends}{p}{starts})"


def _untested(board: Board) -> str:
    if board.splits < 2:
        return "the test needs two splits or more"
    return "the differences do not vary over the splits"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _rows_of(board: Board, method: str) -> list[Row]:
    """The rows that may be the reference: under the entry's own rule before others, tuned ones last."""
    rows = [row for row in board.rows if row.method == method and row.rankable]
    return sorted(rows, key=lambda row: (not row.published, row.selection == "tuned", row.selection))
