"""Rows of models that were given as folders are called as the folders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from fake_results import Fake, report

from prbench.reporting.naming import renamed
from prbench.reporting.placing import placed


def made(*encoders: str) -> Fake:
    """Two methods on embeddings of each encoder; one that is called by 8 hex digits is a folder's."""
    fake = Fake()
    for encoder in encoders:
        title = encoder.rpartition("-")[0] or encoder
        for method in ("bt", "mrm"):
            for split in (0, 1):
                accuracies = {1: 0.5, 2: 0.8, 3: 0.7, 4: 0.2 + split / 10}
                fake.add(method, split, accuracies, encoder=encoder, encoder_entry={"title": title})
        fake.rounding["convarg", encoder, "mrm", "validation"] = 0.5
    return fake


def test_the_table_and_its_files_say_the_folders_name(tmp_path: Path) -> None:
    fake = made("rm-0123abcd", "minilm")
    shown = placed(fake.results())
    assert shown.shown == {"rm-0123abcd": "rm"}
    assert {row[1] for row in shown.rounding} == {"rm", "minilm"}
    text, _ = report(fake, tmp_path)
    assert "on convarg (rm)" in text
    assert "rm-0123abcd" not in text
    for file in ("leaderboard.csv", "splits.csv", "comparisons.csv", "properties.csv"):
        assert set(pd.read_csv(tmp_path / file)["encoder"]) == {"rm", "minilm"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "rm, stored as rm-0123abcd" in page
    assert page.count("rm-0123abcd") == page.count("stored as rm-0123abcd")


def test_folders_of_one_name_keep_what_tells_them_apart() -> None:
    both = placed(made("rm-0123abcd", "rm-4567abcd").results())
    assert {cell.encoder for cell in both.cells} == {"rm-0123abcd", "rm-4567abcd"}
    assert not both.shown


def test_names_of_text_columns_and_categories() -> None:
    plain = pd.DataFrame({"encoder": ["rm-0123abcd", "minilm"]})
    for frame in (plain, plain.astype("category")):
        assert list(renamed(frame, {"rm-0123abcd": "rm"})["encoder"]) == ["rm", "minilm"]
