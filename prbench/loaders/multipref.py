"""MultiPref: which of two models' replies two crowd workers and two experts prefer, each pair judged by all four.

Miranda et al., "Hybrid Preferences: Learning to Route Instances for Human vs. AI Feedback", ACL 2025 (arXiv
2410.19133). Workers have pseudonyms; the same worker judges many pairs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder, keep_frequent
from prbench.loaders.reading import one_of
from prbench.loaders.rows import records

FILE = "default/train/0000.parquet"
SIDES = {
    "A-is-clearly-better": 0,
    "A-is-slightly-better": 0,
    "Tie": None,
    "B-is-slightly-better": 1,
    "B-is-clearly-better": 1,
}
PEOPLE = {"normal": "normal_worker_annotations", "expert": "expert_worker_annotations"}
TEXTS = ("comparison_id", "prompt_id", "text", "completion_a", "completion_b")

TIES = "ties dropped"
SAME_TEXT = "judgements of two equal replies dropped"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MultiPref:
    """Loader of MultiPref. Ties and judgements of two equal replies are dropped and counted.

    `aspect` is the question that is read: "overall" or one of three aspects. `people` takes the judgements of "all",
    of "normal" (crowd) workers or of "expert" ones. Users are the workers with at least `min_comparisons` comparisons
    left, a worker who is both normal and expert being one; a group is a prompt.
    """

    aspect: Literal["overall", "helpful", "truthful", "harmless"] = "overall"
    people: Literal["all", "normal", "expert"] = "all"
    min_comparisons: Annotated[int, Field(ge=1)] = 20

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the file's order. Raises InputError naming the row that is not to the schema."""
        builder = Builder("pairs", *(f"judgements of {kind} workers" for kind in PEOPLE), TIES, SAME_TEXT)
        counts = builder.counts
        for where, record in records(raw.path(FILE), (*TEXTS, *PEOPLE.values()), ()):
            for column in TEXTS:
                if not isinstance(record[column], str):
                    raise InputError(f"{where}: {column} is missing or not a text")
            counts["pairs"] += 1
            replies = record["completion_a"], record["completion_b"]
            for kind, column in PEOPLE.items():
                if self.people not in ("all", kind):
                    continue
                for worker, side in _judgements(record[column], f"{self.aspect}_pref", f"{where}: {column}"):
                    counts[f"judgements of {kind} workers"] += 1
                    if side is None:
                        counts[TIES] += 1
                    elif replies[0] == replies[1]:
                        counts[SAME_TEXT] += 1
                    else:
                        context = as_context(record["text"])
                        builder.add(worker, context, replies[side], replies[1 - side], group=record["prompt_id"])
        data = builder.build(name, empty="the file holds no judgement that prefers a reply")
        return keep_frequent(data, self.min_comparisons)


def _judgements(value: Any, aspect: str, where: str) -> list[tuple[str, int | None]]:
    """(worker, side preferred or None) of each annotation."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"{where} is not a list of annotations")
    judgements = []
    for annotation in value:
        worker = annotation.get("evaluator")
        if not isinstance(worker, str) or not worker:
            raise InputError(f"{where}: evaluator is missing or not a text")
        judgements.append((worker, SIDES[one_of(annotation.get(aspect), SIDES, where, aspect)]))
    return judgements
