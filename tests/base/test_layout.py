"""Tables on terminals of any width: every number whole, every name told apart, what is left out named."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from fake_results import HEAVY, Fake, one_board, population
from rich.console import Console

from prbench.base import layout, screen_text
from prbench.base.layout import Sheet
from prbench.protocol import metrics
from prbench.reporting.board import Board
from prbench.reporting.frames import adapting_frame, comparisons_frame, leaderboard_frame
from prbench.reporting.grid import interval, p_value, percent
from prbench.reporting.leaderboard import rich_tables

WIDTHS = (*range(40, 104, 4), 49, 57, 71, 81, *range(104, 201, 16), 200)
POPULATIONS = ("seen", "unseen", "overall")


def shown(sheet: Sheet, width: int, encoding: str = "utf-8") -> str:
    """What a terminal of this width and encoding shows."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=stream, width=width, highlight=False, color_system=None).print(sheet)
    stream.flush()
    return raw.getvalue().decode(encoding)


def long_names() -> Fake:
    """Results of methods whose names are long, nearly alike, or wide on the screen."""
    fake = population({**HEAVY, "mrm-no-rpo": 0.02}, splits=3)
    more = population({"mrm": 0.06}, splits=2, selection="last")
    fake.frames += more.frames
    fake.cells += more.cells
    names = {
        "lore": "low-rank-reward-modelling-with-many-bases-variant-one",
        "reference": "low-rank-reward-modelling-with-many-bases-variant-two",
        "bt-ridge": "個人化報酬模型 with a ridge",
    }
    for cell in fake.cells:
        cell["title"] = names.get(cell["method"], cell["title"])
    return fake


@pytest.fixture(scope="module")
def board() -> Board:
    """The board of `long_names`."""
    found: Board = one_board(long_names(), resamples=20)
    return found


def numbers_of_the_files(board: Board) -> set[str]:
    """Every number that a table may show, spelled from the CSV files' own values."""
    table = leaderboard_frame([board])
    found = {
        f"{percent(row[p])}±{percent(row[f'{p}_std'])}"
        for row in table.to_dict("records")
        for p in POPULATIONS
        if not np.isnan(row[p])
    }
    found |= {percent(v) for k in metrics.WORST for v in table[f"worst{k}"]} | set(map(percent, table["flip_rate"]))
    found |= {percent(v, signed=True, digits=2) for v in table["difference"]}
    found |= {f"{n}/{board.splits}" for n in table["n_splits"]}
    complete = table[table["complete"]]
    for p in POPULATIONS:
        best, second = complete[p].nlargest(2)
        found.add(percent(best / second - 1, signed=True))
    for frame in (comparisons_frame([board]), adapting_frame([board])):
        for row in frame.to_dict("records"):
            for sign in (1, -1):
                ends = (("difference_low", "difference_high"), ("bootstrap_low", "bootstrap_high"))
                found.add(percent(sign * row["difference"], signed=True, digits=2))
                for low, high in ends:
                    values = sorted((sign * row[low], sign * row[high]))
                    found |= set(re.findall(r"[^\s\[\],]+", interval(*values)))
            found |= {p_value(row[name]) for name in row if name.startswith("p_")}
            found |= {percent(row[name]) for name in ("cold_start", "adapted", "flip_rate") if name in row}
            found.add(str(row["n_splits_compared"]))
    return found


def numbers_on_screen(text: str) -> list[str]:
    """The numbers and their marks between the line below the headings and what is said below the table."""
    found = []
    for block in text.split("─\n")[1:]:
        for line in block.splitlines():
            if re.match(r"Left out at|Mean ±|Differences are|A method's", line):
                break
            # Names hold no figures here; what has one, or a mark, is a value.
            found += [word for word in re.split(r"[\s\[\],]+", line) if re.search(r"[\d†*±]", word)]
    return found


def test_every_number_on_screen_is_in_the_files_at_every_width(board: Board) -> None:
    known = numbers_of_the_files(board)
    tables = rich_tables([board])
    counted = {}
    for width in WIDTHS:
        text = "".join(shown(table, width) for table in tables)
        assert all(layout._width(line) <= width for line in text.splitlines()), width
        numbers = numbers_on_screen(text)
        counted[width] = len(numbers)
        assert {number.rstrip("*†") for number in numbers} <= known, width
    assert counted[40] > 70
    assert counted[200] == max(counted.values()) > 150


def test_marks_are_never_lost(board: Board) -> None:
    [table, *_] = rich_tables([board])

    def differences(width: int) -> list[str]:
        body = shown(table, width).split("─\n")[1].split("Left out")[0].split("Mean ±")[0]
        return [word for word in body.split() if re.fullmatch(r"[+−]\d+\.\d\d[*†]*", word)]

    whole = differences(200)
    assert sum("†" in word for word in whole) >= 3
    for width in (40, 60, 72, 80, 100):
        assert differences(width) == whole


def test_columns_that_are_left_out_are_named_with_the_file_that_has_them() -> None:
    [table, *_] = rich_tables([one_board(population(HEAVY, splits=3), resamples=20)])
    whole, narrow = shown(table, 100), shown(table, 60)
    assert "Left out" not in whole
    said = " ".join(narrow.split())
    assert "Left out at 60 columns: Worst 10%, Worst 20%, Worst 50%, SD starts; leaderboard.csv has them." in said
    assert "Overall" in narrow
    assert "vs BT" in narrow


def test_the_method_column_has_12_characters_at_80(board: Board) -> None:
    text = shown(rich_tables([board])[0], 80)
    assert "low-rank-reward-modelling" not in text
    names = re.findall(r"^(\S*…\S*)", text, flags=re.M)
    assert len(names) == len(set(names)) == 3, "names that differ look different"
    assert all(layout._width(name) >= 12 for name in names)


def test_rows_become_blocks_where_nothing_else_fits() -> None:
    sheet = Sheet(
        header=("name", "family", "summary"),
        rows=[["a-name-that-someone-types-next", "input", "One sentence of words that is longer than a line is."]],
        prose=frozenset({2}),
        order=(2, 1),
        whole=True,
    )
    assert [line.rstrip() for line in shown(sheet, 40).splitlines()] == [
        "a-name-that-someone-types-next",
        "  family  input",
        "  summary",
        "    One sentence of words that is longer",
        "    than a line is.",
    ]
    assert "a-name-that-someone-types-next  One sentence" in shown(sheet, 60)


def test_a_value_wider_than_the_terminal_loses_nothing() -> None:
    path = "/a/" + "deep/" * 30 + "file.toml"
    text = shown(Sheet(header=("", ""), rows=[["file", path]], prose=frozenset({1}), headed=False), 40)
    assert "".join(text.split()) == f"file{path}"


def test_ascii_terminals_and_escape_sequences() -> None:
    sheet = Sheet(
        header=("method", "accuracy"), rows=[["MRM", "77.7±0.8†"], ["\x1b[31mred\x07", "−1.0"]], title="ρ — x"
    )
    text = shown(sheet, 60, "ascii")
    assert "77.7+-0.8+" in text
    assert "-1.0" in text
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [("short", 9, "short"), ("abcdefghij", 5, "ab…ij"), ("abcdefghij", 6, "abc…ij"), ("abc", 1, "…"), ("abc", 0, "")],
)
def test_shortening(text: str, most: int, expected: str) -> None:
    assert screen_text.shortened(text, most) == expected


def test_messages_are_one_short_line_without_what_terminals_obey() -> None:
    said = screen_text.message("unknown method '" + "x" * 5000 + "\x1b[2J\x1b]0;title\x07'\nnext  line\u202e")
    assert "\n" not in said
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert len(said) <= 300
    assert said.startswith("unknown method 'xxx")
    assert said.endswith("next line\\u202e")
    many = screen_text.message("unknown columns " + ", ".join(f"column{i}" for i in range(200_000)))
    assert len(many) == screen_text.MESSAGE
    assert screen_text.listed([str(i) for i in range(20)], 3) == "0, 1, 2 and 17 more"
