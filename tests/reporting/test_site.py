"""The site: every page is there, links lead somewhere, numbers are those of the tables, and it works in a browser."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_results import Fake, population
from scipy.stats import t as student

from prbench.reporting.board import build
from prbench.reporting.site import overview, pairs, site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ADVANTAGES = {"bt": 0.0, "bt-ridge": 0.004, "mrm": 0.05}
NASTY = '<img src=x onerror="alert(1)">'
ENTRY = {
    "family": "personalised parameters",
    "paper": "Somebody 2026",
    "summary": "In a line.",
    "published": "A note.",
}


def world(boards: int = 3, splits: int = 4) -> Fake:
    """Data sets with three methods each, one of them with a hostile title."""
    fake = Fake()
    for number in range(boards):
        own = population(ADVANTAGES, users=12, splits=splits, dataset=f"data-{number}")
        fake.frames += own.frames
        fake.cells += own.cells
    for number, cell in enumerate(fake.cells):
        cell |= {"key": f"key{number}", "entry": {**cell["entry"], **ENTRY}, "command": "prbench run --methods all"}
        cell |= {
            "parameters": {"shared": 1, "per_user": 2},
            "fit": {},
            "seconds": {"fit": 1.0, "adapt": 0.1, "score": 0.1},
        }
        cell |= {"counts": {}, "versions": {}, "device": "cpu"}
        if cell["method"] == "mrm":
            cell["title"] = NASTY
    return fake


def made(fake: Fake, out: Path) -> list[Path]:
    return site(fake.results(), out, resamples=100)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    made(world(), out)
    return out


def test_every_page_is_there_and_every_link_leads_to_one(built: Path) -> None:
    pages = {path.relative_to(built).as_posix() for path in built.rglob("*.html")}
    assert {"index.html", "data/data-0-minilm.html", "methods/bt-ridge.html"} <= pages
    assert len(pages) == 1 + 3 + 3 + 3 + 1
    for name in pages:
        text = (built / name).read_text()
        assert NASTY not in text
        # The scripts of a data set's page hold much that looks like a link.
        links = re.findall(r'href="([^"#:]+)(?:#[^"]*)?"', text.split("<script>\n/**")[0])
        for target in links:
            assert ((built / name).parent / target).is_file(), (name, target)
        for target in re.findall(r'"at":"([^"]+)"', text):
            assert ((built / name).parent / target).is_file(), (name, target)


def test_a_missing_cell_is_shown_as_missing_and_no_mean_over_data_sets_is_there() -> None:
    fake = world()
    fake.cells = [c for c in fake.cells if (c["dataset"], c["method"]) != ("data-1", "mrm")]
    fake.frames = [f for f in fake.frames if (f["dataset"].iloc[0], f["method"].iloc[0]) != ("data-1", "mrm")]
    boards, _ = build(fake.results(), baseline="bt", shots=-1, alpha=0.05, resamples=100)
    found = overview.entries(boards, ("mrm", "validation"))
    assert [entry.missing for entry in found] == ["", "not run", ""]
    # It is ranked on no board then: the others are, on all three.
    ranks = overview.ranks(boards, 0.05)
    assert ranks is not None
    assert [title for title, _ in ranks.rows] == ["BT-RIDGE", "BT"]


def test_ranks_and_their_critical_difference() -> None:
    boards, _ = build(world().results(), baseline="bt", shots=-1, alpha=0.05, resamples=100)
    ranks = overview.ranks(boards, 0.05)
    assert ranks is not None
    assert ranks.rows[0] == (NASTY, 1.0)
    assert sum(rank for _, rank in ranks.rows) == pytest.approx(6)
    # Demšar 2006, table 5a: q = 2.343 for three methods; sqrt(3 * 4 / (6 * 3)) = 0.8165.
    assert ranks.critical == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 3)), abs=2e-3)
    assert overview.ranks(boards[:2], 0.05) is None


def test_the_smallest_difference_is_found_as_often_as_it_says() -> None:
    """Planted differences of the size that is printed are significant in about 80% of draws; a control is not."""
    from prbench.protocol.stats import corrected_t

    rng, ratio, n = np.random.default_rng(0), 1.0, 10
    # Split differences with a common part, as overlapping splits have: variance (1/J + ratio) s^2 of the mean.
    error = math.sqrt(1 / n + ratio)
    smallest = (student.ppf(0.975, n - 1) + student.ppf(0.8, n - 1)) * error

    def share(size: float) -> float:
        draws = size + rng.normal(size=(2000, n)) + math.sqrt(ratio) * rng.normal(size=(2000, 1))
        return float(np.mean([corrected_t(d, ratio).p < 0.05 for d in draws]))

    assert share(smallest) == pytest.approx(0.8, abs=0.05)
    assert share(0.0) == pytest.approx(0.05, abs=0.02)


def test_a_pair_says_the_numbers_of_its_splits_and_users() -> None:
    fake = world(1)
    boards, users = build(fake.results(), baseline="bt", shots=-1, alpha=0.05, resamples=100)
    found = pairs.meetings(boards, users)
    [meeting] = found[("bt", "validation"), ("mrm", "validation")]
    accuracy = users.groupby(["method", "split"], observed=True)["accuracy"].mean()
    for row, split in zip(meeting.splits.rows, range(4), strict=True):
        a, b = accuracy["bt", split], accuracy["mrm", split]
        assert [cell.text for cell in row[:3]] == [str(split), f"{100 * a:.2f}", f"{100 * b:.2f}"]
    result = meeting.pair.result
    half = (result.interval[1] - result.interval[0]) / 2
    expected = half / student.ppf(0.975, 3) * (student.ppf(0.975, 3) + student.ppf(0.8, 3))
    assert meeting.smallest == pytest.approx(expected)
    assert meeting.better + meeting.worse <= 12 == len(meeting.users.rows)


def test_it_works_from_disk_at_phone_width(built: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    faults: list[Any] = []
    page.on("pageerror", lambda error: faults.append(error))
    page.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    page.goto((built / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.fill("#find", "ridge comparison")
    assert page.locator("#found a").count() == 2
    # The last of them can be reached too.
    page.click("#found a >> nth=1", trial=True)
    page.fill("#find", "bt-ridge method")
    page.press("#find", "Enter")
    page.wait_for_url("**/methods/bt-ridge.html")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#against a")
    page.wait_for_url("**/compare/*.html")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("summary")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.click(".brand a")
    page.wait_for_url("**/index.html")
    page.click("#accuracy a >> nth=0")
    page.wait_for_url("**/data/*.html")
    page.click(".brand a")
    page.wait_for_url("**/index.html")
    page.close()
    assert faults == []
