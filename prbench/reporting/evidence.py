"""What the pieces of a report are made from, and what a piece is.

A piece is one table or figure: an entry in a report's file, and a function that reads the evidence and gives
numbers, tables and a picture. Nothing here fits or adapts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from prbench import metrics, probes, registry
from prbench.entries import Record, Target
from prbench.errors import InputError
from prbench.reporting import board as boards
from prbench.reporting.board import ORACLE, Board
from prbench.reporting.published import Published
from prbench.reporting.tables import Grid
from prbench.results import ALL, Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TUNED = "tuned"


class Piece(Record):
    """One table or figure of a report.

    `methods` are entries, in the order shown; `values` those of `parameter` in a sweep, one per method, and `labels`
    name its curves. The rest says which results it needs beside the methods' own: other selections, numbers of
    shots, probes.
    """

    name: str
    target: Target
    title: str
    shows: str
    methods: list[str]
    ours: list[str] = Field(default_factory=list)
    parameter: str = ""
    values: list[float] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)
    selections: list[str] = Field(default_factory=lambda: ["published"])
    shots: list[int] = Field(default_factory=list)
    noise: list[float] = Field(default_factory=list)
    support: bool = False
    transfer: bool = False

    @property
    def function(self) -> Callable[[Evidence, Piece], Made]:
        """What makes it. Raises InputError when the target does not resolve."""
        found: Callable[[Evidence, Piece], Made] = registry.resolve(self.target)
        return found


@dataclass
class Made:
    """A finished piece: its numbers, tables and pictures, and one phrase for everything it lacks."""

    frame: pd.DataFrame
    grids: list[Grid] = field(default_factory=list)
    figure: Figure | None = None
    missing: list[str] = field(default_factory=list)


def read_pieces(tables: Sequence[Any], where: str) -> list[Piece]:
    """The pieces of a report's entry. Raises InputError that names the piece and the key at fault."""
    pieces: list[Piece] = []
    for number, table in enumerate(tables, start=1):
        name = table.get("name", f"number {number}") if isinstance(table, dict) else f"number {number}"
        try:
            piece = Piece.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: piece {name}: {key}: {first['msg'].lower()}") from error
        if piece.values and len(piece.values) != len(piece.methods):
            raise InputError(
                f"{where}: piece {name}: {len(piece.values)} values for {len(piece.methods)} methods",
                hint="give one value per method",
            )
        if any(other.name == piece.name for other in pieces):
            raise InputError(f"{where}: two pieces are called {name!r}")
        for method in (*piece.methods, *piece.ours):
            registry.source("methods", method)
        pieces.append(piece)
    return pieces


@dataclass(eq=False)
class Evidence:
    """The results of a runs folder as pieces read them. `shots` = all the support there is, unless said otherwise."""

    results: Results
    baseline: str
    alpha: float
    resamples: int
    published: Sequence[Published] = ()
    _boards: dict[tuple[Any, ...], Board] = field(default_factory=dict)

    @cached_property
    def settings(self) -> list[tuple[str, str]]:
        """(data set, encoder) of every cell, sorted."""
        return sorted({(cell["dataset"], cell["encoder"]) for cell in self.results.cells})

    @cached_property
    def users(self) -> pd.DataFrame:
        """`metrics.user_metrics` at every number of shots."""
        return metrics.user_metrics(self.results.scores)

    @cached_property
    def per_split(self) -> pd.DataFrame:
        """`metrics.split_metrics` at every number of shots."""
        return metrics.split_metrics(self.users)

    @cached_property
    def probes(self) -> pd.DataFrame:
        """Every probe's scores; see `probes.load`."""
        return probes.load(self.results.folder) if self.results.folder else probes.nothing()

    def board(self, dataset: str, encoder: str, piece: Piece) -> Board:
        """The board of a piece's methods on one data set, with their comparisons."""
        key = (dataset, encoder, *piece.methods, *piece.selections)
        if key not in self._boards:
            cells = [
                cell
                for cell in self.results.cells
                if (cell["dataset"], cell["encoder"]) == (dataset, encoder)
                and cell["method"] in piece.methods
                and self.wanted(cell["selection"], piece)
            ]
            scores = self.results.scores
            names = {cell["method"] for cell in cells}
            here = (scores["dataset"] == dataset) & (scores["encoder"] == encoder) & scores["method"].isin(names)
            rules = {cell["selection"] for cell in cells}
            kept = scores[here & scores["selection"].isin(rules) & (scores["shots"] == ALL)]
            made, _ = boards.build(
                Results(kept, cells),
                baseline=self.baseline,
                shots=ALL,
                alpha=self.alpha,
                resamples=self.resamples,
            )
            self._boards[key] = made[0]
        return self._boards[key]

    @staticmethod
    def wanted(selection: str, piece: Piece) -> bool:
        """Whether a piece shows rows with this selection; `published` is every rule but tuned and test-oracle."""
        return selection in piece.selections or ("published" in piece.selections and selection not in (ORACLE, TUNED))

    def each(self, piece: Piece) -> Iterator[tuple[str, str, Board]]:
        """(data set, encoder, board) wherever one of the piece's methods has results."""
        for dataset, encoder in self.settings:
            done = {
                cell["method"]
                for cell in self.results.cells
                if (cell["dataset"], cell["encoder"]) == (dataset, encoder)
                and cell["status"] == "done"
                and self.wanted(cell["selection"], piece)
            }
            if done & set(piece.methods):
                yield dataset, encoder, self.board(dataset, encoder, piece)

    def lacking(self, piece: Piece) -> list[str]:
        """A phrase for each of the piece's methods without (all) results on a data set, with the reason."""
        said = []
        for dataset, encoder in self.settings:
            cells = [c for c in self.results.cells if (c["dataset"], c["encoder"]) == (dataset, encoder)]
            for method in piece.methods:
                own = [c for c in cells if c["method"] == method and self.wanted(c["selection"], piece)]
                done = [c for c in own if c["status"] == "done"]
                reasons = sorted({f"{c['status']}: {c.get('reason', '')}" for c in own if c["status"] != "done"})
                if not own:
                    said.append(f"{method} on {dataset} ({encoder}): not run")
                elif not done:
                    said.append(f"{method} on {dataset} ({encoder}): {'; '.join(reasons)}")
                elif reasons:
                    said.append(f"{method} on {dataset} ({encoder}): some splits {'; '.join(reasons)}")
        return said

    def style(self, method: str) -> dict[str, str]:
        """Colour, marker and line of a method's entry, as its results recorded them."""
        for cell in self.results.cells:
            if cell["method"] == method:
                return dict(cell["entry"]["style"])
        return registry.get("methods", method).style.model_dump()

    def title(self, method: str) -> str:
        """What a method is called."""
        for cell in self.results.cells:
            if cell["method"] == method:
                return str(cell["title"])
        return registry.get("methods", method).title

    def family(self, method: str) -> str:
        """A method's family: reference, no personalisation, personalised input, personalised parameters."""
        return registry.get("methods", method).family


def needs(pieces: Sequence[Piece]) -> dict[str, Any]:
    """What a run must make for `pieces`: methods by selection, shots, and probes."""
    by_selection: dict[str, list[str]] = {}
    for piece in pieces:
        for selection in piece.selections:
            by_selection.setdefault(selection, []).extend(piece.methods)
    return {
        "methods": {selection: list(dict.fromkeys(names)) for selection, names in by_selection.items()},
        "shots": sorted({k for piece in pieces for k in piece.shots}),
        "noise": sorted({share for piece in pieces for share in piece.noise}),
        "support": any(piece.support for piece in pieces),
        "transfer": any(piece.transfer for piece in pieces),
        "probed": list(dict.fromkeys(m for p in pieces if p.noise or p.support or p.transfer for m in p.methods)),
    }
