"""The results store: what is read back, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted_methods
import pytest
import torch

from prbench import results
from prbench.base.errors import InputError
from prbench.base.files import file_sha256
from prbench.method import Method
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, digests
from prbench.results import record as record_module
from prbench.results.record import CellRecord, CellState


def fitted() -> Method:
    return planted_methods.Good(bases=2).restore({"bases": torch.ones(2, 3)})


def record(**changes: Any) -> dict[str, Any]:
    """What planning and a finished fit say of a cell."""
    entry = {"name": "m", "title": "M", "target": "planted_methods:Good", "selection": "last"}
    about = dict.fromkeys(("family", "paper", "summary", "published"), "")
    sizes = ("seen_users", "unseen_users", "seen_train", "seen_test", "unseen_support", "unseen_test")
    plain = {
        **{"dataset": "d", "encoder": "e", "method": "m", "selection": "last", "split": 0, "key": "abc"},
        **{"title": "M", "seed": 42, "entry": {**entry, **about, "style": {"colour": "#000000"}}, "params": {}},
        "encoder_entry": {
            **{"name": "e", "title": "E", "target": "planted_encoder:Planted"},
            **dict.fromkeys(("licence", "homepage", "summary"), ""),
        },
        "encoder_fingerprint": None,
        "data_fingerprint": "data1",
        "embedding_fingerprint": "embedding1",
        "protocol": {"splits": 2},
        "protocol_version": 1,
        "truth": {p: {"ceiling": 0.9, "floor": 0.7} for p in ("seen", "unseen", "overall")},
        "counts": dict.fromkeys(sizes, 3),
        "device": "cpu",
        "versions": {"prbench": "0"},
        "seconds": {"fit": 1.0, "adapt": 0.5, "score": 0},
        "peak_memory_mb": 10.5,
        "parameters": {"shared": 6, "per_user": 2},
        "fit": {},
    }
    return {**plain, **changes}


def made(**changes: Any) -> CellRecord:
    """The same as it is read."""
    whole = record_module.read({**record(**changes), "format": 1, "status": "done"})
    assert not isinstance(whole, str), whole
    return whole


def columns(*, unseen_only: bool = False, start: float = 1.0) -> dict[str, Any]:
    n = 3 if unseen_only else 6
    return {
        "population": np.full(n, "unseen") if unseen_only else np.repeat(["seen", "unseen"], 3),
        "user": np.arange(n, dtype=np.int32) // 2,
        "comparison": np.arange(n, dtype=np.int64) + 2**40,
        "margin": np.linspace(start, -1, n, dtype=np.float32),
        "cold_margin": np.zeros(n, dtype=np.float32),
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two finished splits of one method, the first with 2 shots as well, and a failed method."""
    out = tmp_path / "runs"
    cells.write_done(out, made(), fitted(), {ALL_SHOTS: columns(), 2: columns(unseen_only=True)})
    cells.write_done(out, made(split=1, key="abd"), fitted(), {ALL_SHOTS: columns(start=2.0)})
    cells.write_undone(out, made(method="n", key="x"), CellState.failed, "it broke")
    return out


def cell(runs: Path, split: int = 0) -> Path:
    (folder,) = (runs / "d" / "e" / "m").glob(f"split-{split}-*")
    return folder


def test_what_is_written_is_read_back(runs: Path) -> None:
    found = results.load(runs)
    scores = found.scores
    assert len(scores) == 6 + 3 + 6
    assert dict(scores.dtypes.astype(str)) == {
        "dataset": "category",
        "encoder": "category",
        "method": "category",
        "selection": "category",
        "population": "category",
        "user": "int32",
        "comparison": "int64",
        "restart": "int32",
        "margin": "float32",
        "cold_margin": "float32",
        "split": "int32",
        "shots": "int32",
    }
    assert scores.population.cat.categories.tolist() == ["seen", "unseen"]
    assert scores.groupby(["split", "shots"]).size().to_dict() == {(0, ALL_SHOTS): 6, (0, 2): 3, (1, ALL_SHOTS): 6}
    first = scores[(scores.split == 0) & (scores.shots == ALL_SHOTS)]
    expected = columns()
    for name in ("user", "comparison", "margin", "cold_margin"):
        np.testing.assert_array_equal(first[name], expected[name])
    assert first.population.tolist() == ["seen"] * 3 + ["unseen"] * 3
    assert scores[scores.split == 1].margin.max() == 2
    assert {(c.method, c.split, c.status) for c in found.cells} == {
        ("m", 0, "done"),
        ("m", 1, "done"),
        ("n", 0, "failed"),
    }
    assert next(c for c in found.cells if c.method == "n").reason == "it broke"


def test_a_cell_says_how_it_stands(runs: Path) -> None:
    assert cells.status(cell(runs)) == ("done", "")
    assert cells.status(runs / "d" / "e" / "n" / "split-0-x") == ("failed", "it broke")
    assert cells.status(runs / "d" / "e" / "n" / "split-7-x") == ("missing", "")
    assert sorted(path.name for path in cell(runs).iterdir()) == [
        "DONE",
        "cell.json",
        "model.safetensors",
        "scores-2.parquet",
        "scores-all.parquet",
    ]
    done = json.loads((cell(runs) / "DONE").read_text())
    assert done["shots"] == [ALL_SHOTS, 2]
    assert done["files"] == {p.name: file_sha256(p) for p in cell(runs).iterdir() if p.name != "DONE"}
    assert done["accuracy"] == digests.accuracies(columns())
    again = planted_methods.Good(bases=2).load(cell(runs) / "model.safetensors")
    assert torch.equal(again.bases_matrix, torch.ones(2, 3))


def test_only_undone_cells_give_empty_scores_of_the_same_columns(tmp_path: Path, runs: Path) -> None:
    cells.write_undone(tmp_path / "undone", made(), CellState.skipped, "no reward")
    scores = results.load(tmp_path / "undone").scores
    assert len(scores) == 0
    full = results.load(runs).scores
    assert scores.columns.tolist() == full.columns.tolist()
    assert [str(kind) for kind in scores.dtypes] == [str(kind) for kind in full.dtypes]


def truncated(folder: Path) -> None:
    path = folder / "scores-all.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def replaced(path: str, content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_text(content)

    return change


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "cell.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "cell.json"
        content = json.loads(path.read_text())
        del content[name]
        path.write_text(json.dumps(content))

    return change


def scores(**values: Any) -> Callable[[Path], None]:
    """Columns of scores-2 replaced."""

    def change(folder: Path) -> None:
        frame = pd.read_parquet(folder / "scores-2.parquet")
        frame.assign(**values).to_parquet(folder / "scores-2.parquet")

    return change


def no_rows(folder: Path) -> None:
    path = folder / "scores-all.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)


def lost_column(folder: Path) -> None:
    frame = pd.read_parquet(folder / "scores-2.parquet")
    frame.drop(columns="cold_margin").to_parquet(folder / "scores-2.parquet")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "half a cell.json": (replaced("cell.json", '{"format": 1, "data'), "cell.json is unreadable: "),
    "cell.json of something else": (replaced("cell.json", "[1, 2]"), "has results format None"),
    "another format": (changed(format=2), "has results format 2, this prbench reads format 1"),
    "no format": (without("format"), "has results format None"),
    "no method": (without("method"), "is not a record of a cell: it lacks method"),
    "an unknown status": (changed(status="finished"), "is not a record of a cell: status: input should be 'done', "),
    "a split in words": (changed(split="zero"), 'split: input should be a valid integer, found "zero"'),
    "a split that is a truth value": (changed(split=True), "split: input should be a valid integer, found true"),
    "a split below 0": (changed(split=-1), "split: input should be greater than or equal to 0, found -1"),
    "an entry in a word": (
        changed(entry="x"),
        "is not a record of a cell: entry: input should be a valid dictionary, found",
    ),
    "an empty entry": (
        changed(entry={}),
        "is not a record of a cell: it lacks entry.name, entry.title, entry.target",
    ),
    "a protocol in a word": (
        changed(protocol="x"),
        "is not a record of a cell: protocol: input should be a valid dict",
    ),
    "no seconds": (without("seconds"), "is not a record of a cell: it lacks seconds"),
    "null seconds": (changed(seconds=None), "seconds: input should be a valid dictionary, found null"),
    "half the seconds": (changed(seconds={"fit": 1.0}), "it lacks seconds.adapt, seconds.score"),
    "infinite seconds": (
        replaced("cell.json", json.dumps({**record(), "format": 1, "status": "done", "peak_memory_mb": np.inf})),
        "Infinity is not a number of JSON",
    ),
    "half a truth": (changed(truth={"seen": {"ceiling": 1.0}}), "it lacks truth.seen.floor, truth.unseen"),
    "precision": (changed(precision="low"), "precision: input should be 'highest', 'high' or 'medium'"),
    "no rows": (no_rows, "scores-all.parquet has no rows"),
    "another population": (scores(population="zzz"), "scores-2.parquet: the column population holds more than seen"),
    "no population": (scores(population=None), "scores-2.parquet: the column population holds more than seen and"),
    "users in words": (scores(user="worker-a"), "scores-2.parquet: the column user holds str, not whole numbers"),
    "users without a number": (scores(user=np.nan), "the column user holds float64, not whole numbers"),
    "margins in words": (scores(margin="1"), "scores-2.parquet: the column margin holds str, not numbers"),
    "truncated scores": (truncated, "scores-all.parquet is unreadable: "),
    "empty scores": (replaced("scores-all.parquet", ""), "scores-all.parquet is unreadable: "),
    "no scores": (lambda f: (f / "scores-all.parquet").unlink(), "split-0-abc lacks scores-all.parquet"),
    "no model": (lambda f: (f / "model.safetensors").unlink(), "split-0-abc lacks model.safetensors"),
    "no mark of its end": (lambda f: (f / "DONE").unlink(), "split-0-abc lacks DONE"),
    "no column": (lost_column, "scores-2.parquet lacks the column cold_margin"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cell_is_refused_by_name(runs: Path, name: str) -> None:
    damage, message = BROKEN[name]
    folder = cell(runs)
    # As an earlier prbench wrote it, so that what is wrong is found without digests.
    (folder / "DONE").write_text(json.dumps({"shots": [ALL_SHOTS, 2]}))
    damage(folder)
    with pytest.raises(InputError) as caught:
        results.load(runs)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["no rows", "another population", "truncated scores", "no column"])
def test_a_changed_file_does_not_match_its_digest(runs: Path, name: str) -> None:
    BROKEN[name][0](cell(runs))
    with pytest.raises(InputError, match=r"is damaged: its sha256 is not the one in DONE"):
        results.load(runs)


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_what_was_never_fitted_has_no_costs(tmp_path: Path, state: str) -> None:
    costs = ("seconds", "parameters", "peak_memory_mb", "fit", "encoder_fingerprint")
    folder = cells.write_undone(tmp_path, made(method="n"), CellState(state), "why")
    undone = cells.read_record(folder)
    assert undone.reason == "why"
    assert not undone.stored().keys() & set(costs)


def test_the_hint_for_lost_or_damaged_scores_destroys_no_more_than_needed(runs: Path) -> None:
    few, every = (cells.scores_file(cell(runs), shots) for shots in (2, ALL_SHOTS))
    whole = {path: path.read_bytes() for path in (few, every)}
    for path, hint in (
        (few, "delete this file and repeat the run with --shots all,2: it makes this file only"),
        (every, "delete this file and repeat the run: it makes this cell again"),
    ):
        path.write_bytes(whole[path][:-20])
        with pytest.raises(InputError) as caught:
            results.load(runs)
        assert caught.value.hint == hint
        path.write_bytes(whole[path])


def test_other_files_beside_the_scores_are_passed_by(runs: Path) -> None:
    before = results.load(runs).scores
    for name in ("scores-5x.parquet", "scores-02.parquet", "scores-.parquet", "scores-2.parquet.bak"):
        (cell(runs) / name).write_text("mine")
    pd.testing.assert_frame_equal(results.load(runs).scores, before)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no results folder"):
        results.load(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty holds no results"):
        results.load(empty)
    (empty / "a" / "b").mkdir(parents=True)
    (empty / "a" / "b" / "cell.json").write_text("{}")
    (empty / "notes.txt").write_text("not ours")
    with pytest.raises(InputError, match="empty holds no results"):
        results.load(empty)


def test_a_corrupt_failed_cell_is_refused_by_the_planner_too(runs: Path) -> None:
    folder = runs / "d" / "e" / "n" / "split-0-x"
    (folder / "cell.json").write_text("{")
    with pytest.raises(InputError, match=r"split-0-x/cell.json is unreadable"):
        cells.status(folder)


def test_two_different_results_for_one_split_are_refused(runs: Path) -> None:
    other = cells.write_done(runs, made(key="zzz"), fitted(), {ALL_SHOTS: columns()})
    with pytest.raises(InputError) as caught:
        results.load(runs)
    assert "two different results for split 0 of m on d: " in str(caught.value)
    assert str(cell(runs, 1).parent) in str(caught.value)
    shutil.rmtree(other)
    assert len(results.load(runs).scores) == 15


def test_another_selection_rule_is_another_result(runs: Path) -> None:
    cells.write_done(runs, made(key="zzz", selection="test-oracle"), fitted(), {ALL_SHOTS: columns()})
    found = results.load(runs)
    assert found.scores.groupby("selection", observed=True).size().to_dict() == {"last": 15, "test-oracle": 6}


@pytest.mark.parametrize("key", ["aaa", "zzz"])
@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_undone_cells_never_shadow_done_ones(runs: Path, key: str, state: str) -> None:
    """Whether the undone cell's folder comes before or after the done one's."""
    cells.write_undone(runs, made(key=key), CellState(state), "another parameter")
    found = results.load(runs)
    assert len(found.scores) == 15
    assert [c.status for c in found.cells if c.method == "m" and c.split == 0] == ["done"]


def test_a_result_takes_the_place_of_a_failure(runs: Path) -> None:
    folder = cells.write_done(runs, made(method="n", key="x"), fitted(), {ALL_SHOTS: columns()})
    assert cells.status(folder) == ("done", "")
    assert "reason" not in cells.read_record(folder).stored()


def test_a_death_between_files_leaves_no_half_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cells, "write_scores", dies)
    with pytest.raises(KeyboardInterrupt):
        cells.write_done(tmp_path, made(), fitted(), {ALL_SHOTS: columns()})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    # What a SIGKILL leaves: the temporary folder itself, which readers pass by.
    left = tmp_path / "d" / "e" / "m" / ".split-0-abc.12345.tmp"
    left.mkdir()
    (left / "cell.json").write_text(json.dumps({**record(), "format": 1, "status": "done"}))
    assert list(cells.folders(tmp_path)) == []
    with pytest.raises(InputError, match="holds no results"):
        results.load(tmp_path)


def test_nan_is_refused_in_records(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        cells.write_undone(tmp_path, made(params={"rate": float("nan")}), CellState.failed, "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
