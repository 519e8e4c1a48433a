"""What the page says of each method, and where its numbers come from: all of it from the cells' records."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from prbench import registry
from prbench.base.files import canonical_json
from prbench.reporting.board import Board, Row
from prbench.reporting.board_grids import corrected_test
from prbench.reporting.columns import selected_on
from prbench.reporting.grid import DASH, mean_and_spread, percent
from prbench.reporting.page.chart_data import cells_of
from prbench.reporting.placing import is_judged

if TYPE_CHECKING:
    from prbench.results import Results


FAMILIES = ("reference", "no personalisation", "personalised input", "personalised parameters", "judge")


@dataclass(frozen=True)
class SettingFacts:
    """A method on one board: what was chosen, trained and measured."""

    board: Board
    row: Row
    selected_on: str
    chosen: str
    shared: str
    per_user: str
    fit: str
    adapt: str
    score: str
    memory: str
    overall: str
    other_parameters: str
    note: str
    rounding: str


@dataclass(frozen=True)
class Card:
    """A method: its entry, the parameters that all its settings share, and its settings."""

    method: str
    title: str
    entry: Mapping[str, Any]
    parameters: str
    settings: list[SettingFacts]


@dataclass(frozen=True)
class Provenance:
    """Where a board's numbers come from: named facts, commands, and the cells by row."""

    board: Board
    facts: list[tuple[str, str]]
    commands: list[str]
    cells: list[tuple[Row, list[str]]]


SHARED = ("test_items", "test_items_trained_on", "test_pairs", "test_pairs_trained_on")


def cards(boards: Sequence[Board], results: Results) -> list[Card]:
    """A card per method, by family and title."""
    found: dict[str, list[tuple[Board, Row, list[dict[str, Any]]]]] = {}
    for board in boards:
        for row in board.rows:
            found.setdefault(row.method, []).append((board, row, cells_of(board, results, row)))
    made = []
    for method, places in found.items():
        entry = places[0][2][0]["entry"]
        own = [cells[0].get("params") or {} for _, _, cells in places]
        shared = {k: v for k, v in own[0].items() if all(k in p and p[k] == v for p in own)}
        settings = [_setting(board, row, cells, shared) for board, row, cells in places]
        made.append(Card(method, places[0][2][0]["title"], entry, assignments(shared), settings))
    order = {name: i for i, name in enumerate(FAMILIES)}
    return sorted(made, key=lambda card: (order.get(card.entry.get("family", ""), 9), card.title, card.method))


def provenance(board: Board, results: Results) -> Provenance:
    """The facts of a board's cells; what differs between them is listed with its count."""
    cells = cells_of(board, results)
    first = cells[0]
    done = [cell for cell in cells if cell["status"] == "done"] or cells
    states = Counter(cell["status"] for cell in cells)
    read = [cell for cell in done if is_judged(cell)]
    facts = [
        ("Cells", ", ".join(f"{states[state]} {state}" for state in ("done", "failed", "skipped") if states[state])),
        ("Splits", _splits_and_seeds(cells)),
        ("Random starts", _starts(board)),
        ("Protocol", assignments(first["protocol"]) + f", version {first['protocol_version']}"),
        ("Corrected test", corrected_test(board)),
        ("Data", _distinct(cell["data_fingerprint"] for cell in cells)),
        ("Embeddings", _distinct(cell["embedding_fingerprint"] for cell in cells if not is_judged(cell))),
        ("Encoder", _distinct(_encoder(cell) for cell in done if not is_judged(cell))),
        *([("Judge models", _distinct(_encoder(cell) for cell in read))] if read else []),
        *([("Calls made on", _distinct(_days(cell) for cell in read))] if read else []),
        ("Users", _counts(cells, ("seen_users", "unseen_users"))),
        ("Comparisons", _counts(cells, ("seen_train", "seen_test", "unseen_support", "unseen_test"))),
        ("Repeats of one person", _counts(cells, ("repeats", "opposite_repeats"))),
        ("Test in training too", _counts(cells, SHARED)),
        ("Test choices between equal vectors", _counts(done, ("equal_vectors",))),
        ("Devices", _distinct(cell.get("device") for cell in done)),
        ("Versions", _distinct(assignments(cell["versions"]) for cell in done if cell.get("versions"))),
        ("Commit", _distinct(cell.get("commit") for cell in done)),
        ("Machine", _distinct(cell.get("machine") for cell in done)),
        ("Made", _made(done)),
        ("Splits trained together", _distinct(_text(cell.get("trained_together")) for cell in done)),
        ("Not run", _not_run(board, cells)),
        ("Results format", _distinct(str(cell["format"]) for cell in cells)),
    ]
    commands = sorted({cell["command"] for cell in cells if cell.get("command")})
    keys = [
        (row, [f"{_place(c)}: {c['key']} {c['status']}" for c in cells_of(board, results, row)]) for row in board.rows
    ]
    return Provenance(board, facts, commands, keys)


def _made(cells: Sequence[Mapping[str, Any]]) -> str:
    """The first and the last day on which cells were made."""
    days = sorted({str(cell["finished"])[:10] for cell in cells if cell.get("finished")})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else DASH


def _not_run(board: Board, cells: Sequence[Mapping[str, Any]]) -> str:
    """The methods of `all` that have no row, and the splits of the protocol that no row has."""
    there = {cell["entry"].get("name", cell["method"]) for cell in cells}
    left = [entry.name for entry in registry.load_all("methods") if entry.default and entry.name not in there]
    planned = int(cells[0]["protocol"].get("splits", 0))
    said = [f"methods of all: {', '.join(left)}"] if left else []
    said += [f"{planned - board.splits} of the protocol's {planned} splits"] if planned > board.splits else []
    return "; ".join(said) or "nothing"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def assignments(values: Mapping[str, Any]) -> str:
    """Such as "bases = 2, robust = true"."""
    return ", ".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}".replace('"', "") for key, value in values.items()
    )


def spans(numbers: Iterable[int]) -> str:
    """Whole numbers as spans: "0–4, 7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs)


def of_splits(values: Sequence[float]) -> str:
    """The median with the range where they differ: "13 (9 to 26)"."""
    if not values:
        return DASH
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{median(values):g} ({low:g} to {high:g})"


def _setting(board: Board, row: Row, cells: Sequence[Mapping[str, Any]], shared: Mapping[str, Any]) -> SettingFacts:
    done = [cell for cell in cells if cell["status"] == "done"]
    fits = [cell.get("fit") or {} for cell in done]
    counts = [cell.get("parameters") or {} for cell in done]
    seconds = [cell.get("seconds") or {} for cell in done]
    other = {k: v for k, v in (cells[0].get("params") or {}).items() if k not in shared}
    chosen = [fit["chosen"] for fit in fits if "chosen" in fit]
    numbers = [value for value in chosen if isinstance(value, int | float)]
    told = of_splits(numbers) if len(numbers) == len(chosen) else _distinct(canonical_json(value) for value in chosen)
    refitted = sorted({str(fit["refitted_on"]) for fit in fits if fit.get("refitted_on")})
    return SettingFacts(
        board=board,
        row=row,
        selected_on=selected_on(row),
        chosen=told + "".join(f", then refitted on {what}" for what in refitted),
        shared=_whole(counts, "shared"),
        per_user=_whole(counts, "per_user"),
        fit=_seconds(seconds, "fit"),
        adapt=_seconds(seconds, "adapt"),
        score=_seconds(seconds, "score"),
        memory=_memory(done),
        overall=mean_and_spread(row, "overall"),
        other_parameters=assignments(other),
        note=row.note,
        rounding="" if math.isnan(row.rounding) else f"{percent(row.rounding, digits=2)}% ({row.rounding_on})",
    )


def _whole(counts: Sequence[Mapping[str, int]], name: str) -> str:
    values = [count[name] for count in counts if name in count]
    if not values:
        return DASH
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _seconds(seconds: Sequence[Mapping[str, float]], name: str) -> str:
    """The median over splits of the seconds that a step took."""
    values = [record[name] for record in seconds if name in record]
    if not values:
        return DASH
    value = median(values)
    return f"{1000 * value:.2g} ms" if value < 0.1 else f"{value:.2g} s"


def _memory(done: Sequence[Mapping[str, Any]]) -> str:
    values = [cell["peak_memory_mb"] for cell in done if cell.get("peak_memory_mb")]
    return f"{max(values):,.0f} MB" if values else DASH


def _distinct(values: Iterable[str | None]) -> str:
    """The different values, each with its count where there are several."""
    counts = Counter(value for value in values if value)
    if len(counts) < 2:
        return next(iter(counts), DASH)
    return "; ".join(f"{value} ({count} cells)" for value, count in sorted(counts.items()))


def _encoder(cell: Mapping[str, Any]) -> str:
    """The name of the encoder or judge model, its title, and what made its embeddings or answers."""
    entry, name = cell.get("encoder_entry") or {}, str(cell.get("model", cell["encoder"]))
    name = f"{name}: {entry['title']}" if entry.get("title") else name
    made = cell.get("encoder_fingerprint")
    return f"{name} ({assignments(made)})" if made else name


def _days(cell: Mapping[str, Any]) -> str:
    """The days over which a cell's calls were made."""
    stages = [cell.get("judging", {}).get(stage, {}).get("days", {}) for stage in ("fit", "test")]
    days = sorted({day for found in stages for day in found})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else DASH


def _counts(cells: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Such as "seen users 86, unseen users 87"; a range where splits differ."""
    said = []
    for name in names:
        values = [cell["counts"][name] for cell in cells if name in (cell.get("counts") or {})]
        if values:
            low, high = min(values), max(values)
            said.append(f"{name.replace('_', ' ')} {low:,}" + (f" to {high:,}" if high > low else ""))
    return ", ".join(said) or DASH


def _place(cell: Mapping[str, Any]) -> str:
    """A cell's split and its further random start."""
    return f"{cell['split']}" + (f" restart {cell['restart']}" if cell.get("restart", 0) else "")


def _starts(board: Board) -> str:
    """Of how many random starts a split's numbers are means, by row."""
    rows = [row for row in board.rows if row.splits]
    counts = Counter(f"{row.starts} a split" if row.random_start else "none" for row in rows)
    if len(counts) < 2:
        return next(iter(counts), DASH)
    named = {
        text: [r.title for r in rows if (f"{r.starts} a split" if r.random_start else "none") == text]
        for text in counts
    }
    return "; ".join(f"{text} ({', '.join(titles)})" for text, titles in sorted(named.items()))


def _splits_and_seeds(cells: Sequence[Mapping[str, Any]]) -> str:
    seeds = {cell["split"]: cell["seed"] for cell in cells}
    if len({seed - split for split, seed in seeds.items()}) == 1:
        return f"{spans(seeds)}, seeds {spans(seeds.values())}"
    return "; ".join(f"{split}: seed {seed}" for split, seed in sorted(seeds.items()))
