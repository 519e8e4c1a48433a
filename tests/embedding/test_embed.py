"""Embedding a data set with a packing engine: the store, several processes, counts beforehand, the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_llama
import torch
from planted_encoder import texts_data

from prbench import cli
from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.embedding import stage
from prbench.embedding.estimate import account
from prbench.embedding.job import store_folder
from prbench.embedding.stage import embed, plan_embedding
from prbench.embedding.store import MANIFEST, SHARD_ROWS, EmbeddingStore
from prbench.encoders import build_encoder, encoder_entry_for, variant, with_options
from prbench.encoders.team import join

POST = (Message("user", "My brother took my bicycle without asking, sold it, and says that I never used it."),)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("causal"), reward=False)


@pytest.fixture(autouse=True)
def _own_home(prbench_home: Path) -> None:
    """Stores and hashes of weights live in PRBENCH_HOME."""


# Embedding a data set


def test_the_bar_moves_before_a_shard_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """All texts are one step of MiniLM's, read in several batches of windows."""
    moves: list[float] = []
    monkeypatch.setattr(stage._Bar, "within", lambda self, further: moves.append(self._done + further))
    embed(
        texts_data([f"reply {place}" + " and on" * (place % 40) for place in range(80)]), encoder_entry_for("minilm")
    )
    within = [done for done in moves if 0 < done < 80]
    assert len(within) >= 2
    assert moves == sorted(moves)
    assert moves[-1] == 80


def test_the_manifest_says_how(reward_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = with_options(encoder_entry_for(str(reward_model)), engine="padded", attention="eager")
    embed(texts_data(["a", "b"]), entry)
    manifest = EmbeddingStore.open(store_folder("toy", entry.name)).encoder
    assert (manifest["engine"], manifest["attention"], manifest["dtype"]) == ("padded", "eager", "bfloat16")
    said = " ".join(capsys.readouterr().err.split())
    assert "toy: 2 texts of 40 tokens, packed into 40 (bfloat16, last, padded, eager)" in said


def test_a_store_keeps_its_engine_where_the_choice_is_left_open(reward_model: Path) -> None:
    """Both texts come from the store: their bits are not computed again."""
    entry = encoder_entry_for(str(reward_model))
    items = embed(texts_data(["a", "b"]), with_options(entry, engine="batch1"))
    assert torch.equal(embed(texts_data(["a", "b", "c"]), entry).embedding[:2], items.embedding)
    with pytest.raises(InputError, match="made with engine 'batch1', the encoder now has 'trie'"):
        embed(texts_data(["a", "d"]), with_options(entry, engine="trie"))


def test_another_pooling_or_precision_has_a_store_and_a_name_of_its_own(reward_model: Path) -> None:
    entry = encoder_entry_for(str(reward_model))
    assert variant(entry, pooling="last", dtype="bfloat16") is entry
    mean = variant(entry, dtype="float32", pooling="mean")
    assert mean.name == f"{entry.name}@mean-float32"
    assert encoder_entry_for(f"{reward_model}@mean-float32") == mean
    assert encoder_entry_for("minilm@bfloat16").options == {"mode": "separate", "dtype": "bfloat16"}
    data = texts_data(["a", "b"])
    assert embed(data, mean).embedding.dtype == torch.float32
    assert embed(data, entry).embedding.dtype == torch.bfloat16
    with pytest.raises(InputError, match="'fast' is not a variant"):
        encoder_entry_for("minilm@fast")
    with pytest.raises(InputError, match="minilm has no option pooling"):
        encoder_entry_for("minilm@mean")
    with pytest.raises(InputError, match="own has no option dtype"):
        encoder_entry_for("own@float32")
    with pytest.raises(InputError, match="minilm does not pack tokens"):
        embed(data, encoder_entry_for("minilm"), token_budget=5)


@pytest.mark.extras
def test_a_killed_process_loses_at_most_one_shard_of_tries(
    causal_model: Path, prbench_home: Path, tmp_path: Path
) -> None:
    count = 3 * SHARD_ROWS
    script = tmp_path / "job.py"
    script.write_text(
        "from planted_encoder import texts_data\n"
        "from prbench.embedding.stage import embed\n"
        "from prbench.encoders import encoder_entry_for\n"
        f"data = texts_data([f'r{{i}}' for i in range({count})])\n"
        f"embed(data, encoder_entry_for({str(causal_model)!r}), token_budget=512)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE)
    entry = encoder_entry_for(str(causal_model))
    folder = store_folder("toy", entry.name)
    deadline = time.monotonic() + 120
    while not (folder / MANIFEST).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr and process.stderr.read().decode()
    assert process.stderr
    process.stderr.close()
    kept = len(EmbeddingStore.open(folder))
    assert SHARD_ROWS <= kept < count
    data = texts_data([f"r{i}" for i in range(count)])
    assert plan_embedding(data, entry).missing == count - kept
    items = embed(data, entry)
    store = EmbeddingStore.open(folder)
    assert store.verify() == []
    assert len(store) == count
    some = [7, count // 2, count - 1]
    expected = build_encoder(entry).encode([(data.contexts[0], data.responses[i]) for i in some], device="cpu")
    torch.testing.assert_close(items.embedding[some], expected.embedding, atol=0.05, rtol=0.05)


@pytest.mark.extras
def test_several_processes_share_the_work(causal_model: Path, prbench_home: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate, which connects processes: prbench[multi-gpu]")
    script = tmp_path / "job.py"
    script.write_text(
        "from pathlib import Path\n"
        "from planted_encoder import texts_data\n"
        "from prbench.embedding.stage import embed\n"
        "from prbench.encoders import encoder_entry_for, team\n"
        "from prbench.comparisons import Message\n"
        "together = team.join('cpu')\n"
        "contexts = [(Message('user', f'Which one, {k}?'),) for k in range(5)]\n"
        "data = texts_data([f'r{i}' for i in range(40)], contexts)\n"
        f"items = embed(data, encoder_entry_for({str(causal_model)!r}), team=together, token_budget=200)\n"
        "(Path(__file__).parent / f'saw-{together.index}').write_text(f'{together.size} {len(items)}')\n"
        "together.leave()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"saw-{i}").read_text() for i in range(2)] == ["2 40", "2 40"]
    entry = encoder_entry_for(str(causal_model))
    store = EmbeddingStore.open(store_folder("toy", entry.name))
    # Each process stored its own share, and none a text that another stored.
    assert len(store.shards) == 2
    assert sum(shard.rows for shard in store.shards) == 40
    assert len(store) == 40
    assert store.verify() == []
    contexts = [(Message("user", f"Which one, {k}?"),) for k in range(5)]
    data = texts_data([f"r{i}" for i in range(40)], contexts)
    assert plan_embedding(data, entry).missing == 0
    texts = [(data.contexts[i % 5], data.responses[i]) for i in range(40)]
    alone = build_encoder(entry)
    alone.token_budget = 200
    # Processes share the passes that one process would make, so that the bits do not depend on their number.
    assert torch.equal(embed(data, entry).embedding, alone.encode(texts, device="cpu").embedding)


def test_processes_without_what_connects_them_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match=r"accelerate, which is not installed .*prbench\[multi-gpu\]"):
        join("cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join("cpu").leads


# Counting before anything starts


def test_an_account_counts_both_sides_and_what_is_packed(causal_model: Path) -> None:
    entry = encoder_entry_for(str(causal_model))
    data = texts_data(["a", "bb", "a", "ccc"], [POST])
    encoder = build_encoder(entry)
    lengths = [len(ids) for ids in encoder._chat.read([(POST, r) for r in data.responses])[0]]  # type: ignore[attr-defined]
    found = account(data, entry)
    assert (found["comparisons"], found["texts"], found["distinct_texts"], found["missing"]) == (3, 6, 3, 3)
    # Comparisons are of neighbours: the inner two are read twice.
    assert found["tokens"] == sum(lengths) + lengths[1] + lengths[2]
    assert found["distinct_tokens"] == lengths[0] + lengths[1] + lengths[3]
    assert lengths[3] < found["packed_tokens"] < found["distinct_tokens"]
    assert (found["shards"], found["bytes"]) == (1, 3 * (16 * 2 + 32))
    assert found["estimated_seconds"] == pytest.approx(found["packed_tokens"] / found["tokens_per_second"])
    assert found["rate"].startswith("measured on")
    assert not store_folder("toy", entry.name).exists()
    embed(data, entry)
    found = account(data, entry)
    assert (found["missing"], found["packed_tokens"], found["shards"], found["estimated_seconds"]) == (0, 0, 0, 0)
    assert found["rate"] == "nothing to encode"


def test_without_weights_tokens_are_counted_and_the_time_is_unknown(causal_model: Path) -> None:
    entry = encoder_entry_for(str(causal_model))
    (causal_model / "model.safetensors").rename(causal_model / "elsewhere")
    try:
        found = account(texts_data(["a", "b"]), entry)
    finally:
        (causal_model / "elsewhere").rename(causal_model / "model.safetensors")
    assert found["packed_tokens"] > 0
    assert found["estimated_seconds"] is None
    assert found["estimated_time"] == "unknown"
    assert found["rate"] == "unknown: the weights are not on this machine"


def test_minilm_counts_its_tokens_too(capsys: pytest.CaptureFixture[str]) -> None:
    # [CLS] which one ? [SEP] once, and [CLS] a/b [SEP] for each response.
    found = account(texts_data(["a", "b"]), encoder_entry_for("minilm"))
    assert (found["tokens"], found["distinct_tokens"], found["packed_tokens"]) == (16, 16, 11)
    assert found["texts_per_second"] > 0
    joint = account(texts_data(["a", "b"]), encoder_entry_for("minilm-joint"))
    assert joint["packed_tokens"] == 12


def test_weights_that_do_not_fit_are_not_loaded_to_estimate(
    causal_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prbench.embedding.estimate._free_memory", lambda device: 10)
    found = account(texts_data(["a", "b"]), encoder_entry_for(str(causal_model)))
    assert found["rate"].startswith("unknown: weights of")
    assert found["estimated_seconds"] is None


def test_embed_on_the_command_line(reward_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"user_id": f"worker-{i % 2}", "prompt": "Which?", "chosen": f"yes {i}", "rejected": f"no {i}"}
        for i in range(4)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert cli.main(["data", "import", str(tmp_path / "mine.jsonl"), "--name", "mine"]) == 0
    capsys.readouterr()
    words = ["embed", "--dataset", "mine", "--encoder", str(reward_model), "--device", "cpu", "--json"]
    words += ["--pooling", "mean", "--engine", "padded", "--attention", "eager", "--token-budget", "100"]
    assert cli.main([*words, "--dry-run"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert (counted["texts"], counted["missing"], counted["engine"]) == (8, 8, "padded")
    assert cli.main(words) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["encoder"].endswith("@mean")
    assert (done["missing"], done["engine"], done["attention"], done["pooling"]) == (0, "padded", "eager", "mean")
    assert done["fingerprint"] == counted["fingerprint"]
    assert cli.main(["embed", "--dataset", "mine", "--encoder", "minilm", "--token-budget", "9"]) == 2
    assert "does not pack tokens" in capsys.readouterr().err
