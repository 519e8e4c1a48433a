"""What choosing the epoch on test data would have claimed: the optimism of the test-oracle rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from prbench.registry import marks
from prbench.registry.pieces import Piece
from prbench.reporting import grid
from prbench.reporting.board import ORACLE, Board, Row
from prbench.reporting.grid import Grid, TableCell
from prbench.reporting.paper.evidence import Evidence, PieceResult, splits_of


@marks.piece
def oracle(evidence: Evidence, piece: Piece) -> PieceResult:
    """Overall accuracy under the honest choice and with the epoch chosen on test accuracy, and the difference."""
    import pandas as pd

    output = PieceResult(pd.DataFrame(), missing=evidence.missing_notes(piece))
    records = []
    for dataset, encoder, board in evidence.boards_of(piece):
        if not any(row.oracle for row in board.rows):
            output.missing.append(f"{dataset} ({encoder}): run with --selection {ORACLE}")
            continue
        choices = _choices(board, piece.methods)
        if unchosen := [choice.honest.method for choice in choices if choice.on_test is None]:
            output.missing.append(f"{dataset} ({encoder}), run with --selection {ORACLE}: {', '.join(unchosen)}")
        records += [_record(dataset, encoder, choice) for choice in choices]
        title = f"{piece.title}, {dataset} ({encoder})"
        output.grids.append(_grid(title, board, choices, f"{piece.name}:{dataset}:{encoder}"))
    output.frame = pd.DataFrame(records)
    return output


class _Choice(NamedTuple):
    """A method's row under an honest rule, and its row with the epoch chosen on test accuracy, where there is one."""

    honest: Row
    on_test: Row | None

    @property
    def accuracy(self) -> float:
        return self.honest.value("overall")

    @property
    def claim(self) -> float:
        """The accuracy that the choice on test data claims, NaN without such a row."""
        return math.nan if self.on_test is None else self.on_test.value("overall")


def _choices(board: Board, methods: Sequence[str]) -> list[_Choice]:
    """Every complete honest row of the methods, in their order."""
    complete = [row for row in board.rows if row.complete]
    choices = []
    for method in methods:
        rows = [row for row in complete if row.method == method]
        on_test = next((row for row in rows if row.oracle), None)
        choices += [_Choice(row, on_test) for row in rows if not row.oracle]
    return choices


def _record(dataset: str, encoder: str, choice: _Choice) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "encoder": encoder,
        "method": choice.honest.method,
        "selection": choice.honest.selection,
        "accuracy": choice.accuracy,
        "accuracy_on_test_choice": choice.claim,
        "optimism": choice.claim - choice.accuracy,
        "n_splits": len(choice.honest.splits),
    }


def _grid(title: str, board: Board, choices: Sequence[_Choice], key: str) -> Grid:
    lines = [
        [
            TableCell(choice.honest.title),
            TableCell(grid.percent(choice.accuracy, digits=2)),
            TableCell(grid.percent(choice.claim, digits=2)),
            TableCell(grid.percent(choice.claim - choice.accuracy, signed=True, digits=2)),
        ]
        for choice in choices
    ]
    notes = [
        f"Overall user accuracy in %, mean over {splits_of(board)}. Chosen on test: of the same candidates, the "
        "one with the best accuracy on the test choices of seen and unseen users, the rule of the published MRM "
        "code. It is not a result."
    ]
    return Grid(title, ("Method", "Chosen honestly", "Chosen on test", "Optimism"), lines, (), notes, key)
