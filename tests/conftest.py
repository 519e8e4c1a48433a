"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def real_data_folder() -> Path | None:
    """PRBENCH_DATA, else ../shared/data beside the checkout, else None."""
    named = os.environ.get("PRBENCH_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    return folder.resolve() if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real raw data, laid out for PRBENCH_DATA; the test is skipped where there is none."""
    folder = real_data_folder()
    if folder is None:
        pytest.skip("needs the real raw data: set PRBENCH_DATA to a folder laid out as <data set>/<upstream path>")
    return folder


@pytest.fixture
def prbench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PRBENCH_HOME of this test's own."""
    home = tmp_path / "prbench-home"
    monkeypatch.setenv("PRBENCH_HOME", str(home))
    return home
