"""Results of an earlier revision, of earlier entry parameters and of earlier built-in data make room for new ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import registry_folder, without_finished

from prbench import cli, registry, results
from prbench.methods.user_bt import UserBT
from prbench.results import superseded

ENTRY = """
title = "Ridge"
target = "prbench.methods.user_bt:UserBT"
family = "personalised parameters"
paper = ""
summary = "a variant"
selection = "last"
[params]
strength = {strength}
[style]
colour = "#000000"
"""


@pytest.fixture
def folder(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    made = registry_folder(tmp_path / "own")
    (made / "methods" / "ridge.toml").write_text(ENTRY.format(strength=1.0))
    registry.use([made])
    yield made
    registry.reset()


Cells = list[dict[str, Any]]


def run(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Cells, str]:
    """The cells after a run of two splits, and what stderr holds."""
    given = ["--dataset", "tiny", "--splits", "2", "--out", str(folder.parent / "runs"), "--json"]
    assert cli.main(["--registry", str(folder), "run", "--methods", "ridge", *given, *words]) == 0
    shown = capsys.readouterr()
    cells: Cells = json.loads(shown.out)["cells"]
    return cells, without_finished(shown.err)


def keys(cells: Cells) -> set[str]:
    return {cell["key"] for cell in cells}


def test_a_raised_revision_makes_other_cells_and_sets_the_earlier_aside(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(folder, capsys)
    assert all("revision" not in record.stored() for record in results.load(folder.parent / "runs").cells)
    monkeypatch.setattr(UserBT, "revision", 2)
    planned, _ = run(folder, capsys, "--dry-run")
    why = "its results were of revision 1, the method now has revision 2"
    assert [(cell["status"], cell["reason"]) for cell in planned] == [("missing", why)] * 2
    again, said = run(folder, capsys)
    place = Path(first[0]["folder"]).parent / superseded.FOLDER
    assert said == f"ridge on tiny: {why}; 2 older results are now in {place}\n"
    assert not keys(first) & keys(again)
    loaded = results.load(folder.parent / "runs")
    assert {(record.key, record.revision) for record in loaded.cells} == {(key, 2) for key in keys(again)}
    assert run(folder, capsys)[1] == ""
    # Results of a later revision than this prbench's are no earlier ones: they stay where they are.
    monkeypatch.setattr(UserBT, "revision", 1)
    assert run(folder, capsys)[1] == ""


def test_other_parameters_of_an_entry_set_the_earlier_aside_and_set_options_do_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = run(folder, capsys)
    by_hand, said = run(folder, capsys, "--set", "ridge.strength=3.0")
    assert said == ""
    (folder / "methods" / "ridge.toml").write_text(ENTRY.format(strength=2.0))
    registry.reset()
    again, said = run(folder, capsys)
    assert said.startswith("ridge on tiny: its entry had another value of strength; 2 older results are now in ")
    assert keys(again).isdisjoint(keys(first))
    kept = {record.key for record in results.load(folder.parent / "runs").cells}
    assert kept == keys(again) | keys(by_hand)


@pytest.mark.parametrize("comes_with_prbench", [True, False])
def test_earlier_data_of_prbench_are_set_aside_and_those_of_a_user_are_an_error(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    comes_with_prbench: bool,
) -> None:
    def earlier(kind: str, name: str) -> bool:
        return comes_with_prbench and (kind, name) == ("datasets", "tiny")

    monkeypatch.setattr(registry, "comes_with_prbench", earlier)
    first, _ = run(folder, capsys)
    entry = folder / "datasets" / "tiny.toml"
    entry.write_text(entry.read_text().replace("seed = 0", "seed = 5"))
    registry.reset()
    again, said = run(folder, capsys)
    assert keys(again).isdisjoint(keys(first))
    assert (superseded.OTHER_DATA in said) == comes_with_prbench
    if comes_with_prbench:
        assert {record.key for record in results.load(folder.parent / "runs").cells} == keys(again)
    else:
        with pytest.raises(registry.InputError, match="two different results"):
            results.load(folder.parent / "runs")


def test_only_files_of_prbench_come_with_it(folder: Path) -> None:
    assert registry.comes_with_prbench("datasets", "convarg")
    assert not registry.comes_with_prbench("datasets", "tiny")
    assert not registry.comes_with_prbench("datasets", "no-such")


class Earlier(UserBT):
    def __init__(self, *, strength: float = 1.0) -> None:
        super().__init__(strength=strength)


class Later(UserBT):
    """Has gained a hyper-parameter."""

    later_parameters = ("link",)

    def __init__(self, *, strength: float = 1.0, link: str = "logit") -> None:
        super().__init__(strength=strength)
        self.link = link


def test_a_later_parameter_is_part_of_the_key_only_away_from_its_default() -> None:
    assert Later().key_parameters == Earlier().key_parameters == {"strength": 1.0}
    assert Later(link="probit").key_parameters == {"strength": 1.0, "link": "probit"}
    assert Later().hyper_parameters == {"strength": 1.0, "link": "logit"}


def test_a_later_parameter_needs_a_default() -> None:
    with pytest.raises(TypeError, match="'link' must have a default"):

        class _Wrong(UserBT):
            later_parameters = ("link",)

            def __init__(self, *, link: str) -> None:
                super().__init__()
                self.link = link


def test_a_set_aside_cell_takes_the_place_of_one_before(tmp_path: Path) -> None:
    for content in ("a", "b"):
        cell = tmp_path / "split-0-k"
        cell.mkdir()
        (cell / "cell.json").write_text(content)
        place = superseded.set_aside(superseded.Older([cell], "why"))
    assert (place / "split-0-k" / "cell.json").read_text() == "b"
    shutil.rmtree(place)
