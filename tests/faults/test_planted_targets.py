"""No file that may come from another person names what is called: a planted `subprocess:run` runs nothing.

Each test plants the target in one kind of file, calls every command that reads it, and looks for the file that the
planted call would make. `PLANTED` is shown to work first, so that the tests can fail.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import registry_folder, short

from prbench import cli, registry
from prbench.method import UserStates, load_tensors

ENCODER = """
title = "planted"
target = "planted_encoder:Planted"
licence = ""
homepage = ""
summary = "numbers from the hash of a text"
[options]
revision = "1"
dim = 5
"""
ROWS = [
    {"user_id": user, "prompt": f"question {i}", "chosen": f"yes {i} {user}", "rejected": f"no {i}"}
    for user in "abcd"
    for i in range(6)
]
METHOD = "lore"
SETTINGS = [word for text in (*short(METHOD), "lore.bases=2") for word in ("--set", text)]
NAME = "lore[adapt_steps=20,bases=2,steps=30]"


class Place:
    """A run of one method on an imported data set of texts, and the file that planted code would make."""

    def __init__(self, folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.home, self.capsys = folder, home, capsys
        self.runs, self.mark = folder / "runs", folder / "planted-code-ran"
        self.entries = registry_folder(folder / "registry")
        (self.entries / "encoders").mkdir()
        (self.entries / "encoders" / "planted.toml").write_text(ENCODER)
        (self.entries / "methods" / "touch.toml").unlink(missing_ok=True)
        self.rows = folder / "rows.jsonl"
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        self.pairs = folder / "pairs.jsonl"
        self.pairs.write_text(json.dumps({key: ROWS[0][key] for key in ("prompt", "chosen", "rejected")}) + "\n")
        assert self.call("data", "import", self.rows, "--name", "texts")[0] == 0
        assert self.call(*self.run_words())[0] == 0

    @property
    def call_arguments(self) -> dict[str, Any]:
        return {"args": ["touch", str(self.mark)]}

    def run_words(self, shots: str = "all") -> list[Any]:
        given = ["--dataset", "texts", "--encoder", "planted", "--splits", "1", "--shots", shots]
        return ["run", "--methods", METHOD, *given, *SETTINGS, "--out", self.runs]

    def call(self, *words: Any) -> tuple[int, str]:
        registry.reset()
        code = cli.main([*map(str, words), "--registry", str(self.entries)])
        return code, self.capsys.readouterr().err

    def refuses(self, *words: Any) -> str:
        """The one line of a refusal; nothing planted ran."""
        code, said = self.call(*words)
        assert not self.mark.exists(), "planted code ran"
        # 0: a run may set the planted cell aside and make it again.
        assert code in ((0, 1, 2) if words[0] == "run" else (1, 2)), said
        assert "Traceback" not in said
        return said

    def cell(self) -> Path:
        (found,) = self.runs.glob("*/*/*/split-*")
        return found

    def change_cell(self, **changes: Any) -> None:
        path = self.cell() / "cell.json"
        record = json.loads(path.read_text())
        for key, value in changes.items():
            record[key] = {**record[key], **value} if isinstance(value, dict) and key != "params" else value
        path.write_text(json.dumps(record))
        # As someone would who plants code on purpose: digests find damage, not deceit.
        (self.cell() / "DONE").write_text('{"shots": [-1]}')


@pytest.fixture
def place(prbench_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    yield Place(tmp_path, prbench_home, capsys)
    registry.reset()


def test_what_is_planted_would_run(tmp_path: Path) -> None:
    subprocess.run(**{"args": ["touch", str(tmp_path / "mark")]}, check=True)
    assert (tmp_path / "mark").exists()


def adapt(place: Place) -> list[Any]:
    words = ["user", "adapt", "--run", place.runs, "--method", NAME, "--pairs", place.pairs]
    return [*words, "--out", place.folder / "me.safetensors"]


def test_in_a_cells_record(place: Place) -> None:
    place.change_cell(entry={"target": "subprocess:run"}, params=place.call_arguments)
    said = place.refuses(*adapt(place))
    assert "names the target 'subprocess:run', the method lore here has 'prbench.methods.lore:LoRe'" in said
    place.refuses("probe", "--runs", place.runs, "--support")
    place.refuses(*place.run_words("all,2"))
    place.change_cell(entry={"target": "subprocess:run", "name": "nobody-has-it"})
    assert "there is no method 'nobody-has-it' here" in place.refuses(*adapt(place))
    place.change_cell(entry={"target": "prbench.methods.bt:BradleyTerry", "name": METHOD})
    assert "names the target" in place.refuses(*adapt(place))


def test_in_a_cells_encoder(place: Place) -> None:
    for name in ("planted", "organisation--model", "model-0123abcd"):
        place.change_cell(
            encoder_entry={"name": name, "target": "subprocess:run", "options": place.call_arguments}, encoder=name
        )
        assert "subprocess:run" in place.refuses(*adapt(place)) or name != "planted"


def test_in_a_users_state(place: Place) -> None:
    """A state names a folder of results and a method in it; both are as untrusted as the state is."""
    state = place.folder / "me.safetensors"
    assert place.call(*adapt(place))[0] == 0
    texts = place.folder / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": "q", "response": "a"}) + "\n")
    tensors, origin = load_tensors(state)
    place.change_cell(entry={"target": "subprocess:run"}, params=place.call_arguments)
    place.refuses("user", "score", "--state", state, "--texts", texts)
    users = tensors.pop("users").numpy()
    for origin_of_state in ({**origin, "method": "subprocess:run"}, {**origin, "encoder": "subprocess:run"}):
        plain = {key: value for key, value in origin_of_state.items() if key != "sha256"}
        UserStates(users, tensors).save(state, plain)
        place.refuses("user", "score", "--state", state, "--texts", texts)


def test_in_the_entry_of_an_imported_data_set(place: Place) -> None:
    entry = place.home / "imported" / "datasets" / "texts.toml"
    text = entry.read_text()
    own = 'loader = "prbench.loaders.table:ImportedTable"'
    assert own in text
    for planted in ("subprocess:run", "subprocess:Popen", "os:system", "pip:main", "planted_methods:Good"):
        arguments = f'[options]\nargs = ["touch", "{place.mark}"]\n'
        entry.write_text(text.replace(own, f'loader = "{planted}"') + arguments)
        for words in (["data", "info", "texts"], ["data", "get", "texts"], place.run_words(), ["doctor"]):
            said = place.refuses(*words)
            assert words == ["doctor"] or "an imported entry may name only what prbench" in said
    # An entry that inherits the loader is no better than the one that names it.
    (place.entries / "datasets" / "child.toml").write_text('extends = "texts"\n')
    assert "an imported entry may name only" in place.refuses("data", "info", "child")


def test_prbenchs_own_functions_are_no_loaders(place: Place) -> None:
    entry = place.home / "imported" / "datasets" / "texts.toml"
    text = entry.read_text()
    for planted in ("prbench.cli:main", "prbench.base.files:write_text", "prbench.__main__:main"):
        entry.write_text(text.replace("prbench.loaders.table:ImportedTable", planted))
        assert "is not a loader" in place.refuses("data", "info", "texts")


def test_in_a_reports_entry(place: Place) -> None:
    """Also where a folder of results is given as a registry: a report carries a mark, `subprocess:run` does not."""
    reports = place.runs / "reports"
    reports.mkdir()
    head = 'title = "t"\nsummary = "s"\n'
    (reports / "planted.toml").write_text(f'{head}target = "subprocess:run"\n[options]\nargs = ["touch"]\n')
    piece = (
        '[[options.pieces]]\nname = "p"\ntarget = "subprocess:run"\ntitle = "t"\nshows = "s"\nmethods = ["lore"]\n'
    )
    (reports / "pieces.toml").write_text(
        f'{head}target = "prbench.reporting.paper:paper"\n[options]\nbaseline = "lore"\n{piece}'
    )
    out = ["--runs", place.runs, "--out", place.folder / "out"]
    assert "unknown report 'planted'" in place.refuses("report", "planted", *out)
    said = place.refuses("report", "planted", *out, "--registry", place.runs)
    assert "target 'subprocess:run' is not marked as a report" in said
    assert "write @report above it (from prbench.reporting import report)" in said
    for command in (["report", "pieces", *out], ["run", "--report", "pieces", "--dataset", "texts"]):
        said = place.refuses(*command, "--registry", place.runs)
        assert "target 'subprocess:run' is not marked as a piece" in said
    assert not (place.folder / "out").exists()


def test_in_a_record_of_tuning(place: Place) -> None:
    tuned = place.folder / "tuned"
    given = ["--dataset", "texts", "--encoder", "planted"]
    words = ["tune", "--methods", "rfm", *given, "--trials", "1", "--splits", "1", "--out", tuned]
    code, said = place.call(*words)
    assert code == 0, said
    (path,) = tuned.rglob("*.json")
    record = json.loads(path.read_text())
    record.pop("sha256", None)
    record["basis"]["target"] = "subprocess:run"
    record["basis"]["params"] = place.call_arguments
    path.write_text(json.dumps(record))
    run = ["run", "--methods", "rfm", *given, "--splits", "1", "--selection", "tuned", "--tuned", tuned]
    assert "rests on another" in place.refuses(*run, "--out", place.folder / "other")
    place.refuses(*words)
