"""How a board's cells were made, where a reader of its numbers must know it: sentences below table and page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from prbench import registry
from prbench.protocol import sentences
from prbench.reporting.placing import PlacedCell, results_of
from prbench.results.record import DoneRecord
from prbench.results.record_parts import MethodPart

# Below this share of decisions a row is not named for its sensitivity to rounding.
MANY_CHANGES = 0.01


def making_notes(cells: Sequence[PlacedCell]) -> list[str]:
    """Left-out people, repeats, shared test material, equal vectors, lost text, and where cells differ."""
    done = results_of(cells)
    counts = [record.counts.table() for record in {record.split: record for record in done}.values()]
    notes = []
    if counts:
        remarks = (getattr(sentences, name)(counts) for name in ("left_out", "repeated", "shared", "equal_vectors"))
        notes += [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in remarks if sentence]
    if any(record.lost_text for record in done):
        notes.append("The encoder's template leaves out part of the texts (--template-loss allow).")
    notes += _differences(done)
    notes += _mixed_batches(cells)
    return notes


def rounding_of(entry: MethodPart) -> tuple[float, str]:
    """The share of decisions that rounding changes as a method's entry says, and where that was measured.

    The registered entry counts, else the recorded one; NaN and "" where neither says anything.
    """
    known = registry.get("methods", entry.name).rounding if entry.name in registry.names("methods") else None
    rounding = known or entry.rounding
    return (rounding.changed, rounding.on) if rounding else (math.nan, "")


def rounding_note(rows: Iterable[tuple[str, float, str]]) -> str | None:
    """One sentence on rows (title, share, where) that change `MANY_CHANGES` of their decisions or more."""
    named = sorted((row for row in rows if row[1] >= MANY_CHANGES), key=lambda row: -row[1])
    if not named:
        return None
    each = "; ".join(f"{title} {100 * share:.1f}% ({on})" for title, share, on in named)
    return f"One unit in the last place of the embeddings changes this share of test decisions: {each}."


def _differences(done: Sequence[DoneRecord]) -> list[str]:
    """Versions and devices, where they are not the same for all cells."""
    notes = []
    makers: tuple[tuple[str, Callable[[DoneRecord], str | None]], ...] = (
        ("versions of prbench", lambda record: record.versions.get("prbench")),
        ("versions of torch", lambda record: record.versions.get("torch")),
        ("devices", lambda record: record.device),
    )
    for what, maker_of in makers:
        rows: dict[str, set[str]] = {}
        for record in done:
            if maker := maker_of(record):
                rows.setdefault(maker, set()).add(record.title)
        if len(rows) > 1:
            each = "; ".join(f"{name} ({_listed(titles)})" for name, titles in sorted(rows.items()))
            notes.append(f"Made with several {what}: {each}.")
    return notes


def _mixed_batches(cells: Sequence[PlacedCell]) -> list[str]:
    """Rows some of whose cells depend in their last bits on the splits trained beside them, and some do not."""
    kinds: dict[tuple[str, str], dict[bool, set[int]]] = {}
    titles = {}
    for cell in cells:
        if cell.result and cell.result.fit.chosen is not None:
            kind = kinds.setdefault(cell.row_key, {}).setdefault(cell.result.fit.independent_of_batch, set())
            kind.add(cell.result.split)
            titles[cell.row_key] = cell.result.title
    return [
        f"{titles[row]}: {len(kind[False])} of its {sum(map(len, kind.values()))} splits were made when their "
        "rounding still depended on the splits trained beside them, the others were not."
        for row, kind in kinds.items()
        if len(kind) > 1
    ]


def _listed(titles: set[str], most: int = 6) -> str:
    shown = sorted(titles)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
