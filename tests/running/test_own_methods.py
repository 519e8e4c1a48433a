"""A method of the user's own: running it again after an edit, and what is wrong with it in one line."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import METHOD, make_plan, registry_folder, without_digests, without_finished

from prbench import cli, data, registry, results
from prbench.registry import code_hash, methods
from prbench.registry.finder import importable_from
from prbench.results import superseded

CODE = """
from prbench.methods.lore import LoRe
from own_helper import STEPS

class Mine(LoRe):
    def __init__(self, *, bases: int = 2) -> None:
        super().__init__(bases=bases, steps=STEPS, adapt_steps=5, divisor=1.0)
"""
MODULES = ("own_method", "own_helper", "own_package", "own_package.method", "own_package.deep", "own_loader")


class Own:
    """A registry folder with the method `mine`, whose code each command line reads anew."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.runs = folder.parent / "runs"
        self.write("methods/mine.toml", METHOD.format(target="own").replace("planted_methods:own", "own_method:Mine"))
        self.write("own_method.py", CODE)
        self.write("own_helper.py", "STEPS = 3\n")

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def forget(self) -> None:
        """As in a new process."""
        registry.reset()
        for name in MODULES:
            sys.modules.pop(name, None)

    def call(self, *words: str | Path) -> tuple[int, str, str]:
        self.forget()
        self.capsys.readouterr()
        code = cli.main([str(word) for word in (*words, "--registry", self.folder)])
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def refused(self, *words: str | Path) -> str:
        code, out, err = self.call(*words)
        assert (code, out) == (2, "")
        lines = err.splitlines()
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"][: len(lines)], err
        return err

    def plan(self, *words: str | Path) -> list[dict[str, Any]]:
        return self.run("--dry-run", *words)[0]

    def run(self, *words: str | Path) -> tuple[list[dict[str, Any]], str]:
        """The cells after a run, and what was said on stderr."""
        splits = () if "--splits" in words else ("--splits", "2")
        given = ("run", "--methods", "mine", "--dataset", "tiny", *splits, "--out", self.runs, "--json")
        code, out, err = self.call(*given, *words)
        assert code == 0, err
        cells: list[dict[str, Any]] = json.loads(out)["cells"]
        return cells, without_finished(err)


@pytest.fixture
def own(prbench_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Own]:
    made = Own(registry_folder(tmp_path / "own"), capsys)
    yield made
    made.forget()


@pytest.mark.parametrize(("file", "old", "new"), [("own_method", "steps=5", "steps=4"), ("own_helper", "3", "11")])
def test_an_edited_method_runs_again_and_supersedes_its_earlier_results(
    own: Own, file: str, old: str, new: str
) -> None:
    first, _ = own.run()
    assert [cell["status"] for cell in own.plan()] == ["done"] * 2
    text = (own.folder / f"{file}.py").read_text()
    assert old in text
    own.write(f"{file}.py", text.replace(old, new) + "# an edit\n")
    again = own.plan()
    assert [(cell["status"], cell["reason"]) for cell in again] == [("missing", superseded.OTHER_CODE)] * 2
    assert not {cell["key"] for cell in first} & {cell["key"] for cell in again}
    assert all(Path(cell["folder"]).is_dir() for cell in first), "a plan moves nothing"
    done, said = own.run()
    place = Path(first[0]["folder"]).parent / "superseded"
    assert said == f"mine on tiny: {superseded.OTHER_CODE}; 2 older results are now in {place}\n"
    assert [cell["status"] for cell in done] == ["done"] * 2
    assert sorted(cell.name for cell in place.iterdir()) == sorted(Path(cell["folder"]).name for cell in first)
    loaded = results.load(own.runs)
    assert {record.key for record in loaded.cells} == {cell["key"] for cell in done}
    assert len({record.code for record in loaded.cells}) == 1
    # The first code again: its results were set aside, and are made and set aside once more without a clash.
    own.write(f"{file}.py", text)
    assert {cell["key"] for cell in own.run()[0]} == {cell["key"] for cell in first}
    own.write(f"{file}.py", text.replace(old, new) + "# an edit\n")
    assert {cell["key"] for cell in own.run()[0]} == {cell["key"] for cell in done}
    assert len(list(place.iterdir())) == 4


def test_a_fit_of_other_code_is_not_probed(own: Own) -> None:
    own.run()
    probe = ("probe", "--runs", own.runs, "--support")
    assert own.call(*probe)[0] == 0
    own.write("own_helper.py", "STEPS = 4\n")
    said = own.refused(*probe, "--noise", "0.1")
    assert "was made by other code of mine" in said
    assert "repeat the run" in said


def test_no_split_of_the_earlier_code_is_left_beside_fewer_new_ones(own: Own) -> None:
    own.run("--splits", "3")
    own.run("--set", "mine.bases=3")
    own.write("own_helper.py", "STEPS = 12\n")
    assert "3 older results" in own.run("--splits", "1")[1]
    kept = {(record.method, record.split) for record in results.load(own.runs).cells}
    assert kept == {("mine", 0), ("mine[bases=3]", 0), ("mine[bases=3]", 1)}


def test_results_that_were_made_before_records_named_code_are_superseded(own: Own) -> None:
    cells, _ = own.run()
    for cell in cells:
        record = Path(cell["folder"]) / "cell.json"
        table = {key: value for key, value in json.loads(record.read_text()).items() if key != "code"}
        without_digests(record.parent)
        record.write_text(json.dumps(table))
        record.parent.rename(record.parent.with_name(f"split-{cell['split']}-before"))
    assert "2 older results" in own.run()[1]


def test_code_of_prbench_is_no_part_of_a_key(own: Own) -> None:
    own.forget()
    registry.use([own.folder])
    plan = make_plan(["bt", "mine"], ["tiny"], splits=1, out=own.runs)
    assert [bool(job.cells[0].record.code) for job in plan.jobs] == [False, True]
    assert code_hash.code_of("prbench.methods.lore:LoRe") == ""


def test_code_reaches_over_a_package_and_the_folder_but_not_to_what_is_installed(own: Own) -> None:
    own.write("own_package/__init__.py", "import numpy\n")
    own.write("own_package/method.py", "def late():\n    from . import deep\n")
    own.write("own_package/deep.py", "import own_helper, json, prbench.method, not_there\n")
    own.write("json.py", "")
    own.forget()
    importable_from([own.folder.resolve()])
    importlib.import_module("own_package.method")
    found = code_hash.source_files("own_package.method")
    assert sorted(found) == ["own_helper", "own_package", "own_package.deep", "own_package.method"]
    before = code_hash.code_of("own_package.method:late")
    own.write("own_package/deep.py", "changed = True\n")
    assert code_hash.code_of("own_package.method:late") == before, "what runs is what was imported"
    own.forget()
    importable_from([own.folder.resolve()])
    assert code_hash.code_of("own_package.method:late") != before


def test_tuned_parameters_of_other_code_are_refused(own: Own, tmp_path: Path) -> None:
    entry = own.folder / "methods/mine.toml"
    entry.write_text(entry.read_text() + "[search]\nbases = { choices = [1, 2] }\n")
    tuned = ("--dataset", "tiny", "--methods", "mine")
    code, _, err = own.call("tune", *tuned, "--trials", "2", "--splits", "1", "--out", tmp_path / "tuned")
    assert code == 0, err
    own.run("--selection", "tuned", "--tuned", tmp_path / "tuned")
    own.write("own_helper.py", "STEPS = 12\n")
    said = own.refused("run", *tuned, "--selection", "tuned", "--tuned", tmp_path / "tuned", "--out", own.runs)
    assert "mine.json rests on another code of its own" in said
    assert "hint: delete it and run `prbench tune" in said


def test_an_edited_loader_reads_no_earlier_cache(own: Own) -> None:
    entry = registry.get("datasets", "convarg").model_copy(update={"loader": "own_loader:Loader", "download": None})
    folders = []
    for text in ("class Loader: ...\n", "class Loader:\n    changed = 1\n"):
        own.write("own_loader.py", text)
        own.forget()
        importable_from([own.folder.resolve()])
        folders.append(data.cache_folder(entry))
    assert folders[0] != folders[1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\ndef broken(:\n", "own_method.py line 2: SyntaxError: invalid syntax"),
        ("\nfrom prbench.method import Methd\n", "own_method.py line 2: ImportError: cannot import name 'Methd'"),
        ("\n\n1 / 0\n", "own_method.py line 3: ZeroDivisionError: division by zero"),
        ("import json\njson.loads('{')\n", "own_method.py line 2: JSONDecodeError: Expecting property name"),
        ("import sys\nsys.exit(3)\n", "own_method.py line 2: SystemExit: 3"),
        ("import own_helper2\n", "own_helper2.py line 1: NameError: name 'undefined' is not defined"),
        (
            CODE.replace("*, bases: int = 2", "**kw").replace("bases=bases", "bases=2"),
            "own_method.py line 5: TypeError: Mine: the hyper-parameter 'kw' must be keyword-only",
        ),
        ("raise KeyError\n", "own_method.py line 1: KeyError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line_with_its_place(own: Own, code: str, expected: str) -> None:
    own.write("own_method.py", code)
    own.write("own_helper2.py", "undefined\n")
    said = own.refused("run", "--methods", "mine", "--dataset", "tiny", "--out", own.runs)
    assert "mine.toml: target 'own_method:Mine': importing own_method failed: " in said
    assert f"{own.folder.resolve()}/{expected}" in said
    assert not own.runs.exists()
    own.refused("check", "mine")
    shown, examined = (json.loads(own.call(*words, "--json")[1]) for words in (("show", "mine"), ("doctor",)))
    assert expected in shown["broken"]
    assert any(expected in problem for problem in examined["problems"])


@pytest.mark.parametrize(
    ("constructor", "expected"),
    [
        ("        raise RuntimeError('no weights')\n", "own_method.py line 7: RuntimeError: no weights"),
        ("        self.other = bases\n", "Mine does not keep its hyper-parameter bases"),
    ],
)
def test_a_constructor_that_fails_is_one_line(own: Own, constructor: str, expected: str) -> None:
    own.write("own_method.py", CODE[: CODE.index("        super()")] + constructor)
    assert expected in own.refused("run", "--methods", "mine", "--dataset", "tiny", "--out", own.runs)


def test_an_abstract_method_names_what_is_left_to_write(own: Own) -> None:
    own.write("own_method.py", "from prbench.method import Method\n\nclass Mine(Method): ...\n")
    assert "is an abstract class: it does not define adapt_unseen, fit_seen" in own.refused("check", "mine")


def test_a_defect_of_prbench_keeps_its_traceback(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    from prbench.methods.lore import LoRe

    @functools.wraps(LoRe.__init__)
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(LoRe, "__init__", fail)
    with pytest.raises(TypeError, match="a defect"):
        methods.make_method(registry.get("methods", "lore"), None, {})


WHOLE = """
import torch
from prbench.method import Method, ParameterCount, UserStates

class Mine(Method):
    def fit_seen(self, train, validation, *, rng, device="cpu"):
        {body}
        self.users = train.users
        return self

    def seen_users(self):
        return UserStates(self.users, {{"own": torch.zeros(len(self.users), 1)}})

    def adapt_unseen(self, support, *, users=None, rng):
        users = support.users if users is None else users
        return UserStates(users, {{"own": torch.zeros(len(users), 1)}})

    def score_features(self, states, position, features):
        return features.sum(1)

    def parameter_count(self):
        return ParameterCount(shared=1, per_user=1)

    def learned(self):
        return {{"shared": torch.zeros(1)}}

    def restore(self, tensors):
        return self
"""


def test_a_failure_names_the_last_own_line_once_and_where_its_traceback_is(own: Own) -> None:
    own.write("own_method.py", WHOLE.format(body='raise ValueError("too few")'))
    code, _, err = own.call(
        "run", "--methods", "mine", "--dataset", "tiny", "--splits", "2", "--out", own.runs, "--json"
    )
    assert code == 1
    line = f"{own.folder / 'own_method.py'} line 7"
    assert err.count("too few") == 1
    assert f"mine failed on tiny: {line}: ValueError: too few; the traceback is in {own.runs}" in err
    place = Path(err.rpartition("the traceback is in ")[2].strip())
    assert 'raise ValueError("too few")' in json.loads(place.read_text())["traceback"]


@pytest.mark.parametrize(("body", "chosen"), [("pass", False), ("validation.differences()", True)])
def test_choosing_nothing_is_said(own: Own, tmp_path: Path, body: str, chosen: bool) -> None:
    own.write("own_method.py", WHOLE.format(body=body))
    cells, said = own.run("--selection", "validation")
    assert ("never looks at `validation`" in said) is not chosen
    record = json.loads((Path(cells[0]["folder"]) / "cell.json").read_text())
    assert record["fit"].get("nothing_chosen", False) is not chosen
    own.call("report", "leaderboard", "--runs", own.runs, "--out", tmp_path / "out", "--baseline", "mine")
    table = (tmp_path / "out" / "leaderboard.md").read_text()
    assert ("Selected on: nothing chosen." in table) is not chosen


def test_a_row_of_other_code_is_marked_until_it_runs_again(own: Own, tmp_path: Path) -> None:
    def table() -> str:
        code, _, err = own.call("report", "leaderboard", "--runs", own.runs, "--out", tmp_path / "out")
        assert code == 0, err
        return (tmp_path / "out" / "leaderboard.md").read_text()

    own.run()
    assert "other code" not in table()
    own.write("own_helper.py", "STEPS = 4\n")
    assert "made by other code than its file has now" in table()
    own.run()
    assert "other code" not in table()


def test_results_keep_the_files_of_the_method_and_the_folder_in_the_command(own: Own) -> None:
    cells, _ = own.run()
    record = json.loads((Path(cells[0]["folder"]) / "cell.json").read_text())
    kept = own.runs / "code" / record["code"]
    assert (kept / "own_method.py").read_text() == CODE
    assert (kept / "own_helper.py").read_text() == "STEPS = 3\n"
    assert record["command"].startswith(f"prbench --registry {own.folder} run --methods mine")
    code, _, err = own.call("results", "verify", own.runs)
    assert code == 0, err


def test_an_unknown_method_points_to_the_folders_that_may_have_it(
    own: Own, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.reset()
    words = ["run", "--methods", "mine", "--dataset", "simulated", "--dry-run"]
    assert cli.main(words) == 2
    assert "--registry DIR or PRBENCH_REGISTRY" in capsys.readouterr().err
    monkeypatch.setenv("PRBENCH_REGISTRY", str(own.folder))
    own.forget()
    assert cli.main(words) == 0
