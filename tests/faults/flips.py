"""Single bits flipped at random in every kind of file that prbench writes: each is found, or changes nothing.

    PYTHONPATH=tests python tests/faults/flips.py 10000

prints, by kind, how many were tried, found, without effect, and silently different.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from small_runs import registry_folder

from prbench import cli, data, registry
from prbench.base.errors import InputError
from prbench.data.cache import FILES, read_cache, write_cache
from prbench.embedding.store import EmbeddingStore
from prbench.method import UserStates, load_tensors
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, digests, probes, scores
from prbench.running import tuned


class Kind(NamedTuple):
    """One kind of file, and what reading it gives, in a form that compares."""

    name: str
    file: Path
    read: Callable[[], Any]


def table(frame: Any) -> Any:
    return frame.to_dict("list")


def cell_kinds(runs: Path) -> Iterator[Kind]:
    folders = [f for f in cells.folders(runs) if cells.read_record(f)["status"] == "done" and list(f.glob("probe-*"))]
    folder = folders[0]

    def model() -> Any:
        digests.of(folder).check(folder / cells.MODEL, "")
        return {name: tensor.tolist() for name, tensor in load_tensors(folder / cells.MODEL)[0].items()}

    def all_scores() -> Any:
        return [(path.name, table(scores.read_scores_file(path, ""))) for path in scores._scores_files(folder)]

    yield Kind("cell.json", folder / "cell.json", lambda: cells.read_record(folder))
    yield Kind("DONE", folder / "DONE", lambda: (digests.of(folder), all_scores(), model()))
    yield Kind("model", folder / cells.MODEL, model)
    yield Kind("scores-all", cells.scores_file(folder, ALL_SHOTS), all_scores)
    yield Kind("scores-2", cells.scores_file(folder, 2), all_scores)
    yield Kind("probe", next(folder.glob("probe-*")), lambda: table(probes.load(runs)))
    failed = next(f for f in cells.folders(runs) if cells.read_record(f)["status"] == "failed")
    yield Kind("failed cell", failed / "cell.json", lambda: cells.read_record(failed))


def other_kinds(folder: Path) -> Iterator[Kind]:
    state = folder / "state.safetensors"
    states = UserStates(np.zeros(1, dtype=np.int64), {"w": torch.linspace(-1, 1, 64)[None]})
    states.save(state, {"method": "m", "run": "r", "model_sha256": "0" * 64})

    def read_state() -> Any:
        found, origin = UserStates.load(state)
        return found.users.tolist(), {name: t.tolist() for name, t in found.tensors.items()}, origin

    yield Kind("state", state, read_state)
    store = EmbeddingStore.open_for(folder / "store", {"id": "e", "revision": "1"})
    keys = [bytes([i]) * 32 for i in range(20)]
    with store.writer():
        store.append(keys, torch.linspace(-1, 1, 160).reshape(20, 8))

    def embeddings() -> Any:
        found = EmbeddingStore.open(folder / "store")
        return found.manifest, found.gather(keys)[0].tolist()

    yield Kind("shard", next((folder / "store").glob("shard-*")), embeddings)
    yield Kind("manifest", folder / "store" / "manifest.json", embeddings)
    record = next((folder / "tuned").rglob("*.json"))
    yield Kind("tuning record", record, lambda: tuned.read(record))
    file = folder / "rows.jsonl"
    rows = [
        {"user_id": u, "prompt": f"q {i}", "chosen": f"a {i}", "rejected": f"b {u}"} for u in "abc" for i in range(5)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["data", "import", str(file), "--name", "texts"]) == 0
    entry = registry.get("datasets", "texts")
    cache = folder / "cache" / "texts"
    write_cache(cache, data.load(entry), entry)

    def cached() -> Any:
        if (found := read_cache(cache)) is None:
            raise InputError("damaged")
        return found.fingerprint, dict(found.counts), found.user_keys, found.responses

    for name in (*FILES, "data.json"):
        yield Kind(f"cache {name}", cache / name, cached)


def kinds(folder: Path) -> list[Kind]:
    """Every kind of file, made by a small run in `folder`."""
    entries = registry_folder(folder / "entries")
    (entries / "methods" / "searched.toml").write_text('extends = "bt"\n[params]\nsteps = 10\n')
    shared = ["--registry", str(entries)]
    runs = str(folder / "runs")
    run = ["run", "--methods", "bt-offset,raises", "--dataset", "tiny", "--splits", "1", "--shots", "all,2"]
    assert cli.main([*run, "--out", runs, *shared]) == 1
    assert cli.main(["probe", "--runs", runs, "--support", *shared]) == 0
    tune = ["tune", "--methods", "searched", "--dataset", "tiny", "--trials", "2", "--splits", "1"]
    assert cli.main([*tune, "--out", str(folder / "tuned"), *shared]) == 0
    return [*cell_kinds(folder / "runs"), *other_kinds(folder)]


def campaign(folder: Path, count: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Flip `count` bits, one at a time, spread evenly over the kinds; what became of them by kind."""
    draw, found = random.Random(seed), dict[str, Counter[str]]()
    every = kinds(folder)
    before = {kind.name: kind.read() for kind in every}
    for number in range(count):
        kind = every[number % len(every)]
        whole = kind.file.read_bytes()
        bit = draw.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        kind.file.write_bytes(changed)
        try:
            outcome = "without effect" if kind.read() == before[kind.name] else f"silent: bit {bit}"
        except InputError as error:
            outcome = "found" if "\n" not in str(error) else "more than a line"
        except Exception as error:
            outcome = f"traceback: {type(error).__name__} at bit {bit}"
        kind.file.write_bytes(whole)
        found.setdefault(kind.name, Counter())[outcome] += 1
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        os.environ["PRBENCH_HOME"] = f"{name}/home"
        result = campaign(Path(name), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    total = Counter[str]()
    for kind_name, outcomes in result.items():
        sys.stdout.write(f"{kind_name:28} {dict(outcomes)}\n")
        total.update(outcomes)
    sys.stdout.write(f"{'all':28} {total.total()} tried, {dict(total)}\n")
    sys.exit(any(outcome not in ("found", "without effect") for outcome in total))
