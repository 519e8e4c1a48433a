"""Token tries: what is flattened can be read back, and nobody sees more than their own beginning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prbench.encoders.packing import lay_out, pack, size_of
from prbench.encoders.trie import Tokens, Trie, ancestors, chains, grow

# Few different tokens, so that beginnings, whole sequences and ends in the middle of others are often shared.
SEQUENCES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=14)
LIMIT = st.integers(0, 20)
BALANCE = st.one_of(st.just(math.inf), st.floats(0, 50))


def arrays(sequences: list[list[int]]) -> list[Tokens]:
    return [np.array(tokens, dtype=np.int32) for tokens in sequences]


def prefixes(sequences: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(tokens[: k + 1]) for tokens in sequences for k in range(len(tokens))}


def seen(trie: Trie) -> np.ndarray:
    found: np.ndarray = ancestors(trie.end, np.arange(len(trie)))
    return found


# One trie


def test_a_trie_by_hand() -> None:
    """5-6-7, 5-6-8-9 and 5-6: the last ends inside the others."""
    (trie,) = grow(arrays([[5, 6, 8, 9], [5, 6], [5, 6, 7]]), [10, 20, 30])
    assert trie.ids.tolist() == [5, 6, 7, 8, 9]
    assert trie.position.tolist() == [0, 1, 2, 2, 3]
    assert trie.end.tolist() == [5, 5, 3, 5, 5]
    assert dict(zip(trie.number.tolist(), trie.last.tolist(), strict=True)) == {20: 1, 30: 2, 10: 4}
    assert seen(trie).astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]


@given(SEQUENCES)
def test_every_shared_beginning_is_there_once_and_every_sequence_comes_back(sequences: list[list[int]]) -> None:
    numbers = list(range(100, 100 + len(sequences)))
    (trie,) = grow(arrays(sequences), numbers)
    assert len(trie) == len(prefixes(sequences))
    read = {int(n): tokens.tolist() for n, tokens in zip(trie.number, trie.sequences(), strict=True)}
    assert read == dict(zip(numbers, sequences, strict=True))
    assert trie.longest == max(map(len, sequences))


@given(SEQUENCES)
def test_a_node_sees_its_ancestors_and_nothing_else(sequences: list[list[int]]) -> None:
    (trie,) = grow(arrays(sequences), range(len(sequences)))
    found = seen(trie)
    spelled = []
    for node in range(len(trie)):
        mine = np.flatnonzero(found[node])
        assert mine[-1] == node
        assert trie.position[mine].tolist() == list(range(len(mine)))
        spelled.append(tuple(trie.ids[mine].tolist()))
    # Each node spells a beginning of its own, and all of them are there.
    assert len(set(spelled)) == len(spelled)
    assert set(spelled) == prefixes(sequences)


@given(SEQUENCES, LIMIT, BALANCE)
def test_pieces_hold_every_sequence_once_and_keep_to_the_limit(
    sequences: list[list[int]], limit: int, balance: float
) -> None:
    tries = grow(arrays(sequences), range(len(sequences)), limit=limit, balance=balance)
    read = {int(n): ids.tolist() for trie in tries for n, ids in zip(trie.number, trie.sequences(), strict=True)}
    assert read == dict(enumerate(sequences))
    assert sum(len(trie.number) for trie in tries) == len(sequences)
    for trie in tries:
        assert not limit or len(trie) <= limit or len(trie) == trie.longest
        own = [sequences[n] for n in trie.number]
        assert len(trie) == len(prefixes(own))


def test_what_shares_little_stays_apart_where_attention_costs() -> None:
    together = arrays([[1, *range(10, 40)], [1, *range(50, 80)]])
    alike = arrays([[*range(100, 130), 1], [*range(100, 130), 2]])
    assert len(grow(together, [0, 1])) == 1
    assert len(grow(together, [0, 1], balance=100.0)) == 2
    assert len(grow(alike, [0, 1], balance=100.0)) == 1


@given(SEQUENCES)
def test_chains_share_nothing_but_equal_sequences(sequences: list[list[int]]) -> None:
    tries = chains(arrays(sequences), range(len(sequences)))
    assert sorted(n for trie in tries for n in trie.number.tolist()) == list(range(len(sequences)))
    assert sum(map(len, tries)) == sum(map(len, set(map(tuple, sequences))))
    for trie in tries:
        assert all(ids.tolist() == sequences[n] for n, ids in zip(trie.number, trie.sequences(), strict=True))


# Several tries in one forward


@given(st.lists(SEQUENCES, min_size=1, max_size=5), st.integers(1, 60), st.booleans())
def test_packed_tries_never_see_each_other(groups: list[list[list[int]]], budget: int, mixed: bool) -> None:
    tries: list[Trie] = []
    flat: list[list[int]] = []
    for group in groups:
        tries += grow(arrays(group), range(len(flat), len(flat) + len(group)), limit=budget)
        flat += group
    batches = pack(tries, budget=budget, mixed=mixed)
    assert sorted(id(t) for batch in batches for row in batch for t in row) == sorted(map(id, tries))
    spelled: dict[int, list[int]] = {}
    for rows in batches:
        batch = lay_out(rows)
        assert batch.ids.shape == batch.position.shape == batch.end.shape
        assert batch.size == batch.ids.size == size_of(rows)
        assert batch.size <= budget or batch.ids.shape[0] == 1 == len(rows[0])
        assert mixed or all(len(row) == 1 for row in rows)
        mask = ancestors(batch.end, np.arange(batch.ids.shape[1])[None, :].repeat(len(rows), 0))
        # Whoever sees nothing has a softmax over nothing.
        assert mask.any(-1).all()
        for number, row, node in zip(batch.number, batch.row, batch.node, strict=True):
            spelled[int(number)] = batch.ids[row][mask[row, node]].tolist()
        for r, row in enumerate(rows):
            owner = np.full(batch.ids.shape[1], -1)
            owner[: batch.length[r]] = np.repeat(np.arange(len(row)), [len(trie) for trie in row])
            here = owner >= 0
            assert (owner[:, None] == owner[None, :])[mask[r] & here[:, None]].all()
            # Padding sees itself alone, and is seen by nobody.
            assert (mask[r][~here] == np.eye(len(owner), dtype=bool)[~here]).all()
    assert spelled == dict(enumerate(flat))


def packed_sizes(sizes: list[int], *, budget: int, mixed: bool) -> list[list[list[int]]]:
    tries = [grow(arrays([[*range(1, n + 1)]]), [i])[0] for i, n in enumerate(sizes)]
    return [[[len(t) for t in row] for row in rows] for rows in pack(tries, budget=budget, mixed=mixed)]


def test_rows_are_filled_with_what_is_left_and_never_left_half_empty() -> None:
    assert packed_sizes([6, 1, 10, 4, 9], budget=20, mixed=True) == [[[10], [9, 1]], [[6]], [[4]]]
    assert packed_sizes([6, 1, 10, 4, 9], budget=20, mixed=False) == [[[10], [9]], [[6]], [[4]], [[1]]]
    assert packed_sizes([5, 5, 5, 10], budget=20, mixed=True) == [[[10], [5, 5]], [[5]]]
    assert packed_sizes([30, 3, 3, 3], budget=9, mixed=True) == [[[30]], [[3], [3], [3]]]
    assert packed_sizes([3, 3], budget=1, mixed=False) == [[[3]], [[3]]]


def test_arrays_and_tensors_have_the_same_ancestors() -> None:
    (trie,) = grow(arrays([[1, 2, 3], [1, 2, 4], [1, 5]]), [0, 1, 2])
    nodes = np.arange(len(trie))
    tensor = ancestors(torch.from_numpy(trie.end), torch.from_numpy(nodes))
    assert torch.equal(tensor, torch.from_numpy(seen(trie)))


@pytest.mark.parametrize("sequences", [[[7]], [[7], [7]]])
def test_one_token_is_a_trie(sequences: list[list[int]]) -> None:
    (trie,) = grow(arrays(sequences), range(len(sequences)))
    assert (trie.ids.tolist(), trie.end.tolist(), trie.last.tolist()) == ([7], [1], [0] * len(sequences))
