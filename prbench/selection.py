"""How epochs and hyper-parameters are chosen: named rules.

- `validation`: part of each seen user's training choices is held out; what is chosen on it is trained again on all.
- `last`: the recipe's own budget, nothing chosen.
- `test-oracle`: the published MRM code's rule, the best accuracy on the test choices of seen and unseen users. It
  shows how much choosing on test data claims, and is labelled so wherever it appears.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prbench.comparisons import Comparisons, IntArray, PreferenceData
from prbench.entries import ProtocolEntry, SelectionRule
from prbench.errors import InputError
from prbench.method import FitProblem, Method
from prbench.seeds import Rng
from prbench.splits import Split, hold_out
from prbench.training import user_accuracy


def problem(
    rule: SelectionRule, data: PreferenceData, comparisons: Comparisons, split: Split, protocol: ProtocolEntry
) -> FitProblem:
    """What a method is given to fit on a split under `rule`.

    Raises InputError when nothing can be held out to choose by.
    """
    rng = Rng(split.seed, data.name, "fit", split.index)
    train = comparisons.take(split.seen_train)
    nothing = comparisons.take(split.seen_train[:0])
    if rule == "last":
        return FitProblem(train, nothing, rng)
    if rule == "test-oracle":
        return FitProblem(train, nothing, rng, choose=oracle(comparisons, split, rng))
    fit, validation = held_out(data, split, protocol)
    return FitProblem(comparisons.take(fit), comparisons.take(validation), rng)


def held_out(data: PreferenceData, split: Split, protocol: ProtocolEntry) -> tuple[IntArray, IntArray]:
    """The split's (fit rows, validation rows): the same for every method.

    Raises InputError when no seen user has anything to hold out, rather than choosing nothing in silence.
    """
    rng = Rng(split.seed, data.name, "validation", split.index)
    fit, validation = hold_out(data, split.seen_train, protocol, rng=rng)
    if not len(validation):
        unit = "blocks" if protocol.unit == "block" else "groups"
        raise InputError(
            f"{data.name}, split {split.index}: no seen user has training choices in two {unit}, so none can be held "
            "out to choose by",
            hint="--selection last trains every recipe to its end",
        )
    return fit, validation


def oracle(comparisons: Comparisons, split: Split, rng: Rng) -> Callable[[Method], float]:
    """Judges a candidate by its user accuracy on the *test* choices of seen and unseen users together."""
    seen, unseen = comparisons.take(split.seen_test), comparisons.take(split.unseen_test)
    support = comparisons.take(split.unseen_support)

    def judge(candidate: Method) -> float:
        adapted = candidate.adapt_unseen(support, users=split.unseen, rng=rng.child("adapt"))
        parts = [
            (user_accuracy(candidate.margins(states, test), test.user), len(test.users))
            for states, test in ((candidate.seen_users(), seen), (adapted, unseen))
        ]
        values, weights = np.array(parts).T
        return float(np.average(values, weights=weights))

    return judge
