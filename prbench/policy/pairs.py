"""The pairs that policies of a few people are trained on, and each person's own pairs that they are judged on.

All policies see the same pairs of responses in the same order, for the same number of steps; they differ in who
labels them: a person's adapted reward, one reward for everybody, or those seen users who judged the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prbench import registry
from prbench.base.errors import InputError, nearest
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, PreferenceData
from prbench.method import Method, UserStates
from prbench.protocol.splits import Split, make_split
from prbench.results import cells
from prbench.results.probes import finished
from prbench.results.record import CellRecord
from prbench.running.open_dataset import OpenDataset, adapt_rng, open_dataset
from prbench.running.probes.beside import fit_of_bt
from prbench.running.skipping import NotApplicableError
from prbench.training.compute import computing

BT, EVERYBODY = "bt", "unpersonalised"


class Labels(NamedTuple):
    """Pairs in the order of training: rows of the data set [n], and whether each stands turned round."""

    rows: IntArray
    turned: np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class People:
    """A fit of a method on one split, with those of its unseen users that get policies."""

    record: CellRecord
    setting: OpenDataset
    split: Split
    method: Method
    bt: Method
    users: IntArray

    @property
    def data(self) -> PreferenceData:
        """The data set."""
        return self.setting.data

    def test_rows(self, user: int) -> IntArray:
        """The rows of a person's held-out choices."""
        rows = self.split.unseen_test
        return np.asarray(rows[self.data.user[rows] == user])


def open_people(
    runs: Path,
    dataset: str,
    method: str,
    users: str,
    *,
    encoder: str | None = None,
    split: int = 0,
    device: str = "cpu",
) -> People:
    """The fit of `method` in a folder of results, with BT's fit of the same split beside it.

    `users` names unseen users of the split by their numbers in the results, "12,40", or takes some: "any:4" or "all".
    Raises InputError where a fit or a user is not there, several fits are meant, or the data are others than then.
    """
    folder, record = _fit(runs, dataset, method, encoder, split)
    setting = open_dataset(dataset, record.encoder, device, lambda data, entry: [])
    if setting.data.embedded is not None:
        raise InputError(f"{dataset} comes as embeddings: a language model has nothing to read")
    for name, now in (
        ("data_fingerprint", setting.data.fingerprint),
        ("embedding_fingerprint", setting.embedding_fingerprint),
    ):
        if (then := getattr(record, name)) != now:
            said = f"{folder} was made with {name.replace('_', ' ')} {then}, here it is {now}"
            raise InputError(said, hint="run the cell again")
    drawn = make_split(
        setting.data, record.protocol, index=record.split, seed=record.seed - record.split, draw=record.draw
    )
    try:
        bt = fit_of_bt(folder, drawn)
    except NotApplicableError as error:
        raise InputError(str(error), hint=f"prbench run --methods bt --dataset {dataset} --out {runs}") from error
    return People(record, setting, drawn, cells.load_method(folder, record), bt, _chosen(users, setting.data, drawn))


def labelled(people: People, seed: int) -> tuple[dict[str, Labels], int]:
    """The labels of every policy, by its name: `BT`, `EVERYBODY` and "user-N" for each person.

    Pairs are the distinct ones of the seen users' training choices without those that one of the people is tested on,
    whose number is the second value. A pair that a reward ties is left out of that reward's labels. Raises InputError
    where no pair is left.
    """
    data, split = people.data, people.split
    rows = split.seen_train
    _, first = np.unique(data.same_pair[rows], return_index=True)
    rows = rows[np.sort(first)]
    tested = np.concatenate([people.test_rows(user) for user in people.users.tolist()])
    held_out = np.isin(data.same_pair[rows], data.same_pair[tested])
    rows = rows[~held_out]
    if not len(rows):
        raise InputError(
            f"{data.name}: the people are tested on every pair that the seen users judged",
            hint="name fewer --users, or another --split",
        )
    rows = rows[Rng(seed, "policy pairs", data.name, split.index).numpy().permutation(len(rows))]
    comparisons = people.setting.comparisons()
    rng = adapt_rng(people.setting, split)
    with computing(people.record.precision):
        support = comparisons.take(split.unseen_support)
        adapted = people.method.adapt_unseen(support, users=split.unseen, rng=rng)
        nobody = people.bt.cold_start(people.users[:1], comparisons.items, rng=rng)
        pairs = comparisons.take(rows)
        margins = {BT: margins_for(people.bt, nobody, pairs, int(people.users[0]))}
        for user in people.users.tolist():
            margins[f"user-{user}"] = margins_for(people.method, adapted, pairs, user)
    found = {EVERYBODY: Labels(rows, np.zeros(len(rows), dtype=np.bool_))}
    for name, margin in margins.items():
        found[name] = Labels(rows[margin != 0], margin[margin != 0] < 0)
        if not (margin != 0).any():
            raise InputError(f"the reward of {name} ties every pair: there is nothing to train a policy on")
    return found, int(held_out.sum())


def reward_margins(people: People) -> dict[int, tuple[FloatArray, FloatArray]]:
    """By person: the margins of the adapted reward and of BT on the person's own held-out choices."""
    comparisons = people.setting.comparisons()
    rng = adapt_rng(people.setting, people.split)
    with computing(people.record.precision):
        support = comparisons.take(people.split.unseen_support)
        adapted = people.method.adapt_unseen(support, users=people.split.unseen, rng=rng)
        nobody = people.bt.cold_start(people.users, comparisons.items, rng=rng)
        own = {user: comparisons.take(people.test_rows(user)) for user in people.users.tolist()}
        return {
            user: (margins_for(people.method, adapted, test, user), margins_for(people.bt, nobody, test, user))
            for user, test in own.items()
        }


def margins_for(method: Method, states: UserStates, pairs: Comparisons, user: int) -> FloatArray:
    """A user's margins on pairs, whoever judged them, [n]. Raises FloatingPointError where one is not finite."""
    own = replace(pairs, user=np.full(len(pairs), user, dtype=np.int64))
    found = method.margins(states, own).double().numpy()
    if not np.isfinite(found).all():
        raise FloatingPointError(f"{int((~np.isfinite(found)).sum())} margins are not finite")
    return np.asarray(found)


def _fit(runs: Path, dataset: str, method: str, encoder: str | None, split: int) -> tuple[Path, CellRecord]:
    registry.get("datasets", dataset)
    there = [(folder, record) for folder, record in finished(runs) if record.dataset == dataset]
    if not there:
        raise InputError(
            f"{runs} has no finished fit on {dataset}", hint=f"prbench run --methods bt,{method} --dataset {dataset}"
        )
    if method not in {record.method for _, record in there}:
        known = sorted({record.method for _, record in there})
        raise nearest(method, known, noun=f"method on {dataset} in {runs}", listing="prbench list methods")
    fits = [
        (folder, record)
        for folder, record in there
        if record.method == method
        and record.split == split
        and not (record.restart or record.reader)
        and record.selection == record.entry.selection
        and encoder in (None, record.encoder)
    ]
    if not fits:
        raise InputError(f"{runs} has no finished fit of split {split} of {method} on {dataset} under its own rule")
    if len(fits) > 1:
        encoders = ", ".join(record.encoder for _, record in fits)
        raise InputError(
            f"{runs} has several fits of {method} on {dataset}: {encoders}", hint="choose with --encoder"
        )
    return fits[0]


def _chosen(wanted: str, data: PreferenceData, split: Split) -> IntArray:
    """The numbers of the people meant, ascending."""
    there = np.unique(data.user[split.unseen_test])
    hint = f"name unseen users of this split, such as --users {','.join(map(str, there[:2].tolist()))}, or any:4, all"
    if wanted.strip() == "all":
        return np.asarray(there)
    some, _, number = wanted.partition(":")
    if some.strip() == "any" and number.strip().isdecimal() and int(number[:9]) > 0:
        if int(number[:9]) > len(there):
            raise InputError(f"--users {wanted}: this split has {len(there):,} unseen users", hint=hint)
        order = Rng("policy users", data.name, split.index).numpy().permutation(len(there))
        return np.sort(there[order[: int(number[:9])]])
    parts: Sequence[str] = [part.strip() for part in wanted.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise InputError(f"--users {wanted}: expected numbers of users", hint=hint)
    users = np.unique(np.array([int(part) for part in parts], dtype=np.int64))
    if len(other := users[~np.isin(users, there)]):
        raise InputError(f"--users {wanted}: {other[0]} is not an unseen user of split {split.index}", hint=hint)
    return users
