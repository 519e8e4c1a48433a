"""Comparison keys: how files that travel name one choice of one person, without ids in sight.

A key is the sha256 of the canonical JSON of [user id, context messages, the two responses in sorted order, how often
this user had judged this pair before in the source's order]. The choice is not part of it. Data that came as
embeddings have no texts: there it is [user id, conversation number, the two item numbers in sorted order, how often].
Keys keep ids out of sight; they are not anonymisation: whoever has the data can compute them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import StringConstraints

from prbench.base.files import canonical_json
from prbench.comparisons import PreferenceData

ComparisonKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Portability = Literal["portable", "not portable"]


def portability(data: PreferenceData) -> Portability:
    """Whether the keys of the data are the same wherever the same texts were loaded."""
    return "portable" if data.embedded is None else "not portable"


def comparison_keys(data: PreferenceData) -> list[str]:
    """The key of every comparison, [n], in the data's order: 64 hex digits, each different."""
    users = [canonical_json(key) for key in data.user_keys]
    body = _numbers(data) if data.embedded is not None else _texts(data)
    earlier: Counter[tuple[str, str]] = Counter()
    keys = []
    for row, number in enumerate(data.user.tolist()):
        pair = users[number], body(row)
        keys.append(hashlib.sha256(f"[{pair[0]},{pair[1]},{earlier[pair]}]".encode()).hexdigest())
        earlier[pair] += 1
    return keys


def _texts(data: PreferenceData) -> Callable[[int], str]:
    """The canonical JSON of a row's context and two responses, without the brackets of a list."""
    contexts = [canonical_json([list(message) for message in context]) for context in data.contexts]
    sides = [(response, contexts[c]) for response, c in zip(data.responses, data.item_context.tolist(), strict=True)]

    def body(row: int) -> str:
        first, second = sorted((sides[data.chosen[row]], sides[data.rejected[row]]))
        context = first[1] if first[1] == second[1] else f"[{first[1]},{second[1]}]"
        return f"{context},{canonical_json([first[0], second[0]])}"

    return body


def _numbers(data: PreferenceData) -> Callable[[int], str]:
    def body(row: int) -> str:
        return f"{data.group[row]},{canonical_json(sorted((int(data.chosen[row]), int(data.rejected[row]))))}"

    return body
