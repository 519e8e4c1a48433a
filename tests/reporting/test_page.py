"""The page: what it says, that it is whole in one file, and that it works in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_results import Fake, population, record_of

from prbench import registry
from prbench.protocol import metrics
from prbench.reporting import looks
from prbench.reporting.board import build
from prbench.reporting.board_grids import accuracy_grid
from prbench.reporting.grid import percent
from prbench.reporting.page import Extra, cards, chart_data, render, write_page
from prbench.reporting.page import table as pagetable
from prbench.reporting.placing import placed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NASTY = '<img src=x onerror="alert(1)"> & </script><b>bold</b>'
FAMILIES = {"reference": "reference", "bt": "no personalisation", "bt-ridge": "no personalisation"}
ADVANTAGES = {"reference": -0.06, "bt": 0.0, "bt-ridge": 0.004, "lore": 0.01, "mrm": 0.05}
OPTIONS = {"baseline": "bt", "shots": -1, "alpha": 0.05, "resamples": 200}


def entries(fake: Fake) -> Fake:
    """Give every cell what a real record has besides."""
    for cell in fake.cells:
        method = cell["method"]
        cell["entry"] = {
            **cell["entry"],
            "family": FAMILIES.get(method, "personalised parameters"),
            "paper": f"Paper of {method} 2026",
            "summary": f"Summary of {method}.",
            "published": f"Known deviations of {method}.",
        }
        if cell["status"] == "done":
            cell["parameters"] = {"shared": 768, "per_user": 0 if method in FAMILIES else 5}
            cell["fit"] = {"rule": "validation", "chosen": 10 + cell["split"]}
            cell["seconds"] = {"fit": 1.5, "adapt": 0.02, "score": 0.001}
            cell["command"] = "prbench run --methods all"
        cell["seed"] = 42 + cell["split"]
        cell["counts"] = {"seen_users": 12, "unseen_users": 12}
        cell["versions"] = {"prbench": "0.1.0", "torch": "2.13.0"}
        cell["device"] = "cpu, 1 threads"
    return fake


def everything() -> Fake:
    """Two data sets; missing, partial and test-oracle rows; few shots; bounds; a hostile title."""
    truth = {p: {"ceiling": 0.9, "floor": 0.7} for p in ("seen", "unseen", "overall")}
    fake = population(ADVANTAGES, splits=4, truth=truth)
    for more in (
        population({"bt": 0.0, "mrm": 0.03}, splits=3, dataset="crowdrag"),
        population({"mrm": 0.09}, splits=4, selection="test-oracle", truth=truth),
        population({"lore-early": 0.02}, splits=2, truth=truth),
    ):
        fake.frames += more.frames
        fake.cells += more.cells
    fake.frames += population({m: ADVANTAGES[m] / 2 for m in ("bt", "mrm")}, splits=4, shots=5).frames
    for split in range(4):
        fake.cell("pal", split, "skipped", reason="the encoder has no prompts", truth=truth)
    for cell in fake.cells:
        if cell["method"] == "bt-ridge":
            cell["title"] = NASTY
    return entries(fake)


def page_of(fake: Fake) -> str:
    boards, users = boards_of(fake)
    return render(boards, users, fake.results(), options=OPTIONS)


def boards_of(fake: Fake) -> tuple[list[Any], Any]:
    return build(fake.results(), **OPTIONS)


@pytest.fixture(scope="module")
def fake() -> Fake:
    """Results in memory that have everything."""
    return everything()


@pytest.fixture(scope="module")
def built(fake: Fake) -> tuple[list[Any], Any]:
    """Their boards and users."""
    return boards_of(fake)


@pytest.fixture(scope="module")
def board(built: tuple[list[Any], Any]) -> Any:
    """The board that has everything."""
    return built[0][0]


@pytest.fixture(scope="module")
def page_file(fake: Fake, built: tuple[list[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their page."""
    boards, users = built
    path = tmp_path_factory.mktemp("page") / "index.html"
    return write_page(path, boards, users, fake.results(), options=OPTIONS)


# The page as text.


class Links(HTMLParser):
    """Every place that a document loads something from or points to, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif tag == "a" and name == "href":
                self.anchors.append(value or "")
            elif name in ("src", "href", "data", "poster", "action"):
                self.loaded.append(value or "")


def test_the_page_loads_nothing_and_its_links_lead_somewhere(page_file: Path) -> None:
    links = Links()
    links.feed(page_file.read_text(encoding="utf-8"))
    assert {place for place in links.loaded if not place.startswith("data:")} == set()
    assert len(links.ids) == len(set(links.ids)), "an id twice"
    assert {a.removeprefix("#") for a in links.anchors} <= set(links.ids)
    assert all(a.startswith("#") for a in links.anchors)
    assert links.tags.count("img") == 0, "a title became an element"


def test_titles_and_notes_are_text(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=" in text
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert len(data) == 2
    assert any(row["title"] == NASTY for board in map(json.loads, data) for row in board["rows"])


def test_equal_results_give_equal_bytes_in_any_order() -> None:
    fake = everything()
    first = page_of(fake)
    fake.frames.reverse()
    fake.cells.reverse()
    assert page_of(fake) == first


def test_the_page_says_where_its_numbers_come_from(page_file: Path, fake: Fake) -> None:
    text = page_file.read_text(encoding="utf-8")
    for said in ("data1", "emb1", "0–3, seeds 42–45", "prbench = 0.1.0, torch = 2.13.0", "cpu, 1 threads",
                 "prbench run --methods all", "shots = all there are", "resamples = 200"):  # fmt: skip
        assert said in text, said
    assert all(cell["key"] in text for cell in fake.cells)
    for said in ("Known deviations of mrm.", "Paper of lore 2026", "Summary of bt.", "11.5 (10 to 13)"):
        assert said in text, said


def test_nothing_done_still_gives_a_page() -> None:
    fake = Fake()
    fake.cell("bt", 0, "failed", reason="out of memory")
    text = page_of(fake)
    assert "failed: out of memory" in text
    assert 'class="plot"' not in text.partition("<main")[2].partition("<script")[0]


def test_a_report_can_add_tables_and_pictures(fake: Fake, built: tuple[list[Any], Any], tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    Figure().savefig(tmp_path / "a.png")
    boards, users = built
    grid = accuracy_grid(boards[0])
    extra = Extra("Table 1 & more", text="As in <the> paper.", grid=grid, picture=tmp_path / "a.png")
    text = render(boards, users, fake.results(), options=OPTIONS, extras=[extra])
    section = text[text.index('<section id="x-table-1---more"') :]
    section = section[: section.index("</section>")]
    assert "As in &lt;the&gt; paper." in section
    assert '<img src="data:image/png;base64,iVBOR' in section
    assert boards[0].rows[0].title in section


# The numbers behind it.


def test_chart_numbers_by_hand() -> None:
    fake = Fake()
    for split, better in ((0, 0.1), (1, 0.3)):
        fake.add("bt", split, {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.2})
        fake.add("mrm", split, {1: 0.5, 2: 0.6 + better, 3: 0.7, 4: 0.2 + better}, flipped=1)
    [board], users = boards_of(entries(fake))
    data = chart_data.chart_data(board, users, metrics.worst_k_curves(users), placed(fake.results()))
    mrm, bt = data["rows"]
    assert (mrm["title"], mrm["base"], bt["base"]) == ("MRM", 1, None)
    assert data["users"] == [1, 2, 3, 4]
    assert data["tested"] == {"overall": [2, 2, 2, 2], "seen": [2, 2, 0, 0], "unseen": [0, 0, 2, 2]}
    assert mrm["split"]["overall"] == [55.0, 65.0]
    assert mrm["user"]["overall"] == {"accuracy": [50.0, 80.0, 70.0, 40.0], "gain": [0.0, 20.0, 0.0, 20.0]}
    assert mrm["user"]["seen"]["accuracy"] == [50.0, 80.0, None, None]
    assert mrm["mean"]["overall"]["accuracy"] == 60.0
    assert mrm["mean"]["overall"]["sd"] == pytest.approx(100 * np.std([0.55, 0.65], ddof=1), abs=0.005)
    assert mrm["mean"]["overall"]["flips"] == 10.0
    curve = mrm["curve"]["overall"]
    assert (curve["mean"][0], curve["mean"][99]) == (40.0, 60.0)  # the worst user; all users
    assert curve["difference"][99] == 10.0
    assert curve["difference_sd"][99] == pytest.approx(100 * np.std([0.05, 0.15], ddof=1), abs=0.005)
    assert "difference" not in bt["curve"]["overall"]
    assert mrm["parameters"] == [768, 5]
    assert data["population"] == 24


def test_few_shot_points_start_cold_and_end_with_all() -> None:
    fake = Fake()
    for split in (0, 1):
        fake.add("mrm", split, {1: 0.5, 2: 0.8}, flipped=2)
        fake.frames[-1]["shots"] = -1
        few = Fake()
        few.add("mrm", split, {1: 0.5, 2: 0.6}, shots=5)
        fake.frames += few.frames
    [board], users = boards_of(entries(fake))
    data = chart_data.chart_data(board, users, metrics.worst_k_curves(users), placed(fake.results()))
    points = data["rows"][0]["shots"]
    # User 2 is the unseen one: 8 of 10 right, and the cold start had the first two of them wrong.
    assert [(p["shots"], p["accuracy"]) for p in points] == [("0", 60.0), ("5", 60.0), ("all", 80.0)]


def test_rows_that_are_not_ranked_have_no_curves(fake: Fake, built: tuple[list[Any], Any]) -> None:
    boards, users = built
    data = chart_data.chart_data(boards[0], users, metrics.worst_k_curves(users), placed(fake.results()))
    for row, values in zip(boards[0].rows, data["rows"], strict=True):
        assert (values["curve"] is not None) == row.rankable
        assert (values["parameters"] is not None) == row.rankable
    partial = next(v for r, v in zip(boards[0].rows, data["rows"], strict=True) if r.method == "lore-early")
    assert [v is None for v in partial["split"]["overall"]] == [False, False, True, True]


def test_table_fields_say_what_the_board_says(board: Any) -> None:
    columns = [heading.label for heading in pagetable.headings(board)]
    groups = pagetable.groups(board, {("mrm", "validation"): "personalised parameters"}, {})
    assert [group.title.partition(":")[0] for group in groups] == ["", "Lack results", "Selected on test data"]
    first = groups[0].lines[0]
    named = dict(zip(columns, first.fields, strict=True))
    assert first.row.method == "mrm"
    assert named["Overall"].text == percent(first.row.value("overall"))
    assert (named["Overall"].rank, named["Overall"].marks) == (1, "*†")
    assert named["Δ BT"].value == pytest.approx(board.against_baseline(first.row).result.difference)
    assert named["p"].value == pytest.approx(board.against_baseline(first.row).p_table)
    lines = {line.row.key: dict(zip(columns, line.fields, strict=True)) for group in groups for line in group.lines}
    assert lines["pal", "validation"]["Seen"].missing == "skipped: the encoder has no prompts"
    assert lines["pal", "validation"]["Seen"].value is None
    assert lines["bt", "validation"]["p"].missing == "this is the baseline"
    assert lines["mrm", "test-oracle"]["Δ BT"].missing == "chosen on test data: not compared"
    notes = {line.row.key: line.note for group in groups for line in group.lines}
    assert notes["lore-early", "validation"] == "2 of 4 splits: not run"
    assert notes["mrm", "validation"] == ""
    assert all(len(line.fields) == len(columns) for group in groups for line in group.lines)
    assert all(len(fields) == len(columns) for _, fields in pagetable.bounds(board))


def test_words_for_numbers() -> None:
    assert cards.spans([3, 0, 1, 7, 2]) == "0–3, 7"
    assert cards.of_splits([9, 26, 13]) == "13 (9 to 26)"
    assert cards.of_splits([0.001, 0.001]) == "0.001"
    assert cards.of_splits([]) == "–"
    assert cards.assignments({"a": 2, "b": True, "c": [0.5], "d": "x"}) == "a = 2, b = true, c = [0.5], d = x"


def test_a_colour_changes_without_a_new_run() -> None:
    then = {"colour": "#123456", "marker": "s", "line": "dotted"}
    known, gone = (record_of(Fake().cell(name, 0, entry={"style": then})).entry for name in ("mrm", "gone-since"))
    assert looks.style_of(known) == registry.get("methods", "mrm").style.model_dump() != then
    assert looks.style_of(gone) == then


def test_colours_can_be_seen_on_both_pages() -> None:
    assert looks.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert looks.contrast("#777777", "#777777") == 1
    assert looks.readable("#000000", looks.DARK) == "#ffffff"
    for name in registry.names("methods"):
        style = registry.get("methods", name).style.model_dump()
        shown = looks.look(style, looks.Marker(style["marker"]))
        assert looks.contrast(shown.dark, looks.DARK) >= looks.CONTRAST, name
        assert style["marker"] in looks.SYMBOLS, name
        assert shown.path.startswith("M")


# The page in a browser.


class Log:
    """What a browser page asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[tuple[Page, Log]]:
    """One tab for all tests: to open a tab costs more than to load the page."""
    context = browser.new_context()
    context.set_default_timeout(10_000)
    page = context.new_page()
    yield page, Log(page)
    context.close()


@pytest.fixture
def opened(tab: tuple[Page, Log], page_file: Path) -> Iterator[Page]:
    """The page, opened afresh; after the test nothing was asked for but the file, and nothing complained."""
    page, log = tab
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="screen", color_scheme="light")
    log.requests.clear()
    log.complaints.clear()
    page.goto("about:blank")
    page.goto(page_file.as_uri())
    yield page
    page.evaluate("localStorage.clear()")
    asked = {url for url in log.requests if not url.startswith(("data:", "blob:", "about:"))}
    assert asked == {page_file.as_uri()}
    assert log.complaints == []


TABLE = "#t-convarg-minilm"
FIGURES = "#convarg-minilm .figures"


def names(page: Page, group: int = 0) -> list[str]:
    """The visible methods of a group of the first table, in order."""
    rows = page.locator(f"{TABLE} tbody:nth-of-type({group + 1}) tr:not(.group):visible .name")
    return [text.strip() for text in rows.all_inner_texts()]


def head(page: Page, label: str) -> Any:
    return page.locator(f"{TABLE} thead th").filter(has=page.get_by_role("button", name=label, exact=True))


def plot(page: Page, kind: str) -> Any:
    """A figure, scrolled into view and drawn."""
    found = page.locator(f"{FIGURES} .chart[data-kind={kind}] .plot")
    found.scroll_into_view_if_needed()
    found.locator(".main-svg").first.wait_for()
    return found


def traces(page: Page, kind: str) -> dict[str, list[float]]:
    """The named traces that a figure draws: name -> y."""
    drawn = plot(page, kind).evaluate("p => p.data.map(t => [t.name ?? '', Array.from(t.y)])")
    return {name: y for name, y in drawn if name}


def test_sorting(opened: Page, board: Any) -> None:
    initial = names(opened)
    assert initial == [row.title for row in board.rows if row.rankable]
    assert head(opened, "Overall").get_attribute("aria-sort") == "descending"
    head(opened, "Cold start").get_by_role("button").click()
    by_cold = sorted((r for r in board.rows if r.rankable), key=lambda r: -r.value("overall", "cold_start"))
    assert names(opened) == [row.title for row in by_cold]
    assert head(opened, "Cold start").get_attribute("aria-sort") == "descending"
    assert head(opened, "Overall").get_attribute("aria-sort") is None
    head(opened, "Cold start").get_by_role("button").click()
    assert names(opened) == [row.title for row in reversed(by_cold)]
    head(opened, "p").get_by_role("button").click()
    assert head(opened, "p").get_attribute("aria-sort") == "ascending"
    assert names(opened)[-1] == "BT", "what has no value is last, in both orders"
    head(opened, "p").get_by_role("button").click()
    assert names(opened)[-1] == "BT"
    assert names(opened, 2) == ["MRM (selected on test data)"], "never among the ranked"
    opened.get_by_role("button", name="Reset").first.click()
    assert names(opened) == initial


def test_sorting_by_keyboard(opened: Page) -> None:
    before = names(opened)
    head(opened, "Method").get_by_role("button").focus()
    opened.keyboard.press("Enter")
    assert head(opened, "Method").get_attribute("aria-sort") == "ascending"
    assert names(opened) == sorted(before, key=str.lower)
    opened.keyboard.press("Space")
    assert head(opened, "Method").get_attribute("aria-sort") == "descending"
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.closest('th').innerText").strip() == "Seen"


def test_filtering(opened: Page) -> None:
    from playwright.sync_api import expect

    form = opened.locator("form[data-table=t-convarg-minilm]")
    assert form.locator("output").inner_text() == "8 of 8 methods"
    form.get_by_label("Filter").fill("mrm")
    assert names(opened) == ["MRM"]
    assert names(opened, 2) == ["MRM (selected on test data)"]
    assert form.locator("output").inner_text() == "2 of 8 methods"
    form.get_by_label("Filter").fill("PAPER of LORE")
    assert names(opened) == ["LORE"]
    form.get_by_label("Filter").fill("")
    form.get_by_label("Family").select_option("no personalisation")
    assert set(names(opened)) == {"BT", NASTY}
    form.get_by_label("Filter").fill("nowhere")
    assert opened.get_by_text("No method matches the filter.").first.is_visible()
    form.get_by_role("button", name="Reset").click()
    expect(form.locator("output")).to_have_text("8 of 8 methods")
    assert opened.get_by_text("No method matches the filter.").first.is_hidden()


def test_missing_cells_are_shown_with_their_reason(opened: Page) -> None:
    row = opened.locator(f"{TABLE} tr").filter(has_text="PAL")
    assert "0 of 4 splits: skipped: the encoder has no prompts" in row.inner_text()
    cells = row.locator("td .missing")
    assert cells.count() == row.locator("td").count() == 12
    assert all(text.startswith("–") for text in cells.all_inner_texts())
    partial = opened.locator(f"{TABLE} tr").filter(has_text="LORE-EARLY")
    assert "2 of 4 splits: not run" in partial.inner_text()
    assert (
        opened.locator("#findings")
        .get_by_text("PAL has no results (skipped: the encoder has no prompts)")
        .is_visible()
    )


def test_hovering_a_curve_names_the_method(opened: Page) -> None:
    found = plot(opened, "curve")
    at = found.evaluate(
        """p => { const t = p.data.find(t => t.name === 'MRM'), l = p._fullLayout, r = p.getBoundingClientRect();
        return [r.x + l._size.l + l.xaxis.d2p(t.x[59]), r.y + l._size.t + l.yaxis.d2p(t.y[59])]; }"""
    )
    opened.mouse.move(at[0] - 30, at[1] - 30)
    opened.mouse.move(*at, steps=3)
    label = found.locator(".hoverlayer .hovertext")
    label.wait_for()
    said = label.text_content() or ""
    assert "MRM" in said
    assert re.search(r"worst 60%: \d\d\.\d% ± \d\.\d", said)


def test_every_figure_is_drawn(opened: Page, board: Any) -> None:
    ranked = {row.title for row in board.rows if row.rankable}
    for kind in ("curve", "flips", "shots", "parameters", "splits", "users"):
        drawn = {
            name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for name in traces(opened, kind)
        }
        if kind == "shots":
            assert drawn == ranked
        elif kind in ("splits", "users"):
            assert drawn == {row.title for row in board.rows if row.splits}
        else:
            assert drawn == ranked


def test_population_and_difference(opened: Page, board: Any) -> None:
    mrm = next(row for row in board.rows if row.title == "MRM")
    figures = opened.locator(FIGURES)
    assert traces(opened, "curve")["MRM"][-1] == pytest.approx(100 * mrm.value("overall"), abs=0.01)
    figures.get_by_role("radio", name="unseen").check(force=True)
    assert traces(opened, "curve")["MRM"][-1] == pytest.approx(100 * mrm.value("unseen"), abs=0.01)
    figures.get_by_role("radio", name="overall").check(force=True)
    figures.get_by_role("radio", name="difference from BT").check(force=True)
    shown = traces(opened, "curve")
    difference = board.against_baseline(mrm).result.difference
    assert shown["MRM"][-1] == pytest.approx(100 * difference, abs=0.01)
    assert "BT" not in shown
    assert np.mean(traces(opened, "splits")["MRM"]) == pytest.approx(100 * difference, abs=0.02)
    assert traces(opened, "flips")["MRM"] == [pytest.approx(100 * difference, abs=0.02)]


def test_the_legend_hides_and_shows_methods(opened: Page) -> None:
    legend = opened.locator(f"{FIGURES} .legend")
    button = legend.get_by_role("button", name="MRM", exact=True)
    assert legend.get_by_text("Show all").is_hidden()
    assert "MRM" in traces(opened, "curve")
    button.focus()
    opened.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert "MRM" not in traces(opened, "curve")
    legend.get_by_role("button", name="Show all").click()
    assert button.get_attribute("aria-pressed") == "true"
    assert "MRM" in traces(opened, "curve")


def test_one_user(opened: Page, built: tuple[list[Any], Any]) -> None:
    users = built[1]
    here = users[(users["dataset"] == "convarg") & (users["user"] == 7) & (users["selection"] == "validation")]
    mrm = here[here["method"] == "mrm"].set_index("split")["accuracy"]
    gain = mrm - here[here["method"] == "bt"].set_index("split")["accuracy"]
    opened.locator(f"{FIGURES} select.user").select_option("7")
    table = opened.locator(f"{FIGURES} .user-table table")
    cells = table.locator("tr").filter(has_text=re.compile("^MRM(?! \\()")).locator("td").all_inner_texts()
    assert float(cells[0]) == pytest.approx(100 * mrm.mean(), abs=0.051)
    assert float(cells[1].replace("−", "-")) == pytest.approx(100 * gain.mean(), abs=0.051)
    assert "User 7: mean over the 4 of 4 splits" in table.inner_text()


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_light_and_dark(opened: Page) -> None:
    plot(opened, "curve")
    button = opened.get_by_role("button", name="Dark")
    assert background(opened) == "rgb(255, 255, 255)"
    button.click()
    assert background(opened) == "rgb(20, 23, 28)" == f"rgb{tuple(bytes.fromhex(looks.DARK[1:]))}"
    assert button.get_attribute("aria-pressed") == "true"
    line = "p => p.data.find(t => t.name === 'BT').line.color"
    # The registered entry's colour counts, not the one that the results recorded.
    colour = registry.get("methods", "bt").style.colour
    assert plot(opened, "curve").evaluate(line) == looks.readable(colour, looks.DARK)
    opened.reload()
    assert background(opened) == "rgb(20, 23, 28)", "the choice is kept"
    button.click()
    assert background(opened) == "rgb(255, 255, 255)"
    assert plot(opened, "curve").evaluate(line) == colour


def test_the_system_chooses_until_the_reader_does(opened: Page) -> None:
    opened.emulate_media(color_scheme="dark")
    assert background(opened) == "rgb(20, 23, 28)"
    opened.get_by_role("button", name="Dark").click()
    assert background(opened) == "rgb(255, 255, 255)"


# For each table that is shown: whether it is wider than its frame, and whether its caption says so.
SIGNS = """() => new Promise(done => setTimeout(() => done(
  [...document.querySelectorAll('.scroll')].filter(e => e.clientWidth && e.querySelector('caption:not(.sr) span')).map(e => [
    e.scrollWidth > e.clientWidth + 1,
    getComputedStyle(e.querySelector('caption span'), '::after').content.includes('scrolls sideways'),
  ])), 100))"""


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_width_scrolls_sideways(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 844})
    opened.locator(f"{FIGURES} select.user").select_option("7")
    opened.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for kind in ("curve", "users"):
        plot(opened, kind)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    signs = opened.evaluate(SIGNS)
    assert all(said == wider for wider, said in signs), "a table says that it scrolls where it does"
    if width < 400:
        assert any(wider for wider, _ in signs)
        box = opened.locator(".scroll").first
        assert box.evaluate("e => e.scrollWidth > e.clientWidth"), "the table scrolls inside"
        box.focus()
        opened.keyboard.press("ArrowRight")
        # Scrolling may be animated. (`wait_for_function` needs eval, which the page's policy forbids.)
        moved = "e => new Promise(done => { const look = () => e.scrollLeft > 0 ? done(true) : setTimeout(look, 20); look(); })"
        assert box.evaluate(moved)


def test_the_first_tab_leads_to_the_results(opened: Page) -> None:
    opened.keyboard.press("Tab")
    skip = opened.get_by_role("link", name="Skip to the results")
    assert skip.evaluate("e => e === document.activeElement && e.getBoundingClientRect().top >= 0")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"


def test_on_paper_everything_is_open_drawn_and_light(opened: Page) -> None:
    opened.get_by_role("button", name="Dark").click()
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert background(opened) == "rgb(255, 255, 255)"
    assert opened.locator("nav").is_hidden()
    assert opened.locator(".scroll").first.evaluate("e => getComputedStyle(e).overflowX") == "visible"
    assert opened.locator("details:not([open])").count() == 0
    plots = opened.locator(".plot")
    assert plots.count() >= 11
    assert opened.locator(".plot:has(.main-svg)").count() == plots.count()
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details[open]").count() == 0
    pdf = opened.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")


def test_hostile_titles_are_text_in_the_browser(opened: Page) -> None:
    assert NASTY in names(opened)
    traces(opened, "curve")
    assert opened.locator("main img").count() == 0


def test_controls_have_names(opened: Page) -> None:
    unnamed = opened.evaluate(
        """() => [...document.querySelectorAll('main button, main input, main select')].filter(e => e.checkVisibility())
        .filter(e => !(e.innerText || '').trim() && !(e.labels && e.labels.length)).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    assert opened.evaluate("[...document.querySelectorAll('main table')].every(t => t.tHead || t.caption)")
    assert opened.evaluate("document.documentElement.lang") == "en"
