"""Packed results: everything a report needs, nothing of the machine, and nothing unpacked that is not theirs."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_runs import assert_same_scores, registry_folder, short

from prbench import cli, registry, results
from prbench.base.errors import InputError
from prbench.base.reading import sealed
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, digests
from prbench.results.record import CellRecord
from prbench.results.verify import verify
from prbench.sharing import archive, pack

SECRETS = ("/home/alice", "alice", "worker-A1B2C3", "I prefer tea", "secret-host")
METHODS = "bt,user-bt,unsupported,raises"


def resealed(cell: Path, change: Callable[[dict[str, Any]], Any] = lambda record: None) -> None:
    """Edit a finished cell's record and renew the digests of all its files, as careful edits do."""
    record = json.loads((cell / "cell.json").read_text())
    change(record)
    (cell / "cell.json").write_text(json.dumps(record))
    frame = pd.read_parquet(cells.scores_file(cell, ALL_SHOTS))
    digests.write(cell, [ALL_SHOTS], digests.accuracies({name: frame[name] for name in frame}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two methods on two splits with a probe, of one that fails and one that is not supported."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(folder / "home"))
        shared = ["--registry", str(registry_folder(folder / "own"))]
        sets = [word for text in short("bt") for word in ("--set", text)]
        words = [
            "run",
            "--methods",
            METHODS,
            "--dataset",
            "tiny",
            "--splits",
            "2",
            "--threads",
            "1",
            "--shots",
            "all,2",
        ]
        assert cli.main([*words, *sets, "--out", str(folder / "runs"), *shared]) == 1
        words = ["probe", "--runs", str(folder / "runs"), "--methods", "user-bt", "--support"]
        assert cli.main([*words, "--kinds", "agreement", *shared]) == 0
        registry.reset()
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of them that tests may change."""
    monkeypatch.setenv("PRBENCH_HOME", str(made / "home"))
    shutil.copytree(made / "runs", tmp_path / "runs")
    yield tmp_path / "runs"
    registry.reset()


def cell(runs: Path, method: str = "user-bt", split: int = 0) -> Path:
    (found,) = (runs / "tiny" / "own" / method).glob(f"split-{split}-*")
    return found


def planted(runs: Path) -> None:
    """Paths, names and texts wherever a cell could hold them."""
    folder = cell(runs)

    def change(record: dict[str, Any]) -> None:
        record["command"] = "prbench run --encoder /home/alice/models/minilm --dataset tiny"
        record["fit"]["persona"] = "I prefer tea over coffee. " * 40
        record["fit"]["log"] = {
            "/home/alice/log": ["file:///home/alice/x", r"C:\Users\alice\x", "~/alice/secret-host/y"]
        }
        record["encoder_entry"]["options"] = {"model": "/home/alice"}
        record["traceback"] = 'File "/home/alice/secret-host.py", line 1'

    path = cells.scores_file(folder, ALL_SHOTS)
    table = pq.read_table(path)
    table = table.append_column("worker", pa.array(["worker-A1B2C3"] * len(table)))
    table = table.replace_schema_metadata({"made in": "/home/alice", "text": "I prefer tea"})
    pq.write_table(table, path)
    resealed(folder, change)


def without_paths(record: CellRecord) -> dict[str, Any]:
    """A record's values but for those that name folders of the machine."""
    return {name: value for name, value in record.stored().items() if name not in ("traceback", "command")}


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("out", ["packed", "results.tar.zst"])
def test_no_byte_of_a_pack_tells_texts_people_or_places(runs: Path, tmp_path: Path, out: str) -> None:
    planted(runs)
    before = everything(runs)
    assert all(any(s.encode() in content for content in before.values()) for s in SECRETS)
    packed = pack.pack(runs, tmp_path / out)
    assert (packed.done, packed.undone) == (4, 4)
    folder = packed.path
    if packed.path.is_file():
        pack.unpack(packed.path, folder := tmp_path / "unpacked")
    contents = everything(folder)
    here = [str(tmp_path), str(Path.home()) + "/", str(Path.cwd()), *SECRETS]
    for name, content in contents.items():
        for secret in here:
            assert secret.encode() not in content, (name, secret)
            assert secret not in name
    assert not any(name.endswith(("safetensors", ".lock")) for name in contents)
    record = cells.read_record(cell(folder))
    assert record.command == "prbench run --encoder <path> --dataset tiny"
    assert record.fit.persona == "<1040 characters left out>"
    assert without_paths(cells.read_record(cell(folder, split=1))) == without_paths(
        cells.read_record(cell(runs, split=1))
    )
    assert everything(runs) == before


def test_packed_results_are_whole_for_reports_and_the_margins_are_the_same(runs: Path, tmp_path: Path) -> None:
    packed = pack.pack(runs, tmp_path / "packed").path
    assert_same_scores(runs, packed)
    first, second = results.load(runs), results.load(packed)
    pd.testing.assert_frame_equal(first.scores, second.scores)
    assert [without_paths(record) for record in first.cells] == [without_paths(record) for record in second.cells]
    found = verify(packed)
    assert (found["verified"], found["unverified"], found["damaged"]) == (8, 0, 0)
    again = pack.pack(packed, tmp_path / "again").path
    assert everything(packed) == everything(again)


def test_two_archives_of_the_same_results_have_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    one, two = (pack.pack(runs, tmp_path / f"{name}.tar.zst").path for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        pack.pack(runs, one)
    with pytest.raises(InputError, match=r"an archive is called \.\.\.\.tar\.zst"):
        pack.pack(runs, tmp_path / "x.zip")


def test_models_travel_only_when_asked_for(runs: Path, made: Path, tmp_path: Path) -> None:
    whole = pack.pack(runs, tmp_path / "whole", with_models=True).path
    name = cell(runs).relative_to(runs) / cells.MODEL
    assert (whole / name).read_bytes() == (runs / name).read_bytes()
    packed = pack.pack(runs, tmp_path / "packed").path
    # The digest stays: whoever has the model can tell that it is the one.
    assert digests.of(cell(packed)).files[cells.MODEL] == digests.of(cell(runs)).files[cells.MODEL]
    with pytest.raises(InputError, match="was packed without its model"):
        pack.pack(packed, tmp_path / "never", with_models=True)
    assert not (tmp_path / "never").exists()


def test_packed_results_are_done_and_made_again_only_with_refit(
    runs: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = pack.pack(runs, tmp_path / "packed").path
    shared = ["--registry", str(made / "own"), "--threads", "1"]
    words = ["run", "--methods", "user-bt", "--dataset", "tiny", "--splits", "2", "--out", str(packed), *shared]
    before = everything(packed)
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert "2 of 2 finished results were packed without their models: done for reports; --refit makes them" in said
    assert {k: v for k, v in everything(packed).items() if not k.startswith(".claims")} == before
    assert cli.main([*words, "--shots", "3"]) == 2
    assert "was packed without its model: no further shots can be scored" in capsys.readouterr().err
    probe = ["probe", "--runs", str(packed), "--noise", "0.2", "--methods", "user-bt", *shared[:2]]
    assert cli.main(probe) == 2
    assert "it can be reported, and not adapted or probed" in capsys.readouterr().err
    assert cli.main([*words, "--refit", "--shots", "all,2"]) == 0
    assert (cell(packed) / cells.MODEL).read_bytes() == (cell(runs) / cells.MODEL).read_bytes()
    assert cli.main(probe) == 0


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Blocked())
from prbench import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.extras
def test_a_report_on_packed_results_needs_no_torch(runs: Path, made: Path, tmp_path: Path) -> None:
    packed = pack.pack(runs, tmp_path / "packed").path
    table = {}
    for name, folder in (("full", runs), ("packed", packed)):
        words = ["--registry", str(made / "own"), "report", "leaderboard", "--runs", str(folder)]
        out = tmp_path / f"out-{name}"
        ran = subprocess.run(
            [sys.executable, "-c", BLOCKED, *words, "--out", str(out)], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert (out / "index.html").is_file()
        table[name] = [(out / f).read_bytes() for f in ("leaderboard.csv", "comparisons.csv", "leaderboard.md")]
    assert table["full"] == table["packed"]


def test_a_planted_target_runs_nothing(
    runs: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "planted-code-ran"

    def change(record: dict[str, Any]) -> None:
        record["entry"]["target"] = "subprocess:run"
        record["params"] = {"args": ["touch", str(mark)]}
        record["encoder_entry"] |= {"target": "subprocess:run", "options": {"args": ["touch", str(mark)]}}

    resealed(cell(runs), change)
    whole = pack.pack(runs, tmp_path / "whole.tar.zst", with_models=True).path
    theirs = tmp_path / "theirs"
    shared = ["--registry", str(made / "own")]
    assert cli.main(["results", "unpack", str(whole), "--out", str(theirs), *shared]) == 0
    assert cli.main(["results", "verify", str(theirs), *shared]) == 0
    for words in (
        ["probe", "--runs", theirs, "--noise", "0.2", "--methods", "user-bt"],
        ["report", "leaderboard", "--runs", theirs, "--out", tmp_path / "out"],
        [
            "user",
            "adapt",
            "--run",
            theirs,
            "--method",
            "user-bt",
            "--pairs",
            tmp_path / "none",
            "--out",
            tmp_path / "s",
        ],
        ["run", "--methods", "user-bt", "--dataset", "tiny", "--splits", "1", "--shots", "4", "--out", theirs],
    ):
        assert cli.main([*map(str, words), *shared]) in (0, 2)
        assert not mark.exists()
        assert "Traceback" not in capsys.readouterr().err


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with pa.output_stream(str(path), compression="zstd") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


GOOD = "d/e/m/split-0-abc/cell.json"
HOSTILE: dict[str, tuple[list[tuple[tarfile.TarInfo, bytes]], str]] = {
    "above the folder": ([(member("../escaped"), b"x")], "'../escaped' is not the name of a file of results"),
    "above, from inside": ([(member("d/e/m/../../../../escaped"), b"x")], "is not the name of a file"),
    "absolute": ([(member("/tmp/escaped"), b"x")], "'/tmp/escaped' is not the name of a file of results"),
    "hidden": ([(member("d/e/m/split-0-a/.bashrc"), b"x")], "is not the name of a file"),
    "Windows": ([(member("d/e/m/split-0-a\\..\\x/cell.json"), b"x")], "is not the name of a file"),
    "a drive": ([(member("C:/e/m/split-0-a/cell.json"), b"x")], "is not the name of a file"),
    "a script": ([(member("d/e/m/split-0-a/setup.py"), b"x")], "is not the name of a file"),
    "a link": ([(member(GOOD, tarfile.SYMTYPE, "/etc/passwd"), b"")], "is not a regular file"),
    "a hard link": ([(member(GOOD, tarfile.LNKTYPE, "pack.json"), b"")], "is not a regular file"),
    "a device": ([(member(GOOD, tarfile.CHRTYPE), b"")], "is not a regular file"),
    "a pipe": ([(member(GOOD, tarfile.FIFOTYPE), b"")], "is not a regular file"),
    "the same twice": ([(member(GOOD), b"{}"), (member(GOOD), b"{}")], "is there twice"),
    "nothing": ([], "lacks pack.json"),
    "no manifest": ([(member(GOOD), b"{}")], "lacks pack.json"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused_and_leave_nothing(tmp_path: Path, name: str) -> None:
    members, message = HOSTILE[name]
    place = tmp_path / "inner"
    place.mkdir()
    path = tar_of(place / "a.tar.zst", *members)
    with pytest.raises(InputError) as refused:
        pack.unpack(path, place / "out")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.zst", "inner"]


def test_an_archive_that_grows_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LEAST", 2**16)
    path = tar_of(tmp_path / "a.tar.zst", (member(GOOD), bytes(2**22)))
    assert path.stat().st_size < 2**12
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        pack.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive_or_cut_off_is_refused(runs: Path, tmp_path: Path) -> None:
    path = pack.pack(runs, tmp_path / "a.tar.zst").path
    whole = path.read_bytes()
    for content in (b"", b"not zstd", whole[: len(whole) // 2], whole[:-3000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is not a whole \.tar\.zst archive|lacks"):
            pack.unpack(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def lose(folder: Path) -> None:
    shutil.rmtree(cell(folder))


def add(folder: Path) -> None:
    shutil.copytree(cell(folder), cell(folder).parent / "split-7-abc")


def move(folder: Path) -> None:
    listed = json.loads((folder / "pack.json").read_text())
    name = cell(folder).relative_to(folder).as_posix()
    cell(folder).rename(folder / name.replace("split-0", "split-5"))
    listed["cells"][name.replace("split-0", "split-5")] = listed["cells"].pop(name)
    (folder / "pack.json").write_text(json.dumps(sealed(listed)))


def edit(folder: Path) -> None:
    resealed(cell(folder))


EDITS = {
    "a lost cell": (lose, "which pack.json lists"),
    "a further cell": (add, "which pack.json does not list"),
    "a cell in another place": (move, "is not where its record belongs"),
    "a cell sealed anew": (edit, "is damaged: its sha256 is not the one in pack.json"),
    "a changed margin": (
        lambda f: cells.scores_file(cell(f), ALL_SHOTS).write_bytes(b"x"),
        "",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_pack_is_checked_against_its_list(runs: Path, tmp_path: Path, name: str) -> None:
    change, message = EDITS[name]
    packed = pack.pack(runs, tmp_path / "packed").path
    pack.check_pack(packed)
    change(packed)
    if not message:
        assert verify(packed)["damaged"] == 1
        return
    with pytest.raises(InputError) as refused:
        pack.check_pack(packed)
    assert message in str(refused.value)
