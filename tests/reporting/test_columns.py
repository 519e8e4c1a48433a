"""A column is one record: planted once, it is in every form of the leaderboard."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fake_results import HEAVY, one_board, population, report

from prbench.reporting import columns
from prbench.reporting.columns import COLUMNS, EVERYWHERE, Column, View


def test_a_planted_column_is_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Column(
        "letters", "letters of the name of {baseline}", lambda _, row: len(row.method) / 1000, EVERYWHERE, "Letters",
        place=75, digits=3, marks=lambda _, row: "*" if row.method == "mrm" else "",
    )  # fmt: skip
    text, _ = report(population(HEAVY, users=8, splits=2, tests=10), tmp_path, width=160)
    assert "Letters" not in text
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, planted))
    text, _ = report(population(HEAVY, users=8, splits=2, tests=10), tmp_path, width=160)
    assert "Letters" in text
    assert "0.300*" in text
    frame = pd.read_csv(tmp_path / "leaderboard.csv").set_index("method")
    assert frame["letters"].to_dict() == {name: len(name) / 1000 for name in HEAVY}
    for name, value in (("leaderboard.md", "0.900 |"), ("leaderboard.tex", r"0.900 \\")):
        first = (tmp_path / name).read_text().split("Tests on")[0]
        assert "Letters" in first
        assert value in first
    page = (tmp_path / "index.html").read_text()
    assert '<th scope="col" data-first="descending" title="letters of the name of BT" class="n">Letters</th>' in page
    assert page.count('<td class="n" data-value="0.009">0.900') == 1


def test_keys_are_unique_and_every_column_is_explained() -> None:
    keys = [column.key for column in COLUMNS]
    assert len(keys) == len(set(keys))
    assert all(column.help for column in COLUMNS)
    assert all(column.label and "csv" in column.where for column in COLUMNS if column.where != columns.CSV)


def test_what_a_missing_number_says() -> None:
    fake = population({"bt": 0.0, "mrm": 0.05}, users=8, splits=3, tests=10)
    fake.cell("gpo", 0, "failed", reason="out of memory")
    board = one_board(fake)
    view = View(board)
    (difference,) = columns.by_key("difference")
    (overall,) = columns.by_key("overall")
    rows = {row.method: row for row in board.rows}
    assert difference.entry(view, rows["bt"]).missing == "this is the baseline"
    assert overall.entry(view, rows["gpo"]).missing == "failed: out of memory; not run"
    assert difference.entry(view, rows["gpo"]).missing == "failed: out of memory; not run"
    assert difference.entry(view, rows["mrm"]).text.startswith("+")
