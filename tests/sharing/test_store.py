"""A public store: what is submitted keeps the rules, and what is fetched gives the tables of the merged results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_runs import registry_folder, short

from prbench import cli, data, registry, results
from prbench.base.errors import InputError
from prbench.base.files import file_sha256
from prbench.base.reading import sealed
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.splits import make_split
from prbench.results import cells, digests, submitted
from prbench.sharing import pack, store
from prbench.sharing.checks import check
from prbench.sharing.keys import comparison_keys

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
from prbench import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two installations' results: other methods on the same splits, and one method that both ran."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(folder / "home"))
        shared = ["--registry", str(registry_folder(folder / "own")), "--splits", "2", "--threads", "1"]
        sets = [word for text in short("bt") for word in ("--set", text)]
        for name, methods in (("a", "bt,user-bt"), ("b", "bt-ridge,user-bt")):
            words = ["run", "--methods", methods, "--dataset", "tiny", "--out", str(folder / name), *shared]
            assert cli.main([*words, *(sets if name == "a" else [])]) == 0
        registry.reset()
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PRBENCH_HOME", str(made / "home"))
    for name in "ab":
        shutil.copytree(made / name, tmp_path / name)
    (tmp_path / "store").mkdir()
    registry.use([made / "own"])
    yield tmp_path
    registry.reset()


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_merged_packed_submitted_fetched_and_reported_without_torch_with_identical_tables(
    place: Path, made: Path
) -> None:
    def prbench(*words: Any) -> subprocess.CompletedProcess[str]:
        given = [sys.executable, "-c", BLOCKED, "--registry", str(made / "own"), *map(str, words)]
        return subprocess.run(given, capture_output=True, text=True, check=False)

    for words in (
        ["results", "merge", place / "a", place / "b", "--out", place / "c"],
        ["results", "pack", place / "c", "--out", place / "c.tar.zst"],
        ["results", "submit", place / "c.tar.zst", "--store", place / "store", "--send"],
        ["results", "fetch", "--store", place / "store", "--out", place / "fetched"],
    ):
        ran = prbench(*words)
        assert ran.returncode == 0, ran.stderr
    tables = []
    for runs in ("c", "fetched"):
        out = place / f"out-{runs}"
        ran = prbench("report", "leaderboard", "--runs", place / runs, "--out", out)
        assert ran.returncode == 0, ran.stderr
        tables.append(
            {name: c for name, c in everything(out).items() if name.endswith((".csv", ".md", ".tex", ".png"))}
        )
    assert len(tables[0]) >= 7
    assert tables[0] == tables[1]
    assert len(results.load(place / "fetched").cells) == 6


def test_nothing_is_sent_unless_asked_for_and_nothing_twice(place: Path) -> None:
    where = store.open_store(str(place / "store"))
    before = everything(place / "a")
    planned = store.submit(place / "a", where, send=False)
    assert (planned.cells, planned.rows, planned.place) == (4, 2, "")
    assert not list((place / "store").iterdir())
    sent = store.submit(place / "a", where, send=True)
    assert sent.name == planned.name
    assert everything(place / "a") == before
    assert check(Path(sent.place)) == {("tiny", "own"): {results.load(place / "a").cells[0].data_fingerprint}}
    assert not list(Path(sent.place).rglob("*.safetensors"))
    with pytest.raises(InputError, match="the store has these results already"):
        store.submit(place / "a", where, send=True)


def cell(runs: Path, method: str = "user-bt", split: int = 0) -> Path:
    (found,) = (runs / "tiny" / "own" / method).glob(f"split-{split}-*")
    return found


def scores_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(cells.scores_file(folder, ALL_SHOTS))


def renewed(folder: Path, *, accuracy: bool = True) -> None:
    """Renew a cell's digests."""
    frame = scores_of(folder)
    found = (
        digests.accuracies({name: frame[name] for name in frame}) if accuracy else dict(digests.of(folder).accuracy)
    )
    left_out = digests.of(folder).left_out
    names = [path.name for path in folder.iterdir() if path.name != "DONE"]
    files = {name: file_sha256(folder / name) for name in names}
    before = {name: digests.of(folder).files[name] for name in left_out}
    digests.write_record(folder, [ALL_SHOTS], {**files, **before}, found, left_out)


def changed(folder: Path, **values: Any) -> None:
    path = folder / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    renewed(folder)


def careless(runs: Path) -> None:
    frame = scores_of(cell(runs))
    frame.assign(margin=frame["margin"].abs()).to_parquet(cells.scores_file(cell(runs), ALL_SHOTS), index=False)


def careful_but_for_done(runs: Path) -> None:
    careless(runs)
    renewed(cell(runs), accuracy=False)


def fewer_choices(runs: Path) -> None:
    scores_of(cell(runs)).iloc[:-1].to_parquet(cells.scores_file(cell(runs), ALL_SHOTS), index=False)
    renewed(cell(runs))


def twice(runs: Path) -> None:
    frame = scores_of(cell(runs))
    pd.concat([frame.iloc[:-1], frame.iloc[-2:-1]]).to_parquet(cells.scores_file(cell(runs), ALL_SHOTS), index=False)
    renewed(cell(runs))


def oracle(runs: Path) -> None:
    changed(cell(runs), selection="test-oracle")


def strange_key(runs: Path) -> None:
    changed(cell(runs), key="../../x")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a damaged margin": (careless, "is damaged: its sha256 is not the one in DONE"),
    "a margin edited with its digest": (careful_but_for_done, "has another accuracy of"),
    "a missing split": (lambda runs: shutil.rmtree(cell(runs)), "user-bt (validation) on tiny (own) lacks split 0"),
    "an oracle row": (oracle, "was chosen on test data, which is not a result"),
    "a test choice too few": (fewer_choices, "test choices"),
    "a test choice twice": (twice, "of them different; its split has"),
    "a strange key": (strange_key, "is not"),
    "no record": (lambda runs: (cell(runs) / "cell.json").write_text("{}"), "cell.json"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_breaks_a_rule_does_not_leave(place: Path, name: str) -> None:
    damage, message = FAULTS[name]
    damage(place / "a")
    # As the folder is, and as somebody who packs without looking would hand it in.
    with pytest.raises(InputError) as refused:
        store.submit(place / "a", store.open_store(str(place / "store")), send=True)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list((place / "store").iterdir())


def test_a_broken_submission_is_left_out_and_told(place: Path) -> None:
    where = store.open_store(str(place / "store"))
    first, second = (store.submit(place / name, where, send=True) for name in "ab")
    folder = Path(first.place)
    oracle(folder)
    listed = json.loads((folder / "pack.json").read_text())
    name = cell(folder).relative_to(folder).as_posix()
    listed["cells"][name] = file_sha256(cell(folder) / "DONE")
    (folder / "pack.json").write_text(json.dumps(sealed(listed)))
    fetched = store.fetch(where, place / "fetched")
    assert fetched.merge.sources == [second.name]
    [said] = fetched.left_out
    assert said.startswith(f"{first.name} is left out: ")
    assert "was chosen on test data" in said
    assert len(list(cells.folders(place / "fetched"))) == 4


def test_other_data_under_the_same_name_are_refused(place: Path) -> None:
    where = store.open_store(str(place / "store"))
    store.submit(place / "a", where, send=True)
    for folder in cells.folders(place / "b"):
        changed(folder, data_fingerprint="other")
    with pytest.raises(InputError, match=r"tiny is other data here .fingerprint other. than in the store"):
        store.submit(place / "b", where, send=True)


def test_the_hub_gets_a_pull_request_of_exactly_the_pack(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is planted: no hub is reached from here."""
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    class Api:
        def upload_folder(self, **options: Any) -> Any:
            calls.append({**options, "files": everything(Path(options["folder_path"]))})
            return type("Commit", (), {"pr_url": "https://hub/pr/1"})()

    asked: list[Any] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(place / "store")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    where = store.open_store("hf://datasets/group/results")
    assert store.submit(place / "a", where, send=False).place == ""
    assert calls == []
    sent = store.submit(place / "a", where, send=True)
    [call] = calls
    assert sent.place == "https://hub/pr/1"
    assert (call["repo_id"], call["repo_type"], call["create_pr"]) == ("group/results", "dataset", True)
    assert call["path_in_repo"] == f"submissions/{sent.name}"
    pack.pack(place / "a", place / "packed")
    assert call["files"] == everything(place / "packed")
    assert {(name, options["repo_type"]) for name, options in asked} == {("group/results", "dataset")}
    with pytest.raises(InputError, match="is not a store"):
        store.open_store("s3://x")
    with pytest.raises(InputError, match="there is no folder"):
        store.open_store(str(place / "nowhere"))


def margins(splits: int = 2) -> pd.DataFrame:
    """What a scorer from outside hands in: it is right but for the first choice of each split."""
    entry = registry.get("datasets", "tiny")
    tiny = data.load(entry)
    keys = comparison_keys(tiny)
    parts = []
    for index in range(splits):
        split = make_split(tiny, entry.protocol, index=index)
        rows = [*split.seen_test.tolist(), *split.unseen_test.tolist()]
        after = [-1.0] + [0.5] * (len(rows) - 1)
        columns = {"comparison": [keys[r] for r in rows], "margin_before": 0.0, "margin_after": after}
        parts.append(pd.DataFrame({"split": index, **columns}))
    return pd.concat(parts, ignore_index=True)


def taken(place: Path, table: pd.DataFrame, kind: str = "csv") -> list[str]:
    file = place / f"ours.{kind}"
    if kind == "csv":
        table.to_csv(file, index=False)
    elif kind == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_parquet(file)
    return ["results", "import-margins", str(file), "--name", "ours", "--dataset", "tiny", "--runs", str(place / "a")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_submitted_margins_are_a_group_of_their_own(
    place: Path, made: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--registry", str(made / "own")]
    report = ["report", "leaderboard", "--runs", str(place / "a"), "--out", str(place / "out"), *shared]
    assert cli.main(report) == 0
    before = {name: (place / "out" / name).read_bytes() for name in ("leaderboard.csv", "comparisons.csv")}
    assert cli.main([*taken(place, margins().sample(frac=1, random_state=0), kind), *shared]) == 0
    [row] = submitted.load(place / "a")
    assert row.record.note == "scores submitted, not rerun"
    n = {split: int(count) for split, count in row.record.choices.items()}
    assert sum(n.values()) == len(margins())
    wrong = row.margins[row.margins["margin"] < 0]
    assert sorted(wrong["split"]) == [0, 1]
    capsys.readouterr()
    assert cli.main(report) == 0
    shown = capsys.readouterr().out
    assert "Scores submitted, not rerun, on tiny" in shown
    assert "Scores submitted, not rerun, on tiny" in (place / "out" / "index.html").read_text()
    # Neither ranked nor tested: the tables of the rows that were run are what they were.
    assert {name: (place / "out" / name).read_bytes() for name in before} == before
    expected = [
        digests.accuracies({c: g[c] for c in cells.SCORES})["overall"] for _, g in row.margins.groupby("split")
    ]
    assert f"{100 * sum(expected) / 2:.1f}±" in shown


def test_submitted_rows_travel(place: Path, made: Path) -> None:
    assert cli.main([*taken(place, margins()), "--registry", str(made / "own")]) == 0
    where = store.open_store(str(place / "store"))
    for name in "ab":
        store.submit(place / name, where, send=True)
    store.fetch(where, place / "fetched")
    [row], [again] = submitted.load(place / "a"), submitted.load(place / "fetched")
    assert row.record == again.record
    pd.testing.assert_frame_equal(row.margins, again.margins)
    shutil.rmtree(place / "store")
    (place / "store").mkdir()
    sent = store.submit(place / "a", where, send=True)
    path = Path(sent.place) / "submitted" / "tiny" / "ours.parquet"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"ours.parquet is damaged"):
        store.fetch(where, place / "again")


def edit(column: str, value: Any, row: int = 3) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype({column: object})
        table.loc[row, column] = value
        return table

    return change


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    """A training choice of split 0 in place of a test choice."""
    tested = set(table[table["split"] == 0]["comparison"])
    entry = registry.get("datasets", "tiny")
    other = next(key for key in comparison_keys(data.load(entry)) if key not in tested)
    return edit("comparison", other)(table)


WRONG: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a key of other data": (edit("comparison", "0" * 64), "row 4: tiny has no comparison 0000"),
    "a training choice": (swapped, "row 4: comparison"),
    "one named twice": (lambda t: pd.concat([t, t.iloc[:1]]), "of split 0 is in row 1 already"),
    "one missing": (lambda t: t.iloc[1:], "split 0 lacks 1 of its"),
    "a margin that is none": (edit("margin_after", "good"), "row 4: margin_after is 'good', not a finite number"),
    "an infinite margin": (edit("margin_before", float("inf")), "margin_before is 'inf', not a finite number"),
    "a split of tuning": (edit("split", 1000), "row 4: split is '1000', not a number from 0 to 999"),
    "no column": (lambda t: t.drop(columns="margin_before"), "lacks the column margin_before"),
    "nothing": (lambda t: t.iloc[:0], "has no rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_margins_that_do_not_fit_are_refused_by_row(
    place: Path, made: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = WRONG[name]
    assert cli.main([*taken(place, change(margins())), "--registry", str(made / "own")]) == 2
    assert message in capsys.readouterr().err
    assert not (place / "a" / "submitted").exists()


def test_submitted_scores_do_not_take_the_name_of_a_method(
    place: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = taken(place, margins())
    words[words.index("ours")] = "MRM"
    assert cli.main([*words, "--registry", str(made / "own")]) == 2
    assert "that is a method here" in capsys.readouterr().err
