"""The humour judgements on a file in their schema; every id and text in it is invented."""

from __future__ import annotations

from pathlib import Path

import pytest
from upstream_fixtures import Files, refusal, texts

from prbench import data, registry
from prbench.base.errors import InputError
from prbench.loaders.humour import Humour, read_answers
from prbench.protocol.properties import properties

HEADER = "Worker ID\tAnswer\tText A\tText B"
PUN, PROVERB, JOKE = 'He said "cheese" to the "mouse".', "Time flies.", '"Who is there?" - Nobody.'
ROWS = [
    ("W1", "A", PUN, PROVERB),
    ("W2", "B", PUN, PROVERB),
    ("W1", "X", PROVERB, JOKE),
    ("W1", "B", PROVERB, JOKE),
    # The same pair, turned round.
    ("W2", "A", JOKE, PROVERB),
    ("W2", "A", PUN, PUN),
    ("W3", "A", PUN, JOKE),
]


def write(folder: Path, *lines: str) -> Path:
    file = folder / "results.tsv"
    file.write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return file


def cell(text: str) -> str:
    """A text as the csv module writes it into a table with tabs."""
    return '"' + text.replace('"', '""') + '"' if '"' in text else text


def test_answers_become_comparisons_and_ties_are_counted(tmp_path: Path) -> None:
    write(tmp_path, *("\t".join(map(cell, row)) for row in ROWS))
    found = Humour(min_comparisons=1).load(Files(tmp_path), "toy")
    question = ("Which is funnier?",)
    assert texts(found) == [
        ("W1", question, PUN, PROVERB),
        ("W2", question, PROVERB, PUN),
        ("W1", question, JOKE, PROVERB),
        ("W2", question, JOKE, PROVERB),
        ("W3", question, PUN, JOKE),
    ]
    assert found.group.tolist() == [0, 0, 1, 1, 2]
    assert (found.n_users, found.n_items, len(found.contexts)) == (3, 3, 1)
    assert dict(found.counts) == {"answers": 7, "ties dropped": 1, "answers on two equal texts dropped": 1}
    known = properties(found)
    assert (known["shared_pairs"], known["disagreement"]) == (2, 0.5)
    fewer = Humour(min_comparisons=2).load(Files(tmp_path), "toy")
    assert (fewer.n_users, len(fewer)) == (2, 4)
    assert fewer.counts["users with fewer than 2 comparisons dropped"] == 1


def test_quotation_marks_that_nobody_escaped_are_read_as_the_authors_code_reads_them(tmp_path: Path) -> None:
    file = write(tmp_path, f"W1\tA\t{PUN}\t{PROVERB}", f'W1\tB\t"Ha", she said.\t{PROVERB}')
    assert [answer.texts[0] for answer in read_answers(file)] == [PUN, "Ha, she said."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("W1\tC\ta\tb", "line 2: Answer is 'C', expected one of A, B, X"),
        ("W1\tA\ta", "line 2: 3 cells, expected 4"),
        ("\tA\ta\tb", "line 2: Worker ID is empty"),
        ("W1\tA\ta\t ", "line 2: Text B is empty"),
        ('W1\tA\ta\t"b', "line 2: Text B has several lines (a quotation mark is not closed)"),
        ("W1\tX\ta\tb", "toy: the file holds no answer that prefers a text"),
    ],
)
def test_a_faulty_row_is_named(line: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, line)
    assert message in refusal(lambda: Humour(min_comparisons=1).load(Files(tmp_path), "toy"))


def test_another_header_is_refused(tmp_path: Path) -> None:
    write(tmp_path).write_text("worker,answer\n")
    said = refusal(lambda: Humour().load(Files(tmp_path), "toy"))
    assert "does not have the columns Worker ID, Answer, Text A, Text B" in said


def test_the_entry_takes_no_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prbench_home: Path) -> None:
    entry = registry.get("datasets", "humour")
    assert entry.download is not None
    assert entry.download.files == {"results.tsv": "git:1914b9b19f8905c6d9f29c4e8e28fd8521bfa845"}
    assert not entry.default
    assert isinstance(data.make_loader(entry), Humour)
    (tmp_path / "humour").mkdir()
    write(tmp_path / "humour", "W1\tA\ta\tb")
    monkeypatch.setenv("PRBENCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match="is not the expected file: its git blob id is"):
        data.load(entry)
