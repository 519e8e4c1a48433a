"""The pieces of a report: the tables and figures that its entry lists."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from prbench import registry
from prbench.base.errors import InputError
from prbench.registry import targets
from prbench.registry.schema import Record, Target


class Piece(Record):
    """One table or figure of a report.

    `methods` are entries, in the order shown, or "all" alone for those of `--methods all`; `values` those of
    `parameter` in a sweep, one per method, and `labels` name its curves. The rest says which results it needs beside
    the methods' own: other selections, numbers of shots, probes.
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
    probes: list[str] = Field(default_factory=list)


def read_pieces(tables: Any, where: str) -> list[Piece]:
    """The pieces of a report's entry.

    Raises InputError that names the piece and the key at fault, also for methods and targets that there are not.
    """
    pieces: list[Piece] = []
    if not isinstance(tables, list):
        raise InputError(f"{where}: pieces is not a list of tables", hint="give each piece as [[options.pieces]]")
    for number, table in enumerate(tables, start=1):
        name = table.get("name", f"number {number}") if isinstance(table, dict) else f"number {number}"
        try:
            piece = Piece.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where}: piece {name}: {key}: {first['msg'].lower()}") from error
        if piece.methods == ["all"]:
            piece = piece.model_copy(update={"methods": registry.select("methods", "all")})
        if not piece.methods:
            raise InputError(f"{where}: piece {name} names no methods")
        if (piece.values or piece.parameter) and len(piece.values) != len(piece.methods):
            raise InputError(
                f"{where}: piece {name}: {len(piece.values)} values for {len(piece.methods)} methods",
                hint="give one value per method",
            )
        if any(other.name == piece.name for other in pieces):
            raise InputError(f"{where}: two pieces are called {name!r}")
        try:
            for method in (*piece.methods, *piece.ours):
                registry.source("methods", method)
            targets.resolve(piece.target, "pieces")
        except InputError as error:
            raise InputError(f"{where}: piece {name}: {error.args[0]}", hint=error.hint) from error
        pieces.append(piece)
    return pieces
