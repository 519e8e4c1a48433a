"""Who may read what a person's commands write, and Ctrl-C from a command's first import to the interpreter's end."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_runs import registry_folder, short
from stories import ENCODER

from prbench import cli, registry

METHOD = "lore"
SETTINGS = [word for text in (*short(METHOD), "lore.bases=2") for word in ("--set", text)]
NAME = "lore[adapt_steps=20,bases=2,steps=30]"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """`os.umask`, put back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)
    registry.reset()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_commands_write_is_for_whom_the_umask_says(
    tmp_path: Path, prbench_home: Path, umask: Callable[[int], int]
) -> None:
    entries = registry_folder(tmp_path / "given" / "entries")
    (entries / "encoders").mkdir()
    (entries / "encoders" / "planted.toml").write_text(ENCODER)
    pairs = [{"prompt": f"ask {i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(6)]
    rows, mine = tmp_path / "given" / "rows.jsonl", tmp_path / "given" / "mine.jsonl"
    rows.write_text(
        "".join(json.dumps({"user_id": u, **p, "prompt": f"{u} {p['prompt']}"}) + "\n" for u in "abcd" for p in pairs)
    )
    mine.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    vectors, meta = tmp_path / "given" / "v.pt", tmp_path / "given" / "v.json"
    torch.save(torch.linspace(-1, 1, 48).reshape(8, 6), vectors)
    meta.write_text(json.dumps({u: [{"chosen_idx": i, "rejected_idx": i + 4} for i in range(4)] for u in "ab"}))
    made = tmp_path / "made"
    texts = ["--dataset", "texts", "--encoder", "planted"]

    def call(*words: str | Path) -> None:
        registry.reset()
        assert cli.main([*map(str, words), "--registry", str(entries)]) == 0, words

    def adapt(name: str) -> Path:
        given = ["--run", made / "runs", "--method", NAME, "--pairs", mine]
        call("user", "adapt", *given, "--out", made / name)
        return made / name

    umask(0o077)
    call("data", "import", rows, "--name", "texts")
    call("data", "import-embeddings", "--pt", vectors, "--meta", meta, "--name", "vectors")
    call("run", "--methods", METHOD, *texts, "--splits", "1", *SETTINGS, "--out", made / "runs")
    call("splits", "export", "--dataset", "texts", "--splits", "1", "--with-ids", "--out", made / "splits")
    call("results", "pack", made / "runs", "--out", made / "packed.tar.zst")
    call("results", "unpack", made / "packed.tar.zst", "--out", made / "unpacked")
    call("results", "merge", made / "runs", made / "unpacked", "--out", made / "merged")
    adapt("me.safetensors")
    every = [path for folder in (prbench_home, made) for path in (folder, *folder.rglob("*"))]
    assert len([path for path in every if path.is_file()]) > 20
    open_ones = [path for path in every if mode(path) & 0o077 and path != prbench_home]
    assert open_ones == []

    umask(0o022)
    state = adapt("other.safetensors")
    call("data", "import", rows, "--name", "others")
    call("data", "import-embeddings", "--pt", vectors, "--meta", meta, "--name", "others-vectors")
    imported = prbench_home / "imported"
    private = [state, imported / "others" / "comparisons.parquet", imported / "others-vectors" / "users.json"]
    assert [mode(path) for path in private] == [0o600] * 3, "choices and ids of people are their owner's alone"
    assert mode(imported / "datasets" / "others.toml") == 0o644


INTERRUPTED = """
import atexit, os, runpy, signal, sys
moment = sys.argv.pop(1)
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            interrupt()
if moment == "exit":
    atexit.register(interrupt)
sys.meta_path.insert(0, Finder())
sys.argv[0] = "prbench"
runpy.run_module("prbench", run_name="__main__")
"""
HARMLESS = ("interrupted\n", "interrupted; finished work is kept, run the same command to go on\n")


@pytest.mark.parametrize(
    "moment", ["prbench.cli", "typer", "prbench.commands.data", "prbench.loaders.user_file", "pandas", "exit"]
)
def test_an_interruption_leaves_no_traceback(moment: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"user_id": "{u}", "prompt": "p", "chosen": "c", "rejected": "r"}}\n' for u in "ab"))
    words = ["--version"] if moment == "exit" else ["data", "import", str(rows), "--name", "mine"]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPTED, moment, *words],
        env={**os.environ, "PRBENCH_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    if moment == "exit":
        assert (ended.returncode, ended.stderr) == (-2, "")
        assert ended.stdout.startswith("prbench ")
    else:
        assert ended.returncode == 130, ended.stderr
        assert ended.stderr in HARMLESS
        assert not (tmp_path / "home" / "imported" / "datasets").exists()
