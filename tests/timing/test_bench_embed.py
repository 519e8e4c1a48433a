"""`prbench bench embed`: what is generated, counted and compared."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from prbench import cli
from prbench.base.errors import InputError
from prbench.timing import embed

KEYS = "shape tokens_published tokens_packed token_ratio time_ratio max_abs_difference"


def test_records_have_what_they_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "embed", "--config", "tiny", "--rounds", "1", "--device", "cpu", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["shape"] for record in records] == ["prism", "tldr"]
    for record in records:
        assert record.keys() >= set(KEYS.split())
        assert record["token_ratio"] == record["tokens_published"] / record["tokens_packed"]
        assert 0 < record["max_abs_difference"] < 1e-5
        assert record["time_ratio"] > 1
        assert record["mfu"] > 0
        assert "projected_seconds" not in record
    assert records[0]["token_ratio"] > 2.5
    assert records[1]["token_ratio"] > 5


def test_the_largest_configuration_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shapes of the tiny one in its place: 8 billion random weights are for a GPU."""
    monkeypatch.setitem(embed.SIZES, "8b", embed.SIZES["tiny"])
    prism, tldr = embed.embed("8b", device="cpu", rounds=1)
    assert prism["projected_seconds"] == pytest.approx(9.5e6 / prism["tokens_packed_per_second"])
    assert tldr["projected_seconds_published"] == pytest.approx(143.5e6 / tldr["tokens_published_per_second"])


def test_the_8b_configuration_has_8_billion_weights() -> None:
    from transformers import LlamaConfig

    config = embed.SIZES["8b"].config
    model = embed.random_model(config, "meta", torch.bfloat16)
    # Without the language model's head, which has as many as the token embeddings: Llama 3.1 8B has 8.03 billion.
    weights = sum(parameter.numel() for parameter in model.base.parameters())
    assert weights + config["vocab_size"] * config["hidden_size"] == 8_030_261_248
    per_layer = (weights - config["vocab_size"] * config["hidden_size"]) / 32
    assert embed.engines.matrix_size(LlamaConfig(**config)) == pytest.approx(per_layer, rel=1e-4)


def test_conversations_are_like_prisms() -> None:
    """Counts of the whole data set: 8,011 conversations, 81,868 sides of 330 tokens, 8.5 replies each."""
    texts = embed.conversations(800)
    lengths = np.array([len(ids) for ids in texts.sequences])
    assert len(texts.sequences) / 800 == pytest.approx(8.5, rel=0.08)
    assert len(texts.sides) / 800 == pytest.approx(81_868 / 8_011, rel=0.08)
    assert lengths[texts.sides].mean() == pytest.approx(330, rel=0.15)
    assert max(texts.groups) == 799


def test_posts_have_four_summaries_in_two_comparisons_each() -> None:
    texts = embed.posts(300)
    assert np.bincount(texts.sides).tolist() == [2] * 1200
    assert all(a // 4 == b // 4 and a != b for a, b in zip(texts.sides[::2], texts.sides[1::2], strict=True))
    lengths = np.array([len(ids) for ids in texts.sequences])
    assert lengths.mean() == pytest.approx(401, rel=0.1)


def test_beginnings_are_shared_as_in_the_data() -> None:
    texts = embed.conversations(20)
    for number in range(20):
        own = [ids for ids, group in zip(texts.sequences, texts.groups, strict=True) if group == number]
        first = len(own[0])
        later = [ids for ids in own[4:] if len(ids) > first]
        # The history of later turns begins with the first turn's first reply.
        assert later
        assert all(np.array_equal(ids[:first], own[0]) for ids in later)


def test_an_unknown_configuration_is_one_line() -> None:
    with pytest.raises(InputError, match="--config huge: there is no such configuration"):
        embed.embed("huge", device="cpu")
