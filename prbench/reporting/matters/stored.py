"""What follows from stored cells alone: the data's properties, calibration, budgets and users left unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np

from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting.board import Board
from prbench.reporting.budget import budget_frame, budget_grid, titles_of
from prbench.reporting.calibration import calibration_frame, calibration_grid, calibration_records
from prbench.reporting.data_table import properties_frame, properties_grid
from prbench.reporting.matters import tested
from prbench.reporting.page.findings import Finding
from prbench.reporting.paper.evidence import Evidence, PieceResult, among, splits_of


@marks.piece
def properties(evidence: Evidence, piece: Piece) -> PieceResult:
    """What each data set is like, and what bounds the gain from personalising there."""
    cells = [cell for setting in evidence.settings for cell in evidence.cells_of(*setting, piece)]
    frame = properties_frame(cells)
    if not len(frame):
        return PieceResult(frame)
    missing = [
        f"{r['dataset']} ({r['encoder']}): made by an earlier prbench, which did not record them"
        for r in frame.to_dict("records")
        if np.isnan(r["shared_pairs"])
    ]
    return PieceResult(frame, [properties_grid(frame, label=piece.name)], missing=missing)


@marks.piece
def calibration(evidence: Evidence, piece: Piece) -> PieceResult:
    """How far unseen users' decisions may be trusted, before and after adapting, without and with a temperature."""
    import pandas as pd

    scores = evidence.results.scores
    frames, grids, findings = [], [], []
    for dataset, encoder, board in evidence.boards_of(piece):
        cells = evidence.cells_of(dataset, encoder, piece)
        rows = {cell.row for cell in cells}
        records = calibration_records(scores[among(scores, rows)], ALL_SHOTS)
        titles = titles_of(cells)
        frame = calibration_frame(records)
        title = f"Calibration of unseen users' decisions on {dataset} ({encoder}), {splits_of(board)}"
        grids.append(calibration_grid(frame, titles, title, f"{piece.name}:{dataset}:{encoder}"))
        frames.append(frame)
        findings += _calibration_findings(evidence, board, records, titles)
    output = PieceResult(pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), grids)
    output.findings, output.missing = findings, evidence.missing_notes(piece)
    return output


def _calibration_findings(
    evidence: Evidence, board: Board, records: dict[tuple[str, ...], list[dict[str, Any]]], titles: dict[Any, str]
) -> list[Finding]:
    """Whose calibration error adapting raises or lowers for unseen users, as each method stands, without T."""
    differences = {}
    for row, row_records in records.items():
        error: dict[str, dict[int, list[float]]] = {"adapted": {}, "cold start": {}}
        for r in row_records:
            if (r["population"], r["temperature"]) == ("unseen", "none"):
                error[r["margins"]].setdefault(r["split"], []).append(r["error"])
        mean = {margins: {split: float(np.mean(v)) for split, v in by.items()} for margins, by in error.items()}
        values = [mean["adapted"][split] - mean["cold start"][split] for split in sorted(mean["adapted"])]
        if any(values):
            differences[titles[row]] = np.array([values])
    if not differences:
        return []
    tests = tested.family(
        differences, ratio=board.ratio, alpha=evidence.alpha, resamples=0, axes=("calibration", board.dataset)
    )
    place = f"On {board.dataset} ({board.encoder}, {splits_of(board)})"
    if tested.undefined(tests):
        return [Finding("measured", place, "no test tells whether adapting changes the calibration of unseen users")]
    worse, better, rest = tested.sorted_by_sign(tests, evidence.alpha)
    text = (
        f"adapting raises the calibration error of unseen users for {tested.names(worse)}, lowers it for "
        f"{tested.names(better)}, and for {tested.names(rest)} not beyond noise either way "
        f"({tested.rule_of(len(tests), evidence.alpha)})"
    )
    return [Finding("tested", place, text)]


@marks.piece
def budget(evidence: Evidence, piece: Piece) -> PieceResult:
    """Whether budgets sufficed, whether a row trained at all, and for whom adapting changes nothing."""
    import pandas as pd

    frames, grids = [], []
    for dataset, encoder, board in evidence.boards_of(piece):
        cells = evidence.cells_of(dataset, encoder, piece)
        rows = {cell.row for cell in cells}
        frame = budget_frame(cells, evidence.users[among(evidence.users, rows)])
        title = f"Budgets and unchanged users on {dataset} ({encoder}), {splits_of(board)}"
        grids.append(budget_grid(frame, titles_of(cells), title, f"{piece.name}:{dataset}:{encoder}"))
        frames.append(frame)
    return PieceResult(
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(),
        grids,
        missing=evidence.missing_notes(piece),
    )
