"""Protocols: which users are seen, which comparisons are train and which test, and which are shots.

Every draw comes from a stream named by the base seed, the data set and the split's index, so a split is the
same whichever other splits were drawn before it, unless it repeats one of these: see `draw_splits`. In no split has
a person an equal comparison (`prbench.protocol.repeats`) on both sides. Three protocols:

`paper` (MRM, Cai et al. 2026, section 5.1): users are divided at random into seen and unseen, and each user's
comparisons into train and test. `unit` says what is divided: the user's groups; whole blocks, once for all
users; or nothing, where the source's own marks decide. Limits cut train only, so the test side is the same
under every limit.

`published-code`: the splits of the published MRM code (utils.py, `build_prism_dataset` for `unit = "group"` and
`build_reddit_dataset` for `unit = "mark"`), seed by seed. There a limit counts conversations under "group" and
comparisons under "mark". Users left without train or test rows are dropped under both; its filter of training
pairs by score difference is not applied, since comparisons carry no scores. Under "mark", training comparisons that
say the same as one of the same user's test comparisons are left out and counted.

`chronological`: a user's groups are ordered by the earliest time in them, equal times by a hash of the group. The
earlier ones are train or support and the later ones test, for seen and unseen users alike, in the order of time;
split i draws only who is seen. Users whose groups all have the same time are left out and counted.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray, PreferenceData
from prbench.protocol.repeats import require_apart, shared_with_training
from prbench.registry.schema import ProtocolEntry

DEFAULT_SEED = 42
TUNING_FROM = 1_000
"""Splits with this index and above are for tuning only (prbench.running.tune); no result is reported on them."""
DRAWS = 200
"""How often a split is drawn until it is none of the earlier ones."""
FURTHER_SEEDS = 1_000_003
"""How far the published code's seed moves from one draw of a split to the next."""


@dataclass(frozen=True, eq=False)
class Split:
    """One division of a data set. `seed` is the base seed plus `index`.

    `seen` and `unseen` are user numbers, ascending. The other arrays are row numbers of the data set's
    comparisons, each user's rows together and users ascending. Train and support rows of a user are in drawn
    order, so that their first k are a nested sample; test rows are ascending. `dropped` counts what was left
    out: `users_without_train_or_test`, `train_rows_of_test_groups` and `train_rows_over_limit`. `shared` counts the
    test items and pairs, and those of them that are in training too (`prbench.protocol.repeats`). `draw` is above 0
    where earlier draws repeated another split. `file` is the digest of the file that a split comes from, where it is
    not the one that the protocol draws.
    """

    index: int
    seed: int
    seen: IntArray
    unseen: IntArray
    seen_train: IntArray
    seen_test: IntArray
    unseen_support: IntArray
    unseen_test: IntArray
    dropped: Mapping[str, int]
    shared: Mapping[str, int] = field(default_factory=dict)
    draw: int = 0
    file: str = ""

    def same_division(self) -> bytes:
        """Equal for two splits that have the same rows and users on each side, in whatever order."""
        state = hashlib.sha256()
        for part in (self.seen, self.unseen, self.seen_train, self.seen_test, self.unseen_support, self.unseen_test):
            state.update(len(part).to_bytes(8, "big") + np.sort(part).tobytes())
        return state.digest()


class _Sides(NamedTuple):
    """A user's train rows in drawn order, the unit (0, 1, ...) of each that a limit counts, and its test rows.

    `crossing` is the number of rows taken out of train because their group, or an equal comparison, is also in test.
    """

    train: IntArray
    unit: IntArray
    test: IntArray
    crossing: int = 0

    @property
    def complete(self) -> bool:
        """Whether the user can be used: something to train on and something to test."""
        return len(self.train) > 0 and len(self.test) > 0


def draw_splits(
    data: PreferenceData, protocol: ProtocolEntry, count: int, *, seed: int = DEFAULT_SEED
) -> list[Split]:
    """The splits 0, 1, ... of `data`, at most `count`, each another division than those before it.

    Few people with few groups can be divided in few ways. A draw that repeats an earlier split is drawn again, up to
    `DRAWS` times; when none of these is new, the splits end there. Raises InputError as `make_split`.
    """
    divisions: dict[bytes, Split] = {}
    for index in range(count):
        for draw in range(DRAWS):
            split = make_split(data, protocol, index=index, seed=seed, draw=draw)
            if divisions.setdefault(split.same_division(), split) is split:
                break
        else:
            break
    return list(divisions.values())


def repeated_draws(name: str, drawn: list[Split], asked: int) -> str | None:
    """One sentence on the splits of `name` that were drawn again and on those that were not found, or None."""
    again = [split.index for split in drawn if split.draw]
    phrases = []
    if again:
        shown = ", ".join(map(str, again[:10])) + (", ..." if len(again) > 10 else "")
        phrases.append(f"{len(again)} splits repeated an earlier one and were drawn again ({shown})")
    if len(drawn) < asked:
        phrases.append(f"{asked} splits were asked for, and {len(drawn)} different ones were found; each counts once")
    return f"{name}: {'; '.join(phrases)}" if phrases else None


def make_split(
    data: PreferenceData, protocol: ProtocolEntry, *, index: int, seed: int = DEFAULT_SEED, draw: int = 0
) -> Split:
    """Split number `index` (0, 1, ...) of `data` under `protocol`, from the base seed `seed`; its draw number `draw`.

    Users who would have no train or no test rows are dropped and counted. Shares are rounded down for the seen
    and for the train side, and either side gets at least one user, group or block.

    Raises InputError when the protocol needs a column that the data lack, when fewer than one seen and one
    unseen user would remain, and when equal comparisons of a person lie in different groups, which
    `prbench.data.load` prevents.
    """
    _check(data, protocol)
    if protocol.name == "published-code":
        sides, seen_order, unseen_order = _published(data, protocol, seed + index + draw * FURTHER_SEEDS)
    else:
        rng = Rng(seed, data.name, "split", index)
        divide = _chronological if protocol.name == "chronological" else _paper
        sides, seen_order, unseen_order = divide(data, protocol, rng.child("draw", draw) if draw else rng)
    kept = {user: side for user, side in sides.items() if side.complete}
    seen = np.array(sorted(user for user in seen_order if user in kept), dtype=np.int64)
    unseen = np.array(sorted(user for user in unseen_order if user in kept), dtype=np.int64)
    if not len(seen) or not len(unseen):
        raise InputError(
            f"{data.name}: {len(kept)} of {data.n_users} users have both train and test comparisons, which leaves "
            f"{len(seen)} seen and {len(unseen)} unseen; a split needs at least one of each",
            hint="use more users, or users with more comparisons",
        )

    def limited(users: IntArray, limit: int) -> IntArray:
        parts = [kept[u].train[kept[u].unit < limit] if limit else kept[u].train for u in users.tolist()]
        return np.concatenate(parts)

    seen_train = limited(seen, protocol.seen_train_limit)
    unseen_support = limited(unseen, protocol.unseen_train_limit)
    train_rows = sum(len(side.train) for side in kept.values())
    seen_test, unseen_test = (np.concatenate([kept[u].test for u in users.tolist()]) for users in (seen, unseen))
    train, test = np.concatenate([seen_train, unseen_support]), np.concatenate([seen_test, unseen_test])
    require_apart(data, train, test)
    return Split(
        index=index,
        seed=seed + index,
        seen=seen,
        unseen=unseen,
        seen_train=seen_train,
        seen_test=seen_test,
        unseen_support=unseen_support,
        unseen_test=unseen_test,
        dropped={
            "users_without_train_or_test": data.n_users - len(kept),
            "train_rows_of_test_groups": sum(side.crossing for side in sides.values()),
            "train_rows_over_limit": train_rows - len(seen_train) - len(unseen_support),
            **({"users_of_one_time": data.n_users - len(sides)} if protocol.name == "chronological" else {}),
        },
        shared=shared_with_training(data, train, test),
        draw=draw,
    )


def shots(data: PreferenceData, split: Split, k: int) -> IntArray:
    """The first k support rows of every unseen user, [k * unseen users]; none for k <= 0.

    The samples nest: a user's first 5 shots are part of its first 10. Raises InputError when a user has fewer
    than k support rows.
    """
    rows = split.unseen_support
    if k <= 0:
        return rows[:0]
    _, first, count = np.unique(data.user[rows], return_index=True, return_counts=True)
    if (count < k).any():
        raise InputError(
            f"--shots {k}: {int((count < k).sum())} of {len(count)} unseen users of {data.name} have fewer than {k} "
            f"support comparisons (split {split.index})",
            hint=f"the largest number of shots that every user has is {int(count.min())}",
        )
    chosen: IntArray = rows[(first[:, None] + np.arange(k)).ravel()]
    return chosen


def split_off_validation(
    data: PreferenceData, rows: IntArray, protocol: ProtocolEntry, *, rng: Rng
) -> tuple[IntArray, IntArray]:
    """Divide train `rows` into (fit rows, validation rows), both in the order given.

    `validation_share` of each user's groups, rounded down, is held out: at least one group of a user with two or
    more, none of a user with one. With `unit = "block"` whole blocks are held out instead, the same for all
    users; a user whose rows all lie in held-out blocks keeps them in fit, so that every user can be fitted.
    """
    held = np.zeros(len(rows), dtype=bool)
    user = data.user[rows]
    if protocol.unit == "block":
        block = _column(data, "block")[rows]
        names = np.unique(block)
        if len(names) >= 2:
            count = max(1, _floor(len(names) * protocol.validation_share))
            drawn = rng.child("blocks").numpy().permutation(names)[:count]
            held = np.isin(block, drawn)
            held &= np.isin(user, user[~held])
        return rows[~held], rows[held]
    for number, where in _by_user(user).items():
        groups = _in_order(data.group[rows[where]])
        if len(groups) >= 2:
            count = max(1, _floor(len(groups) * protocol.validation_share))
            drawn = rng.child("user", number).numpy().permutation(np.sort(groups))[:count]
            held[where] = np.isin(data.group[rows[where]], drawn)
    return rows[~held], rows[held]


def _paper(data: PreferenceData, protocol: ProtocolEntry, rng: Rng) -> tuple[dict[int, _Sides], list[int], list[int]]:
    """Divide every user's rows, then halve the users who have both sides."""
    by_user = _by_user(data.user)
    is_test = _test_rows(data, protocol, rng)
    sides: dict[int, _Sides] = {}
    for user, rows in by_user.items():
        groups = _in_order(data.group[rows])
        order = rng.child("user", user).numpy().permutation(len(groups))
        # The place of each row's group in the drawn order.
        rank = np.empty(len(groups), dtype=np.int64)
        rank[order] = np.arange(len(groups))
        sorter = np.argsort(groups)
        place = rank[sorter[np.searchsorted(groups, data.group[rows], sorter=sorter)]]
        cut = _first_side(len(groups), 1 - protocol.test_share)
        test = place >= cut if is_test is None else is_test[rows]
        crossing = ~test & np.isin(data.group[rows], data.group[rows[test]])
        train = ~test & ~crossing
        drawn = rows[train][np.argsort(place[train], kind="stable")]
        sides[user] = _Sides(drawn, np.arange(len(drawn)), rows[test], int(crossing.sum()))
    return sides, *_drawn_users(sides, protocol, rng)


def _drawn_users(sides: Mapping[int, _Sides], protocol: ProtocolEntry, rng: Rng) -> tuple[list[int], list[int]]:
    """Seen and unseen users, drawn from those who have both sides."""
    eligible = np.array([user for user, side in sides.items() if side.complete], dtype=np.int64)
    shuffled = rng.child("users").numpy().permutation(eligible).tolist()
    n_seen = _first_side(len(shuffled), protocol.seen_share)
    return shuffled[:n_seen], shuffled[n_seen:]


def _chronological(
    data: PreferenceData, protocol: ProtocolEntry, rng: Rng
) -> tuple[dict[int, _Sides], list[int], list[int]]:
    """Divide every user's groups by time, then draw the users who are seen; users of one time have no sides."""
    time = _times(data)
    sides: dict[int, _Sides] = {}
    for user, rows in _by_user(data.user).items():
        groups, position = np.unique(data.group[rows], return_inverse=True)
        earliest = np.full(len(groups), np.inf)
        np.minimum.at(earliest, position, time[rows])
        if earliest.min() == earliest.max():
            continue
        hashes = [hashlib.sha256(f"{data.user_keys[user]}\x1f{group}".encode()).hexdigest() for group in groups]
        place = np.empty(len(groups), dtype=np.int64)
        place[np.lexsort((np.array(hashes), earliest))] = np.arange(len(groups))
        of_row = place[position]
        test = of_row >= _first_side(len(groups), 1 - protocol.test_share)
        train = rows[~test][np.lexsort((time[rows[~test]], of_row[~test]))]
        sides[user] = _Sides(train, np.arange(len(train)), rows[test])
    return sides, *_drawn_users(sides, protocol, rng)


def _times(data: PreferenceData) -> FloatArray:
    if data.time is None:
        raise InputError(
            f'{data.name}: the protocol is "chronological", but its comparisons have no times',
            hint='set name = "paper" in [protocol]',
        )
    return data.time


def _test_rows(data: PreferenceData, protocol: ProtocolEntry, rng: Rng) -> NDArray[np.bool_] | None:
    """Which rows are test, [n] bool, where that is decided for all users at once; None for `unit = "group"`."""
    if protocol.unit == "mark":
        return np.equal(_column(data, "mark"), 1)
    if protocol.unit == "block":
        block = _column(data, "block")
        blocks = rng.child("blocks").numpy().permutation(np.unique(block))
        return ~np.isin(block, blocks[: _first_side(len(blocks), 1 - protocol.test_share)])
    return None


def _published(
    data: PreferenceData, protocol: ProtocolEntry, seed: int
) -> tuple[dict[int, _Sides], list[int], list[int]]:
    """The published code's draws, with Python's own generator."""
    keys = sorted(data.user_keys)
    random.Random(seed).shuffle(keys)
    number = {key: user for user, key in enumerate(data.user_keys)}
    order = [number[key] for key in keys]
    sides: dict[int, _Sides] = {}
    for user, rows in _by_user(data.user).items():
        key = data.user_keys[user]
        generator = random.Random(seed + (int(hashlib.md5(key.encode()).hexdigest(), 16) % 2**32))
        if protocol.unit == "mark":
            mark = _column(data, "mark")[rows]
            shuffled = rows[mark == 0].tolist()
            generator.shuffle(shuffled)
            train, test = np.array(shuffled, dtype=np.int64), rows[mark == 1]
            repeats = np.isin(data.same_pair[train], data.same_pair[test])
            train = train[~repeats]
            sides[user] = _Sides(train, np.arange(len(train)), test, int(repeats.sum()))
            continue
        groups = _in_order(data.group[rows]).tolist()
        generator.shuffle(groups)
        parts = [rows[data.group[rows] == group] for group in groups]
        half = len(groups) // 2
        unit = np.repeat(np.arange(half), [len(part) for part in parts[:half]])
        none = rows[:0]
        sides[user] = _Sides(
            np.concatenate([none, *parts[:half]]), unit, np.sort(np.concatenate([none, *parts[half:]]))
        )
    return sides, order[: len(order) // 2], order[len(order) // 2 :]


def _check(data: PreferenceData, protocol: ProtocolEntry) -> None:
    if protocol.unit == "mark" and not np.isin(_column(data, "mark"), (0, 1)).all():
        raise InputError(f"{data.name}: a train/test mark is neither 0 nor 1")
    if protocol.unit == "block" and len(np.unique(_column(data, "block"))) < 2:
        raise InputError(
            f"{data.name} has fewer than two blocks, so none can be held out",
            hint='set unit = "group" in [protocol]',
        )
    if protocol.name == "chronological" and protocol.unit != "group":
        raise InputError(
            f'{data.name}: protocol "chronological" divides groups, not the unit "{protocol.unit}"',
            hint='remove unit from [protocol], or set name = "paper"',
        )
    if protocol.name == "published-code":
        if protocol.unit == "block":
            raise InputError(
                f'{data.name}: protocol "published-code" knows no unit "block"',
                hint='set name = "paper" in [protocol]',
            )
        if (protocol.seen_share, protocol.test_share) != (0.5, 0.5):
            raise InputError(
                f'{data.name}: protocol "published-code" always halves; seen_share and test_share must be 0.5',
                hint='remove them from [protocol], or set name = "paper"',
            )


def _column(data: PreferenceData, name: str) -> IntArray:
    column: IntArray | None = getattr(data, name)
    if column is None:
        raise InputError(
            f'{data.name}: the protocol\'s unit is "{name}", but its comparisons have no {name}s',
            hint='set unit = "group" in [protocol]',
        )
    return column


def _by_user(user: IntArray) -> dict[int, IntArray]:
    """The positions of each user's rows, ascending."""
    order = np.argsort(user, kind="stable")
    names, first = np.unique(user[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, first[1:]), strict=True)) if len(user) else {}


def _in_order(values: IntArray) -> IntArray:
    """The distinct values in order of first appearance."""
    names, first = np.unique(values, return_index=True)
    ordered: IntArray = names[np.argsort(first)]
    return ordered


def _floor(value: float) -> int:
    """The value rounded down, forgiving the representation error of shares such as 1 - 0.9."""
    return math.floor(value + 1e-9)


def _first_side(count: int, share: float) -> int:
    """How many of `count` go to the first side: rounded down, and at least one on either side if two or more."""
    return min(max(_floor(count * share), 1), count - 1) if count >= 2 else 0
