"""Raw files: where they are looked for, that their hash is always checked, and what is said when they are not there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prbench import registry
from prbench.base.errors import InputError
from prbench.data.downloads import RawFiles
from prbench.registry.schema import DatasetEntry


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def git_blob(text: str) -> str:
    """The pin of a text as git names it: `git hash-object` gives the same for it."""
    content = text.encode()
    return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def pinned_by_git(entry: DatasetEntry, **files: str) -> DatasetEntry:
    """`entry` with other files, which hold the given texts, pinned by their git blob ids."""
    assert entry.download is not None
    pins = {path: git_blob(text) for path, text in files.items()}
    return entry.model_copy(update={"download": entry.download.model_copy(update={"files": pins})})


def an_entry(base: str = "https://nowhere.invalid/data", **files: str) -> DatasetEntry:
    """An entry whose files hold the given texts, by their path with '__' for '/'."""
    return DatasetEntry.model_validate(
        {
            "name": "toy-setting",
            "title": "Toy",
            "loader": "toy:Toy",
            "family": "toy",
            "licence": "",
            "homepage": "",
            "citation": "",
            "summary": "",
            "encoder": "minilm",
            "download": {"base": base, "files": {k.replace("__", "/"): sha256(v) for k, v in files.items()}},
        }
    )


def put(folder: Path, path: str, text: str) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prbench_home: Path) -> Path:
    folder = tmp_path / "raw data"
    folder.mkdir()
    monkeypatch.setenv("PRBENCH_DATA", str(folder))
    return folder


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, list[str]]]:
    """Address, served folder and the list of paths that were asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []
    handler = type("Handler", (Quiet,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", folder, asked
        http.shutdown()
        thread.join()


def test_a_file_in_the_family_folder_comes_before_one_in_the_setting_folder(at_hand: Path) -> None:
    entry = an_entry(x__a="same")
    second = put(at_hand, "toy-setting/x/a", "same")
    assert RawFiles(entry).path("x/a") == second
    first = put(at_hand, "toy/x/a", "same")
    assert RawFiles(entry).path("x/a") == first


def test_paths_are_sorted_by_upstream_path(at_hand: Path) -> None:
    for name in ("c", "a", "b"):
        put(at_hand, f"toy/{name}", name)
    assert [path.name for path in RawFiles(an_entry(c="c", a="a", b="b")).paths()] == ["a", "b", "c"]


def test_a_file_at_hand_with_a_wrong_hash_is_never_used(at_hand: Path) -> None:
    file = put(at_hand, "toy/a", "tampered")
    with pytest.raises(InputError) as caught:
        RawFiles(an_entry(a="original")).path("a")
    message = str(caught.value)
    assert str(file) in message
    assert sha256("tampered") in message
    assert sha256("original") in message
    assert "\n" not in message


def test_a_download_is_kept_and_not_asked_for_again(
    server: tuple[str, Path, list[str]], prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, served, asked = server
    put(served, "deep/a file.txt", "text")
    entry = an_entry(base, **{"deep__a file.txt": "text"})
    local = RawFiles(entry).paths()[0]
    assert local == prbench_home / "raw" / "toy" / "deep" / "a file.txt"
    assert local.read_text() == "text"
    assert RawFiles(entry).path("deep/a file.txt") == local
    assert asked == ["/deep/a%20file.txt"]
    assert capsys.readouterr().out == ""


def test_a_download_with_a_wrong_hash_leaves_nothing(server: tuple[str, Path, list[str]], prbench_home: Path) -> None:
    base, served, _ = server
    put(served, "a", "other")
    with pytest.raises(InputError) as caught:
        RawFiles(an_entry(base, a="expected")).path("a")
    message = str(caught.value)
    assert f"{base}/a" in message
    assert sha256("other") in message
    assert sha256("expected") in message
    assert [path for path in prbench_home.rglob("*") if path.is_file()] == []


def test_a_missing_page_is_told_with_its_status(server: tuple[str, Path, list[str]], prbench_home: Path) -> None:
    base, _, _ = server
    with pytest.raises(InputError, match=r"cannot download http://127\.0\.0\.1:\d+/a: the server says 404"):
        RawFiles(an_entry(base, a="text")).path("a")


def test_offline_says_what_to_place_where(server: tuple[str, Path, list[str]], prbench_home: Path) -> None:
    # Nothing listens on port 1.
    with pytest.raises(InputError) as caught:
        RawFiles(an_entry("http://127.0.0.1:1/data", x__a="text")).path("x/a")
    message = str(caught.value)
    assert "http://127.0.0.1:1/data/x/a" in message
    assert str(prbench_home / "raw" / "toy" / "x" / "a") in message
    assert "PRBENCH_DATA" in message
    assert "\n" not in message


def test_a_file_placed_by_hand_is_checked_too(prbench_home: Path) -> None:
    put(prbench_home, "raw/toy/a", "half a downl")
    with pytest.raises(InputError, match="is not the expected file"):
        RawFiles(an_entry(a="half a download")).path("a")
    good = put(prbench_home, "raw/toy/a", "half a download")
    assert RawFiles(an_entry(a="half a download")).path("a") == good


def test_a_git_blob_id_is_a_pin(at_hand: Path) -> None:
    # As `printf text | git hash-object --stdin` says.
    assert git_blob("text") == "git:f3a34851d44d6b97c90fbb99dd3d18c261b9a237"
    entry = pinned_by_git(an_entry(), a="text")
    file = put(at_hand, "toy/a", "text")
    assert RawFiles(entry).path("a") == file
    assert RawFiles(entry).identity() == {"a": git_blob("text")}
    put(at_hand, "toy/a", "tampered")
    with pytest.raises(InputError) as caught:
        RawFiles(entry).path("a")
    message = str(caught.value)
    assert "git blob id" in message
    assert git_blob("tampered")[4:] in message
    assert "\n" not in message


def test_a_download_is_compared_with_its_git_blob_id(
    server: tuple[str, Path, list[str]], prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, served, asked = server
    put(served, "a", "text")
    entry = pinned_by_git(an_entry(base), a="text")
    local = RawFiles(entry).path("a")
    assert local.read_text() == "text"
    assert RawFiles(entry).path("a") == local
    assert asked == ["/a"]
    local.unlink()
    put(served, "a", "other")
    with pytest.raises(InputError, match=f"is not the expected file: its git blob id is {git_blob('other')[4:]}"):
        RawFiles(entry).path("a")
    assert [path for path in prbench_home.rglob("*") if path.is_file()] == []
    assert capsys.readouterr().out == ""


def test_bytes_as_published_elsewhere_are_known_and_others_are_taken_too(at_hand: Path) -> None:
    toy = an_entry().model_dump()
    toy["download"] = {
        "base": "hf://datasets/a/b@main",
        "files": {"a": "", "b": ""},
        "copies": {"a": git_blob("as published"), "b": git_blob("as published")},
    }
    entry = DatasetEntry.model_validate(toy)
    put(at_hand, "toy/a", "as published")
    other = put(at_hand, "toy/b", "something else")
    raw = RawFiles(entry)
    assert raw.like_copies() == {"a": True, "b": False}
    assert raw.path("b") == other
    assert raw.identity() == {"a": sha256("as published"), "b": sha256("something else")}


def test_a_file_may_lie_under_another_base() -> None:
    toy = an_entry("https://one.invalid/data", a="text").model_dump()
    toy["download"]["files"]["b"] = ""
    with pytest.raises(ValueError, match="may go without a hash"):
        DatasetEntry.model_validate(toy)
    toy["download"]["elsewhere"] = {"b": "hf://datasets/owner/name@main"}
    raw = RawFiles(DatasetEntry.model_validate(toy))
    assert raw.url("a") == "https://one.invalid/data/a"
    assert raw.url("b") == "https://huggingface.co/datasets/owner/name/resolve/main/b"
    assert raw.identity()["b"] == "main"


@pytest.mark.parametrize("path", ["../a", "/etc/a", "x/../../a", "..\\a"])
def test_a_path_that_leaves_the_folder_is_refused(path: str, prbench_home: Path) -> None:
    with pytest.raises(InputError, match="leaves the data folder"):
        RawFiles(an_entry(**{path: "text"}))


def test_imported_files_are_looked_for_at_home_only(at_hand: Path, prbench_home: Path) -> None:
    put(at_hand, "toy/a", "text")
    entry = an_entry("imported/toy", a="text")
    with pytest.raises(InputError, match="is missing"):
        RawFiles(entry).path("a")
    own = put(prbench_home, "imported/toy/a", "text")
    assert RawFiles(entry).path("a") == own


def test_the_folder_named_by_prbench_data_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRBENCH_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="PRBENCH_DATA names"):
        RawFiles(an_entry(a="text")).path("a")


@pytest.mark.parametrize(("name", "files"), [("convarg", 32), ("convarg-topics", 32), ("crowdrag", 4)])
def test_the_real_files_have_the_pinned_hashes(
    name: str, files: int, shared_data: Path, monkeypatch: pytest.MonkeyPatch, prbench_home: Path
) -> None:
    monkeypatch.setenv("PRBENCH_DATA", str(shared_data))
    paths = RawFiles(registry.get("datasets", name)).paths()
    assert len(paths) == files
    assert all(path.is_relative_to(shared_data) for path in paths)
