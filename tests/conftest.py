"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trained

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHECKOUT = Path(__file__).resolve().parents[1]

# Before any test module draws a planted population.
trained.move(int(os.environ.get(trained.START, "0")))


def real_data_folder() -> Path | None:
    """PRBENCH_DATA, else ../shared/data beside the checkout, else None."""
    named = os.environ.get("PRBENCH_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    return folder.resolve() if folder.is_dir() else None


def refuse_to_lack(what: str) -> None:
    """Fail a test that would be skipped for want of `what`, where PRBENCH_TEST_NEEDS names it.

    .ci/run names what it has, so that no test is skipped there.
    """
    if what in os.environ.get("PRBENCH_TEST_NEEDS", "").split(","):
        pytest.fail(f"PRBENCH_TEST_NEEDS names {what}, but there is none here")


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are laid out as into a pipe: pytest's parallel workers have a width in their environment."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real raw data, laid out for PRBENCH_DATA; the test is skipped where there is none."""
    folder = real_data_folder()
    if folder is None:
        refuse_to_lack("data")
        pytest.skip(
            "reads the publishers' own files, which are not part of this repository and which no test downloads: set "
            "PRBENCH_DATA to a folder that has them as <data set>/<upstream path>"
        )
    return folder


@pytest.fixture
def prbench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PRBENCH_HOME of this test's own."""
    home = tmp_path / "prbench-home"
    monkeypatch.setenv("PRBENCH_HOME", str(home))
    return home


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where none is installed (.ci/run installs Debian's)."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        refuse_to_lack("browser")
        pytest.skip(
            "opens the page in a real browser, a system program that pip cannot install: apt-get install chromium"
        )
    with sync_playwright() as playwright:
        # As root, as in containers, Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
