"""UKPConvArg1: which of two arguments on the same side of a debate crowd workers find more convincing.

Habernal and Gurevych, "Which argument is more convincing?", ACL 2016. Five workers judge each pair; a worker's id
is the same on every pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Numbering, keep_frequent

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CHOICES = {"a1": True, "a2": False, "equal": None}


class Vote(NamedTuple):
    """One worker's judgement of one pair; `first_wins` is None for "equal"."""

    worker: str
    first_wins: bool | None
    seconds: float
    competence: float


class Pair(NamedTuple):
    """Two arguments (id, text) for the same stance in one debate, and the votes on them."""

    title: str
    stance: str
    first: tuple[str, str]
    second: tuple[str, str]
    votes: list[Vote]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConvArg:
    """Loader of UKPConvArg1. Votes "equal" are dropped.

    Users are the workers with at least `min_comparisons` comparisons, numbered by first appearance in the files'
    sorted order. `min_competence` drops the votes of workers whose published `turkCompetence` is lower; it was
    estimated from all votes, test votes included, so it serves analysis and no comparison of methods.

    An item is an argument (by the source's id) for a stance. A group is an unordered pair of argument texts, so
    that a pair judged twice, or again with a copy of one text, is never divided. A block is a debate with both its
    stances. Time is the submit time in seconds since 1970.
    """

    min_comparisons: Annotated[int, Field(ge=1)] = 50
    min_competence: Annotated[float, Field(ge=0, le=1)] | None = None

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons of the sorted XML files. Raises InputError naming a file that is broken."""
        users: Numbering[str] = Numbering()
        contexts: Numbering[tuple[str, str]] = Numbering()
        arguments: Numbering[tuple[int, str]] = Numbering()
        texts: Numbering[tuple[int, str]] = Numbering()
        pairs: Numbering[tuple[int, int]] = Numbering()
        debates: Numbering[str] = Numbering()
        item_context: list[int] = []
        responses: list[str] = []
        rows: list[tuple[int, int, int, int, int]] = []
        times: list[float] = []
        votes = equal = incompetent = 0

        for path, pair in _all_pairs(raw.paths(), name):
            context = contexts[pair.title, pair.stance]
            sides = []
            for key, text in (pair.first, pair.second):
                item = arguments[context, key]
                if item == len(responses):
                    item_context.append(context)
                    responses.append(text)
                elif responses[item] != text:
                    raise InputError(f"{path}: argument {key} has two different texts")
                sides.append((item, texts[context, text]))
            (first, first_text), (second, second_text) = sides
            group = pairs[min(first_text, second_text), max(first_text, second_text)]
            block = debates[pair.title]
            for vote in pair.votes:
                votes += 1
                if vote.first_wins is None:
                    equal += 1
                    continue
                if self.min_competence is not None and vote.competence < self.min_competence:
                    incompetent += 1
                    continue
                chosen, rejected = (first, second) if vote.first_wins else (second, first)
                rows.append((users[vote.worker], chosen, rejected, group, block))
                times.append(vote.seconds)

        if not rows:
            raise InputError(f"{name}: the files hold no vote that prefers one argument", hint="lower min_competence")
        table = np.array(rows, dtype=np.int64)
        counts = {"votes": votes, "equal votes dropped": equal}
        if self.min_competence is not None:
            counts["votes of less competent workers dropped"] = incompetent
        data = keep_frequent(
            PreferenceData(
                name=name,
                contexts=tuple(as_context(context_text(*context)) for context in contexts),
                item_context=np.array(item_context, dtype=np.int64),
                responses=tuple(responses),
                user=table[:, 0],
                chosen=table[:, 1],
                rejected=table[:, 2],
                group=table[:, 3],
                block=table[:, 4],
                time=np.array(times, dtype=np.float64),
                user_keys=tuple(users),
                counts=counts,
            ),
            self.min_comparisons,
        )
        same_text = sum(
            data.responses[a] == data.responses[b] for a, b in zip(data.chosen, data.rejected, strict=True)
        )
        return replace(data, counts={**data.counts, "comparisons of two arguments with the same text": same_text})


def context_text(title: str, stance: str) -> str:
    """The user message that an argument answers."""
    return f"Debate: {title}\nStance: {stance}\nGive a convincing argument for this stance."


def _all_pairs(paths: list[Path], name: str) -> Iterator[tuple[Path, Pair]]:
    with progress() as display:
        for path in display.track(paths, description=f"reading {name}"):
            for pair in read_pairs(path):
                yield path, pair


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of one file, one at a time. Raises InputError for XML that is truncated, hostile or incomplete."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    try:
        for _, element in iterparse(path, forbid_dtd=True):
            if element.tag == "annotatedArgumentPair":
                yield _pair(path, element)
                element.clear()
    except ParseError as error:
        raise InputError(f"{path} is not a complete XML file: {error}", hint="remove it and get it again") from error
    except DefusedXmlException as error:
        raise InputError(f"{path} declares a document type or entities, which is not allowed: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _pair(path: Path, element: Element) -> Pair:
    where = f"{path}, pair {element.findtext('id') or '?'}"

    def text(parent: Element, tag: str) -> str:
        value = parent.findtext(tag)
        if value is None or not value.strip():
            raise InputError(f"{where}: <{tag}> is missing or empty")
        return value.strip()

    votes = []
    for vote in element.iterfind("mTurkAssignments/mTurkAssignment"):
        value = text(vote, "value")
        if value not in CHOICES:
            raise InputError(f"{where}: a vote is {value!r}, expected one of {', '.join(CHOICES)}")
        seconds = _seconds(text(vote, "assignmentSubmitTime"), where)
        try:
            competence = float(text(vote, "turkCompetence"))
        except ValueError as error:
            raise InputError(f"{where}: <turkCompetence>: {error}") from error
        votes.append(Vote(text(vote, "turkID"), CHOICES[value], seconds, competence))
    return Pair(
        text(element, "debateMetaData/title"),
        text(element, "arg1/stance"),
        (text(element, "arg1/id"), text(element, "arg1/text")),
        (text(element, "arg2/id"), text(element, "arg2/text")),
        votes,
    )


def _seconds(time: str, where: str) -> float:
    """Seconds since 1970 of a time such as 2016-02-18 13:49:30.0 UTC."""
    moment, _, zone = time.rpartition(" ")
    try:
        if zone != "UTC":
            raise ValueError
        # Python 3.11 reads the parts of a second only where there are three or six digits.
        return datetime.fromisoformat(f"{moment.partition('.')[0]}+00:00").timestamp()
    except ValueError:
        raise InputError(f"{where}: <assignmentSubmitTime> is {time!r}, not YYYY-MM-DD hh:mm:ss.f UTC") from None
