"""Embedding a data set: what is encoded, what is kept, and what is refused."""

from __future__ import annotations

from pathlib import Path

import planted_encoder
import pytest
import torch
from planted_encoder import ENCODED, entry, texts_data

from prbench.base.errors import InputError
from prbench.comparisons import Items, Message
from prbench.embedding.stage import embed, embedding_fingerprint, plan_embedding
from prbench.embedding.store import SHARD_ROWS, EmbeddingStore
from prbench.encoders import OWN_ENTRY

ENCODER = {"id": "planted", "revision": "1", "dtype": "float32"}


@pytest.fixture
def folder(prbench_home: Path) -> Path:
    return prbench_home / "embeddings" / "toy" / "planted"


@pytest.fixture(autouse=True)
def _nothing_encoded_yet() -> None:
    ENCODED.clear()


def test_items_are_in_the_order_of_the_data_whatever_the_batch(prbench_home: Path) -> None:
    """The planted encoder computes each text by itself, so that its bits do not depend on the batch."""
    contexts = [(Message("user", "one"),), (Message("system", "s"), Message("user", "two"))]
    data = texts_data(["a", "bb", "", "naïve ✓", "a"], contexts)
    items = embed(data, entry(), batch=2)
    texts = [(contexts[i % 2], response) for i, response in enumerate(data.responses)]
    expected = planted_encoder.Planted().encode(texts, device="cpu")
    assert torch.equal(items.embedding, expected.embedding)
    assert items.reward is not None
    assert expected.reward is not None
    assert torch.equal(items.reward, expected.reward)
    assert items.head is not None
    assert torch.equal(items.head, torch.arange(5) / 3)
    assert items.length is not None
    assert items.length.tolist() == [1, 2, 0, 7, 1]
    assert items.identity is not None
    assert items.identity.tolist() == [0, 1, 2, 3, 4]


def test_shards_have_4096_rows(folder: Path) -> None:
    embed(texts_data([f"r{i}" for i in range(SHARD_ROWS + 900)]), entry(), batch=1000)
    assert [shard.rows for shard in EmbeddingStore.open(folder).shards] == [SHARD_ROWS, 900]


def test_equal_texts_are_encoded_once_and_only_new_ones_later(folder: Path) -> None:
    embed(texts_data(["a", "b", "a", "c"]), entry())
    assert [response for _, response in ENCODED] == ["a", "b", "c"]
    ENCODED.clear()
    embed(texts_data(["d", "c", "a", "e"]), entry())
    assert [response for _, response in ENCODED] == ["d", "e"]
    assert [shard.rows for shard in EmbeddingStore.open(folder).shards] == [3, 2]


def test_settings_of_one_family_share_their_embeddings(prbench_home: Path) -> None:
    """The second setting reads what the first has stored: nothing is computed again."""
    one = embed(texts_data(["a", "b"], name="convarg"), entry(), family="convarg")
    ENCODED.clear()
    two = embed(texts_data(["b", "a"], name="convarg-topics"), entry(), family="convarg")
    assert not ENCODED
    assert torch.equal(one.embedding.flip(0), two.embedding)


def test_the_fingerprint_follows_texts_and_encoder_and_nothing_else(prbench_home: Path) -> None:
    data = texts_data(["a", "b"])
    first = embedding_fingerprint(data, entry())
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert embedding_fingerprint(texts_data(["a", "b"], name="other"), entry(wait=0.1), family="f") == first
    assert embedding_fingerprint(texts_data(["a", "B"]), entry()) != first
    assert embedding_fingerprint(texts_data(["a", "b"], [(Message("user", "x"),)]), entry()) != first
    assert embedding_fingerprint(texts_data(["a", "b"], [(Message("system", "Which one?"),)]), entry()) != first
    assert embedding_fingerprint(data, entry(revision="2")) != first
    assert not (prbench_home / "embeddings").exists()


def test_a_plan_writes_nothing_and_counts(prbench_home: Path) -> None:
    plan = plan_embedding(texts_data(["a", "b", "a"]), entry())
    assert (plan.texts, plan.missing) == (2, 2)
    assert not prbench_home.exists()
    embed(texts_data(["a", "z"]), entry())
    plan = plan_embedding(texts_data(["a", "b", "a"]), entry())
    assert (plan.texts, plan.missing) == (2, 1)
    assert plan.as_dict()["folder"] == str(prbench_home / "embeddings" / "toy" / "planted")


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        (["a", "b", "nan", "d"], {}, "item 2 of toy cannot be encoded by planted: .*NaN or infinite"),
        (["a", "inf"], {}, "item 1 of toy .*NaN or infinite"),
        (["a", "b"], {"made_dim": 4}, r"item 0 of toy .*shape \[2, 4\], not \[2, 5\]"),
        (["a", "b\ud83d"], {}, "item 1 of toy .*not valid Unicode"),
        (["a", "b"], {"dtype": "float64"}, "item 0 of toy .*float64"),
    ],
)
def test_embeddings_that_cannot_be_are_named_and_nothing_is_stored(
    prbench_home: Path, responses: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        embed(texts_data(responses), entry(**options))
    assert "\n" not in str(error.value)
    assert not (prbench_home / "embeddings" / "toy").exists()


def test_cut_contexts_are_counted_and_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed(texts_data(["a long one", "b", "long too"]), entry())
    assert "2 of 3 contexts were cut" in " ".join(capsys.readouterr().err.split())
    assert EmbeddingStore.open(folder).shards[0].contexts_cut == 2


def test_the_manifest_names_the_data_embedded(folder: Path) -> None:
    data = texts_data(["a", "b"])
    embed(data, entry())
    manifest = EmbeddingStore.open(folder).manifest
    assert manifest is not None
    assert manifest.data == {"toy": data.fingerprint}
    assert manifest.encoder == ENCODER


def test_data_with_their_own_embeddings_are_returned_as_they_are(prbench_home: Path) -> None:
    from dataclasses import replace

    own = Items(torch.arange(6.0).reshape(3, 2))
    data = replace(texts_data(["a", "b", "c"]), embedded=own)
    assert embed(data, OWN_ENTRY) is own
    assert plan_embedding(data, OWN_ENTRY).missing == 0
    assert len(embedding_fingerprint(data, OWN_ENTRY)) == 16
    with pytest.raises(InputError, match="comes with embeddings and cannot be encoded by planted"):
        embed(data, entry())
    with pytest.raises(InputError, match="comes without embeddings"):
        embed(texts_data(["a", "b"]), OWN_ENTRY)
    assert not prbench_home.exists()


def test_an_unknown_option_names_the_nearest(prbench_home: Path) -> None:
    with pytest.raises(InputError, match=r"options\.revison: there is no such option; did you mean revision"):
        embed(texts_data(["a", "b"]), entry(revison="2"))
