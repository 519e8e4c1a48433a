"""How a board's cells were made, where a reader of its numbers must know it: sentences below table and page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prbench import registry
from prbench.protocol import sentences

# Below this share of decisions a row is not named for its sensitivity to rounding.
MANY_CHANGES = 0.01
Cell = Mapping[str, Any]


def said_of_makings(cells: Sequence[Cell]) -> list[str]:
    """Left-out people, repeats, shared test material, equal vectors, lost text, and where cells differ."""
    done = [cell for cell in cells if cell["status"] == "done"]
    counts = [cell.get("counts") or {} for cell in {cell["split"]: cell for cell in done}.values()]
    said = []
    if counts:
        found = (getattr(sentences, name)(counts) for name in ("left_out", "repeated", "shared", "equal_vectors"))
        said += [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in found if sentence]
    if any((cell.get("encoder_fingerprint") or {}).get("template_loss") == "allow" for cell in done):
        said.append("The encoder's template leaves out part of the texts (--template-loss allow).")
    said += _differences(done)
    said += _mixed_batches(done)
    return said


def rounding_of(entry: Mapping[str, Any]) -> tuple[float, str]:
    """The share of decisions that rounding changes as a method's entry says, and where that was measured.

    The registered entry counts, else the recorded one; NaN and "" where neither says anything.
    """
    name = entry.get("name")
    known = registry.get("methods", name).rounding if name in registry.names("methods") else None
    found = known.model_dump() if known else entry.get("rounding")
    return (float(found["changed"]), str(found["on"])) if found else (math.nan, "")


def said_of_rounding(rows: Iterable[tuple[str, float, str]]) -> str | None:
    """One sentence on rows (title, share, where) that change `MANY_CHANGES` of their decisions or more."""
    named = sorted((row for row in rows if row[1] >= MANY_CHANGES), key=lambda row: -row[1])
    if not named:
        return None
    each = "; ".join(f"{title} {100 * share:.1f}% ({on})" for title, share, on in named)
    return f"One unit in the last place of the embeddings changes this share of test decisions: {each}."


def _differences(done: Sequence[Cell]) -> list[str]:
    """Versions and devices, where they are not the same for all cells."""
    said = []
    for what, place in (
        ("versions of prbench", ("versions", "prbench")),
        ("versions of torch", ("versions", "torch")),
        ("devices", ("device",)),
    ):
        rows: dict[str, set[str]] = {}
        for cell in done:
            found: Any = cell
            for key in place:
                found = (found or {}).get(key)
            if found:
                rows.setdefault(str(found), set()).add(cell["title"])
        if len(rows) > 1:
            each = "; ".join(f"{name} ({_listed(titles)})" for name, titles in sorted(rows.items()))
            said.append(f"Made with several {what}: {each}.")
    return said


def _mixed_batches(done: Sequence[Cell]) -> list[str]:
    """Rows some of whose cells depend in their last bits on the splits trained beside them, and some do not."""
    kinds: dict[tuple[str, str], dict[bool, set[int]]] = {}
    titles = {}
    for cell in done:
        row = (cell["method"], cell["selection"])
        fit = cell.get("fit") or {}
        if "chosen" in fit:
            kinds.setdefault(row, {}).setdefault(bool(fit.get("independent_of_batch")), set()).add(cell["split"])
            titles[row] = cell["title"]
    return [
        f"{titles[row]}: {len(kind[False])} of its {sum(map(len, kind.values()))} splits were made when their "
        "rounding still depended on the splits trained beside them, the others were not."
        for row, kind in kinds.items()
        if len(kind) > 1
    ]


def _listed(titles: set[str], most: int = 6) -> str:
    shown = sorted(titles)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
