"""Made-up results of a benchmark, and the report's tables of them.

Cells are plain tables that a test may change, and hold no more than it is about; `record_of` makes them whole.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prbench.base.seeds import Rng
from prbench.registry.schema import Style
from prbench.reporting import board_tests
from prbench.reporting.board import build
from prbench.reporting.frames import leaderboard_frame
from prbench.reporting.leaderboard import leaderboard, rich_tables
from prbench.results import Results, record
from prbench.results.record import CellRecord

LOOKS = {
    "reference": ("#000000", "s", "dotted"),
    "bt": ("#0072B2", "o", "solid"),
    "bt-ridge": ("#56B4E9", "v", "dashed"),
    "lore": ("#E69F00", "^", "dashdot"),
    "mrm": ("#D55E00", "D", "solid"),
    "mrm-no-rpo": ("#CC79A7", "P", "dashed"),
    "mrm-no-meta": ("#009E73", "X", "dotted"),
}

ENTRY = {
    "target": "prbench.methods.bt:BradleyTerry",
    "selection": "as its entry asks",
    "style": Style(colour="#999999").model_dump(),
    "family": "",
    "paper": "",
    "summary": "",
    "published": "",
}
ENCODER = {"title": "", "target": "own:Encoder", "licence": "", "homepage": "", "summary": ""}
COUNTS = dict.fromkeys(("seen_users", "unseen_users", "seen_train", "seen_test", "unseen_support", "unseen_test"), 1)
CELL = {"truth": None, "device": "", "versions": {}, "params": {}}
RESULT = {
    "encoder_fingerprint": None,
    "seconds": dict.fromkeys(("fit", "adapt", "score"), 0.0),
    "peak_memory_mb": 0.0,
    "parameters": {"shared": 0, "per_user": 0},
    "fit": {},
}


def record_of(cell: Mapping[str, Any]) -> CellRecord:
    """The record of a cell: what a test does not say of it is filled in, and what is wrong with it is an error."""
    done = RESULT if cell["status"] == "done" else {}
    names = {"name": cell["method"], "title": cell["title"]}
    found = record.read(
        {
            **CELL,
            **done,
            **cell,
            "entry": {**ENTRY, **names, **cell["entry"]},
            "encoder_entry": {**ENCODER, "name": cell["encoder"], **cell.get("encoder_entry", {})},
            "counts": {**COUNTS, **cell.get("counts", {})},
        }
    )
    assert isinstance(found, CellRecord), found
    return found


@dataclass
class Fake:
    """Results in memory, by the schema of the results store."""

    frames: list[pd.DataFrame] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    keys: Any = field(default_factory=lambda: count())
    folder: Path | None = None
    rounding: dict[tuple[str, ...], float] = field(default_factory=dict)

    @property
    def scores(self) -> pd.DataFrame:
        names = ["dataset", "encoder", "method", "selection", "population"]
        columns = ["dataset", "encoder", "method", "selection", "split", "restart", "user", "population", "shots"]
        columns += ["comparison", "margin", "cold_margin"]
        table = pd.concat(self.frames, ignore_index=True) if self.frames else pd.DataFrame(columns=columns)
        return table.astype(dict.fromkeys(names, "category"))

    def results(self) -> Results:
        """What `results.load` would give."""
        return Results(self.scores, [record_of(cell) for cell in self.cells], self.folder, self.rounding)

    def cell(self, method: str, split: int, status: str = "done", **changes: Any) -> dict[str, Any]:
        colour, marker, line = LOOKS.get(method, ("#999999", "o", "solid"))
        cell = {
            "format": 1,
            "key": f"key{next(self.keys)}",
            "dataset": "convarg",
            "encoder": "minilm",
            "method": method,
            "title": method.upper(),
            "split": split,
            "seed": 42,
            "selection": "validation",
            "entry": {"style": {"colour": colour, "marker": marker, "line": line}},
            "params": {"bases": 2},
            "data_fingerprint": "data1",
            "embedding_fingerprint": "emb1",
            "protocol": {"name": "paper", "unit": "group", "test_share": 0.5, "splits": 20},
            "protocol_version": 1,
            "status": status,
        } | changes
        self.cells.append(cell)
        return cell

    def add(
        self,
        method: str,
        split: int,
        accuracies: dict[int, float],
        *,
        tests: int = 10,
        flipped: int = 0,
        seen: int | None = None,
        shots: int = -1,
        restart: int = 0,
        **changes: Any,
    ) -> dict[str, Any]:
        """A done cell: user -> accuracy on `tests` comparisons; the first `seen` users (default half) are seen."""
        half = len(accuracies) // 2 if seen is None else seen
        users, comparisons = np.array(list(accuracies)), np.arange(tests)
        right = comparisons[None, :] < np.round(np.array(list(accuracies.values())) * tests)[:, None]
        margin = np.where(right, 1.0, -1.0)
        cold = np.where(comparisons < flipped, -margin, margin)
        where = {"dataset": "convarg", "encoder": "minilm", "selection": "validation"} | {
            k: v for k, v in changes.items() if k in ("dataset", "encoder", "selection")
        }
        columns = {
            "user": np.repeat(users, tests),
            "population": np.repeat(np.where(np.arange(len(users)) < half, "seen", "unseen"), tests),
            "comparison": (1000 * users[:, None] + comparisons).ravel(),
            "margin": margin.ravel().astype(np.float32),
            "cold_margin": cold.ravel().astype(np.float32),
        }
        self.frames.append(
            pd.DataFrame(columns).assign(**where, method=method, split=split, restart=restart, shots=shots)
        )
        return self.cell(method, split, **({"restart": restart} if restart else {}), **changes)


def population(
    advantages: dict[str, float], *, users: int = 24, splits: int = 8, tests: int = 40, **changes: Any
) -> Fake:
    """Methods with a planted advantage over a common accuracy per user, with noise per split."""
    fake = Fake()
    base = Rng("users").numpy().normal(0.68, 0.08, users)
    for split in range(splits):
        order = Rng("order", split).numpy().permutation(users)
        luck = Rng("luck", split).numpy().normal(0, 0.02, users)
        for method, advantage in advantages.items():
            own = Rng("own", split, method).numpy().normal(advantage, 0.01, users)
            fake.add(
                method,
                split,
                {int(u): float(np.clip(base[u] + luck[u] + own[u], 0, 1)) for u in order},
                tests=tests,
                flipped=2,
                **changes,
            )
    return fake


HEAVY = {"reference": -0.06, "bt": 0.0, "bt-ridge": 0.004, "lore": 0.01, "mrm": 0.05}


def report(fake: Fake, out: Path, *, width: int = 100, **options: Any) -> tuple[str, list[Path]]:
    """What the report prints at a width, and its files."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=False)
    paths = leaderboard(fake.results(), out, console=console, **{"resamples": 200, **options})
    return text.getvalue(), paths


def printed(fake: Fake, *, width: int = 100) -> str:
    """What the report prints."""
    from rich.console import Console

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=False)
    for table in rich_tables([one_board(fake)]):
        console.print(table)
    return text.getvalue()


def written(fake: Fake, writer: Any) -> str:
    """The tables as `writers.markdown` or `writers.latex` writes them."""
    return "\n".join(writer(grid) for grid in board_tests.grids(one_board(fake)))


def one_board(fake: Fake, **options: Any) -> Any:
    boards, _ = build(fake.results(), **{"baseline": "bt", "shots": -1, "alpha": 0.05, "resamples": 200, **options})
    assert len(boards) == 1
    return boards[0]


def frame_of(fake: Fake, **options: Any) -> pd.DataFrame:
    return leaderboard_frame([one_board(fake, **options)]).set_index("method")
