"""The same plan in one process, in three, through submitit and on a Ray cluster that loses a node: the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import METHOD, assert_same_scores, registry_folder, short

from prbench.results import cells as results
from prbench.results import digests

pytestmark = pytest.mark.extras

# Where PLANTED names a folder, the first process that fits Waits or WaitsToo waits until the test goes on, and the first
# that fits Hungry takes what memory it may have and is then ended, as the system does.
OWN = """
import os, resource, signal, time
import psutil
from pathlib import Path
from prbench.methods.user_bt import UserBT

def first(name):
    folder = os.environ.get("PLANTED")
    if not folder:
        return None
    try:
        (Path(folder) / name).touch(exist_ok=False)
    except FileExistsError:
        return None
    import ray
    (Path(folder) / f"{name}-node").write_text(ray.get_runtime_context().get_node_id())
    return Path(folder)

class Waits(UserBT):
    @classmethod
    def fit_splits(cls, methods, problems, **options):
        folder = first(cls.__name__)
        while folder and not (folder / "go").exists():
            time.sleep(0.05)
        super().fit_splits(methods, problems, **options)

class WaitsToo(Waits):
    pass

class Hungry(UserBT):
    @classmethod
    def fit_splits(cls, methods, problems, **options):
        if first(cls.__name__):
            most = psutil.Process().memory_info().vms + 2**29
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            taken = []
            try:
                while True:
                    taken.append(b"x" * 2**26)
            except MemoryError:
                os.kill(os.getpid(), signal.SIGKILL)
        super().fit_splits(methods, problems, **options)
"""
METHODS = ("waits", "waitstoo", "hungry", "bt", "mrm", "raises", "user-bt")


@pytest.fixture
def work(prbench_home: Path, tmp_path: Path) -> Path:
    folder = registry_folder(tmp_path / "own")
    (folder / "planted_clusters_methods.py").write_text(OWN)
    planted = Path(__file__).parents[1] / "planted_methods.py"
    (folder / "planted_methods.py").write_text(planted.read_text())
    for name in ("Waits", "WaitsToo", "Hungry"):
        text = METHOD.format(target=name).replace("planted_methods:", "planted_clusters_methods:")
        (folder / "methods" / f"{name.lower()}.toml").write_text(text)
    return tmp_path


def command(out: str, *more: str) -> list[str]:
    sets = [word for text in short("bt", "mrm") for word in ("--set", text)]
    given = ["--registry", "own", "run", "--methods", ",".join(METHODS), "--dataset", "tiny", "--splits", "2", *sets]
    return [sys.executable, "-m", "prbench", *given, "--threads", "1", "--device", "cpu", "--out", out, *more]


def call(work: Path, words: list[str], code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def leaderboard(work: Path, out: str) -> bytes:
    report = [sys.executable, "-m", "prbench", "--registry", "own", "report", "leaderboard"]
    call(work, [*report, "--runs", out, "--out", f"{out}-report", "--baseline", "bt[steps=30]"], 0)
    (path,) = (work / f"{out}-report").rglob("leaderboard.csv")
    return path.read_bytes()


def files_of(out: Path) -> dict[str, dict[str, str]]:
    """The digests of what each cell scored and learned; its record also says where and when."""
    return {
        folder.relative_to(out).as_posix(): {
            name: value for name, value in digests.of(folder).files.items() if name != digests.RECORD
        }
        for folder in results.folders(out)
    }


def until(holds: Any, process: subprocess.Popen[str] | None = None, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def cluster(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three nodes of one core each, which leave it to the system to end processes where memory runs out."""
    pytest.importorskip("ray", reason="ray is not installed")
    (work / "planted").mkdir()
    for name, value in (
        ("PLANTED", str(work / "planted")),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_memory_monitor_refresh_ms", "0"),
        ("RAY_TMPDIR", "/tmp"),
    ):
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(2):
            found.add_node(**node)
        yield found
    finally:
        found.shutdown()


def start(work: Path, address: str) -> subprocess.Popen[str]:
    words = command("ray", "--executor", "ray", "--address", address)
    return subprocess.Popen(words, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(work: Path) -> dict[str, str]:
    """The node on which each waiting fit waits."""
    found = {name: work / "planted" / f"{name}-node" for name in ("Waits", "WaitsToo")}
    return {name: path.read_text() for name, path in found.items() if path.is_file() and path.read_text()}


def test_a_plan_has_the_same_bits_wherever_it_is_done(work: Path, cluster: Any) -> None:
    os.environ.pop("PLANTED")
    call(work, command("one"), 1)
    call(work, command("three", "--workers", "3"), 1)

    call(work, command("queue", "--executor", "slurm", "--slurm", "cluster=local"), 0)

    def state() -> dict[str, Any]:
        words = [sys.executable, "-m", "prbench", "status", "--runs", "queue", "--json"]
        return dict(json.loads(call(work, words, 0).stdout))

    until(lambda: not state()["queued"] + state()["running"])
    assert (state()["done"], state()["failed"]) == (len(METHODS), 0)
    assert [job["reason"][:21] for job in state()["jobs"] if job["reason"]] == ["2 of 2 cells failed: "]

    # Ctrl-C: nothing is lost that was finished, and no claim is left.
    process = start(work, cluster.address)
    until(lambda: len(begun(work)) == 2, process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.splitlines()[-1].endswith("is kept, run the same command to go on")
    assert not list((work / "ray" / ".claims").glob("*.json"))
    for path in (work / "planted").iterdir():
        path.unlink()

    # The same command goes on. The node of a waiting fit is killed, and a worker that takes too much memory.
    process = start(work, cluster.address)
    until(lambda: len(begun(work)) == 2, process)
    (node,) = [n for n in cluster.worker_nodes if n.node_id in begun(work).values()][:1]
    cluster.remove_node(node, allow_graceful=False)
    (work / "planted" / "go").touch()
    _, told = process.communicate(timeout=400)
    assert process.returncode == 1, told
    assert "its machine was lost; it is begun again\n" in told, told
    assert (
        "hungry on tiny: its worker process was lost, as happens where memory runs out; it is begun again with"
        in told
    )
    assert "raises failed on tiny" in told

    expected, board = files_of(work / "one"), leaderboard(work, "one")
    assert len(expected) == 2 * len(METHODS)
    for out in ("three", "queue", "ray"):
        assert_same_scores(work / "one", work / out)
        assert files_of(work / out) == expected
        assert leaderboard(work, out) == board
