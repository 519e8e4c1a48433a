"""Scores of unseen users under other conditions: flipped labels, the support itself, hostile replies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.judging import prompts
from prbench.method import Method
from prbench.protocol.splits import Split
from prbench.results.probes import INJECTION, SUPPORT, Probe
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.scoring import score_columns


def unseen_margins(
    method: Method, setting: OpenDataset, split: Split, probe: Probe, restart: int = 0
) -> dict[str, Any]:
    """The columns of a scores file for a split's unseen users under a condition.

    The flipped labels are those of the split, whichever of its random starts the method was fitted from.
    """
    comparisons = setting.comparisons()
    rng = adapt_rng(setting, split, restart)
    support = comparisons.take(split.unseen_support)
    test = support if probe.kind == SUPPORT else comparisons.take(split.unseen_test)
    shown = flipped(support, probe.noise, Rng(split.seed, setting.data.name, "label noise", split.index))
    states = method.adapt_unseen(shown, users=split.unseen, rng=rng)
    if probe.kind == INJECTION:
        return score_columns("unseen", test, method.margins(states, hostile(test)), method.margins(states, test))
    cold = method.cold_start(split.unseen, comparisons.items, rng=rng)
    features = method.features_of(test)
    margin, before = (method.margins(state, test, features) for state in (states, cold))
    return score_columns("unseen", test, margin, before)


def hostile(test: Comparisons) -> Comparisons:
    """The comparisons with an instruction to the judge model at the end of each rejected reply."""
    items, text = test.items, test.items.text
    if text is None:
        raise ValueError("these items have no texts")
    n = np.arange(len(test), dtype=np.int64)
    both = items.take(np.concatenate([test.chosen, test.rejected]))
    assert both.text is not None
    replies = [text.response(row) + prompts.INJECTION for row in test.rejected.tolist()]
    of = both.text.response_of.copy()
    of[len(n) :] = len(text.responses) + n
    told = replace(both.text, responses=(*text.responses, *replies), response_of=of)
    length = None if both.length is None else both.length.clone()
    return replace(test, items=replace(both, text=told, length=length), chosen=n, rejected=len(n) + n)


def flipped(comparisons: Comparisons, share: float, rng: Rng) -> Comparisons:
    """`comparisons` with each label flipped with probability `share`, drawn per comparison.

    What is flipped at one share is flipped at every larger one, whatever the order of the comparisons.
    """
    if not share:
        return comparisons
    order = np.argsort(comparisons.row, kind="stable")
    draws = np.empty(len(comparisons))
    draws[order] = rng.numpy().random(len(comparisons))
    turned = draws < share
    return replace(
        comparisons,
        chosen=np.where(turned, comparisons.rejected, comparisons.chosen),
        rejected=np.where(turned, comparisons.chosen, comparisons.rejected),
    )
