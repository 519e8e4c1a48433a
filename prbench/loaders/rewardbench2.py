"""RewardBench 2: a good reply against three bad ones, on prompts that have a right answer for everybody.

Malik et al., "RewardBench 2: Advancing Reward Model Evaluation", arXiv 2506.01937. It is a side check: whether what
was learned from personal choices still prefers generally good replies. There is one user, so no run can be made on
it: `side_check` scores its items with a method that a run on another data set has fitted.

    model = UserModel.open("runs", "lore", dataset="prism", encoder="skywork-v2")
    data = prbench.data.load(registry.get("datasets", "rewardbench2"))
    items = embedding.embed(data, encoder_entry_for("skywork-v2"), family="rewardbench2", device="cuda")
    side_check(model.method, model.adapt([]), data, items)      # for whoever has made no choice yet
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import FloatArray, Items, PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder
from prbench.loaders.reading import one_of
from prbench.loaders.rows import records

if TYPE_CHECKING:
    from prbench.method import Method, UserStates

FILE = "data/test-00000-of-00001.parquet"
SUBSETS = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")
USER = "everybody"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RewardBench2:
    """Loader of RewardBench 2. Every good reply is paired with every bad one; a group is a prompt's row.

    A block is a subset, numbered as in `SUBSETS`. The subset "Ties", which has many good replies to each prompt and a
    score of its own, is left out.
    """

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the file's order. Raises InputError naming a row that is not to the schema."""
        from dataclasses import replace

        builder = Builder("prompts", "prompts of the subset Ties dropped", "pairs of equal replies dropped")
        blocks: list[int] = []
        for row, (where, record) in enumerate(
            records(raw.path(FILE), ("prompt", "chosen", "rejected", "subset"), ())
        ):
            builder.counts["prompts"] += 1
            subset, prompt = one_of(record["subset"], SUBSETS, where, "subset"), record["prompt"]
            if subset == "Ties":
                builder.counts["prompts of the subset Ties dropped"] += 1
                continue
            sides = record["chosen"], record["rejected"]
            if not isinstance(prompt, str) or not all(_texts(side) for side in sides):
                raise InputError(f"{where}: prompt is not a text, or chosen or rejected is not a list of texts")
            for good in sides[0]:
                for bad in sides[1]:
                    if good == bad:
                        builder.counts["pairs of equal replies dropped"] += 1
                        continue
                    builder.add(USER, as_context(prompt), good, bad, group=row)
                    blocks.append(SUBSETS.index(subset))
        data = builder.build(name, empty="the file holds no comparison")
        return replace(data, block=np.array(blocks, dtype=np.int64))


def subset_accuracy(data: PreferenceData, score: FloatArray) -> dict[str, float]:
    """Share of prompts whose good reply has a higher score than every bad one, by subset, and their mean ("mean").

    `score` [items] belongs to the items of `data`, which `RewardBench2` loaded. A tie with a bad reply is a miss.
    """
    if data.block is None:
        raise ValueError("these data have no subsets")
    won = score[data.chosen] > score[data.rejected]
    groups, first, prompt = np.unique(data.group, return_index=True, return_inverse=True)
    lost = np.bincount(prompt, weights=~won, minlength=len(groups))
    subset = data.block[first]
    accuracy = {SUBSETS[i]: float((lost[subset == i] == 0).mean()) for i in np.unique(subset)}
    return {**accuracy, "mean": float(np.mean(list(accuracy.values())))}


def side_check(method: Method, user: UserStates, data: PreferenceData, items: Items) -> dict[str, float]:
    """`subset_accuracy` of a fitted method for the one user of `user`, on the embedded items of `data`."""
    scores = method.score(user, np.zeros(len(items), dtype=np.int64), items)
    return subset_accuracy(data, scores.detach().cpu().double().numpy())


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
