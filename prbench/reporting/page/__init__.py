"""One self-contained HTML page of a leaderboard: no network, no server, equal bytes from equal results."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prbench
from prbench.base.files import write_text
from prbench.protocol import metrics
from prbench.reporting import verdict
from prbench.reporting.board import RANKED, Board
from prbench.reporting.board_grids import marked_for_starts
from prbench.reporting.board_grids import notes as table_notes
from prbench.reporting.board_tests import grids
from prbench.reporting.dictionary import FORMULAS
from prbench.reporting.figure import DPI
from prbench.reporting.grid import Grid
from prbench.reporting.page import cards, chart_data, table
from prbench.reporting.page import findings as sentences
from prbench.reporting.placing import PlacedResults, placed
from prbench.reporting.significance import dagger_note, star_note, starts_rule
from prbench.results.record_parts import MethodPart

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

    from prbench.results import Results


SCRIPTS = ("scroll.js", "table.js", "traces.js", "page.js")


@dataclass(frozen=True)
class Extra:
    """A piece that a report adds to the page: a table, a picture (PNG) or both, with a text.

    Below the text stand its findings; below table and picture further tables (`more`), the picture's numbers folded
    up, and what is to be noted.
    """

    title: str
    text: str = ""
    grid: Grid | None = None
    picture: Path | None = None
    more: Sequence[Grid] = ()
    numbers: Grid | None = None
    notes: Sequence[str] = ()
    findings: Sequence[sentences.Finding] = ()

    @property
    def anchor(self) -> str:
        """The piece's id on the page."""
        return "x-" + _slug(self.title)

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        data = self.picture.read_bytes() if self.picture else b""
        return "data:image/png;base64," + base64.b64encode(data).decode()

    @property
    def width(self) -> int:
        """The picture's width in CSS pixels, at the size it is drawn for."""
        head = self.picture.read_bytes()[:24] if self.picture else bytes(24)
        return round(int.from_bytes(head[16:20], "big") * 96 / DPI)


def write_page(
    path: Path,
    boards: Sequence[Board],
    users: pd.DataFrame,
    results: Results | PlacedResults,
    *,
    options: Mapping[str, Any],
    title: str = "Leaderboard",
    curves: pd.DataFrame | None = None,
    extras: Sequence[Extra] = (),
    home: str = "",
) -> Path:
    """Write `render`'s page to `path` and return it."""
    text = render(boards, users, results, options=options, title=title, curves=curves, extras=extras, home=home)
    write_text(path, text)
    return path


def render(
    boards: Sequence[Board],
    users: pd.DataFrame,
    results: Results | PlacedResults,
    *,
    options: Mapping[str, Any],
    title: str = "Leaderboard",
    curves: pd.DataFrame | None = None,
    extras: Sequence[Extra] = (),
    home: str = "",
) -> str:
    """The page as text.

    `boards` and `users` come from `board.build`; `curves` is `metrics.worst_k_curves(users)`, made where it is not
    given. `options` are named in the provenance: what the report was made with. `home` is the address of a site's
    first page, where this is a page of one.
    """
    from plotly.offline import get_plotlyjs

    results = placed(results)
    if curves is None and len(users):
        curves = metrics.worst_k_curves(users)
    families = _by_row(results, lambda entry: entry.family)
    papers = _by_row(results, lambda entry: entry.paper)
    families_of = {(b.dataset, b.encoder): families.get((b.dataset, b.encoder), {}) for b in boards}
    sections = [
        _section(board, users, curves, results, families_of[board.dataset, board.encoder], papers) for board in boards
    ]
    return _environment().get_template("page.html.j2").render(
        title=title,
        home=home,
        version=prbench.__version__,
        formulas=FORMULAS,
        overview=sentences.overview(boards, families_of),
        sections=sections,
        extras=extras,
        cards=cards.cards(boards, results),
        provenance=[cards.provenance(board, results) for board in boards],
        options=[(name, _option(name, value)) for name, value in options.items()],
        populations=RANKED,
        plotly=get_plotlyjs(),
        scripts=SCRIPTS,
    )  # fmt: skip


def _by_row(
    results: PlacedResults, text_of: Callable[[MethodPart], str]
) -> dict[tuple[str, str], dict[tuple[str, str], str]]:
    """A text of the entries, by (data set, encoder) and row."""
    texts: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for cell in results.cells:
        texts.setdefault(cell.board, {})[cell.row_key] = text_of(cell.record.entry)
    return texts


def _section(
    board: Board,
    users: pd.DataFrame,
    curves: pd.DataFrame | None,
    results: PlacedResults,
    families: dict[tuple[str, str], str],
    papers: Mapping[tuple[str, str], dict[tuple[str, str], str]],
) -> dict[str, Any]:
    """Everything the template needs of one board."""
    chart = None
    if curves is not None and any(row.mean for row in board.rows):
        chart = chart_data.chart_data(board, users, curves, results)
    return {
        "board": board,
        "id": _slug(f"{board.dataset}-{board.encoder}"),
        "verdict": verdict.sentences(board),
        "findings": sentences.findings(board, families),
        "families": sorted({line_family for line_family in families.values() if line_family}),
        "columns": table.headings(board),
        "groups": table.groups(board, families, papers.get((board.dataset, board.encoder), {})),
        "bounds": table.bounds(board),
        "notes": table_notes(board),
        "mark_notes": [
            star_note(board.alpha, "the comparisons of a table"),
            dagger_note(board.alpha),
            *([starts_rule()] if marked_for_starts(board) else []),
        ],
        "looks": chart_data.looks(board),
        # The first is the leaderboard proper, which the page shows in its own way.
        "grids": grids(board)[1:],
        "chart": chart,
        "chart_json": _json(chart),
        "by_split": table.split_table(board, chart) if chart else [],
        "not_drawn": [row.title for row in board.rows if not row.rankable],
        "baseline": next((base.title for base in board.baseline.values() if base), ""),
    }


def _option(name: str, value: Any) -> str:
    return "all there are" if name == "shots" and value == metrics.ALL_SHOTS else str(value)


def _slug(text: str) -> str:
    """Letters, digits and dashes, for ids."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())


def _json(value: Any) -> str:
    """Compact JSON that may stand inside a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("prbench.reporting.page")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def asset(name: str) -> Markup:
        """A file of the templates' folder as it is: CSS and JavaScript are not templates."""
        return Markup(loader.get_source(environment, name)[0])

    environment.globals["asset"] = asset
    environment.filters["slug"] = _slug
    return environment
