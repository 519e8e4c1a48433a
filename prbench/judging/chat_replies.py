"""What a chat completion's answer says: the label, its log-probabilities, the tokens, and how long to wait."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prbench.judging.verdicts import letter


def choice_schema(labels: Sequence[str]) -> dict[str, Any]:
    """The response format that leaves a server no answer but one of the labels."""
    kind = {"type": "string", "enum": list(labels)}
    shape = {
        "type": "object",
        "properties": {"choice": kind},
        "required": ["choice"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": shape}}


def named_label(text: str, labels: Sequence[str]) -> str:
    """The label that a text names, "" for none: as JSON, or by itself."""
    found = re.findall(r'"choice"\s*:\s*"?([A-Za-z0-9]+)"?', text)
    said = found[-1] if found else letter(text) or text.strip().rstrip(".")
    return next((label for label in labels if label.casefold() == said.casefold()), "")


def alternatives(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(token, log-probability) of the first token's alternatives; empty where the server gives none."""
    content = ((found["choices"][0].get("logprobs") or {}).get("content")) or []
    if not content or not isinstance(content[0], dict):
        return []
    entries = content[0].get("top_logprobs") or [content[0]]
    made = []
    for entry in entries:
        token, value = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if isinstance(token, str) and isinstance(value, int | float) and not isinstance(value, bool):
            made.append((token, float(value)))
    return made


def label_logprobs(options: Sequence[tuple[str, float]], labels: Sequence[str]) -> tuple[float, ...] | None:
    """The log-probability of each label over the forms in which it is written; None where none is among them.

    `options` holds (token, log-probability). A label that is not among them is at most as likely as the least likely
    of these, and gets that value.
    """
    values: list[float | None] = []
    for label in labels:
        forms = [value for token, value in options if token.strip().casefold() == label.casefold()]
        values.append(float(np.logaddexp.reduce(forms)) if forms else None)
    if all(value is None for value in values):
        return None
    least = min(value for _, value in options)
    return tuple(least if value is None else value for value in values)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to wait, in seconds."""
    if (milliseconds := headers.get("retry-after-ms")) is not None:
        try:
            return max(0.0, float(milliseconds) / 1000)
        except ValueError:
            return None
    said = headers.get("Retry-After")
    if said is None:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def count(value: Any, estimate: int) -> int:
    """A count that a server gives, `estimate` where it gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else estimate
