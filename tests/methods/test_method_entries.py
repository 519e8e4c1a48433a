"""The method entries that prbench ships: what a variant keeps when tuned, and what they are on PRISM."""

from __future__ import annotations

from typing import Any

import pytest

from prbench import registry
from prbench.registry import methods
from prbench.registry.schema import DatasetEntry
from prbench.training.reweighting import WeightedHeads

METHODS = registry.names("methods")
VARIANTS = [name for name in METHODS if registry.get("methods", name).extends]
EVERYWHERE: list[DatasetEntry | None] = [None, *registry.load_all("datasets")]


def resolved(name: str, dataset: DatasetEntry | None) -> dict[str, Any]:
    return methods.make_method(registry.get("methods", name), dataset, {}).hyper_parameters


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("same", ["prism-personalrewardbench", "prism-published-code", "sim-prism"])
def test_settings_for_prism_reach_all_of_its_data(name: str, same: str) -> None:
    assert resolved(name, registry.get("datasets", same)) == resolved(name, registry.get("datasets", "prism"))


def test_some_settings_are_for_prism_only() -> None:
    prism = registry.get("datasets", "prism")
    other = {name for name in METHODS if resolved(name, prism) != resolved(name, None)}
    assert {"gpo", "maml", "mrm", "mrm-k4", "mrm-no-basis", "np", "vpl", "vpl-kl"} <= other
    assert not {"bt", "lore", "pal", "pref"} & other
    assert resolved("maml", prism)["rate"] == resolved("mrm", prism)["rate"] == 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_a_tuned_variant_keeps_what_sets_it_apart(name: str) -> None:
    entry = registry.get("methods", name)
    assert entry.extends is not None
    base = registry.get("methods", entry.extends)
    apart = entry.selection != base.selection or entry.target != base.target
    for dataset in EVERYWHERE:
        own, others = resolved(name, dataset), resolved(base.name, dataset)
        changed = {key: value for key, value in own.items() if key not in others or others[key] != value}
        apart |= bool(changed)
        for key, value in changed.items():
            assert key not in entry.search or entry.search[key].choices == [value], (key, dataset)
    assert apart


@pytest.mark.parametrize("name", [name for name in METHODS if registry.get("methods", name).search])
def test_every_step_size_is_searched(name: str) -> None:
    """Equal chances: no method is tuned with a step size held that others may choose."""
    entry = registry.get("methods", name)
    steps = {"rate", "inner_rate", "adapt_rate", "weight_rate"} & resolved(name, None).keys()
    # Heads that are solved for, or made without a fit, are weighed in closed form.
    assert steps or isinstance(methods.make_method(entry, None, {}), WeightedHeads)
    assert steps <= entry.search.keys()


@pytest.mark.parametrize("name", [name for name in METHODS if registry.get("methods", name).search])
def test_a_search_can_be_made_and_holds_nothing_that_the_method_does_not_have(name: str) -> None:
    entry = registry.get("methods", name)
    for key, found in entry.search.items():
        for value in found.choices if found.choices is not None else (found.low, found.high):
            assert methods.make_method(entry, None, {key: value}).hyper_parameters[key] == value


def test_marker_and_line_together_tell_methods_apart_in_grey_print() -> None:
    looks: dict[tuple[str, str], str] = {}
    for entry in registry.load_all("methods"):
        look = (entry.style.marker, entry.style.line)
        assert look not in looks, f"{entry.name} and {looks[look]} share marker and line {look}"
        looks[look] = entry.name
