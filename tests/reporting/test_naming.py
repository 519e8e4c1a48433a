"""Rows of models that were given as folders are called as the folders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from fake_results import Fake

from prbench.reporting.leaderboard import leaderboard
from prbench.reporting.naming import plainly_named, renamed
from prbench.results import Results

ROW = ("convarg", "rm-0123abcd", "mrm", "published")


def results(*encoders: str) -> Results:
    fake = Fake()
    for encoder in encoders:
        for method in ("bt", "mrm"):
            for split in (0, 1):
                place = len(fake.cells)
                fake.add(method, split, {1: 0.5, 2: 0.75, 3: 0.75, 4: 0.25}, encoder=encoder)
                for cell in fake.cells[place:]:
                    cell["encoder_entry"] = {"title": encoder.rpartition("-")[0] or encoder}
    return Results(fake.scores, fake.cells, rounding={ROW: 0.5})


def test_the_table_and_its_files_say_the_folders_name(tmp_path: Path) -> None:
    shown = plainly_named(results("rm-0123abcd", "minilm"))
    assert shown.shown == {"rm-0123abcd": "rm"}
    assert shown.rounding == {(ROW[0], "rm", *ROW[2:]): 0.5}
    leaderboard(shown, tmp_path, resamples=100)
    for file in ("leaderboard.csv", "splits.csv"):
        assert set(pd.read_csv(tmp_path / file)["encoder"]) == {"rm", "minilm"}
    page = (tmp_path / "index.html").read_text()
    assert "convarg (rm" in page
    assert "stored as rm-0123abcd" in page
    assert page.count("rm-0123abcd") == page.count("stored as rm-0123abcd")


def test_folders_of_one_name_keep_what_tells_them_apart() -> None:
    both = plainly_named(results("rm-0123abcd", "rm-4567abcd"))
    assert {cell["encoder"] for cell in both.cells} == {"rm-0123abcd", "rm-4567abcd"}
    assert not both.shown


def test_names_of_text_columns_and_categories() -> None:
    plain = pd.DataFrame({"encoder": ["rm-0123abcd", "minilm"]})
    for frame in (plain, plain.astype("category")):
        assert list(renamed(frame, {"rm-0123abcd": "rm"})["encoder"]) == ["rm", "minilm"]
