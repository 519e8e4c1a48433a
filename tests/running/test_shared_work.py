"""Searches and probes divided over processes: what one process makes; one that dies costs its own job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_runs import METHOD, registry_folder, short

from prbench import cli, registry

METHODS = ["bt", "mrm"]
SETS = [word for text in short(*METHODS) for word in ("--set", text)]
KILLED = """
import os, signal
from prbench.methods.lore import BT

class Killed(BT):
    @classmethod
    def fit_splits(cls, methods, problems, **options):
        os.kill(os.getpid(), signal.SIGKILL)
"""
SEARCH = """
[search.rate]
low = 0.01
high = 0.1
log = true
"""


@pytest.fixture
def entries(prbench_home: Path, tmp_path: Path) -> Iterator[list[str]]:
    folder = registry_folder(tmp_path / "own")
    (folder / "planted_search_deaths.py").write_text(KILLED)
    text = METHOD.format(target="Killed").replace("planted_methods:", "planted_search_deaths:")
    (folder / "methods" / "killed.toml").write_text(text + SEARCH)
    small = f'extends = "bt"\ntitle = "small"\n[params]\nsteps = 30\n{SEARCH}'
    (folder / "methods" / "small.toml").write_text(small)
    yield ["--registry", str(folder)]
    registry.reset()


def records(folder: Path) -> dict[str, Any]:
    """What every search tried and found, without its times."""
    tables = {path.name: json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    for table in tables.values():
        del table["sha256"]
        for trial in table["trials"]:
            del trial["seconds"]
    return tables


@pytest.mark.extras
def test_a_search_in_two_processes_finds_what_one_finds(
    entries: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*entries, "tune", "--dataset", "tiny,tiny2", "--trials", "2", "--splits", "1", "--threads", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main([*given, "--methods", "small", "--out", str(one)]) == 0
    assert cli.main([*given, "--methods", "small", "--out", str(two), "--workers", "2"]) == 0
    alone = [json.loads(path.read_text()) for path in sorted(one.rglob("*.json"))]
    assert [len(table["trials"]) for table in alone] == [2, 2]
    assert records(one) == records(two)
    # A process that dies costs its own search.
    capsys.readouterr()
    assert cli.main([*given, "--methods", "small,killed", "--out", str(two), "--workers", "2", "--json"]) == 1
    shown = capsys.readouterr()
    assert "killed on tiny failed: its worker process was ended by SIGKILL" in shown.err
    trials = {(s["method"], s["dataset"]): s["trials"] for s in json.loads(shown.out)["studies"]}
    assert trials == {("small", d): 2 for d in ("tiny", "tiny2")} | {("killed", d): 0 for d in ("tiny", "tiny2")}


@pytest.mark.extras
def test_probes_in_two_processes_are_those_of_one(
    entries: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    given = [*entries, "run", "--methods", ",".join(METHODS), "--dataset", "tiny", "--splits", "2", *SETS]
    assert cli.main([*given, "--threads", "1", "--out", str(one)]) == 0
    shutil.copytree(one, two)
    capsys.readouterr()
    probe = [*entries, "probe", "--support", "--noise", "0.2", "--threads", "1", "--json"]
    assert cli.main([*probe, "--runs", str(one)]) == 0
    assert cli.main([*probe, "--runs", str(two), "--workers", "2"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.replace("}\n{", "}\n\n{").split("\n\n"))
    assert (first["made"], second["made"]) == (8, 8)
    files = sorted(path.relative_to(one) for path in one.rglob("probe-*.parquet"))
    assert len(files) == 8
    for file in files:
        pd.testing.assert_frame_equal(pd.read_parquet(one / file), pd.read_parquet(two / file), check_exact=True)
    assert cli.main([*probe, "--runs", str(two), "--workers", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 0
