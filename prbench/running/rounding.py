"""How far a method magnifies rounding: a split is fitted again on embeddings that differ in the last place alone.

Machines, versions and numbers of threads round otherwise, and some recipes turn that into other decisions. The share
of test decisions that this probe changes says how far a method's decisions can be repeated elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from prbench.comparisons import Items
from prbench.method import Method
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.selection import fit_problem
from prbench.protocol.splits import Split
from prbench.registry.schema import SelectionRule
from prbench.running.open_dataset import OpenDataset
from prbench.running.scoring import score_split

if TYPE_CHECKING:
    from torch import Tensor


def last_place(values: Tensor) -> Tensor:
    """Every number with the other last bit, one unit in the last place away; zeros stay.

    Equal numbers stay equal. About half of the numbers grow and half shrink.
    """
    whole = {4: torch.int32, 8: torch.int64, 2: torch.int16}[values.element_size()]
    return torch.where(values == 0, values, (values.contiguous().view(whole) ^ 1).view(values.dtype))


def rounded_otherwise(items: Items) -> Items:
    """Items whose embeddings, and whose contexts' embeddings, differ in the last place."""
    context = None if items.context is None else last_place(items.context)
    return replace(items, embedding=last_place(items.embedding), context=context)


def refitted(unfitted: Method, rule: SelectionRule, setting: OpenDataset, split: Split) -> dict[str, Any]:
    """The columns of a scores file: `unfitted`, fitted on the split and scored with embeddings rounded otherwise."""
    comparisons = setting.comparisons()
    moved = replace(comparisons, items=rounded_otherwise(comparisons.items))
    there = replace(setting, _comparisons=moved)
    problem = fit_problem(rule, setting.data, moved, split, setting.entry.protocol)
    type(unfitted).fit_splits([unfitted], [problem], device=setting.device)
    return score_split(unfitted, there, split, (ALL_SHOTS,))[0][ALL_SHOTS]
