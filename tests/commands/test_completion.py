"""Shells complete commands, options and the names of entries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prbench.commands.completion import names_of


def proposed(*words: str) -> list[str]:
    """What bash would be offered for the last of the words."""
    env = {**os.environ, "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    made = subprocess.run(
        [sys.executable, "-m", "prbench"],
        env={**env, "_PRBENCH_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
    )
    assert made.stderr == ""
    return made.stdout.split()


def test_commands_options_and_names_are_proposed() -> None:
    assert proposed("prbench", "repo") == ["report"]
    assert proposed("prbench", "results", "ver") == ["verify"]
    assert proposed("prbench", "run", "--metho") == ["--methods"]
    assert proposed("prbench", "report", "lead") == ["leaderboard"]
    assert proposed("prbench", "run", "--methods", "bt-ridge,bt-off") == ["bt-ridge,bt-offset"]
    assert proposed("prbench", "show", "nothing-of-the-kind") == []


def test_a_list_goes_on_after_its_comma_and_offers_nothing_twice() -> None:
    propose = names_of("methods", further=("all",), listed=True)
    assert "all" in propose("")
    assert "bt-ridge,bt" in propose("bt-ridge,")
    assert "bt-ridge,bt-ridge" not in propose("bt-ridge,")
    assert names_of("reports")("lead") == ["leaderboard"]


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_it_installs_and_bash_takes_it(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    prbench = Path(sys.executable).parent / "prbench"
    program = f"""
    "{prbench}" --install-completion >/dev/null && . "$HOME/.bashrc"
    PATH="{prbench.parent}:$PATH" COMP_WORDS=(prbench results ver) COMP_CWORD=2
    _prbench_completion prbench && echo "${{COMPREPLY[@]}}"
    """
    made = subprocess.run(["/bin/bash", "-c", program], env=env, capture_output=True, text=True)
    assert made.stdout.split() == ["verify"], made.stderr
