"""Damage and leftovers: a sample of `flips`, `results verify`, the umask, and what a killed program leaves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import flips
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import registry_folder

from prbench import cli, data, registry
from prbench.base.errors import InputError
from prbench.base.files import home, writing, writing_folder
from prbench.base.leftovers import remove_leftovers, replace_folder, temporary_beside
from prbench.base.reading import parse_json, parse_toml, read_json
from prbench.contract import population
from prbench.encoders import encoder_entry_for
from prbench.loaders.user_file import import_table
from prbench.methods.neural_process import NP
from prbench.results import cells
from prbench.results.scores import read_scores_file
from prbench.running.job import require_memory

SAMPLE = 320


def test_damage_is_never_silent(tmp_path: Path, prbench_home: Path) -> None:
    try:
        found = flips.campaign(tmp_path, SAMPLE)
    finally:
        registry.reset()
    outcomes = {outcome for counter in found.values() for outcome in counter}
    assert sum(counter.total() for counter in found.values()) >= SAMPLE
    assert any(name.endswith('"sealed"') for name in found), "names of digests are among them"
    assert outcomes <= {"found", "without effect"}, found


def test_verify_finds_damage_and_tells_older_cells_apart(
    tmp_path: Path, prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries, runs = registry_folder(tmp_path / "entries"), tmp_path / "runs"
    words = ["run", "--methods", "bt-offset", "--dataset", "tiny", "--splits", "3", "--registry", str(entries)]
    assert cli.main([*words, "--out", str(runs)]) == 0
    registry.reset()

    def verified() -> tuple[int, dict[str, object]]:
        capsys.readouterr()
        code = cli.main(["results", "verify", str(runs), "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, said = verified()
    assert (code, said["cells"], said["verified"], said["problems"]) == (0, 3, 3, [])
    first, second, _ = cells.folders(runs)
    (first / "DONE").write_text('{"shots": [-1]}')
    model = second / "model.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    code, said = verified()
    assert (code, said["verified"], said["unverified"], said["damaged"]) == (1, 1, 1, 1)
    assert said["problems"] == [f"{model} is damaged: its sha256 is not the one in DONE"]
    assert cli.main(["results", "verify", str(tmp_path / "none")]) == 2
    assert cli.main(["data", "verify", str(model)]) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 10_000 + "]" * 10_000, "nested more than 100 deep"),
        ("[" * 150 + "]" * 150, "nested more than 100 deep"),
        ("9" * 5_000, "a number has thousands of digits"),
        ('{"a": NaN}', "NaN is not a number of JSON"),
        ('"\\ud800"', "half a character"),
    ],
)
def test_hostile_json_is_one_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_numbers_that_json_lacks_are_taken_from_other_programs_alone() -> None:
    assert parse_json('{"a": [0.0, Infinity]}', infinite=True) == {"a": [0.0, float("inf")]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = " + "[" * 10_000 + "]" * 10_000, "nested more than 100 deep"),
        (".".join(["a"] * 10_000) + " = 1", "nested more than 100 deep"),
        ("[" + ".".join(["a"] * 10_000) + "]", "nested more than 100 deep"),
        ("a = " + "9" * 5_000, "a number has thousands of digits"),
        ("a = '\xff'", "byte 5 is not UTF-8"),
        ("a = ", "Invalid value"),
    ],
)
def test_hostile_toml_is_one_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_toml(text.encode("latin-1"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "d" / "e" / "m" / "split-0-x" / "cell.json"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="is not a regular file"):
        read_json(pipe)
    assert cli.main(["report", "leaderboard", "--runs", str(tmp_path), "--out", str(tmp_path / "out")]) == 2


KILLED = """
import os, signal
from pathlib import Path
from prbench.base.files import writing, writing_folder
with writing(Path({file!r})) as one, writing_folder(Path({folder!r})) as other:
    (other / "big").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_program_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    code = KILLED.format(file=str(tmp_path / "file"), folder=str(tmp_path / "folder"))
    subprocess.run([sys.executable, "-c", code], check=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    with writing(tmp_path / "held") as held:
        assert [path.name for path in tmp_path.iterdir()] == [held.name], "the first write in a folder removes them"
        assert remove_leftovers(tmp_path) == []
        assert held.exists(), "a living program's file stays"


IMPORTS = """
import os, sys
from pathlib import Path
from prbench.loaders import new_entry
from prbench.loaders.user_file import import_table
rows, moment = Path(sys.argv[1]), sys.argv[2]
write_text = new_entry.write_text
def killed(path, text):
    if moment == "after":
        write_text(path, text)
    os._exit(9)
new_entry.write_text = killed
import_table(rows, "mine", replace=True)
"""


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_a_killed_import_leaves_goes_with_the_next(
    tmp_path: Path, prbench_home: Path, before: bool, moment: str
) -> None:
    """Killed around the moment at which its entry is written: data that no entry names are removed, others stay."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"user_id": "{u}", "prompt": "p", "chosen": "c", "rejected": "r"}}\n' for u in "ab"))
    if before:
        import_table(rows, "mine")
    ended = subprocess.run([sys.executable, "-c", IMPORTS, str(rows), moment], check=False)
    assert ended.returncode == 9
    imported = prbench_home / "imported"
    left = {path.name for path in imported.iterdir() if path.is_dir()} - {"datasets"}
    assert left == ({"mine", "mine.2"} if before else {"mine"}), "it was killed at the moment meant"
    named = {path.stem: path for path in (imported / "datasets").glob("*.toml")}
    import_table(rows, "other")
    kept = {path.name for path in imported.iterdir() if path.is_dir()}
    base = {Path(str(parse_toml(path.read_bytes())["download"]["base"])).name for path in named.values()}
    assert kept == {"datasets", "other", *base}
    assert not [path for path in imported.iterdir() if path.is_file() and path.name != ".lock"]
    registry.reset()
    for name in named:
        assert len(data.load(registry.get("datasets", name)).user) == 2


def test_data_of_an_entry_that_cannot_be_read_stay(tmp_path: Path, prbench_home: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"user_id": "{u}", "prompt": "p", "chosen": "c", "rejected": "r"}}\n' for u in "ab"))
    import_table(rows, "mine").write_text("[download\n")
    for planted in ('{"name": "mine"}', '{"name": "datasets"}', '{"name": "../imported"}', '{"name": 1}', "[]", "x"):
        (prbench_home / "imported" / ".unfinished").write_text(planted)
        import_table(rows, "other", replace=True)
        assert (prbench_home / "imported" / "mine" / "comparisons.parquet").is_file(), planted
        registry.reset()


def test_a_folder_moved_away_by_a_killed_program_comes_back(tmp_path: Path) -> None:
    away = temporary_beside(tmp_path / "cell", "old")
    away.mkdir()
    (away / "DONE").touch()
    dead = away.with_name(away.name.replace(f"-{os.getpid()}-", "-4194305-"))
    away.rename(dead)
    remove_leftovers(tmp_path)
    assert (tmp_path / "cell" / "DONE").exists()


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with writing_folder(tmp_path / "cell") as folder:
            (folder / "text").write_text(text)
    assert (tmp_path / "cell" / "text").read_text() == "new"
    (tmp_path / "next").mkdir()
    replace_folder(tmp_path / "next", tmp_path / "cell")
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]
    assert not list((tmp_path / "cell").iterdir())


def test_a_fit_larger_than_the_memory_says_so_before_it_begins() -> None:
    comparisons = population(users=4)
    require_memory(NP(), comparisons, "np")
    with pytest.raises(MemoryError, match=r"np learns .* numbers: .* GiB, this machine has"):
        require_memory(NP(width=400_000), comparisons, "np")


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755)])
def test_the_umask_holds(tmp_path: Path, mask: int, file: int, folder: int) -> None:
    before = os.umask(mask)
    try:
        with writing(tmp_path / "file") as temporary:
            temporary.write_text("x")
        with writing(tmp_path / "private", private=True) as temporary:
            temporary.write_text("x")
        with writing_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "private", "folder")]
    assert modes == [file, 0o600, folder]


def test_a_home_that_nobody_knows_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRBENCH_HOME", "~nosuchuser/cache")
    with pytest.raises(InputError, match="set PRBENCH_HOME to a folder for caches"):
        home()
    for name in ("PRBENCH_HOME", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    # As in a container whose user has no entry: some releases of platformdirs raise, others leave "~/.cache".
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(InputError, match="set PRBENCH_HOME to a folder for caches"):
        home()
    with pytest.raises(InputError, match="there is no home folder ~nosuchuser"):
        encoder_entry_for("~nosuchuser/model")


@pytest.mark.parametrize("value", [{"role": "user"}, ["seen"], None, 1.5, "neither", b"\xff"])
def test_scores_of_other_kinds_are_one_line(tmp_path: Path, value: object) -> None:
    """Without digests, as an earlier prbench left a cell, nothing but the reader looks at what a column holds."""
    plain: dict[str, object] = {name: 0 if kind.startswith("int") else 0.5 for name, kind in cells.SCORES.items()}
    path = tmp_path / "scores-all.parquet"
    for name in plain:
        row = plain | {"population": "seen"} | {name: value}
        pq.write_table(pa.Table.from_pylist([row]), path)
        if name != "population" and value == 1.5 and cells.SCORES[name].startswith("float"):
            assert len(read_scores_file(path, "again")) == 1
            continue
        with pytest.raises(InputError, match=f"the column {name} (holds|lacks)") as refused:
            read_scores_file(path, "again")
        assert "\n" not in str(refused.value)
