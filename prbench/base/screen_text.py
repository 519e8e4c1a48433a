"""Text for a screen: shortened in the middle, without control characters, in ASCII where nothing else prints."""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from collections.abc import Sequence

ELLIPSIS = "…"
# Characters of one message and of one word in it: a name of 5,000 characters or 200,000 column names are not read.
MESSAGE, WORD = 1_000, 200
# What terminals obey instead of showing: C0 and C1 controls, DEL, and marks that reverse the writing direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONG_WORD = re.compile(rf"\S{{{WORD + 1},}}")
_PLAIN = {
    "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "†": "+", "‡": "=", "×": "x", "≥": ">=", "≤": "<=",
    "→": "->", "·": ".", "“": '"', "”": '"', "‘": "'", "’": "'", "²": "^2", "½": "1/2", "α": "alpha", "β": "beta",
    "γ": "gamma", "Δ": "Delta", "λ": "lambda", "ρ": "rho", "σ": "sigma", "Σ": "Sigma", "\u00a0": " ",
}  # fmt: skip


def shortened(text: str, most: int) -> str:
    """`text` in at most `most` characters, what does not fit replaced by an ellipsis in the middle."""
    if len(text) <= most:
        return text
    if most <= len(ELLIPSIS):
        return ELLIPSIS[:most]
    end = (most - len(ELLIPSIS)) // 2
    start = most - len(ELLIPSIS) - end
    return text[:start] + ELLIPSIS + text[len(text) - end :]


def visible(text: str) -> str:
    """`text` with every character that a terminal obeys spelled out, as in \\x1b; line breaks and tabs stay."""
    return _CONTROL.sub(lambda character: _escaped(character.group()), text)


def message(text: str) -> str:
    """A message in one line that no input can make long or obeyed: see `MESSAGE`, `WORD` and `visible`."""
    words = _LONG_WORD.sub(lambda word: shortened(word.group(), WORD), visible(" ".join(text.split())))
    return shortened(words, MESSAGE)


def plain(text: str) -> str:
    """`text` in ASCII: signs by their usual spelling, other characters by their number."""
    return "".join(c if c.isascii() else _PLAIN.get(c, _escaped(c)) for c in text)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names joined by commas; of more than `most` the first ones and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def print_anything() -> None:
    """Let stdout and stderr spell what their encoding lacks, as `plain` does, instead of raising."""
    codecs.register_error("prbench.plain", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A stream whose reader has gone cannot be changed; writing to it says so.
            with contextlib.suppress(OSError):
                stream.reconfigure(errors="prbench.plain")


def _escaped(text: str) -> str:
    return text.encode("unicode_escape", "surrogatepass").decode("ascii")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end
