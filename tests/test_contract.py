"""Every registry entry keeps the contract, and every way of breaking it is caught by the check named for it."""

from __future__ import annotations

from functools import cache
from typing import Any

import planted_methods
import pytest
from trained import measured

from prbench import contract, registry
from prbench.method import Method
from prbench.registry import methods

# The contract fits an entry nine times, which takes up to 17 s at published budgets. A fifth of these, in larger steps,
# still beats chance; that the published ones do is tested apart, with one fit of each.
SHORTER: dict[str, dict[str, Any]] = {
    "bt": {"steps": 200},
    "gpo": {"epochs": 4, "depth": 2},
    "np": {"epochs": 10, "rate": 1e-3, "width": 64},
    "bt-offset": {"tolerance": 1e-3},
    "vpl": {"rate": 1e-3, "width": 64},
    "maml": {"epochs": 50, "rate": 0.01},
    "mrm-no-basis": {"epochs": 40},
    # Without a user's choices only a longer training of the heads shows.
    "micro-router-only": {"epochs": 60, "rate": 0.01},
    # At 50 updates of 1e-4, and half of eight coordinates dropped, nothing is learned.
    "pal-b-t2i": {"epochs": 100, "rate": 0.01, "pairs_per_update": 32},
}
# They train a tiny language model with trl, which takes seconds a fit; nothing else of them differs here.
TRAINED_JUDGES: dict[str, dict[str, Any]] = {
    "synthesizeme-ft": {"rate": 0.01, "passes": 1, "support": 4},
    "persrm-sft": {"reasoning": 16, "traces": 4, "batch": 4},
    "persrm-rl": {"reasoning": 16, "traces": 4, "batch": 4, "completions": 2},
}
SHORTER_VARIANTS: dict[str, dict[str, Any]] = {
    "mrm": {"epochs": 40, "rate": 0.05},
    "lore": {"steps": 200, "adapt_steps": 100},
    "em-k": {"kinds": [2], "strengths": [10.0], "rounds": 8, "starts": 2},
    "item-mf": {"item_strengths": [0.3], "taste_strengths": [1.0]},
    "copl": {"epochs": 10, "rate": 0.03, "width": 16, "layers": 2},
    "pttt-linear": {"epochs": 40},
    "micro": {"epochs": 3, "rate": 0.01},
    "spl": {"epochs": 8, "width": 16, "rate": 0.02},
}

BROKEN = {
    "NeverUnfitted": "unfitted methods raise RuntimeError",
    "ReturnsAnother": "fit_seen returns the method itself",
    "LosesUsers": "every adapted user has a state",
    "Infinite": "scores are finite",
    "Backwards": "beats chance on planted preferences",
    "Unseeded": "same seed, same scores",
    "DrawsInSecret": "without a random start no number is drawn",
    "Peeks": "never touches test rows",
    "Couples": "a split's bits do not depend on the splits beside it",
    "DependsOnBatch": "scoring in batches equals scoring at once",
    "TellsCopiesApart": "equal vectors have margin 0 and one score",
    "Leaks": "adapting a user alone equals adapting it among others",
    "FirstOnly": "order of support does not matter",
    "NanCold": "zero shots work",
    "KeepsChoices": "a state has one form, whatever choices it rests on",
    "Mutates": "adapting and scoring leave the method as it was",
    "ForgetsScale": "survives saving and loading",
    "Miscounts": "parameter_count is the number of stored values",
    "Misforecasts": "parameters_for is the parameter_count of the fitted method",
}


def shorter(name: str) -> dict[str, Any]:
    """The hyper-parameters with which an entry is checked."""
    if name in TRAINED_JUDGES:
        return TRAINED_JUDGES[name]
    return SHORTER.get(name, SHORTER_VARIANTS.get(registry.get("methods", name).extends or name, {}))


# Of the variants of an entry, those that take other ways through the code or cost next to nothing.
CHECKED_VARIANTS = {"mrm-k1", "mrm-first-order", "mrm-gamma-0", "pal-fast-users", "pal-residual"}


def left_out(name: str) -> bool:
    """Whether the entry varies a checked one by the value of an option, or needs trl."""
    if name in TRAINED_JUDGES:
        return True
    entry = registry.get("methods", name)
    return entry.extends is not None and not entry.default and name not in CHECKED_VARIANTS


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extras] * left_out(n)) for n in registry.names("methods")]
)
def test_every_entry_keeps_the_contract(name: str) -> None:
    entry = registry.get("methods", name)
    report = contract.check(entry, shorter(name))
    assert [f"{check.name}: {check.detail}" for check in report.checks if not check.passed] == []
    assert sum(not check.skipped for check in report.checks) >= 19
    made = methods.make_method(entry, None, {})
    # Comparing two replies has five checks for three of scoring, and texts foretell no parameters.
    count = 25 if made.pairwise else 23 if made.reads_text else 24
    assert len({check.name for check in report.checks}) == len(report.checks) == count
    assert all(check.detail for check in report.checks if check.skipped)


@cache
def guessed() -> float:
    return contract.planted_accuracy(planted_methods.Guesses())


def trained_entries() -> list[str]:
    """The methods that `all` stands for and that read embeddings; on texts nothing is trained from a random start."""
    entries = [entry for entry in registry.load_all("methods") if entry.default]
    return [entry.name for entry in entries if not methods.make_method(entry, None, {}).reads_text]


@pytest.mark.trained
@pytest.mark.parametrize("name", trained_entries())
def test_every_entry_beats_chance(name: str) -> None:
    method = methods.make_method(registry.get("methods", name), None, {})
    # What a method memorises about items it can only use where they recur.
    recurring = 12 if method.unsupported(contract.Toy().data) else 0
    accuracy = contract.planted_accuracy(method, recurring=recurring)
    measured("accuracy", accuracy, at_least=contract.BEATS, control=guessed())


def test_the_method_that_the_broken_ones_vary_is_sound() -> None:
    report = contract.check(planted_methods.entry("Good"))
    assert report.passed, report.checks
    assert len(report.checks) == 24


@pytest.mark.parametrize("target", BROKEN)
def test_a_broken_method_is_caught(target: str) -> None:
    report = contract.check(planted_methods.entry(target))
    assert not report.passed
    assert BROKEN[target] in [check.name for check in report.checks if not check.passed]


def test_a_leak_is_also_caught_by_leaving_a_user_out() -> None:
    report = contract.check(planted_methods.entry("Leaks"))
    assert "other users' support changes nothing" in [c.name for c in report.checks if not c.passed]


def test_a_declared_dependence_on_order_is_a_named_skip() -> None:
    report = contract.check(planted_methods.entry("DeclaredFirstOnly"))
    assert report.passed
    assert [(c.name, c.detail) for c in report.checks if c.skipped] == [
        ("without a random start no number is drawn", "declared: random_start"),
        ("order of support does not matter", "declared: order_matters"),
    ]


def test_a_method_that_raises_is_reported_with_the_last_promise_it_kept() -> None:
    report = contract.check(planted_methods.entry("Raises"))
    assert not report.passed
    last = report.checks[-1]
    assert last.name == "no error after 'unfitted methods raise RuntimeError'"
    assert last.detail == "ZeroDivisionError: planted [failure]\nin two lines"


def test_an_unsupported_method_does_not_pass() -> None:
    report = contract.check(planted_methods.entry("Unsupported"))
    assert [(c.passed, c.detail) for c in report.checks] == [(False, "unsupported: 8 dimensions [are] too many")]


def test_positional_hyper_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="Positional: the hyper-parameter 'bases' must be keyword-only"):

        class Positional(Method):
            def __init__(self, bases: int = 2) -> None:
                self.bases = bases
