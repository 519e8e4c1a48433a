"""PersonalRewardBench: people's choices from PRISM and Chatbot Arena, filtered for what is personal.

Ryan et al., "SynthesizeMe! Inducing Persona-Guided Prompts for Personalized Reward Models in LLMs", ACL 2025 (arXiv
2506.05598). The two hub data sets have no schema on paper; the columns read here are those that the authors' and
P-GenRM's published loaders use, and a file without them is refused.
"""

from __future__ import annotations

from typing import Any

from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message, PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder
from prbench.loaders.reading import one_of
from prbench.loaders.rows import records

COLUMNS = ("user_id", "context", "chosen", "rejected", "split")
MARKS = {"train": 0, "val": 0, "test": 1}
"""A user's validation part is training data here: prbench holds out validation data of its own."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PersonalRewardBench:
    """Loader of a PersonalRewardBench data set: each user's own train, val and test parts, from the column `split`.

    The files are divided too (by users), which is not used: rows of all files are read, in the files' sorted order. A
    group is a conversation where the rows name one, else a context. A conversation in two parts of a user is counted.
    """

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The comparisons. Raises InputError naming a file and row that is not to the schema."""
        builder = Builder("rows", "rows marked val, used as train", "rows with two equal replies dropped")
        for path in raw.paths():
            for where, record in records(path, COLUMNS, ("conversation_id",)):
                builder.counts["rows"] += 1
                user, split = record["user_id"], one_of(record["split"], MARKS, where, "split")
                if not isinstance(user, str | int) or isinstance(user, bool):
                    raise InputError(f"{where}: user_id is neither a text nor a whole number")
                context = _context(record["context"], f"{where}: context")
                chosen, rejected = (_reply(record[side], f"{where}: {side}") for side in ("chosen", "rejected"))
                builder.counts["rows marked val, used as train"] += split == "val"
                if chosen == rejected:
                    builder.counts["rows with two equal replies dropped"] += 1
                    continue
                conversation = record.get("conversation_id")
                group = context if conversation is None else str(conversation)
                builder.add(str(user), context, chosen, rejected, group=group, mark=MARKS[split])
        return builder.build(name, empty="the files hold no comparison")


def _context(value: Any, where: str) -> Context:
    if not isinstance(value, str) and not (value and isinstance(value, list)):
        raise InputError(f"{where} is neither a text nor a list of messages")
    if isinstance(value, list) and not all(isinstance(message, dict) for message in value):
        raise InputError(f"{where} is not a list of messages with a role and a content")
    try:
        messages = as_context(value)
    except InputError as error:
        raise InputError(f"{where}: {error.args[0]}") from error
    return tuple(Message("assistant" if role == "model" else role, content) for role, content in messages)


def _reply(value: Any, where: str) -> str:
    """A text, or a list of one message."""
    if isinstance(value, str):
        return value
    context = _context(value, where)
    if len(context) != 1 or context[0].role == "user":
        raise InputError(f"{where} holds {len(context)} messages, expected one reply")
    return context[0].content
