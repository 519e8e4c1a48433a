"""The shapes in which people post their choices: each is understood as the same comparisons, or one line says what to do.

Every case is one file as its owner has it, the options of `data import`, and either what it says to whom or the part of
a message that names the way out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prbench import cli
from prbench.base.errors import InputError
from prbench.loaders.user_rows import ImportOptions, read_file

WANTED = [("ann", "Tea?", "yes", "no"), ("ben", "Tea?", "no", "yes")]
Rows = Sequence[dict[str, Any]]


class Case(NamedTuple):
    """A file's name and contents, how it is imported, and the rows or part of the message that come of it."""

    file: str
    content: bytes
    options: ImportOptions = ImportOptions()
    wanted: list[tuple[str, str, str, str]] | str = WANTED


def lines(rows: Rows) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def table(rows: Rows, between: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=between)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return file.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def chat(*texts: Any, names: Sequence[str] = ("role", "content", "user", "assistant")) -> list[dict[str, Any]]:
    return [{names[0]: names[2 + i % 2], names[1]: text} for i, text in enumerate(texts)]


def part(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def pairs(make: Any = lambda text: text, **names: str) -> Rows:
    """The two comparisons, each side made of its text by `make`, columns under other names where given."""
    columns = [names.get(name, name) for name in ("user_id", "prompt", "chosen", "rejected")]
    return [
        dict(zip(columns, (user, prompt, make(a), make(b)), strict=True))
        for user, prompt, a, b in WANTED
    ]  # fmt: skip


def with_prompt(make: Any) -> Rows:
    """Both sides as whole conversations, without a column for the prompt."""
    return [{"user_id": row["user_id"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in pairs(make)]


def sided(winner: str, values: Sequence[Any], first: str = "response_a", second: str = "response_b") -> Rows:
    """Two responses, always in the same order, and who won; the last row is a tie."""
    people = ("ann", "ben", "cem")
    rows = [{"user_id": u, "prompt": "Tea?", first: "yes", second: "no"} for u in people]
    return [{**row, winner: value} for row, value in zip(rows, values, strict=False)]


OWN_NAMES = {"user_id": "judge", "prompt": "question", "chosen": "good", "rejected": "bad"}
BY_OPTION = {"user": "judge", "prompt": "question", "chosen": "good", "rejected": "bad"}
FRENCH = [{**row, "prompt": "Thé?"} for row in pairs()]
IN_FRENCH = [(user, "Thé?", a, b) for user, _, a, b in WANTED]
ARENA = [
    {"judge": u, "conversation_a": chat("Tea?", "yes"), "conversation_b": chat("Tea?", "no"), "winner": w}
    for u, w in (("ann", "model_a"), ("ben", "model_b"), ("cem", "tie (bothbad)"))
]
RATED = [
    {"user_id": u, "prompt": "Tea?", "response": r, "rating": s}
    for u, r, s in (("ann", "yes", 5), ("ann", "no", 1), ("ben", "yes", 2), ("ben", "no", 4))
]
RANKED = [
    {"user_id": u, "prompt": "Tea?", "responses": ["yes", "no"], "ranking": ranks}
    for u, ranks in (("ann", [1, 2]), ("ben", [2, 1]))
]
SHAREGPT = ("from", "value", "human", "gpt")
SPOILT = [pairs()[0], {"user_id": "eve", "prompt": "Tea?", "chosen": "yes"}, pairs()[1]]
EMPTY = [*pairs(), {"user_id": "eve", "prompt": "Tea?", "chosen": "yes", "rejected": ""}]

CASES = {
    "pairs in JSON lines": Case("a.jsonl", lines(pairs())),
    "pairs in a JSON list": Case("a.json", json.dumps(pairs()).encode()),
    "pairs in CSV": Case("a.csv", table(pairs())),
    "pairs in CSV of a European spreadsheet": Case("a.csv", table(pairs(), ";")),
    "pairs in TSV": Case("a.tsv", table(pairs(), "\t")),
    "pairs in Parquet": Case("a.parquet", parquet(pairs())),
    "gzipped": Case("a.jsonl.gz", gzip.compress(lines(pairs()))),
    "with a byte order mark": Case("a.jsonl", b"\xef\xbb\xbf" + lines(pairs())),
    "UTF-16": Case("a.csv", table(FRENCH).decode().encode("utf-16"), wanted=IN_FRENCH),
    "Latin-1": Case("a.csv", table(FRENCH).decode().encode("latin-1"), wanted="name it by `--encoding cp1252`"),
    "Latin-1, named": Case(
        "a.csv", table(FRENCH).decode().encode("latin-1"), ImportOptions(encoding="cp1252"), IN_FRENCH
    ),
    "messages": Case("a.jsonl", lines(pairs(lambda text: chat("Tea?", text)))),
    "messages without a column for the prompt": Case("a.jsonl", lines(with_prompt(lambda t: chat("Tea?", t)))),
    "messages as lists of text parts": Case(
        "a.jsonl", lines(with_prompt(lambda text: chat(part("Tea?"), part(text))))
    ),
    "messages with an image": Case(
        "a.jsonl",
        lines(with_prompt(lambda text: chat("Tea?", [{"type": "image_url", "image_url": text}]))),
        wanted="has a part that is not text: 'image_url'",
    ),
    "messages of ShareGPT": Case("a.jsonl", lines(with_prompt(lambda text: chat("Tea?", text, names=SHAREGPT)))),
    "messages as JSON in CSV": Case("a.csv", table(with_prompt(lambda text: json.dumps(chat("Tea?", text))))),
    "messages as Python's repr in CSV": Case("a.csv", table(with_prompt(lambda text: repr(chat("Tea?", text))))),
    "several rejected replies": Case(
        "a.jsonl",
        lines([{**row, "rejected": [row["rejected"], "never"]} for row in pairs()]),
        wanted=[(u, p, a, b) for u, p, a, other in WANTED for b in (other, "never")],
    ),
    "a winner column": Case("a.jsonl", lines(sided("winner", ["a", "b", "tie"]))),
    "a preference column of numbers": Case("a.csv", table(sided("preference", [0, 1]))),
    "a label column, numbers from 1": Case("a.csv", table(sided("label", [1, 2]))),
    "a choice between response_1 and response_2": Case(
        "a.jsonl", lines(sided("choice", ["response_1", "response_2"], "response_1", "response_2"))
    ),
    "a winner that names neither side": Case(
        "a.jsonl", lines(sided("winner", ["gpt-4"])), wanted="write a, b or tie; numbers are 0 and 1"
    ),
    "the arena's columns": Case("a.jsonl", lines(ARENA)),
    "the arena's format by name": Case("a.jsonl", lines(ARENA), ImportOptions(shape="arena")),
    "a rating of each reply": Case("a.jsonl", lines(RATED)),
    "ratings under other names": Case(
        "a.jsonl",
        lines([{"who": r["user_id"], "q": r["prompt"], "text": r["response"], "stars": r["rating"]} for r in RATED]),
        ImportOptions(
            shape="ratings", columns={"user": "who", "prompt": "q", "response": "text", "rating": "stars"}
        ),
    ),
    "a ranked list of replies": Case("a.jsonl", lines(RANKED)),
    "columns under other names": Case(
        "a.csv", table(pairs(**OWN_NAMES)), wanted="it has judge, question, good, bad"
    ),
    "columns by option": Case("a.csv", table(pairs(**OWN_NAMES)), ImportOptions(columns=BY_OPTION)),
    "a row that lacks a reply": Case("a.jsonl", lines(SPOILT), wanted="line 2: rejected is missing"),
    "a row that lacks a reply, --drop-bad": Case("a.jsonl", lines(SPOILT), ImportOptions(drop_bad=True)),
    "an empty reply": Case("a.jsonl", lines(EMPTY), wanted="`--empty keep` keeps such rows, `--empty drop` drops"),
    "an empty reply, --empty drop": Case("a.jsonl", lines(EMPTY), ImportOptions(empty="drop")),
    "an empty reply, --empty keep": Case(
        "a.csv", table(EMPTY), ImportOptions(empty="keep"), [*WANTED, ("eve", "Tea?", "yes", "")]
    ),
    "no person": Case(
        "a.jsonl", lines([{"prompt": "Tea?", "chosen": "a", "rejected": "b"}]), wanted="name it by --user"
    ),
    "rows of another nature": Case("a.txt", b"ann likes tea\n", wanted="give a .jsonl, .csv or .parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_understood_or_one_line_says_what_to_do(case: str, tmp_path: Path) -> None:
    file, content, options, wanted = CASES[case]
    path = tmp_path / file
    path.write_bytes(content)
    if isinstance(wanted, str):
        with pytest.raises(InputError) as caught:
            read_file(path, options)
        assert wanted in str(caught.value)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    found = [(row.user, row.context[-1].content, row.chosen, row.rejected) for row in read_file(path, options).rows]
    assert found == wanted


def test_a_dry_run_shows_the_first_rows_as_understood_and_imports_nothing(
    tmp_path: Path, prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(table(pairs(**OWN_NAMES)))
    given = [word for name, column in BY_OPTION.items() for word in (f"--{name}", column)]
    assert cli.main(["data", "import", str(path), "--name", "votes", *given, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "nothing was imported: 2 comparisons were understood so" in said.err
    for word in ("line 2", "ann", "user: Tea?", "yes", "no"):
        assert word in said.out
    assert not (prbench_home / "imported").exists()
