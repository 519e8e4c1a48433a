"""The contract that every method keeps, checked on a toy population with planted preferences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.comparisons import Comparisons, IntArray
from prbench.contract.toys import Toy, planted_accuracy, population
from prbench.method import Method, ParameterCount, UserStates
from prbench.protocol.metrics import decisions
from prbench.registry import methods
from prbench.registry.schema import MethodEntry

if TYPE_CHECKING:
    from torch import Tensor

    from prbench.base.layout import Sheet

__all__ = ["Check", "CheckReport", "Toy", "check", "planted_accuracy", "population"]

# Accuracy on unseen users' test comparisons that a method must reach: shared preferences are strong, chance is 0.5.
BEATS = 0.6
SAME = 1e-4


@dataclass(frozen=True)
class Check:
    """One promise of the contract: whether it held, and what to repair if it did not."""

    name: str
    passed: bool
    detail: str = ""
    skipped: bool = False


@dataclass(eq=False)
class CheckReport:
    """The checks of one entry, in order."""

    entry: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check.passed for check in self.checks)

    def table(self) -> Sheet:
        """One row per check."""
        from prbench.base.layout import Sheet

        ran = sum(not check.skipped for check in self.checks)
        verdicts = ["not applicable" if c.skipped else "ok" if c.passed else "FAILED" for c in self.checks]
        return Sheet(
            title=f"{self.entry}: {ran} checks",
            header=("check", "", "detail"),
            rows=[
                [check.name, verdict, "" if verdict == "ok" else check.detail]
                for check, verdict in zip(self.checks, verdicts, strict=True)
            ],
            prose=frozenset({2}),
            needed=2,
        )


def check(entry: MethodEntry, overrides: Mapping[str, Any] | None = None) -> CheckReport:
    """Check a method entry's method, with `overrides` of its parameters, against the contract of `Method`.

    Fits it a few times on a population of 12 users, which takes seconds. Every check is reported by name, also
    those that do not apply, with the reason.
    """

    def make() -> Method:
        return methods.make_method(entry, None, overrides or {})

    report = CheckReport(entry.name)
    toy = Toy()
    try:
        if make().reads_text:
            toy = Toy(texts=True)
        reason = make().unsupported(toy.data)
        if reason is not None:
            # What a method memorises about items it can only use where they recur.
            toy = Toy(recurring=12)
            reason = make().unsupported(toy.data)
        if reason is not None:
            name = "supports texts" if make().reads_text else "supports embeddings with a reward"
            report.checks.append(Check(name, False, f"unsupported: {reason}"))
            return report
        report.checks += _checks(make, toy)
    except InputError:
        # The entry is at fault, not the method: its file and key say more than a check's name.
        raise
    except Exception as error:
        # A method under check may fail in any way; the author wants to know at which promise.
        done = report.checks[-1].name if report.checks else "start"
        report.checks.append(Check(f"no error after {done!r}", False, f"{type(error).__name__}: {error}"))
    return report


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, atol=SAME, rtol=SAME))


def _apart(a: Tensor, b: Tensor) -> str:
    return f"largest difference {float((a - b).abs().max()):.2g}" if a.shape == b.shape else "shapes differ"


def _checks(make: Callable[[], Method], toy: Toy) -> Iterator[Check]:
    yield _unfitted_raises(make(), toy)

    method = make()
    fitted = toy.fit(method)
    yield Check("fit_seen returns the method itself", fitted is method, "return self from fit_seen")
    before = {name: tensor.clone() for name, tensor in method.learned().items()}

    seen = method.seen_users()
    users = toy.train.users
    yield Check("every seen user has a state", np.array_equal(seen.users, users), "seen_users must cover train")
    adapted = method.adapt_unseen(toy.support, rng=toy.rng)
    yield Check(
        "every adapted user has a state", np.array_equal(adapted.users, toy.support.users), "see adapt_unseen"
    )
    margins = method.margins(adapted, toy.test)
    seen_margins = method.margins(seen, toy.seen_test)
    finite = bool(torch.isfinite(margins).all() and torch.isfinite(seen_margins).all())
    yield Check("scores are finite", finite, "a margin is NaN or infinite")

    # Nothing is trained from a random start on texts, and each of their comparisons is a judge's call.
    accuracy = (
        float(decisions(margins.numpy()).mean()) if toy.texts else planted_accuracy(make(), recurring=toy.recurring)
    )
    detail = f"accuracy {accuracy:.2f} on unseen users' test comparisons, at least {BEATS} is expected"
    yield Check("beats chance on planted preferences", accuracy >= BEATS, detail)

    twin = toy.fit(make())
    other = twin.margins(twin.adapt_unseen(toy.support, rng=toy.rng), toy.test)
    yield Check("same seed, same scores", _same(margins, other), _apart(margins, other))

    yield _start(make, toy, margins)

    blind = toy.fit(make(), toy.poisoned())
    states = blind.adapt_unseen(replace(toy.support, items=toy.poisoned().items), rng=toy.rng)
    other = blind.margins(states, toy.test)
    yield Check(
        "never touches test rows", _same(margins, other), "NaN in test items reached the fit or the adaptation"
    )

    yield _independent_of_batch(make, toy, margins)

    yield from _scoring(method, adapted, toy, margins)
    yield from _adaptation(method, adapted, toy)

    unchanged = all(torch.equal(before[name], tensor) for name, tensor in method.learned().items())
    yield Check("adapting and scoring leave the method as it was", unchanged, "learned tensors changed")
    yield from _storage(make, method, adapted, toy, margins)


def _independent_of_batch(make: Callable[[], Method], toy: Toy, alone: Tensor) -> Check:
    """A split has the same bits by itself, first in a block of two and last in a run of three.

    The other splits have fewer users or fewer choices, so that whatever pads them side by side has work to do.
    """
    mine, fewer_users, fewer_choices = toy.problem(), toy.part(users=4), toy.part(groups=3)
    apart = ""
    for problems in ([mine, fewer_users], [fewer_choices, fewer_users, mine]):
        together = [make() for _ in problems]
        type(together[0]).fit_splits(together, problems)
        method = together[problems.index(mine)]
        other = method.margins(method.adapt_unseen(toy.support, rng=toy.rng), toy.test)
        if not torch.equal(alone, other):
            apart = f"with {len(problems) - 1} other splits beside it: {_apart(alone, other)}"
    return Check("a split's bits do not depend on the splits beside it", not apart, apart)


def _start(make: Callable[[], Method], toy: Toy, margins: Tensor) -> Check:
    """A method that says that it has no random start is fitted once: another stream must give the same bits."""
    name = "without a random start no number is drawn"
    if type(make()).random_start:
        return Check(name, True, "declared: random_start", skipped=True)
    rng = toy.rng.child("restart", 1)
    twin = make().fit_seen(toy.train, toy.validation, rng=rng)
    other = twin.margins(twin.adapt_unseen(toy.support, rng=rng), toy.test)
    return Check(name, torch.equal(margins, other), _apart(margins, other))


def _unfitted_raises(method: Method, toy: Toy) -> Check:
    calls: dict[str, Callable[[], object]] = {
        "seen_users": method.seen_users,
        "adapt_unseen": lambda: method.adapt_unseen(toy.support, rng=toy.rng),
        "parameter_count": method.parameter_count,
    }
    silent = []
    for name, call in calls.items():
        try:
            call()
        except RuntimeError:
            continue
        silent.append(name)
    return Check("unfitted methods raise RuntimeError", not silent, f"no error from {', '.join(silent)}")


def _scoring(method: Method, states: UserStates, toy: Toy, margins: Tensor) -> Iterator[Check]:
    if method.pairwise:
        yield from _comparing(method, states, toy, margins)
        return
    test = toy.test
    chosen = method.score(states, test.user, test.items.take(test.chosen))
    rejected = method.score(states, test.user, test.items.take(test.rejected))
    yield Check(
        "margins are differences of scores", _same(margins, chosen - rejected), _apart(margins, chosen - rejected)
    )
    parts = [test.take(np.arange(i, min(i + 3, len(test)))) for i in range(0, len(test), 3)]
    batched = torch.cat([method.score(states, p.user, p.items.take(p.chosen)) for p in parts])
    yield Check("scoring in batches equals scoring at once", _same(chosen, batched), _apart(chosen, batched))
    yield _equal_vectors(method, states, test)


def _comparing(method: Method, states: UserStates, toy: Toy, margins: Tensor) -> Iterator[Check]:
    """What takes the place of `_scoring` for methods that compare two replies."""
    test = toy.test
    each = torch.cat([method.margins(states, test.take(np.array([i]))) for i in range(len(test))])
    yield Check("margins of a batch equal margins one by one", torch.equal(margins, each), _apart(margins, each))
    swapped = method.margins(states, replace(test, chosen=test.rejected, rejected=test.chosen))
    opposite = torch.equal(swapped, -margins)
    yield Check("swapping the two replies negates the margin", opposite, _apart(swapped, -margins))
    same = method.margins(states, replace(test, rejected=test.chosen))
    yield Check("a reply against itself has margin 0", not bool(same.any()), "a margin of equal texts is not 0")
    single = test.take(np.array([0]))
    both = test.items.take(np.concatenate([single.chosen, single.rejected]))
    scores = method.score(states, np.repeat(single.user, 2), both)
    agrees = bool(torch.sign(scores[0] - scores[1]) == torch.sign(margins[0]))
    yield Check("scores rank as margins do", agrees, f"scores {scores.tolist()}, margin {float(margins[0]):.3g}")
    try:
        method.score(states, single.user, test.items.take(single.chosen))
    except InputError:
        refused = True
    else:
        refused = False
    yield Check("a single candidate is refused", refused, "score must raise InputError for a context with one reply")


def _equal_vectors(method: Method, states: UserStates, test: Comparisons) -> Check:
    """Copies of items lie elsewhere in every product than their originals, so that rounding could tell them apart."""
    copies = len(test.items) + np.arange(len(test))[::-1].copy()
    both = replace(
        test, items=test.items.take(np.concatenate([np.arange(len(test.items)), test.chosen[::-1]])), rejected=copies
    )
    margins = method.margins(states, both)
    sides = both.items.take(np.concatenate([both.chosen, both.rejected]))
    scores = method.score(states, np.concatenate([both.user, both.user]), sides).reshape(2, -1)
    decided = int((margins != 0).sum()), int((scores[0] != scores[1]).sum())
    detail = f"{decided[0]} of {len(test)} margins of equal vectors are not 0, {decided[1]} scores of them differ"
    return Check("equal vectors have margin 0 and one score", decided == (0, 0), detail)


def _adaptation(method: Method, states: UserStates, toy: Toy) -> Iterator[Check]:
    support = toy.support

    def margins(states: UserStates, test: Comparisons = toy.test) -> Tensor:
        return method.margins(states, test)

    user = int(support.users[2])
    mine = toy.test.of(user)
    alone = method.adapt_unseen(support.of(user), rng=toy.rng)
    a, b = margins(alone, mine), margins(states, mine)
    yield Check("adapting a user alone equals adapting it among others", _same(a, b), _apart(a, b))

    others = support.take(support.user != user)
    without = method.adapt_unseen(others, rng=toy.rng)
    rest = toy.test.take(toy.test.user != user)
    a, b = margins(without, rest), margins(states, rest)
    yield Check("other users' support changes nothing", _same(a, b), _apart(a, b))

    shuffled = support.take(np.random.default_rng(0).permutation(len(support)))
    if type(method).order_matters:
        yield Check("order of support does not matter", True, "declared: order_matters", skipped=True)
    else:
        a, b = margins(method.adapt_unseen(shuffled, rng=toy.rng)), margins(states)
        yield Check("order of support does not matter", _same(a, b), _apart(a, b))

    cold = method.cold_start(support.users, toy.data.items, rng=toy.rng)
    a = margins(cold)
    yield Check("zero shots work", bool(torch.isfinite(a).all()), "the cold start gives NaN or infinite scores")
    # The states of methods that read texts are texts, of any length.
    forms = [
        {name: (t.dtype, t.dim() if method.reads_text else t.shape[1:]) for name, t in each.tensors.items()}
        for each in (states, cold)
    ]
    detail = "adapt_unseen gives other tensors, types or shapes with choices than without"
    yield Check("a state has one form, whatever choices it rests on", forms[0] == forms[1], detail)
    everyone: IntArray = support.users
    partial = method.adapt_unseen(others, users=everyone, rng=toy.rng)
    a, b = margins(partial, mine), margins(cold, mine)
    yield Check("a user without support has the cold start", _same(a, b), _apart(a, b))


def _storage(
    make: Callable[[], Method], method: Method, states: UserStates, toy: Toy, margins: Tensor
) -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as folder:
        method.save(Path(folder) / "model.safetensors")
        states.save(Path(folder) / "users.safetensors")
        restored = make().load(Path(folder) / "model.safetensors")
        read, _ = UserStates.load(Path(folder) / "users.safetensors")
        a = restored.margins(read, toy.test)
        yield Check("survives saving and loading", _same(a, margins), _apart(a, margins))
        b = restored.margins(restored.adapt_unseen(toy.support, rng=toy.rng), toy.test)
        yield Check("a loaded method adapts as before", _same(b, margins), _apart(b, margins))
    count = method.parameter_count()
    shared = sum(tensor.numel() for tensor in method.learned().values())
    per_user = sum(tensor[0].numel() for tensor in states.tensors.values())
    if method.reads_text:
        name = "parameter_count is the number of stored values"
        yield Check(name, count.shared == shared, f"says {count.shared} shared, stores {shared}")
        return
    yield Check(
        "parameter_count is the number of stored values",
        count == (shared, per_user),
        f"says {count.shared} shared and {count.per_user} per user, stores {shared} and {per_user}",
    )
    yield _foretold(make().parameters_for(toy.data.items.dim), count)


def _foretold(before: ParameterCount | None, after: ParameterCount) -> Check:
    name = "parameters_for is the parameter_count of the fitted method"
    if before is None:
        return Check(name, True, "declared: the count depends on the data", skipped=True)
    detail = f"says {before.shared} shared and {before.per_user} per user, it has {after.shared} and {after.per_user}"
    return Check(name, before == after, detail)
