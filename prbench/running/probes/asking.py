"""Asking users: a rule picks the next pair from the support, whose labels it does not see, and the method adapts
again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from prbench.comparisons import Comparisons, FloatArray, IntArray
from prbench.method import Method
from prbench.protocol.metrics import ALL_SHOTS, decisions
from prbench.protocol.questions import RULES, next_question
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.controls import require_personal
from prbench.running.skipping import NotApplicableError

MOST = 20
SHARE = 0.9
"""The number of questions is one that this share of the unseen users have, and all of these take part in every
number."""


def number_of_questions(counts: IntArray) -> int:
    """The largest number up to `MOST` that `SHARE` of the users have, whose support choices are counted in
    [users]."""
    return max((q for q in range(1, MOST + 1) if (counts >= q).mean() >= SHARE), default=0)


def asking(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of the table: each user's accuracy after every number of questions by every rule.

    With `questions` of `ALL_SHOTS` the whole support was asked. Raises NotApplicableError for methods without
    personal state and where users have no support.
    """
    comparisons, data = setting.comparisons(), setting.data
    rng = adapt_rng(setting, split)
    require_personal(method, setting, split)
    rows = split.unseen_support
    users, counts = np.unique(data.user[rows], return_counts=True)
    most = number_of_questions(counts)
    if not most:
        raise NotApplicableError(f"the unseen users of {setting.entry.name} have no support choices")
    users = users[counts >= most]
    support = hidden(comparisons.take(rows[np.isin(data.user[rows], users)]))
    test = comparisons.take(split.unseen_test[np.isin(data.user[split.unseen_test], users)])
    features, of_pool = method.features_of(test), method.features_of(support.shown)
    cold = _accuracy(
        method.margins(method.cold_start(users, comparisons.items, rng=rng), test, features), test, users
    )
    places = {int(u): np.flatnonzero(support.shown.user == u) for u in users}
    grams = _grams(method, support.shown, places)
    orders = {
        u: np.argsort([_hash(split.seed, int(row)) for row in support.shown.row[at]]) for u, at in places.items()
    }
    parts = []

    def note(rule: int, questions: int, accuracy: FloatArray) -> None:
        parts.append(
            {
                "user": users,
                "rule": np.full(len(users), rule, dtype=np.int64),
                "questions": np.full(len(users), questions, dtype=np.int64),
                "accuracy": accuracy.astype(np.float32),
                "cold": cold.astype(np.float32),
            }
        )

    def judged(known: Comparisons) -> tuple[Any, FloatArray]:
        states = method.adapt_unseen(known, users=users, rng=rng)
        return states, _accuracy(method.margins(states, test, features), test, users)

    note(0, ALL_SHOTS, judged(support.answered)[1])
    for number, rule in enumerate(RULES):
        asked: dict[int, list[int]] = {u: [] for u in places}
        states = method.cold_start(users, comparisons.items, rng=rng)
        for questions in range(1, most + 1):
            margin = method.margins(states, support.shown, of_pool).double().numpy()
            for user, at in places.items():
                known = np.array(asked[user], dtype=np.int64)
                asked[user].append(next_question(rule, grams[user], margin[at], orders[user], known))
            told = np.concatenate([places[u][chosen] for u, chosen in asked.items()])
            states, accuracy = judged(support.answered.take(told))
            note(number, questions, accuracy)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Hidden:
    """A pool of choices: `answered` as the users made them, and `shown`, with the sides in an order drawn by hash."""

    def __init__(self, answered: Comparisons, shown: Comparisons) -> None:
        self.answered, self.shown = answered, shown


def hidden(support: Comparisons) -> Hidden:
    """The support with and without its labels: which side comes first depends on the two items alone."""
    low, high = np.minimum(support.chosen, support.rejected), np.maximum(support.chosen, support.rejected)
    pairs = zip(low.tolist(), high.tolist(), strict=True)
    turned = np.array([hashlib.sha256(f"{a} {b}".encode()).digest()[0] & 1 for a, b in pairs], dtype=bool)
    shown = replace(support, chosen=np.where(turned, high, low), rejected=np.where(turned, low, high))
    return Hidden(support, shown)


def _grams(method: Method, pool: Comparisons, places: dict[int, IntArray]) -> dict[int, FloatArray]:
    """Products of the feature differences of each user's pairs, scaled to a mean square of 1 a coordinate.

    Features are the method's own where users are linear in them, else the embeddings.
    """
    if method.linear_user_part:
        ready = method.features_of(pool)
        difference = ready.features[ready.chosen] - ready.features[ready.rejected]
    else:
        difference = pool.differences()
    x = difference.double().numpy()
    scale = np.sqrt(np.mean(x**2)) or 1.0
    return {user: (x[at] / scale) @ (x[at] / scale).T for user, at in places.items()}


def _accuracy(margin: Any, test: Comparisons, users: IntArray) -> FloatArray:
    """Each user's accuracy on the test choices, [users]."""
    values = margin.float().numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{int((~np.isfinite(values)).sum())} margins are not finite")
    place = np.searchsorted(users, test.user)
    return np.asarray(np.bincount(place, decisions(values), len(users)) / np.bincount(place, minlength=len(users)))


def _hash(seed: int, row: int) -> int:
    return int.from_bytes(hashlib.sha256(f"question {seed} {row}".encode()).digest()[:6], "big")
