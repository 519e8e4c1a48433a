"""The marks of functions that an entry may name as a report or as a piece of one.

Without a mark any function of any module could be named, `subprocess:run` among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

Marked = TypeVar("Marked", bound=Callable[..., Any])
ATTRIBUTE = "__prbench_mark__"


def report(function: Marked) -> Marked:
    """Mark a function (results, out, *, options) that writes a report and returns the files that it wrote."""
    setattr(function, ATTRIBUTE, "report")
    return function


def piece(function: Marked) -> Marked:
    """Mark a function (evidence, piece) that makes one table or figure of a report."""
    setattr(function, ATTRIBUTE, "piece")
    return function


def has_mark(function: object, mark: Literal["report", "piece"]) -> bool:
    """Whether `function` was marked as `mark`."""
    return callable(function) and getattr(function, ATTRIBUTE, None) == mark
