"""The tables that commands print, at every width: each number whole, and each column there or named as left out."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from prbench import cli, registry
from prbench.base import console
from prbench.base.layout import Sheet, _width
from prbench.reporting import leaderboard

WIDTHS = (*range(40, 104, 8), 49, 71, 79, 81, 120, 160, 200)
NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?(±\d+(\.\d+)?)?(%|ms|s)?[*†]*")
COMMANDS = (
    *(f"list {kind}" for kind in ("methods", "datasets", "encoders", "judges", "reports")),
    "show mrm",
    "data info simulated",
    "data get convarg --list",
    "run --methods all --dataset simulated --splits 3 --dry-run",
    "tune --methods bt,lore --dataset simulated --trials 2 --dry-run",
    "run --methods bt-ridge,length --dataset simulated --splits 2",
    "probe --noise 0.1,0.2 --support",
    "report leaderboard",
)


def printed(value: Any, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, color_system=None).print(value)
    return text.getvalue()


def words(text: str) -> list[str]:
    return [word for word in text.split() if NUMBER.fullmatch(word)]


@pytest.fixture
def tables(prbench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Sheet]]]:
    """What each of `COMMANDS` prints as tables."""
    found: dict[str, list[Sheet]] = {}
    monkeypatch.chdir(tmp_path)
    registry.reset()
    for command in COMMANDS:
        kept: list[Sheet] = []

        def keep(*values: Any, kept: list[Sheet] = kept, **options: Any) -> None:
            kept.extend(value for value in values if isinstance(value, Sheet))

        for module in (console, leaderboard):
            monkeypatch.setattr(module, "stdout", lambda keep=keep: SimpleNamespace(print=keep))
        assert cli.main(command.split()) == 0, command
        found[command] = kept
    yield found
    registry.reset()


def test_no_width_cuts_a_number_of_any_command(tables: dict[str, list[Sheet]]) -> None:
    for command, sheets in tables.items():
        assert sheets, command
        for sheet in sheets:
            cells = [str(cell) for row in sheet.rows for cell in row]
            known = {word for cell in cells for word in cell.split()}
            # A word that no line holds is broken into pieces, and none of these is a number of the table.
            pieces = " ".join(word for word in known if len(word) > 20)
            for width in WIDTHS:
                text = printed(sheet, width)
                assert all(_width(line) <= width for line in text.splitlines()), (command, width)
                body, _, rest = text.partition(f"Left out at {width} columns: ")
                left_out = rest.split(".\n")[0]
                for word in words(body if rest else text.replace(sheet.caption, "")):
                    said = f"{sheet.title} {sheet.caption} {' '.join(sheet.header)}"
                    assert word in known or word in pieces or word in said, (command, width, word)
                shown = words(text)
                for i, head in enumerate(sheet.header):
                    if i and head and " ".join(head.split()) in " ".join(left_out.split()):
                        continue
                    for row in sheet.rows:
                        if NUMBER.fullmatch(str(row[i])):
                            assert str(row[i]) in shown, (command, width, head, str(row[i]))


def test_a_layout_that_crops_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = Sheet(header=("method", "overall"), rows=[["bt", "77.7±0.8†"]], right=frozenset({1}))
    assert words(printed(sheet, 40)) == ["77.7±0.8†"]
    cropped = Sheet(header=("method", "overall"), rows=[["bt", "77.7±0."]])
    assert words(printed(cropped, 40)) == []
