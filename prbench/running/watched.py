"""Validation choices that tell whether a method read them: a rule that claims to have chosen on them must have."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from prbench.comparisons import Comparisons


class WatchedComparisons(Comparisons):
    """Comparisons that know whether anything of them was read."""

    was_read: bool

    @classmethod
    def of_rows(cls, rows: Comparisons) -> WatchedComparisons:
        """The same comparisons, not read yet."""
        watched = cls(**{field.name: getattr(rows, field.name) for field in fields(rows)})
        object.__setattr__(watched, "was_read", False)
        return watched

    def __getattribute__(self, name: str) -> Any:
        if name in _COLUMNS:
            object.__setattr__(self, "was_read", True)
        return super().__getattribute__(name)


_COLUMNS = frozenset(field.name for field in fields(Comparisons))
