"""A static site of a leaderboard: `prbench report site --runs runs --out site`.

    site/index.html                 every method on every data set, ranks, and what was submitted or kept apart
    site/data/<board>.html          one data set and encoder: the leaderboard's page
    site/methods/<method>.html      one method: paper, recipe, cost, results, and how to make them again
    site/compare/<a>--<b>.html      two methods: every split and user, the test, and what it could show
    site/claims.html                published claims, and what these results say of them

It works from disk without a network; every page lists all others for its search box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.files import write_text
from prbench.protocol import metrics, stats
from prbench.registry import marks
from prbench.reporting import merging, submitted, verdict
from prbench.reporting.board import Board
from prbench.reporting.comparing import compare
from prbench.reporting.page import _slug, cards, write_page
from prbench.reporting.placing import PlacedResults
from prbench.reporting.site import claims as published
from prbench.reporting.site import overview, pairs
from prbench.reporting.site.pages import Link, render
from prbench.results import Results

if TYPE_CHECKING:
    import pandas as pd

CLAIMS = "claims.html"


@marks.report
def site(
    results: Results,
    out: Path,
    *,
    baseline: str = "bt",
    methods: str = "",
    shots: int = metrics.ALL_SHOTS,
    alpha: float = 0.05,
    resamples: int = stats.RESAMPLES,
) -> list[Path]:
    """Write the site's pages below `out`; returns their paths, the first page first.

    Options as those of the leaderboard. Raises InputError as `prbench.reporting.leaderboard.leaderboard`.
    """
    claims = published.examined(published.registered(), results)
    standing, boards, users = compare(
        results, baseline=baseline, methods=methods, shots=shots, alpha=alpha, resamples=resamples
    )
    options = {"baseline": baseline, "shots": shots, "alpha": alpha, "resamples": resamples}
    return _Pages(standing, boards, users, claims, out, options).write()


class _Pages:
    """The pages of one site, which know one another's addresses."""

    def __init__(
        self,
        results: PlacedResults,
        boards: Sequence[Board],
        users: pd.DataFrame,
        claims: Sequence[published.ExaminedClaim],
        out: Path,
        options: Mapping[str, Any],
    ) -> None:
        self.results, self.boards, self.users, self.out, self.options = results, boards, users, out, options
        self.claims = claims
        self.cards = cards.cards(boards, results)
        self.meetings = pairs.meetings(boards, users)
        self.titles = {row.key: row.title for board in boards for row in board.rows}
        self.links: list[Link] = [
            {"at": CLAIMS, "title": "Published claims", "kind": "claims"},
            *({"at": _data(b), "title": f"{b.dataset} ({b.encoder})", "kind": "data set"} for b in boards),
            *({"at": _method(card.method), "title": card.title, "kind": "method"} for card in self.cards),
            *(
                {"at": _compare(a, b), "title": f"{self.titles[a]} and {self.titles[b]}", "kind": "comparison"}
                for a, b in self.meetings
            ),
        ]

    def write(self) -> list[Path]:
        """Write all pages and return their paths."""
        paths = [self._page("index.html", "overview.html.j2", **self._overview())]
        for board in self.boards:
            users, results = self._of(board)
            title = f"{board.dataset} ({board.encoder})"
            path = self.out / _data(board)
            paths.append(
                write_page(path, [board], users, results, options=self.options, title=title, home="../index.html")
            )
        for card in self.cards:
            paths.append(self._page(_method(card.method), "method.html.j2", **self._method_page(card)))
        for (a, b), meetings in self.meetings.items():
            title = f"{self.titles[a]} and {self.titles[b]}"
            paths.append(
                self._page(
                    _compare(a, b), "pair.html.j2", title=title, meetings=meetings, summary=pairs.summary(meetings)
                )
            )
        path = self.out / CLAIMS
        write_text(path, published.page(self.claims, self.links))
        return [*paths, path]

    def _page(self, name: str, template: str, **values: Any) -> Path:
        path = self.out / name
        write_text(path, render(template, "../" * name.count("/"), self.links, **values))
        return path

    def _of(self, board: Board) -> tuple[pd.DataFrame, PlacedResults]:
        """The users and results of one board."""

        def of_board(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[(frame["dataset"] == board.dataset) & (frame["encoder"] == board.encoder)]

        cells = [cell for cell in self.results.cells if cell.board == (board.dataset, board.encoder)]
        return of_board(self.users), PlacedResults(of_board(self.results.scores), cells, self.results.folder)

    def _overview(self) -> dict[str, Any]:
        rows = [
            {
                "title": self.titles[key],
                "at": _method(key[0]),
                "fields": overview.entries(self.boards, key),
            }
            for key in overview.names(self.boards)
        ]
        return {
            "title": "Leaderboards",
            "boards": [
                {"board": board, "at": _data(board), "said": " ".join(verdict.sentences(board))}
                for board in self.boards
            ],
            "rows": rows,
            "ranks": overview.ranks(self.boards, self.options["alpha"]),
            "claims": self.claims,
            "claims_at": CLAIMS,
            "least": overview.LEAST_BOARDS,
            "extras": [*submitted.grids(self.results), *merging.grids(self.results)],
            "options": self.options,
        }

    def _method_page(self, card: cards.Card) -> dict[str, Any]:
        records = [cell.record for cell in self.results.cells if cell.method == card.method]
        commands = sorted({record.command for record in records if record.command})
        against = [
            {"at": f"../{_compare(*key)}", "title": self.titles[key[1] if key[0][0] == card.method else key[0]]}
            for key in self.meetings
            if card.method in (key[0][0], key[1][0])
        ]
        return {"title": card.title, "card": card, "commands": commands, "against": against}


def _data(board: Board) -> str:
    return f"data/{_slug(f'{board.dataset}-{board.encoder}')}.html"


def _method(method: str) -> str:
    return f"methods/{_slug(method)}.html"


def _compare(a: tuple[str, str], b: tuple[str, str]) -> str:
    return f"compare/{_slug('-'.join(a))}--{_slug('-'.join(b))}.html"
