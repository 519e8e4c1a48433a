"""Several programs on one results folder share the work: each cell is computed once, and all of them end well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_runs import registry_folder

from prbench import results
from prbench.base.locks import alone
from prbench.base.processes import Writer, host, is_gone, start_of, this_process
from prbench.results import locks
from prbench.results.claims import Claims

METHODS = "bt-ridge,length,item-bt,user-bt,bt-offset,reference"
COUNTED = """
import sys
from pathlib import Path
from prbench.results import cells
write = cells.write_done
def counted(runs, record, *rest):
    with Path({log!r}).open("a") as log:
        log.write(f"{{record.dataset}} {{record.method}} {{record.split}}\\n")
    return write(runs, record, *rest)
cells.write_done = counted
from prbench import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def started(code: str, words: list[str], home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PRBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", code, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_programs_on_one_folder_share_the_work(tmp_path: Path) -> None:
    entries, runs, log = registry_folder(tmp_path / "entries"), tmp_path / "runs", tmp_path / "log"
    given = ["--registry", str(entries), "--methods", METHODS, "--dataset", "tiny,tiny2", "--splits", "2"]
    code = COUNTED.format(log=str(log))
    programs = [started(code, ["run", *given, "--out", str(runs)], tmp_path / "home") for _ in range(4)]
    ends = [(*program.communicate(timeout=120), program.returncode) for program in programs]
    for _, said, code_of_exit in ends:
        assert code_of_exit == 0, said
        assert "Traceback" not in said
    made = sorted(log.read_text().splitlines())
    assert made, "the log is written"
    assert len(made) == len(set(made)), "each cell is computed once"
    found = results.load(runs)
    assert {cell.status for cell in found.cells if cell.method != "reference"} == {"done"}
    assert not (runs / locks.SHARED).exists(), "claims are given back, and locks go with the last program"


def test_a_claim_is_held_by_the_living_alone(tmp_path: Path) -> None:
    shared = Claims(tmp_path)
    with shared.hold("work") as mine:
        assert mine
        with Claims(tmp_path).hold("work") as second:
            assert not second
        with Claims(tmp_path).hold("other work") as other:
            assert other
    (tmp_path / locks.SHARED).mkdir(exist_ok=True)
    with shared.hold("work") as mine:
        (path,) = (tmp_path / locks.SHARED).glob("*.json")
        gone = json.loads(path.read_text()) | {"start": "1"}
        path.write_text(json.dumps(gone))
        with Claims(tmp_path).hold("work") as second:
            assert second, "its process is gone: another one has its number now"


def test_locks_go_with_the_last_program(tmp_path: Path) -> None:
    folder, shared = tmp_path / locks.SHARED, Claims(tmp_path)
    with shared.hold("work"), alone(folder, "embedding"):
        Claims(tmp_path).clear()
        assert {path.suffix for path in folder.iterdir()} == {".json", ".lock"}, "a living program's claim stays"
    shared.clear()
    assert not folder.exists()


def test_a_lock_that_was_removed_lets_nobody_in(tmp_path: Path) -> None:
    """Who waited for a lock that went with the last program takes the new one: two are never inside."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(50):
            with alone(tmp_path / "shared", "claims"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1
            locks.clear(tmp_path / "shared")

    programs = [threading.Thread(target=work) for _ in range(3)]
    for program in programs:
        program.start()
    for program in programs:
        program.join()
    assert most == [1]
    assert not (tmp_path / "shared").exists()


def test_a_claim_of_another_host_is_watched_by_ones_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, now = Claims(tmp_path), [1000.0]
    with shared.hold("work"):
        (path,) = (tmp_path / locks.SHARED).glob("*.json")
        text = json.dumps(json.loads(path.read_text()) | {"host": "00000000"})
    path.write_text(text)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for later, beat, held in ((0, 0, True), (599, 0, True), (0, 1, True), (599, 1, True), (2, 1, False)):
        now[0] += later
        path.write_text(text.replace('"beat": 0', f'"beat": {beat}'))
        assert shared._is_held(path) == held, (later, beat)


def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    mine = this_process()
    assert not is_gone(mine)
    assert is_gone(mine._replace(start="1"))
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert start_of(ended.pid) is None
    assert is_gone(Writer(host(), ended.pid, "5"))
    assert not is_gone(Writer("elsewhere", ended.pid, "5"))


def test_of_two_imports_of_one_name_one_wins(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({**row, "user_id": user}) + "\n" for user in "ab"))
    code = "import sys; from prbench import cli; sys.exit(cli.main(sys.argv[1:]))"
    words = ["data", "import", str(file), "--name", "mine"]
    programs = [started(code, words, tmp_path / "home") for _ in range(3)]
    ends = [(*program.communicate(timeout=60), program.returncode) for program in programs]
    assert sorted(end[2] for end in ends) == [0, 2, 2]
    assert all("there is a data set 'mine' already" in said for _, said, code_of_exit in ends if code_of_exit)
