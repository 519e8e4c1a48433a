"""UKPConvArg1: which of two arguments on the same side of a debate crowd workers find more convincing.

Habernal and Gurevych, "Which argument is more convincing?", ACL 2016. Five workers judge each pair; a worker's id
is the same on every pair.
"""

from __future__ import annotations

from collections import Counter
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

EQUAL = "equal votes dropped"
INCOMPETENT = "votes of less competent workers dropped"
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
        table = _Table()
        counts = Counter({"votes": 0, EQUAL: 0} | ({} if self.min_competence is None else {INCOMPETENT: 0}))
        for path, pair in _all_pairs(raw.paths(), name):
            place = table.place(path, pair)
            for vote in pair.votes:
                counts["votes"] += 1
                if vote.first_wins is None:
                    counts[EQUAL] += 1
                elif self.min_competence is not None and vote.competence < self.min_competence:
                    counts[INCOMPETENT] += 1
                else:
                    table.add(place, vote.worker, vote.first_wins, vote.seconds)
        if not table.rows:
            raise InputError(f"{name}: the files hold no vote that prefers one argument", hint="lower min_competence")
        data = keep_frequent(table.data(name, dict(counts)), self.min_comparisons)
        same_text = sum(
            data.responses[a] == data.responses[b] for a, b in zip(data.chosen, data.rejected, strict=True)
        )
        return replace(data, counts={**data.counts, "comparisons of two arguments with the same text": same_text})


class _Place(NamedTuple):
    """The numbers of a pair: its two items, its group and its block."""

    first: int
    second: int
    group: int
    block: int


class _Table:
    """Comparisons under numbers by first appearance: items by argument and stance, groups by their texts."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, int]] = []
        self._times: list[float] = []
        self._users: Numbering[str] = Numbering()
        self._contexts: Numbering[tuple[str, str]] = Numbering()
        self._arguments: Numbering[tuple[int, str]] = Numbering()
        self._texts: Numbering[tuple[int, str]] = Numbering()
        self._pairs: Numbering[tuple[int, int]] = Numbering()
        self._debates: Numbering[str] = Numbering()
        self._item_context: list[int] = []
        self._responses: list[str] = []

    def place(self, path: Path, pair: Pair) -> _Place:
        """The numbers of a pair. Raises InputError, naming `path`, for an argument with two texts."""
        context = self._contexts[pair.title, pair.stance]
        sides = []
        for key, text in (pair.first, pair.second):
            item = self._arguments[context, key]
            if item == len(self._responses):
                self._item_context.append(context)
                self._responses.append(text)
            elif self._responses[item] != text:
                raise InputError(f"{path}: argument {key} has two different texts")
            sides.append((item, self._texts[context, text]))
        (first, first_text), (second, second_text) = sides
        group = self._pairs[min(first_text, second_text), max(first_text, second_text)]
        return _Place(first, second, group, self._debates[pair.title])

    def add(self, place: _Place, worker: str, first_wins: bool, seconds: float) -> None:
        """One vote for one of the two items."""
        chosen, rejected = (place.first, place.second) if first_wins else (place.second, place.first)
        self.rows.append((self._users[worker], chosen, rejected, place.group, place.block))
        self._times.append(seconds)

    def data(self, name: str, counts: dict[str, int]) -> PreferenceData:
        """All votes as a data set."""
        columns = np.array(self.rows, dtype=np.int64)
        return PreferenceData(
            name=name,
            contexts=tuple(as_context(context_text(*context)) for context in self._contexts),
            item_context=np.array(self._item_context, dtype=np.int64),
            responses=tuple(self._responses),
            user=columns[:, 0],
            chosen=columns[:, 1],
            rejected=columns[:, 2],
            group=columns[:, 3],
            block=columns[:, 4],
            time=np.array(self._times, dtype=np.float64),
            user_keys=tuple(self._users),
            counts=counts,
        )


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
