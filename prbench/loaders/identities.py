"""Who is who in a file of one's own: ids as numbers, as text and as what a lossy conversion left of them."""

from __future__ import annotations

import math
import re
from typing import Any

from prbench.base.errors import InputError
from prbench.base.texts import canonical_text
from prbench.loaders.chats import kind, text

EXACT = 2**53
"""From here on floats are not exact: different whole numbers become one."""

WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0*")
SCIENTIFIC = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE]\+[0-9]+")
LOST = "this number has gone through a float and lost digits, so that different ids may have become one"
AS_TEXT = "export the ids as text or as whole numbers (a column with gaps becomes floats in pandas: use Int64)"


class Identities:
    """The ids of one column, row by row; `resolved` tells at the end who is who.

    Whole numbers and the floats equal to them ("7" and "7.0") are one id where the whole column is numeric.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.written: list[str] = []
        self.numeric = True

    def add(self, value: Any, where: str) -> None:
        """Enter an id. Raises InputError for one that is not exact, for NaN and for other kinds of values."""
        written = self._written(value, where)
        self.numeric = self.numeric and bool(WHOLE.fullmatch(written) or FLOAT.fullmatch(written))
        self.written.append(written)

    def check(self, value: Any, where: str) -> None:
        """Raise InputError as `add`, and enter nothing."""
        self._written(value, where)

    def _written(self, value: Any, where: str) -> str:
        if isinstance(value, float) and math.isfinite(value):
            if abs(value) >= EXACT:
                raise InputError(f"{where}: {self.column} is {value!r}: {LOST}", hint=AS_TEXT)
            if value.is_integer():
                return f"{int(value)}.0"
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise InputError(f"{where}: {self.column} is {kind(value)}, expected a text or a whole number")
        text(value, self.column, where)
        if value.strip().lower() == "nan":
            raise InputError(
                f"{where}: {self.column} is {value.strip()}, which is not an id", hint="leave the row out"
            )
        bare = value.strip()
        lossy = SCIENTIFIC.fullmatch(bare) or (FLOAT.fullmatch(bare) and abs(float(bare)) >= EXACT)
        if lossy:
            raise InputError(f"{where}: {self.column} is {bare[:40]}: {LOST}", hint=AS_TEXT)
        return value

    def resolved(self) -> list[str]:
        """The id of each row."""
        if not self.numeric:
            return self.written
        return [number[1] if (number := FLOAT.fullmatch(each)) else each for each in self.written]

    def doubts(self) -> list[str]:
        """A sentence, with an example, for each way in which ids look like one person and count as several."""
        alike: dict[str, list[str]] = {}
        for each in dict.fromkeys(self.resolved()):
            bare = canonical_text(each).casefold()
            alike.setdefault(number[1] if (number := FLOAT.fullmatch(bare)) else bare, []).append(each)
        several = [group for group in alike.values() if len(group) > 1]
        if not several:
            return []
        example = " and ".join(repr(each[:40]) for each in several[0][:3])
        return [
            f"{len(several):,} ids in {self.column} differ only in capitals, space, Unicode form or a '.0', such as "
            f"{example}; they count as different people"
        ]
