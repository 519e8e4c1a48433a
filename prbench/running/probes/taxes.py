"""Side effects: what adapting to a person costs of a quality that everybody wants."""

from __future__ import annotations

from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray
from prbench.method import Method
from prbench.protocol.metrics import decisions
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.probes.controls import turned
from prbench.running.skipping import NotApplicableError


def quality_pairs(prompt: IntArray, quality: FloatArray) -> IntArray:
    """All pairs of a prompt's items [m] of which the first has the higher quality, [pairs, 2], by prompt."""
    found = []
    for one in np.unique(prompt):
        items = np.flatnonzero(prompt == one)
        better, worse = np.nonzero(quality[items][:, None] > quality[items][None, :])
        found.append(np.stack([items[better], items[worse]], axis=1))
    return np.concatenate(found)


def taxes(method: Method, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of the table: how often each unseen user's state prefers the reply of higher quality, by prompt.

    Before adapting, after the support, and after the support with each label tossed. Raises NotApplicableError for
    data whose items have no known quality that all users share.
    """
    truth = setting.data.truth
    if truth is None or truth.quality is None or truth.prompt is None:
        raise NotApplicableError(f"{setting.entry.name} knows no quality that all users share")
    pairs = quality_pairs(truth.prompt, truth.quality)
    if not len(pairs):
        raise NotApplicableError(f"no two replies of a prompt of {setting.entry.name} differ in quality")
    comparisons = setting.comparisons()
    rng = adapt_rng(setting, split)
    support = comparisons.take(split.unseen_support)
    order = np.argsort(support.row, kind="stable")
    toss = np.zeros(len(support), dtype=bool)
    toss[order] = Rng(split.seed, setting.data.name, "label toss", split.index).numpy().random(len(support)) < 0.5
    states = {
        "cold": method.cold_start(split.unseen, comparisons.items, rng=rng),
        "adapted": method.adapt_unseen(support, users=split.unseen, rng=rng),
        "tossed": method.adapt_unseen(turned(support, toss), users=split.unseen, rng=rng),
    }
    prompts, place = np.unique(truth.prompt[pairs[:, 0]], return_inverse=True)
    count = np.bincount(place)
    none = np.zeros(len(pairs), dtype=np.int64)
    first = Comparisons(comparisons.items, none, pairs[:, 0], pairs[:, 1], none, none)
    features = method.features_of(first)
    columns: dict[str, list[Any]] = {name: [] for name in states}
    for user in split.unseen.tolist():
        asked = Comparisons(comparisons.items, none + user, pairs[:, 0], pairs[:, 1], none, none)
        for name, state in states.items():
            margin = method.margins(state, asked, features).float().numpy()
            if not np.isfinite(margin).all():
                raise FloatingPointError(f"{int((~np.isfinite(margin)).sum())} margins are not finite")
            columns[name].append((np.bincount(place, decisions(margin)) / count).astype(np.float32))
    return {
        "user": np.repeat(split.unseen, len(prompts)),
        "prompt": np.tile(prompts, len(split.unseen)),
        **{name: np.concatenate(parts) for name, parts in columns.items()},
    }
