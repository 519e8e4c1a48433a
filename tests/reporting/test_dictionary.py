"""The explained columns are those that are written, and the splits' numbers are what the means are of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from fake_results import HEAVY, population, report

from prbench import cli
from prbench.reporting.dictionary import FILES, FORMULAS


def test_every_column_of_every_file_is_explained_and_in_this_order(tmp_path: Path) -> None:
    report(population(HEAVY, splits=3), tmp_path)
    written = {path.name: list(pd.read_csv(path).columns) for path in tmp_path.glob("*.csv")}
    assert written.keys() == FILES.keys()
    for name, columns in written.items():
        assert not set(columns) - set(FILES[name]), name
        # leaderboard.csv has some columns only where a board has something to say in them.
        found = [key for key in FILES[name] if key in columns] if name == "leaderboard.csv" else list(FILES[name])
        assert columns == found, name


def test_splits_are_what_the_leaderboard_averages(tmp_path: Path) -> None:
    report(population(HEAVY, splits=3), tmp_path)
    splits = pd.read_csv(tmp_path / "splits.csv")
    assert splits.groupby("method").size().to_dict() == dict.fromkeys(HEAVY, 3 * 3)
    assert set(splits["restart"]) == {0}
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("method")
    for method, part in splits[splits["population"] == "unseen"].groupby("method"):
        assert part["accuracy"].mean() == pytest.approx(table.loc[method, "unseen"])
        assert part["accuracy"].std() == pytest.approx(table.loc[method, "unseen_std"])


def test_the_page_has_a_line_for_each_formula_and_says_what_was_not_run(tmp_path: Path) -> None:
    report(population(HEAVY, splits=3), tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for name in FORMULAS:
        assert f"<dt>{name.replace(chr(39), '&#39;')}</dt>" in page
    assert "17 of the protocol&#39;s 20 splits" in page
    assert "methods of all:" in page


def test_accuracies_and_shares_of_the_files_are_said_to_be_fractions(tmp_path: Path) -> None:
    report(population(HEAVY, splits=3), tmp_path)
    for file, meanings in FILES.items():
        table = pd.read_csv(tmp_path / file)
        for name, meaning in meanings.items():
            assert "{" not in meaning, (file, name)
            if name != "k":
                assert "%" not in re.sub(r"% (of (all |seen |unseen )?users|quantile)", "", meaning), (file, name)
            if "(a fraction)" in meaning and name in table:
                assert not (table[name].abs() > 1).any(), (file, name)
    assert FILES["leaderboard.csv"]["overall"] == "user accuracy (a fraction), all users"
    assert FILES["leaderboard.csv"]["flip_rate"] == "share of decisions that adaptation changed"
    assert "the baseline" not in FILES["leaderboard.csv"]["seen"]


def test_columns_are_printed_without_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--columns", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["file"] for row in found} == {*FILES, "formula"}
    assert cli.main(["report"]) == 2
    assert "give the name of a report" in capsys.readouterr().err
