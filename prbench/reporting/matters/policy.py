"""From reward to policy: whether a method's reward still tells when a language model's own preference is added.

The measure is prbench's own version of the idea in arXiv 2512.23067: d = (difference of log-probabilities) / s_π +
β · (difference of rewards) / s_m, right where d > 0, each s a standard deviation over the seen users' training pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray
from prbench.protocol import metrics
from prbench.protocol.best_of_n import tau_b
from prbench.protocol.metrics import decisions
from prbench.protocol.stats import NO_INTERVAL, Interval
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board, Row
from prbench.reporting.grid import DASH, Grid, TableCell, decimal, percent
from prbench.reporting.matters import tested
from prbench.reporting.matters.best_of_n import LEAST_METHODS
from prbench.reporting.matters.shared import means, of_row, over_boards, present, star_note
from prbench.reporting.matters.tested import RowTest, by_user
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of
from prbench.results.probe_tables import POLICY

if TYPE_CHECKING:
    import pandas as pd

BETAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SHOWN = ("0", "¼", "½", "1", "2", "4")
HEADLINE = 1.0
LOGS = ("summed", "per_token")
MEASURE = (
    "Unseen users. Policy accuracy in %: how often the log-probabilities of a language model and β times the reward "
    "together prefer what the user chose, each difference in units of its standard deviation over the seen users' "
    "training pairs; a version of its own of the idea in arXiv 2512.23067. Higher is better, a coin has 50; β = 0 is "
    "the language model alone, the value of a reward that tells nothing. Log-probabilities are summed over a reply's "
    "tokens; per token: divided by their number, at β = 1. Cold: before adapting, at β = 1. Adds: points that the "
    "reward adds to the language model at β = 1, which is the headline; nothing is chosen. "
)
RELATION = (
    "Over methods: Kendall's tau-b of reward accuracy and policy accuracy, unseen users, with the interval from "
    "resampling users and computing both of every method again; 1 where one orders methods as the other does, 0 "
    "where it does not tell. For large β the two are the same by construction. "
)


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """Right decisions by row, split and user: a column for every log-probability and β, and for the reward alone.

    Columns are "summed 0.25", "per_token 1", ..., "reward", and "cold", which is "summed 1" before adapting.
    """
    reward, cold = (table[name].to_numpy(np.float64) for name in ("reward", "cold"))
    columns = {"reward": decisions(reward)}
    for name in LOGS:
        own = table[name].to_numpy(np.float64)
        columns |= {f"{name} {beta:g}": decisions(own + beta * reward) for beta in BETAS}
    columns["cold"] = decisions(table["summed"].to_numpy(np.float64) + HEADLINE * cold)
    return means(table, columns, by=("model",))


@marks.piece
def policy(evidence: Evidence, piece: Piece) -> PieceResult:
    """Policy accuracy by β, and how well reward accuracy foretells it over methods."""
    relations: list[dict[str, Any]] = []

    def lines(board: Board, table: pd.DataFrame) -> tuple[Grid, list[dict[str, Any]], list[Finding]]:
        records: list[dict[str, Any]] = []
        cells: list[list[TableCell]] = []
        rules: list[int] = []
        said: list[Finding] = []
        models = sorted(table["model"].unique())
        frame = shares(table)
        for model in models:
            own = frame[frame["model"] == model]
            rows = present(board, own)
            by = {name: _by_user(of_row(own, row)) for name, row in rows.items()}
            added = {name: each["summed 1"] - each["summed 0"] for name, each in by.items()}
            found = tested.family(
                added,
                ratio=board.ratio,
                alpha=evidence.alpha,
                resamples=evidence.resamples,
                axes=("policy", board.dataset, board.encoder, model),
            )
            rules.append(len(cells))
            for name, row in rows.items():
                records.append(_record(board, row, model, by[name], found[name]))
                cells.append(_line(name, records[-1], found[name], evidence.alpha))
            mine = _relations(evidence, board, model, by)
            relations.extend(mine)
            said += _said(board, model, found, mine, evidence.alpha)
        header = ("Method", *(f"β = {beta}" for beta in SHOWN), "Reward alone", "Per token", "Cold", "Adds", "Users")
        title = f"Policy accuracy on {board.dataset} ({board.encoder}), {splits_of(board)}, {' and '.join(models)}"
        caption = MEASURE + star_note(len(cells) // max(1, len(models)), evidence.alpha, board.ratio)
        label = f"{piece.name}:{board.dataset}:{board.encoder}"
        return Grid(title, header, cells, tuple(rules[1:]), [caption], label), records, said

    output = over_boards(evidence, piece, POLICY, lines, everyone=True)
    if relations:
        output.grids.append(_relation_grid(piece, relations))
    return output


def _by_user(frame: pd.DataFrame) -> dict[str, FloatArray]:
    """Each measure as [users, splits]."""
    return {
        name: by_user(frame, name) for name in frame.columns if name not in (*metrics.ROW, "split", "user", "model")
    }


def over_users(values: FloatArray) -> FloatArray:
    """Each user's value, the mean over the splits that tested the user: [users, splits] -> [users]."""
    return np.asarray(np.nanmean(values, axis=1))


def _record(board: Board, row: Row, model: str, by: dict[str, FloatArray], added: RowTest) -> dict[str, Any]:
    return {
        **dict(zip(metrics.ROW, (board.dataset, board.encoder, *row.key), strict=True)),
        "title": row.title,
        "model": model,
        **{name.replace(" ", "_"): float(over_users(values).mean()) for name, values in by.items()},
        "adds": added.result.difference,
        "adds_low": added.result.bootstrap[0],
        "adds_high": added.result.bootstrap[1],
        "adds_p": added.p,
        "users": len(by["reward"]),
    }


def _line(name: str, record: dict[str, Any], added: RowTest, alpha: float) -> list[TableCell]:
    shown = [percent(record[f"summed_{beta:g}"]) for beta in BETAS]
    shown += [percent(record[key]) for key in ("reward", "per_token_1", "cold")]
    shown += [f"{added.text(alpha)} {added.over_users}", str(record["users"])]
    return [TableCell(text) for text in (name, *shown)]


def _relations(
    evidence: Evidence, board: Board, model: str, by: dict[str, dict[str, FloatArray]]
) -> list[dict[str, Any]]:
    """Over methods, for each β: tau-b of reward and policy accuracy; without numbers below `LEAST_METHODS`."""
    found = []
    rng = Rng("reward and policy", board.dataset, board.encoder, model)
    for beta in BETAS:
        record: dict[str, Any] = {
            "dataset": board.dataset,
            "encoder": board.encoder,
            "model": model,
            "beta": beta,
            "methods": len(by),
            "users": len(next(iter(by.values()))["reward"]) if by else 0,
        }
        for name in LOGS:
            tau, interval = float("nan"), NO_INTERVAL
            if len(by) >= LEAST_METHODS:
                both = [
                    np.stack([over_users(each[key]) for each in by.values()])
                    for key in ("reward", f"{name} {beta:g}")
                ]
                tau, interval = agreement(both[0], both[1], rng, evidence.alpha, evidence.resamples)
            record |= {f"{name}_tau": tau, f"{name}_low": interval.low, f"{name}_high": interval.high}
        found.append(record)
    return found


def agreement(
    reward: FloatArray, policy: FloatArray, rng: Rng, alpha: float, resamples: int
) -> tuple[float, Interval]:
    """Tau-b over methods of two accuracies, [methods, users] each, averaged over users; percentiles over users.

    Where one of the accuracies is the same for all methods there is no order to compare: NaN.
    """
    value = float(tau_b(reward.mean(1), policy.mean(1)))
    users = reward.shape[1]
    if not resamples or users < 2:
        return value, NO_INTERVAL
    drawn = rng.numpy().multinomial(users, np.full(users, 1 / users), size=resamples) / users
    # Sums in another order differ in the last place: equal accuracies must stay equal.
    taus = tau_b(np.round(drawn @ reward.T, 12), np.round(drawn @ policy.T, 12))
    known = taus[~np.isnan(taus)]
    if not len(known) or np.isnan(value):
        return value, NO_INTERVAL
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2])
    return value, Interval(float(low), float(high))


def _relation_grid(piece: Piece, relations: list[dict[str, Any]]) -> Grid:
    cells = []
    for r in relations:
        where = f"{r['dataset']} ({r['encoder']}), {r['model']}"
        taus = [_tau(r, name) for name in LOGS]
        texts = (where, SHOWN[BETAS.index(r["beta"])], *taus, str(r["methods"]), str(r["users"]))
        cells.append([TableCell(text) for text in texts])
    header = ("Data set, language model", "β", "tau-b, summed", "tau-b, per token", "Methods", "Users")
    rules = tuple(i for i in range(len(BETAS), len(cells), len(BETAS)))
    note = RELATION + f"{DASH}: below {LEAST_METHODS} methods, or the same policy accuracy for all."
    return Grid(
        "Does reward accuracy foretell policy accuracy?", header, cells, rules, [note], f"{piece.name}:relation"
    )


def _tau(record: dict[str, Any], name: str) -> str:
    tau, low, high = (record[f"{name}_{key}"] for key in ("tau", "low", "high"))
    ends = "" if np.isnan(low) else f" [{decimal(low, 2)}, {decimal(high, 2)}]"
    return decimal(tau, 2) + ends


def _said(
    board: Board, model: str, found: dict[str, RowTest], relations: list[dict[str, Any]], alpha: float
) -> list[Finding]:
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    headline = next(r for r in relations if r["beta"] == HEADLINE)
    if np.isnan(headline["summed_tau"]):
        text = (
            f"fewer than {LEAST_METHODS} methods tell nothing of how reward accuracy and policy accuracy go together"
        )
        said = [Finding("missing", place, text)]
    else:
        text = (
            f"reward accuracy and policy accuracy at β = 1 under {model} order the {headline['methods']} methods "
            f"alike with tau-b {_tau(headline, 'summed')} (interval over users); for large β they are the same"
        )
        said = [Finding("measured", place, text)]
    if found and not tested.undefined(found):
        better, worse, rest = tested.sorted_by_sign(found, alpha)
        text = (
            f"added to {model} at β = 1, the reward of {tested.names(better)} raises its accuracy, that of "
            f"{tested.names(worse)} lowers it, and that of {tested.names(rest)} does neither beyond noise "
            f"({tested.rule_of(len(found), alpha)})"
        )
        said.append(Finding("tested", place, text))
    return said
