"""The paper's evaluation from stored results: `prbench report paper --runs runs --out out`.

Which tables and figures there are is data (reports/paper.toml); what each is made by is a function of the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from prbench import stats
from prbench.console import progress, stderr
from prbench.errors import InputError
from prbench.files import write_text, writing
from prbench.reporting import published as numbers
from prbench.reporting import tables
from prbench.reporting.checks import refuse_mixtures
from prbench.reporting.evidence import Evidence, Made, Piece, read_pieces
from prbench.reporting.figures import METADATA

if TYPE_CHECKING:
    from prbench.results import Results

WHERE = "reports/paper.toml"


def paper(
    results: Results,
    out: Path,
    *,
    pieces: Sequence[Any],
    baseline: str = "bt",
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
    published: Sequence[str] = (),
) -> list[Path]:
    """Write every piece as CSV and, where it has them, Markdown, LaTeX, PNG and PDF; returns the paths.

    index.md says what each file shows and what it lacks. A piece without any results is named there and not drawn.
    Raises InputError for malformed pieces and where results that do not belong together would share a table.
    """
    read = read_pieces(pieces, WHERE)
    by_setting: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in results.cells:
        by_setting.setdefault((cell["dataset"], cell["encoder"]), []).append(cell)
    for cells in by_setting.values():
        refuse_mixtures(cells)
    evidence = Evidence(results, baseline, alpha, resamples, [numbers.load(name) for name in published])
    paths: list[Path] = []
    lines = [f"# {len(read)} tables and figures of {_named(by_setting)}", ""]
    with progress() as display:
        task = display.add_task("drawing", total=len(read))
        for piece in read:
            display.update(task, description=escape(piece.name))
            made = piece.function(evidence, piece)
            written = write_piece(made, piece, out)
            paths += written
            lines += index_lines(piece, made, written)
            display.advance(task)
    lines += notes_on_published(evidence.published)
    write_text(out / "index.md", "\n".join(lines) + "\n")
    empty = sum(line.startswith("Not made") for line in lines)
    if empty:
        stderr().print(f"{empty} of {len(read)} pieces have no results yet; index.md says what each needs")
    return [*paths, out / "index.md"]


def _named(settings: dict[tuple[str, str], Any]) -> str:
    if not settings:
        raise InputError("there are no results to report", hint="make some with `prbench run --report paper`")
    return ", ".join(f"{dataset} ({encoder})" for dataset, encoder in sorted(settings))


def write_piece(made: Made, piece: Piece, out: Path) -> list[Path]:
    """Write one piece's files; none where it has no numbers."""
    if not len(made.frame):
        return []
    stem = out / piece.name
    paths = [stem.with_suffix(".csv")]
    with writing(paths[0]) as temporary:
        made.frame.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
    if made.grids:
        for suffix, writer in ((".md", tables.markdown), (".tex", tables.latex)):
            path = stem.with_suffix(suffix)
            write_text(path, "\n".join(writer(grid) for grid in made.grids))
            paths.append(path)
    if made.figure is not None:
        for kind in ("png", "pdf"):
            path = stem.with_suffix(f".{kind}")
            with writing(path) as temporary:
                made.figure.savefig(temporary, format=kind, dpi=200, metadata=METADATA[kind])
            paths.append(path)
    return paths


def index_lines(piece: Piece, made: Made, written: Sequence[Path]) -> list[str]:
    """A piece's section of index.md."""
    files = ", ".join(f"[{path.name}]({path.name})" for path in written)
    said = [f"## {piece.title}", "", piece.shows, ""]
    said += [f"Files: {files}" if files else "Not made: none of its results are there.", ""]
    if made.figure is not None and written:
        said += [f"![{piece.title}]({piece.name}.png)", ""]
    if made.missing:
        said += ["Missing:", "", *(f"- {phrase}" for phrase in made.missing), ""]
    return said


def notes_on_published(papers: Sequence[numbers.Published]) -> list[str]:
    """What is to be known of the printed numbers, with the tables' inner contradictions."""
    said = ["## The published numbers", ""]
    said += ["They stand beside ours only on their own data sets and encoders: nothing else compares with them.", ""]
    for found in papers:
        said += [f"{found.title} ({found.source}):", ""]
        said += [f"- {note}" for note in found.notes]
        said += [f"- Cannot be: {wrong}." for wrong in numbers.contradictions(found)]
        said.append("")
    return said
