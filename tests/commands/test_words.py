"""Words of a command line before they are parsed, and what is printed where little can be printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.commands import words

PROGRAM = typer.main.get_command(cli.app)


def start(*given: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`python -m prbench` with these words."""
    command = [sys.executable, "-m", "prbench", *given]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("given", "ready"),
    [
        ("run --methods bt --methods lore,mrm --dataset a", "run --methods=bt,lore,mrm --dataset=a"),
        ("run --dataset a --methods bt --dataset=b", "run --dataset=a,b --methods=bt"),
        (
            "run --set mrm.bases=2 --set mrm.rate=1 --json --json",
            "run --set=mrm.bases=2 --set=mrm.rate=1 --json --json",
        ),
        ("list methods --registry x --registry y", "--registry=x --registry=y list methods"),
        ("bench fit --method mrm", "bench fit --method=mrm"),
        ("help run", "run --help"),
        ("help", "--help"),
        ("version", "--version"),
        ("run -- --methods a --methods b", "run -- --methods a --methods b"),
        ("run --methods", "run --methods"),
    ],
)
def test_lists_add_up(given: str, ready: str) -> None:
    assert words.ready(given.split(), PROGRAM) == ready.split()


@pytest.mark.parametrize(
    "given",
    [
        "run --splits 2 --methods bt --splits=3",
        "report leaderboard --runs a --runs b",
        "user adapt --run a --dataset x --dataset y",
        "bench fit --method mrm --method bt",
    ],
)
def test_a_second_value_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="is given twice"):
        words.ready(given.split(), PROGRAM)


def test_every_option_of_comma_separated_values_is_a_list() -> None:
    def options(command: typer._click.core.Command) -> list[tuple[str, str, str]]:
        found = [
            (command.name, p.name, p.metavar) for p in command.params if "separated" in (getattr(p, "help", "") or "")
        ]
        return found + [one for name in getattr(command, "commands", {}) for one in options(command.commands[name])]

    assert {metavar for *_, metavar in options(PROGRAM)} == {words.LIST}


def test_names_are_understood_in_capitals() -> None:
    assert registry.select("methods", "BT,MRM,bt") == ["bt", "mrm"]
    assert registry.get("methods", "LoRe").name == "lore"
    assert registry.kind_of("MRM") == "methods"
    assert registry.select("methods", "MRM-NO-*") == registry.select("methods", "mrm-no-*")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--methods", "quik", "--dataset", "simulated"], "unknown method 'quik'; did you mean quick?"),
        (["bench", "fit", "--method", "quik"], "unknown method 'quik'\n"),
        (["report", "foo"], f"hint: one of {', '.join(registry.names('reports'))}; see `prbench list reports`"),
        (
            ["run", "--methods", "bt", "--dataset", "simulated", "--selection", "foo", "--dry-run"],
            "hint: one of publ",
        ),
    ],
)
def test_choices_are_named_in_errors_about_choices(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_quick_names_methods_that_are_there_and_adapt_in_different_ways() -> None:
    chosen = registry.select("methods", "quick")
    assert {"bt-ridge", "bt"} <= set(chosen)
    entries = [registry.get("methods", name) for name in chosen]
    personalised = [entry for entry in entries if entry.family.startswith("personalised")]
    assert len({entry.target for entry in personalised}) == len(personalised) >= 4


def test_run_says_all_that_is_missing_and_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run"]) == 2
    said = capsys.readouterr().err
    assert "give --dataset and --methods or --report" in said
    assert "simulated" in said or "convarg" in said
    assert "bt-ridge" in said
    assert "reports: matters, paper, privacy" in said
    assert cli.main(["run", "--dataset", "simulated", "--methods", "bt", "mrm"]) == 2
    assert "separated by commas" in capsys.readouterr().err


def test_listings_say_yes_or_no_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods"]) == 0
    shown = capsys.readouterr().out
    families = [line for line in shown.splitlines() if line[:1].isupper()]
    assert families[0].startswith("Personalised")
    assert len(families) == len({entry.family for entry in registry.load_all("methods")})
    [line] = [line for line in shown.splitlines() if line.startswith("mrm ")]
    assert " yes " in line


def test_output_that_cannot_spell_everything() -> None:
    listed = start("list", "methods", PYTHONIOENCODING="ascii")
    assert listed.returncode == 0, listed.stderr
    assert b"gamma" in listed.stdout
    found = start("show", "mrm-gamma-1", "--json", PYTHONIOENCODING="ascii")
    assert "γ" in json.loads(found.stdout.decode("ascii"))["title"]


def test_names_from_outside_are_short_and_harmless(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["show", "x" * 5000 + "\x1b[2J"]) == 2
    said = capsys.readouterr().err
    assert len(said) < 600
    assert "\x1b" not in said
