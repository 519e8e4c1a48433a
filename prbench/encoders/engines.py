"""Engines: how token sequences go through a causal model, and what comes back of each.

All engines give the state of a sequence's last token (or the mean over its tokens) as the model computes it for
the sequence alone, up to float noise. `batch1` is that computation itself, one sequence at a time; `padded` reads
sequences of about equal length together, padded on the right; `trie` reads every shared beginning once, for
models that take an attention mask of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.encoders.packing import Batch, Rows, lay_out, pack
from prbench.encoders.trie import Tokens, Trie, ancestors, chains, grow

TOKEN_BUDGET = 4096
"""Tokens of one forward pass by default."""

# Model types whose attention is plainly causal and whose positions are those given; tested with their own code.
TREES = (
    *(
        "arcee",
        "cohere",
        "gemma",
        "glm",
        "glm4",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
    ),
    *("olmo2", "olmoe", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm"),
    "starcoder2",
)
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
# How far a state may be from the one read alone, relative to its size: noise is far below, another token far above.
NOISE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}


Pooling = Literal["last", "mean"] | Callable[[Tensor, Batch], Tensor]
"""What of the states [rows, width, d] of a forward pass is the embedding [n, d'] of its sequences."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model: its body, which gives the final states, and its linear reward head where it has one."""

    base: Any
    head: torch.nn.Linear | None
    device: str
    attention: str

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        dtype: torch.dtype = next(iter(self.base.parameters())).dtype
        return dtype


@dataclass(frozen=True, eq=False)
class States:
    """Sequences that were read: their `number` [n], `embedding` [n, d], `reward` float32 [n], and the pass's size."""

    number: list[int]
    embedding: Tensor
    reward: Tensor | None
    size: int


class Engine(Protocol):
    """How sequences are put together and given to the model."""

    name: str

    def tries(
        self, sequences: Sequence[Tokens], groups: Sequence[Hashable], *, budget: int, balance: float
    ) -> list[Trie]:
        """Sequences, which go by their place; only those of one group may share a beginning."""

    def pack(self, tries: Sequence[Trie], budget: int) -> list[Rows]:
        """Forward passes of at most `budget` tokens."""

    def inputs(self, batch: Batch, model: Model) -> dict[str, Tensor]:
        """The model's arguments for one forward pass."""


class TrieEngine:
    """Tries with their positions and an attention mask [rows, 1, width, width] of ancestors."""

    name = "trie"

    def tries(
        self, sequences: Sequence[Tokens], groups: Sequence[Hashable], *, budget: int, balance: float
    ) -> list[Trie]:
        """As in `Engine`: a trie per group, or several where it exceeds the budget or its attention costs more."""
        members: dict[Hashable, list[int]] = {}
        for k, group in enumerate(groups):
            members.setdefault(group, []).append(k)
        return [
            trie
            for group_members in members.values()
            for trie in grow([sequences[k] for k in group_members], group_members, limit=budget, balance=balance)
        ]

    def pack(self, tries: Sequence[Trie], budget: int) -> list[Rows]:
        """As in `Engine`."""
        return pack(tries, budget=budget, mixed=True)

    def inputs(self, batch: Batch, model: Model) -> dict[str, Tensor]:
        """As in `Engine`."""
        end = torch.from_numpy(batch.end).to(model.device)
        every = torch.arange(end.shape[1], device=model.device).expand_as(end)
        mask = ancestors(end, every)[:, None]
        if model.attention == "eager":
            lowest = torch.finfo(model.dtype).min
            mask = torch.zeros(mask.shape, dtype=model.dtype, device=model.device).masked_fill_(~mask, lowest)
        return {
            "input_ids": torch.from_numpy(batch.ids).to(model.device),
            "position_ids": torch.from_numpy(batch.position).to(model.device),
            "attention_mask": mask,
        }


class PaddedEngine:
    """Whole sequences, distinct ones once, those of about equal length together; padded on the right."""

    name = "padded"

    def tries(
        self, sequences: Sequence[Tokens], groups: Sequence[Hashable], *, budget: int, balance: float
    ) -> list[Trie]:
        """As in `Engine`: each distinct sequence by itself."""
        return chains(sequences, range(len(sequences)))

    def pack(self, tries: Sequence[Trie], budget: int) -> list[Rows]:
        """As in `Engine`."""
        return pack(tries, budget=budget, mixed=False)

    def inputs(self, batch: Batch, model: Model) -> dict[str, Tensor]:
        """As in `Engine`."""
        ids = torch.from_numpy(batch.ids)
        mask = torch.arange(ids.shape[1]) < torch.from_numpy(batch.length)[:, None]
        return {"input_ids": ids.to(model.device), "attention_mask": mask.long().to(model.device)}


class Batch1Engine(PaddedEngine):
    """One sequence at a time: the reference."""

    name = "batch1"

    def pack(self, tries: Sequence[Trie], budget: int) -> list[Rows]:
        """As in `Engine`, whatever the budget."""
        return pack(tries, budget=1, mixed=False)


EngineName = Literal["trie", "padded", "batch1"]
ENGINES: dict[str, Engine] = {engine.name: engine for engine in (TrieEngine(), PaddedEngine(), Batch1Engine())}


def tree_problem(config: Any, max_length: int) -> str | None:
    """Why a model of this configuration cannot read tries of sequences of up to `max_length` tokens, or None."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"])
    if "sliding_attention" in kinds and window and (not max_length or window < max_length):
        return f"it sees through a window of {window} tokens"
    if odd := sorted(set(kinds) - {"full_attention", "sliding_attention"}):
        return f"it has layers of {odd[0].replace('_', ' ')}"
    return together_problem(config)


def together_problem(config: Any) -> str | None:
    """Why a model of this configuration cannot read several sequences together, or None."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    for kind in LENGTH_DEPENDENT_ROPE:
        if kind in kinds:
            return f"its rotary positions (type {kind}) depend on the longest sequence read together"
    return None


def suitable(config: Any, max_length: int) -> EngineName:
    """The fastest engine that a model of this configuration is known to work with."""
    if together_problem(config):
        return "batch1"
    return "trie" if config.model_type in TREES and not tree_problem(config, max_length) else "padded"


def attention_balance(config: Any) -> float:
    """The `balance` of `trie.grow`: multiplications of a token in a layer's matrices, per token it attends to."""
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    if not heads:
        return math.inf
    head = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return matrix_size(config) / (2 * heads * head)


def matrix_size(config: Any) -> int:
    """The weights that a token meets in one layer: attention's projections and a gated feed-forward network."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or width // heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return width * head * 2 * (heads + shared) + 3 * width * inner


def run(
    model: Model,
    engine: Engine,
    tries: Sequence[Trie],
    *,
    budget: int,
    balance: float,
    pooling: Pooling = "last",
    halved: Callable[[int], None] | None = None,
) -> Iterator[States]:
    """What the model makes of every sequence, in the order of packing. Raises InputError as `run_passes`."""
    passes = engine.pack(tries, budget)
    return run_passes(model, engine, passes, budget=budget, balance=balance, pooling=pooling, halved=halved)


def run_passes(
    model: Model,
    engine: Engine,
    passes: Sequence[Rows],
    *,
    budget: int,
    balance: float,
    pooling: Pooling = "last",
    halved: Callable[[int], None] | None = None,
) -> Iterator[States]:
    """What the model makes of every sequence in `passes`, which hold at most `budget` tokens, in this order.

    Where memory runs out the budget is halved, and what is left is packed anew; `halved` is told the new budget,
    without it stderr is. Raises InputError when memory runs out for a single sequence.
    """
    left = list(passes)
    while left:
        for done, rows in enumerate(left):
            states = _or_none(partial(forward, model, engine, lay_out(rows), pooling))
            if states is None:
                tokens = sum(len(trie) for row in rows for trie in row)
                if tokens == rows[0][0].longest:
                    raise InputError(
                        f"a conversation of {tokens:,} tokens does not fit into the memory of {model.device}",
                        hint="end other programs that use it, or use --device cpu",
                    )
                budget = max(1, min(budget, tokens) // 2)
                if halved is None:
                    stderr().print(f"out of memory on {model.device}: going on with {budget:,} tokens at a time")
                else:
                    halved(budget)
                tries = [trie for later in left[done:] for row in later for trie in row]
                left = engine.pack([piece for trie in tries for piece in _pieces(trie, budget, balance)], budget)
                break
            yield states
        else:
            return


@torch.inference_mode()
def forward(model: Model, engine: Engine, batch: Batch, pooling: Pooling) -> States:
    """One forward pass. The reward is the head in float32 on the state of the last token, whatever the pooling."""
    hidden = model.base(**engine.inputs(batch, model), use_cache=False).last_hidden_state
    row, node = (torch.from_numpy(column).to(model.device) for column in (batch.row, batch.node))
    last = hidden[row, node]
    pooled = pooling(hidden, batch) if callable(pooling) else last if pooling == "last" else _means(hidden, batch)
    reward = None
    if model.head is not None:
        reward = last.float() @ model.head.weight.float()[0]
        if model.head.bias is not None:
            reward += model.head.bias.float()[0]
        reward = reward.cpu()
    return States(batch.number.tolist(), pooled.cpu(), reward, batch.size)


def _means(hidden: Tensor, batch: Batch) -> Tensor:
    """The mean state over the tokens of each sequence, summed in float32: [n, d]."""
    means = torch.empty((len(batch.number), hidden.shape[2]), dtype=hidden.dtype, device=hidden.device)
    for r in range(len(batch.ids)):
        sequences = np.flatnonzero(batch.row == r)
        on_path = torch.from_numpy(ancestors(batch.end[r], batch.node[sequences])).to(hidden.device).float()
        mean = on_path @ hidden[r].float() / on_path.sum(dim=1, keepdim=True)
        means[torch.from_numpy(sequences).to(hidden.device)] = mean.to(hidden.dtype)
    return means


def verify_tree_mask(model: Model, name: str, vocabulary: int) -> None:
    """Raise InputError unless the model reads a small trie as it reads the trie's sequences one by one."""
    generator = np.random.default_rng(0)
    draw = [generator.integers(0, vocabulary, size).astype(np.int32) for size in (12, 9, 14, 5)]
    sequences = [np.concatenate([draw[0], more]) for more in draw[1:]]
    embedding_by = {}
    for engine in (ENGINES["trie"], ENGINES["batch1"]):
        tries = engine.tries(sequences, [0] * 3, budget=TOKEN_BUDGET, balance=np.inf)
        states = list(run(model, engine, tries, budget=TOKEN_BUDGET, balance=np.inf))
        number = [n for part in states for n in part.number]
        embedding_by[engine.name] = torch.cat([part.embedding for part in states])[np.argsort(number)].float()
    alone = embedding_by["batch1"]
    if not bool(torch.isfinite(alone).all()):
        kind = str(model.dtype).removeprefix("torch.")
        raise InputError(
            f"{name} computes NaN or infinite states in {kind}: its numbers are too large for it",
            hint="use --dtype bfloat16 or float32" if kind == "float16" else "use --dtype float32",
        )
    off = float(((embedding_by["trie"] - alone).norm(dim=1) / alone.norm(dim=1)).max())
    if not off <= NOISE[model.dtype]:
        raise InputError(
            f"{name} does not take an attention mask for tries: states are off by {off:.0%}",
            hint="use --engine padded",
        )


def _or_none(compute: Callable[[], States]) -> States | None:
    """What `compute` returns, or None where memory ran out; its tensors are free again then."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        pass
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _pieces(trie: Trie, limit: int, balance: float) -> list[Trie]:
    """The trie, or smaller ones of its sequences where it has more than `limit` nodes."""
    if len(trie) <= limit or len(trie) == trie.longest:
        return [trie]
    return grow(trie.sequences(), trie.number.tolist(), limit=limit, balance=balance)
