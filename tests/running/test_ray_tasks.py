"""What a worker of a Ray cluster does, called here as Ray calls it there; and reaching a cluster that is not there."""

from __future__ import annotations

import pickle
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import assert_same_scores, make_plan, registry_folder, short

from prbench import cli, registry
from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.results.cells import CellState
from prbench.running import run
from prbench.running.cluster import ray_cluster, ray_connection, ray_tasks, returned
from prbench.running.cluster.parcel import Parcel, registry_parcel, unpacked_registry
from prbench.running.cluster.ray_cluster import RayCluster
from prbench.running.cluster.ray_connection import Machine, within
from prbench.running.cluster.ray_tasks import Begun, Errand, Mailbox, Sent, perform
from prbench.running.cluster.shipment import Shipment, packed, unpacked
from prbench.running.execution import HERE
from prbench.running.job import CellEnd
from prbench.running.needs import GIB, Needs
from prbench.running.plan import Plan
from prbench.running.worker import Ended, InputFault, Line, Share

NEEDS = Needs(cpus=4, gpus=0.0, memory=8 * GIB, seconds=60.0)
NAMES = ("bt", "good")


@pytest.fixture
def folder(prbench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Own entries, and the results of one process in `one`."""
    own = registry_folder(tmp_path / "own")
    shutil.copy(Path(__file__).parents[1] / "planted_methods.py", own / "planted_methods.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    registry.use([own])
    ray_tasks._opened.clear()
    sets = [word for text in short(*NAMES) for word in ("--set", text)]
    words = ["--registry", "own", "run", "--methods", ",".join(NAMES), "--dataset", "tiny", "--splits", "2", *sets]
    assert cli.main([*words, "--threads", "1", "--out", "one"]) == 0
    yield tmp_path
    registry.reset()


def planned(out: str) -> Plan:
    return make_plan(NAMES, ["tiny"], splits=2, out=Path(out), overrides=tuple(short(*NAMES)), device="cpu")


def errand(plan: Plan, number: int, folder: Path, *, shared: bool) -> Errand:
    token = folder / "token"
    token.write_text("here" if shared else "elsewhere")
    return Errand(
        number=number,
        description=plan.describe(plan.jobs[number], 1).model_dump_json(),
        folder=str(folder),
        home=str(folder / "home"),
        token=(str(token), "here"),
        registries=tuple(registry_parcel(each) for each in registry.used()),
    )


def shipped(plan: Plan) -> Shipment:
    setting = plan.jobs[0].setting
    return packed(setting, setting.comparisons())


def test_a_worker_that_sees_the_folder_writes_the_same_bits_there(folder: Path) -> None:
    plan, told = planned("two"), list[Any]()
    for number in range(len(plan.jobs)):
        sent = perform(errand(plan, number, folder, shared=True), None, shipped(plan), told.append)
        assert isinstance(sent.ended, Ended)
        assert (sent.ended.error, sent.files) == ("", None)
        assert [end.state for end in sent.ended.outcome] == ["done", "done"]
    assert_same_scores(folder / "one", folder / "two")
    assert sum(isinstance(message, Begun) for message in told) == 2
    assert sum(message.share for message in told if isinstance(message, Share)) == pytest.approx(2.0, abs=0.05)


def test_a_worker_without_the_folder_sends_its_files(folder: Path) -> None:
    """Its folder of entries travels too; cells that are there are sent along, and only new ones come back."""
    plan = planned("two")
    number = next(n for n, job in enumerate(plan.jobs) if job.name == "good")
    job = plan.describe(plan.jobs[number], 1)
    sent = perform(errand(plan, number, folder, shared=False), None, shipped(plan), lambda message: None)
    assert isinstance(sent.ended, Ended), sent
    assert sent.files is not None
    assert not Path("two").exists()
    returned.take_cells(sent.files, Path("two"))
    assert len(list(Path("two").rglob("DONE"))) == 2
    assert list(Path("two/code").rglob("planted_methods.py"))
    for place in Path("two").glob("tiny/*/*/split-*/scores-all.parquet"):
        assert place.read_bytes() == (Path("one") / place.relative_to("two")).read_bytes()
    registry.use([folder / "own"])
    # One cell is lost: the other one goes along, and the one made again comes back.
    lost = sorted(Path("two").glob("tiny/*/good/split-0-*"))[0]
    shutil.rmtree(lost)
    seeds = ray_cluster._seeds(job)
    assert seeds is not None
    assert len(seeds.files) == 4
    again = perform(errand(planned("two"), number, folder, shared=False), seeds, None, lambda message: None)
    assert again.files is not None
    assert {Path(place).parts[3] for place in again.files.files if place.startswith("tiny")} == {lost.name}


def test_a_worker_with_other_code_or_another_prbench_is_refused(folder: Path) -> None:
    plan = planned("two")
    number = next(n for n, job in enumerate(plan.jobs) if job.name == "good")
    first = errand(plan, number, folder, shared=True)

    def fault(given: Errand) -> str:
        sent = perform(given, None, None, lambda message: None)
        assert isinstance(sent.ended, InputFault), sent
        return sent.ended.message

    job = plan.describe(plan.jobs[number], 1)
    other = job.model_copy(update={"code": dict.fromkeys(job.code, "000000000000")})
    assert "has other code where good on tiny is done" in fault(replace(first, description=other.model_dump_json()))
    said = fault(replace(first, software=("0.0.1", "")))
    assert said.startswith("a worker has prbench ")
    assert said.endswith("this command is of prbench 0.0.1")
    assert not Path("two").exists()


def test_a_job_may_end_before_anybody_hears_that_it_began(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Messages and answers travel apart: a late one neither revives a job that is over nor ends the command."""
    plan = planned("one")
    job = plan.jobs[0]
    for cell in job.cells:
        cell.state = CellState.missing
    with progress() as display:
        cells = run._Cells(plan, [job], display, display.add_task("", total=2))
        cells.end(0, [CellEnd(CellState.done, "", [])] * 2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("on tiny: 2 splits")

    begun: list[int] = []
    cluster = RayCluster(HERE, lambda execution: [], folder)
    mailbox = SimpleNamespace(take=SimpleNamespace(remote=lambda: [(0, Begun(("h", 1, "t"), "node"))]))
    ray = SimpleNamespace(get=lambda messages, timeout: messages, exceptions=SimpleNamespace(RayError=OSError))
    listener = SimpleNamespace(begin=begun.append, end=lambda job, outcome: None)
    for name, value in {"ray": ray, "mailbox": mailbox, "listener": listener, "folder": folder}.items():
        setattr(cluster, f"_{name}", value)
    cluster._hear()
    assert begun == [0]
    cluster._finish(0, Ended([], ""))
    cluster._hear()
    assert begun == [0]
    assert '"done"' in (folder / "0.json").read_text()


def test_what_goes_wrong_in_a_job_is_told_and_raised_by_nobody(folder: Path) -> None:
    plan, told = planned("two"), list[Any]()
    broken = replace(errand(plan, 0, folder, shared=True), folder=str(folder / "gone"))
    sent = perform(broken, None, None, told.append)
    assert isinstance(sent.ended, Ended)
    assert sent.ended.error.startswith("FileNotFoundError: ")
    assert any("Traceback" in message.text for message in told if isinstance(message, Line))


def test_embeddings_are_shared_and_the_rest_is_the_same(folder: Path) -> None:
    plan = planned("two")
    setting = plan.jobs[0].setting
    comparisons, fingerprint = setting.comparisons(), setting.data.fingerprint
    shipment = packed(setting, comparisons)
    for column in shipment.columns.values():
        column.setflags(write=False)
    for column in (shipment.rest[0].data.user, shipment.rest[0].data.chosen):
        column.setflags(write=False)
    opened = unpacked(shipment, "cpu")
    found = opened.comparisons()
    assert found.user.flags.writeable
    assert found.chosen.flags.writeable
    assert found.items.embedding.data_ptr() == shipment.columns["embedding"].ctypes.data
    assert torch.equal(found.items.embedding, comparisons.items.embedding)
    assert opened.data.fingerprint == fingerprint
    assert np.array_equal(opened.data.same_item, setting.data.same_item)
    assert opened.properties == setting.properties
    for name in ("user", "chosen", "rejected", "group"):
        assert np.array_equal(getattr(found, name), getattr(comparisons, name))
    # The rest holds the embeddings not once more.
    assert len(pickle.dumps(shipment.rest)) < shipment.size + 200_000


def test_a_damaged_or_foreign_parcel_is_refused(folder: Path) -> None:
    (cell, *_) = sorted(Path("one").glob("tiny/*/bt*/split-0-*"))
    place = cell.relative_to("one").as_posix()
    files = {f"{place}/{path.name}": path.read_bytes() for path in cell.iterdir()}
    with pytest.raises(InputError, match="damaged on its way"):
        returned.take_cells(Parcel({**files, f"{place}/DONE": b"{}"}, Parcel.of(files).sha256), Path("three"))
    scores = f"{place}/scores-all.parquet"
    with pytest.raises(InputError, match="with another sha256"):
        returned.take_cells(Parcel.of({**files, scores: b"other"}), Path("three"))
    for wrong in ("../x", "/x", "tiny/own/x", "code/../x.py"):
        with pytest.raises(InputError, match="is not a"):
            returned.take_cells(Parcel.of({wrong: b""}), Path("three"))
    assert not list(Path("three").rglob("cell.json"))
    returned.take_cells(Parcel.of(files), Path("three"))
    assert len(list(Path("three").rglob("DONE"))) == 1


def test_a_registry_folder_travels_without_hidden_files(tmp_path: Path) -> None:
    own = registry_folder(tmp_path / "own")
    (own / ".git").mkdir()
    (own / ".git" / "config").write_text("secret")
    (own / "module.py").write_text("x = 1\n")
    parcel = registry_parcel(own)
    assert "module.py" in parcel.files
    assert not any("git" in place for place in parcel.files)
    there = unpacked_registry(parcel, tmp_path / "home")
    assert (there / "module.py").read_text() == "x = 1\n"
    # What somebody changed there is put right.
    (there / "module.py").write_text("x = 2\n")
    assert (unpacked_registry(parcel, tmp_path / "home") / "module.py").read_text() == "x = 1\n"


def test_needs_are_what_a_machine_of_the_cluster_can_meet() -> None:
    small, large = Machine(2, 0, 4 * GIB, GIB), Machine(3, 0, 6 * GIB, GIB)
    assert within(NEEDS, [small, large]) == NEEDS._replace(cpus=3, memory=6 * GIB)
    with pytest.raises(InputError, match="no machine of the cluster has one"):
        within(NEEDS._replace(gpus=0.25), [small, large])
    with pytest.raises(InputError, match="offers a core"):
        within(NEEDS, [])


def test_a_cluster_that_is_not_there_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--registry", "own", "run", "--methods", "good", "--dataset", "tiny", "--splits", "1", "--out", "two"]
    given = [*words, "--executor", "ray"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    for address, said in (
        (f"127.0.0.1:{port}", "a Ray cluster does not answer there: [Errno 111] Connection refused"),
        (f"ray://127.0.0.1:{port}", "a Ray cluster does not answer there: [Errno 111] Connection refused"),
        ("somewhere", "expected auto, local, HOST:PORT or ray://HOST:PORT"),
    ):
        assert cli.main([*given, "--address", address]) == 2
        assert f"error: --address {address}: {said}" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(given) == 2
    told = capsys.readouterr().err
    assert "error: --executor ray needs ray, which is not installed\nhint: pip install 'prbench[ray]'" in told
    assert cli.main([*words, "--address", "auto"]) == 2
    assert "--address is for --executor ray" in capsys.readouterr().err
    assert not Path("two").exists()


def test_a_mailbox_gives_each_message_once() -> None:
    box = Mailbox()
    box.put(3, Line("a"))
    box.put(1, Share(0.5))
    assert box.take() == [(3, Line("a")), (1, Share(0.5))]
    assert box.take() == []


def test_sent_and_errand_are_plain(folder: Path) -> None:
    """They are pickled; what is in them must be no more than that."""
    plan = planned("two")
    assert errand(plan, 0, folder, shared=True).software == ray_tasks.software()
    assert Sent(Ended(None)).files is None
    assert ray_connection.AUTO == "auto"
