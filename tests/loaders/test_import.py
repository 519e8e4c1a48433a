"""Importing own comparisons, and embeddings of the published scripts: what comes back, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prbench import data, registry
from prbench.base.errors import InputError
from prbench.comparisons import Message, PreferenceData
from prbench.data import describe
from prbench.loaders.mrm_files import import_embeddings
from prbench.loaders.new_entry import to_toml
from prbench.loaders.user_file import import_table, read_rows
from prbench.protocol import repeats, splits

Rows = Sequence[Mapping[str, Any]]


def as_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    return path


def as_parquet(path: Path, rows: Rows) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {".jsonl": as_jsonl, ".csv": as_csv, ".parquet": as_parquet}


def imported(path: Path, name: str = "mine") -> PreferenceData:
    """Import and load as the commands do."""
    assert import_table(path, name).stem == name
    return data.load(registry.get("datasets", name))


def row(
    user: Any = "ann", prompt: Any = "Tea?", chosen: Any = "yes", rejected: Any = "no", **more: Any
) -> dict[str, Any]:
    return {"user_id": user, "prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


ROWS = [row("ben"), row("ann"), row("ann", "Milk?", "no, thanks", "yes"), row("ann", "Tea?", "maybe", "yes")]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK = message("user", "Tea?")
YES, NO = message("assistant", "yes"), message("assistant", "no")


def nothing_left(home: Path) -> bool:
    # An empty file that holds a lock says nothing of what was written.
    return not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize("kind", WRITERS)
def test_plain_texts(kind: str, tmp_path: Path, prbench_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = imported(WRITERS[kind](tmp_path / f"my{kind}", ROWS))
    assert capsys.readouterr().out == ""
    assert found.name == "mine"
    assert found.user_keys == ("ben", "ann")
    assert found.user.tolist() == [0, 1, 1, 1]
    assert found.contexts == ((Message("user", "Tea?"),), (Message("user", "Milk?"),))
    texts = [(found.responses[c], found.responses[r]) for c, r in zip(found.chosen, found.rejected, strict=True)]
    assert texts == [("yes", "no"), ("yes", "no"), ("no, thanks", "yes"), ("maybe", "yes")]
    # "yes" to tea and "yes" to milk are two items; the same answer by two users is one.
    assert found.n_items == 5
    # Without conversations, what a user was asked about one prompt stays together.
    assert found.group.tolist() == [0, 0, 1, 0]
    assert found.time is None
    assert found.counts == {
        "users with one comparison, which cannot be divided": 1,
        repeats.REPEATS: 0,
        repeats.OPPOSITE: 0,
        repeats.JOINED: 0,
    }


@pytest.mark.parametrize("kind", WRITERS)
def test_conversations_and_times(kind: str, tmp_path: Path, prbench_home: Path) -> None:
    rows = [
        row("ann", conversation_id="x", timestamp="1970-01-01T00:01:00"),
        row("ann", conversation_id="y", timestamp="1970-01-01T01:00:00+01:00"),
        row("ben", "Milk?", conversation_id="x", timestamp="90.5"),
    ]
    found = imported(WRITERS[kind](tmp_path / f"my{kind}", rows))
    # Ann's second conversation repeats her first.
    assert found.group.tolist() == [0, 0, 0]
    assert found.time is not None
    assert found.time.tolist() == [60.0, 0.0, 90.5]
    assert found.counts[repeats.REPEATS] == 1


def test_parquet_date_times_and_whole_numbers(tmp_path: Path, prbench_home: Path) -> None:
    when = datetime(1970, 1, 2, tzinfo=UTC)
    found = imported(
        as_parquet(tmp_path / "a.parquet", [row(7, timestamp=when), row(3, timestamp=when.replace(day=1))])
    )
    assert found.user_keys == ("7", "3")
    assert found.time is not None
    assert found.time.tolist() == [86_400.0, 0.0]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("Tea?", [YES], [NO]),
        ([ASK], [YES], [NO]),
        ([ASK], [ASK, YES], [ASK, NO]),
        ("Tea?", [ASK, YES], [ASK, NO]),
        (None, [ASK, YES], [ASK, NO]),
    ],
    ids=["text prompt", "explicit", "repeated", "repeated text", "implicit"],
)
def test_conversational_forms_agree(
    kind: str, prompt: Any, chosen: Any, rejected: Any, tmp_path: Path, prbench_home: Path
) -> None:
    rows = [row(user, prompt, chosen, rejected) for user in ("ann", "ben")]
    if prompt is None:
        rows = [{k: v for k, v in r.items() if k != "prompt"} for r in rows]
    found = imported(WRITERS[kind](tmp_path / f"my{kind}", rows))
    assert found.contexts == ((Message("user", "Tea?"),),)
    assert found.responses == ("yes", "no")
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([0, 0], [1, 1])


def test_a_longer_conversation_keeps_every_turn(tmp_path: Path, prbench_home: Path) -> None:
    system, first, again = message("system", "Be brief."), message("assistant", "Which?"), message("user", "Green.")
    shared = [system, ASK, first, again]
    rows = [
        row("ann", "Green.", [*shared, YES], [*shared, NO]),
        row("ben", [system, ASK], [first, again, YES], [first, again, NO]),
    ]
    found = imported(as_jsonl(tmp_path / "a.jsonl", rows))
    assert found.contexts == (tuple(Message(m["role"], m["content"]) for m in shared),)


def test_a_gzipped_file_and_blank_lines(tmp_path: Path, prbench_home: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n\n".join(json.dumps(r) for r in ROWS))
    assert len(imported(path)) == 4


def test_the_entry_is_whole_and_pins_the_data(tmp_path: Path, prbench_home: Path) -> None:
    file = import_table(as_jsonl(tmp_path / "a.jsonl", ROWS), "mine")
    assert file == prbench_home / "imported" / "datasets" / "mine.toml"
    entry = registry.get("datasets", "mine")
    assert entry.expect == {"users": 2, "comparisons": 4, "prompts": 2, "items": 5}
    assert not entry.default
    assert "ann" not in file.read_text()
    table = prbench_home / "imported" / "mine" / "comparisons.parquet"
    assert table.stat().st_mode & 0o777 == 0o600
    assert describe.describe(data.load(entry), entry)["prompts"] == 2
    table.write_bytes(table.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"is not the expected file.*import it again"):
        data.load(entry)


def test_a_name_is_taken_once(tmp_path: Path, prbench_home: Path) -> None:
    path = as_jsonl(tmp_path / "a.jsonl", ROWS)
    file = import_table(path, "mine")
    before = {p: p.read_bytes() for p in prbench_home.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=r"there is a data set 'mine' already.*give --replace to replace it"):
        import_table(path, "mine")
    with pytest.raises(InputError, match=r"there is a data set 'convarg' already.*choose another name"):
        import_table(path, "convarg")
    assert {p: p.read_bytes() for p in prbench_home.rglob("*") if p.is_file()} == before
    file.unlink()
    assert imported(as_jsonl(path, ROWS[:2])).n_users == 2


@pytest.mark.parametrize("name", ["", "all", "datasets", "../mine", "a b", "-x"])
def test_a_name_that_cannot_be_one(name: str, tmp_path: Path, prbench_home: Path) -> None:
    with pytest.raises(InputError, match="cannot be a data set's name"):
        import_table(as_jsonl(tmp_path / "a.jsonl", ROWS), name)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no user": ({"user_id": None}, "user_id is missing"),
    "empty user": ({"user_id": " "}, "user_id is empty"),
    "odd user": ({"user_id": True}, "user_id is of the type bool"),
    "no prompt": ({"prompt": None}, "prompt is missing"),
    "empty prompt": ({"prompt": ""}, "prompt is empty"),
    "odd prompt": ({"prompt": 3}, "prompt is of the type int"),
    "no chosen": ({"chosen": None}, "chosen is missing"),
    "empty rejected": ({"rejected": " \n"}, "rejected is empty"),
    "same": ({"rejected": "yes"}, "chosen and rejected are the same"),
    "mixed": ({"rejected": [NO]}, "chosen is str; both sides must be"),
    "number": ({"chosen": 4, "rejected": 5}, "chosen is int; both sides must be"),
    "no messages": ({"chosen": [], "rejected": [NO]}, "chosen is not a list of messages"),
    "texts in list": ({"chosen": ["yes"], "rejected": [NO]}, "chosen is not a list of messages"),
    "no content": ({"chosen": [{"role": "assistant"}], "rejected": [NO]}, "chosen: message 1 needs a 'role'"),
    "empty content": ({"chosen": [message("assistant", "")], "rejected": [NO]}, "chosen is empty"),
    "user's word": ({"chosen": [message("user", "yes")], "rejected": [NO]}, "the role 'user', not assistant"),
    "two answers": ({"chosen": [ASK, YES, ASK, YES], "rejected": [ASK, NO, ASK, NO]}, "differ before their last"),
    "same list": ({"chosen": [ASK, YES], "rejected": [ASK, YES]}, "chosen and rejected are the same"),
    "no shared": ({"prompt": None, "chosen": [YES], "rejected": [NO]}, "share no message before the response"),
    "surrogate": ({"chosen": "\ud83d"}, "half a character"),
    "bad time": ({"timestamp": "yesterday"}, "timestamp is neither a number nor an ISO 8601"),
    "odd conversation": ({"conversation_id": 1.5}, "conversation_id is of the type float"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_row_is_named_by_its_line(fault: str, tmp_path: Path, prbench_home: Path) -> None:
    change, message = FAULTS[fault]
    path = as_jsonl(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], **change}])
    with pytest.raises(InputError) as caught:
        import_table(path, "mine")
    assert str(caught.value).startswith(f"{path}, line 5: ")
    assert message in str(caught.value)
    assert nothing_left(prbench_home)


def test_not_a_number_in_each_format(tmp_path: Path, prbench_home: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"user_id": NaN}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: NaN is not a JSON value"):
        import_table(tmp_path / "a.jsonl", "mine")
    rows = [row(1.0), row(float("nan"))]
    with pytest.raises(InputError, match=r"a\.parquet, row 2: user_id is nan"):
        import_table(as_parquet(tmp_path / "a.parquet", rows), "mine")
    rows = [row(timestamp=1.0), row(timestamp="nan")]
    with pytest.raises(InputError, match=r"a\.csv, line 3: timestamp is nan"):
        import_table(as_csv(tmp_path / "a.csv", rows), "mine")
    assert nothing_left(prbench_home)


@pytest.mark.parametrize("column", ["timestamp", "conversation_id"])
def test_an_optional_value_is_in_every_row_or_in_none(column: str, tmp_path: Path, prbench_home: Path) -> None:
    rows = [{**ROWS[0], column: "1"}, ROWS[1]]
    with pytest.raises(InputError, match=f"line 2: {column} is missing here"):
        import_table(as_jsonl(tmp_path / "a.jsonl", rows), "mine")
    with pytest.raises(InputError, match=f"line 2: {column} is given here"):
        import_table(as_jsonl(tmp_path / "a.jsonl", rows[::-1]), "mine")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "user_id,prompt,chosen\n1,a,b\n", "a.csv has no column rejected (it has user_id, prompt, chosen)"),
        ("a.csv", "user_id;prompt\n", "has no column chosen and no column rejected (it has user_id, prompt)"),
        ("a.csv", "", "has no column user_id and no column chosen and no column rejected (it is empty)"),
        ("a.csv", "user_id,prompt,chosen,rejected\n1,a,b\n", "a.csv, line 2: 3 cells, the header has 4"),
        ("a.csv", 'user_id,prompt,chosen,rejected\n1,a,b,"c\n', "no valid CSV"),
        ("a.csv", 'user_id,"ompt,chosen,rejected\n1,a,b,c\n', "a.csv, line 1: no valid CSV"),
        ("a.csv", '""erpt,chosen,rejected\n1,a,b,c\n', "a.csv, line 1: no valid CSV"),
        ("a.csv", "user_id,prompt,chosen,rejected\n1,a,,c\n", "a.csv, line 2: chosen is missing"),
        ("a.csv", "user_id,prompt,chosen,rejected\n", "a.csv has no rows"),
        ("a.jsonl", "", "a.jsonl has no rows"),
        ("a.jsonl", "{\n", "a.jsonl, line 1: no valid JSON"),
        ("a.parquet", "PAR1 not", "no readable Parquet"),
        ("a.json", "[]", "a.json has no rows"),
        ("a.json", '{"rows": []}', "is one JSON object, not a list of rows"),
        ("a.txt", "x", "of the unknown type .txt"),
    ],
)
def test_a_faulty_file(name: str, content: str, message: str, tmp_path: Path, prbench_home: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        import_table(path, "mine")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert nothing_left(prbench_home)


def test_a_line_in_csv_is_where_the_row_ends(tmp_path: Path, prbench_home: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('user_id,prompt,chosen,rejected\n1,"two\nlines",b,c\n1,a,b,b\n')
    with pytest.raises(InputError, match=r"a\.csv, line 4: chosen and rejected are the same"):
        import_table(path, "mine")


def test_no_utf8_and_a_missing_file(tmp_path: Path, prbench_home: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b'\n{"user_id": "\xff"}\n')
    with pytest.raises(InputError, match="no valid UTF-8"):
        import_table(path, "mine")
    with pytest.raises(InputError, match=r"there is no file .*gone\.csv"):
        import_table(tmp_path / "gone.csv", "mine")


def test_one_user_is_no_data_set(tmp_path: Path, prbench_home: Path) -> None:
    with pytest.raises(InputError, match="one user only"):
        import_table(as_jsonl(tmp_path / "a.jsonl", [row(), row(prompt="Milk?")]), "mine")
    assert nothing_left(prbench_home)


def test_a_full_disk_leaves_nothing(tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import pyarrow.parquet as pq

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(InputError, match="the disk is full"):
        import_table(as_jsonl(tmp_path / "a.jsonl", ROWS), "mine")
    assert nothing_left(prbench_home)


def test_when_the_entry_cannot_be_written_the_data_go_too(
    tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise InputError(f"the disk is full: {path} was not written")

    monkeypatch.setattr("prbench.loaders.new_entry.write_text", full)
    with pytest.raises(InputError, match="the disk is full"):
        import_table(as_jsonl(tmp_path / "a.jsonl", ROWS), "mine")
    assert nothing_left(prbench_home)


def test_a_replacement_never_leaves_a_gap(
    tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old data are whole until the entry turns to the new ones, and nothing of them is left then."""
    from prbench.loaders import new_entry

    entry, write_text = import_table(as_jsonl(tmp_path / "a.jsonl", ROWS), "mine"), new_entry.write_text
    old = data.load(registry.get("datasets", "mine")).fingerprint
    seen: list[str] = []

    def watched(path: Path, text: str) -> None:
        seen.append(data.load(registry.get("datasets", "mine")).fingerprint)
        if len(seen) == 1:
            raise InputError(f"the disk is full: {path} was not written")
        write_text(path, text)

    monkeypatch.setattr(new_entry, "write_text", watched)
    other = as_jsonl(tmp_path / "b.jsonl", [{**r, "prompt": f"{r['prompt']}!"} for r in ROWS])
    with pytest.raises(InputError, match="the disk is full"):
        import_table(other, "mine", replace=True)
    assert data.load(registry.get("datasets", "mine")).fingerprint == old
    folders = {path.name for path in entry.parents[1].iterdir() if path.is_dir()}
    assert folders == {"datasets", "mine"}
    for folder in ("mine.2", "mine"):
        import_table(other, "mine", replace=True)
        assert data.load(registry.get("datasets", "mine")).fingerprint != old
        assert {path.name for path in entry.parents[1].iterdir() if path.is_dir()} == {"datasets", folder}
    assert seen[:2] == [old, old]


def test_one_users_file_needs_no_user_id(tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if k != "user_id"} for r in ROWS]
    for kind, write in WRITERS.items():
        found = list(read_rows(write(tmp_path / f"a{kind}", rows), needs_user=False))
        assert [(r.user, r.chosen) for r in found] == [(None, r["chosen"]) for r in rows]


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(str.strip)
a_row = st.tuples(st.sampled_from(["u1", "u2", "u3"]), words, words, words).filter(lambda r: r[2] != r[3])


@given(st.lists(a_row, min_size=2, max_size=12).filter(lambda rows: len({r[0] for r in rows}) > 1))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_format_tells_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    table = [row(*values) for values in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(folder / "home"))
        loaded = [imported(write(folder / f"a{kind}", table), f"set-{kind[1:]}") for kind, write in WRITERS.items()]
    for found in loaded:
        back = [
            (
                found.user_keys[found.user[i]],
                found.contexts[found.item_context[found.chosen[i]]][0].content,
                found.responses[found.chosen[i]],
                found.responses[found.rejected[i]],
            )
            for i in range(len(found))
        ]
        assert back == rows
        assert found.fingerprint == loaded[0].fingerprint


tables = st.recursive(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.integers(-9, 9)
        | st.booleans()
        | st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=6,
)


@given(tables)
@settings(max_examples=100, deadline=None)
def test_written_toml_reads_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


# --- the published scripts' embeddings

VECTORS = torch.arange(24, dtype=torch.float32).reshape(6, 4) / 8


def record(chosen: int, rejected: int, conversation: Any = None, **more: Any) -> dict[str, Any]:
    found = {"conversation_id": conversation, "chosen_idx": chosen, "rejected_idx": rejected, **more}
    return {k: v for k, v in found.items() if v is not None}


def scored(chosen: int, rejected: int, conversation: Any = None, **more: Any) -> dict[str, Any]:
    more = {"chosen_score": chosen / 2, "rejected_score": rejected / 2, **more}
    return record(chosen, rejected, conversation, **more)


META = {
    "user-z": [record(5, 3, "c9"), record(0, 3, "c9"), record(5, 0, "c1")],
    "user-b": [record(2, 3), record(3, 2)],
}


def pair(tmp_path: Path, meta: Any = META, tensor: Any = VECTORS, **options: Any) -> tuple[Path, Path]:
    torch.save(tensor, tmp_path / "V2.pt", **options)
    (tmp_path / "V2.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return tmp_path / "V2.pt", tmp_path / "V2.json"


def embedded(*files: Path, name: str = "v2") -> PreferenceData:
    assert import_embeddings(*files, name).stem == name
    return data.load(registry.get("datasets", name))


def test_published_files_keep_their_order(tmp_path: Path, prbench_home: Path) -> None:
    found = embedded(*pair(tmp_path))
    assert found.user_keys == ("user-z", "user-b")
    assert found.user.tolist() == [0, 0, 0, 1, 1]
    assert found.embedded is not None
    # Rows 0, 2, 3 and 5 of the tensor were compared.
    assert torch.equal(found.embedded.embedding, VECTORS[[0, 2, 3, 5]])
    assert found.embedded.reward is None
    assert found.chosen.tolist() == [3, 0, 3, 1, 2]
    assert found.rejected.tolist() == [2, 2, 0, 2, 1]
    # Records without a conversation are a group each, but for a user's two judgements of one pair.
    assert found.group.tolist() == [0, 0, 1, 2, 2]
    assert found.mark is None
    assert found.counts["rows that nobody compared, left out"] == 2
    entry = registry.get("datasets", "v2")
    assert (entry.encoder, entry.protocol.name, entry.protocol.unit) == ("own", "published-code", "group")
    told = describe.describe(found, entry)
    assert (told["items"], told["dim"], told["has_reward"]) == (4, 4, False)
    assert "user-" not in json.dumps(told)
    assert (prbench_home / "imported/v2/users.json").stat().st_mode & 0o777 == 0o600


def test_scores_become_the_items_reward_and_marks_are_kept(tmp_path: Path, prbench_home: Path) -> None:
    meta = {
        "user-z": [scored(5, 3, split="train"), scored(3, 0, split="validation")],
        "user-b": [scored(0, 5, split="train"), scored(5, 3, split="test")],
    }
    found = embedded(*pair(tmp_path, meta))
    assert found.embedded is not None
    assert found.embedded.reward is not None
    assert found.embedded.reward.tolist() == [0.0, 1.5, 2.5]
    assert found.mark is not None
    assert found.mark.tolist() == [0, 1, 0, 1]
    entry = registry.get("datasets", "v2")
    assert entry.protocol.unit == "mark"
    split = splits.make_split(found, entry.protocol, seed=42, index=0)
    assert sorted(np.concatenate([split.seen_train, split.unseen_support]).tolist()) == [0, 2]
    assert sorted(np.concatenate([split.seen_test, split.unseen_test]).tolist()) == [1, 3]


@pytest.mark.parametrize(
    ("given_type", "kept"),
    [("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float32"), ("float64", "float32")],
)
def test_precisions(given_type: str, kept: str, tmp_path: Path, prbench_home: Path) -> None:
    found = embedded(*pair(tmp_path, tensor=VECTORS.to(getattr(torch, given_type))))
    assert found.embedded is not None
    assert found.embedded.embedding.dtype == getattr(torch, kept)
    assert torch.equal(found.embedded.embedding.float(), VECTORS[[0, 2, 3, 5]])


def test_the_older_file_format_of_torch(tmp_path: Path, prbench_home: Path) -> None:
    assert embedded(*pair(tmp_path, _use_new_zipfile_serialization=False)).n_items == 4


def test_a_user_without_comparisons_still_counts_for_the_published_splits(tmp_path: Path, prbench_home: Path) -> None:
    found = embedded(*pair(tmp_path, {"user-n": [], **META, "user-o": [record(0, 1)]}))
    assert found.user_keys == ("user-n", "user-z", "user-b", "user-o")
    assert found.counts["users without comparisons"] == 1
    assert found.counts["users with one comparison, which cannot be divided"] == 1


def with_second(change: Mapping[str, Any], first: dict[str, Any] | None = None) -> dict[str, Any]:
    """A file whose second user's first record is changed."""
    first = first or record(0, 1)
    second = {k: v for k, v in {**record(2, 3), **change}.items() if v is not None}
    return {"user-z": [first], "user-b": [second]}


WHERE = "V2.json, user 2, record 1: "
BAD_META: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "V2.json, line 1: no valid JSON"),
    "nested": ("[" * 10_000, "V2.json: it is nested too deeply"),
    "digits": ('{"user-z": ' + "7" * 5_000 + "}", "V2.json: a number has thousands of digits"),
    "a list": ([], "V2.json holds a list, expected an object"),
    "no list": ({"user-z": {}}, "V2.json, user 1: expected a list of records, found dict"),
    "no record": ({"user-z": [3]}, "V2.json, user 1, record 1: expected an object, found int"),
    "twice": ('{"user-z": [], "user-z": []}', "appears twice"),
    "one user": ({"user-z": [record(0, 1)], "user-b": []}, "1 of its users have comparisons"),
    "nobody": ({}, "0 of its users have comparisons"),
    "no index": (with_second({"chosen_idx": None}), WHERE + "chosen_idx is missing"),
    "odd index": (with_second({"chosen_idx": 1.0}), WHERE + "chosen_idx is 1.0, not a whole number"),
    "bool": (with_second({"rejected_idx": True}), WHERE + "rejected_idx is True, not a whole number"),
    "beyond": (with_second({"rejected_idx": 6}), WHERE + "rejected_idx is 6, but the tensor has rows 0 to 5"),
    "negative": (with_second({"chosen_idx": -1}), WHERE + "chosen_idx is -1, but"),
    "same row": (with_second({"chosen_idx": 3}), WHERE + "chosen_idx and rejected_idx are the same row"),
    "odd conversation": (with_second({"conversation_id": [1]}), WHERE + "conversation_id is neither"),
    "odd split": (with_second({"split": "dev"}, record(0, 1, split="train")), WHERE + "split is 'dev'"),
    "no split": (with_second({}, record(0, 1, split="train")), WHERE + "split is missing here"),
    "late split": (with_second({"split": "train"}), WHERE + "split is given here"),
    "no score": (with_second({}, scored(0, 1)), WHERE + "chosen_score is missing here"),
    "half score": (with_second({"chosen_score": 1.0}, scored(0, 1)), WHERE + "rejected_score is None"),
    "NaN score": (
        with_second({"chosen_score": float("nan"), "rejected_score": 1}, scored(0, 1)),
        WHERE + "chosen_score is nan",
    ),
    "conflict": (
        {"user-z": [scored(0, 1)], "user-b": [scored(2, 1, rejected_score=9.0)]},
        WHERE + "rejected_score of row 1 is 9.0, an earlier record says 0.5",
    ),
}


@pytest.mark.parametrize("case", BAD_META)
def test_a_faulty_record_is_named_by_its_place(case: str, tmp_path: Path, prbench_home: Path) -> None:
    meta, message = BAD_META[case]
    with pytest.raises(InputError) as caught:
        import_embeddings(*pair(tmp_path, meta), "v2")
    assert message in str(caught.value)
    assert "user-" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert nothing_left(prbench_home)


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('the file was run')",)


BAD_TENSORS: dict[str, tuple[Any, str]] = {
    "dictionary": ({"e": VECTORS}, "holds a dict, not a tensor"),
    "integers": (torch.ones(6, 4, dtype=torch.int64), "holds a tensor of torch.int64, not of floats"),
    "flat": (torch.ones(6), "holds a tensor of shape [6], not [rows, d]"),
    "cube": (torch.ones(6, 2, 2), "holds a tensor of shape [6, 2, 2], not [rows, d]"),
    "no rows": (torch.ones(0, 4), "holds a tensor of shape [0, 4], not [rows, d]"),
    "sparse": (torch.eye(6).to_sparse(), "holds a tensor of torch.float32, not of floats"),
    "code": (Harmful(), "holds more than tensors"),
    "NaN": (
        VECTORS.index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(float("nan"))),
        "row 2 has NaN or infinity; ",
    ),
    "infinity": (VECTORS.index_put((torch.tensor(0), torch.tensor(3)), torch.tensor(float("inf"))), "row 0 has NaN"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_a_faulty_tensor(case: str, tmp_path: Path, prbench_home: Path) -> None:
    tensor, message = BAD_TENSORS[case]
    files = pair(tmp_path, tensor=tensor)
    with pytest.raises(InputError) as caught:
        import_embeddings(*files, "v2")
    assert message in str(caught.value)
    assert str(files[0]) in str(caught.value)
    assert nothing_left(prbench_home)


def test_a_row_that_is_no_number_is_traced_to_its_record(tmp_path: Path, prbench_home: Path) -> None:
    broken = VECTORS.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"row 0 has NaN or infinity; .*V2\.json, user 1, record 2 uses it"):
        import_embeddings(*pair(tmp_path, tensor=broken), "v2")
    # Row 1 is compared by nobody.
    harmless = VECTORS.clone()
    harmless[1, 0] = float("nan")
    assert embedded(*pair(tmp_path, tensor=harmless)).n_items == 4


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and then"])
def test_a_file_that_torch_did_not_save(content: bytes, tmp_path: Path, prbench_home: Path) -> None:
    pt, meta = pair(tmp_path)
    pt.write_bytes(content)
    with pytest.raises(InputError, match=r"V2\.pt (is truncated or|holds more than tensors, or is) no file of torch"):
        import_embeddings(pt, meta, "v2")


def test_a_truncated_tensor_file(tmp_path: Path, prbench_home: Path) -> None:
    pt, meta = pair(tmp_path, tensor=torch.ones(6, 400))
    pt.write_bytes(pt.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"V2\.pt is truncated or no file of torch\.save"):
        import_embeddings(pt, meta, "v2")


def test_missing_files_and_a_name_that_is_taken(tmp_path: Path, prbench_home: Path) -> None:
    pt, meta = pair(tmp_path)
    with pytest.raises(InputError, match=r"there is no file .*gone\.pt"):
        import_embeddings(tmp_path / "gone.pt", meta, "v2")
    with pytest.raises(InputError, match=r"there is no file .*gone\.json"):
        import_embeddings(pt, tmp_path / "gone.json", "v2")
    import_embeddings(pt, meta, "v2")
    with pytest.raises(InputError, match="there is a data set 'v2' already"):
        import_embeddings(pt, meta, "v2")


def test_embeddings_that_fill_the_disk_leave_nothing(
    tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = pair(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="the disk is full"):
        import_embeddings(*files, "v2")
    assert nothing_left(prbench_home)


def test_a_pickle_is_refused_without_a_warning(
    tmp_path: Path, prbench_home: Path, recwarn: pytest.WarningsRecorder
) -> None:
    import pickle

    pt, meta = pair(tmp_path)
    # A protocol that torch warns about.
    pt.write_bytes(pickle.dumps({"made by": print}, protocol=4))
    with pytest.raises(InputError, match=r"V2\.pt holds more than tensors"):
        import_embeddings(pt, meta, "v2")
    assert not list(recwarn)


@pytest.mark.parametrize("saved_by_torch", [True, False])
def test_code_in_a_file_of_tensors_is_never_run(tmp_path: Path, prbench_home: Path, saved_by_torch: bool) -> None:
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    pt, meta = pair(tmp_path)
    if saved_by_torch:
        torch.save({"embedding": torch.zeros(2), "trap": Trap()}, pt)
    else:
        pt.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"V2\.pt holds more than tensors"):
        import_embeddings(pt, meta, "v2")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "ran").exists(), "the trap would have worked"
