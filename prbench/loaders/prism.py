"""PRISM: which of several models' replies people from many countries chose, turn by turn, in their own dialogues.

Kirk et al., "The PRISM Alignment Dataset", NeurIPS 2024 Datasets and Benchmarks. In the first turn up to four models
reply and each reply gets a score; the best one goes on, and gives two replies in each later turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message, PreferenceData
from prbench.loaders import STRICT, RawSource
from prbench.loaders.attributes import UNKNOWN, by_number
from prbench.loaders.building import Builder
from prbench.loaders.json_lines import json_lines

CONVERSATIONS = "conversations.jsonl"
SURVEY = "survey.jsonl"
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "age": ("age",),
    "gender": ("gender",),
    "education": ("education",),
    "employment": ("employment_status",),
    "marital status": ("marital_status",),
    "English": ("english_proficiency",),
    "religion": ("religion", "simplified"),
    "ethnicity": ("ethnicity", "simplified"),
    "region": ("location", "reside_region"),
    "use of language models": ("lm_familiarity",),
}
"""Where the survey's answers about a person are that group users; "simplified" has the fewest classes."""
EMPTY = "EMPTY STRING"
"""What the release writes for a text of no characters."""

TWINS = "further replies marked as chosen (identical twins) dropped"
SAME_TEXT = "comparisons of two replies with the same text dropped"
EMPTY_SIDE = "comparisons with an empty reply dropped"
TIES_DROPPED = "first-turn ties dropped"
TIES_KEPT = "first-turn ties kept (the source drew the winner)"


class Reply(NamedTuple):
    """A model's reply and the user's score of it, 1 to 100."""

    text: str
    score: int | None

    @property
    def empty(self) -> bool:
        """Whether the model said nothing."""
        return not self.text.strip() or self.text.strip() == EMPTY


class Turn(NamedTuple):
    """What the user wrote (None where the release has nothing), and the replies in the order shown."""

    prompt: str | None
    chosen: list[Reply]
    rejected: list[Reply]

    @property
    def usable(self) -> bool:
        """Whether there is a message, a chosen and a rejected reply: the published code's condition."""
        return bool(self.prompt is not None and self.chosen and self.rejected)


class Dialogue(NamedTuple):
    """One conversation; `seconds` since 1970 at its start, where the release has a time that can be read."""

    key: str
    user: str
    seconds: float | None
    turns: list[Turn]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Prism:
    """Loader of PRISM. In every turn the chosen reply is paired with each rejected one.

    Users are those with at least `min_dialogues` usable dialogues: ones in which at least one turn has a message, a
    chosen and a rejected reply. This is counted before any comparison is dropped, in the published MRM code's order;
    it is the order that explains the paper's 1,287 users, where counting every dialogue gives 1,288.

    A context is the history (earlier messages, each with the reply chosen) and the user's message; a group is a
    dialogue; time is the dialogue's start plus a second per turn.

    Identical twins of the chosen reply are marked as chosen too: a turn whose replies are all the same has no
    rejected one and gives nothing. `history` "paired" leaves such turns out of the history, as the published code
    does; "whole" keeps them. A rejected reply with the chosen one's text is never paired.

    `empty_replies` "drop" leaves out comparisons with an empty side (the release's `EMPTY STRING`); "keep" takes that
    text as a reply, as the published code does. `ties` "drop" leaves out first-turn comparisons of equal scores,
    whose winner was drawn at random; "keep", as in the published code, leaves them in.

    `augment` adds pairs of two rejected replies with different scores, the higher one preferred (the published code's
    unused augmentation emits both orders of a pair instead). `score_threshold` keeps the comparisons whose scores, by
    the user, differ by more; the published code compares a reward model's scores, in training only. Both options act
    on the whole data set, test side included, so they make another setting.
    """

    min_dialogues: Annotated[int, Field(ge=1)] = 6
    history: Literal["paired", "whole"] = "paired"
    empty_replies: Literal["drop", "keep"] = "drop"
    ties: Literal["keep", "drop"] = "keep"
    augment: bool = False
    score_threshold: Annotated[int, Field(ge=0)] | None = None

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons of the two files. Raises InputError naming a file and line that is broken."""
        people = read_people(raw.path(SURVEY))
        by_user: dict[str, list[Dialogue]] = {user: [] for user in people}
        path = raw.path(CONVERSATIONS)
        for line, dialogue in read_dialogues(path):
            if dialogue.user not in by_user:
                raise InputError(f"{path}, line {line}: its user is not in {SURVEY}", hint="get both files anew")
            by_user[dialogue.user].append(dialogue)

        few_dialogues = f"users with fewer than {self.min_dialogues} usable dialogues dropped"
        builder = Builder(
            "users in the survey",
            "users without a dialogue",
            "dialogues",
            "dialogues without a usable turn dropped",
            few_dialogues,
            "usable dialogues of dropped users",
            "users left without comparisons",
            "dialogues without a readable time",
            "turns",
            "turns without a message or a chosen reply dropped",
            "turns without a rejected reply dropped",
            TWINS,
            SAME_TEXT,
            *([EMPTY_SIDE] if self.empty_replies == "drop" else []),
            TIES_KEPT if self.ties == "keep" else TIES_DROPPED,
            *([self._too_close] if self.score_threshold is not None else []),
        )
        counts = builder.counts
        for user, dialogues in by_user.items():
            usable = [dialogue for dialogue in dialogues if any(turn.usable for turn in dialogue.turns)]
            counts["users in the survey"] += 1
            counts["users without a dialogue"] += not dialogues
            counts["dialogues"] += len(dialogues)
            counts["dialogues without a usable turn dropped"] += len(dialogues) - len(usable)
            few = len(usable) < self.min_dialogues
            counts[few_dialogues] += few and bool(dialogues)
            counts["usable dialogues of dropped users"] += len(usable) if few else 0
            if not few:
                before = len(builder)
                for dialogue in usable:
                    self._add(builder, user, dialogue)
                counts["users left without comparisons"] += len(builder) == before
        empty = f"no user has {self.min_dialogues} usable dialogues and a comparison in them"
        data = builder.build(name, empty=empty)
        answers = {about: {user: given[about] for user, given in people.items()} for about in ATTRIBUTES}
        return replace(data, attributes=by_number(answers, data.user_keys))

    @property
    def _too_close(self) -> str:
        return f"comparisons whose scores differ by at most {self.score_threshold} dropped"

    def _add(self, builder: Builder, user: str, dialogue: Dialogue) -> None:
        """The comparisons of one dialogue, turn by turn."""
        counts = builder.counts
        history: list[Message] = []
        counts["dialogues without a readable time"] += dialogue.seconds is None
        for number, turn in enumerate(dialogue.turns):
            counts["turns"] += 1
            counts["turns without a message or a chosen reply dropped"] += turn.prompt is None or not turn.chosen
            if turn.prompt is None or not turn.chosen:
                continue
            counts["turns without a rejected reply dropped"] += not turn.rejected
            counts[TWINS] += len(turn.chosen) - 1
            question = Message("user", turn.prompt)
            if turn.usable:
                context: Context = (*history, question)
                time = None if dialogue.seconds is None else dialogue.seconds + number
                for better, worse in self._pairs(turn, number, builder):
                    builder.add(user, context, better.text, worse.text, group=dialogue.key, time=time)
            if turn.usable or self.history == "whole":
                chosen = turn.chosen[0]
                reply = "" if chosen.empty and self.empty_replies == "drop" else chosen.text
                history += [question, Message("assistant", reply)]

    def _pairs(self, turn: Turn, number: int, builder: Builder) -> Iterator[tuple[Reply, Reply]]:
        """(preferred, other) of one turn, what is left out counted by reason."""
        counts = builder.counts
        pairs = [(turn.chosen[0], other) for other in turn.rejected]
        if self.augment:
            pairs += [
                (a, b)
                for a in turn.rejected
                for b in turn.rejected
                if a.score is not None and b.score is not None and a.score > b.score
            ]
        for better, worse in pairs:
            gap = None if better.score is None or worse.score is None else abs(better.score - worse.score)
            tied = number == 0 and gap == 0
            if better.text == worse.text:
                counts[SAME_TEXT] += 1
            elif self.empty_replies == "drop" and (better.empty or worse.empty):
                counts[EMPTY_SIDE] += 1
            elif self.ties == "drop" and tied:
                counts[TIES_DROPPED] += 1
            elif self.score_threshold is not None and (gap is None or gap <= self.score_threshold):
                counts[self._too_close] += 1
            else:
                counts[TIES_KEPT] += tied
                yield better, worse


def read_people(path: Path) -> dict[str, dict[str, str]]:
    """The users by id in the survey's order, each with the answers that are attributes."""
    people: dict[str, dict[str, str]] = {}
    for line, record in json_lines(path):
        _need(record, f"{path}, line {line}", user_id=str)
        if record["user_id"] in people:
            raise InputError(f"{path}: a user appears twice", hint="get the file anew")
        people[record["user_id"]] = {name: _answer(record, place) for name, place in ATTRIBUTES.items()}
    return people


def _answer(record: dict[str, Any], place: tuple[str, ...]) -> str:
    value: Any = record
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value.strip() if isinstance(value, str) and value.strip() else UNKNOWN


def read_dialogues(path: Path) -> Iterator[tuple[int, Dialogue]]:
    """Line number and conversation of each line. Raises InputError naming the line that is not to the schema."""
    for line, record in json_lines(path):
        where = f"{path}, line {line}"
        _need(record, where, conversation_id=str, user_id=str, conversation_history=list)
        turns: dict[int, Turn] = {}
        for place, entry in enumerate(record["conversation_history"], start=1):
            _utterance(entry, f"{where}, conversation_history[{place}]", turns)
        ordered = [turns[number] for number in sorted(turns)]
        yield line, Dialogue(record["conversation_id"], record["user_id"], _seconds(record), ordered)


def _utterance(entry: Any, where: str, turns: dict[int, Turn]) -> None:
    """Enter one message or reply into its turn."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(entry).__name__}")
    _need(entry, where, turn=int, role=str)
    content = entry.get("content")
    text = EMPTY if content is None else content
    if not isinstance(text, str):
        raise InputError(f"{where}: 'content' is {type(text).__name__}, expected a text")
    turn = turns.setdefault(entry["turn"], Turn(None, [], []))
    if entry["role"] == "user":
        if turn.prompt is None:
            turns[entry["turn"]] = turn._replace(prompt=text)
    elif entry["role"] == "model":
        _need(entry, where, if_chosen=bool)
        score = entry.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float | None):
            raise InputError(f"{where}: 'score' is {score!r}, expected a number")
        side = turn.chosen if entry["if_chosen"] else turn.rejected
        side.append(Reply(text, None if score is None else int(score)))
    else:
        raise InputError(f"{where}: 'role' is {entry['role']!r}, expected user or model")


def _need(record: dict[str, Any], where: str, **kinds: type) -> None:
    names = {str: "a text", int: "a whole number", bool: "true or false", list: "a list"}
    for key, kind in kinds.items():
        if key not in record:
            raise InputError(
                f"{where}: {key!r} is missing", hint=f"it has {', '.join(map(str, record)) or 'nothing'}"
            )
        value = record[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{where}: {key!r} is {type(value).__name__}, expected {names[kind]}")


def _seconds(record: dict[str, Any]) -> float | None:
    """Seconds since 1970: of an ISO 8601 text (UTC), or of the milliseconds that pandas writes into JSON."""
    value = record.get("generated_datetime")
    if isinstance(value, int) and value > 10**11:
        return value / 1000
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
