"""What the README says works when it is followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """A folder with every file of the README whose first line names it."""
    written = []
    for block in re.findall(r"^```\w+\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if named := re.match(r"# (my/\S+)\n", block):
            path = tmp_path / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block, encoding="utf-8")
            written.append(named[1])
    assert sorted(written) == ["my/methods/mymethod.toml", "my/mymethod.py"]
    return tmp_path


def prbench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, run in `folder`, which is not on the interpreter's path."""
    return subprocess.run(
        [sys.executable, "-P", "-c", "import sys; from prbench.cli import main; sys.exit(main())", *words],
        cwd=folder,
        env={**os.environ, "PRBENCH_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_method(followed: Path) -> None:
    checked = prbench(followed, "--registry", "my", "check", "mymethod")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "FAILED" not in checked.stdout
    ran = prbench(
        followed, "--registry", "my", "run", "--methods", "bt,mymethod", "--dataset", "simulated", "--splits", "1"
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.partition(": ")[0] for line in ran.stderr.splitlines()] == [
        "bt on simulated",
        "mymethod on simulated",
    ]
    assert len(list((followed / "runs" / "simulated" / "own" / "mymethod").glob("split-0-*/DONE"))) == 1


def test_every_command_that_the_readme_shows_exists() -> None:
    from typer.main import get_command

    from prbench.cli import app

    shown = re.findall(r"^ {4}prbench (.+)$|`prbench ([^`]+)`", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(shown) > 15
    for indented, inline in shown:
        words = (indented or inline).split("#")[0].split()
        while words[0].startswith("--"):
            words = words[2:]
        command = get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, (command.name, words)
