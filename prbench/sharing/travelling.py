"""What a cell's record says once it leaves the machine: all that produced it, and nothing of where it was made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEFT_OUT = ("traceback",)
"""Keys that name files of the machine line by line."""
PLACE = "<path>"
LONGEST = 400
"""Longer texts inside a method's own record of its fit could be a person's words."""

# An absolute POSIX path, one below a home, a Windows path, or a file: address. URLs and fractions are none of these.
PATH = re.compile(
    r"""file://[^\s'"]*"""
    r"""|(?<![\w.:/~<-])~?/(?:[\w.+@%=,~-]+/)+[\w.+@%=,~-]*"""
    r"""|(?<![\w.:/~<-])/(?:home|root|Users|tmp|mnt|data|scratch|work)\b[\w.+@%=,~/-]*"""
    r"""|(?<!\w)[A-Za-z]:\\[^\s'"]*|\\\\[^\s'"]+"""
)


def travelling(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without tracebacks, machine paths and long texts of the fit; everything else as it was."""
    known = sorted({str(place) for place in (Path.home(), Path.cwd()) if len(place.parts) > 1}, key=len, reverse=True)
    kept: dict[str, Any] = {key: _clean(value, known) for key, value in record.items() if key not in LEFT_OUT}
    if "fit" in kept:
        kept["fit"] = _shortened(kept["fit"])
    return kept


def _clean(value: Any, known: list[str]) -> Any:
    if isinstance(value, str):
        for place in known:
            value = value.replace(place, PLACE)
        return PATH.sub(PLACE, value)
    if isinstance(value, Mapping):
        return {_clean(key, known): _clean(each, known) for key, each in value.items()}
    return [_clean(each, known) for each in value] if isinstance(value, list) else value


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST:
        return f"<{len(value)} characters left out>"
    if isinstance(value, Mapping):
        return {key: _shortened(each) for key, each in value.items()}
    return [_shortened(each) for each in value] if isinstance(value, list) else value
