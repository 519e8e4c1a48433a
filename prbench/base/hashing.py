"""Bytes to hash, piece by piece: the whole of a large data set would stand in memory twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXTS_AT_ONCE = 4096


def spelled(*columns: Sequence[object]) -> Iterator[bytes]:
    """The bytes of `repr` of a tuple of tuples, in pieces: the whole would hold every text once more, or twice."""
    for number, column in enumerate(columns):
        yield b"((" if number == 0 else b", ("
        for start in range(0, len(column), TEXTS_AT_ONCE):
            part = ", ".join(map(repr, column[start : start + TEXTS_AT_ONCE]))
            yield (part if start == 0 else f", {part}").encode()
        yield b",)" if len(column) == 1 else b")"
    yield b",)" if len(columns) == 1 else b")"


def update(state: hashlib._Hash, column: NDArray[Any]) -> None:
    """Hash the bytes of an array, without a copy of them."""
    state.update(np.ascontiguousarray(column).data)


def row_digests(columns: Sequence[NDArray[np.uint8]]) -> Iterator[bytes]:
    """One digest of each row of the columns together, [m, bytes] each."""
    for row in range(len(columns[0])):
        state = hashlib.blake2b(digest_size=16)
        for column in columns:
            state.update(column[row])
        yield state.digest()
