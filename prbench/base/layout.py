"""Tables on a terminal of any width: no value is ever cut.

Where a table is wider than the terminal, names take more lines or an ellipsis in their middle, then the columns that
matter least are left out, with a line that says which and where they are. Where not even the columns that matter most
fit, each row becomes a block of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prbench.base.screen_text import ELLIPSIS, plain, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text


# The least width of names and of running text; headings are broken between words and then shortened to this.
NAME, PROSE, HEADING = 12, 24, 10
# Running text wider than this is hard to read.
CAPTION = 120


@dataclass(frozen=True)
class Sheet:
    """A table for a terminal, laid out at the width it is printed at.

    The first column holds names; `whole` says that they are never shortened, since a person types them. `prose` are
    columns whose text may be broken between words, `right` those that stand to the right. `rules` are rows with a
    line above them. `order` lists columns, the most important first (default: from left to right), of which `needed`
    must fit beside the names, else each row is a block. `elsewhere` is where all stands when columns are left out.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    title: str = ""
    caption: str = ""
    prose: frozenset[int] = frozenset()
    right: frozenset[int] = frozenset()
    rules: frozenset[int] = frozenset()
    order: Sequence[int] = ()
    needed: int = 1
    whole: bool = False
    headed: bool = True
    elsewhere: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The parts that rich prints."""
        from rich.text import Text

        cells = [[_text(cell, options.ascii_only) for cell in row] for row in self.rows]
        heads = [_text(name, options.ascii_only) for name in self.header]
        if not heads:
            return
        width = options.max_width
        if self.title:
            yield Text(_text(self.title, options.ascii_only).plain, style="table.title")
        least = [self._least(i, heads, cells) for i in range(len(heads))]
        shown = self._fitting(least, width)
        if shown is None:
            yield from self._blocks(heads, cells, width)
        else:
            yield self._table(heads, cells, {i: least[i] for i in shown}, width)
            if missing := [heads[i].plain for i in range(len(heads)) if i not in shown]:
                where = f"; {self.elsewhere} has them" if self.elsewhere else ""
                left_out = f"Left out at {width} columns: {', '.join(missing)}{where}."
                yield from _paragraph(left_out, width, "bold")
        if self.caption:
            yield from _paragraph(_text(self.caption, options.ascii_only).plain, min(width, CAPTION))
        if self.title:
            yield Text()

    def _fitting(self, least: list[int], width: int) -> list[int] | None:
        """The columns that fit, in their own order; None where those that are needed do not."""
        order = [i for i in (self.order or range(1, len(least))) if i]
        order += [i for i in range(1, len(least)) if i not in order]
        kept = [0]
        for i in order:
            if sum(least[j] for j in (*kept, i)) + len(kept) <= width:
                kept.append(i)
        return sorted(kept) if set(order[: self.needed]) <= set(kept) else None

    def _least(self, column: int, heads: list[Text], cells: list[list[Text]]) -> int:
        """The least width at which the column can be read."""
        texts = [row[column].plain for row in cells]
        longest = max((_width(line) for text in texts for line in text.split("\n")), default=0)
        head = 0
        if self.headed:
            words = max((_width(word) for word in heads[column].plain.split()), default=0)
            head = min(words, max(HEADING, longest))
        if column == 0 and not self.whole:
            return max(head, self._least_for_names(texts, longest))
        if column in self.prose:
            return max(head, min(longest, PROSE))
        return max(head, longest)

    def _least_for_names(self, names: list[str], longest: int) -> int:
        """The least width, from `NAME`, at which names that differ look different."""
        different = set(names)
        for width in range(min(NAME, longest), longest):
            if len({_name(name, width) for name in different}) == len(different):
                return width
        return longest

    def _table(
        self, heads: list[Text], cells: list[list[Text]], widths: dict[int, int], width: int
    ) -> RenderableType:
        """The columns of `widths`, which are the least ones, with what the terminal has to spare."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = list(widths)
        # Two spaces between columns where there is room for them, one elsewhere.
        gap = 2 if sum(widths.values()) + 2 * (len(shown) - 1) <= width else 1
        spare = width - sum(widths.values()) - gap * (len(shown) - 1)
        # Names first become whole, then headings, then running text takes fewer lines.
        for i in [0, *(i for i in shown if i not in self.prose), *(i for i in shown if i in self.prose)]:
            texts = [row[i].plain for row in cells] + [heads[i].plain] * (self.headed and i in self.prose)
            wish = max((_width(line) for text in texts for line in text.split("\n")), default=0)
            more = max(0, min(spare, wish - widths[i]))
            widths[i], spare = widths[i] + more, spare - more
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False, show_header=self.headed
        )
        for i in shown:
            table.add_column(
                Text("\n".join(_lines(heads[i].plain, widths[i]))),
                justify="right" if i in self.right else "left",
                width=widths[i],
                no_wrap=i != 0 and i not in self.prose,
                overflow="fold",
                vertical="top",
            )
        for number, row in enumerate(cells):
            line = [row[i] for i in shown]
            if not self.whole:
                line[0] = _styled_as(row[0], "\n".join(_lines(row[0].plain, widths[0])))
            table.add_row(*line, end_section=number + 1 in self.rules)
        return table

    def _blocks(self, heads: list[Text], cells: list[list[Text]], width: int) -> Iterable[RenderableType]:
        """A row as its name and a line for each of its values."""
        from rich.padding import Padding
        from rich.text import Text

        for row in cells:
            yield Text(row[0].plain, style="bold", overflow="fold")
            for head, value in zip(heads[1:], row[1:], strict=True):
                if not value.plain:
                    continue
                if not self.headed or not head.plain:
                    yield Padding(_folding(value), (0, 0, 0, 2), expand=False)
                elif _width(head.plain) + 2 + _width(value.plain) + 2 <= width:
                    yield Padding(
                        Text(f"{head.plain}  ", "dim", end="").append_text(value), (0, 0, 0, 2), expand=False
                    )
                else:
                    yield Padding(Text(head.plain, "dim"), (0, 0, 0, 2), expand=False)
                    yield Padding(_folding(value), (0, 0, 0, 4), expand=False)


def prose_columns(rows: Sequence[Sequence[str]]) -> frozenset[int]:
    """The columns that hold running text: some cell has spaces and is longer than a name."""
    return frozenset(
        i for row in rows for i, text in enumerate(row) if len(text) > PROSE and (" " in text or "\n" in text)
    )


def _paragraph(text: str, width: int, style: str = "table.caption") -> Iterable[Text]:
    from rich.text import Text

    for line in _words(text, width, cut=False):
        yield Text(line, style=style, overflow="fold")


def _folding(text: Text) -> Text:
    folding = text.copy()
    folding.overflow, folding.no_wrap = "fold", False
    return folding


def _text(cell: str | Text, ascii_only: bool) -> Text:
    from rich.text import Text

    text = cell if isinstance(cell, Text) else Text(cell)
    spelled = plain(visible(text.plain)) if ascii_only else visible(text.plain)
    return _styled_as(text, spelled)


def _styled_as(text: Text, spelled: str) -> Text:
    """Another spelling in the same style; marks that have their own keep it where the spelling is the same."""
    from rich.text import Text

    return text if spelled == text.plain else Text(spelled, style=text.style)


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _name(text: str, width: int) -> str:
    return "\n".join(_lines(text, width))


def _lines(text: str, width: int) -> list[str]:
    """A name or a heading in lines of a width, broken between words, its longer words shortened in the middle."""
    return [line for part in text.split("\n") for line in _words(part, width, cut=True)] or [""]


def _words(text: str, width: int, *, cut: bool) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        spelled = _middle(word, width) if cut else word
        if lines and _width(lines[-1]) + 1 + _width(spelled) <= width:
            lines[-1] += f" {spelled}"
        else:
            lines.append(spelled)
    return lines


def _middle(word: str, width: int) -> str:
    """A word in at most `width` cells of the screen: its start, an ellipsis and its end."""
    if _width(word) <= width:
        return word
    for letters in range(len(word) - 1, 1, -1):
        start, end = (letters + 1) // 2, letters // 2
        spelled = word[:start] + ELLIPSIS + word[len(word) - end :]
        if _width(spelled) <= width:
            return spelled
    return ELLIPSIS
