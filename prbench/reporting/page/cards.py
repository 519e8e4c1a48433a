"""What the page says of each method, and where its numbers come from: all of it from the cells' records."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from prbench import registry
from prbench.base.files import canonical_json
from prbench.reporting.board import Board, Row
from prbench.reporting.board_grids import corrected_test
from prbench.reporting.columns import selected_on
from prbench.reporting.grid import DASH, mean_and_spread, percent
from prbench.reporting.page.chart_data import cells_of
from prbench.reporting.placing import PlacedCell, PlacedResults, results_of
from prbench.results.record import CellRecord, DoneRecord
from prbench.results.record_parts import MethodPart

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
    entry: MethodPart
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


def cards(boards: Sequence[Board], results: PlacedResults) -> list[Card]:
    """A card per method, by family and title."""
    rows: dict[str, list[tuple[Board, Row, list[PlacedCell]]]] = {}
    for board in boards:
        for row in board.rows:
            rows.setdefault(row.method, []).append((board, row, cells_of(board, results, row)))
    methods = []
    for method, places in rows.items():
        first = places[0][2][0].record
        params = [cells[0].record.params for _, _, cells in places]
        shared = {k: v for k, v in params[0].items() if all(k in p and p[k] == v for p in params)}
        settings = [_setting(board, row, cells, shared) for board, row, cells in places]
        methods.append(Card(method, first.title, first.entry, assignments(shared), settings))
    order = {name: i for i, name in enumerate(FAMILIES)}
    return sorted(methods, key=lambda card: (order.get(card.entry.family, 9), card.title, card.method))


def provenance(board: Board, results: PlacedResults) -> Provenance:
    """The facts of a board's cells; what differs between them is listed with its count."""
    cells = cells_of(board, results)
    records = [cell.record for cell in cells]
    embedded = [cell.record for cell in cells if not cell.judged]
    first, done = records[0], results_of(cells)
    # Where nothing is done yet, what was planned says the same of the machine.
    makers = done or records
    judged = [cell.record for cell in cells if cell.judged and (cell.result or not done)]
    states = Counter(record.status for record in records)
    facts = [
        ("Cells", ", ".join(f"{states[state]} {state}" for state in ("done", "failed", "skipped") if states[state])),
        ("Splits", _splits_and_seeds(records)),
        ("Random starts", _starts(board)),
        ("Protocol", f"{assignments(first.stored_protocol())}, version {first.protocol_version}"),
        ("Corrected test", corrected_test(board)),
        ("Data", _distinct(record.data_fingerprint for record in records)),
        ("Embeddings", _distinct(record.embedding_fingerprint for record in embedded)),
        ("Encoder", _distinct(_encoder(record) for record in embedded if record.done or not done)),
        *([("Judge models", _distinct(map(_encoder, judged)))] if judged else []),
        *([("Calls made on", _distinct(map(_days, judged)))] if judged else []),
        ("Users", _counts(records, ("seen_users", "unseen_users"))),
        ("Comparisons", _counts(records, ("seen_train", "seen_test", "unseen_support", "unseen_test"))),
        ("Repeats of one person", _counts(records, ("repeats", "opposite_repeats"))),
        ("Test in training too", _counts(records, SHARED)),
        ("Test choices between equal vectors", _counts(makers, ("equal_vectors",))),
        ("Devices", _distinct(record.device for record in makers)),
        ("Versions", _distinct(assignments(record.versions) for record in makers if record.versions)),
        ("Commit", _distinct(record.commit for record in makers)),
        ("Machine", _distinct(record.machine for record in makers)),
        ("Made", _dates(done)),
        ("Splits trained together", _distinct(_text(record.trained_together) for record in done)),
        ("Not run", _not_run(board, records)),
        ("Results format", _distinct(str(record.format) for record in records)),
    ]
    commands = sorted({record.command for record in records if record.command})
    keys = [
        (row, [f"{_place(c.record)}: {c.record.key} {c.record.status}" for c in cells_of(board, results, row)])
        for row in board.rows
    ]
    return Provenance(board, facts, commands, keys)


def _dates(done: Sequence[DoneRecord]) -> str:
    """The first and the last day on which cells were made."""
    days = sorted({record.finished[:10] for record in done if record.finished})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else DASH


def _not_run(board: Board, records: Sequence[CellRecord]) -> str:
    """The methods of `all` that have no row, and the splits of the protocol that no row has."""
    with_row = {record.entry.name for record in records}
    left = [entry.name for entry in registry.load_all("methods") if entry.default and entry.name not in with_row]
    planned = records[0].protocol.splits
    phrases = [f"methods of all: {', '.join(left)}"] if left else []
    phrases += [f"{planned - board.splits} of the protocol's {planned} splits"] if planned > board.splits else []
    return "; ".join(phrases) or "nothing"


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


def _setting(board: Board, row: Row, cells: Sequence[PlacedCell], shared: Mapping[str, Any]) -> SettingFacts:
    done = results_of(cells)
    other = {name: value for name, value in cells[0].record.params.items() if name not in shared}
    choices = [record.fit.chosen for record in done if record.fit.chosen is not None]
    numbers = [value for value in choices if isinstance(value, int | float)]
    chosen = of_splits(numbers) if len(numbers) == len(choices) else _distinct(map(canonical_json, choices))
    refitted = sorted({record.fit.refitted_on for record in done if record.fit.refitted_on})
    return SettingFacts(
        board=board,
        row=row,
        selected_on=selected_on(row),
        chosen=chosen + "".join(f", then refitted on {what}" for what in refitted),
        shared=_whole([record.parameters.shared for record in done]),
        per_user=_whole([record.parameters.per_user for record in done]),
        fit=_seconds([record.seconds.fit for record in done]),
        adapt=_seconds([record.seconds.adapt for record in done]),
        score=_seconds([record.seconds.score for record in done]),
        memory=_memory(done),
        overall=mean_and_spread(row, "overall"),
        other_parameters=assignments(other),
        note=row.note,
        rounding="" if math.isnan(row.rounding) else f"{percent(row.rounding, digits=2)}% ({row.rounding_on})",
    )


def _whole(values: Sequence[int]) -> str:
    if not values:
        return DASH
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _seconds(values: Sequence[float]) -> str:
    """The median over splits of the seconds that a step took."""
    if not values:
        return DASH
    value = median(values)
    return f"{1000 * value:.2g} ms" if value < 0.1 else f"{value:.2g} s"


def _memory(done: Sequence[DoneRecord]) -> str:
    values = [record.peak_memory_mb for record in done if record.peak_memory_mb]
    return f"{max(values):,.0f} MB" if values else DASH


def _distinct(values: Iterable[str | None]) -> str:
    """The different values, each with its count where there are several."""
    counts = Counter(value for value in values if value)
    if len(counts) < 2:
        return next(iter(counts), DASH)
    return "; ".join(f"{value} ({count} cells)" for value, count in sorted(counts.items()))


def _encoder(record: CellRecord) -> str:
    """The name of the encoder or judge model, its title, and what made its embeddings or answers."""
    title, stored = record.encoder_entry.title, record.encoder_entry.name
    name = f"{record.encoder}: {title}" if title and title != record.encoder else record.encoder
    if stored != record.encoder and stored.startswith(record.encoder.partition("@")[0] + "-"):
        # A folder's model stands under the folder's name.
        name = f"{name}, stored as {stored}"
    origin = record.encoder_fingerprint if isinstance(record, DoneRecord) else None
    return f"{name} ({assignments(origin)})" if origin else name


def _days(record: CellRecord) -> str:
    """The days over which a cell's calls were made."""
    judging = record.judging if isinstance(record, DoneRecord) else None
    days = sorted({day for calls in judging.stages for day in calls.days}) if judging else []
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else DASH


def _counts(records: Sequence[CellRecord], names: Sequence[str]) -> str:
    """Such as "seen users 86, unseen users 87"; a range where splits differ."""
    tables = [record.counts.table() for record in records]
    phrases = []
    for name in names:
        values = [table[name] for table in tables if name in table]
        if values:
            low, high = min(values), max(values)
            phrases.append(f"{name.replace('_', ' ')} {low:,}" + (f" to {high:,}" if high > low else ""))
    return ", ".join(phrases) or DASH


def _place(record: CellRecord) -> str:
    """A cell's split and its further random start."""
    return f"{record.split}" + (f" restart {record.restart}" if record.restart else "")


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


def _splits_and_seeds(records: Sequence[CellRecord]) -> str:
    seeds = {record.split: record.seed for record in records}
    if len({seed - split for split, seed in seeds.items()}) == 1:
        return f"{spans(seeds)}, seeds {spans(seeds.values())}"
    return "; ".join(f"{split}: seed {seed}" for split, seed in sorted(seeds.items()))
