"""Published, tuned and test-oracle settings side by side on the leaderboard."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from fake_results import LOOKS, Fake, frame_of, one_board, population, report, written
from rich.console import Console

from prbench import registry
from prbench.base.errors import InputError
from prbench.protocol import stats
from prbench.reporting import board_grids, board_tests, writers
from prbench.reporting import grid as grid_module
from prbench.reporting.board import RANKED, Board

RULES = {"bt": "last", "mrm": "validation", "lore": "last", "reference": "last"}
BUDGET = {"trials": 20, "tuning_splits": [1_000, 1_001], "seed": 42}


def entry(method: str) -> dict[str, Any]:
    """A cell's resolved entry, as far as the report reads it."""
    colour, marker, line = LOOKS[method]
    style = {"colour": colour, "marker": marker, "line": line}
    return {"name": method, "selection": RULES[method], "style": style}


def add(fake: Fake, advantages: dict[tuple[str, str], float], **options: Any) -> Fake:
    """Rows (method, selection) with a planted advantage; `published` stands for the method's own rule."""
    for (method, selection), advantage in advantages.items():
        rule = RULES[method] if selection == "published" else selection
        part = population({method: advantage}, selection=rule, entry=entry(method), **options)
        for cell in part.cells:
            cell["key"] = f"{method}-{rule}-{cell['split']}"
            if rule == "tuned":
                cell["tuned"] = BUDGET
        fake.frames += part.frames
        fake.cells += part.cells
    return fake


def everything(**options: Any) -> Fake:
    """BT and MRM under all three settings, LoRe without a tuned one, the reference skipped under tuned."""
    fake = add(
        Fake(),
        {
            ("bt", "published"): 0.0,
            ("bt", "tuned"): 0.01,
            ("bt", "test-oracle"): 0.02,
            ("mrm", "published"): 0.02,
            ("mrm", "tuned"): 0.06,
            ("mrm", "test-oracle"): 0.08,
            ("lore", "published"): 0.03,
            ("lore", "test-oracle"): 0.04,
            ("reference", "published"): -0.06,
        },
        **options,
    )
    for split in range(options.get("splits", 8)):
        fake.cell("reference", split, "skipped", reason="no [search]", selection="tuned", entry=entry("reference"))
    return fake


def texts(grid: grid_module.Grid) -> dict[str, dict[str, str]]:
    """A grid's cells by first column and header, marks included."""
    return {row[0].text: {h: c.text + c.marks for h, c in zip(grid.header, row, strict=True)} for row in grid.rows}


def test_tuned_rows_are_labelled_ranked_and_compared() -> None:
    board = one_board(everything())
    tuned = {row.method: row for row in board.rows if row.selection == "tuned"}
    assert {row.title for row in tuned.values()} == {"BT (tuned)", "MRM (tuned)", "REFERENCE (tuned)"}
    assert [(row.method, row.selection) for rank in board.ranked("overall") for row in rank][:2] == [
        ("mrm", "tuned"),
        ("lore", "last"),
    ]
    assert not any(row.oracle for rank in board.ranked("overall") for row in rank)
    published = {row.method for row in board.rows if row.published}
    assert published == {"bt", "mrm", "lore", "reference"}
    assert {row.selection for row in board.rows if row.published} == {"last", "validation"}
    assert board.pair(tuned["mrm"], next(r for r in board.rows if r.published and r.method == "mrm"), "overall")
    # Their titles are told apart by the label alone: no rule is added to a published one.
    assert {row.title for row in board.rows if row.published} == {"BT", "MRM", "LORE", "REFERENCE"}


def test_tuned_rows_are_compared_with_the_tuned_baseline_and_published_with_the_published() -> None:
    board = one_board(everything())
    baselines = {(row.method, row.selection): board.baseline[row.key] for row in board.rows}
    assert baselines["mrm", "tuned"].selection == "tuned"
    assert baselines["mrm", "validation"].selection == "last"
    assert baselines["lore", "last"].selection == "last"
    assert baselines["bt", "last"] is baselines["bt", "tuned"] is None
    untuned = one_board(add(Fake(), {("bt", "published"): 0.0, ("mrm", "published"): 0.01, ("mrm", "tuned"): 0.02}))
    assert {row.selection for row in untuned.baseline.values() if row} == {"last"}
    only_tuned = one_board(add(Fake(), {("bt", "tuned"): 0.0, ("mrm", "published"): 0.01}))
    assert [row.selection for row in only_tuned.baseline.values() if row] == ["tuned"]


def test_the_settings_stand_side_by_side_with_missing_cells_missing() -> None:
    fake = everything()
    board = one_board(fake)
    grid = board_grids.settings_grid(board)
    found = texts(grid)
    assert list(found) == ["LORE", "MRM", "BT", "REFERENCE"]
    frame = frame_of(fake).reset_index().set_index(["method", "selection"])
    names = {"publ.": None, "tuned": "tuned", "oracle": "test-oracle"}
    for method in ("bt", "mrm"):
        for population_ in RANKED:
            for name, selection in names.items():
                value = frame.loc[(method, selection or RULES[method]), population_]
                shown = found[method.upper()][f"{population_.capitalize()} {name}"]
                assert shown == f"{100 * value:.1f}"
        for name in ("tuned", "oracle"):
            gain = frame.loc[(method, names[name]), "overall"] - frame.loc[(method, RULES[method]), "overall"]
            assert found[method.upper()][f"{name} −publ."].rstrip("*") == f"{100 * gain:+.2f}"
    lore = found["LORE"]
    assert [lore[f"{p.capitalize()} tuned"] for p in RANKED] == ["–"] * 3
    assert lore["tuned −publ."] == "–"
    assert lore["oracle −publ."] not in ("–", "")
    assert found["REFERENCE"]["Overall tuned"] == found["REFERENCE"]["oracle −publ."] == "–"
    assert "REFERENCE (tuned): skipped: no [search]." in grid.notes
    assert any("–: not run, or not on all 8 splits" in note for note in grid.notes)


def test_a_setting_that_lacks_a_split_is_missing_not_averaged() -> None:
    fake = everything()
    gone = next(
        i for i, c in enumerate(fake.cells) if (c["method"], c["selection"], c["split"]) == ("mrm", "tuned", 3)
    )
    fake.cells.pop(gone)
    fake.frames = [
        f for f in fake.frames if (f["method"].iloc[0], f["selection"].iloc[0], f["split"].iloc[0]) != ("mrm", "tuned", 3)
    ]  # fmt: skip
    board = one_board(fake)
    row = texts(board_grids.settings_grid(board))["MRM"]
    assert row["Overall tuned"] == row["tuned −publ."] == "–"
    assert row["Overall publ."] != "–"
    assert "MRM (tuned): not run." in board_grids.settings_grid(board).notes


def test_the_star_is_holm_over_the_differences_of_this_table() -> None:
    board = one_board(everything())
    grid = board_grids.settings_grid(board)
    rows = {(row.method, row.selection): row for row in board.rows}
    pairs = {m: board.pair(rows[m, "tuned"], rows[m, RULES[m]], "overall") for m in ("bt", "mrm")}
    raw = [pair.result.corrected.p for pair in pairs.values() if pair]
    for method, adjusted in zip(pairs, stats.holm(raw), strict=True):
        assert (texts(grid)[method.upper()]["tuned −publ."][-1] == "*") == (adjusted < 0.05), method
    assert texts(grid)["MRM"]["tuned −publ."].endswith("*"), "the case should have a star"
    assert any("Holm-adjusted over the differences of tuned from published." in note for note in grid.notes)


def grids(board: Board) -> list[str]:
    return [grid.title.split(" on ")[0] for grid in board_tests.grids(board)]


def test_the_table_is_there_only_where_settings_differ() -> None:
    plain = one_board(add(Fake(), {("bt", "published"): 0.0, ("mrm", "published"): 0.01}))
    assert grids(plain) == ["User accuracy in %", "Tests", "What adapting does"]
    assert grids(one_board(everything())) == [
        "User accuracy in %",
        "Published, tuned and test-oracle settings",
        "Tests",
        "What adapting does",
    ]


def test_a_method_changed_by_hand_is_not_published() -> None:
    fake = everything()
    for cell in fake.cells:
        if (cell["method"], cell["selection"]) == ("lore", "last"):
            cell["method"], cell["title"] = "lore[bases=3]", "LORE (bases=3)"
    for frame in fake.frames:
        frame.loc[(frame["method"] == "lore") & (frame["selection"] == "last"), "method"] = "lore[bases=3]"
    found = texts(board_grids.settings_grid(one_board(fake)))
    assert "LORE (bases=3)" not in found
    assert found["LORE"]["Overall publ."] == "–"
    assert found["LORE"]["Overall oracle"] != "–"


def test_rows_tuned_with_unlike_budgets_do_not_share_a_table() -> None:
    fake = everything()
    for cell in fake.cells:
        if (cell["method"], cell["selection"]) == ("mrm", "tuned"):
            cell["tuned"] = BUDGET | {"trials": 40}
    with pytest.raises(InputError, match="differ in tuning budget: trials 40 and 20") as caught:
        one_board(fake)
    assert caught.value.hint is not None
    assert "--trials" in caught.value.hint


def test_the_files_and_the_terminal_have_it(tmp_path: Path) -> None:
    text, paths = report(everything(splits=3), tmp_path, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert re.search(r"REFERENCE +\d\d\.\d +– +– +\d\d\.\d +– +– +\d\d\.\d +– +– +– +–", text)
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "## Published, tuned and test-oracle settings on convarg (minilm), user accuracy in %" in markdown
    assert re.search(r"\| LORE \| \d\d\.\d \| – \| \d\d\.\d \|", markdown)
    latex = (tmp_path / "leaderboard.tex").read_text()
    assert r"\label{settings:convarg:minilm}" in latex
    assert "MRM (tuned)" in latex
    assert (tmp_path / "worst-k.png").stat().st_size > 10_000
    assert {path.name for path in paths} >= {"leaderboard.md", "leaderboard.tex", "worst-k.png"}


def test_published_rows_keep_their_markers_above_or_below_tuned_ones() -> None:
    from prbench.reporting.worst_k import appearances

    board = one_board(everything())
    found = {key: marker for key, (marker, _) in appearances([r for r in board.rows if r.rankable]).items()}
    own = {name: registry.get("methods", name).style.marker for name in ("mrm", "bt")}
    assert found["mrm", "validation"] == (own["mrm"], False)
    assert found["bt", "last"] == (own["bt"], False)
    assert found["mrm", "tuned"] == (own["mrm"], True)
    assert len(set(found.values())) == len(found)


def test_the_tuned_row_of_a_marker_without_a_face_gets_one_that_can_be_hollow() -> None:
    from prbench.reporting.worst_k import appearances

    fake = Fake()
    for selection in ("validation", "tuned"):
        cell = fake.add("mrm-no-basis", 0, {1: 0.5, 2: 0.5}, selection=selection)
        cell["entry"] = {"name": "not registered", "style": {"colour": "#8c564b", "marker": "x", "line": "dotted"}}
    found = {key: marker for key, (marker, _) in appearances(one_board(fake).rows).items()}
    assert found["mrm-no-basis", "validation"] == ("x", False)
    assert found["mrm-no-basis", "tuned"].hollow
    assert found["mrm-no-basis", "tuned"].face


def test_the_written_table_has_the_numbers_of_the_grid() -> None:
    fake = everything(splits=3)
    grid = board_grids.settings_grid(one_board(fake))
    for row in grid.rows:
        assert " | ".join(cell.text for cell in row) in written(fake, writers.markdown).replace("\\*", "")
    text = io.StringIO()
    Console(file=text, width=160).print(writers.rich_table(grid))
    assert all(cell.text in text.getvalue() for row in grid.rows for cell in row)
