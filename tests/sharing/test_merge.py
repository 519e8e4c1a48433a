"""Merging: what agrees is one result, what does not is told and never used in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_results import population
from small_runs import registry_folder, short

from prbench import cli, registry, results
from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS
from prbench.reporting.placing import placed
from prbench.results import cells, digests, merged
from prbench.results.verify import verify
from prbench.sharing import pack
from prbench.sharing.agreement import agreement, rows_agree, spread_of_starts
from prbench.sharing.merge import merge, starts_of


def table(margins: np.ndarray, users: int = 20) -> pd.DataFrame:
    n = len(margins)
    user = np.arange(n) * users // n
    return pd.DataFrame(
        {
            "population": np.where(user < users // 2, "seen", "unseen"),
            "user": user.astype(np.int32),
            "comparison": np.arange(n),
            "margin": margins.astype(np.float32),
            "cold_margin": np.zeros(n, dtype=np.float32),
        }
    )


def flipped(margins: np.ndarray, rows: list[int]) -> np.ndarray:
    changed = margins.copy()
    changed[rows] *= -1
    return changed


MARGINS = np.random.default_rng(0).normal(0.5, 1, 4000)
RIGHT, WRONG = np.flatnonzero(MARGINS > 0), np.flatnonzero(MARGINS < 0)


def test_rounding_agrees_and_the_order_of_rows_does_not_count() -> None:
    a, b = table(MARGINS), table(MARGINS + 1e-6)
    same = agreement(a, a.sample(frac=1, random_state=0))
    assert (same.identical, same.agrees, same.margin, same.decisions) == (True, True, 0, 0)
    found = agreement(a, b)
    assert found.agrees
    assert not found.identical
    assert found.margin == pytest.approx(1e-6, rel=0.2)


def test_one_percent_of_decisions_and_half_a_point_are_the_bounds() -> None:
    # As many decisions get better as get worse, evenly over the users, so that no accuracy moves.
    every = [*RIGHT[:: len(RIGHT) // 20][:20], *WRONG[:: len(WRONG) // 20][:20]]
    assert len(every) == 40
    at = agreement(table(MARGINS), table(flipped(MARGINS, every)))
    assert at.decisions == pytest.approx(0.01)
    assert at.agrees
    more = [*every, RIGHT[7], WRONG[9]]
    assert not agreement(table(MARGINS), table(flipped(MARGINS, more))).agrees
    # All in one direction: 0.5 points are 20 of 4,000 decisions where every user has 200.
    assert agreement(table(MARGINS), table(flipped(MARGINS, list(RIGHT[:20])))).agrees
    assert not agreement(table(MARGINS), table(flipped(MARGINS, list(RIGHT[:21])))).agrees


def test_other_test_choices_never_agree() -> None:
    a = table(MARGINS)
    assert not agreement(a, a.iloc[:-1]).agrees
    assert not agreement(a, a.assign(comparison=a["comparison"] + 1)).agrees


def test_a_method_that_magnifies_rounding_is_judged_by_its_row() -> None:
    # Twice sqrt(2 * 1.25^2 / 20) are 0.79 points.
    splits = [(0.70, 0.70 + 0.0079), *[(0.7, 0.7079)] * 19]
    assert rows_agree(splits, (1.25, 1.25))
    assert not rows_agree([(0.7, 0.708)] * 20, (1.25, 1.25))
    assert starts_of("lore") == 1.25
    assert starts_of("lore[steps=30]") == 1.25
    # Measured for one entry only: neither variants nor others have it.
    assert starts_of("lore-early") is None
    assert starts_of("gpo") is None
    assert starts_of("nobody's") is None


def test_restarts_say_themselves_how_much_starts_move() -> None:
    rng = np.random.default_rng(0)
    # Splits are far apart, which says nothing of the starts within them: 2 points.
    fits = [(split, 0.6 + 0.01 * split + 0.02 * rng.normal()) for split in range(20) for _ in range(50)]
    assert spread_of_starts(fits) == pytest.approx(2, rel=0.1)
    assert spread_of_starts([*fits, (99, 0.5)]) is None
    assert spread_of_starts([]) is None


METHODS = "bt,user-bt,unsupported"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(folder / "home"))
        shared = ["--registry", str(registry_folder(folder / "own"))]
        sets = [word for text in short("bt") for word in ("--set", text)]
        words = ["run", "--methods", METHODS, "--dataset", "tiny", "--splits", "2", "--threads", "1"]
        assert cli.main([*words, *sets, "--out", str(folder / "runs"), *shared]) == 0
        registry.reset()
    return folder


@pytest.fixture
def two(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Two people's copies of the same results."""
    monkeypatch.setenv("PRBENCH_HOME", str(made / "home"))
    for name in "ab":
        shutil.copytree(made / "runs", tmp_path / name)
    yield tmp_path / "a", tmp_path / "b"
    registry.reset()


def cell(runs: Path, method: str = "user-bt", split: int = 0) -> Path:
    (found,) = (runs / "tiny" / "own" / method).glob(f"split-{split}-*")
    return found


def changed_scores(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Edit a cell's margins and renew its digests: what another machine, or careful edits, give."""
    path = cells.scores_file(folder, ALL_SHOTS)
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    frame = pd.read_parquet(path)
    digests.write(folder, [ALL_SHOTS], digests.accuracies({name: frame[name] for name in frame}))


def changed_record(folder: Path, **values: Any) -> Path:
    path = folder / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    if "key" in values:
        folder = folder.rename(folder.with_name(f"{folder.name[:8]}{values['key']}"))
    changed_scores(folder, lambda frame: frame)
    return folder


def turned(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(margin=-frame["margin"])


def nudged(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(margin=(frame["margin"] * np.float32(1 + 1e-6)).astype(np.float32))


def keys(runs: Path) -> set[str]:
    return {f.relative_to(runs).as_posix() for f in cells.folders(runs)}


def test_copies_that_agree_are_one_result(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    shutil.rmtree(cell(a, "bt[steps=30]", 1))
    shutil.rmtree(cell(b, "bt[steps=30]", 0))
    changed_scores(cell(b), nudged)
    found = merge([a, b], tmp_path / "c")
    assert (found.cells, found.twice, found.identical) == (6, 2, 1)
    assert found.largest["user-bt"] > 0
    assert not found.differs
    assert not found.apart
    assert keys(tmp_path / "c") == keys(a) | keys(b)
    assert verify(tmp_path / "c")["damaged"] == 0
    assert merged.read(tmp_path / "c") == found


def test_copies_that_differ_are_both_kept_and_neither_is_used(
    two: tuple[Path, Path], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two
    changed_scores(cell(b), turned)
    out = tmp_path / "c"
    words = ["results", "merge", str(a), str(b), "--out", str(out), "--registry", str(made / "own")]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "user-bt (last) on tiny (own) differs between machines: " in said or "user-bt (" in said
    assert "neither is used; --prefer FOLDER chooses" in said
    assert not list((out / "tiny" / "own").glob("user-bt/split-*"))
    for name, source in (("a", a), ("b", b)):
        assert keys(out / "apart" / name) == {k for k in keys(source) if "/user-bt/" in k}
        assert verify(out / "apart" / name)["damaged"] == 0
    report = [
        "report",
        "leaderboard",
        "--runs",
        str(out),
        "--out",
        str(tmp_path / "out"),
        "--registry",
        str(made / "own"),
    ]
    assert cli.main(report) == 0
    shown = capsys.readouterr().out
    first, second = results.load(a), results.load(b)
    accuracy = []
    for found in (first, second):
        own = found.scores[found.scores["method"] == "user-bt"]
        per_split = [digests.accuracies({n: g[n] for n in cells.SCORES})["overall"] for _, g in own.groupby("split")]
        accuracy.append(f"{100 * np.mean(per_split):.2f}")
    for text in (
        shown,
        (tmp_path / "out" / "index.html").read_text(),
        (tmp_path / "out" / "leaderboard.md").read_text(),
    ):
        assert "Differs between machines" in text
        assert f"a: {accuracy[0]}, b: {accuracy[1]}" in text
    # It travels with a pack.
    packed = pack.pack(out, tmp_path / "packed.tar.zst").path
    pack.unpack(packed, tmp_path / "theirs")
    assert merged.read(tmp_path / "theirs") == merged.read(out)


def test_a_preferred_source_is_used_and_the_difference_is_still_told(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    changed_scores(cell(b), turned)
    found = merge([a, b], tmp_path / "c", prefer=b)
    [row] = found.differs
    assert (row.used, list(row.accuracy), row.splits) == ("b", ["b", "a"], 2)
    assert (
        cells.scores_file(cell(tmp_path / "c"), ALL_SHOTS).read_bytes()
        == cells.scores_file(cell(b), ALL_SHOTS).read_bytes()
    )
    assert keys(tmp_path / "c" / "apart" / "a") == {k for k in keys(a) if "/user-bt/" in k}
    with pytest.raises(InputError, match="is not among the merged folders"):
        merge([a, b], tmp_path / "d", prefer=tmp_path)


def test_other_data_and_other_code_are_kept_apart_and_named(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    for split in (0, 1):
        changed_record(cell(b, split=split), code="abc", key=f"f00{split}")
    found = merge([a, b], tmp_path / "code")
    assert [(r.row.method, r.source, r.why) for r in found.apart] == [("user-bt", "b", "other code than a")]
    assert keys(tmp_path / "code") == keys(a)
    assert len(keys(tmp_path / "code" / "apart" / "b")) == 2
    for folder in cells.folders(b):
        if cells.read_record(folder).done:
            changed_record(folder, data_fingerprint="other")
    found = merge([a, b], tmp_path / "data")
    assert {(r.row.method, r.why) for r in found.apart} == {("", "other data than a")}
    assert keys(tmp_path / "data") >= keys(a)
    results.load(tmp_path / "data")
    results.load(tmp_path / "data" / "apart" / "b")


def test_three_sources_and_nested_merges_lose_no_difference(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    changed_scores(cell(b), turned)
    shutil.copytree(a, tmp_path / "x" / "a")
    found = merge([a, b, tmp_path / "x" / "a"], tmp_path / "c")
    assert found.sources == ["a", "b", "a-2"]
    assert len(found.differs) == 1
    assert not list((tmp_path / "c" / "tiny" / "own").glob("user-bt/split-*"))
    assert [r.source for r in found.apart] == ["a-2"]
    again = merge([tmp_path / "c", a], tmp_path / "d")
    assert again.differs == found.differs


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    (tmp_path / "empty").mkdir()
    for sources, message in (
        ([a], "a merge needs two results folders"),
        ([a, tmp_path / "none"], "none holds no results"),
        ([a, tmp_path / "empty"], "empty holds no results"),
    ):
        with pytest.raises(InputError, match=message):
            merge(sources, tmp_path / "c")
        assert not (tmp_path / "c").exists()
    path = cells.scores_file(cell(b), ALL_SHOTS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="is damaged"):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_damaged_record_of_a_merge_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge(list(two), tmp_path / "c")
    path = tmp_path / "c" / "merge.json"
    path.write_text(path.read_text().replace('"twice": 4', '"twice": 5'))
    with pytest.raises(InputError, match=r"merge.json is damaged"):
        merged.read(tmp_path / "c")


def test_results_without_a_merge_have_no_further_tables() -> None:
    from prbench.reporting.merging import grids

    fake = population({"bt": 0.0, "mrm": 0.05}, users=6, splits=2)
    assert grids(placed(fake.results())) == []
