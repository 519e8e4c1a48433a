"""Parameter counts at d = 4096 against the published architectures, as `prbench show` prints them.

The expected numbers are those of the fact sheets, each with the formula it comes from, written out again here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest

from prbench import registry
from prbench.base.errors import InputError
from prbench.commands import entries
from prbench.registry import methods

USERS = (10, 100, 1_000, 10_000)
D = 4096


@pytest.mark.parametrize("name", registry.names("methods"))
def test_users_are_encoded_where_the_family_says_so(name: str) -> None:
    entry = registry.get("methods", name)
    method = methods.make_method(entry, None, {})
    assert method.encodes_users == (entry.family == "personalised input")
    if (count := method.parameters_for(D)) and not entry.family.startswith("personalised"):
        assert count.per_user == 0


class Linear(NamedTuple):
    """What a user's own numbers add to a count: fixed + each · users."""

    fixed: int
    each: int

    def at(self, users: int) -> int:
        return self.fixed + self.each * users


def mlp(*widths: int) -> int:
    """Weights and biases of linear layers of these widths."""
    return sum((n + 1) * m for n, m in pairwise(widths))


# Attention (q, k, v and output), two feed-forward layers and two layer norms.
GPO_LAYER = 4 * mlp(128, 128) + mlp(128, 128) + mlp(128, 128) + 2 * 2 * 128
GPO = mlp(D + 1, 128, 128, 128, 128) + 6 * GPO_LAYER + mlp(128, 128, 2)
VPL = mlp(2 * D, 512, 512, 512) + 5 * mlp(512, 512) + mlp(D + 512, 512, 512, 1)
PAL_NET = mlp(D, 512, 512, 512)
# Parameters that belong to users: trained and stored for each of them.
TOTALS = {
    "bt": (Linear(D, 0), (4_096, 4_096, 4_096, 4_096)),
    "bt-ridge": (Linear(D, 0), (4_096, 4_096, 4_096, 4_096)),
    "reference": (Linear(0, 0), (0, 0, 0, 0)),
    "lore": (Linear(5 * D, 5), (20_530, 20_980, 25_480, 70_480)),
    "lore-early": (Linear(5 * D, 5), (20_530, 20_980, 25_480, 70_480)),
    "lore-k10": (Linear(10 * D, 10), (41_060, 41_960, 50_960, 140_960)),
    "lore-k2": (Linear(2 * D, 2), (8_212, 8_392, 10_192, 28_192)),
    "mrm-no-meta": (Linear(2 * D, 2), (8_212, 8_392, 10_192, 28_192)),
    "pal": (Linear(PAL_NET + 2 * D, 2), (2_631_188, 2_631_368, 2_633_168, 2_651_168)),
    "pal-residual": (Linear(3 * (D + 1) * D + 2 * D, 2), (50_352_148, 50_352_328, 50_354_128, 50_372_128)),
    "pal-b": (Linear(3 * PAL_NET + 1, 2), (7_868_949, 7_869_129, 7_870_929, 7_888_929)),
    "pref": (Linear(5 * D + 5, 5), (20_535, 20_985, 25_485, 70_485)),
    "rfm": (Linear(32 * D, 32), (131_392, 134_272, 163_072, 451_072)),
}
# Nothing is trained for a user: what is stored for one comes out of a forward pass and is not in these numbers.
# The sheet gives no formula for NP.
SHARED = {"gpo": (GPO, 1_188_354), "vpl": (VPL, 8_656_385), "np": (None, 3_738_624)}
# What ours adds to the published network: a learned token that stands in for the context of a user without choices.
ADDED = {"gpo": 128}


def test_the_formulas_give_the_published_numbers() -> None:
    for formula, numbers in TOTALS.values():
        assert tuple(formula.at(users) for users in USERS) == numbers
    for count, number in SHARED.values():
        assert count in (None, number)


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_the_published_ones(name: str) -> None:
    shown = entries.full(name, "methods")["parameter_count"]
    assert shown["dim"] == D
    assert tuple(shown["total_by_users"][str(users)] for users in USERS) == TOTALS[name][1]
    assert (shown["shared"], shown["per_user"]) == TOTALS[name][0]


@pytest.mark.parametrize("name", SHARED)
def test_what_is_trained_is_the_published_number(name: str) -> None:
    shown = entries.full(name, "methods")["parameter_count"]
    trained = SHARED[name][1] + ADDED.get(name, 0)
    assert shown["shared"] == trained
    assert shown["trained_by_users"] == {str(users): trained for users in USERS}
    # What a user is read into is stored all the same.
    assert shown["per_user"] > 0
    assert shown["total_by_users"] == {str(users): trained + users * shown["per_user"] for users in USERS}


@pytest.mark.parametrize("name", [*TOTALS, "mrm", "maml", "bt-offset", "user-bt"])
def test_numbers_that_are_fitted_to_users_are_not_set_apart(name: str) -> None:
    assert "trained_by_users" not in entries.full(name, "methods")["parameter_count"]


@pytest.mark.parametrize("name", ["mrm", "mrm-no-rpo", "mrm-paper", "mrm-first-order", "mrm-steps-20", "mrm-gamma-0"])
def test_mrm_counts_both_ways(name: str) -> None:
    """K·d + K are trained: the bases and w0. K·d + K·U are the bases and the users' weights, without w0."""
    shown = entries.full(name, "methods")["parameter_count"]
    assert shown["shared"] == 2 * D + 2 == 8_194
    stored = tuple(shown["total_by_users"][str(users)] - 2 for users in USERS)
    assert stored == (8_212, 8_392, 10_192, 28_192)


@pytest.mark.parametrize(("name", "bases"), [("mrm-k1", 1), ("mrm", 2), ("mrm-k4", 4), ("mrm-k8", 8)])
def test_mrm_grows_with_its_bases(name: str, bases: int) -> None:
    shown = entries.full(name, "methods")["parameter_count"]
    assert (shown["shared"], shown["per_user"]) == (bases * D + bases, bases)


@pytest.mark.parametrize(("name", "size", "more"), [("maml", D, 1), ("mrm-no-basis", 32 * D + 32 + 32, 0)])
def test_meta_learning_without_bases_stores_all_its_weights_per_user(name: str, size: int, more: int) -> None:
    """Besides its weights `maml` stores one number, the scale of the embeddings."""
    shown = entries.full(name, "methods")["parameter_count"]
    assert (shown["shared"], shown["per_user"]) == (size + more, size)
    assert shown["total_by_users"]["10"] == 11 * size + more


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_shows_all_of_its_hyper_parameters(name: str) -> None:
    entry = registry.get("methods", name)
    shown = entries.full(name, "methods")
    assert "broken" not in shown
    method = methods.make_method(entry, None, {})
    assert {key: given["value"] for key, given in shown["hyper_parameters"].items()} == method.hyper_parameters
    plain = {key for key, value in entry.params.items() if not isinstance(value, dict)}
    assert {key for key, given in shown["hyper_parameters"].items() if given["from"] == "entry"} == plain
    assert {given["from"] for given in shown["hyper_parameters"].values()} <= {"entry", "default"}


def test_an_entry_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InputError("mine.toml: there is no module mine", hint="install it")

    monkeypatch.setattr(methods, "make_method", refuse)
    shown = entries.full("mrm", "methods")
    assert shown["broken"] == "mine.toml: there is no module mine (install it)"
    assert shown["title"] == "MRM"
    assert "parameter_count" not in shown


def test_a_count_that_depends_on_the_data_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from prbench.methods.mrm import MRM

    monkeypatch.setattr(MRM, "parameters_for", lambda self, dim: None)
    assert entries.full("mrm", "methods")["parameter_count"] == "depends on the data"
