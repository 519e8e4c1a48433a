"""Writes a grid for the terminal, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prbench.base.layout import Sheet
from prbench.reporting.grid import DAGGER, STAR, STARTS, Grid, TableCell

if TYPE_CHECKING:
    from rich.text import Text


def rich_table(grid: Grid) -> Sheet:
    """The table as a person reads it in a terminal, of whatever width: see `Sheet`."""
    from rich.text import Text

    def spell(cell: TableCell) -> Text:
        return Text(cell.text, style={1: "bold", 2: "underline"}.get(cell.rank, "")).append(cell.marks, "none")

    places = {name: i for i, name in enumerate(grid.header)}
    return Sheet(
        header=grid.header,
        rows=[[spell(cell) for cell in row] for row in grid.rows],
        title=grid.title,
        caption=" ".join(grid.notes),
        right=frozenset(range(1, len(grid.header))),
        rules=frozenset(grid.rules),
        order=[places[name] for name in grid.first if name in places],
        elsewhere=grid.file,
    )


def markdown(grid: Grid) -> str:
    """The table as GitHub Markdown, with its notes below."""

    def spell(cell: TableCell) -> str:
        text = cell.text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.rank, text)
        return text + cell.marks.replace(STAR, "\\*")

    lines = [[spell(TableCell(name)) for name in grid.header], ["---"] + ["---:"] * (len(grid.header) - 1)]
    lines += [[spell(cell) for cell in row] for row in grid.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## {spell(TableCell(grid.title))}\n\n{body}\n\n{spell(TableCell(' '.join(grid.notes)))}\n"


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$",
    "·": r"$\cdot$", "§": r"\S{}", "Σ": r"$\Sigma$",
    "Δ": r"$\Delta$", "ρ": r"$\rho$", "γ": r"$\gamma$", "σ": r"$\sigma$", "λ": r"$\lambda$", "½": r"$\frac12$",
    "…": r"\dots{}", "’": "'", "“": "``", "”": "''",
    STAR: "$^{*}$", DAGGER: r"$^{\dagger}$", STARTS: r"$^{\ddagger}$",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text with every character that LaTeX would take for a command spelled out."""
    return "".join(LATEX.get(character, character) for character in text)


def latex(grid: Grid) -> str:
    """The table for a paper, as LaTeX with booktabs."""

    def spell(cell: TableCell) -> str:
        text = latex_text(cell.text)
        text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)
        marks = cell.marks.replace(DAGGER, r"\dagger").replace(STARTS, r"\ddagger")
        return text + (f"$^{{{marks}}}$" if marks else "")

    def line(cells: Sequence[TableCell]) -> str:
        # A row that starts with "[" would be read as the optional argument of the line break before it.
        text = " & ".join(spell(cell) for cell in cells)
        return ("{}" + text if text.startswith("[") else text) + r" \\"

    body = []
    for i, row in enumerate(grid.rows):
        body += [r"\midrule"] * (i in grid.rules) + [line(row)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{latex_text(grid.title + '. ' + ' '.join(grid.notes))}}}",
            rf"\label{{{grid.label}}}",
            # Wide tables are made as wide as the text; others keep their size.
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"
            rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"\toprule",
            line([TableCell(name) for name in grid.header]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
