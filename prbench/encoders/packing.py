"""Packing: which tries go through the model together, and how they lie in the rows of one forward pass."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prbench.encoders.trie import Trie

Rows = list[list[Trie]]
"""One forward pass: the tries of each row."""

# The share of a row that is in use, at least.
FILLED = 0.9


@dataclass(frozen=True, eq=False)
class Batch:
    """The input of one forward pass, int64.

    `ids`, `position` and `end` [rows, width] are as in a trie, with nodes counted along the row; `length` [rows]
    is the part of a row that is in use. The sequence `number` [n] has its last token in `row` [n] at `node` [n].
    """

    ids: NDArray[np.int64]
    position: NDArray[np.int64]
    end: NDArray[np.int64]
    length: NDArray[np.int64]
    number: NDArray[np.int64]
    row: NDArray[np.int64]
    node: NDArray[np.int64]

    @property
    def size(self) -> int:
        """The tokens that go through the model, padding included."""
        return self.ids.size


def pack(tries: Sequence[Trie], *, budget: int, mixed: bool) -> list[Rows]:
    """Forward passes of at most `budget` tokens, padding included; a larger trie goes alone.

    The largest tries come first: what does not fit into memory shows at once. With `mixed`, what remains of a row
    is filled with smaller tries. A row that would be left too empty begins the next pass.
    """
    left = sorted(tries, key=len)
    sizes = [len(trie) for trie in left]
    batches: list[Rows] = []
    while left:
        width = sizes[-1]
        rows: Rows = []
        while left and len(rows) < max(1, budget // width):
            chosen = _fill(sizes, width, mixed)
            if sum(sizes[i] for i in chosen) < FILLED * width:
                break
            rows.append([left[i] for i in chosen])
            for i in chosen:
                del left[i], sizes[i]
        batches.append(rows)
    return batches


def _fill(sizes: list[int], room: int, mixed: bool) -> list[int]:
    """Positions in the ascending `sizes` of what fits into `room`, the largest first, in descending order."""
    chosen: list[int] = []
    top = len(sizes)
    while (top := bisect_right(sizes, room, 0, top) - 1) >= 0 and (mixed or not chosen):
        chosen.append(top)
        room -= sizes[top]
    return chosen


def size_of(rows: Rows) -> int:
    """The tokens of one forward pass, padding included."""
    return len(rows) * max(sum(len(trie) for trie in row) for row in rows)


def lay_out(rows: Rows) -> Batch:
    """The input of one forward pass. A padding node is its own and only ancestor."""
    width = size_of(rows) // len(rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    position = np.zeros_like(ids)
    end = np.tile(np.arange(1, width + 1), (len(rows), 1))
    length = np.zeros(len(rows), dtype=np.int64)
    number, row_of, node = [], [], []
    for r, row in enumerate(rows):
        for trie in row:
            start = int(length[r])
            stop = start + len(trie)
            ids[r, start:stop] = trie.ids
            position[r, start:stop] = trie.position
            end[r, start:stop] = trie.end + start
            length[r] = stop
            number.append(trie.number)
            row_of.append(np.full(len(trie.number), r))
            node.append(trie.last.astype(np.int64) + start)
    return Batch(ids, position, end, length, np.concatenate(number), np.concatenate(row_of), np.concatenate(node))
