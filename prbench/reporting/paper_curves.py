"""Curves of arXiv 2601.18731: worst-k% robustness (Figure 3), sweeps (4 and 5), few shots (6), and label noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prbench import metrics
from prbench.reporting.drawing import finished, legend_below, looks, panels, styled
from prbench.reporting.evidence import Evidence, Made, Piece
from prbench.results import ALL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from prbench.reporting.board import Board

SWEPT = {"rho": "ρ", "gamma": "γ", "users_per_update": "users in an update", "bases": "base functions K"}
MARK: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5, "linewidth": 1.3}


def robustness(evidence: Evidence, piece: Piece) -> Made:
    """Figure 3: mean accuracy of the worst k% of all users, k = 1 … 100; markers at the paper's 10, 20 and 50%.

    Bands are one standard deviation over splits.
    """
    boards = list(evidence.each(piece))
    users = evidence.users
    kept = users[(users["shots"] == ALL) & users["method"].isin(piece.methods)]
    kept = kept[[evidence.wanted(s, piece) for s in kept["selection"]]]
    curves = metrics.worst_k_curves(kept) if len(kept) else kept.assign(k=[])
    curves = curves[curves["population"] == "overall"]
    table = metrics.over_splits(curves, by=("k",)) if len(curves) else curves
    made = Made(table, missing=evidence.lacking(piece))
    if not len(table):
        return made
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(boards))
        for one, (dataset, encoder, board) in zip(axes, boards, strict=True):
            here = table[(table["dataset"] == dataset) & (table["encoder"] == encoder)]
            for method in piece.methods:
                curve = here[here["method"] == method].sort_values("k")
                if not len(curve):
                    continue
                mean, spread = (100 * curve[name].to_numpy() for name in ("accuracy", "accuracy_std"))
                at = [k - 1 for k in metrics.WORST]
                line = {**look[method], **MARK, "markevery": at}
                one.plot(curve["k"], mean, label=evidence.title(method), **line)
                one.fill_between(
                    curve["k"], mean - spread, mean + spread, color=look[method]["color"], alpha=0.12, linewidth=0
                )
            one.set(xlabel="worst k% of users", ylabel="user accuracy (%)", xlim=(0, 101))
            one.set_title(_heading(board))
        legend_below(figure, axes)
        made.figure = finished(figure)
    return made


def sweep(evidence: Evidence, piece: Piece) -> Made:
    """Figures 4 and 5: overall accuracy and that of the worst 10% against one parameter, ±1 SD over splits.

    Methods whose values rise again start a new curve. A value of 0 of gamma is the hard filter, shown as 0*.
    """
    import pandas as pd

    curves = _runs_of(piece)
    boards = list(evidence.each(piece))
    records = []
    for dataset, encoder, board in boards:
        for number, curve in enumerate(curves):
            for method, value in curve:
                for row in board.rows:
                    if row.method == method and row.mean:
                        records.append(
                            {
                                "dataset": dataset,
                                "encoder": encoder,
                                "curve": number,
                                "method": method,
                                "selection": row.selection,
                                piece.parameter: value,
                                "overall": row.value("overall"),
                                "overall_std": row.spread("overall"),
                                "worst10": row.value("overall", "worst10"),
                                "worst10_std": row.spread("overall", "worst10"),
                                "n_splits": len(row.splits),
                            }
                        )
    made = Made(pd.DataFrame(records), missing=evidence.lacking(piece))
    if not records:
        return made
    with styled():
        figure, axes = panels(2 * len(boards), across=2)
        for i, (dataset, encoder, board) in enumerate(boards):
            here = made.frame[(made.frame["dataset"] == dataset) & (made.frame["encoder"] == encoder)]
            for one, metric, name in zip(
                axes[2 * i : 2 * i + 2], ("overall", "worst10"), ("all users", "worst 10% of users"), strict=True
            ):
                _swept(one, here, metric, evidence, piece, curves)
                one.set(xlabel=SWEPT.get(piece.parameter, piece.parameter), ylabel=f"accuracy (%), {name}")
                one.set_title(_heading(board))
        if len(curves) > 1:
            legend_below(figure, axes)
        made.figure = finished(figure)
    return made


def _runs_of(piece: Piece) -> list[list[tuple[str, float]]]:
    curves: list[list[tuple[str, float]]] = []
    for method, value in zip(piece.methods, piece.values, strict=True):
        if not curves or value <= curves[-1][-1][1]:
            curves.append([])
        curves[-1].append((method, value))
    return curves


def _swept(
    one: Axes,
    here: pd.DataFrame,
    metric: str,
    evidence: Evidence,
    piece: Piece,
    curves: list[list[tuple[str, float]]],
) -> None:
    # Evenly spaced: published grids are neither linear nor geometric.
    ticks = sorted(set(piece.values))
    for number, curve in enumerate(curves):
        own = here[here["curve"] == number].sort_values(piece.parameter)
        if not len(own):
            continue
        # A curve looks like its entry without a value in the name, such as mrm among mrm-k1, mrm-k4 and mrm-k8.
        name = min((method for method, _ in curve), key=len)
        look = looks(evidence, [name])[name]
        label = piece.labels[number] if number < len(piece.labels) else evidence.title(name)
        at = [ticks.index(value) for value in own[piece.parameter]]
        spread = 100 * own[f"{metric}_std"].fillna(0).to_numpy()
        line = {**look, **MARK, "capsize": 2, "elinewidth": 0.8}
        one.errorbar(at, 100 * own[metric].to_numpy(), yerr=spread, label=label, **line)
    labels = ["0*" if piece.parameter == "gamma" and tick == 0 else f"{tick:g}" for tick in ticks]
    one.set_xticks(range(len(ticks)), labels)
    one.margins(x=0.08)


def few_shot(evidence: Evidence, piece: Piece) -> Made:
    """Figure 6: accuracy of unseen users against the number of their choices, cold start at 0, all support last.

    The baseline, which does not adapt, is a line across. Bands are one standard deviation over splits.
    """
    frame = evidence.per_split
    kept = frame[frame["method"].isin(piece.methods) & (frame["population"] == "unseen")]
    kept = kept[[evidence.wanted(s, piece) for s in kept["selection"]]]
    table = metrics.few_shot_curve(kept) if len(kept) else kept
    made = Made(table, missing=evidence.lacking(piece))
    several = kept[kept["shots"] != ALL]
    curved = sorted(set(zip(several["dataset"], several["encoder"], strict=True)))
    for dataset, encoder in evidence.settings:
        if (dataset, encoder) not in curved:
            made.missing.append(f"shots on {dataset} ({encoder}): run with --shots {_listed(piece.shots)}")
    if not curved:
        return Made(table.iloc[:0], missing=made.missing)
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(curved))
        for one, (dataset, encoder) in zip(axes, curved, strict=True):
            here = table[(table["dataset"] == dataset) & (table["encoder"] == encoder)]
            order = [*sorted(k for k in set(here["shots"]) if k != ALL), ALL]
            for method in piece.methods:
                own = here[here["method"] == method].set_index("shots")
                if not len(own):
                    continue
                if method == evidence.baseline:
                    level = 100 * float(own.loc[ALL, "accuracy"])
                    one.axhline(level, color="0.25", linestyle="--", linewidth=1, label=evidence.title(method))
                    continue
                at = [order.index(k) for k in order if k in own.index]
                mean = 100 * own.loc[[order[i] for i in at], "accuracy"].to_numpy()
                spread = 100 * own.loc[[order[i] for i in at], "accuracy_std"].fillna(0).to_numpy()
                one.plot(at, mean, label=evidence.title(method), **look[method], **MARK)
                one.fill_between(
                    at, mean - spread, mean + spread, color=look[method]["color"], alpha=0.1, linewidth=0
                )
            one.set_xticks(range(len(order)), ["all" if k == ALL else str(k) for k in order])
            one.set(xlabel="choices of the unseen user", ylabel="accuracy of unseen users (%)")
            one.set_title(f"{dataset} ({encoder})")
        legend_below(figure, axes)
        made.figure = finished(figure)
    return made


def noise(evidence: Evidence, piece: Piece) -> Made:
    """Accuracy of unseen users against the share of their support labels that is flipped, ±1 SD over splits."""
    import pandas as pd

    found = evidence.probes
    found = found[(found["probe"] == "noise") & found["method"].isin(piece.methods)] if len(found) else found
    made = Made(pd.DataFrame(), missing=evidence.lacking(piece))
    if not len(found):
        made.missing.append(f"label noise: run `prbench probe --noise {_listed(piece.noise)}`")
        return made
    clean = evidence.per_split
    clean = clean[(clean["shots"] == ALL) & (clean["population"] == "unseen") & clean["method"].isin(piece.methods)]
    clean = clean[[evidence.wanted(s, piece) for s in clean["selection"]]].assign(noise=0.0)
    parts = [clean]
    for share, part in found.groupby("noise"):
        per_split = metrics.split_metrics(metrics.user_metrics(part))
        parts.append(per_split[per_split["population"] == "unseen"].assign(noise=share))
    made.frame = metrics.over_splits(pd.concat(parts, ignore_index=True), by=("noise",))
    settings = sorted({(d, e) for d, e in zip(found["dataset"], found["encoder"], strict=True)})
    look = looks(evidence, piece.methods)
    with styled():
        figure, axes = panels(len(settings))
        for one, (dataset, encoder) in zip(axes, settings, strict=True):
            here = made.frame[(made.frame["dataset"] == dataset) & (made.frame["encoder"] == encoder)]
            for method in piece.methods:
                own = here[here["method"] == method].sort_values("noise")
                if not len(own):
                    continue
                style: dict[str, Any] = look[method]
                mean, spread = 100 * own["accuracy"].to_numpy(), 100 * own["accuracy_std"].fillna(0).to_numpy()
                one.plot(100 * own["noise"], mean, label=evidence.title(method), **style, **MARK)
                one.fill_between(
                    100 * own["noise"], mean - spread, mean + spread, color=style["color"], alpha=0.1, linewidth=0
                )
            one.set(xlabel="flipped support labels (%)", ylabel="accuracy of unseen users (%)")
            one.set_title(f"{dataset} ({encoder})")
        legend_below(figure, axes)
        made.figure = finished(figure)
    return made


def _heading(board: Board) -> str:
    return f"{board.dataset} ({board.encoder}), {board.splits} splits"


def _listed(values: list[int] | list[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
