"""Splits: nothing leaks, limits hold, draws depend on names alone, and the published code's splits are met."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Message, PreferenceData
from prbench.protocol.splits import Split, make_split, shots, split_off_validation
from prbench.registry.schema import ProtocolEntry


def population(rows, *, keys=None, name="toy", blocks=None, marks=None) -> PreferenceData:
    """Data from rows of (user, group); no two comparisons are of the same items."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    n_users = int(table[:, 0].max()) + 1 if len(table) else 0
    return PreferenceData(
        name=name,
        contexts=((Message("user", "Which?"),),),
        item_context=np.zeros(2 * len(table), dtype=np.int64),
        responses=tuple(f"reply {i}" for i in range(2 * len(table))),
        user=table[:, 0],
        chosen=np.arange(len(table), dtype=np.int64) * 2,
        rejected=np.arange(len(table), dtype=np.int64) * 2 + 1,
        group=table[:, 1],
        user_keys=tuple(keys or (f"worker-{u}" for u in range(n_users))),
        block=None if blocks is None else np.array(blocks, dtype=np.int64),
        mark=None if marks is None else np.array(marks, dtype=np.int64),
    )


@st.composite
def ragged(draw) -> PreferenceData:
    """Users with few, many or no rows in any order; groups are shared between users and cross blocks and marks."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_users = draw(st.integers(2, 8))
    n_rows = draw(st.integers(1, 25)) * n_users
    weights = generator.dirichlet(np.full(n_users, 2.0))
    user = generator.choice(n_users, n_rows, p=weights)
    group = generator.integers(0, draw(st.integers(2, 40)), n_rows)
    crossing = generator.random(n_rows) < draw(st.sampled_from([0.0, 0.1, 1.0]))
    block = np.where(crossing, generator.integers(0, 5, n_rows), group % 5)
    mark = np.where(crossing, generator.integers(0, 2, n_rows), group % 2)
    keys = generator.permutation([f"worker-{u:02d}" for u in range(n_users)]).tolist()
    return population(np.stack([user, group], axis=1), keys=keys, blocks=block, marks=mark)


def protocol(rule, limits, seen_share, test_share) -> ProtocolEntry:
    name, unit = rule
    shares = {"seen_share": seen_share, "test_share": test_share} if name == "paper" else {}
    return ProtocolEntry(name=name, unit=unit, seen_train_limit=limits[0], unseen_train_limit=limits[1], **shares)


RULES = [
    ("paper", "group"),
    ("paper", "block"),
    ("paper", "mark"),
    ("published-code", "group"),
    ("published-code", "mark"),
]

protocols = st.builds(
    protocol,
    st.sampled_from(RULES),
    st.tuples(st.integers(0, 6), st.integers(0, 6)),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.sampled_from([0.1, 0.5, 0.8]),
)


def parts(split: Split) -> list[np.ndarray]:
    return [
        split.seen,
        split.unseen,
        split.seen_train,
        split.seen_test,
        split.unseen_support,
        split.unseen_test,
    ]


def same(a: Split, b: Split) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(parts(a), parts(b), strict=True))


def without_limits(protocol: ProtocolEntry) -> ProtocolEntry:
    return protocol.model_copy(update={"seen_train_limit": 0, "unseen_train_limit": 0})


def split_or_none(data: PreferenceData, protocol: ProtocolEntry, index: int = 0) -> Split | None:
    try:
        return make_split(data, protocol, index=index)
    except InputError:
        return None


@settings(max_examples=200, deadline=None)
@given(ragged(), protocols, st.integers(0, 3))
def test_nothing_leaks(data, protocol, index):
    split = split_or_none(data, protocol, index)
    assume(split is not None)
    everything = np.concatenate(parts(split)[2:])
    assert len(np.unique(everything)) == len(everything), "a row is in two parts"
    assert not set(split.seen) & set(split.unseen)
    dropped = split.dropped["users_without_train_or_test"]
    assert len(split.seen) + len(split.unseen) + dropped == data.n_users
    for users, train, test in (
        (split.seen, split.seen_train, split.seen_test),
        (split.unseen, split.unseen_support, split.unseen_test),
    ):
        assert np.array_equal(users, np.unique(data.user[train]))
        assert np.array_equal(users, np.unique(data.user[test]))
        assert np.array_equal(test, test[np.lexsort((test, data.user[test]))])
        assert np.array_equal(data.user[train], np.sort(data.user[train]))
        if (protocol.name, protocol.unit) != ("published-code", "mark"):
            pairs = [set(zip(data.user[rows], data.group[rows], strict=True)) for rows in (train, test)]
            assert not pairs[0] & pairs[1], "a user's group is in train and in test"
    train = np.concatenate([split.seen_train, split.unseen_support])
    test = np.concatenate([split.seen_test, split.unseen_test])
    if protocol.unit == "block":
        assert not set(data.block[train]) & set(data.block[test]), "a topic is in train and in test"
    if protocol.unit == "mark":
        assert not data.mark[train].any()
        assert data.mark[test].all()


@settings(max_examples=200, deadline=None)
@given(ragged(), protocols)
def test_limits_cut_train_and_nothing_else(data, protocol):
    split, full = split_or_none(data, protocol), split_or_none(data, without_limits(protocol))
    assume(full is not None)
    assert split is not None, "a limit made a split impossible"
    for i in (0, 1, 3, 5):
        assert np.array_equal(parts(split)[i], parts(full)[i]), "a limit changed users or test rows"
    for users, rows, all_rows, limit in (
        (split.seen, split.seen_train, full.seen_train, protocol.seen_train_limit),
        (split.unseen, split.unseen_support, full.unseen_support, protocol.unseen_train_limit),
    ):
        for user in users:
            mine, every = rows[data.user[rows] == user], all_rows[data.user[all_rows] == user]
            assert np.array_equal(mine, every[: len(mine)]), "limits do not nest"
            if (protocol.name, protocol.unit) == ("published-code", "group"):
                counted, most = len(set(data.group[mine])), len(set(data.group[every]))
            else:
                counted, most = len(mine), len(every)
            assert counted == (min(limit, most) if limit else most)
    cut = sum(len(x) - len(y) for x, y in zip(parts(full)[2:], parts(split)[2:], strict=True))
    assert split.dropped["train_rows_over_limit"] == cut
    assert full.dropped["train_rows_over_limit"] == 0


@settings(max_examples=100, deadline=None)
@given(ragged(), protocols)
def test_every_row_of_a_kept_user_is_used_or_counted(data, protocol):
    split = split_or_none(data, without_limits(protocol))
    assume(split is not None)
    kept = np.isin(data.user, np.concatenate([split.seen, split.unseen]))
    used = sum(len(rows) for rows in parts(split)[2:])
    unused = int(kept.sum()) - used
    assert 0 <= unused <= split.dropped["train_rows_of_test_groups"]
    if protocol.unit == "group":
        assert unused == 0


def regular(users=12, groups=10, rows=3, **options) -> PreferenceData:
    """Every user judges `rows` comparisons in each of `groups` groups of its own."""
    table = [(u, u * groups + g) for u in range(users) for g in range(groups) for _ in range(rows)]
    return population(table, **options)


PAPER = ProtocolEntry()


def test_paper_halves_users_and_groups():
    data = regular(users=13, groups=5, rows=2)
    split = make_split(data, PAPER, index=0)
    # 13 users: 6 seen, rounded down, 7 unseen. 5 groups of 2: 2 groups are train (4 rows), 3 are test (6 rows).
    assert (len(split.seen), len(split.unseen)) == (6, 7)
    assert [len(rows) for rows in parts(split)[2:]] == [6 * 4, 6 * 6, 7 * 4, 7 * 6]
    assert set(split.dropped.values()) == {0}


@pytest.mark.parametrize(("share", "train"), [(0.1, 9), (0.9, 1), (0.2, 8), (0.25, 7), (0.99, 1), (0.01, 9)])
def test_train_share_is_rounded_down_and_neither_side_is_empty(share, train):
    # 10 groups: 1 - 0.9 is 0.0999... in binary, yet one of ten groups is train.
    split = make_split(regular(groups=10, rows=1), ProtocolEntry(test_share=share), index=0)
    assert len(split.seen_train) == train * len(split.seen)
    assert len(split.seen_test) == (10 - train) * len(split.seen)
    blocks = make_split(
        regular(blocks=np.tile(np.repeat(np.arange(10), 3), 12)),
        ProtocolEntry(unit="block", test_share=share),
        index=0,
    )
    assert len(blocks.seen_train) == 3 * train * len(blocks.seen)


def test_shares_that_binary_cannot_hold_do_not_lose_a_group():
    # 20 * (1 - 0.9) is 1.9999999999999996 in binary.
    split = make_split(regular(groups=20, rows=1), ProtocolEntry(test_share=0.9), index=0)
    assert len(split.seen_train) == 2 * len(split.seen)


def test_users_are_divided_independently_and_train_is_in_drawn_order():
    data = regular(users=12, groups=10, rows=2)
    split = make_split(data, PAPER, index=0)
    train = np.concatenate([split.seen_train, split.unseen_support]).reshape(12, 10)
    drawn = (train // 2) % 10
    assert len({tuple(groups) for groups in drawn.tolist()}) == 12
    # A group's rows stay together, in the order of the data; the groups come in random order.
    assert (train[:, 1::2] == train[:, ::2] + 1).all()
    assert any(groups != sorted(groups) for groups in drawn.tolist())
    # The first group drawn is any of the ten: over 20 splits every one comes first for some user.
    first = [shots(data, make_split(data, PAPER, index=i), 1) // 2 % 10 for i in range(20)]
    assert len(np.unique(np.concatenate(first))) == 10


def test_users_with_one_group_are_dropped_and_counted():
    data = population([(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 4), (2, 4), (3, 5)], keys=list("abcde"))
    split = make_split(data, PAPER, index=0)
    assert sorted([*split.seen, *split.unseen]) == [0, 1]
    # User 2 has one group, user 3 one comparison, user 4 none.
    assert split.dropped["users_without_train_or_test"] == 3


def test_train_rows_whose_group_is_in_test_are_dropped_and_counted():
    rows = [(u, g) for u in range(2) for g in (0, 1, 2)] + [(0, 2)]
    data = population(rows, marks=[0, 1, 0, 0, 1, 0, 1])
    split = make_split(data, ProtocolEntry(unit="mark"), index=0)
    # User 0: group 2 is marked train in row 2 and test in row 6, so row 2 is left out.
    assert split.dropped["train_rows_of_test_groups"] == 1
    assert 2 not in np.concatenate(parts(split)[2:])
    assert {0, 3, 5} == {*split.seen_train, *split.unseen_support}


def test_blocks_are_divided_once_for_all_users():
    blocks = np.tile(np.repeat(np.arange(10), 3), 12)
    data = regular(blocks=blocks)
    split = make_split(data, ProtocolEntry(unit="block"), index=0)
    train = np.concatenate([split.seen_train, split.unseen_support])
    test = np.concatenate([split.seen_test, split.unseen_test])
    assert len(set(blocks[train])) == len(set(blocks[test])) == 5
    assert len(train) + len(test) == len(data)


def test_splits_do_not_depend_on_the_order_of_drawing():
    data = regular()
    forward = [make_split(data, PAPER, index=i) for i in range(5)]
    random.seed(0)
    np.random.seed(0)
    backward = [make_split(data, PAPER, index=i) for i in reversed(range(5))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))
    for i in range(5):
        for j in range(i):
            assert not np.array_equal(forward[i].seen, forward[j].seen)
            assert not same(forward[i], forward[j])


@pytest.mark.parametrize("name", ["paper", "published-code"])
def test_seeds_and_names_give_other_splits(name):
    protocol = ProtocolEntry(name=name)
    split = make_split(regular(), protocol, index=1)
    assert (split.index, split.seed) == (1, 43)
    other = make_split(regular(), protocol, index=1, seed=7)
    assert other.seed == 8
    assert not same(split, other)
    renamed = make_split(regular(name="other"), protocol, index=1)
    # The published code knows no data set names.
    assert same(split, renamed) == (name == "published-code")


def test_each_user_is_seen_about_half_of_the_time():
    data = regular(users=10, groups=2, rows=1)
    seen = np.bincount(np.concatenate([make_split(data, PAPER, index=i).seen for i in range(400)]), minlength=10)
    # Binomial(400, 1/2): standard deviation 10.
    assert (np.abs(seen - 200) < 45).all()


def test_shots_nest_and_are_whole_prefixes():
    data = regular()
    split = make_split(data, PAPER, index=0)
    taken = {k: shots(data, split, k) for k in (0, 1, 5, 10, 15)}
    assert len(taken[0]) == len(shots(data, split, -1)) == 0
    for k, rows in taken.items():
        assert np.array_equal(
            np.unique(data.user[rows], return_counts=True)[1], np.full(len(split.unseen) * (k > 0), k)
        )
    for small, large in ((1, 5), (5, 10), (10, 15)):
        assert set(taken[small]) < set(taken[large])
    assert np.array_equal(taken[15], split.unseen_support)
    assert np.array_equal(taken[5].reshape(-1, 5), split.unseen_support.reshape(-1, 15)[:, :5])
    # 5 shots are one group of 3 and two rows of the next one.
    assert len(set(data.group[taken[5]])) == 2 * len(split.unseen)


def test_too_many_shots_are_one_clear_line():
    rows = [(u, g) for u in range(8) for g in range(100 * u, 100 * u + 6 + 2 * u)]
    data = population(rows)
    split = make_split(data, PAPER, index=0)
    train = [(3 + u) for u in split.unseen]
    assert len(shots(data, split, min(train))) == min(train) * 4
    lacking = sum(t < min(train) + 2 for t in train)
    with pytest.raises(InputError) as error:
        shots(data, split, min(train) + 2)
    assert f"--shots {min(train) + 2}: {lacking} of 4 unseen users of toy" in str(error.value)
    assert f"every user has is {min(train)}" in str(error.value)


@settings(max_examples=200, deadline=None)
@given(ragged(), protocols, st.sampled_from([0.1, 0.2, 0.5, 0.9]))
def test_hold_out_divides_train_without_leaks(data, protocol, share):
    protocol = protocol.model_copy(update={"validation_share": share})
    split = split_or_none(data, protocol)
    assume(split is not None)
    fit, validation = split_off_validation(data, split.seen_train, protocol, rng=Rng("v"))
    assert sorted([*fit, *validation]) == sorted(split.seen_train)
    assert np.array_equal(np.unique(data.user[fit]), split.seen), "a user has nothing to be fitted on"
    positions = {row: i for i, row in enumerate(split.seen_train)}
    for rows in (fit, validation):
        assert [positions[row] for row in rows] == sorted(positions[row] for row in rows)
    for user in split.seen:
        mine = split.seen_train[data.user[split.seen_train] == user]
        a, b = (set(data.group[rows][data.user[rows] == user]) for rows in (fit, validation))
        if protocol.unit != "block":
            assert not a & b
            groups = len(set(data.group[mine]))
            assert len(b) == (max(1, int(groups * share + 1e-9)) if groups > 1 else 0)
    again = split_off_validation(data, split.seen_train, protocol, rng=Rng("v"))
    assert np.array_equal(again[0], fit)
    assert np.array_equal(again[1], validation)


def test_hold_out_takes_whole_blocks():
    data = regular(blocks=np.tile(np.repeat(np.arange(10), 3), 12))
    protocol = ProtocolEntry(unit="block", validation_share=0.4)
    split = make_split(data, protocol, index=0)
    fit, validation = split_off_validation(data, split.seen_train, protocol, rng=Rng("v"))
    assert len(set(data.block[validation])) == 2
    assert not set(data.block[fit]) & set(data.block[validation])
    draws = {
        tuple(sorted(set(data.block[split_off_validation(data, split.seen_train, protocol, rng=Rng(i))[1]])))
        for i in range(9)
    }
    assert len(draws) > 1


def test_hold_out_leaves_every_user_something_to_fit():
    # User 0 knows block 0 only: when block 0 is held out, its rows stay in fit.
    data = population([(0, 0), (0, 1), (1, 2), (1, 3)], blocks=[0, 0, 0, 1])
    seen = [
        set(split_off_validation(data, np.arange(4), ProtocolEntry(unit="block"), rng=Rng(i))[1].tolist())
        for i in range(20)
    ]
    assert {frozenset(rows) for rows in seen} == {frozenset({2}), frozenset({3})}


@pytest.mark.parametrize(
    ("data", "protocol", "words"),
    [
        (population([(0, 0), (0, 1), (0, 2)]), PAPER, "toy: 1 of 1 users"),
        (population([(0, 0), (1, 1)]), PAPER, "toy: 0 of 2 users have both train and test"),
        (population([(0, 0), (0, 1), (1, 2)]), PAPER, "toy: 1 of 2 users"),
        (population([]), PAPER, "toy: 0 of 0 users"),
        (regular(), ProtocolEntry(unit="block"), "have no blocks"),
        (regular(users=2, blocks=[7] * 60), ProtocolEntry(unit="block"), "fewer than two blocks"),
        (regular(), ProtocolEntry(unit="mark"), "have no marks"),
        (regular(users=2, marks=[2] * 60), ProtocolEntry(unit="mark"), "neither 0 nor 1"),
        (regular(), ProtocolEntry(name="published-code", unit="block"), "have no blocks"),
        (
            regular(users=2, blocks=list(range(60))),
            ProtocolEntry(name="published-code", unit="block"),
            'knows no unit "block"',
        ),
        (regular(), ProtocolEntry(name="published-code", seen_share=0.8), "must be 0.5"),
    ],
)
def test_what_cannot_be_split_is_one_clear_line(data, protocol, words):
    with pytest.raises(InputError) as error:
        make_split(data, protocol, index=0)
    assert words in str(error.value)
    assert "toy" in str(error.value)
    assert "\n" not in str(error.value)


# The published code, from its description in methods.md: an independent reference over plain dictionaries.


def reference_halves(keys, seed):
    order = sorted(keys)
    random.Random(seed).shuffle(order)
    return order[: len(order) // 2], order[len(order) // 2 :]


def reference_stream(key, seed):
    return random.Random(seed + int.from_bytes(hashlib.md5(key.encode()).digest(), "big") % 4294967296)


def reference_by_conversation(meta, key, seed, limit):
    """`meta[key]` is a list of (conversation, row)."""
    conversations = defaultdict(list)
    for conversation, row in meta[key]:
        conversations[conversation].append(row)
    order = list(conversations)
    reference_stream(key, seed).shuffle(order)
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    if limit:
        train = train[:limit]
    return [r for c in train for r in conversations[c]], [r for c in test for r in conversations[c]]


def reference_by_mark(meta, key, seed, limit):
    """`meta[key]` is a list of (mark, row)."""
    train = [row for mark, row in meta[key] if mark == 0]
    reference_stream(key, seed).shuffle(train)
    return train[:limit] if limit else train, [row for mark, row in meta[key] if mark == 1]


@settings(max_examples=200, deadline=None)
@given(
    ragged(),
    st.sampled_from(["group", "mark"]),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 30),
    st.integers(0, 2**31),
)
def test_published_code_is_met_to_the_letter(data, unit, seen_limit, unseen_limit, index, seed):
    meta = {key: [] for key in data.user_keys}
    for row in range(len(data)):
        label = data.group[row] if unit == "group" else data.mark[row]
        meta[data.user_keys[data.user[row]]].append((int(label), row))
    divide = reference_by_conversation if unit == "group" else reference_by_mark
    expected: list[dict[int, tuple[list[int], list[int]]]] = []
    for half, limit in zip(reference_halves(meta, seed + index), (seen_limit, unseen_limit), strict=True):
        sides = {data.user_keys.index(key): divide(meta, key, seed + index, limit) for key in half}
        expected.append({user: side for user, side in sides.items() if side[0] and side[1]})
    protocol = ProtocolEntry(
        name="published-code", unit=unit, seen_train_limit=seen_limit, unseen_train_limit=unseen_limit
    )
    if not all(expected):
        with pytest.raises(InputError):
            make_split(data, protocol, index=index, seed=seed)
        return
    split = make_split(data, protocol, index=index, seed=seed)
    for users, train, test, sides in (
        (split.seen, split.seen_train, split.seen_test, expected[0]),
        (split.unseen, split.unseen_support, split.unseen_test, expected[1]),
    ):
        assert users.tolist() == sorted(sides)
        assert train.tolist() == [row for user in sorted(sides) for row in sides[user][0]]
        assert test.tolist() == [row for user in sorted(sides) for row in sorted(sides[user][1])]


GOLDEN_KEYS = ["worker-b", "worker-d", "worker-a", "worker-c"]


def test_golden_published_split_by_conversation():
    """Derived by hand with Python's own `random`, for split 0 (seed 42) and conversations named in order x y z w v.

    sorted(ids) = a b c d; random.Random(42).shuffle -> c b d a: seen c b, unseen d a.
    md5("worker-a") mod 2**32 = 1214550192; Random(42 + that) shuffles x y z w   -> y x w z: train y x.
    md5("worker-b") mod 2**32 = 2624900018; Random(42 + that) shuffles x y z     -> y x z:   train y.
    md5("worker-c") mod 2**32 = 2024602652; Random(42 + that) shuffles x y z w v -> x z v w y: train x z.
    md5("worker-d") mod 2**32 = 154555076;  Random(42 + that) shuffles x y       -> x y:     train x.
    """
    # User numbers: b 0, d 1, a 2, c 3. Conversations of one row, except two rows in worker-b's y (rows 1 and 3).
    rows = [(0, 10), (0, 11), (0, 12), (0, 11)]
    rows += [(1, 20), (1, 21)]
    rows += [(2, 30), (2, 31), (2, 32), (2, 33)]
    rows += [(3, 40), (3, 41), (3, 42), (3, 43), (3, 44)]
    split = make_split(population(rows, keys=GOLDEN_KEYS), ProtocolEntry(name="published-code"), index=0)
    assert split.seen.tolist() == [0, 3]
    assert split.unseen.tolist() == [1, 2]
    assert split.seen_train.tolist() == [1, 3, 10, 12]
    assert split.seen_test.tolist() == [0, 2, 11, 13, 14]
    assert split.unseen_support.tolist() == [4, 7, 6]
    assert split.unseen_test.tolist() == [5, 8, 9]


def test_golden_published_split_by_mark():
    """As above: worker-b's train rows x y z shuffle to y x z, worker-a's x y z w to y x w z; limits 2 and 3."""
    rows = [(0, 0)] * 4 + [(1, 0)] * 3 + [(2, 0)] * 5 + [(3, 0)] * 2
    marks = [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    protocol = ProtocolEntry(name="published-code", unit="mark", seen_train_limit=2, unseen_train_limit=3)
    split = make_split(population(rows, keys=GOLDEN_KEYS, marks=marks), protocol, index=0)
    # worker-c has no test rows and is dropped from the seen users.
    assert split.seen.tolist() == [0]
    assert split.unseen.tolist() == [1, 2]
    assert split.seen_train.tolist() == [1, 0]
    assert split.seen_test.tolist() == [2]
    assert split.unseen_support.tolist() == [4, 5, 8, 7, 10]
    assert split.unseen_test.tolist() == [6, 11]
    assert split.dropped == {
        "users_without_train_or_test": 1,
        "train_rows_of_test_groups": 0,
        "train_rows_over_limit": 2,
    }
