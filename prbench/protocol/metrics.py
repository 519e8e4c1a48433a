"""Metrics of the results store: per user, per split, and over splits.

Conventions, the same everywhere:

- A decision is the sign of a margin. A margin of exactly 0 is a tie: half right, whoever was right.
- User accuracy is the share of one user's held-out comparisons that are decided as the user did. Accuracies and
  losses of a population are means over its users (the "macro user accuracy" of Cai et al. 2026, arXiv 2601.18731,
  §5.1.3), so that a user with many comparisons weighs no more than one with few.
- Tie rate and flip rate are shares of decisions: pooled over all comparisons of a population.
- `overall` is all users of a split, seen and unseen; it exists only where both are there.
- Nothing is averaged over a missing cell: what is missing has no row.
- A split may be fitted from several random starts (`restart` 0, 1, ...). Metrics are those of one fit; a mean over
  splits is one of means over their starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prbench.base.errors import InputError
from prbench.comparisons import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


ROW = ["dataset", "encoder", "method", "selection"]
CELL = [*ROW, "split", "restart", "shots"]
ALL_SHOTS = -1
"""The number of shots that stands for all the support there is."""
WORST = (10, 20, 50)
METRICS = ["accuracy", "cold_start", "tie_rate", "flip_rate", "bt_loss", *(f"worst{k}" for k in WORST)]


def decisions(margin: npt.ArrayLike) -> FloatArray:
    """How right each decision is, [n] -> [n]: 1 for a margin above 0, 0 below, and ½ for a tie."""
    return np.asarray((np.sign(np.asarray(margin)).astype(np.float64) + 1) / 2)


def flips(margin: npt.ArrayLike, cold_margin: npt.ArrayLike) -> FloatArray:
    """How much adaptation changed each decision, [n], [n] -> [n]: 1 when it was reversed, 0 when it stands.

    A tie is half of each decision, as in the accuracy, so a tie that became a decision, or a decision that
    became a tie, counts ½. The flip rate is therefore never below the gain in pooled accuracy over cold start.
    """
    return np.abs(decisions(margin) - decisions(cold_margin))


def bt_loss(margin: npt.ArrayLike) -> FloatArray:
    """The Bradley–Terry loss of each comparison in nats, [n] -> [n]: log(1 + exp(−margin)), without overflow."""
    return np.asarray(np.logaddexp(0.0, -np.asarray(margin, dtype=np.float64)))


def worst_k_curve(accuracy: npt.ArrayLike) -> FloatArray:
    """Mean accuracy of the worst k% of users for k = 1, …, 100: [users] -> [100].

    The worst k% of n users are the ⌈k·n/100⌉ users of the lowest accuracy: at least one user, never fewer than
    k%, and all of them at k = 100. Raises ValueError without users.
    """
    ordered = np.sort(np.asarray(accuracy, dtype=np.float64))
    if not len(ordered):
        raise ValueError("worst-k% accuracy needs at least one user")
    users = -(-np.arange(1, 101) * len(ordered) // 100)
    return np.asarray(np.cumsum(ordered)[users - 1] / users)


def user_metrics(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per fit (the keys in `CELL`), population and user of `Results.scores`.

    Columns besides these keys: `comparisons` (how many the user was tested on), and means over them: `accuracy`,
    `cold_start` (accuracy before adaptation), `tie_rate`, `flip_rate`, `bt_loss`.
    Raises InputError when a margin is not finite.
    """
    import pandas as pd

    keys = [*CELL, "population", "user"]
    margin = scores["margin"].to_numpy(dtype=np.float32)
    cold_margin = scores["cold_margin"].to_numpy(dtype=np.float32)
    finite = np.isfinite(margin) & np.isfinite(cold_margin)
    if not finite.all():
        bad = scores.iloc[int(np.argmin(finite))]
        raise InputError(
            f"{bad['dataset']}/{bad['encoder']}/{bad['method']} split {bad['split']}: {(~finite).sum()} margins are "
            "not finite numbers",
            hint="delete that cell's folder and run it again",
        )
    columns: dict[str, object] = {key: _category(scores[key]) for key in keys}
    columns["accuracy"] = decisions(margin)
    columns["cold_start"] = decisions(cold_margin)
    columns["tie_rate"] = (margin == 0).astype(np.float64)
    columns["flip_rate"] = flips(margin, cold_margin)
    columns["bt_loss"] = bt_loss(margin)
    columns["comparisons"] = np.ones(len(margin))
    sums = pd.DataFrame(columns).groupby(keys, observed=True, sort=True).sum()
    count = sums.pop("comparisons")
    table = sums.div(count, axis=0)
    table.insert(0, "comparisons", count.round().astype(np.int64))
    return table.reset_index()


def _category(column: pd.Series) -> pd.Series:
    """Text columns as categoricals, which group many times faster; numbers as they are."""
    import pandas as pd

    return column if pd.api.types.is_numeric_dtype(column) else column.astype("category")


def with_overall(users: pd.DataFrame) -> pd.DataFrame:
    """`user_metrics` with each cell's users a second time as population `overall`, where both others exist."""
    import pandas as pd

    users = users.assign(population=users["population"].astype(str))
    populations = users.groupby(CELL, observed=True)["population"].transform("nunique")
    return pd.concat([users, users[populations == 2].assign(population="overall")], ignore_index=True)


def split_metrics(users: pd.DataFrame) -> pd.DataFrame:
    """One row per (data set, encoder, method, selection, split, restart, shots, population) from `user_metrics`.

    Columns: `users`, `comparisons`; means over users `accuracy`, `cold_start`, `bt_loss`; shares of decisions
    `tie_rate`, `flip_rate`; and `worst10`, `worst20`, `worst50`, the accuracy of the worst k% of users.
    """
    users = with_overall(users)
    for share in ("tie_rate", "flip_rate"):
        users[share] *= users["comparisons"]
    groups = users.groupby([*CELL, "population"], observed=True, sort=True)
    table = groups[["accuracy", "cold_start", "bt_loss"]].mean()
    table["users"] = groups.size()
    table["comparisons"] = groups["comparisons"].sum()
    for share in ("tie_rate", "flip_rate"):
        table[share] = groups[share].sum() / table["comparisons"]
    curves = _curves(accuracy for _, accuracy in groups["accuracy"])
    for k in WORST:
        table[f"worst{k}"] = curves[:, k - 1]
    return table.reset_index()


def worst_k_curves(users: pd.DataFrame) -> pd.DataFrame:
    """The worst-k% curve of every fit: the keys of `split_metrics`, `k` from 1 to 100, and `accuracy`."""
    import pandas as pd

    keys = [*CELL, "population"]
    groups = with_overall(users).groupby(keys, observed=True, sort=True)["accuracy"]
    names = pd.DataFrame([name for name, _ in groups], columns=keys)
    curves = _curves(accuracy for _, accuracy in groups)
    table = names.loc[np.repeat(np.arange(len(names)), 100)].reset_index(drop=True)
    return table.assign(k=np.tile(np.arange(1, 101), len(names)), accuracy=curves.ravel())


def _curves(accuracies: Iterable[npt.ArrayLike]) -> FloatArray:
    """`worst_k_curve` of each group of users, [groups, 100]; [0, 100] without any."""
    return np.array([worst_k_curve(accuracy) for accuracy in accuracies], dtype=np.float64).reshape(-1, 100)


def over_splits(per_split: pd.DataFrame, *, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Mean and standard deviation over the splits at hand, per row, shots, population and the columns `by`.

    The value of a split is the mean over its starts, see `over_starts`.
    For every metric m of the input the columns m and m_std (ddof = 1: missing for a single split), and `n_splits`.
    Rows with different n_splits are means over different splits: show the number, and do not rank them together.
    """
    keys = [*ROW, "shots", "population", *by]
    metrics = [metric for metric in METRICS if metric in per_split.columns]
    groups = over_starts(per_split, by=by).groupby(keys, observed=True, sort=True)
    mean = groups[metrics].mean()
    std = groups[metrics].std(ddof=1).add_suffix("_std")
    table = mean.join(std)
    table["n_splits"] = groups["split"].nunique()
    return table.reset_index()


def over_starts(frame: pd.DataFrame, *, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """The metrics of a frame as means over the starts of each split; the column `restart` is gone.

    `frame` is `user_metrics`, `split_metrics` or `worst_k_curves`, `by` are further columns that tell lines apart.
    Counts are the same for all starts of a split and stay.
    """
    if not _restarted(frame):
        return frame.drop(columns="restart")
    means = [metric for metric in METRICS if metric in frame.columns]
    counts = [name for name in ("users", "comparisons") if name in frame.columns]
    keys = [name for name in frame.columns if name in (*CELL, "population", "user", "k", *by) and name != "restart"]
    groups = frame.groupby(keys, observed=True, sort=True)
    table = groups[counts].first().join(groups[means].mean()).reset_index()
    return table[[name for name in frame.columns if name in table.columns]]


def complete_starts(frame: pd.DataFrame, *, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """The lines of those starts that have every split of their row, shots and columns `by`.

    The splits of a row are those of its restart 0. A start that lacks one of them counts nowhere: a mean would be
    over other splits.
    """
    if not _restarted(frame):
        return frame
    keys = [*ROW, "shots", *by]
    number = frame.groupby([*keys, "split", "restart"], observed=True, sort=False).ngroup().to_numpy()
    _, first = np.unique(number, return_index=True)
    fits = frame.iloc[first][[*keys, "split", "restart"]].astype(dict.fromkeys(ROW, str)).reset_index(drop=True)
    planned = fits.loc[fits["restart"] == 0, [*keys, "split"]].assign(planned=True)
    known = fits.merge(planned, how="left", on=[*keys, "split"])["planned"].notna().to_numpy()
    wanted = planned.groupby(keys)["planned"].size().rename("wanted")
    present = fits[known].groupby([*keys, "restart"])["split"].size().rename("here")
    table = fits.join(wanted, on=keys).join(present, on=[*keys, "restart"])
    kept = known & (table["here"] == table["wanted"]).to_numpy()
    return frame[kept[number]]


def _restarted(frame: pd.DataFrame) -> bool:
    """Whether any split was fitted from more than its first start."""
    return bool((frame["restart"] != 0).any())


def spread_over_starts(per_split: pd.DataFrame, *, metric: str = "accuracy") -> pd.DataFrame:
    """How far a random start carries a fit: the standard deviation pooled within splits.

    sqrt(Σ_j Σ_r (x_jr − x̄_j)² / Σ_j (R_j − 1)), x_jr a metric of the fit of split j from start r and R_j its number
    of starts: NaN where every split has one. Columns: row, shots,
    population, `starts` (of a split, at most) and `spread`.
    """
    keys = [*ROW, "shots", "population"]
    values = per_split.groupby([*keys, "split"], observed=True, sort=True)[metric]
    squares = values.var(ddof=0) * values.size()
    table = squares.rename("squares").to_frame().assign(starts=values.size(), free=values.size() - 1)
    pooled = table.groupby(keys, observed=True, sort=True).agg(
        squares=("squares", "sum"), free=("free", "sum"), starts=("starts", "max")
    )
    pooled["spread"] = np.sqrt(pooled["squares"] / pooled["free"].where(pooled["free"] > 0))
    return pooled[["starts", "spread"]].reset_index()


def few_shot_curve(per_split: pd.DataFrame, *, population: str = "unseen") -> pd.DataFrame:
    """The rows of `over_splits` for one population, by rising number of shots; all the support (−1) comes last."""
    table = over_splits(per_split[per_split["population"] == population])
    most = int(table["shots"].max()) + 1 if len(table) else 0
    order = table["shots"].where(table["shots"] != ALL_SHOTS, most)
    return table.assign(order=order).sort_values([*ROW, "order"]).drop(columns="order").reset_index(drop=True)


def user_accuracy(margin: Tensor, user: IntArray) -> float:
    """Mean over users of the mean over their comparisons of [margin > 0], ties one half."""
    return float(user_accuracies(margin, user).mean())


def user_accuracies(margin: Tensor, user: IntArray) -> FloatArray:
    """Each user's share of comparisons with a margin above 0, ties one half, [users], by rising user number."""
    # A training that diverged has margins that are not numbers: none of its decisions is right.
    right = np.nan_to_num(decisions(margin.numpy()), nan=0.0)
    _, number = np.unique(user, return_inverse=True)
    return np.asarray(np.bincount(number, right) / np.bincount(number))
