"""Who makes the tables of `results.probe_tables`: from a fitted method and a split to columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prbench.method import Method
from prbench.protocol.splits import Split
from prbench.results.probe_tables import POLICY
from prbench.running.open_dataset import OpenDataset
from prbench.running.probes import (
    asking,
    best_of_n,
    controls,
    groups,
    halves,
    inference,
    mistakes,
    one_sided,
    policies,
    taxes,
    updates,
)

Columns = dict[str, Any]
Maker = Callable[[Method, OpenDataset, Split, Path, str], Columns]
"""Takes the fitted method, its data, the split, the folder of its cell and the name of a language model, "" for none;
raises NotApplicableError to be skipped."""


def _alone(make: Callable[[Method, OpenDataset, Split], Columns]) -> Maker:
    """A maker that looks at no other cell."""
    return lambda method, setting, split, folder, model: make(method, setting, split)


def _beside(make: Callable[[Method, OpenDataset, Split, Path], Columns]) -> Maker:
    """A maker that looks at other cells of the split."""
    return lambda method, setting, split, folder, model: make(method, setting, split, folder)


def _with_model(make: Callable[[Method, OpenDataset, Split, str], Columns]) -> Maker:
    """A maker that asks a language model."""
    return lambda method, setting, split, folder, model: make(method, setting, split, model)


MAKERS: dict[str, Maker] = {
    "strangers": _alone(controls.strangers),
    "exchange": _alone(controls.exchanged),
    "agreement": _alone(controls.agreement),
    "units": _alone(controls.units),
    "best-of-n": _beside(best_of_n.best_of_n),
    "updates": _alone(updates.updates),
    "asking": _alone(asking.asking),
    "mistakes": _beside(mistakes.mistakes),
    "one-sided": _alone(one_sided.one_sided),
    "groups": _beside(groups.groups),
    "halves": _alone(halves.halves),
    "inference": _alone(inference.inference),
    "taxes": _alone(taxes.taxes),
    POLICY: _with_model(policies.policy),
}


def applies(kind: str, method: Method, setting: OpenDataset) -> bool:
    """Whether a kind of table can be made of an unfitted method's cells on these data, as far as a plan can tell."""
    if kind == "units":
        return bool(method.latent_state)
    if kind == "best-of-n":
        return best_of_n.own_pools(setting, setting.splits[0]).largest >= best_of_n.LEAST
    if kind in ("groups", "inference"):
        return bool(setting.data.attributes)
    if kind == "taxes":
        return setting.data.truth is not None and setting.data.truth.quality is not None
    if kind == POLICY:
        return setting.data.embedded is None
    if kind == "updates":
        return setting.entry.protocol.name == "chronological"
    return True
