"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trained

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LEFT = pytest.StashKey[list[str]]()
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--extras`: only the tests that `make test` leaves to `make test-extras`."""
    parser.addoption("--extras", action="store_true", help="run the tests marked extras, and only these")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `extras` run under --extras alone, and only they do."""
    wanted = config.getoption("--extras")
    left = [item for item in items if (item.get_closest_marker("extras") is not None) != wanted]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)
    if not wanted:
        config.stash[LEFT] = named(left, items)


def named(left: list[pytest.Item], kept: list[pytest.Item]) -> list[str]:
    """The tests that are left out: a name once for all its cases, and each of its cases where others are kept."""
    partly = {item.nodeid.split("[")[0] for item in kept}
    names = {item.nodeid if (name := item.nodeid.split("[")[0]) in partly else name for item in left}
    return sorted(names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what was left to the other command."""
    if names := config.stash.get(LEFT, []):
        terminalreporter.section("left to make test-extras")
        for name in names:
            terminalreporter.write_line(name)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the process that prints what it left."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = session.config.stash.get(LEFT, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take from a worker of pytest-xdist what it left; all workers leave the same."""
    node.config.stash[LEFT] = getattr(node, "workeroutput", {}).get("left", [])


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
