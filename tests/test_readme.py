"""Every command that the README and the guide show exists; the guide's pages are followed in test_guide.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = sorted([ROOT / "README.md", *(ROOT / "reports" / "guide").glob("*.md")])


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_command_that_is_shown_exists(path: Path) -> None:
    from typer.main import get_command

    from prbench.cli import app

    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"^(?: {4})?prbench (.+)$|`prbench ([^`]+)`", text, re.MULTILINE)
    for line, inline in shown:
        words = (line or inline).split("#")[0].split()
        while words and words[0].startswith("--"):
            words = words[2:]
        if not words:
            # An option of prbench itself, such as --install-completion.
            continue
        command = get_command(app)
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {"--help", *(name for parameter in command.params for name in parameter.opts)}
        assert {word for word in words if word.startswith("--")} <= options, (command.name, words)


def test_commands_are_shown() -> None:
    assert sum(len(re.findall("prbench [a-z]+ ", path.read_text(encoding="utf-8"))) for path in TEXTS) > 40
