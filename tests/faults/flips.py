"""Damage in every kind of file that prbench writes, in one process on the readers: it is found, or changes nothing.

    PYTHONPATH=tests python tests/faults/flips.py 10000 [SEED] [bits|cuts|pages|all]

A single bit is flipped, the file is cut off somewhere, or a page of it is zero; `all` takes them in turn. Prints, by
kind of file, how many were tried, found, without effect, and silently different.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from campaign import Figures
from small_runs import registry_folder

from prbench import cli, data, registry
from prbench.base.errors import InputError
from prbench.base.files import home
from prbench.data.cache import FILES, read_cache, write_cache
from prbench.embedding.store import EmbeddingStore
from prbench.loaders.table import TABLE
from prbench.method import UserStates, load_tensors
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells, digests, probes, scores
from prbench.running import tuned

PAGE, SECTOR = 4096, 512


class Kind(NamedTuple):
    """One kind of file, and what reading it gives, in a form that compares."""

    name: str
    file: Path
    read: Callable[[], Any]


def table(frame: Any) -> Any:
    return frame.to_dict("list")


def cell_kinds(runs: Path) -> Iterator[Kind]:
    folders = [f for f in cells.folders(runs) if cells.read_record(f).done and list(f.glob("probe-*"))]
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
    failed = next(f for f in cells.folders(runs) if cells.read_record(f).status == "failed")
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
    imported = home() / "imported" / "texts"

    def imported_rows() -> Any:
        found = data.load(entry)
        return found.fingerprint, dict(found.counts), found.user_keys, found.responses

    yield Kind("imported rows", imported / TABLE, imported_rows)
    torch.save(torch.linspace(-1, 1, 48).reshape(8, 6), folder / "vectors.pt")
    choices = {u: [{"chosen_idx": i, "rejected_idx": i + 4} for i in range(4)] for u in "ab"}
    (folder / "vectors.json").write_text(json.dumps(choices))
    pair = ["--pt", str(folder / "vectors.pt"), "--meta", str(folder / "vectors.json")]
    assert cli.main(["data", "import-embeddings", *pair, "--name", "vectors"]) == 0
    vectors = registry.get("datasets", "vectors")

    def imported_vectors() -> Any:
        found = data.load(vectors)
        return found.fingerprint, found.user_keys

    for path in sorted((home() / "imported" / "vectors").iterdir()):
        yield Kind(f"imported {path.name}", path, imported_vectors)
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


def flipped(whole: bytes, draw: random.Random) -> tuple[bytes, str]:
    """One bit is the other one."""
    bit = draw.randrange(8 * len(whole))
    return with_bit(whole, bit), f"bit {bit}"


def with_bit(whole: bytes, bit: int) -> bytes:
    """`whole` with the bit of this number turned."""
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(whole: bytes, draw: random.Random) -> tuple[bytes, str]:
    """The end is missing."""
    size = draw.randrange(len(whole))
    return whole[:size], f"cut at {size}"


def zeroed(whole: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A page was never written; of a small file, a sector or what there is of one."""
    page = PAGE if len(whole) > PAGE else SECTOR
    begin = draw.randrange(0, len(whole), page)
    end = min(len(whole), begin + page)
    return whole[:begin] + bytes(end - begin) + whole[end:], f"zeros from {begin}"


DAMAGE = {"bits": flipped, "cuts": cut, "pages": zeroed}


def outcome_of(kind: Kind, changed: bytes, place: str, before: Any) -> str:
    """What reading says of a changed file, which is put back."""
    whole = kind.file.read_bytes()
    kind.file.write_bytes(changed)
    try:
        return "without effect" if kind.read() == before else f"silent: {place}"
    except InputError as error:
        return "found" if "\n" not in str(error) else "more than a line"
    except Exception as error:
        return f"traceback: {type(error).__name__}, {place}"
    finally:
        kind.file.write_bytes(whole)


def campaign(folder: Path, count: int, seed: int = 0, damage: str = "all") -> dict[str, Counter[str]]:
    """Damage `count` files, one at a time, spread evenly over the kinds; what became of them by kind.

    Every bit of the names under which digests stand is flipped besides: a digest that is not found by its name must
    not make a file pass for one that never had any.
    """
    draw, found = random.Random(seed), dict[str, Counter[str]]()
    ways = list(DAMAGE.values()) if damage == "all" else [DAMAGE[damage]]
    every = kinds(folder)
    before = {kind.name: kind.read() for kind in every}
    for number in range(count):
        kind = every[number % len(every)]
        changed, place = ways[number // len(every) % len(ways)](kind.file.read_bytes(), draw)
        found.setdefault(kind.name, Counter())[outcome_of(kind, changed, place, before[kind.name])] += 1
    for kind in every:
        whole = kind.file.read_bytes()
        for name in (b'"sha256"', b'"sealed"'):
            if (start := whole.find(name)) >= 0:
                for bit in range(8 * start, 8 * (start + len(name))):
                    outcome = outcome_of(kind, with_bit(whole, bit), f"bit {bit}", before[kind.name])
                    found.setdefault(f"{kind.name} {name.decode()}", Counter())[outcome] += 1
    return found


def figures(result: dict[str, Counter[str]], damage: str) -> Figures:
    """The figures of a campaign."""
    made = Figures(f"flips {damage}")
    for name, outcomes in result.items():
        made.tried += outcomes.total()
        for outcome, count in outcomes.items():
            if outcome not in ("found", "without effect"):
                kind = "silently different" if outcome.startswith("silent") else "traceback"
                made.faults[kind] += count
        made.note(f"{name}: {dict(outcomes)}")
    return made


def main() -> int:
    """Run a campaign as the module says; 1 where there is a fault."""
    count, seed, damage = (*sys.argv[1:], *("0", "all")[len(sys.argv) - 2 :])
    with tempfile.TemporaryDirectory() as name:
        os.environ["PRBENCH_HOME"] = f"{name}/home"
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            result = campaign(Path(name), int(count), int(seed), damage)
    found = figures(result, damage)
    sys.stdout.write(f"{found}\n")
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main())
