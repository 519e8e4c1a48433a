"""Results in memory for the paper's report: users' accuracies planted by hand, entries as they are registered."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fake_results import record_of

from prbench import registry
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry import targets
from prbench.registry.pieces import Piece
from prbench.reporting.paper.evidence import Evidence, PieceResult
from prbench.reporting.placing import placed
from prbench.results import Results

TEXT = ("dataset", "encoder", "method", "selection", "population")
TESTS = 10


def rows(right: dict[int, float], *, seen: int, margin: float = 1.0, cold: float | None = None) -> pd.DataFrame:
    """Ten test comparisons per user, a share of them right; the first `seen` users are seen.

    `cold` is the share that was right before adaptation; None where nothing changed.
    """
    frames = []
    for place, (user, share) in enumerate(right.items()):
        number = np.arange(TESTS)
        after = np.where(number < round(share * TESTS), margin, -margin)
        before = after if cold is None else np.where(number < round(cold * TESTS), margin, -margin)
        frames.append(
            pd.DataFrame(
                {
                    "population": "seen" if place < seen else "unseen",
                    "user": np.full(TESTS, user, dtype=np.int32),
                    "comparison": 1000 * user + number,
                    "margin": after.astype(np.float32),
                    "cold_margin": before.astype(np.float32),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


@dataclass
class Store:
    """Cells and scores, added one by one, by the schema of the results store."""

    frames: list[pd.DataFrame] = field(default_factory=list)
    probed: list[pd.DataFrame] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    numbers: Any = field(default_factory=count)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def add(
        self,
        method: str,
        right: dict[int, float],
        *,
        split: int = 0,
        dataset: str = "convarg",
        encoder: str = "minilm",
        selection: str | None = None,
        shots: int = ALL_SHOTS,
        seen: int | None = None,
        margin: float = 1.0,
        cold: float | None = None,
        **changes: Any,
    ) -> Store:
        """A finished cell; at other numbers of shots than all only scores."""
        entry = registry.get("methods", method)
        where = {"dataset": dataset, "encoder": encoder, "selection": selection or entry.selection}
        scores = rows(right, seen=len(right) // 2 if seen is None else seen, margin=margin, cold=cold)
        if shots != ALL_SHOTS:
            scores = scores[scores["population"] == "unseen"]
        self.frames.append(scores.assign(**where, method=method, split=split, restart=0, shots=shots))
        if shots == ALL_SHOTS:
            self.cell(method, split=split, **where | changes)
        return self

    def cell(self, method: str, *, split: int = 0, **changes: Any) -> Store:
        """A cell's record alone."""
        entry = registry.get("methods", method)
        self.cells.append(
            {
                "format": 1,
                "key": f"key{next(self.numbers)}",
                "dataset": "convarg",
                "encoder": "minilm",
                "method": method,
                "title": entry.title,
                "split": split,
                "seed": 42 + split,
                "selection": entry.selection,
                "entry": entry.model_dump(),
                "params": {},
                "data_fingerprint": "data1",
                "embedding_fingerprint": "embedding1",
                "protocol": {"name": "paper", "unit": "group", "test_share": 0.5, "splits": 20},
                "protocol_version": 1,
                "status": "done",
            }
            | changes
        )
        return self

    def probe(self, method: str, right: dict[int, float], *, split: int = 0, **what: Any) -> Store:
        """A probe of unseen users: `probe`, `noise` and `on`, and the data set of the fit."""
        entry = registry.get("methods", method)
        where = {"dataset": "convarg", "encoder": "minilm", "method": method, "selection": entry.selection}
        columns = where | {"split": split, "restart": 0, "shots": ALL_SHOTS, "noise": 0.0, "on": ""} | what
        self.probed.append(rows(right, seen=0, cold=columns.pop("cold", None)).assign(**columns))
        return self

    def results(self) -> Results:
        """What `results.load` would give."""
        table = pd.concat(self.frames, ignore_index=True).astype(dict.fromkeys(TEXT, "category"))
        return Results(table, [record_of(cell) for cell in self.cells])

    def evidence(self, *pieces: Piece, **options: Any) -> Evidence:
        """What pieces read."""
        found = Evidence(placed(self.results()), **{"baseline": "bt", "alpha": 0.05, "resamples": 199} | options)
        found.pieces = pieces
        found._tables.update(self.tables)
        if self.probed:
            found.__dict__["probes"] = pd.concat(self.probed, ignore_index=True)
        return found

    def make(self, piece: Piece, **options: Any) -> PieceResult:
        """A piece made from these results."""
        return targets.resolve(piece.target, "pieces")(self.evidence(piece, **options), piece)


def piece(function: str, methods: list[str], **options: Any) -> Piece:
    """A piece made by "curves:sweep" and the like."""
    target = f"prbench.reporting.paper.{function}"
    return Piece(name="planted", target=target, title="Planted", shows="Planted.", methods=methods, **options)


def record(made: PieceResult, **keys: Any) -> dict[str, Any]:
    """The one line of a piece's numbers with these values."""
    frame = made.frame
    for key, value in keys.items():
        frame = frame[frame[key] == value]
    assert len(frame) == 1, frame
    return {str(key): value for key, value in frame.iloc[0].to_dict().items()}


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
