"""Best of n: what a person gains when the reward picks the reply, and whether pairwise accuracy foretells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray
from prbench.protocol import metrics
from prbench.protocol.best_of_n import expected_pick, sizes, tau_b
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.stats import NO_INTERVAL, Interval
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board, Row
from prbench.reporting.figure import finished, legend_below, looks, panels, styled
from prbench.reporting.grid import DASH, Grid, TableCell, decimal, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.shared import of_row, over_boards, present
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of
from prbench.results.probe_tables import POOLS

if TYPE_CHECKING:
    import pandas as pd

LEAST_METHODS = 8
"""Over fewer methods the relation of accuracy and gain is not printed."""
DRAWS = 20
GAIN = (
    "Unseen users. Gain at n: how much more utility than a random pick has the reply that the reward likes best "
    "among n candidates, exactly over all subsets, in % of what the best of them by the user's own utility has more; "
    "the sum over users of the one by that of the other, utilities standardised per user. Higher is better, 100 is "
    "the oracle, 0 a random pick and a reward that ties all. Cold: the same before adapting, at the largest n. "
    "Disagree: % of pools that the reward orders against the user's utility (Kendall's tau-b below 0), constant ones "
    "left out; lower is better, beside it that of random scores. Every split has the same candidates for all "
    "methods. "
)
RELATION = (
    "Over methods: Kendall's tau-b of user accuracy and gain at the largest n, unseen users, with the interval from "
    "resampling users and computing both numbers of every method again; 1 if accuracy orders methods as their gain "
    "does, 0 if it does not tell. Where pools come from what the pairs are drawn from, the two agree by "
    "construction: only a shift asks whether accuracy reaches further. "
)


class PoolGains(NamedTuple):
    """By user, means over the pools of all splits, utilities standardised per user: [users, sizes] each.

    `gain` and `cold` are of the rewards after and before adapting, `oracle` of the utility itself. `disagree` is the
    share of pools ordered against the utility, `random` that of random scores, and `constant` pools were left out.
    """

    users: list[int]
    gain: FloatArray
    cold: FloatArray
    oracle: FloatArray
    disagree: float
    random: float
    constant: int


def pool_gains(table: pd.DataFrame, numbers: list[int], name: str) -> PoolGains:
    """The gains of one row on pools of one kind; `name` names the stream of the random scores.

    Pools with fewer than n candidates have no value at n; users without any have NaN there. Utilities are
    standardised over all candidates of the user; one whose candidates are all worth the same gains nothing.
    """
    table = table.sort_values(["user", "split", "pool", "item"], kind="stable")
    users, place = np.unique(table["user"].to_numpy(), return_inverse=True)
    utility = table["utility"].to_numpy(np.float64)
    count = np.bincount(place)
    mean = np.bincount(place, utility) / count
    spread = np.sqrt(np.maximum(np.bincount(place, utility**2) / count - mean**2, 0))
    utility = (utility - mean[place]) / np.where(spread > 1e-9, spread, 1.0)[place]
    rewards = [table[column].to_numpy(np.float64) for column in ("reward", "cold")]
    first = np.flatnonzero(~table.duplicated(["user", "split", "pool"]).to_numpy())
    length = np.diff(np.append(first, len(table)))
    sums, pools = np.zeros((3, len(users), len(numbers))), np.zeros((len(users), len(numbers)))
    against, chance, constant = [np.zeros(0)], [np.zeros(0)], 0
    draw = Rng("random scores", name).numpy()
    for size in np.unique(length).tolist():
        at = first[length == size][:, None] + np.arange(size)
        owner, worth = place[at[:, 0]], utility[at]
        fitting = [i for i, n in enumerate(numbers) if n <= size]
        for number, by in enumerate((*(reward[at] for reward in rewards), worth)):
            for i in fitting:
                np.add.at(sums[number, :, i], owner, expected_pick(by, worth, numbers[i]) - worth.mean(-1))
        for i in fitting:
            np.add.at(pools[:, i], owner, 1)
        taus = tau_b(rewards[0][at], worth)
        known = ~np.isnan(taus)
        constant += int((~known).sum())
        against.append((taus[known] < 0).astype(np.float64))
        for _ in range(DRAWS):
            scores = draw.random((int(known.sum()), size))
            chance.append((tau_b(scores, worth[known]) < 0).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        gain, cold, oracle = np.where(pools > 0, sums / pools, np.nan)
    rates = [float(np.mean(joined)) if len(joined := np.concatenate(each)) else np.nan for each in (against, chance)]
    return PoolGains(users.tolist(), gain, cold, oracle, rates[0], rates[1], constant)


def normalised(gain: FloatArray, oracle: FloatArray) -> FloatArray:
    """Sum over users of the gain by that of the oracle's, [..., users, sizes] -> [..., sizes]; NaN where nothing is
    there."""
    defined = ~np.isnan(oracle) & ~np.isnan(gain)
    top, bottom = (np.where(defined, values, 0).sum(-2) for values in (gain, oracle))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(bottom > 1e-12, top / bottom, np.nan))


@marks.piece
def best_of_n(evidence: Evidence, piece: Piece) -> PieceResult:
    """Normalised gain of the pick among n candidates, and how well accuracy foretells it over methods."""
    relations: list[dict[str, Any]] = []

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        rows = present(board, table)
        records: list[dict[str, Any]] = []
        gains: dict[int, dict[str, PoolGains]] = {}
        cells: list[list[TableCell]] = []
        rules: list[int] = []
        numbers: dict[int, list[int]] = {}
        for kind in sorted(int(k) for k in table["kind"].unique()):
            pool_table = table[table["kind"] == kind]
            most = int(pool_table.groupby(["method", "selection", "split", "pool"], observed=True).size().max())
            numbers[kind] = sizes(most)
            gains[kind] = {}
            rules.append(len(cells))
            for name, row in rows.items():
                row_pools = of_row(pool_table, row)
                row_gains = pool_gains(row_pools, numbers[kind], f"{board.dataset} {POOLS[kind]}")
                gains[kind][name] = row_gains
                records.append(_record(board, row, kind, numbers[kind], row_gains))
                cells.append(_line(name, kind, records[-1]))
        shown = max(numbers.values(), key=len)[1:]
        header = ("Method", "Pools", *(f"n = {n}" for n in shown), "Cold", "Disagree", "Random", "Constant")
        for line in cells:
            missing = len(header) - len(line)
            line[-4:-4] = [TableCell(DASH)] * missing
        relations.extend(_relations(evidence, board, rows, gains, numbers))
        own_relations = [r for r in relations if (r["dataset"], r["encoder"]) == (board.dataset, board.encoder)]
        title = f"Best of n on {board.dataset} ({board.encoder}), {splits_of(board)}"
        grid = Grid(title, header, cells, tuple(rules[1:]), [GAIN], f"{piece.name}:{board.dataset}:{board.encoder}")
        return grid, records, _findings(board, own_relations)

    output = over_boards(evidence, piece, "best-of-n", lines, everyone=True)
    if relations:
        output.grids.append(_relation_grid(piece, relations))
        output.figure = _figure(evidence, piece, output.frame)
    return output


def _record(board: Board, row: Row, kind: int, numbers: list[int], row_gains: PoolGains) -> dict[str, Any]:
    gain, cold = normalised(row_gains.gain, row_gains.oracle), normalised(row_gains.cold, row_gains.oracle)
    return {
        **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
        "title": row.title,
        "pools": POOLS[kind],
        "accuracy": row.value("unseen"),
        **{f"gain_{n}": float(value) for n, value in zip(numbers, gain, strict=True) if n > 1},
        "largest": numbers[-1],
        "gain": float(gain[-1]),
        "cold": float(cold[-1]),
        "disagree": row_gains.disagree,
        "random": row_gains.random,
        "constant": row_gains.constant,
        "users": len(row_gains.users),
    }


def _line(name: str, kind: int, record: dict[str, Any]) -> list[TableCell]:
    gains = [TableCell(percent(value)) for key, value in record.items() if key.startswith("gain_")]
    rest = [percent(record[key]) for key in ("cold", "disagree", "random")]
    return [
        TableCell(name), TableCell(POOLS[kind]), *gains, *map(TableCell, rest), TableCell(str(record["constant"]))
    ]  # fmt: skip


def _relations(
    evidence: Evidence,
    board: Board,
    rows: dict[str, Row],
    gains: dict[int, dict[str, PoolGains]],
    numbers: dict[int, list[int]],
) -> list[dict[str, Any]]:
    """Over methods: tau-b of accuracy and gain for each kind of pools, below `LEAST_METHODS` without a number."""
    records = []
    for kind, by_name in gains.items():
        users = sorted(set.intersection(*(set(row_gains.users) for row_gains in by_name.values()))) if by_name else []
        record: dict[str, Any] = {
            "dataset": board.dataset,
            "encoder": board.encoder,
            "pools": POOLS[kind],
            "n": numbers[kind][-1],
            "methods": len(by_name),
            "users": len(users),
            "tau": float("nan"),
            "low": float("nan"),
            "high": float("nan"),
        }
        if len(by_name) >= LEAST_METHODS and len(users) > 1:
            accuracy = np.stack([_accuracy(evidence, board, row, users) for row in rows.values()])
            each = [[f.users.index(u) for u in users] for f in by_name.values()]
            gain = np.stack([f.gain[at, -1] for f, at in zip(by_name.values(), each, strict=True)])
            oracle = np.stack([f.oracle[at, -1] for f, at in zip(by_name.values(), each, strict=True)])
            axes = ("accuracy and gain", board.dataset, board.encoder, POOLS[kind])
            tau, interval = relation(accuracy, gain, oracle, Rng(*axes), evidence.alpha, evidence.resamples)
            record |= {"tau": tau, "low": interval.low, "high": interval.high}
        records.append(record)
    return records


def relation(
    accuracy: FloatArray, gain: FloatArray, oracle: FloatArray, rng: Rng, alpha: float, resamples: int
) -> tuple[float, Interval]:
    """Tau-b over methods of mean accuracy and normalised gain, from [methods, users] each; percentiles over users.

    Users whose pools give no gain (NaN) take part with their accuracy alone.
    """

    def tau(a: FloatArray, g: FloatArray, o: FloatArray) -> float:
        return float(tau_b(np.nanmean(a, axis=-1), normalised(g[..., None], o[..., None])[..., 0]))

    value = tau(accuracy, gain, oracle)
    if not resamples:
        return value, NO_INTERVAL
    draw = rng.numpy()
    users = accuracy.shape[1]
    draws = []
    for _ in range(resamples):
        at = draw.integers(0, users, users)
        draws.append(tau(accuracy[:, at], gain[:, at], oracle[:, at]))
    known = np.array(draws)[~np.isnan(draws)]
    if not len(known):
        return value, NO_INTERVAL
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2])
    return value, Interval(float(low), float(high))


def _accuracy(evidence: Evidence, board: Board, row: Row, users: list[int]) -> FloatArray:
    """Each unseen user's accuracy, the mean over the splits that tested the user, [users]."""
    frame = evidence.users
    mask = (frame["dataset"] == board.dataset) & (frame["encoder"] == board.encoder)
    mask &= (frame["method"] == row.method) & (frame["selection"] == row.selection)
    mask &= (frame["population"] == "unseen") & (frame["shots"] == ALL_SHOTS)
    return np.asarray(frame[mask].groupby("user")["accuracy"].mean().reindex(users).to_numpy(np.float64))


def _relation_grid(piece: Piece, relations: list[dict[str, Any]]) -> Grid:
    cells = []
    for r in relations:
        tau = decimal(r["tau"], 2)
        interval = DASH if np.isnan(r["low"]) else f"[{decimal(r['low'], 2)}, {decimal(r['high'], 2)}]"
        where = f"{r['dataset']} ({r['encoder']})"
        texts = (where, r["pools"], str(r["n"]), tau, interval, str(r["methods"]), str(r["users"]))
        cells.append([TableCell(text) for text in texts])
    header = ("Data set", "Pools", "n", "tau-b", "Interval over users", "Methods", "Users")
    note = RELATION + f"{DASH}: below {LEAST_METHODS} methods."
    return Grid("Does accuracy foretell best-of-n?", header, cells, (), [note], f"{piece.name}:relation")


def _findings(board: Board, relations: list[dict[str, Any]]) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    known = [r for r in relations if not np.isnan(r["tau"])]
    if not known:
        text = f"fewer than {LEAST_METHODS} methods tell nothing of how accuracy and best-of-n go together"
        return [Finding("missing", place, text)]
    parts = []
    for r in known:
        ends = "" if np.isnan(r["low"]) else f" [{decimal(r['low'], 2)}, {decimal(r['high'], 2)}]"
        parts.append(f"{decimal(r['tau'], 2)}{ends} on {r['pools']} pools")
    text = (
        f"user accuracy and the gain from best-of-n order the {known[0]['methods']} methods alike with tau-b "
        f"{tested.names(parts)} (interval over users)"
    )
    return [Finding("measured", place, text)]


def _figure(evidence: Evidence, piece: Piece, frame: pd.DataFrame) -> Any:
    """Gain against accuracy, a panel per data set and kind of pools."""
    keys = ["dataset", "encoder", "pools"]
    settings = list(dict.fromkeys(map(tuple, frame[keys].to_numpy().tolist())))
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for ax, setting in zip(axes, settings, strict=True):
            shown = frame[(frame[keys] == list(setting)).all(axis=1)]
            ax.axhline(0, color="0.5", linewidth=0.9, linestyle="--")
            for r in shown.to_dict("records"):
                if r["method"] in look:
                    style = {**look[r["method"]], "linestyle": "none"}
                    ax.plot(100 * r["accuracy"], 100 * r["gain"], label=evidence.title(r["method"]), **style)
            ax.set(xlabel="user accuracy, unseen (%)", ylabel=f"gain at n = {shown['largest'].max()} (% of oracle)")
            ax.set_title(f"{setting[0]} ({setting[1]}), {setting[2]} pools")
        legend_below(figure, axes, [evidence.title(method) for method in piece.methods])
        return finished(figure)
