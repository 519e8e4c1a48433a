"""The paper's evaluation from stored results: `prbench report paper --runs runs --out out`.

Which tables and figures there are is data (reports/paper.toml); what each is made by is a function of the evidence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from prbench import registry
from prbench.base.console import progress, stderr
from prbench.base.errors import InputError
from prbench.base.files import write_text, writing
from prbench.protocol import stats
from prbench.registry import marks, targets
from prbench.registry.pieces import Piece, read_pieces
from prbench.reporting import writers
from prbench.reporting.checks import refuse_mixtures
from prbench.reporting.figure import DPI, save_apart, styled
from prbench.reporting.frames import _write_csv, splits_frame
from prbench.reporting.options import require_options, rows_named
from prbench.reporting.own_style import METADATA
from prbench.reporting.paper import printed_numbers as numbers
from prbench.reporting.paper.evidence import Evidence, PieceResult
from prbench.reporting.paper.page import write_paper_page
from prbench.reporting.placing import placed

if TYPE_CHECKING:
    from prbench.results import Results


WHERE = "reports/paper.toml"


@marks.report
def paper(
    results: Results,
    out: Path,
    *,
    pieces: Sequence[Any],
    baseline: str = "bt",
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
    published: Sequence[str] = (),
    also: str = "",
) -> list[Path]:
    """Write every piece as CSV and, where it has them, Markdown, LaTeX, PNG and PDF; returns the paths.

    Each panel of a figure, and its legend, is a PDF of its own too, for papers: without the title inside.

    index.md says what each file shows and what it lacks, and index.html is a page with all of it. A piece without any
    results is named there and not drawn; files that an earlier report left of it are removed.
    `also` names further rows (patterns, comma-separated) for the pieces that compare `baseline` with other methods;
    rows that no piece shows are named on stderr and in index.md.
    Raises InputError for options that cannot be, for malformed pieces and where results that do not belong together
    would share a table; nothing is written then.
    """
    papers = [numbers.load(name) for name in published]
    return write_pieces(results, out, pieces, _file_of(pieces), baseline, alpha, resamples, papers, also=also)


def write_pieces(
    results: Results,
    out: Path,
    pieces: Sequence[Any],
    where: str,
    baseline: str,
    alpha: float,
    resamples: int,
    papers: Sequence[numbers.PaperNumbers] = (),
    title: str = "The paper's evaluation",
    also: str | None = None,
) -> list[Path]:
    """Write the pieces that the report's entry `where` lists, and a page called `title`; see `paper`.

    Rows that no piece shows are named unless `also` is None.
    """
    read = with_methods(read_pieces(pieces, where), rows_named(results, also, "--also") if also else [], baseline)
    standing = placed(results)
    evidence = Evidence(standing, baseline, alpha, resamples, papers, read)
    if not evidence.settings:
        report = Path(where).stem
        raise InputError("there are no results to report", hint=f"make some with `prbench run --report {report}`")
    require_options(standing, baseline=baseline, alpha=alpha, resamples=resamples)
    for cells in evidence.cells.values():
        refuse_mixtures(cells)
    # Whatever is unreadable is refused before anything is written.
    _ = evidence.probes
    with progress() as display:
        task = display.add_task("drawing", total=len(read) + 1)
        drawn: list[PieceResult] = []
        for piece in read:
            display.update(task, description=escape(piece.name))
            drawn.append(targets.resolve(piece.target, "pieces")(evidence, piece))
            display.advance(task)
        # Written when all are made: a piece that fails leaves no half of a report.
        finished = [
            (piece, output, write_piece(output, piece, out)) for piece, output in zip(read, drawn, strict=True)
        ]
        display.update(task, description="index.html")
        pages = write_paper_page(out / "index.html", evidence, finished, title)
    names = ", ".join(f"{dataset} ({encoder})" for dataset, encoder in evidence.settings)
    lines = [f"# {len(read)} tables and figures of {names}", ""]
    for piece, output, written in finished:
        lines += index_lines(piece, output, written)
    shown = {method for piece in read for method in piece.methods}
    if also is not None and (left := sorted({cell.method for cell in standing.cells} - shown)):
        remark = f"in no table or figure: {', '.join(left)}; --also NAME adds methods to those that compare methods"
        stderr().print(escape(remark), soft_wrap=True)
        lines += [f"These results are {remark}.", ""]
    lines += notes_on_published(papers) if papers else []
    write_text(out / "index.md", "\n".join(lines) + "\n")
    if empty := sum(not written for _, _, written in finished):
        stderr().print(f"{empty} of {len(read)} pieces have no results yet; index.md says what each needs")
    per_split = _write_csv(splits_frame(evidence.users), out / "splits.csv")
    return [*(path for _, _, written in finished for path in written), per_split, out / "index.md", *pages]


def _file_of(pieces: Sequence[Any]) -> str:
    """The file of the report's entry that has these pieces, to be named in errors."""
    for name in registry.names("reports"):
        with contextlib.suppress(InputError):
            if registry.get("reports", name).options.get("pieces") == list(pieces):
                return str(registry.source("reports", name))
    return WHERE


def with_methods(pieces: Sequence[Piece], methods: Sequence[str], baseline: str) -> list[Piece]:
    """The pieces, `methods` being added to those that show the baseline beside others and are not sweeps."""
    return [
        piece.model_copy(update={"methods": list(dict.fromkeys([*piece.methods, *methods]))})
        if methods and baseline in piece.methods and not piece.parameter
        else piece
        for piece in pieces
    ]


def write_piece(output: PieceResult, piece: Piece, out: Path) -> list[Path]:
    """Write one piece's files; none where it has no numbers."""
    stem = out / piece.name
    paths = {kind: stem.with_suffix(f".{kind}") for kind in ("csv", "md", "tex", "png", "pdf")}
    written: list[Path] = []
    if len(output.frame):
        with writing(paths["csv"]) as temporary:
            output.frame.to_csv(temporary, index=False, float_format="%.10g", lineterminator="\n")
        written.append(paths["csv"])
        if output.grids:
            for kind, writer in (("md", writers.markdown), ("tex", writers.latex)):
                write_text(paths[kind], "\n".join(writer(grid) for grid in output.grids))
                written.append(paths[kind])
        if output.figure is not None:
            for kind in ("png", "pdf"):
                # In the same style: how many ticks there are depends on it when they are drawn.
                with styled(), writing(paths[kind]) as temporary:
                    output.figure.savefig(temporary, format=kind, dpi=DPI, metadata=METADATA[kind])
                written.append(paths[kind])
            written += save_apart(output.figure, stem)
    # What an earlier report left here would pass for this one's.
    for path in {*paths.values(), *out.glob(f"{piece.name}.*.pdf")} - set(written):
        path.unlink(missing_ok=True)
    return written


def index_lines(piece: Piece, output: PieceResult, written: Sequence[Path]) -> list[str]:
    """A piece's section of index.md."""
    files = ", ".join(f"[{path.name}]({path.name})" for path in written)
    lines = [f"## {piece.title}", "", piece.shows, ""]
    lines += [f"Files: {files}" if files else "Not made: its results are not there.", ""]
    if output.findings and written:
        lines += [*(f"- ({finding.kind}) {finding}" for finding in output.findings), ""]
    if output.figure is not None and written:
        lines += [f"![{piece.title}]({piece.name}.png)", ""]
    if output.missing:
        lines += ["Missing:", "", *(f"- {phrase}" for phrase in output.missing), ""]
    return lines


def notes_on_published(papers: Sequence[numbers.PaperNumbers]) -> list[str]:
    """What is to be known of the printed numbers, with the tables' inner contradictions."""
    lines = ["## The published numbers", ""]
    lines += ["They stand beside ours only on their own data sets and encoders: nothing else compares with them.", ""]
    for published in papers:
        lines += [f"{published.title} ({published.source}):", ""]
        lines += [f"- {note}" for note in published.notes]
        lines += [f"- Cannot be: {wrong}." for wrong in numbers.contradictions(published)]
        lines.append("")
    return lines
