"""A run's options as a file: what is printed is read back as the same run, and a file names no code."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import registry_folder

from prbench import cli, registry


@pytest.fixture
def entries(prbench_home: Path, tmp_path: Path) -> Iterator[list[str]]:
    yield ["--registry", str(registry_folder(tmp_path / "own"))]
    registry.reset()


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert cli.main([*words, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_printed_is_read_back_as_the_same_run(
    entries: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--methods", "bt,user-bt", "--dataset", "tiny", "--splits", "2", "--shots", "0,all", *entries]
    words += [
        "--seed",
        "7",
        "--set",
        "bt.steps=3",
        "--set",
        "bt.rate=0.5",
        "--out",
        str(tmp_path / "x"),
        "--device",
        "cpu",
    ]
    assert cli.main([*words, "--print-config"]) == 0
    text = capsys.readouterr().out
    table = tomllib.loads(text)
    assert table["methods"] == ["bt", "user-bt"]
    assert table["set"] == ["bt.steps=3", "bt.rate=0.5"]
    assert (table["splits"], table["device"], table["workers"]) == (2, "cpu", 1)
    file = tmp_path / "run.toml"
    file.write_text(text)
    asked = plan(capsys, *words)
    assert plan(capsys, "run", "--config", str(file), *entries) == asked
    assert len(asked["cells"]) == 4
    # The command line counts first.
    assert len(plan(capsys, "run", "--config", str(file), "--splits", "3", *entries)["cells"]) == 6
    assert not (tmp_path / "x").exists()


WRONG = {
    'methode = ["bt"]': "methode: run has no such option; did you mean methods",
    'registry = "/tmp/x"': "registry: run has no such option",
    'splits = "2"': 'splits: expected a whole number, found "2"',
    "splits = true": "splits: expected a whole number, found true",
    "refit = 1": "refit: expected true or false, found 1",
    "methods = [[1]]": "methods: expected a list of names",
    'set = "bt.steps=3"': "set: expected a list of texts",
    "out = 3": "out: expected a text, found 3",
    "methods = [": "malformed TOML",
    'device = "abacus"': "abacus",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_by_key(
    entries: list[str], tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    words = ["run", "--config", str(file), "--dataset", "tiny", "--dry-run", *entries]
    assert cli.main([*words, *([] if "methods" in text else ["--methods", "bt"])]) == 2
    said = capsys.readouterr().err
    assert WRONG[text] in said
    assert "Traceback" not in said


def test_a_file_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml is unreadable" in capsys.readouterr().err
