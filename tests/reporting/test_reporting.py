"""The leaderboard: what it prints, what it marks, what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_results import HEAVY, Fake, frame_of, one_board, population, printed, report, written

from prbench.base.errors import InputError
from prbench.reporting import board_grids, board_tests, writers
from prbench.reporting import grid as grid_module
from prbench.reporting.board import build
from prbench.reporting.frames import adapting_frame, comparisons_frame, leaderboard_frame
from prbench.reporting.leaderboard import leaderboard


def test_numbers_by_hand(tmp_path: Path) -> None:
    fake = Fake()
    for split, better in ((0, 0.1), (1, 0.3)):
        fake.add("bt", split, {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.2})
        fake.add("mrm", split, {1: 0.5, 2: 0.6 + better, 3: 0.7, 4: 0.2 + better}, flipped=1)
    _, paths = report(fake, tmp_path)
    table = pd.read_csv(tmp_path / "leaderboard.csv").set_index("method")
    mrm = table.loc["mrm"]
    assert mrm["seen"] == pytest.approx(((0.5 + 0.7) / 2 + (0.5 + 0.9) / 2) / 2)
    assert mrm["unseen"] == pytest.approx(((0.7 + 0.3) / 2 + (0.7 + 0.5) / 2) / 2)
    assert mrm["overall"] == pytest.approx((2.2 / 4 + 2.6 / 4) / 2)
    assert mrm["overall_std"] == pytest.approx(np.std([0.55, 0.65], ddof=1))
    assert mrm["worst10"] == pytest.approx((0.3 + 0.5) / 2)
    assert mrm["worst50"] == pytest.approx(((0.3 + 0.5) / 2 + (0.5 + 0.5) / 2) / 2)
    assert mrm["flip_rate"] == pytest.approx(0.1)
    assert mrm["n_splits"] == 2
    assert mrm["complete"]
    assert mrm["baseline"] == "bt"
    # Users differ by 0, b, 0, b: the mean over users is b / 2.
    assert mrm["difference"] == pytest.approx((0.05 + 0.15) / 2)
    t = 0.1 / np.sqrt((1 / 2 + 1) * np.var([0.05, 0.15], ddof=1))
    assert mrm["p_corrected"] == pytest.approx(1 - 2 / np.pi * np.arctan(t))  # Student with 1 degree of freedom
    assert np.isnan(table.loc["bt", "difference"])
    assert {p.name for p in paths} == {
        "leaderboard.csv", "splits.csv", "comparisons.csv", "adapting.csv", "calibration.csv", "properties.csv",
        "budget.csv", "leaderboard.md", "leaderboard.tex", "worst-k.csv", "worst-k.png",
        "worst-k.pdf", "index.html",
    }  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_the_columns_that_readers_rely_on() -> None:
    columns = list(leaderboard_frame([one_board(population(HEAVY, splits=2))]).columns)
    wanted = (
        "dataset encoder method title selection seen unseen overall seen_std unseen_std overall_std worst10 worst20"
    )
    wanted += " worst50 flip_rate cold_start tie_rate bt_loss n_splits complete"
    assert columns[: len(wanted.split())] == wanted.split()
    assert {"difference", "difference_low", "difference_high", "p_plain", "p_corrected", "p_holm", "p_wilcoxon",
            "bootstrap_low", "bootstrap_high"} <= set(columns)  # fmt: skip


def test_rows_stand_by_accuracy_and_marks_follow_the_tests() -> None:
    board = one_board(population(HEAVY))
    assert [row.method for row in board.rows] == ["mrm", "lore", "bt-ridge", "bt", "reference"]
    grid = board_grids.accuracy_grid(board)
    cells = {row[0].text: dict(zip(grid.header, row, strict=True)) for row in grid.rows}
    assert cells["MRM"]["Overall"].rank == 1
    assert cells["LORE"]["Overall"].rank == 2
    assert cells["BT"]["Overall"].rank == 0
    assert cells["MRM"]["Overall"].marks == "*†"
    assert cells["LORE"]["Overall"].marks == ""
    assert cells["REFERENCE"]["vs BT"].marks == "*†"
    ridge = board.against_baseline(board.rows[2])
    assert ridge.result.plain.p < 0.05 < ridge.p_table, "the planted case for the dagger alone"
    assert cells["BT-RIDGE"]["vs BT"].marks == "†"
    assert cells["BT"]["vs BT"].text == "–"
    gain = board.rows[0].value("overall") / board.rows[1].value("overall") - 1
    assert cells["% improvement over runner-up"]["Overall"].text == f"+{100 * gain:.1f}"


def test_holm_over_the_comparisons_of_the_table() -> None:
    board = one_board(population(HEAVY))
    family = board.in_table()
    names = {(p.population, *sorted((p.a.method, p.b.method))) for p in family}
    assert names == {
        *(("overall", *sorted((m, "bt"))) for m in ("mrm", "lore", "bt-ridge", "reference")),
        *((p, "lore", "mrm") for p in ("seen", "unseen", "overall")),
    }
    raw = np.array([pair.result.corrected.p for pair in family])
    order = np.argsort(raw)
    worst = 0.0
    for i, k in enumerate(order):
        worst = max(worst, min(1.0, (len(raw) - i) * raw[k]))
        assert family[k].p_table == pytest.approx(worst)
    table = comparisons_frame([board])
    assert len(table) == 3 * 10
    assert (table["p_holm"] >= table["p_corrected"]).all()
    assert table["p_holm_table"].notna().sum() == len(family)
    grid = board_tests.tests_grid(board)
    assert len(grid.rows) == len(family)
    assert {row[0].text for row in grid.rows} >= {"REFERENCE − BT", "MRM − BT", "MRM − LORE, seen", "MRM − LORE"}


def test_a_method_against_its_own_cold_start() -> None:
    fake = Fake()
    # Of 10 tests the first 2 are flipped: wrong before, right after, where a user has at least 2 of them right. User 4
    # has none right: 2 of its tests are right before.
    for split, last in enumerate((0.0, 0.0, 0.6)):
        fake.add("lore", split, {1: 0.5, 2: 0.7, 3: 0.9, 4: last}, flipped=2)
        fake.add("mrm", split, {1: 0.5, 2: 0.7, 3: 0.9, 4: 0.8}, flipped=2)
        fake.add("bt", split, {1: 0.5, 2: 0.7, 3: 0.9, 4: 0.8})
    board = one_board(fake)
    found = {(pair.population, pair.a.method): pair for pair in board.adapting}
    assert set(found) == {(p, method) for p in ("seen", "unseen", "overall") for method in ("lore", "mrm")}
    # lore's gains: (.2 + .2 + .2 - .2) / 4 = .1 in two splits, .2 in the last; unseen users: 0, 0, .2.
    overall, unseen = found["overall", "lore"].result, found["unseen", "lore"].result
    assert (overall.n_splits, overall.n_users) == (3, 4)
    assert overall.difference == pytest.approx(0.4 / 3)
    assert unseen.difference == pytest.approx(0.2 / 3)
    statistic = (0.4 / 3) / np.sqrt((1 / 3 + 1) * np.var([0.1, 0.1, 0.2], ddof=1))
    assert overall.corrected.statistic == pytest.approx(statistic)
    # mrm's gain never varies: there is no test, but it counts among what was asked for.
    assert np.isnan(found["overall", "mrm"].result.corrected.p)
    assert found["overall", "lore"].p_table == pytest.approx(2 * overall.corrected.p)
    assert found["overall", "lore"].b.value("overall") == pytest.approx(board.rows[-1].value("overall", "cold_start"))
    table = adapting_frame([board]).set_index(["population", "method"])
    assert table.loc[("overall", "lore"), "adapted"] - table.loc[("overall", "lore"), "cold_start"] == pytest.approx(
        table.loc[("overall", "lore"), "difference"]
    )
    grid = board_tests.adapting_grid(board)
    assert [row[0].text for row in grid.rows] == ["MRM", "LORE"]
    assert [cell.text for cell in grid.rows[1]][1:5] == ["44.2", "57.5", "20.0", "+13.33"]


def test_a_cold_start_that_decides_nothing_is_not_compared_with() -> None:
    fake = population({"bt": 0.0, "user-bt": 0.01, "lore": 0.01})
    for frame in fake.frames:
        frame.loc[frame["method"] == "user-bt", "cold_margin"] = 0.0
    board = one_board(fake)
    assert {pair.a.method for pair in board.adapting} == {"bt", "lore"}
    assert "USER-BT decides nothing at cold start and is left out." in board_tests.adapting_grid(board).notes


def test_equal_rows_are_both_best() -> None:
    fake = Fake()
    for split in range(3):
        for method in ("bt", "lore", "mrm"):
            fake.add(
                method, split, {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8} if method != "bt" else dict.fromkeys(range(1, 5), 0.3)
            )
    board = one_board(fake)
    assert [[r.method for r in rank] for rank in board.ranked("overall")] == [["lore", "mrm"], ["bt"]]
    grid = board_grids.accuracy_grid(board)
    overall = grid.header.index("Overall")
    assert [row[overall].rank for row in grid.rows[:3]] == [1, 1, 2]
    assert all(row[overall].marks == "" for row in grid.rows[:2])


def test_one_split_has_no_spread_and_no_verdict() -> None:
    fake = population(HEAVY, splits=1)
    text = printed(fake)
    table = frame_of(fake)
    assert (
        table[["overall_std", "p_plain", "p_corrected", "p_holm", "p_wilcoxon", "difference_low"]]
        .isna()
        .all(axis=None)
    )
    assert table["difference"].notna().sum() == len(HEAVY) - 1
    assert re.search(r"MRM +\d\d\.\d±–", text)
    assert "1 split of" in text


def test_a_row_without_all_splits_is_marked_and_never_ranked() -> None:
    fake = population({"bt": 0.0, "mrm": 0.02}, splits=6)
    best = population({"lore": 0.1}, splits=4)
    fake.frames += best.frames
    fake.cells += best.cells
    fake.cell("lore", 4, "failed", reason="out of memory")
    board = one_board(fake)
    assert [(r.method, r.complete, len(r.splits)) for r in board.rows] == [
        ("mrm", True, 6), ("bt", True, 6), ("lore", False, 4)
    ]  # fmt: skip
    assert [row.method for rank in board.ranked("overall") for row in rank] == ["mrm", "bt"]
    pair = board.against_baseline(board.rows[2])
    assert pair.result.n_splits == 4
    common = [
        np.mean([c for f in fake.frames if f["method"].iloc[0] == m and f["split"].iloc[0] == s for c in [(f["margin"] > 0).mean()]])
        for m in ("lore", "bt") for s in range(4)
    ]  # fmt: skip
    assert pair.result.difference == pytest.approx(np.mean(common[:4]) - np.mean(common[4:]))
    text = printed(fake)
    assert "4/6" in text
    assert "LORE: 4 of 6 splits (failed: out of memory; not run)" in " ".join(text.split())
    lore = frame_of(fake).loc["lore"]
    assert not lore["complete"]
    assert lore["n_splits"] == 4
    assert lore["n_splits_compared"] == 4
    assert lore["note"] == "failed: out of memory; not run"
    assert "LORE" in written(fake, writers.markdown)


def test_a_row_without_results_is_shown_as_missing() -> None:
    fake = population({"bt": 0.0, "mrm": 0.02}, splits=3)
    for split in range(3):
        fake.cell("reference", split, "skipped", reason="the encoder has no reward head")
    text = printed(fake)
    row = frame_of(fake).loc["reference"]
    assert row["n_splits"] == 0
    assert not row["complete"]
    assert row[["seen", "unseen", "overall", "worst10", "flip_rate", "difference", "p_holm"]].isna().all()
    assert re.search(r"REFERENCE( +–){9} +0/3", text)
    assert "skipped: the encoder has no reward head" in " ".join(text.split())


def test_nothing_done_at_all(tmp_path: Path) -> None:
    fake = Fake()
    fake.cell("bt", 0, "failed", reason="out of memory")
    text, paths = report(fake, tmp_path)
    assert "0/1" in text
    assert not any(path.suffix == ".png" for path in paths)


def test_rows_selected_on_test_data_are_labelled_and_take_no_part() -> None:
    fake = population({"bt": 0.0, "lore": 0.01, "mrm": 0.02}, splits=4)
    oracle = population({"mrm": 0.1, "bt": 0.05}, splits=5, selection="test-oracle")
    fake.frames += oracle.frames
    fake.cells += oracle.cells
    board = one_board(fake)
    assert board.splits == 4, "their splits set no standard for the others"
    assert [row.oracle for row in board.rows] == [False, False, False, True, True]
    assert board.ranked("overall")[0][0].key == ("mrm", "validation")
    assert not any(pair.a.oracle or pair.b.oracle for pair in board.pairs)
    assert all(base is None or not base.oracle for base in board.baseline.values())
    text = printed(fake, width=160)
    assert "MRM (selected on test data)" in text
    markdown = written(fake, writers.markdown)
    for line in markdown.splitlines():
        if line.startswith("|") and "selected on test data" in line:
            assert "**" not in line
            assert "<u>" not in line
            assert "†" not in line
    table = frame_of(fake)
    assert table[table["selection"] == "test-oracle"][["difference", "p_plain", "p_holm"]].isna().all(axis=None)


def test_the_baseline_under_the_same_selection_rule() -> None:
    fake = population({"bt": 0.0, "mrm": 0.02}, splits=3)
    for more in (population({"bt": 0.03, "lore": 0.02}, splits=3, selection="last"),):
        fake.frames += more.frames
        fake.cells += more.cells
    board = one_board(fake)
    assert {key: base and base.key for key, base in board.baseline.items()} == {
        ("mrm", "validation"): ("bt", "validation"),
        ("lore", "last"): ("bt", "last"),
        ("bt", "validation"): None,
        ("bt", "last"): None,
    }
    assert "vs BT" in board_grids.accuracy_grid(board).header
    assert {row.title for row in board.rows} == {"BT (validation)", "BT (last)", "MRM", "LORE"}


def test_without_the_baseline_rows_are_still_shown(tmp_path: Path) -> None:
    text, paths = report(population({"lore": 0.0, "mrm": 0.02}, splits=3), tmp_path)
    assert "No row has a baseline" in " ".join(text.split())
    assert "vs" not in board_grids.accuracy_grid(one_board(population({"lore": 0.0, "mrm": 0.02}, splits=3))).header
    assert any(path.name == "worst-k.png" for path in paths)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_fingerprint": "data2"}, r"differ in data: data2 and data1"),
        ({"embedding_fingerprint": "emb2"}, r"differ in embeddings: emb2 and emb1"),
        (
            {"protocol": {"name": "paper", "unit": "group", "test_share": 0.2}},
            r"differ in protocol: test_share 0.2 and 0.5",
        ),
        ({"protocol_version": 2}, r"differ in version of the protocol: 2 and 1"),
        ({"seed": 7}, r"differ in seed: 7 and 42"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    fake = population({"bt": 0.0}, splits=2)
    other = population({"mrm": 0.0}, splits=2, **change)
    fake.frames += other.frames
    fake.cells += other.cells
    with pytest.raises(InputError, match=said) as caught:
        report(fake, tmp_path / "out")
    assert "convarg/minilm/bt split 0" in str(caught.value)
    assert "convarg/minilm/mrm split 0" in str(caught.value)
    assert not (tmp_path / "out").exists()
    # On another data set the same differences are nobody's business.
    for cell in other.cells:
        cell["dataset"] = "crowdrag"
    for frame in other.frames:
        frame["dataset"] = "crowdrag"
    assert len(build(fake.results(), baseline="bt", shots=-1, alpha=0.05, resamples=200)[0]) == 2


def test_the_number_of_splits_is_no_difference() -> None:
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2)
    fake.cells[0]["protocol"] = {**fake.cells[0]["protocol"], "splits": 5}
    assert one_board(fake).splits == 2


def test_one_row_has_one_set_of_parameters_and_one_cell_per_split() -> None:
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2)
    fake.cells[-1]["params"] = {"bases": 4}
    with pytest.raises(InputError, match="differ in parameters: bases 4 and 2"):
        one_board(fake)
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2)
    fake.cell("mrm", 1)
    with pytest.raises(InputError, match="differ in cell key"):
        one_board(fake)


def test_scores_and_records_must_match() -> None:
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2)
    fake.cell("mrm", 2)
    with pytest.raises(InputError, match="convarg/minilm/mrm split 2 has no scores at shots = -1"):
        one_board(fake)
    with pytest.raises(InputError, match="bt split 0 has no scores at shots = 7") as refused:
        one_board(fake, shots=7)
    assert refused.value.hint == "repeat the run with --shots all,7"
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2)
    del fake.cells[-1]
    with pytest.raises(InputError, match="convarg/minilm/mrm split 1 has no record"):
        one_board(fake)


@pytest.mark.parametrize("kept", [slice(0, -1), slice(10, None)], ids=["a comparison less", "a user less"])
def test_methods_tested_on_different_comparisons_are_refused(kept: slice) -> None:
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2, tests=10)
    fake.frames[-1] = fake.frames[-1].iloc[kept]
    with pytest.raises(InputError, match="convarg/minilm split 1: the methods were tested on different comparisons"):
        one_board(fake)


def test_shots_choose_the_scores() -> None:
    fake = population({"bt": 0.0, "mrm": 0.1}, splits=2)
    few = population({"bt": 0.0, "mrm": 0.05}, splits=2, shots=5)
    fake.frames += few.frames
    assert one_board(fake).rows[0].value("overall") > one_board(fake, shots=5).rows[0].value("overall")


def test_bad_options_and_empty_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results to report"):
        report(Fake(), tmp_path)
    with pytest.raises(InputError, match="alpha is 5"):
        report(population({"bt": 0.0}), tmp_path, alpha=5)
    with pytest.raises(InputError, match="resamples is 3"):
        report(population({"bt": 0.0}), tmp_path, resamples=3)
    for shots in (-2, "all", 1.5, True):
        with pytest.raises(InputError, match=f"shots is {shots!r}"):
            report(population({"bt": 0.0}), tmp_path, shots=shots)
    for baseline in ("nope", 3):
        with pytest.raises(InputError, match=f"baseline is {baseline!r}, which no row has") as refused:
            report(population({"bt": 0.0, "mrm": 0.1}, splits=2), tmp_path, baseline=baseline)
        assert "there are bt, mrm" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_variant_made_by_hand_may_be_the_baseline(tmp_path: Path) -> None:
    text, _ = report(population({"bt[l2=1]": 0.0, "mrm": 0.1}, splits=2), tmp_path, baseline="bt[l2=1]")
    assert "No row has a baseline" not in " ".join(text.split())


def test_ceiling_and_floor_of_simulated_data() -> None:
    truth = {p: {"ceiling": c, "floor": c - 0.2} for p, c in (("seen", 0.9), ("unseen", 0.8), ("overall", 0.85))}
    fake = population({"bt": 0.0, "mrm": 0.02}, splits=3, truth=truth)
    text = printed(fake)
    assert re.search(r"Ceiling: the true(?: rewards)? +90\.0±0\.0 +80\.0±0\.0 +85\.0±0\.0", text)
    table = frame_of(fake)
    assert set(table.index) == {"bt", "mrm"}
    assert table["ceiling"].tolist() == pytest.approx([0.85, 0.85])
    assert table["floor"].tolist() == pytest.approx([0.65, 0.65])


def test_ceiling_and_floor_are_over_the_splits_of_the_board() -> None:
    """Rows chosen on test data have no say in which these are, nor in the bounds."""
    fake = Fake()
    for method, selection, splits in (("bt", "validation", 1), ("lore", "test-oracle", 6)):
        for split in range(splits):
            truth = {p: {"ceiling": 0.9 - 0.1 * split, "floor": 0.5} for p in ("seen", "unseen", "overall")}
            fake.add(method, split, {0: 0.5, 1: 0.6}, selection=selection, truth=truth)
    board = one_board(fake)
    assert (board.splits, board.bounds["ceiling"].splits) == (1, (0,))
    assert board.bounds["ceiling"].value("overall") == 0.9
    assert np.isnan(board.bounds["ceiling"].spread("overall"))


def nasty() -> Fake:
    """Titles with every character that some format takes for a command."""
    fake = population(HEAVY)
    for cell in fake.cells:
        cell["title"] = {"mrm": r"A_b & 50% {x} $y #1 ~^ \\z", "lore": "L|R <b> *s*"}.get(
            cell["method"], cell["title"]
        )
    return fake


def test_latex_is_balanced_and_escaped() -> None:
    text = written(nasty(), writers.latex)
    assert r"A\_b \& 50\% \{x\} \$y \#1 \textasciitilde{}\textasciicircum{}" in text
    fitted = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}"
    assert text.count(fitted) == 3, "no wider than the page"
    bare = re.sub(r"\\[\\{}$&%#_]", "", text.replace(fitted, ""))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    code = "\n".join(line for line in bare.splitlines() if not line.startswith("%"))
    assert not set("%#~*") & set(re.sub(r"\$[^$]*\$", "", code)), "unescaped"
    outside = re.sub(r"\$[^$]*\$|\\label\{[^}]*\}", "", code)
    assert not set("^_<>") & set(outside), "only in mathematics"
    assert all(ord(c) < 128 for c in text), "plain ASCII compiles everywhere"
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 3
    for block in re.findall(r"\\begin\{tabular\}\{(l?r+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in block[1].splitlines() if line.endswith(r"\\")]
        assert len(rows) >= 4
        for line in rows:
            assert len(re.findall(r"(?<!\\)&", line)) == len(block[0]) - 1


def test_markdown_rows_have_all_columns() -> None:
    text = written(nasty(), writers.markdown)
    assert r"L\|R &lt;b> \*s\*" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert re.search(r"\| \*\*\d\d\.\d±\d\.\d\*\*\\\*† \|", text), "the best, in bold, with its marks"
    assert re.search(r"<u>\d\d\.\d±\d\.\d</u>", text)


@pytest.mark.parametrize("width", [100, 160])
def test_tables_fit_the_terminal_with_every_number_whole(width: int) -> None:
    fake = population({**HEAVY, "mrm-no-rpo": 0.02}, splits=3)
    more = population({"mrm": 0.06}, splits=2, selection="last")
    fake.frames += more.frames
    fake.cells += more.cells
    text = printed(fake, width=width)
    assert max(map(len, text.splitlines())) <= width
    for row in one_board(fake).rows:
        for p in ("seen", "unseen", "overall"):
            assert grid_module.mean_and_spread(row, p) in text
        for k in (10, 20, 50):
            assert f" {100 * row.value('overall', f'worst{k}'):.1f} " in text


def test_formatting_of_numbers() -> None:
    nan = float("nan")
    assert [grid_module.percent(v) for v in (0.6534, 1.0, nan)] == ["65.3", "100.0", "–"]
    assert grid_module.percent(-0.01, signed=True, digits=2) == "−1.00"
    nothing = [grid_module.percent(v, signed=True, digits=2) for v in (0.0, -0.0, -0.00004, 0.00004)]
    assert nothing == ["0.00"] * 4, "what rounds to nothing has no sign"
    assert grid_module.interval(-0.00001, 0.0) == "[0.00, 0.00]"
    assert [grid_module.decimal(v, 2) for v in (-0.004, -0.006, nan)] == ["0.00", "−0.01", "–"]
    assert [grid_module.p_value(p) for p in (0.0004, 0.0312, 1.0, nan)] == ["<0.001", "0.031", "1.000", "–"]
    assert grid_module.interval(-0.01, 0.02) == "[−1.00, +2.00]"
    assert grid_module.interval(nan, 0.02) == "–"


def test_equal_results_give_equal_files_in_any_order(tmp_path: Path) -> None:
    """Results are sorted before anything is computed of them, so sums run in one order, in one process."""
    fake = population(HEAVY, splits=3)
    _, first = report(fake, tmp_path / "a")
    fake.frames.reverse()
    fake.cells.reverse()
    _, second = report(fake, tmp_path / "b")
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name
        assert a.read_bytes() == b.read_bytes(), a.name


def test_figures_are_pictures_with_a_row_per_board(tmp_path: Path) -> None:
    from matplotlib.image import imread

    fake = population(HEAVY, splits=3)
    report(fake, tmp_path / "one")
    more = population(HEAVY, splits=3, dataset="crowdrag")
    fake.frames += more.frames
    fake.cells += more.cells
    report(fake, tmp_path / "two")
    one, two = (imread(tmp_path / name / "worst-k.png") for name in ("one", "two"))
    assert two.shape[0] > 1.7 * one.shape[0]
    assert one.shape[1] == two.shape[1] > 1500
    assert one[..., :3].std() > 0.05, "something is drawn"
    assert (tmp_path / "one" / "worst-k.pdf").read_bytes().startswith(b"%PDF")
    curve = pd.read_csv(tmp_path / "two" / "worst-k.csv")
    assert len(curve) == 2 * len(HEAVY) * 3 * 100
    full = curve[(curve["k"] == 100) & (curve["population"] == "overall")].set_index(["dataset", "method"])[
        "accuracy"
    ]
    table = pd.read_csv(tmp_path / "two" / "leaderboard.csv").set_index(["dataset", "method"])["overall"]
    pd.testing.assert_series_equal(full.sort_index(), table.sort_index(), check_names=False)


def test_the_points_of_many_rows_stand_apart() -> None:
    from matplotlib.figure import Figure

    from prbench.reporting import worst_k

    inches = {}
    for rows in (worst_k.BESIDE, 40):
        figure = Figure(figsize=(worst_k.WIDTH, worst_k._height(rows)))
        points, curve, _ = worst_k._panels(figure.subfigures(1, 1), rows)
        inches[rows] = points.get_position().width * worst_k.WIDTH
        assert curve.get_position().height * figure.get_figheight() > 1.5
    # Three groups of points; a marker is 6/72 inches wide.
    assert inches[40] / 3 * 0.8 / 40 > 0.6 * 6 / 72
    assert inches[40] > 2 * inches[worst_k.BESIDE]


def test_methods_keep_their_markers_and_only_variants_get_others() -> None:
    from prbench.reporting.worst_k import appearances

    fake = Fake()
    styles = {"bt": ("#000000", "o"), "lore": ("#0072B2", "o"), "mrm": ("#D55E00", "D")}
    for method in ("bt", "lore", "mrm", "mrm[bases=4]", "mrm[bases=8]"):
        cell = fake.add(method, 0, {1: 0.5, 2: 0.5})
        colour, marker = styles[method.partition("[")[0]]
        cell["entry"] = {"name": "not registered", "style": {"colour": colour, "marker": marker, "line": "solid"}}
    found = {key[0]: marker.shape for key, (marker, _) in appearances(one_board(fake).rows).items()}
    assert found["bt"] == "o"
    assert found["mrm"] == "D"
    # Black and blue are one grey: the same marker on the same line is not enough.
    assert len(set(found.values())) == 5


def test_sixty_rows_of_one_style_are_told_apart_in_grey_print() -> None:
    from prbench.reporting.worst_k import SPARE_MARKERS, appearances

    fake = Fake()
    for i in range(4 * len(SPARE_MARKERS)):
        cell = fake.add(f"mrm[bases={i}]", 0, {1: 0.5, 2: 0.5})
        cell["entry"] = {"name": "not registered", "style": {"colour": "#D55E00", "marker": "D", "line": "solid"}}
    found = appearances(one_board(fake, resamples=0, compared="none").rows)
    assert len(set(found.values())) == len(found) == 60


def test_markers_without_a_face_are_drawn_too(tmp_path: Path) -> None:
    from matplotlib.image import imread

    drawn = {}
    for marker in ("x", "o"):
        fake = population({"bt": 0.0}, splits=2)
        for cell in fake.cells:
            cell["entry"] = {
                "name": "not registered",
                "style": {"colour": "#D55E00", "marker": marker, "line": "solid"},
            }
        report(fake, tmp_path)
        picture = imread(tmp_path / "worst-k.png")[:, :700, :3]
        orange = np.abs(picture - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=2) < 0.1
        # In the left panel: the markers are wider than the error bars.
        drawn[marker] = int(orange.any(axis=0).sum())
    assert drawn["x"] > 0.6 * drawn["o"] > 20


def test_the_entry_names_this_report() -> None:
    import inspect

    from prbench import registry
    from prbench.registry import targets

    entry = registry.get("reports", "leaderboard")
    target = targets.load_target("reports", entry)
    assert target is leaderboard
    assert set(entry.options) <= set(inspect.signature(leaderboard).parameters)


def test_progress_stays_off_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard(population({"bt": 0.0, "mrm": 0.1}, splits=2).results(), tmp_path, resamples=200)
    captured = capsys.readouterr()
    assert "User accuracy in % on convarg" in captured.out
    assert "comparing methods" not in captured.out
