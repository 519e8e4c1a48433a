"""CRAGC-25 (CrowdRAG-25): which of two long answers to a query crowd workers prefer, on seven criteria.

Gienapp et al., "The Viability of Crowdsourcing for RAG Evaluation", SIGIR 2025. Five workers judge each pair in
each questionnaire; a worker's id is the same in every questionnaire. The release lacks the texts file, so the rated
answers are put together from its raw files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Numbering, keep_frequent
from prbench.loaders.json_lines import json_lines

Criterion = Literal[
    "correctness_topical",
    "coherence_logical",
    "coherence_stylistic",
    "coverage_broad",
    "coverage_deep",
    "consistency_internal",
    "quality_overall",
]
IN_WORDS: dict[Criterion, str] = {
    "correctness_topical": "topical correctness",
    "coherence_logical": "logical coherence",
    "coherence_stylistic": "stylistic coherence",
    "coverage_broad": "breadth of coverage",
    "coverage_deep": "depth of coverage",
    "consistency_internal": "internal consistency",
    "quality_overall": "overall quality",
}
# Citation marks as the writers typed them: [3], [0, 10], [1,2,], [4 5], [ 7], [6.9].
CITATION = re.compile(r"[^\S\n]*\[\s*\d+(?:[\s,.]+\d+)*[\s,.]*\]")

RATINGS = "artifacts/ratings.jsonl.gz"
RESPONSES = ("raw/study1_responses_human.jsonl.gz", "raw/study1_responses_llm.jsonl.gz")
QUERIES = "raw/study1_retrieval.jsonl.gz"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CrowdRAG:
    """Loader of CRAGC-25. Votes "n" (neither) are ties and dropped.

    `criteria` are the dimensions to use. `min_comparisons` keeps the workers with at least so many comparisons on
    them; users are numbered by first appearance in the ratings. `drop_spam` drops votes whose published spam
    probability on that criterion is higher; it was estimated from all votes, test votes included, so it serves
    analysis and no comparison of methods.

    The context is the query and the criterion in words: the same answer under another criterion is another item. A
    group is an unordered pair of answers under all criteria, so that no pair leaks from one criterion to another.
    A block is a query.
    """

    criteria: Annotated[list[Criterion], Field(min_length=1)] = field(default_factory=lambda: list(IN_WORDS))
    min_comparisons: Annotated[int, Field(ge=1)] = 50
    drop_spam: Annotated[float, Field(ge=0, le=1)] | None = None

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons of the ratings file. Raises InputError naming a file and line that is broken."""
        ratings = raw.path(RATINGS)
        texts = read_texts([raw.path(path) for path in RESPONSES])
        queries = {topic: query for _, (topic, query), _ in _records(raw.path(QUERIES), "topic", "query")}
        criteria = [criterion for criterion in get_args(Criterion) if criterion in self.criteria]

        users: Numbering[str] = Numbering()
        contexts: Numbering[tuple[str, Criterion]] = Numbering()
        items: Numbering[tuple[int, str]] = Numbering()
        pairs: Numbering[frozenset[str]] = Numbering()
        topics: Numbering[str] = Numbering()
        rows: list[tuple[int, int, int, int, int]] = []
        votes = ties = spam = 0

        for line, (topic, first, second), record in _records(ratings, "query_id", "response_a", "response_b"):
            where = f"{ratings}, line {line}"
            if topic not in queries:
                raise InputError(f"{where}: no query is known for topic {topic!r}")
            for response in (first, second):
                if response not in texts:
                    raise InputError(f"{where}: no text is known for response {response!r}")
            group, block = pairs[frozenset((first, second))], topics[topic]
            for criterion in criteria:
                context = contexts[queries[topic], criterion]
                workers, choices, probabilities = _votes(record, criterion, where)
                for worker, choice, probability in zip(workers, choices, probabilities, strict=True):
                    votes += 1
                    if choice == "n":
                        ties += 1
                        continue
                    if self.drop_spam is not None and probability > self.drop_spam:
                        spam += 1
                        continue
                    chosen, rejected = (first, second) if choice == "a" else (second, first)
                    rows.append((users[worker], items[context, chosen], items[context, rejected], group, block))

        if not rows:
            raise InputError(f"{name}: {ratings} holds no vote that prefers one answer", hint="raise drop_spam")
        table = np.array(rows, dtype=np.int64)
        counts = {"votes": votes, "ties dropped": ties}
        if self.drop_spam is not None:
            counts["votes that are likely spam dropped"] = spam
        return keep_frequent(
            PreferenceData(
                name=name,
                contexts=tuple(as_context(context_text(*context)) for context in contexts),
                item_context=np.array([context for context, _ in items], dtype=np.int64),
                responses=tuple(texts[response] for _, response in items),
                user=table[:, 0],
                chosen=table[:, 1],
                rejected=table[:, 2],
                group=table[:, 3],
                block=table[:, 4],
                user_keys=tuple(users),
                counts=counts,
            ),
            self.min_comparisons,
        )


def context_text(query: str, criterion: Criterion) -> str:
    """The user message that an answer is judged on."""
    return f"{query}\n\nJudge the answer by: {IN_WORDS[criterion]}."


def without_citations(text: str) -> str:
    """`text` without the marks that point to its sources, such as [0, 10]."""
    return CITATION.sub("", text).strip()


def read_texts(paths: list[Path]) -> dict[str, str]:
    """Response id -> its text, citation marks removed: the latest snapshot, of equally late ones the last written."""
    latest: dict[str, tuple[float, str]] = {}
    for path in paths:
        for line, record in json_lines(path):
            response, text, time = record.get("response"), record.get("text"), record.get("timestamp", 0)
            if not isinstance(response, str) or not isinstance(text, str) or not isinstance(time, int | float):
                raise InputError(f"{path}, line {line}: needs 'response' and 'text', and a number as 'timestamp'")
            if response not in latest or time >= latest[response][0]:
                latest[response] = (time, text)
    return {response: without_citations(text) for response, (_, text) in latest.items()}


def _records(path: Path, *names: str) -> Iterator[tuple[int, list[str], dict[str, Any]]]:
    """Line number, the texts called `names` and the whole record of each line."""
    for line, record in json_lines(path):
        values = [record.get(name) for name in names]
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str) or not value:
                raise InputError(f"{path}, line {line}: {name!r} is missing or no text")
        yield line, cast("list[str]", values), record


def _votes(record: dict[str, Any], criterion: str, where: str) -> tuple[list[str], list[str], list[float]]:
    columns = []
    for name in ("worker", f"{criterion}_vote", f"{criterion}_spam_probability"):
        column = record.get(name)
        if not isinstance(column, list):
            raise InputError(f"{where}: {name!r} is missing or no list")
        columns.append(column)
    workers, choices, probabilities = columns
    if not len(workers) == len(choices) == len(probabilities):
        raise InputError(f"{where}: 'worker' and the lists of {criterion} differ in length")
    if not all(isinstance(worker, str) for worker in workers):
        raise InputError(f"{where}: 'worker' holds more than texts")
    if not all(isinstance(p, int | float) and not isinstance(p, bool) for p in probabilities):
        raise InputError(f"{where}: '{criterion}_spam_probability' holds more than numbers")
    choices = [str(choice).lower() for choice in choices]
    for choice in choices:
        if choice not in ("a", "n", "b"):
            raise InputError(f"{where}: a vote on {criterion} is {choice!r}, expected a, n or b")
    return workers, choices, probabilities
