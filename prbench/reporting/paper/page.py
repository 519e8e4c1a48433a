"""The paper report as one page: the leaderboard's page around its main table, then every other piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry.pieces import Piece
from prbench.reporting.grid import DASH, Grid, TableCell
from prbench.reporting.page import Extra, write_page
from prbench.reporting.paper.evidence import Evidence, PieceResult, among
from prbench.reporting.paper.printed_numbers import contradictions
from prbench.reporting.placing import PlacedResults

if TYPE_CHECKING:
    import pandas as pd


def write_paper_page(
    path: Path,
    evidence: Evidence,
    finished: Sequence[tuple[Piece, PieceResult, list[Path]]],
    title: str = "The paper's evaluation",
) -> list[Path]:
    """Write the page called `title` around the first piece that has boards; no page where none has."""
    main = next((item for item in finished if item[1].boards), None)
    if main is None:
        path.unlink(missing_ok=True)
        return []
    piece, output, _ = main
    cells = [cell for board in output.boards for cell in evidence.cells_of(board.dataset, board.encoder, piece)]
    rows = {cell.row for cell in cells}
    users = evidence.users[evidence.users["shots"] == ALL_SHOTS]
    # Without scores of few shots: the page shows the figure that this report draws of them.
    results = PlacedResults(evidence.results.scores.iloc[:0], cells, evidence.results.folder)
    options = {
        "baseline": evidence.baseline,
        "shots": ALL_SHOTS,
        "alpha": evidence.alpha,
        "resamples": evidence.resamples,
        **({"published numbers": ", ".join(p.source for p in evidence.published)} if evidence.published else {}),
    }
    extras = [extra_of(*item) for item in finished]
    extras += [_on_published(evidence)] if evidence.published else []
    return [
        write_page(
            path,
            output.boards,
            users[among(users, rows)],
            results,
            options=options,
            title=title,
            extras=extras,
        )
    ]


def extra_of(piece: Piece, output: PieceResult, written: Sequence[Path]) -> Extra:
    """A piece's part of the page: its picture with its numbers, its tables, and what is missing."""
    text = piece.shows if written else f"{piece.shows} Not made: its results are not there."
    numbers = None if output.grids or not len(output.frame) else number_grid(output.frame, piece)
    return Extra(
        title=piece.title,
        text=text,
        picture=next((path for path in written if path.suffix == ".png"), None),
        more=output.grids if written else (),
        numbers=numbers,
        notes=[f"Missing: {phrase}." for phrase in output.missing],
        findings=output.findings if written else (),
    )


def number_grid(frame: pd.DataFrame, piece: Piece) -> Grid:
    """A piece's numbers as they stand in its CSV file, to four significant digits."""

    def spell(value: object) -> str:
        if isinstance(value, float):
            return DASH if value != value else f"{value:.4g}".replace("-", "−")
        return str(value)

    rows = [[TableCell(spell(value)) for value in line] for line in frame.itertuples(index=False, name=None)]
    return Grid(f"{piece.name}.csv", tuple(map(str, frame.columns)), rows, (), [], piece.name)


def _on_published(evidence: Evidence) -> Extra:
    notes = []
    for paper in evidence.published:
        notes += [f"{paper.title} ({paper.source}): {note}" for note in paper.notes]
        notes += [f"{paper.title}: {contradiction}, which cannot be." for contradiction in contradictions(paper)]
    text = "They stand beside ours only on their own data sets and encoders: nothing else compares with them."
    return Extra(title="The published numbers", text=text, notes=notes)
