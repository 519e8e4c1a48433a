"""Splits as files: exported and read back they give the same cells, and other data are refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_encoder import texts_data
from small_runs import DATASET, POSTS, assert_same_scores, registry_folder, short

from prbench import cli, data, registry
from prbench.base.errors import InputError
from prbench.base.files import file_sha256
from prbench.base.reading import sealed
from prbench.comparisons import Message, PreferenceData
from prbench.protocol.splits import make_split
from prbench.registry.schema import ProtocolEntry
from prbench.sharing.keys import comparison_keys
from prbench.sharing.split_files import export, read_folder

SECRET = "worker-A1B2C3"
PROTOCOL = ProtocolEntry()


def people(prefix: str = SECRET, *, first: int = 0) -> PreferenceData:
    """Six people with six prompts each, and two replies to each."""
    prompts = tuple((Message("user", f"question {first + i}"),) for i in range(36))
    users = np.repeat(np.arange(6), 6).astype(np.int64)
    rows = np.arange(36, dtype=np.int64)
    return PreferenceData(
        name="toy",
        contexts=prompts,
        item_context=np.repeat(rows, 2),
        responses=tuple(f"reply {i}" for i in range(72)),
        user=users,
        chosen=2 * rows,
        rejected=2 * rows + 1,
        group=rows,
        user_keys=tuple(f"{prefix}-{u}" for u in range(6)),
    )


def test_a_key_is_the_digest_that_the_format_names() -> None:
    toy = replace(people(), user_keys=("ä", "b", "c", "d", "e", "f"))
    text = '["ä",[["user","question 1"]],["reply 2","reply 3"],0]'
    assert comparison_keys(toy)[1] == hashlib.sha256(text.encode()).hexdigest()


def test_a_key_knows_no_choice_no_numbering_and_counts_repeats() -> None:
    toy = people()
    keys = comparison_keys(toy)
    assert len(set(keys)) == len(toy)
    swapped = replace(toy, chosen=toy.rejected, rejected=toy.chosen)
    assert comparison_keys(swapped) == keys
    order = np.random.default_rng(0).permutation(36)
    columns = {name: getattr(toy, name)[order] for name in ("user", "chosen", "rejected", "group")}
    assert comparison_keys(replace(toy, **columns)) == [keys[i] for i in order]
    # The same person, context and replies once more, in the other order and with the other choice.
    again = replace(
        toy,
        user=np.append(toy.user, 0),
        chosen=np.append(toy.chosen, 1),
        rejected=np.append(toy.rejected, 0),
        group=np.append(toy.group, 0),
    )
    assert comparison_keys(again)[:36] == keys
    assert comparison_keys(again)[36] not in keys
    assert not set(comparison_keys(people("worker-Z"))) & set(keys)


def written(folder: Path, toy: PreferenceData, count: int = 3, **options: Any) -> Path:
    splits = [make_split(toy, PROTOCOL, index=i) for i in range(count)]
    paths = export(toy, PROTOCOL, splits, folder / "splits", **options)
    assert [path.name for path in paths] == [*(f"split-{i}.json" for i in range(count)), "splits.json"]
    return folder / "splits"


def test_what_is_read_back_is_the_drawn_split_also_in_another_order_of_rows(tmp_path: Path) -> None:
    toy = people()
    folder = written(tmp_path, toy)
    found = read_folder(folder).splits(toy)
    for i, split in enumerate(found):
        drawn = make_split(toy, PROTOCOL, index=i)
        assert split.file == ""
        for name in ("seen", "unseen", "seen_train", "seen_test", "unseen_support", "unseen_test"):
            np.testing.assert_array_equal(getattr(split, name), getattr(drawn, name))
    # A larger copy of the data, its rows in another order: the same people and comparisons, as a split of its own.
    keys = comparison_keys(toy)
    order = np.arange(36)[::-1]
    columns = {name: getattr(toy, name)[order] for name in ("user", "chosen", "rejected", "group")}
    turned = replace(toy, **columns)
    turned_keys = comparison_keys(turned)
    for split, drawn in zip(read_folder(folder).splits(turned), found, strict=True):
        assert {turned_keys[row] for row in split.seen_test} == {keys[row] for row in drawn.seen_test}
        assert [turned_keys[row] for row in split.seen_train] == [keys[row] for row in drawn.seen_train]


def test_ids_and_texts_stay_away_unless_asked_for(tmp_path: Path) -> None:
    toy = people()
    plain = written(tmp_path, toy)
    for path in plain.iterdir():
        content = path.read_text()
        for secret in (SECRET, "question", "reply", str(tmp_path), Path.home().name):
            assert secret not in content
    shutil.rmtree(plain)
    with_ids = written(tmp_path, toy, with_ids=True)
    manifest = json.loads((with_ids / "split-0.json").read_text())
    assert {user["id"] for user in manifest["users"]} == set(toy.user_keys)
    assert (with_ids / "split-0.json").stat().st_mode & 0o077 == 0
    assert read_folder(with_ids).splits(toy)[0].file == ""
    with pytest.raises(InputError, match="is not an empty folder"):
        export(toy, PROTOCOL, [], with_ids)


def test_other_data_are_refused_with_the_first_key_that_they_lack(tmp_path: Path) -> None:
    folder = written(tmp_path, people())
    with pytest.raises(InputError) as refused:
        read_folder(folder).splits(people(first=1))
    manifest = json.loads((folder / "split-0.json").read_text())
    first = manifest["users"][0]["train"][0]
    assert f"is of other data than toy: there is no comparison {first}" in str(refused.value)


def resealed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a manifest and renew every digest, as somebody would who knows the format."""
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(sealed(table)))
    index = path.parent / "splits.json"
    listed = json.loads(index.read_text())
    listed["files"][path.name] = file_sha256(path)
    index.write_text(json.dumps(sealed(listed)))


def swap_test_rows(table: dict[str, Any]) -> None:
    a, b = table["users"][0]["test"], table["users"][0]["train"]
    a[0], b[0] = b[0], a[0]


def twice(table: dict[str, Any]) -> None:
    table["users"][0]["train"].append(table["users"][0]["train"][0])


def strangers(table: dict[str, Any]) -> None:
    table["users"][0]["test"].append(table["users"][1]["test"].pop())


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a comparison named twice": (twice, "twice"),
    "two people as one": (strangers, "users.0 is not one person of toy"),
    "a key that is none": (lambda t: t["users"][0]["test"].append("x"), "users.0.test"),
    "a call": (lambda t: t.update(loader="subprocess:run"), "loader: Extra inputs are not permitted"),
    "a number of a tuning split": (lambda t: t.update(split=1000), "split: Input should be less than 1000"),
    "another version": (lambda t: t.update(protocol_version=2), "is of version 2 of the protocol"),
    "nobody unseen": (lambda t: t.update(users=t["users"][:3]), "has no unseen user"),
    "an unseen user's training": (
        lambda t: t["users"][-1].update(train=[t["users"][-1]["support"].pop()]),
        "who is unseen, has train rows",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    edit, message = EDITS[name]
    toy = people()
    folder = written(tmp_path, toy, 1)
    resealed(folder / "split-0.json", edit)
    with pytest.raises(InputError) as refused:
        read_folder(folder).splits(toy)
    assert message in str(refused.value)
    assert "split-0.json" in str(refused.value)


def test_damage_and_missing_files_are_named(tmp_path: Path) -> None:
    toy = people()
    folder = written(tmp_path, toy)
    path = folder / "split-1.json"
    whole = path.read_text()
    path.write_text(whole.replace('"draw": 0', '"draw": 1'))
    with pytest.raises(InputError, match=r"split-1.json is damaged: its sha256"):
        read_folder(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"lacks split-1.json, which splits.json lists"):
        read_folder(folder)
    (folder / "splits.json").unlink()
    assert [m.split for m in read_folder(folder).manifests.values()] == [0, 2]
    path.write_text(whole.replace('"draw": 0', '"draw": 1'))
    with pytest.raises(InputError, match=r"split-1.json is damaged: its contents do not match its sha256"):
        read_folder(folder)


def test_another_division_is_run_as_it_stands_under_a_key_of_its_own(tmp_path: Path) -> None:
    toy = people()
    folder = written(tmp_path, toy, 1)
    resealed(folder / "split-0.json", swap_test_rows)
    [split] = read_folder(folder).splits(toy)
    drawn = make_split(toy, PROTOCOL, index=0)
    assert split.file
    assert sorted(split.seen_test) != sorted(drawn.seen_test)
    assert set(split.seen_test) | set(split.seen_train) == set(drawn.seen_test) | set(drawn.seen_train)
    np.testing.assert_array_equal(split.unseen_test, drawn.unseen_test)


@pytest.fixture
def entries(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    folder = registry_folder(tmp_path / "own")
    text = DATASET.format(name="published", users=10, layout=POSTS, seed=3)
    (folder / "datasets" / "published.toml").write_text(text + 'name = "published-code"\n')
    yield folder
    registry.reset()


@pytest.mark.parametrize("dataset", ["published", "tiny"])
def test_an_exported_split_gives_identical_cells(
    entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    shared = ["--registry", str(entries)]
    methods = ["--methods", "user-bt,bt", "--threads", "1", *(w for s in short("bt") for w in ("--set", s)), *shared]
    drawn, read, changed = (str(tmp_path / name) for name in ("drawn", "read", "changed"))
    splits = str(tmp_path / "splits")
    assert cli.main(["run", "--dataset", dataset, "--splits", "2", "--out", drawn, *methods]) == 0
    assert cli.main(["splits", "export", "--dataset", dataset, "--splits", "2", "--out", splits, *shared]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"{splits}/{name}" for name in ("split-0.json", "split-1.json", "splits.json")
    ]
    assert json.loads((tmp_path / "splits" / "split-0.json").read_text())["comparison_keys"] == "not portable"
    assert cli.main(["run", "--split-files", splits, "--out", read, *methods]) == 0
    # The folders of cells are named by their keys.
    assert_same_scores(tmp_path / "drawn", tmp_path / "read")
    resealed(tmp_path / "splits" / "split-0.json", swap_test_rows)
    assert cli.main(["run", "--split-files", splits, "--out", changed, *methods]) == 0
    cells = [{p.parent.name for p in (tmp_path / f).rglob("DONE")} for f in ("drawn", "changed")]
    assert {name[:7] for name in cells[0] & cells[1]} == {"split-1"}
    capsys.readouterr()
    assert cli.main(["probe", "--runs", changed, "--support", *shared]) == 2
    assert "has a split from a file" in capsys.readouterr().err
    assert cli.main(["run", "--split-files", splits, "--splits", "2", *methods]) == 2
    assert "says which splits to run: leave out --splits" in capsys.readouterr().err
    assert cli.main(["run", "--split-files", splits, "--dataset", "tiny2", "--out", drawn, *methods]) == 2
    assert "is of other data than tiny2: there is no comparison" in capsys.readouterr().err


def test_a_report_over_both_divisions_is_refused(
    entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, runs, splits = ["--registry", str(entries)], str(tmp_path / "runs"), str(tmp_path / "splits")
    assert cli.main(["splits", "export", "--dataset", "tiny", "--splits", "1", "--out", splits, *shared]) == 0
    resealed(tmp_path / "splits" / "split-0.json", swap_test_rows)
    assert cli.main(["run", "--split-files", splits, "--methods", "user-bt", "--out", runs, *shared]) == 0
    assert (
        cli.main(["run", "--dataset", "tiny", "--splits", "1", "--methods", "bt-ridge", "--out", runs, *shared]) == 0
    )
    capsys.readouterr()
    assert cli.main(["report", "leaderboard", "--runs", runs, "--out", str(tmp_path / "out")]) == 2
    assert "differ in division of the split" in capsys.readouterr().err


def test_a_data_set_of_embeddings_says_that_its_keys_do_not_travel(entries: Path) -> None:
    registry.use([entries])
    tiny = data.load(registry.get("datasets", "tiny"))
    assert len(set(comparison_keys(tiny))) == len(tiny)
    one = texts_data(["a", "b", "c"])
    assert len(set(comparison_keys(one))) == 2
