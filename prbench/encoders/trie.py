"""Token tries: sequences of tokens that begin alike, with every shared beginning kept once.

A trie is flattened in depth-first order, so that the descendants of a node are the nodes right after it: node j
descends from node i (or is i) exactly when i <= j < end[i]. In a causal model a token sees the tokens before it
in its own sequence alone, which are its ancestors: the state of a sequence's last token comes out as if the
sequence had been read by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Trie:
    """T nodes of n sequences; several roots are allowed.

    Per node, int32 [T]: its token `ids`, its `position` in every sequence through it, and `end`, the node after
    its last descendant. Per sequence, [n]: its `number` (int64) and the node `last` of its last token.
    """

    ids: Tokens
    position: Tokens
    end: Tokens
    number: NDArray[np.int64]
    last: Tokens

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def longest(self) -> int:
        """The number of tokens of its longest sequence."""
        return int(self.position.max()) + 1

    def path(self, k: int) -> NDArray[np.int64]:
        """The nodes of sequence k, first token first."""
        last = int(self.last[k])
        return np.flatnonzero(self.end[: last + 1] > last)

    def sequences(self) -> list[Tokens]:
        """The n sequences."""
        return [self.ids[self.path(k)] for k in range(len(self.last))]


def grow(
    sequences: Sequence[Tokens], numbers: Sequence[int], *, limit: int = 0, balance: float = math.inf
) -> list[Trie]:
    """Tries of sequences of one token or more, which go by their `numbers`.

    `limit` is the number of nodes that a trie may have (0 for any); a longer sequence has a trie of its own.
    `balance` is the cost of attending to one more token, measured in tokens of matrix work: attention in a trie of T
    nodes costs T^2, so a sequence joins only where the beginning that it shares saves more than the attention to the
    whole trie costs. `math.inf` counts tokens alone.
    """
    # Big-endian bytes sort as the numbers do.
    order = sorted(range(len(sequences)), key=lambda k: sequences[k].astype(">u4").tobytes())
    tries: list[Trie] = []
    piece: list[int] = []
    shared: list[int] = []
    size = 0
    for k in order:
        tokens = sequences[k]
        common = _common(sequences[piece[-1]], tokens) if piece else 0
        added = len(tokens) - common
        grown = size + added
        wider = grown**2 - size**2 - len(tokens) ** 2
        if piece and ((limit and grown > limit) or wider > balance * common):
            tries.append(_flatten(sequences, numbers, piece, shared))
            piece, shared, size, common, grown = [], [], 0, 0, len(tokens)
        piece.append(k)
        shared.append(common)
        size = grown
    if piece:
        tries.append(_flatten(sequences, numbers, piece, shared))
    return tries


def chains(sequences: Sequence[Tokens], numbers: Sequence[int]) -> list[Trie]:
    """A trie for every distinct sequence, which shares nothing."""
    equal: dict[bytes, list[int]] = {}
    for k, tokens in enumerate(sequences):
        equal.setdefault(tokens.tobytes(), []).append(k)
    tries = []
    for same in equal.values():
        shared = [0, *(len(sequences[k]) for k in same[1:])]
        tries.append(_flatten(sequences, numbers, same, shared))
    return tries


def ancestors(end: Any, nodes: Any) -> Any:
    """Which nodes a node descends from, itself included: boolean [..., k, T].

    `end` [..., T] and the `nodes` [..., k] in question are arrays or tensors of one kind.
    """
    index: Any = np.arange(end.shape[-1])
    if not isinstance(end, np.ndarray):
        import torch

        index = torch.arange(end.shape[-1], device=end.device)
    nodes = nodes[..., :, None]
    return (index <= nodes) & (nodes < end[..., None, :])


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences have in common at the beginning."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length


def _flatten(sequences: Sequence[Tokens], numbers: Sequence[int], piece: list[int], shared: list[int]) -> Trie:
    """The trie of the sequences `piece`, in order; each has `shared` tokens in common with the one before."""
    tails = [sequences[k][common:] for k, common in zip(piece, shared, strict=True)]
    ids = np.concatenate(tails).astype(np.int32)
    position = np.concatenate(
        [np.arange(common, common + len(part)) for common, part in zip(shared, tails, strict=True)]
    )
    end = np.empty(len(ids), dtype=np.int32)
    path = np.empty(max(len(sequences[k]) for k in piece), dtype=np.int64)
    last = np.empty(len(piece), dtype=np.int32)
    start = depth = 0
    for i, (common, part) in enumerate(zip(shared, tails, strict=True)):
        end[path[common:depth]] = start
        depth = common + len(part)
        path[common:depth] = np.arange(start, start + len(part))
        start += len(part)
        last[i] = path[depth - 1]
    end[path[:depth]] = start
    number = np.array([numbers[k] for k in piece], dtype=np.int64)
    return Trie(ids, position.astype(np.int32), end, number, last)
