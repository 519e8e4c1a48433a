"""Embedding again is the same again: what is read together follows from the data, never from what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_llama
import torch
from planted_encoder import entry, texts_data

from prbench.base.errors import InputError
from prbench.comparisons import Message, PreferenceData
from prbench.embedding import stage
from prbench.embedding.job import open_job, store_folder
from prbench.embedding.shares import encode_share
from prbench.embedding.stage import embed
from prbench.embedding.store import EmbeddingStore
from prbench.encoders import encoder_entry_for, with_options
from prbench.encoders.base import TextError
from prbench.encoders.huggingface import HuggingFace
from prbench.encoders.minilm import MiniLM
from prbench.registry.schema import EncoderEntry

ROWS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama.build(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch, prbench_home: Path) -> None:
    monkeypatch.setattr(stage, "SHARD_ROWS", ROWS)
    monkeypatch.setattr(MiniLM, "texts_at_once", 7)


def data(count: int = 60, start: int = 0) -> PreferenceData:
    draw = np.random.default_rng(3)
    contexts = [(Message("user", "word " * int(draw.integers(1, 30))),) for _ in range(7)]
    return texts_data([f"{i} " + "reply " * (i * 7 % 13) for i in range(start, start + count)], contexts)


def encoder(kind: str, model: Path) -> EncoderEntry:
    if kind == "own":
        return entry().model_copy(update={"target": "planted_encoder:Neighbours"})
    if kind in ("trie", "padded"):
        made = with_options(encoder_entry_for(str(model)), engine=kind)
        return made.model_copy(update={"options": {**made.options, "dtype": "float32"}})
    return encoder_entry_for(kind)


@pytest.mark.parametrize(
    ("kind", "lost"),
    [("trie", (0,)), ("trie", (1, 3)), ("padded", (1, 2)), ("minilm", (1, 2)), ("minilm-joint", (3,)), ("own", (2,))],
)
def test_what_is_lost_comes_back_to_the_bit(kind: str, lost: tuple[int, ...], model: Path) -> None:
    """Rounding follows what shares a pass. The passes are planned over all texts of the data, whatever is stored already,
    and both runs are in one process, at one number of threads.
    """
    made = encoder(kind, model)
    whole = embed(data(), made, token_budget=300 * (kind in ("trie", "padded")))
    folder = store_folder("toy", made.name)
    shards = [shard.file for shard in EmbeddingStore.open(folder).shards]
    assert len(shards) == 4
    for number in lost:
        (folder / shards[number]).unlink()
    again = embed(data(), made, token_budget=300 * (kind in ("trie", "padded")))
    assert torch.equal(whole.embedding, again.embedding)
    if whole.reward is not None and again.reward is not None:
        assert torch.equal(whole.reward, again.reward)
    assert EmbeddingStore.open(folder).verify() == []


@pytest.mark.parametrize("kind", ["trie", "own"])
def test_an_interrupted_embedding_goes_on_to_the_bit(
    kind: str, model: Path, monkeypatch: pytest.MonkeyPatch, prbench_home: Path
) -> None:
    """The passes are planned over all texts of the data, and both runs are in one process, at one number of threads."""
    made = encoder(kind, model)
    budget = 300 * (kind == "trie")
    whole = embed(data(), made, token_budget=budget)
    folder = store_folder("toy", made.name)
    folder.rename(folder.with_name("uninterrupted"))
    append, appended = EmbeddingStore.append, []

    def stops(self: EmbeddingStore, *rows: Any, **more: Any) -> None:
        if len(appended) == 2:
            raise InputError("the disk is full")
        append(self, *rows, **more)
        appended.append(1)

    with monkeypatch.context() as once:
        once.setattr(EmbeddingStore, "append", stops)
        with pytest.raises(InputError, match="the disk is full"):
            embed(data(), made, token_budget=budget)
    assert 0 < len(EmbeddingStore.open(folder)) < 60
    assert torch.equal(embed(data(), made, token_budget=budget).embedding, whole.embedding)


@pytest.mark.parametrize("kind", ["trie", "padded", "own"])
def test_shares_have_the_bits_of_one_go(kind: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder(kind, model)
    budget = 300 * (kind != "own")
    whole = embed(data(), made, token_budget=budget)
    folder = store_folder("toy", made.name)
    folder.rename(folder.with_name("at-one-go"))

    def share(index: int) -> float:
        told: list[float] = []
        encode_share(open_job(data(), made, None, "cpu", budget), index, 3, "cpu", told.append)
        return sum(told)

    first = open_job(data(), made, None, "cpu", budget)
    first.store.begin(first.fingerprint, first.keys)
    assert share(2) == pytest.approx(1.0)
    done = len(EmbeddingStore.open(folder))
    assert 0 < done < 60
    assert not EmbeddingStore.open(folder).manifest.data  # type: ignore[union-attr]
    append: Any = EmbeddingStore.append

    def stops(self: EmbeddingStore, *rows: Any, **more: Any) -> None:
        append(self, *rows, **more)
        raise InputError("the machine was lost")

    # A share is lost after its first shard, and begun again; one that is done already does nothing.
    with monkeypatch.context() as once:
        once.setattr(EmbeddingStore, "append", stops)
        with pytest.raises(InputError, match="was lost"):
            share(0)
    assert done < len(EmbeddingStore.open(folder)) < 60
    share(0)
    assert share(2) == 0.0
    share(1)
    store = EmbeddingStore.open(folder)
    assert (len(store), store.verify()) == (60, [])
    assert list(store.manifest.data) == ["toy"]  # type: ignore[union-attr]
    again = embed(data(), made, token_budget=budget)
    assert torch.equal(whole.embedding, again.embedding)


def test_the_control_read_by_themselves_the_missing_ones_differ(model: Path) -> None:
    """Without the whole data's packing the last bits would be others: else the tests above could not fail."""
    rows = range(20, 60)
    texts = [(data().contexts[i % 7], data().responses[i]) for i in range(60)]
    made = HuggingFace(model=str(model), dtype="float32", engine="padded")
    made.token_budget = 300
    whole = made.encode(texts, device="cpu").embedding
    part = made.encode([texts[row] for row in rows], device="cpu").embedding
    torch.testing.assert_close(whole[20:], part, atol=1e-4, rtol=1e-4)
    assert not torch.equal(whole[20:], part)


def test_only_new_texts_of_other_data_are_read_and_theirs_come_back_too(model: Path) -> None:
    """What is stored is read and not computed; what is lost is computed in the passes in which it was made."""
    made = encoder("padded", model)
    first = embed(data(40), made, token_budget=300)
    second = embed(data(), made, token_budget=300)
    assert torch.equal(second.embedding[:40], first.embedding)
    folder = store_folder("toy", made.name)
    shards = [shard.file for shard in EmbeddingStore.open(folder).shards]
    (folder / shards[-1]).unlink()
    (folder / shards[0]).unlink()
    assert torch.equal(embed(data(), made, token_budget=300).embedding[40:], second.embedding[40:])


def test_shares_of_processes_are_made_of_the_same_passes(model: Path) -> None:
    """All shares are computed here, in one process, at one number of threads."""
    made = HuggingFace(model=str(model), dtype="float32")
    made.token_budget = 300
    texts = [(data().contexts[i % 7], data().responses[i]) for i in range(60)]
    whole = made.encode(texts, device="cpu").embedding
    work = made.plan(texts)
    for part in (part for k in range(3) for part in work.share(k, 3).run("cpu")):
        assert torch.equal(part.encoded.embedding, whole[part.rows])


def test_a_record_of_what_was_there_before_that_is_damaged_is_one_line(model: Path) -> None:
    embed(data(), encoder("own", model).model_copy(update={"target": "planted_encoder:Planted"}))
    folder = store_folder("toy", "planted")
    [path] = folder.glob("before-*.keys")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    (folder / "shard-00000.safetensors").unlink()
    with pytest.raises(InputError, match=r"before-\w+\.keys is corrupt"):
        embed(data(), encoder("own", model).model_copy(update={"target": "planted_encoder:Planted"}))


def test_half_a_surrogate_pair_never_reaches_a_tokenizer(model: Path) -> None:
    for made in (HuggingFace(model=str(model), dtype="float32"), MiniLM(), MiniLM(mode="joint")):
        for text in [((Message("user", "ab\ud800"),), "fine"), ((Message("user", "fine"),), "\udc00")]:
            with pytest.raises(TextError, match="surrogate pair") as error:
                made.encode([((Message("user", "fine"),), "fine"), text], device="cpu")
            assert error.value.row == 1
