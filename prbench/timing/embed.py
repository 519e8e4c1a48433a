"""Tokens and time of embedding conversations and posts, against reading both sides of every comparison alone.

The published MRM scripts (Cai et al. 2026, arXiv 2601.18731) read chosen and rejected of each comparison one at a
time. The same texts are read here both ways by the same randomly initialised model in one run: speed depends on
shapes alone. Lengths follow what is documented of PRISM (Kirk et al. 2024, arXiv 2404.16019: codebook and
notebooks) and of Reddit TL;DR (Stiennon et al. 2020, arXiv 2009.01325), at 4.6 characters a token.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.encoders import engines
from prbench.encoders.base import require_device, resolved_device
from prbench.encoders.engines import ENGINES, TOKEN_BUDGET, Model
from prbench.encoders.trie import Tokens

# A template's beginning with its system block, and what it writes around each message.
SYSTEM, AROUND = 26, 5
# PRISM: tokens of a user's message and of a reply; replies in the first turn and in later ones; turns of a
# conversation are 2 and more, on average 3.39 with a standard deviation of 1.58.
ASKED, REPLIED, FIRST_REPLIES, LATER_REPLIES = 15, 123, 4, 2
TURNS_MEAN, TURNS_SD, TURNS_LEAST = 3.392, 1.579, 2
# TL;DR: tokens of a post with its template, and of a summary; summaries of a post, each in two comparisons.
POST, SUMMARY, SUMMARIES = 361, 40, 4
# Lengths of messages spread about their means as a gamma distribution of this shape does.
SPREAD = 2.0
# Tokens of the whole data sets read each way, from the sources above (estimates): embedding at scale.
WHOLE = {"prism": (27.0e6, 9.5e6), "tldr": (143.5e6, 23.3e6)}
MATMUL = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True)
class Size:
    """A model's configuration, and how many conversations and posts are read with it."""

    config: dict[str, Any]
    conversations: int
    posts: int
    scale: float = 1.0


SIZES = {
    "tiny": Size(
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        conversations=3,
        posts=2,
        scale=0.1,
    ),
    "small": Size(
        {
            "vocab_size": 4096,
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
        conversations=6,
        posts=6,
        scale=0.5,
    ),
    # Llama 3.1 8B (Llama team 2024, arXiv 2407.21783), the base of both Skywork models.
    "8b": Size(
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        conversations=64,
        posts=64,
    ),
}


@dataclass(frozen=True, eq=False)
class Texts:
    """Token sequences, the conversation or post of each, and the sequences that comparisons have on their sides."""

    sequences: list[Tokens]
    groups: list[int]
    sides: list[int]


def embed(
    config: str = "small", *, device: str = "auto", rounds: int = 3, token_budget: int = 0
) -> list[dict[str, Any]]:
    """One record per length distribution: "prism" (conversations) and "tldr" (posts with four summaries).

    `tokens_published` are those of both sides of every comparison, `tokens_packed` those that go through the
    model in tries, padding included; `time_ratio` is the median over `rounds` of the seconds of the one over those
    of the other, which take turns; building the tries is part of the time, tokenising of neither.
    `max_abs_difference` is between the embeddings of both, whose root mean square is about 1. `mfu` counts the
    model's matrices alone, as a share of the rate of a plain matrix product measured in the same run.
    Raises InputError for an unknown configuration and for a device that is not there.
    """
    if config not in SIZES:
        raise InputError(
            f"--config {config}: there is no such configuration", hint=f"it is one of {', '.join(SIZES)}"
        )
    device = resolved_device(device)
    require_device(device)
    size = SIZES[config]
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    model = random_model(size.config, device, dtype)
    shapes = {"prism": conversations(size.conversations, size.scale), "tldr": posts(size.posts, size.scale)}
    records = []
    with progress() as display:
        bar = display.add_task(f"reading with {config}", total=len(shapes) * (2 * rounds + 2))
        for shape, texts in shapes.items():
            record = _compare(
                model,
                texts,
                token_budget or TOKEN_BUDGET,
                rounds,
                int(size.config["vocab_size"]),
                display.advance,
                bar,
            )
            rate = matmul_rate(device, dtype)
            used = 2 * engines.matrix_size(model.base.config) * int(size.config["num_hidden_layers"])
            record |= {
                "mfu": record["tokens_packed_per_second"] * used / rate,
                "mfu_published": record["tokens_published_per_second"] * used / rate,
                "matmul_tflops": rate / 1e12,
            }
            if config == "8b":
                published, packed = WHOLE[shape]
                record |= {
                    "projected_seconds": packed / record["tokens_packed_per_second"],
                    "projected_seconds_published": published / record["tokens_published_per_second"],
                    "projected_from": f"about {packed / 1e6:.1f} M packed tokens of all of {shape}, an estimate",
                }
            records.append(
                {
                    "shape": shape,
                    **record,
                    "config": config,
                    "length_scale": size.scale,
                    "dtype": str(dtype).removeprefix("torch."),
                    "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine(),
                    "threads": torch.get_num_threads(),
                    "torch": torch.__version__,
                }
            )
    return records


def conversations(count: int, scale: float = 1.0) -> Texts:
    """PRISM-like conversations: a reply of every turn goes into the history, compared with each of the others.

    Their numbers of turns are evenly spaced quantiles of the documented distribution, so that few stand for many.
    """
    from scipy.stats import nbinom

    generator = Rng("bench embed", "prism").numpy()
    mean, variance = TURNS_MEAN - TURNS_LEAST, TURNS_SD**2
    success = mean / variance
    quantiles = (np.arange(count) + 0.5) / count
    turns = TURNS_LEAST + nbinom.ppf(quantiles, mean * success / (1 - success), success).astype(int)
    sequences: list[Tokens] = []
    groups: list[int] = []
    sides: list[int] = []
    for number, own in enumerate(turns.tolist()):
        history = _tokens(generator, _scaled(SYSTEM, scale))
        for turn in range(own):
            around = _scaled(AROUND, scale)
            history = np.concatenate([history, _drawn(generator, ASKED, scale), _tokens(generator, around)])
            replies = FIRST_REPLIES if turn == 0 else LATER_REPLIES
            first = len(sequences)
            for _ in range(replies):
                reply = np.concatenate([_drawn(generator, REPLIED, scale), _tokens(generator, around)])
                sequences.append(np.concatenate([history, reply]))
                groups.append(number)
            for other in range(1, replies):
                sides += [first, first + other]
            history = sequences[first]
    return Texts(sequences, groups, sides)


def posts(count: int, scale: float = 1.0) -> Texts:
    """TL;DR-like posts of four summaries, each compared with two others."""
    generator = Rng("bench embed", "tldr").numpy()
    sequences: list[Tokens] = []
    groups: list[int] = []
    sides: list[int] = []
    for number in range(count):
        post = _drawn(generator, POST, scale)
        first = len(sequences)
        for _ in range(SUMMARIES):
            sequences.append(np.concatenate([post, _drawn(generator, SUMMARY, scale)]))
            groups.append(number)
        for k in range(SUMMARIES):
            sides += [first + k, first + (k + 1) % SUMMARIES]
    return Texts(sequences, groups, sides)


def random_model(config: dict[str, Any], device: str, dtype: torch.dtype) -> Model:
    """A Llama with Llama 3.1's rotary positions and random weights; nothing is downloaded."""
    from transformers import LlamaConfig, LlamaModel

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    made: Any = LlamaConfig(**config, max_position_embeddings=131072, rope_parameters=rope)
    made._attn_implementation = "sdpa"
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            base: Any = LlamaModel(made)
    finally:
        torch.set_default_dtype(default)
    return Model(base.eval(), None, device, "sdpa")


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product in `dtype`, best of five."""
    n = MATMUL["cuda" if device.startswith("cuda") else "cpu"]
    # Zeros and ones would draw less power, and so run faster, than numbers do.
    a, b = (torch.randn((n, n), device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * n**3 / min(_timed(lambda: torch.mm(a, b), device) for _ in range(5))


def _compare(
    model: Model,
    texts: Texts,
    budget: int,
    rounds: int,
    vocabulary: int,
    advance: Callable[[Any], None],
    bar: Any,
) -> dict[str, Any]:
    """Both ways `rounds` times in turns, once each before that; tokens are brought below `vocabulary`."""
    sequences = [ids % vocabulary for ids in texts.sequences]
    sides = [sequences[k] for k in texts.sides]
    balance = engines.attention_balance(model.base.config)
    alone, trie = ENGINES["batch1"], ENGINES["trie"]
    states: dict[str, torch.Tensor] = {}
    counted: dict[str, int] = {}

    def published() -> None:
        found = torch.empty((len(sequences), model.base.config.hidden_size))
        # Each side as it comes: equal ones are read as often as they are compared.
        for k, ids in zip(texts.sides, sides, strict=True):
            tries = alone.tries([ids], [0], budget=budget, balance=balance)
            for part in engines.run(model, alone, tries, budget=budget, balance=balance):
                found[k] = part.embedding[0].float()
        states["published"] = found

    def packed() -> None:
        found = torch.empty((len(sequences), model.base.config.hidden_size))
        tries = trie.tries(sequences, texts.groups, budget=budget, balance=balance)
        counted["packed"] = 0
        for part in engines.run(model, trie, tries, budget=budget, balance=balance):
            found[part.number] = part.embedding.float()
            counted["packed"] += part.size
        states["packed"] = found

    seconds: dict[str, list[float]] = {"published": [], "packed": []}
    for turn in range(rounds + 1):
        for name, read in (("published", published), ("packed", packed)):
            taken = _timed(read, model.device)
            advance(bar)
            # The first of each warms up.
            if turn:
                seconds[name].append(taken)
    tokens = sum(len(ids) for ids in sides)
    ratios = [a / b for a, b in zip(seconds["published"], seconds["packed"], strict=True)]
    return {
        "texts_published": len(sides),
        "texts_distinct": len(sequences),
        "tokens_published": tokens,
        "tokens_packed": counted["packed"],
        "token_ratio": tokens / counted["packed"],
        "seconds_published": float(np.median(seconds["published"])),
        "seconds_packed": float(np.median(seconds["packed"])),
        "time_ratio": float(np.median(ratios)),
        "tokens_published_per_second": tokens / float(np.median(seconds["published"])),
        "tokens_packed_per_second": counted["packed"] / float(np.median(seconds["packed"])),
        "max_abs_difference": float((states["published"] - states["packed"]).abs().max()),
        "rounds": rounds,
    }


def _timed(compute: Callable[[], Any], device: str) -> float:
    start = now(device)
    compute()
    return now(device) - start


def now(device: str) -> float:
    """Seconds; what a GPU was given before is done by then."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _scaled(mean: float, scale: float) -> int:
    return max(1, round(mean * scale))


def _drawn(generator: np.random.Generator, mean: float, scale: float) -> Tokens:
    """A message whose length is about `mean` tokens, scaled."""
    return _tokens(generator, max(1, round(generator.gamma(SPREAD, mean * scale / SPREAD))))


def _tokens(generator: np.random.Generator, count: int) -> Tokens:
    return generator.integers(0, 2**31 - 1, count).astype(np.int32)
