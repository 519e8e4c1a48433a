"""A conversation as a reward model reads it: who it is for, the context and the reply."""

from __future__ import annotations

from collections.abc import Sequence

from prbench.comparisons import Context, Message
from prbench.judging.adapted import OwnWeights
from prbench.judging.prompts import fenced

READER = "The replies are for one particular person. A description of this person:"


def messages_for(persona: str, context: Context, reply: str) -> list[Message]:
    """The context, after the description of a person where there is one, and the reply as its last message."""
    said = list(context)
    if persona:
        told = f"{READER}\n{fenced('persona', persona)}"
        if said and said[0].role == "system":
            told, said = f"{told}\n\n{said[0].content}", said[1:]
        said = [Message("system", told), *said]
    return [*said, Message("assistant", reply)]


def reward_tokens(own: OwnWeights, persona: str, context: Context, reply: str) -> tuple[tuple[int, ...], bool]:
    """The tokens of a text, and whether its context was shortened so that it fits.

    The oldest messages of the context go first, then the beginning of the last one, then that of the persona; a reply
    that is longer than the model reads loses its end. A model's padding token never ends a text: reward models of
    transformers look for the last token that is another one.
    """
    pad = own.tokenizer.pad_token_id if own.tokenizer.pad_token_id is not None else own.tokenizer.eos_token_id

    def ids(persona: str, context: Context) -> tuple[int, ...]:
        found = own.ids(messages_for(persona, context, reply), True)
        while len(found) > 1 and found[-1] == pad:
            found = found[:-1]
        return found

    found = ids(persona, context)
    if len(found) <= own.room:
        return found, False
    while len(found) > own.room and len(context) > 1:
        context = context[1:]
        found = ids(persona, context)
    if context and len(found) > own.room:
        role, content = context[0]
        kept = _longest(content, lambda text: len(ids(persona, (Message(role, text),))) <= own.room)
        context = (Message(role, kept),)
        found = ids(persona, context)
    if len(found) > own.room:
        persona = _longest(persona, lambda text: len(ids(text, context)) <= own.room)
        found = ids(persona, context)
    return found[: own.room], True


def _longest(text: str, fits: object) -> str:
    """The longest end of a text that fits, by halving; "" where none does."""
    assert callable(fits)
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[len(text) - middle :]):
            low = middle
        else:
            high = middle - 1
    return text[len(text) - low :]


def distinct(texts: Sequence[tuple[str, Context, str]]) -> tuple[list[tuple[str, Context, str]], list[int]]:
    """The different ones of some texts, and where each text is among them."""
    where: dict[tuple[str, Context, str], int] = {}
    places = [where.setdefault(text, len(where)) for text in texts]
    return list(where), places
