"""The embedding store, and embedding into it: what is kept, found broken, and refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import planted_encoder
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_encoder import ENCODED, entry, texts_data

from prbench.base.errors import InputError
from prbench.embedding.stage import embed, plan_embedding
from prbench.embedding.store import MANIFEST, SHARD_ROWS, EmbeddingStore, stores

ENCODER = {"id": "planted", "revision": "1", "dtype": "float32"}


def key(i: int) -> bytes:
    return i.to_bytes(32, "big")


def keys(*numbers: int) -> list[bytes]:
    return [key(i) for i in numbers]


def filled(folder: Path, *, shards: int = 2, rows: int = 3, dtype: torch.dtype = torch.float32) -> EmbeddingStore:
    """A store whose row i is [10 i, 10 i + 1, 10 i + 2, 10 i + 3] with reward i."""
    store = EmbeddingStore.open_for(folder, {**ENCODER, "dtype": str(dtype)})
    with store.writer():
        for shard in range(shards):
            number = torch.arange(shard * rows, (shard + 1) * rows)
            embedding = (10 * number[:, None] + torch.arange(4)).to(dtype)
            store.append(keys(*number.tolist()), embedding, number.float(), head=torch.tensor([0.1, 1 / 3, -2e-9, 4]))
    return store


@pytest.fixture
def folder(prbench_home: Path) -> Path:
    return prbench_home / "embeddings" / "toy" / "planted"


@pytest.fixture(autouse=True)
def _nothing_encoded_yet() -> None:
    ENCODED.clear()


def shard_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


# What comes back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_come_back_in_the_order_asked_for(folder: Path, dtype: torch.dtype) -> None:
    filled(folder, dtype=dtype)
    store = EmbeddingStore.open(folder)
    embedding, reward = store.gather(keys(5, 0, 5, 3))
    assert embedding.dtype == dtype
    assert embedding.float().tolist() == [[10 * i + j for j in range(4)] for i in (5, 0, 5, 3)]
    assert reward is not None
    assert reward.tolist() == [5, 0, 5, 3]
    assert len(store) == 6
    assert store.verify() == []


def test_the_head_comes_back_exactly(folder: Path) -> None:
    """Written and read: nothing is computed."""
    filled(folder)
    head = EmbeddingStore.open(folder).head
    assert head is not None
    assert head.dtype == torch.float32
    assert torch.equal(head, torch.tensor([0.1, 1 / 3, -2e-9, 4]))


def test_a_shard_is_plain_safetensors_with_the_documented_columns(folder: Path) -> None:
    from safetensors.torch import load_file

    filled(folder)
    shard = load_file(folder / "shard-00001.safetensors")
    assert {name: (column.dtype, tuple(column.shape)) for name, column in shard.items()} == {
        "embedding": (torch.float32, (3, 4)),
        "reward": (torch.float32, (3,)),
        "key": (torch.uint8, (3, 32)),
    }


def test_unknown_keys_are_an_error_that_counts_them(folder: Path) -> None:
    store = filled(folder)
    with pytest.raises(InputError, match="2 of 3 texts have no embedding"):
        store.gather(keys(1, 6, 7))


def test_a_folder_without_a_store(folder: Path) -> None:
    with pytest.raises(InputError, match="no embedding store"):
        EmbeddingStore.open(folder)


def test_stores_lists_every_store_of_this_home(prbench_home: Path) -> None:
    assert stores() == []
    embed(texts_data(["a", "b"]), entry(), family="f")
    embed(texts_data(["a", "b"], name="other"), entry())
    root = prbench_home / "embeddings"
    assert stores() == [root / "f" / "planted", root / "other" / "planted"]


# What is found broken


@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, where: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    filled(folder)
    path = folder / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    problems = EmbeddingStore.open(folder).verify()
    assert len(problems) == 1
    assert "shard-00001.safetensors" in problems[0]
    with pytest.raises(InputError, match=r"shard-00001\.safetensors"):
        EmbeddingStore.open(folder).gather(keys(4))


def test_a_truncated_shard_is_found_and_named(folder: Path) -> None:
    filled(folder)
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    store = EmbeddingStore.open(folder)
    [problem] = store.verify()
    assert str(path) in problem
    assert "delete it and run `prbench embed` again" in problem
    with pytest.raises(InputError, match=r"shard-00000\.safetensors is corrupt"):
        len(store)


def test_a_lost_shard_is_named_and_made_again(folder: Path) -> None:
    """The planted encoder computes each text by itself, so that its bits do not depend on the batch."""
    data = texts_data([f"r{i}" for i in range(20)])
    before = embed(data, entry())
    (folder / "shard-00000.safetensors").unlink()
    assert EmbeddingStore.open(folder).verify() == [
        f"{folder / 'shard-00000.safetensors'} is missing (run `prbench embed` again)"
    ]
    assert plan_embedding(data, entry()).missing == 20
    after = embed(data, entry())
    assert torch.equal(before.embedding, after.embedding)
    assert EmbeddingStore.open(folder).verify() == []


def test_a_shard_of_another_revision_is_refused(folder: Path, tmp_path: Path) -> None:
    filled(folder)
    other = EmbeddingStore.open_for(tmp_path / "other", {**ENCODER, "revision": "2"})
    with other.writer():
        other.append(keys(3, 4, 5), torch.ones(3, 4), torch.ones(3))
    path = folder / "shard-00001.safetensors"
    path.write_bytes((tmp_path / "other" / "shard-00000.safetensors").read_bytes())
    store = EmbeddingStore.open(folder)
    with pytest.raises(
        InputError, match=r"shard-00001\.safetensors was made by another encoder or revision"
    ) as error:
        store.gather(keys(0))
    assert "\n" not in str(error.value)
    assert len(store.verify()) == 1


def test_a_store_of_another_revision_is_refused_before_anything_is_encoded(folder: Path) -> None:
    data = texts_data(["a", "b"])
    embed(data, entry())
    before = (folder / MANIFEST).read_text()
    ENCODED.clear()
    with pytest.raises(InputError, match=r"were made with revision '1', the encoder now has '2'"):
        embed(data, entry(revision="2"))
    assert not ENCODED
    assert (folder / MANIFEST).read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "has format 2; this prbench reads format 1"),
        (lambda m: m.pop("dim"), "dim: Field required"),
        (lambda m: m.update(colour="red"), "colour: Extra inputs"),
        (lambda m: m["shards"][0].update(file="../../else.safetensors"), r"shards\.0\.file"),
    ],
)
def test_a_manifest_that_is_not_as_written(folder: Path, change: object, message: str) -> None:
    filled(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)  # type: ignore[operator]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message) as error:
        EmbeddingStore.open(folder)
    assert str(folder / MANIFEST) in str(error.value)


def test_a_manifest_cut_short(folder: Path) -> None:
    filled(folder)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"manifest\.json is unreadable"):
        EmbeddingStore.open(folder)


# What is refused


@pytest.mark.parametrize(
    ("embedding", "reward", "message"),
    [
        (torch.tensor([[1.0, 2, 3, 4], [1, torch.nan, 3, 4]]), torch.ones(2), "row 1 .*NaN or infinite"),
        (torch.tensor([[torch.inf, 2, 3, 4], [1, 1, 3, 4]]), torch.ones(2), "row 0 .*NaN or infinite"),
        (torch.ones(2, 4), torch.tensor([1.0, -torch.inf]), "row 1 .*NaN or infinite"),
        (torch.ones(2, 3), torch.ones(2), "width 3, the store has 4"),
        (torch.ones(2, 4, dtype=torch.float16), torch.ones(2), "float16, the store has float32"),
        (torch.ones(2, 4, dtype=torch.float64), torch.ones(2), "float64, a store takes float32, float16, bfloat16"),
        (torch.ones(2, 4), None, "a reward for every row"),
        (torch.ones(2, 4), torch.ones(3), r"\[3\] rewards for 2 embeddings"),
        (torch.ones(2), torch.ones(2), r"shape \[2\]"),
    ],
)
def test_rows_that_do_not_belong_are_refused(
    folder: Path, embedding: torch.Tensor, reward: torch.Tensor | None, message: str
) -> None:
    store = filled(folder)
    before = (folder / MANIFEST).read_text(), shard_files(folder)
    with store.writer(), pytest.raises(InputError, match=message):
        store.append(keys(8, 9), embedding, reward)
    assert ((folder / MANIFEST).read_text(), shard_files(folder)) == before


def test_a_shard_has_at_most_4096_distinct_keys(folder: Path) -> None:
    store = filled(folder)
    with store.writer():
        with pytest.raises(ValueError, match="4096 distinct keys"):
            store.append(keys(*range(10, 11 + SHARD_ROWS)), torch.ones(SHARD_ROWS + 1, 4), torch.ones(SHARD_ROWS + 1))
        with pytest.raises(ValueError, match="4096 distinct keys"):
            store.append(keys(7, 7), torch.ones(2, 4), torch.ones(2))


def test_appending_outside_writer_is_a_programming_error(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="writer"):
        filled(folder).append(keys(9), torch.ones(1, 4), torch.ones(1))


def test_two_processes_do_not_write_at_once(folder: Path) -> None:
    one = filled(folder)
    two = EmbeddingStore.open(folder)
    with one.writer(), pytest.raises(InputError, match="another process is writing"), two.writer():
        pass
    with two.writer():
        two.append(keys(9), torch.ones(1, 4), torch.ones(1))


def test_a_process_that_waits_writes_when_the_other_is_done(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, two, wrote = filled(folder), EmbeddingStore.open(folder), []

    def write() -> None:
        with two.writer(wait=True):
            two.append(keys(9), torch.ones(1, 4), torch.ones(1))
            wrote.append(True)

    with one.writer():
        waiting = threading.Thread(target=write)
        waiting.start()
        waiting.join(0.2)
        assert not wrote
    waiting.join(10)
    assert wrote
    assert "waiting until it is done" in capfd.readouterr().err


def test_a_writer_sees_what_another_stored_meanwhile(folder: Path) -> None:
    one = filled(folder)
    two = EmbeddingStore.open(folder)
    with one.writer():
        one.append(keys(8), torch.ones(1, 4), torch.ones(1))
    with two.writer():
        two.append(keys(9), torch.ones(1, 4), torch.ones(1))
    assert shard_files(folder) == [f"shard-0000{i}.safetensors" for i in range(4)]
    assert set(keys(*range(6), 8, 9)) == EmbeddingStore.open(folder).known.keys()


# What goes wrong while writing


@pytest.mark.parametrize("failing_call", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_store_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    """Calls 1 and 2 sync the shard and its folder, 3 and 4 the manifest and its folder."""
    store = filled(folder)
    before = (folder / MANIFEST).read_text(), shard_files(folder)
    calls = 0
    real = os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with store.writer():
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="the disk is full") as error:
            store.append(keys(8), torch.ones(1, 4), torch.ones(1))
        monkeypatch.setattr(os, "fsync", real)
    assert "\n" not in str(error.value)
    assert not list(folder.glob(".*.tmp"))
    again = EmbeddingStore.open(folder)
    assert again.verify() == []
    assert again.known.keys() == store.known.keys()
    if failing_call < 4:
        assert ((folder / MANIFEST).read_text(), shard_files(folder)) == before
    else:
        # Renamed is written, whether or not the folder could be synced.
        assert key(8) in again.known


def test_a_full_disk_while_the_first_shard_is_written_leaves_nothing(
    prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="the disk is full"):
        embed(texts_data(["a", "b"]), entry())
    assert not (prbench_home / "embeddings" / "toy").exists()


def test_leftovers_of_a_killed_process_go(folder: Path) -> None:
    filled(folder)
    (folder / "shard-00002.safetensors").write_bytes(b"not listed")
    (folder / ".shard-00003.safetensors.abc.tmp").write_bytes(b"half")
    store = EmbeddingStore.open(folder)
    with store.writer():
        assert shard_files(folder) == ["shard-00000.safetensors", "shard-00001.safetensors"]
        assert not list(folder.glob(".*.tmp"))
        store.append(keys(8), torch.ones(1, 4), torch.ones(1))
    assert EmbeddingStore.open(folder).verify() == []


def test_a_killed_process_loses_at_most_one_shard(prbench_home: Path, folder: Path, tmp_path: Path) -> None:
    """The planted encoder computes each text by itself, so that its bits depend on neither batch nor process."""
    count = 5 * SHARD_ROWS
    script = tmp_path / "embed.py"
    script.write_text(
        "from planted_encoder import entry, texts_data\n"
        "from prbench.embedding.stage import embed\n"
        f"embed(texts_data([f'r{{i}}' for i in range({count})]), entry(wait=0.1), batch=1024)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PRBENCH_HOME": str(prbench_home)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(shard_files(folder)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read().decode()
    assert process.stderr
    process.stderr.close()
    in_files = SHARD_ROWS * len(shard_files(folder))
    store = EmbeddingStore.open(folder)
    assert store.verify() == []
    kept = len(store)
    assert SHARD_ROWS <= kept < count
    assert in_files - kept <= SHARD_ROWS

    data = texts_data([f"r{i}" for i in range(count)])
    items = embed(data, entry(), batch=1024)
    assert len(ENCODED) == count - kept
    assert EmbeddingStore.open(folder).verify() == []
    [text] = [(data.contexts[0], "r17")]
    assert torch.equal(items.embedding[17], planted_encoder.Planted().encode([text], device="cpu").embedding[0])


def test_an_interruption_keeps_what_was_encoded(folder: Path) -> None:
    data = texts_data([f"r{i}" for i in range(30)] + ["interrupt"])
    with pytest.raises(KeyboardInterrupt):
        embed(data, entry(), batch=10)
    assert len(EmbeddingStore.open(folder)) == 30
