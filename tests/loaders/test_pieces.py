"""Large data go through memory in pieces, and come out as they would at one go."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from prbench import comparisons, data, registry
from prbench.base import hashing
from prbench.base.seeds import Rng
from prbench.comparisons import Message, PreferenceData
from prbench.contract import population
from prbench.loaders import table
from prbench.loaders.user_file import import_table
from prbench.loaders.user_rows import read_file
from prbench.training import tables
from prbench.training.tables import DifferenceTable, without_residue


@pytest.mark.parametrize("texts", [0, 1, 2, 5])
def test_a_fingerprint_hashes_the_bytes_it_always_did(texts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "TEXTS_AT_ONCE", 2)
    contexts = tuple((Message("user", f"it's {i} \\ 'ü\n"), Message("assistant", '"')) for i in range(texts))
    responses = tuple(f'é{i}"' for i in range(texts))
    for columns in ((contexts, responses), (responses[:1], contexts), (contexts,)):
        assert b"".join(hashing.spelled(*columns)) == repr(columns).encode()
    numbers = np.arange(6, dtype=np.int64).reshape(2, 3)
    for column in (numbers, numbers[:, 1:], numbers[:0], numbers.astype(np.float32)):
        plain, pieces = hashlib.sha256(), hashlib.sha256()
        plain.update(np.ascontiguousarray(column).tobytes())
        hashing.update(pieces, column)
        assert plain.digest() == pieces.digest()


def test_a_limit_takes_the_rows_it_always_took() -> None:
    """Users are found at one go; what is drawn depends on the names and on the user alone."""
    loaded = data.load(registry.get("datasets", "simulated"))
    limited = loaded.limited(7)
    kept = []
    for user in range(loaded.n_users):
        own = np.flatnonzero(loaded.user == user)
        order = Rng("limit", loaded.name, user).numpy().permutation(np.unique(loaded.group[own]))
        place = np.argsort(order)[np.searchsorted(np.sort(order), loaded.group[own])]
        kept.append(own[np.argsort(place, kind="stable")][:7])
    rows = np.sort(np.concatenate(kept))
    np.testing.assert_array_equal(limited.user, loaded.user[rows])
    np.testing.assert_array_equal(limited.group, loaded.group[rows])


def test_differences_in_blocks_have_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = population(users=5, dim=6, groups=(2, 3), seed=1, dtype=torch.float32)
    embedding = choices.items.embedding
    embedding[:, 2] *= 1e-32
    whole = embedding[torch.from_numpy(choices.chosen)] - embedding[torch.from_numpy(choices.rejected)]
    monkeypatch.setattr(comparisons, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 4)
    assert torch.equal(choices.differences(), whole)
    assert torch.equal(
        choices.differences(dtype=torch.float64),
        embedding.double()[torch.from_numpy(choices.chosen)] - embedding.double()[torch.from_numpy(choices.rejected)],
    )
    made = DifferenceTable.of([choices], device="cpu").matrix
    assert torch.equal(made, without_residue(whole))
    assert not made[:, 2].any()
    nothing = choices.take(np.empty(0, dtype=np.int64)).differences()
    assert nothing.shape == (0, 6)


def loaded_at_one_go(path: Path, name: str) -> PreferenceData:
    """The numbering of an imported table, from its columns as a whole."""
    frame = pd.read_parquet(path)
    user, users = pd.factorize(frame["user"])
    context, contexts = pd.factorize(frame["context"])
    keys = [(c, r) for side in ("chosen", "rejected") for c, r in zip(context, frame[side], strict=True)]
    item, items = pd.factorize(pd.Series(keys))
    return PreferenceData(
        name=name,
        contexts=tuple(comparisons.as_context(json.loads(text)) for text in contexts),
        item_context=np.array([c for c, _ in items], dtype=np.int64),
        responses=tuple(r for _, r in items),
        user=user.astype(np.int64),
        chosen=item[: len(frame)].astype(np.int64),
        rejected=item[len(frame) :].astype(np.int64),
        group=(pd.factorize(frame["conversation"])[0] if "conversation" in frame else context).astype(np.int64),
        user_keys=tuple(users),
        time=frame["seconds"].to_numpy() if "seconds" in frame else None,
    )


@pytest.mark.parametrize("whole", [False, True])
def test_an_imported_file_is_numbered_as_at_one_go(
    whole: bool, tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 7)
    draw = np.random.default_rng(0)
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(50):
            user, prompt, a = (int(draw.integers(n)) for n in (6, 9, 4))
            row = {"user_id": f"u{user}", "prompt": f"p{prompt}", "chosen": f"r{a}", "rejected": f"r{(a + 1) % 4}"}
            row |= {"conversation_id": f"c{prompt}-{user % 2}", "timestamp": 1000.5 + i} if whole else {}
            file.write(json.dumps(row) + "\n")
    import_table(tmp_path / "a.jsonl", "mine")
    entry = registry.get("datasets", "mine")
    found = data.make_loader(entry).load(data.RawFiles(entry), "mine")
    wanted = loaded_at_one_go(prbench_home / "imported" / "mine" / table.TABLE, "mine")
    assert found.fingerprint == wanted.fingerprint
    assert (found.time is None) is not whole
    data.load(entry)


def test_texts_that_recur_are_held_once(tmp_path: Path) -> None:
    rows = [
        {"user_id": f"u{i % 2}", "prompt": "Which one?", "chosen": "This.", "rejected": "That."} for i in range(4)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_file(tmp_path / "a.jsonl").rows
    for column in ("context", "chosen", "rejected"):
        assert len({id(getattr(row, column)) for row in found}) == 1, column
    assert len({id(row.user) for row in found}) == 2
