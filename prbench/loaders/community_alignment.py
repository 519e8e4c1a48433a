"""Community Alignment: which of four replies annotators in five countries prefer, in dialogues of up to four turns.

Zhang et al., "Cultivating Pluralism in Algorithmic Monoculture: The Community Alignment Dataset", arXiv 2507.09650.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import Message, PreferenceData
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder
from prbench.loaders.rows import records

FILE = "community_alignment.csv"
TURNS = ("first", "second", "third", "fourth")
RESPONSES = ("response_a", "response_b", "response_c", "response_d")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CommunityAlignment:
    """Loader of Community Alignment. In every turn the preferred reply is paired with each other one.

    Users are the annotators with at least `min_conversations` conversations that give a comparison, in `language`
    (the language assigned to the annotator; "" takes all). A context is the history (each earlier prompt and the
    reply preferred) and the turn's prompt; a turn without prompt, preferred reply or other reply ends its
    conversation, since what follows has an unknown history. A group is a conversation.
    """

    language: str = "en"
    min_conversations: Annotated[int, Field(ge=1)] = 10

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons. Raises InputError naming the row that is not to the schema."""
        path = raw.path(FILE)
        columns = [f"{turn}_turn_{part}" for turn in TURNS for part in ("prompt", "preferred_response", *RESPONSES)]
        builder = Builder(
            "conversations",
            "conversations in other languages dropped",
            "conversations without a usable turn dropped",
            "turns after an incomplete one dropped",
            "replies with the preferred one's text dropped",
        )
        by_user: dict[str, list[tuple[str, list[Turn]]]] = {}
        for where, record in records(path, ("conversation_id", "annotator_id", "assigned_lang", *columns), ()):
            builder.counts["conversations"] += 1
            if self.language and record["assigned_lang"] != self.language:
                builder.counts["conversations in other languages dropped"] += 1
                continue
            turns = _turns(record, where, builder)
            if not turns:
                builder.counts["conversations without a usable turn dropped"] += 1
                continue
            if record["annotator_id"] is None or record["conversation_id"] is None:
                raise InputError(f"{where}: annotator_id or conversation_id is missing")
            by_user.setdefault(str(record["annotator_id"]), []).append((str(record["conversation_id"]), turns))
        for user, conversations in by_user.items():
            few = len(conversations) < self.min_conversations
            builder.counts[f"users with fewer than {self.min_conversations} conversations dropped"] += few
            builder.counts["conversations of dropped users"] += len(conversations) if few else 0
            for conversation, turns in [] if few else conversations:
                history: list[Message] = []
                for prompt, preferred, others in turns:
                    context = (*history, Message("user", prompt))
                    for other in others:
                        builder.add(user, context, preferred, other, group=conversation)
                    history = [*context, Message("assistant", preferred)]
        hint = f"no annotator has {self.min_conversations} conversations in the language {self.language!r}"
        return builder.build(name, empty=hint)


Turn = tuple[str, str, list[str]]
"""Prompt, preferred reply, the other replies."""


def _turns(record: dict[str, Any], where: str, builder: Builder) -> list[Turn]:
    """The turns of a row up to the first incomplete one."""
    turns: list[Turn] = []
    for number, turn in enumerate(TURNS):
        prompt, choice = record[f"{turn}_turn_prompt"], record[f"{turn}_turn_preferred_response"]
        replies = {key: record[f"{turn}_turn_{key}"] for key in RESPONSES}
        if choice and choice not in RESPONSES:
            raise InputError(f"{where}: {turn}_turn_preferred_response is {choice!r}, expected response_a to _d")
        preferred = replies.get(choice) if choice else None
        given = [reply for key, reply in replies.items() if key != choice and reply]
        if not prompt or not preferred or not given:
            later = TURNS[number + 1 :]
            builder.counts["turns after an incomplete one dropped"] += sum(
                bool(record[f"{after}_turn_preferred_response"]) for after in later
            )
            break
        others = [reply for reply in given if reply != preferred]
        builder.counts["replies with the preferred one's text dropped"] += len(given) - len(others)
        turns.append((prompt, preferred, others))
    return turns if any(others for *_, others in turns) else []
