"""Every command and snippet of the guide runs, page by page, as somebody who copies and pastes would run it."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prbench import cli, registry
from prbench.results.digests import DoneRecord
from prbench.results.merged import Merge
from prbench.results.record import DoneRecord as CellRecord
from prbench.results.submitted import SubmittedRecord
from prbench.sharing.pack import PackManifest
from prbench.sharing.split_files import SplitManifest, UserPart

GUIDE = Path(__file__).parent.parent / "reports" / "guide"
PAGES = sorted(path.stem for path in GUIDE.glob("*.md") if path.stem != "changes")
LONG = {"claims", "cluster", "one-user", "statistics", "submitting", "tutorial"}
"""Pages that embed texts or make whole reports, of which one is followed here; the rest by `make test-extras`."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What is shown and not run: trees of files and commands that take long.
SHOWN = {"text"}


def blocks(page: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in BLOCK.findall((GUIDE / f"{page}.md").read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    # As in a terminal: a snippet finds the modules beside it.
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    registry.reset()
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def follow(page: str) -> int:
    """Do what a page says in the present folder; returns how many blocks were run or written."""
    names: dict[str, Any] = {"__name__": "__main__"}
    done = 0
    for kind, text in blocks(page):
        if kind in SHOWN:
            continue
        if named := re.match(r"# ([\w./-]+\.\w+)\n", text):
            path = Path(named[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif kind == "python":
            exec(compile(text, page, "exec"), names)
        else:
            assert kind == "bash", f"{page}: a block of {kind} that nothing runs"
            for line in text.splitlines():
                words = shlex.split(line, comments=True)
                if words[0] == "python":
                    runpy.run_path(words[1], run_name="__main__")
                    continue
                assert words[0] == "prbench", f"{page}: {line}"
                registry.reset()
                assert cli.main(words[1:]) == 0, f"{page}: {line}"
        done += 1
    return done


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.extras) if page in LONG else page for page in PAGES]
)
def test_a_page_can_be_followed(page: str, folder: Path) -> None:
    assert follow(page) == sum(kind not in SHOWN for kind, _ in blocks(page))


def test_every_key_of_a_format_has_its_line() -> None:
    said = set(re.findall(r"`([a-z_]+)`", (GUIDE / "file-formats.md").read_text(encoding="utf-8")))
    # The digest of a document is told once for all of them.
    for model in (CellRecord, DoneRecord, SplitManifest, UserPart, PackManifest, Merge, SubmittedRecord):
        assert set(model.model_fields) <= said, model


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in [*GUIDE.glob("*.md"), GUIDE.parents[1] / "README.md"]}
    linked = set()
    for path, text in texts.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
            linked.add((path.parent / target).resolve())
    assert {path.resolve() for path in GUIDE.glob("*.md")} <= linked
