"""Whether what a message says reaches the model: role names that templates know, and what they leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prbench.encoders.base import TextError

Messages = list[dict[str, str]]
Roles = tuple[str, ...]

# Role names of common exports of chats, and the templates' own for the same.
ALIASES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
}


@dataclass(frozen=True)
class Reading:
    """How conversations with some sequence of roles are written: under which `roles`, and which places are lost."""

    roles: Roles
    lost: frozenset[int] = frozenset()


class Delivery:
    """What a chat template, given as `write`, makes of each sequence of roles; found once for each.

    A role is renamed by `ALIASES` where the template refuses or leaves out its messages and does neither to the
    other name's.
    """

    def __init__(self, write: Callable[[Messages], str]) -> None:
        self.write = write
        self.renamed: dict[str, str] = {}
        self._readings: dict[Roles, Reading] = {}

    def reading(self, roles: Roles) -> Reading:
        """How these roles are written. A template that refuses every naming is left to say so itself."""
        reading = self._readings.get(roles)
        if reading is None:
            reading = self._readings[roles] = self._find(roles)
            for old, new in zip(roles, reading.roles, strict=True):
                if old != new:
                    self.renamed[old] = new
        return reading

    def _find(self, roles: Roles) -> Reading:
        best: Reading | None = None
        for named in _namings(roles):
            lost = self._lost(named)
            if lost is not None and (best is None or len(lost) < len(best.lost)):
                best = Reading(named, lost)
            if lost is not None and not lost:
                break
        return best or Reading(roles)

    def _lost(self, roles: Roles) -> frozenset[int] | None:
        """The places whose text is not in what is written, or None where the template refuses these roles."""
        marks = [f"q{place}marker{place}q" for place in range(len(roles))]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            written = self.write(messages)
        except TextError:
            return None
        return frozenset(place for place, mark in enumerate(marks) if mark not in written)


def _namings(roles: Roles) -> Iterator[Roles]:
    """The roles as they are, then with one of the aliases replaced, then with all."""
    yield roles
    known = [role for role in dict.fromkeys(roles) if role in ALIASES]
    if len(known) > 1:
        for replaced in known:
            yield tuple(ALIASES[role] if role == replaced else role for role in roles)
    if known:
        yield tuple(ALIASES.get(role, role) for role in roles)


def lost_messages(messages: Sequence[dict[str, str]], written: str) -> list[int]:
    """The places of messages whose text does not arrive whole; white space is not part of the comparison."""
    # Most arrive as they are, and looking for that is cheap.
    doubtful = [place for place, message in enumerate(messages) if message["content"].strip() not in written]
    if not doubtful:
        return []
    squeezed = "".join(written.split())
    return [place for place in doubtful if "".join(messages[place]["content"].split()) not in squeezed]


def folded(messages: Messages) -> Messages:
    """The conversation with the system's messages put before the text of the user's message after them."""
    out: Messages = []
    waiting: list[str] = []
    for place, message in enumerate(messages):
        last = place == len(messages) - 1
        if message["role"] in ("system", "developer") and not last:
            waiting.append(message["content"])
        elif waiting and message["role"] in ("user", "human", "prompter"):
            out.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            if waiting:
                out.append({"role": "user", "content": "\n\n".join(waiting)})
                waiting = []
            out.append(message)
    return out
