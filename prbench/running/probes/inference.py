"""Attribute inference: whether a user's state tells a category of the person, such as a profession."""

from __future__ import annotations

from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.method import Method
from prbench.protocol.groups import LEAST
from prbench.protocol.leaks import class_auc
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.controls import require_personal
from prbench.running.probes.halves import fixed_pairs, view
from prbench.running.skipping import NotApplicableError


def inference(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of the table: how well each attribute of the unseen users is read off their states, and by chance.

    A state is what it makes of fixed pairs of the seen users' items, as in `halves`; classes with fewer than ten
    unseen users are left out. Raises NotApplicableError for methods without personal state, data without attributes,
    and where no attribute has two classes left.
    """
    require_personal(method, setting, split)
    attributes = setting.data.attributes
    if not attributes:
        raise NotApplicableError(f"{setting.data.name} knows no attributes of its users")
    classes = {name: kept for name, values in attributes.items() if (kept := _classes(values, split))[1].any()}
    if not classes:
        raise NotApplicableError(f"no attribute of {setting.data.name} has two classes of {LEAST} unseen users")
    comparisons = setting.comparisons()
    pairs = fixed_pairs(comparisons, split)
    support = comparisons.take(split.unseen_support)
    states = method.adapt_unseen(support, users=split.unseen, rng=adapt_rng(setting, split))
    views = np.stack([view(method, states, int(user), pairs) for user in split.unseen])
    if not np.isfinite(views).all():
        raise FloatingPointError("some margins are not finite")
    columns: dict[str, list[Any]] = {name: [] for name in ("attribute", "users", "classes", "auc", "p")}
    for name, (labels, kept) in classes.items():
        value, p = class_auc(views[kept], labels[kept], Rng(split.seed, setting.data.name, "inference", name))
        line = (name, int(kept.sum()), len(np.unique(labels[kept])), value, p)
        for column, entry in zip(columns, line, strict=True):
            columns[column].append(entry)
    return {
        "attribute": np.array(columns["attribute"], dtype=object),
        **{name: np.array(columns[name], dtype=np.int64) for name in ("users", "classes")},
        **{name: np.array(columns[name], dtype=np.float32) for name in ("auc", "p")},
    }


def _classes(values: tuple[str, ...], split: Split) -> tuple[Any, Any]:
    """The class of each unseen user, and which users are in one of two or more classes that are large enough."""
    labels = np.array([values[int(user)] for user in split.unseen])
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    large = counts >= LEAST
    return number, large[number] & (large.sum() > 1)
