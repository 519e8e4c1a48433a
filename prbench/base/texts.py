"""When two texts say the same."""

from __future__ import annotations

import unicodedata

# Characters without width that exports add or lose: soft hyphen, zero-width space, word joiner, byte order mark.
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def canonical_text(text: str) -> str:
    """`text` as it is compared with others: Unicode form NFKC, no invisible characters, white space as one space.

    Line ends and the white space at both ends disappear with it. Capitals and punctuation stay.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(INVISIBLE))
    return " ".join(text.split())
