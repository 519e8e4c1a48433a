"""CoVal: how people rank four replies to a value-laden prompt, for themselves and for the world.

OpenAI, "Collective Alignment 1" (August 2025), published again as CoVal (January 2026). About 17 people from 19
countries rank the replies to each prompt, each twice: by their own taste, and by what is best for the world.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import Context, PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder, keep_frequent
from prbench.loaders.json_lines import json_lines
from prbench.protocol.properties import RANKED_FOR_BOTH, RANKED_OTHERWISE

FILE = "comparisons.jsonl"

TIES = "tied pairs dropped"
SAME_TEXT = "pairs of two equal replies dropped"
FURTHER = "further rankings of the same kind in one assessment, not read"

Ranking = tuple[tuple[str, ...], ...]
"""The letters of the replies, best first; those of one place are tied."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CoVal:
    """Loader of CoVal. Every strict pair of a ranking is a comparison; tied pairs are dropped and counted.

    `ranking` "personal" takes the order by a person's own taste, "world" the one by what is best for the world.
    Assessments without that ranking are counted. Users are the annotators with at least `min_comparisons`
    comparisons, numbered by first appearance; a context is the prompt's messages, a group is a prompt. All pairs of a
    person's ranking stand in one group, so that best-of-n picks from its replies.

    The counts also say in how many pairs that a person orders in both rankings the two differ, whichever is taken.
    """

    ranking: Literal["personal", "world"] = "personal"
    min_comparisons: Annotated[int, Field(ge=1)] = 20

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons in the file's order. Raises InputError naming the line that is not to the schema."""
        path = raw.path(FILE)
        without = f"assessments without a {self.ranking} ranking"
        builder = Builder(
            "prompts", "assessments", without, FURTHER, TIES, SAME_TEXT, RANKED_FOR_BOTH, RANKED_OTHERWISE
        )
        counts = builder.counts
        for line, record in json_lines(path):
            where = f"{path}, line {line}"
            prompt, context, replies = _prompt(record, where)
            counts["prompts"] += 1
            for place, assessment in enumerate(_assessments(record, where), start=1):
                here = f"{where}, assessment {place}"
                annotator = assessment.get("annotator_id")
                if not isinstance(annotator, str) or not annotator:
                    raise InputError(f"{here}: annotator_id is missing or not a text")
                counts["assessments"] += 1
                personal, world = (_rankings(assessment, kind, replies, here) for kind in ("personal", "world"))
                rankings = personal if self.ranking == "personal" else world
                counts[without] += not rankings
                counts[FURTHER] += max(len(rankings) - 1, 0)
                if personal and world:
                    one, other = set(strict_pairs(personal[0])), set(strict_pairs(world[0]))
                    turned = {(worse, better) for better, worse in other}
                    counts[RANKED_OTHERWISE] += len(one & turned)
                    counts[RANKED_FOR_BOTH] += len(one & (other | turned))
                for ranking in rankings[:1]:
                    counts[TIES] += sum(len(tied) * (len(tied) - 1) // 2 for tied in ranking)
                    for better, worse in strict_pairs(ranking):
                        if replies[better] == replies[worse]:
                            counts[SAME_TEXT] += 1
                            continue
                        builder.add(annotator, context, replies[better], replies[worse], group=prompt)
        data = builder.build(name, empty=f"the file holds no {self.ranking} ranking that prefers a reply")
        return keep_frequent(data, self.min_comparisons)


def strict_pairs(ranking: Ranking) -> Iterator[tuple[str, str]]:
    """(better, worse) of every pair that a ranking does not tie, best first."""
    for high, low in combinations(ranking, 2):
        yield from ((better, worse) for better in high for worse in low)


def parse_ranking(text: str, letters: set[str], where: str) -> Ranking:
    """A ranking such as "A>B>C=D". Raises InputError for an unknown letter and for one that stands twice."""
    ranking = tuple(tuple(letter.strip() for letter in place.split("=")) for place in text.split(">"))
    named = [letter for place in ranking for letter in place]
    if not set(named) <= letters or len(set(named)) < len(named):
        known = ", ".join(sorted(letters))
        raise InputError(f"{where} is {text[:40]!r}, expected an order such as A>B=C of {known}, each once")
    return ranking


def _rankings(assessment: dict[str, Any], kind: str, replies: dict[str, str], where: str) -> list[Ranking]:
    """The rankings of a kind that an assessment has: none, or one and more."""
    blocks = assessment.get("ranking_blocks")
    if not isinstance(blocks, dict | None):
        raise InputError(f"{where}: ranking_blocks is not an object")
    entries = (blocks or {}).get(kind) or []
    if not isinstance(entries, list) or not all(isinstance(block, dict) for block in entries):
        raise InputError(f"{where}: ranking_blocks.{kind} is not a list of objects")
    texts = [block.get("ranking") for block in entries]
    if not all(isinstance(text, str | None) for text in texts):
        raise InputError(f"{where}: a {kind} ranking is not a text")
    place = f"{where}: the {kind} ranking"
    return [parse_ranking(text, set(replies), place) for text in texts if text and text.strip()]


def _assessments(record: dict[str, Any], where: str) -> list[dict[str, Any]]:
    metadata = record.get("metadata")
    assessments = metadata.get("assessments") if isinstance(metadata, dict) else None
    if not isinstance(assessments, list) or not all(isinstance(each, dict) for each in assessments):
        raise InputError(f"{where}: metadata.assessments is not a list of objects")
    return assessments


def _prompt(record: dict[str, Any], where: str) -> tuple[str, Context, dict[str, str]]:
    """The prompt's id, its messages, and the replies by letter."""
    key, prompt, responses = (record.get(name) for name in ("prompt_id", "prompt", "responses"))
    if not isinstance(key, str) or not key:
        raise InputError(f"{where}: prompt_id is missing or not a text")
    messages = prompt.get("messages") if isinstance(prompt, dict) else None
    if not _is_messages(messages):
        raise InputError(f"{where}: prompt.messages is not a list of messages with role and content")
    if not isinstance(responses, list) or not all(isinstance(each, dict) for each in responses):
        raise InputError(f"{where}: responses is not a list of objects")
    replies: dict[str, str] = {}
    for response in responses:
        letter, turns = response.get("response_index"), response.get("messages")
        if not isinstance(letter, str) or not letter.strip() or letter in replies:
            raise InputError(f"{where}: response_index is {str(letter)[:40]!r}, expected a letter, each once")
        if not _is_messages(turns) or [message["role"] for message in turns] != ["assistant"]:
            raise InputError(f"{where}: response {letter} is not one message of the assistant")
        replies[letter] = turns[0]["content"]
    return key, as_context(messages), replies


def _is_messages(value: Any) -> TypeGuard[list[dict[str, str]]]:
    """Whether `value` is one message or more, each with a role and a content."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and all(isinstance(m.get(k), str) for k in ("role", "content")) for m in value)
    )
