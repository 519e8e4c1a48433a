"""What a population costs: parameters (arXiv 2601.18731, Figure 7), time and memory (its §5.3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prbench import registry
from prbench.registry import marks, methods
from prbench.registry.pieces import Piece
from prbench.reporting.figure import finished, legend_below, looks, panels, styled
from prbench.reporting.grid import DASH, Grid, TableCell
from prbench.reporting.paper.evidence import Evidence, PieceResult, counted
from prbench.reporting.placing import results_of
from prbench.results.record import DoneRecord

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

USERS = (10, 100, 1_000, 10_000)
DIM = 4_096
BYTES = 4


@marks.piece
def parameters(evidence: Evidence, piece: Piece) -> PieceResult:
    """Figure 7: trained parameters at d = 4,096 for 10 to 10,000 users, on log axes, and what is stored per user.

    Numbers fitted to a user count for every user (the paper's §5.3.5 does so for MRM too); what a forward pass
    computes for a user is stored but not trained. Counted from the entries' own formulas, so that the figure needs
    no fit at this width.
    """
    import pandas as pd

    records = [record for name in piece.methods for record in _counts(name)]
    counted = list(dict.fromkeys(record["method"] for record in records))
    output = PieceResult(pd.DataFrame(records))
    output.missing = [f"{name}: its count depends on the data" for name in piece.methods if name not in counted]
    output.figure = _parameter_figure(evidence, output.frame, counted)
    output.grids = [_parameter_grid(evidence, piece, output.frame, counted)]
    return output


def _counts(name: str) -> list[dict[str, Any]]:
    """A method's numbers for each size of the population; empty where they depend on the data."""
    method = methods.make_method(registry.get("methods", name), None, {})
    count = method.parameters_for(DIM)
    if count is None:
        return []
    fitted = method.fitted_per_user(count)
    return [
        {
            "method": name,
            "dim": DIM,
            "users": users,
            "trained": count.shared + fitted * users,
            "shared": count.shared,
            "stored_per_user": count.per_user,
        }
        for users in USERS
    ]


def _parameter_figure(evidence: Evidence, frame: pd.DataFrame, counted: Sequence[str]) -> Figure:
    """Trained parameters against users, and what is stored of a user."""
    look = looks(evidence, counted)
    with styled():
        figure, (trained, stored) = panels(2, size=(3.3, 3.0))
        for i, name in enumerate(counted):
            curve = frame[frame["method"] == name]
            # Methods of nearly equal counts lie on one line; their markers stand beside one another.
            before = frame[frame["method"].isin(counted[:i]) & (frame["users"] == USERS[-1])]["trained"]
            same = int((abs(before / curve["trained"].iloc[-1] - 1) < 0.02).sum())
            trained.plot(curve["users"] * 1.25**same, curve["trained"], label=evidence.title(name), **look[name])
            per_user = int(curve["stored_per_user"].iloc[0])
            stored.barh(i, per_user, color=look[name]["color"], height=0.7)
            stored.annotate(
                f"{per_user:,}", (per_user, i), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7
            )
        trained.set(
            xscale="log", yscale="log", xlabel="users (log)", ylabel="trained parameters (log)", title=f"d = {DIM:,}"
        )
        stored.set(xlabel="numbers stored for each user (log above 1)", title="Stored per user")
        # Linear up to 1, so that nothing stored is a bar of no length.
        stored.set_xscale("symlog", linthresh=1)
        stored.set_xlim(0, 30 * max(1, frame["stored_per_user"].max()))
        stored.grid(axis="y", visible=False)
        stored.set_yticks(range(len(counted)), [evidence.title(name) for name in counted])
        stored.invert_yaxis()
        legend_below(figure, [trained], across=5)
        return finished(figure)


def _parameter_grid(evidence: Evidence, piece: Piece, frame: pd.DataFrame, counted: Sequence[str]) -> Grid:
    lines = []
    for name in counted:
        curve = frame[frame["method"] == name]
        numbers = [*curve["trained"], curve["stored_per_user"].iloc[0]]
        lines.append([TableCell(evidence.title(name)), *(TableCell(f"{number:,}") for number in numbers)])
    notes = [
        f"Trained parameters for embeddings of {DIM:,} dimensions, with the entries' own hyper-parameters. "
        "Numbers fitted to a user count for every user; numbers that a forward pass computes do not."
    ]
    header = ("Method", *(f"{users:,} users" for users in USERS), "Stored per user")
    return Grid(piece.title, header, lines, (), notes, piece.name)


@marks.piece
def efficiency(evidence: Evidence, piece: Piece) -> PieceResult:
    """Seconds to fit a split, milliseconds to adapt a user, comparisons scored per second and bytes per user.

    Means over splits of what the cells recorded; fits of all splits together are divided by their number.
    """
    import pandas as pd

    records = {
        setting: [
            _costs(setting, name, done)
            for name in piece.methods
            if (done := results_of(c for c in evidence.cells_of(*setting, piece) if c.method == name))
        ]
        for setting in evidence.settings
    }
    frame = pd.DataFrame([record for of_setting in records.values() for record in of_setting])
    output = PieceResult(frame, missing=evidence.missing_notes(piece))
    output.grids = [_cost_grid(evidence, piece, setting, rows) for setting, rows in records.items() if rows]
    return output


def _costs(setting: tuple[str, str], method: str, done: Sequence[DoneRecord]) -> dict[str, Any]:
    """A row's means over its cells."""
    tested = [record.counts.seen_test for record in done]
    scoring = [record.seconds.score for record in done]
    adapting = [1e3 * record.seconds.adapt / max(1, record.counts.unseen_users) for record in done]
    return {
        "dataset": setting[0],
        "encoder": setting[1],
        "method": method,
        "fit_seconds": float(np.mean([record.seconds.fit for record in done])),
        "adapt_ms_per_user": float(np.mean(adapting)),
        "scored_per_second": sum(tested) / sum(scoring) if sum(scoring) else float("nan"),
        "bytes_per_user": BYTES * done[0].parameters.per_user,
        "shared_parameters": done[0].parameters.shared,
        "trained_together": done[0].trained_together,
        "device": done[0].device,
        "n_splits": len({record.split for record in done}),
    }


def _cost_grid(evidence: Evidence, piece: Piece, setting: tuple[str, str], records: Sequence[dict[str, Any]]) -> Grid:
    lines = [
        [
            TableCell(evidence.title(r["method"])),
            TableCell(f"{r['fit_seconds']:.2f}"),
            TableCell(f"{r['adapt_ms_per_user']:.2f}"),
            TableCell(DASH if np.isnan(r["scored_per_second"]) else f"{r['scored_per_second']:,.0f}"),
            TableCell(f"{r['bytes_per_user']:,}"),
            TableCell(f"{r['shared_parameters']:,}"),
        ]
        for r in records
    ]
    most = max(r["n_splits"] for r in records)
    devices = ", ".join(sorted({r["device"] for r in records}))
    notes = [
        f"Means over {counted(most)} as recorded by the runs ({devices}); other programs may have shared the "
        "machine. Fit: all splits together, divided by their number. Scored: test comparisons of seen users. "
        "Shared: numbers that all users share."
    ]
    notes += [f"{evidence.title(r['method'])}: {counted(r['n_splits'])}." for r in records if r["n_splits"] < most]
    header = ("Method", "Fit, s per split", "Adapt, ms per user", "Scored per s", "Bytes per user", "Shared")
    dataset, encoder = setting
    title = f"{piece.title} on {dataset} ({encoder})"
    return Grid(title, header, lines, (), notes, f"{piece.name}:{dataset}:{encoder}")
