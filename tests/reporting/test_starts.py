"""Random starts in the leaderboard: means, the spread over starts, and differences that starts may explain."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from fake_results import Fake, one_board, report

from prbench.reporting import columns
from prbench.reporting.board import Board
from prbench.reporting.board_grids import accuracy_grid
from prbench.reporting.columns import View
from prbench.reporting.page.findings import findings
from prbench.reporting.significance import STARTS_SAID

# By split and restart; the spread within splits is sqrt(0.08 / 4) and the mean 0.65.
FITS = {0: (0.6, 0.7, 0.8), 1: (0.5, 0.5, 0.8)}
SPREAD = math.sqrt(0.08 / 4)


def results(base: float, fits: dict[int, tuple[float, ...]] = FITS, *, starts: bool = False) -> Fake:
    """LoRe from several starts beside BT, which has `base` everywhere and declares that it has no random start."""
    fake = Fake()
    for split, accuracies in fits.items():
        for restart, accuracy in enumerate(accuracies):
            fake.add("lore", split, dict.fromkeys(range(4), accuracy), restart=restart)
        fake.add("bt", split, dict.fromkeys(range(4), base), random_start=starts)
    return fake


def lore(board: Board) -> dict[str, columns.Entry]:
    view = View(board)
    row = next(row for row in board.rows if row.method == "lore")
    return {column.key: column.entry(view, row) for column in columns.shown(board, "table")}


@pytest.mark.parametrize(
    ("base", "marked"),
    # 2·sqrt(0.02 / (2·3)) = 0.1155: a difference of 0.05 lies below it, one of 0.25 above.
    [(0.6, True), (0.4, False)],
)
def test_a_difference_that_starts_may_explain_is_marked(base: float, marked: bool) -> None:
    board = one_board(results(base))
    row = next(row for row in board.rows if row.method == "lore")
    assert (row.starts, row.start_std["overall"]) == (3, pytest.approx(SPREAD))
    assert row.value("overall") == pytest.approx(0.65)
    (pair,) = [pair for pair in board.pairs if pair.population == "overall"]
    assert abs(pair.result.difference) == pytest.approx(0.65 - base)
    assert pair.start_error == pytest.approx(SPREAD / math.sqrt(6))
    entry = lore(board)
    assert entry["start_std"].text == "14.14"
    assert ("‡" in entry["difference"].marks) is marked
    assert any(STARTS_SAID in note for note in accuracy_grid(board).notes) is marked


def test_tests_take_the_mean_over_the_starts_of_each_split() -> None:
    from scipy.stats import ttest_rel

    board = one_board(results(0.6, {0: (0.6, 0.8), 1: (0.5, 0.9), 2: (0.9, 0.9)}))
    (pair,) = [pair for pair in board.pairs if pair.population == "overall"]
    assert pair.result.n_splits == 3
    assert pair.result.plain.p == pytest.approx(ttest_rel([0.7, 0.7, 0.9], [0.6] * 3).pvalue)


def test_one_start_shows_a_dash_and_marks_nothing() -> None:
    board = one_board(results(0.6, {0: (0.6,), 1: (0.7,)}))
    assert {pair.start_error for pair in board.pairs if math.isfinite(pair.start_error)} <= {0.0}
    entry = lore(board)
    assert entry["start_std"].text == "–"
    assert entry["start_std"].missing.startswith("fitted from one start")
    assert "‡" not in str(accuracy_grid(board))
    bt = next(row for row in board.rows if row.method == "bt")
    (column,) = columns.by_key("start_std")
    assert column.entry(View(board), bt).missing == "the method has no random start"


def test_a_start_that_lacks_a_split_is_left_out_and_named() -> None:
    fake = results(0.6, {0: (0.6, 0.7, 0.8), 1: (0.5, 0.5)})
    fake.cell("lore", 1, "failed", restart=2, reason="it broke")
    board = one_board(fake)
    row = next(row for row in board.rows if row.method == "lore")
    assert row.complete
    assert row.starts == 2
    assert row.value("overall") == pytest.approx((0.65 + 0.5) / 2)
    assert row.start_note == "restart 2 has 1 of 2 splits (failed: it broke)"
    assert f"LORE: {row.start_note}; left out." in accuracy_grid(board).notes


def test_it_stands_wherever_a_difference_is_shown(tmp_path: Path) -> None:
    fake = results(0.55)
    for cell in fake.cells:
        family = "personalised parameters" if cell["method"] == "lore" else "no personalisation"
        cell["entry"] = {**cell["entry"], "name": cell["method"], "family": family, "selection": cell["selection"]}
    text, _ = report(fake, tmp_path, width=200)
    assert "‡" in text
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("method")
    assert table.loc["lore", ["starts", "within_starts"]].tolist() == [3, True]
    assert table.loc["lore", "start_std"] == pytest.approx(SPREAD)
    assert table.loc["bt", "starts"] == 1
    assert table.loc[["bt"], "start_std"].isna().all()
    pairs = pd.read_csv(tmp_path / "comparisons.csv").set_index("population")
    assert pairs.loc["overall", "start_error"] == pytest.approx(SPREAD / math.sqrt(6))
    assert pairs.loc["overall", "within_starts"]
    page = (tmp_path / "index.html").read_text()
    assert "‡: other random starts may explain it" in page
    assert "3 a split (LORE); none (BT)" in page
    board = one_board(fake)
    families = {row.key: row.family for row in board.rows}
    sentences = [str(finding) for finding in findings(board, families)]
    assert any("first place is not settled" in said and STARTS_SAID in said for said in sentences), sentences
