"""Who makes the tables of `results.probe_tables`: from a fitted method and a split to columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prbench.method import Method
from prbench.protocol.splits import Split
from prbench.running import (
    asking,
    best_of_n,
    controls,
    groups,
    halves,
    inference,
    mistakes,
    one_sided,
    taxes,
    updates,
)
from prbench.running.open_dataset import OpenDataset

Maker = Callable[[Method, OpenDataset, Split, Path], dict[str, Any]]
"""Takes the fitted method, its data, the split, and the folder of its cell; raises NotApplicableError to be
skipped."""


def _alone(make: Callable[[Method, OpenDataset, Split], dict[str, Any]]) -> Maker:
    """A maker that looks at no other cell."""
    return lambda method, setting, split, folder: make(method, setting, split)


MAKERS: dict[str, Maker] = {
    "strangers": _alone(controls.strangers),
    "exchange": _alone(controls.exchanged),
    "agreement": _alone(controls.agreement),
    "units": _alone(controls.units),
    "best-of-n": best_of_n.best_of_n,
    "updates": _alone(updates.updates),
    "asking": _alone(asking.asking),
    "mistakes": mistakes.mistakes,
    "one-sided": _alone(one_sided.one_sided),
    "groups": groups.groups,
    "halves": _alone(halves.halves),
    "inference": _alone(inference.inference),
    "taxes": _alone(taxes.taxes),
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
    if kind == "updates":
        return setting.entry.protocol.name == "chronological"
    return True
