"""How epochs and hyper-parameters are chosen: named rules, and what `--selection` may ask for.

- `validation`: part of each seen user's training choices is held out. After choosing, the method is fitted again on
  all of them.
- `last`: the recipe's own budget, nothing chosen.
- `test-oracle`: the published MRM code's rule, the best accuracy on the test choices of seen and unseen users. It
  shows how much choosing on test data claims, and is labelled so wherever it appears.

`published` asks for a method's own parameters under its own rule, and `tuned` for those that prbench.running.tune
found. In results a published row is called by its rule, and a tuned one `tuned`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast, get_args

import numpy as np

from prbench.base.errors import InputError, nearest
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, PreferenceData
from prbench.method import FitProblem, Method
from prbench.protocol.metrics import user_accuracy
from prbench.protocol.splits import Split, split_off_validation
from prbench.registry.schema import ProtocolEntry, Selection, SelectionRule

if TYPE_CHECKING:
    from torch import Tensor


def parse_selections(text: str | None) -> list[Selection]:
    """The selections in a comma-separated list, each once; a method's own where there is no list.

    Raises InputError for a name that is none, and for an empty list.
    """
    if text is None:
        return ["published"]
    known = list(get_args(Selection))
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise InputError("--selection names nothing", hint=f"it is one or more of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise nearest(name, known, noun="selection", listing="prbench run --help")
    return [cast(Selection, name) for name in names]


def fit_rng(data: PreferenceData, split: Split, restart: int = 0) -> Rng:
    """The stream that fitting on a split draws from; its child "adapt" is that of adapting.

    Start 0 is every split's first; each further one has a stream of its own.
    """
    rng = Rng(split.seed, data.name, "fit", split.index)
    return rng.child("restart", restart) if restart else rng


def fit_problem(
    rule: SelectionRule,
    data: PreferenceData,
    comparisons: Comparisons,
    split: Split,
    protocol: ProtocolEntry,
    restart: int = 0,
) -> FitProblem:
    """What a method is given to fit on a split under `rule`, from one of the split's random starts.

    Raises InputError when nothing can be held out to choose by.
    """
    rng = fit_rng(data, split, restart)
    train = comparisons.take(split.seen_train)
    nothing = comparisons.take(split.seen_train[:0])
    if rule == "last":
        return FitProblem(train, nothing, rng)
    if rule == "test-oracle":
        return FitProblem(train, nothing, rng, choose=oracle(comparisons, split, rng))
    fit, validation = validation_rows(data, split, protocol)
    return FitProblem(comparisons.take(fit), comparisons.take(validation), rng)


def validation_rows(data: PreferenceData, split: Split, protocol: ProtocolEntry) -> tuple[IntArray, IntArray]:
    """The split's (fit rows, validation rows): the same for every method.

    Raises InputError when no seen user has anything to hold out, rather than choosing nothing in silence.
    """
    rng = Rng(split.seed, data.name, "validation", split.index)
    fit, validation = split_off_validation(data, split.seen_train, protocol, rng=rng)
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

    def judge(candidate: Method) -> float:
        return overall_accuracy(*test_margins(candidate, comparisons, split, rng))

    return judge


class TestMargins(NamedTuple):
    """Margins [n] of test choices, and the users [n] who made them."""

    margin: Tensor
    user: IntArray


def test_margins(method: Method, comparisons: Comparisons, split: Split, rng: Rng) -> tuple[TestMargins, TestMargins]:
    """A fitted method on the split's test choices: those of the seen users, and of the unseen ones once adapted."""
    seen, unseen = comparisons.take(split.seen_test), comparisons.take(split.unseen_test)
    support = comparisons.take(split.unseen_support)
    adapted = method.adapt_unseen(support, users=split.unseen, rng=rng.child("adapt"))
    return (
        TestMargins(method.margins(method.seen_users(), seen), seen.user),
        TestMargins(method.margins(adapted, unseen), unseen.user),
    )


def overall_accuracy(*populations: TestMargins) -> float:
    """The user accuracy of all populations together: every user counts once."""
    values = [user_accuracy(*judged) for judged in populations]
    return float(np.average(values, weights=[len(np.unique(judged.user)) for judged in populations]))
