"""Own data in the shapes, encodings and states in which people have them: right rows, or one line that helps."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prbench import data, registry
from prbench.base.errors import InputError
from prbench.cli import app
from prbench.comparisons import Message
from prbench.loaders.json_lines import json_lines
from prbench.loaders.user_file import import_table
from prbench.loaders.user_rows import CUT, EMPTY, EMPTY_KEPT, FileRows, ImportOptions, read_file

Rows = Sequence[Mapping[str, Any]]


def jsonl(path: Path, rows: Rows, encoding: str = "utf-8") -> Path:
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(encoding))
    return path


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path)
    return path


def row(
    user: Any = "ann", prompt: Any = "Tea?", chosen: Any = "yes", rejected: Any = "no", **more: Any
) -> dict[str, Any]:
    return {"user_id": user, "prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def texts(found: FileRows) -> list[tuple[str | None, str, str, str]]:
    return [(r.user, r.context[-1].content, r.chosen, r.rejected) for r in found.rows]


def error_of(path: Path, options: ImportOptions | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_file(path, options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 1000
    return message


PLAIN = [row(user, f"Question {i}?", f"yes {i}", f"no {i}") for user in ("ann", "ben") for i in range(3)]
EXPECTED = [(r["user_id"], r["prompt"], r["chosen"], r["rejected"]) for r in PLAIN]


# --- who is who

BIG = 990_000_000_000_000_007


@pytest.mark.parametrize("value", [float(BIG), 2.0**53, -(2.0**60)])
def test_ids_that_went_through_a_float_are_refused(value: float, tmp_path: Path) -> None:
    paths = [
        parquet(tmp_path / "a.parquet", {k: [v] for k, v in row(value).items()}),
        jsonl(tmp_path / "a.jsonl", [row(value)]),
        jsonl(tmp_path / "b.jsonl", [row(repr(value))]),
        jsonl(tmp_path / "c.jsonl", [row(conversation_id=value)]),
    ]
    for path in paths:
        assert "gone through a float and lost digits" in error_of(path)


def test_whole_numbers_of_any_size_and_hashes_stay(tmp_path: Path) -> None:
    ids = [BIG, BIG + 1, "12345e67", "5e10", "007", "7"]
    found = read_file(jsonl(tmp_path / "a.jsonl", [row(each) for each in ids]))
    assert [r.user for r in found.rows] == list(map(str, ids))
    assert found.notes == []


@pytest.mark.parametrize("text", ["nan", "NaN", " NaN"])
def test_not_a_number_is_nobody(text: str, tmp_path: Path) -> None:
    assert "which is not an id" in error_of(jsonl(tmp_path / "a.jsonl", [row(text)]))


def test_numbers_and_equal_floats_are_one_person_where_all_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("user_id,prompt,chosen,rejected\n" + "".join(f"{u},q,a,b\n" for u in ("7", "7.0", "8.00", "-1")))
    found = read_file(path)
    assert [r.user for r in found.rows] == ["7", "7", "8", "-1"]
    path.write_text(path.read_text() + "ann,q,a,b\n")
    found = read_file(path)
    assert [r.user for r in found.rows] == ["7", "7.0", "8.00", "-1", "ann"]
    assert found.notes == [
        "1 ids in user_id differ only in capitals, space, Unicode form or a '.0', such as '7' and '7.0'; they count as "
        "different people"
    ]


@pytest.mark.parametrize("other", ["Ann", "ann ", "\uff41nn", "ann\u200b"])
def test_ids_that_hardly_differ_are_told(other: str, tmp_path: Path) -> None:
    found = read_file(jsonl(tmp_path / "a.jsonl", [row("ann"), row(other), row("ben")]))
    assert len({r.user for r in found.rows}) == 3
    assert len(found.notes) == 1
    assert found.notes[0].startswith("1 ids in user_id differ only in")


# --- chats


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]


CHAT = row("ann", "Tea?", chat("Tea?", 'It\'s "fine".\n'), chat("Tea?", "no"))
SPELLED = {
    "Python": (repr, 0),
    "JSON": (json.dumps, 0),
    "with prompt": (json.dumps, 1),
}


@pytest.mark.parametrize("case", SPELLED)
def test_messages_spelled_as_text_are_messages(case: str, tmp_path: Path) -> None:
    spell, with_prompt = SPELLED[case]
    dumped = {**CHAT, "chosen": spell(CHAT["chosen"]), "rejected": spell(CHAT["rejected"])}
    if with_prompt:
        dumped["prompt"] = spell(chat("Tea?"))
    found = read_file(jsonl(tmp_path / "a.jsonl", [dumped]))
    assert found.rows[0][2:5] == ((Message("user", "Tea?"),), 'It\'s "fine".\n', "no")


@pytest.mark.parametrize("side", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize(
    "spelled",
    [
        "[{'role': 'user', 'content': 'x'}\n {'role': 'assistant', 'content': 'y'}]",
        "[{'role': 'user', 'content': open('/etc/passwd').read()}]",
        "[{'role': 'user', 'content': 'x'",
        '[{"role": "user"}]',
        '[{"role": "user", "content": ' + "[" * 10_000,
    ],
    ids=["numpy", "a call", "cut off", "half a message", "nested"],
)
def test_messages_spelled_so_that_nobody_can_tell_are_refused(side: str, spelled: str, tmp_path: Path) -> None:
    message = error_of(jsonl(tmp_path / "a.jsonl", [row(), row(**{side: spelled})]))
    assert f"line 2: {side} looks like a list of messages written as text" in message


@pytest.mark.parametrize("text", ["[1, 2, 3]", "['a', 'b']", '{"answer": 42}', "[link](x) {'role'}", "[{}]"])
def test_other_texts_with_brackets_stay_texts(text: str, tmp_path: Path) -> None:
    assert read_file(jsonl(tmp_path / "a.jsonl", [row(chosen=text)])).rows[0].chosen == text


def test_parts_of_text_and_other_names_of_roles(tmp_path: Path) -> None:
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    shared = [{"from": "human", "value": "Tea?"}]
    rows = [
        row(chosen=parts, rejected=chat("", "no")[1:]),
        row("ben", None, [*shared, {"from": "gpt", "value": "a"}], [*shared, {"from": "gpt", "value": "b"}]),
    ]
    found = read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert texts(found) == [("ann", "Tea?", "one\ntwo", "no"), ("ben", "Tea?", "a", "b")]
    image = [{"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}]
    assert "a part that is not text: 'image_url'" in error_of(
        jsonl(tmp_path / "a.jsonl", [row(chosen=image, rejected=image)])
    )


def test_several_rejected_replies(tmp_path: Path) -> None:
    rows = [
        row(rejected=["no", "never"]),
        row("ben", None, CHAT["chosen"], [CHAT["rejected"], chat("Tea?", "never")]),
    ]
    found = read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert [(r.user, r.rejected) for r in found.rows] == [
        ("ann", "no"),
        ("ann", "never"),
        ("ben", "no"),
        ("ben", "never"),
    ]


# --- the prompt twice


def test_a_prompt_repeated_up_to_white_space_stands_once(tmp_path: Path) -> None:
    plain = read_file(jsonl(tmp_path / "a.jsonl", [CHAT]))
    assert (
        read_file(jsonl(tmp_path / "b.jsonl", [{**CHAT, "prompt": " Tea?\r\n"}])).rows[0][2:5] == plain.rows[0][2:5]
    )


ASKED = "How do I fix a leaking tap?"


def test_replies_that_begin_with_the_prompt(tmp_path: Path) -> None:
    twice = [
        row(u, ASKED, f"{ASKED} Call {i}.", f"How do I  fix a leaking tap?\nTurn {i}.") for u in "ab" for i in "12"
    ]
    found = read_file(jsonl(tmp_path / "a.jsonl", twice))
    assert [(r.chosen, r.rejected) for r in found.rows] == [(f"Call {i}.", f"Turn {i}.") for i in "1212"]
    assert found.counts[CUT] == 4
    some = jsonl(tmp_path / "b.jsonl", [*PLAIN, *twice])
    assert "line 7: both replies begin with the prompt, as in 4 of 10 rows" in error_of(some)
    assert read_file(some, ImportOptions(prompt_in_replies="cut")).counts[CUT] == 4
    assert read_file(some, ImportOptions(prompt_in_replies="keep")).rows[-1].chosen == f"{ASKED} Call 2."
    # One side alone, or a short prompt in some rows, says nothing.
    few = [row("a", ASKED, f"{ASKED} Yes.", "No."), row("b", "Hi", "Hi there", "Hi!"), *PLAIN]
    assert CUT not in read_file(jsonl(tmp_path / "c.jsonl", few)).counts


# --- shapes

LABEL = [
    {"user_id": "ann", "prompt": "q", "response_a": "x", "response_b": "y", "winner": "a"},
    {"user_id": "ann", "prompt": "r", "response_a": "x", "response_b": "y", "winner": "response_b"},
    {"user_id": "ben", "prompt": "q", "response_a": "x", "response_b": "y", "winner": "Tie"},
]
OUT = [("ann", "q", "x", "y"), ("ann", "r", "y", "x")]


def test_two_responses_and_a_winner(tmp_path: Path) -> None:
    found = read_file(jsonl(tmp_path / "a.jsonl", LABEL))
    assert texts(found) == OUT
    assert found.notes == [
        "read as label: user is user_id, prompt, first is response_a, second is response_b, winner",
        "1 ties left out",
    ]
    renamed = [
        {("who" if k == "user_id" else "preference" if k == "winner" else k): v for k, v in r.items()} for r in LABEL
    ]
    assert "who" in error_of(jsonl(tmp_path / "b.jsonl", renamed))
    assert texts(read_file(tmp_path / "b.jsonl", ImportOptions(columns={"user": "who"}))) == OUT


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 2), ("0", "1"), (1.0, 2.0)])
def test_winners_as_numbers(first: Any, second: Any, tmp_path: Path) -> None:
    rows = [{**LABEL[0], "winner": first}, {**LABEL[1], "winner": second}]
    assert texts(read_file(jsonl(tmp_path / "a.jsonl", rows))) == OUT
    assert "names neither side" in error_of(jsonl(tmp_path / "b.jsonl", [{**LABEL[0], "winner": 1}]))


def test_arena_rows(tmp_path: Path) -> None:
    rows = [
        {"judge": "ann", "conversation_a": chat("q", "x"), "conversation_b": chat("q", "y"), "winner": "model_b"},
        {
            "judge": "ben",
            "conversation_a": chat("q", "x"),
            "conversation_b": chat("q", "y"),
            "winner": "tie (bothbad)",
        },
    ]
    assert texts(read_file(jsonl(tmp_path / "a.jsonl", rows))) == [("ann", "q", "y", "x")]


def test_a_rating_of_each_response(tmp_path: Path) -> None:
    rated = [
        ("ann", "q", "x", 3),
        ("ben", "q", "x", 1),
        ("ann", "q", "y", 5),
        ("ann", "q", "z", 3),
        ("ann", "r", "x", 9),
    ]
    rows = [dict(zip(("user_id", "prompt", "response", "rating"), each, strict=True)) for each in rated]
    found = read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert texts(found) == [("ann", "q", "y", "x"), ("ann", "q", "y", "z")]
    assert found.counts["ties left out"] == 1
    assert "rating is 'good', not a number" in error_of(jsonl(tmp_path / "a.jsonl", [{**rows[0], "rating": "good"}]))


@pytest.mark.parametrize("spell", [lambda x: x, json.dumps, repr])
def test_ranked_responses(spell: Any, tmp_path: Path) -> None:
    rows = [{"user_id": "ann", "prompt": "q", "responses": spell(["x", "y", "z"]), "ranking": spell([2, 1, 2])}]
    found = read_file(jsonl(tmp_path / "a.jsonl", rows))
    assert texts(found) == [("ann", "q", "y", "x"), ("ann", "q", "y", "z")]
    assert found.counts["ties left out"] == 1
    del rows[0]["ranking"]
    assert len(read_file(jsonl(tmp_path / "a.jsonl", rows)).rows) == 3


def test_columns_by_name(tmp_path: Path) -> None:
    rows = [{"who": "ann", "q": "Tea?", "good": "yes", "bad": "no"}]
    path = jsonl(tmp_path / "a.jsonl", rows)
    named = {"user": "who", "prompt": "q", "chosen": "good", "rejected": "bad"}
    assert texts(read_file(path, ImportOptions(columns=named))) == [("ann", "Tea?", "yes", "no")]
    with pytest.raises(InputError, match="the format pairs has no such part"):
        read_file(path, ImportOptions(columns={**named, "winner": "x"}))


# --- files


def as_bytes(rows: Rows, delimiter: str = ",") -> bytes:
    lines = [delimiter.join(rows[0]), *(delimiter.join(map(str, r.values())) for r in rows)]
    return "\n".join(lines).encode()


def test_kinds_of_files(tmp_path: Path) -> None:
    body = "".join(json.dumps(r) + "\n" for r in PLAIN).encode()
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "_SUCCESS").touch()
    half = {k: [r[k] for r in PLAIN] for k in PLAIN[0]}
    parquet(shards / "train-00000-of-00002.parquet", {k: v[:3] for k, v in half.items()})
    parquet(shards / "train-00001-of-00002.parquet", {k: v[3:] for k, v in half.items()})
    files = {
        "bom.jsonl": b"\xef\xbb\xbf" + body,
        "utf16.jsonl": body.decode().encode("utf-16"),
        "crlf.jsonl": body.replace(b"\n", b"\r\n"),
        "zip.jsonl.gz": gzip.compress(body),
        "bom.csv": b"\xef\xbb\xbf" + as_bytes(PLAIN),
        "semicolon.csv": as_bytes(PLAIN, ";"),
        "tab.csv": as_bytes(PLAIN, "\t"),
        "utf16.csv": as_bytes(PLAIN).decode().encode("utf-16"),
        "zip.csv.gz": gzip.compress(as_bytes(PLAIN)),
        "list.json": json.dumps(PLAIN).encode(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for path in [shards, *(tmp_path / name for name in files)]:
        assert texts(read_file(path)) == EXPECTED, path


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [row(chosen="café")], "latin-1")
    assert "it looks like Latin-1 or Windows-1252 (name it by `--encoding cp1252`" in error_of(path)
    assert read_file(path, ImportOptions(encoding="latin-1")).rows[0].chosen == "café"
    path.write_bytes(json.dumps(row(), ensure_ascii=False).replace("Tea", "Tée").encode("utf-16-le"))
    assert "--encoding" in error_of(path) or "no valid JSON" in error_of(path)
    with pytest.raises(InputError, match="is not known"):
        read_file(path, ImportOptions(encoding="klingon"))


HOSTILE = {
    "nested": ('{"user_id": ' + "[" * 10_000 + "]" * 10_000 + "}", "nested too deeply"),
    "digits": ('{"user_id": ' + "7" * 5_000 + "}", "a number has thousands of digits"),
    "surrogate": (json.dumps(row(chosen="\ud83d")), "half a character"),
    "surrogate elsewhere": (json.dumps(row(other="\ud83d")), "half a character"),
    "late": (json.dumps(row(timestamp=10**400)), "timestamp is out of range"),
    "infinite": (json.dumps(row(timestamp="1e999")), "timestamp is inf"),
    "year": (json.dumps(row(timestamp="99999-01-01")), "neither a number nor an ISO 8601"),
    "first year": (json.dumps(row(timestamp="0001-01-01T00:00:00+14:00")), ""),
    "no object": ("[1]", "expected a JSON object, found list"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_line_is_one_line_of_error(case: str, tmp_path: Path) -> None:
    content, message = HOSTILE[case]
    path = tmp_path / "a.jsonl"
    path.write_text(content + "\n")
    if message:
        found = error_of(path)
        assert message in found
        assert "line 1" in found
    assert len(read_file(jsonl(tmp_path / "b.jsonl", PLAIN)).rows) == 6
    path.write_text("".join(json.dumps(r) + "\n" for r in PLAIN) + content + "\n")
    if message:
        found = read_file(path, ImportOptions(drop_bad=True))
        assert len(found.rows) == 6
        assert "(line 7)" in found.notes[0]


def test_hostile_parquet(tmp_path: Path) -> None:
    import pyarrow as pa

    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    columns = {"user_id": ["u", "v"], "prompt": ["q", "q"], "chosen": bad, "rejected": ["b", "b"]}
    assert "row 2: no valid UTF-8" in error_of(parquet(tmp_path / "a.parquet", columns))
    late = pa.array([0, 2**62], pa.timestamp("ms"))
    columns = {
        "user_id": ["u", "v"],
        "prompt": ["q", "q"],
        "chosen": ["a", "a"],
        "rejected": ["b", "b"],
        "timestamp": late,
    }
    assert "row 2: " in error_of(parquet(tmp_path / "b.parquet", columns))
    found = read_file(tmp_path / "b.parquet", ImportOptions(drop_bad=True))
    assert len(found.rows) == 1


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is a pipe or a device" in error_of(tmp_path / "pipe.jsonl")
    (tmp_path / "empty").mkdir()
    assert "has no file to read" in error_of(tmp_path / "empty")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder, not a file"):
        list(json_lines(tmp_path / "folder.jsonl"))
    assert "there is no file" in error_of(tmp_path / "gone" / "a.jsonl")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "shards/a.parquet"])
def test_a_file_that_git_lfs_has_not_fetched(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    given = path.parent if "/" in name else path
    with pytest.raises(InputError, match="is a pointer of Git LFS, not the file itself") as caught:
        read_file(given)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"run `git lfs pull` in {path.parent}")


def test_many_columns_and_escapes_are_not_printed_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(["\x1b[31mred", "x" * 5000, *(f"column {i}" for i in range(50_000))]) + "\n")
    message = error_of(path)
    assert "\x1b" not in message
    assert "and 49,982 more" in message


def test_a_line_and_a_cell_have_a_longest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prbench.loaders import reading, rows

    monkeypatch.setattr(reading, "LONGEST", 1000)
    monkeypatch.setattr(rows, "LONGEST", 1000)
    assert "a line has more than 1,000 characters" in error_of(jsonl(tmp_path / "a.jsonl", [row(chosen="x" * 2000)]))
    (tmp_path / "a.csv").write_bytes(as_bytes([row(chosen="x" * 2000)]))
    assert "no valid CSV" in error_of(tmp_path / "a.csv")


# --- rows left out


def test_bad_rows_are_left_out_and_counted(tmp_path: Path, prbench_home: Path) -> None:
    bad = [row(chosen="same", rejected="same"), {"user_id": "x"}, row(chosen="b", rejected="b")]
    path = jsonl(tmp_path / "a.jsonl", [*PLAIN, *bad])
    options = ImportOptions(drop_bad=True)
    found = read_file(path, options)
    assert texts(found) == EXPECTED
    assert found.notes[:2] == [
        "2 rows left out: chosen and rejected are the same (line 7, line 9)",
        "1 rows left out: prompt is missing (line 8)",
    ] or found.notes[1].startswith("1 rows left out: ")
    import_table(path, "mine", options)
    loaded = data.load(registry.get("datasets", "mine"))
    assert loaded.counts["rows left out: chosen and rejected are the same"] == 2
    assert len(loaded) == 6
    for needs_user, told in ((True, True), (False, False)):
        with pytest.raises(InputError) as refused:
            read_file(path, needs_user=needs_user)
        assert ("--drop-bad" in (refused.value.hint or "")) == told, "an import can leave such rows out"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_empty_replies_are_kept_or_left_out(suffix: str, tmp_path: Path) -> None:
    rows = [*PLAIN, row(chosen="")]
    path = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        path.write_bytes(as_bytes(rows))
    else:
        jsonl(path, rows)
        assert "`--empty keep` keeps such rows" in error_of(path)
    kept = read_file(path, ImportOptions(empty="keep"))
    assert (len(kept.rows), kept.rows[-1].chosen, kept.counts[EMPTY_KEPT]) == (7, "", 1)
    left = read_file(path, ImportOptions(empty="drop"))
    assert (len(left.rows), left.counts[EMPTY]) == (6, 1)


# --- the command


def test_the_command_shows_and_replaces(tmp_path: Path, prbench_home: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", PLAIN)
    runner = CliRunner()
    shown = runner.invoke(app, ["data", "import", str(path), "--name", "mine", "--dry-run"])
    assert shown.exit_code == 0
    assert "Question 0?" in shown.stdout
    assert not list(prbench_home.rglob("*.toml"))
    assert runner.invoke(app, ["data", "import", str(path), "--name", "mine"]).exit_code == 0
    jsonl(path, [*PLAIN, row("cat")])
    assert isinstance(runner.invoke(app, ["data", "import", str(path), "--name", "mine"]).exception, InputError)
    assert runner.invoke(app, ["data", "import", str(path), "--name", "mine", "--replace"]).exit_code == 0
    assert len(data.load(registry.get("datasets", "mine"))) == 7
    one = runner.invoke(app, ["data", "show", "mine", "--comparison", "6", "--json"])
    assert json.loads(one.stdout)["conversation"] == ["user: Tea?"]
    told = json.loads(runner.invoke(app, ["data", "info", "mine", "--json"]).stdout)
    assert told["repeats"] == dict.fromkeys(told["repeats"], 0)
    assert told["split_0"]["test_pairs"] >= 2
