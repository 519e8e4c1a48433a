"""What campaigns do to prbench: one command each, the folder it starts from, and what must be there in the end."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import programs
from small_runs import registry_folder

from prbench.base.leftovers import NAME
from prbench.base.reading import parse_toml
from prbench.embedding.store import EmbeddingStore
from prbench.method import load_tensors
from prbench.results import cells, locks

FOLDER = "{folder}"
ENCODER = """
title = "planted"
target = "planted_encoder:Planted"
licence = ""
homepage = ""
summary = "numbers from the hash of a text"
[options]
revision = "1"
dim = 5
wait = 0.01
"""
METHODS = "bt-ridge,user-bt,length,bt-offset"


@dataclass(frozen=True)
class Story:
    """A command that starts in a copy of `base`.

    `made` gives what is there by name, as digests that do not depend on when it was made. `agrees` are the exit codes
    with which a repetition may end where the first time had come to its end.
    """

    name: str
    words: tuple[str, ...]
    base: Path
    made: Callable[[Path], dict[str, str]]
    agrees: tuple[int, ...] = (0,)
    before: Mapping[str, str] = field(default_factory=dict)

    def start(self, folder: Path) -> list[str]:
        """Lay a copy of the base into `folder`; returns the command's words for it."""
        shutil.copytree(self.base, folder, dirs_exist_ok=True, symlinks=True)
        return self.words_in(folder)

    def words_in(self, folder: Path) -> list[str]:
        """The command's words for `folder`."""
        return [word.replace(FOLDER, str(folder)) for word in self.words]


class Whole(NamedTuple):
    """What a story makes where nothing disturbs it, and in how many seconds."""

    made: dict[str, str]
    seconds: float


_undisturbed: dict[Path, dict[str, Whole]] = {}


def undisturbed(story: Story, folder: Path) -> Whole:
    """`story` from its beginning to its end in a copy in `folder`; each is run once."""
    known = _undisturbed.setdefault(story.base, {})
    if story.name not in known:
        words, begin = story.start(folder), time.monotonic()
        ended = programs.done(words, folder)
        seconds = time.monotonic() - begin
        assert ended.code == 0, (story.name, ended)
        made = story.made(folder)
        assert made, story.name
        assert not left(folder), (story.name, left(folder))
        shutil.rmtree(folder)
        known[story.name] = Whole(made, seconds)
    return known[story.name]


def left(folder: Path) -> list[str]:
    """Temporary files, claims and locks that are still there."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob(".*")
        if NAME.fullmatch(path.name) or path.name == locks.SHARED
    ]


LIGHT = 6
"""So many stories, the first ones, start from bases that take no run to make."""


def stories(folder: Path, most: int | None = None) -> list[Story]:
    """All stories, or the first `most` of them, their bases made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "setup.txt").open("w") as said, redirect_stdout(said), redirect_stderr(said):
        return list(itertools.islice(_stories(folder), most))


def _stories(folder: Path) -> Iterator[Story]:
    plain = folder / "plain"
    entries = registry_folder(plain / "entries")
    (entries / "encoders").mkdir()
    (entries / "encoders" / "planted.toml").write_text(ENCODER)
    for name in ("searched", "searched-2"):
        (entries / "methods" / f"{name}.toml").write_text('extends = "bt"\n[params]\nsteps = 20\n')
    _write_rows(plain / "rows.jsonl", "ask")
    _write_rows(plain / "other.jsonl", "say")
    registry = ("--registry", f"{FOLDER}/entries")
    run = ("--methods", METHODS, "--dataset", "tiny,tiny2", "--splits", "2", "--out", f"{FOLDER}/runs")
    yield Story("run", (*registry, "run", *run, "--shots", "all,2"), plain, _cells)
    yield Story("workers", (*registry, "run", *run, "--workers", "2", "--threads", "1"), plain, _cells)
    tune = ("tune", "--methods", "searched,searched-2", "--dataset", "tiny", "--trials", "3", "--splits", "1")
    yield Story("tune", (*registry, *tune, "--out", f"{FOLDER}/tuned"), plain, _tuned)
    rows = f"{FOLDER}/rows.jsonl"
    yield Story("import", (*registry, "data", "import", rows, "--name", "mine"), plain, _imported, (0, 2))

    texts = _further(plain, folder / "texts", ["data", "import", rows, "--name", "mine"])
    replace = (*registry, "data", "import", f"{FOLDER}/other.jsonl", "--name", "mine", "--replace")
    yield Story("replace", replace, texts, _imported, before=_imported(texts))
    embed = (*registry, "embed", "--dataset", "mine", "--encoder", "planted")
    yield Story("embed", embed, texts, _embedded)
    of_texts = ("--methods", "lore", "--dataset", "mine", "--encoder", "planted", "--splits", "1")
    short = ("--set", "lore.steps=20", "--set", "lore.adapt_steps=10", "--set", "lore.bases=2")

    finished = _further(plain, folder / "finished", ["run", *run])
    probe = ("probe", "--runs", f"{FOLDER}/runs", "--noise", "0.2", "--support")
    yield Story("probe", (*registry, *probe), finished, _cells)
    report = ("report", "leaderboard", "--runs", f"{FOLDER}/runs", "--out", f"{FOLDER}/out")
    yield Story("report", (*registry, *report), finished, _reported)

    fitted = _further(texts, folder / "fitted", ["run", *of_texts, *short, "--out", f"{FOLDER}/runs"])
    (fitted / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in _rows("x", 4)))
    method = "lore[adapt_steps=10,bases=2,steps=20]"
    adapt = ("user", "adapt", "--run", f"{FOLDER}/runs", "--method", method, "--pairs", f"{FOLDER}/mine.jsonl")
    yield Story("adapt", (*registry, *adapt, "--out", f"{FOLDER}/me.safetensors"), fitted, _state)


def _further(base: Path, folder: Path, words: list[str]) -> Path:
    """A copy of `base` in which a command was run."""
    shutil.copytree(base, folder)
    os.environ["PRBENCH_HOME"] = str(folder / "home")
    given = ["--registry", str(folder / "entries"), *(word.replace(FOLDER, str(folder)) for word in words)]
    code = programs.here(given)
    assert code == 0, given
    return folder


def _rows(verb: str, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{verb} {i}?", "chosen": f"yes {i} {verb}", "rejected": f"no {i}"} for i in range(count)]


def _write_rows(file: Path, verb: str) -> None:
    rows = [{"user_id": user, **row} for user in "abcdef" for row in _rows(f"{verb} {user}", 6)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def digest(content: bytes) -> str:
    """A short digest."""
    return hashlib.sha256(content).hexdigest()[:16]


def _cells(folder: Path) -> dict[str, str]:
    """Every file of a finished cell but the record of its cost."""
    runs = folder / "runs"
    found = {}
    for cell in cells.folders(runs):
        if (cell / cells.DONE).is_file():
            names = {path.name for path in cell.iterdir()} - {"cell.json", cells.DONE}
            for name in names:
                if not NAME.fullmatch(name):
                    found[str((cell / name).relative_to(runs))] = digest((cell / name).read_bytes())
    return found


def _tuned(folder: Path) -> dict[str, str]:
    """Every trial, without its seconds."""
    found = {}
    for path in (folder / "tuned").rglob("*.json"):
        if path.parent.name == locks.SHARED or NAME.fullmatch(path.name):
            continue
        for trial in json.loads(path.read_text())["trials"]:
            plain = {key: value for key, value in trial.items() if key != "seconds"}
            found[f"{path.stem} trial {trial['number']}"] = digest(json.dumps(plain, sort_keys=True).encode())
    return found


def _imported(folder: Path) -> dict[str, str]:
    """The rows of the imported data set, which its entry pins."""
    imported = folder / "home" / "imported"
    entry = imported / "datasets" / "mine.toml"
    if not entry.is_file():
        return {}
    pinned: dict[str, Any] = parse_toml(entry.read_bytes())["download"]
    found = {}
    for name, sha256 in pinned["files"].items():
        content = (folder / "home" / pinned["base"] / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256, f"{name} is not what its entry pins"
        found[name] = digest(content)
    return found


def _embedded(folder: Path) -> dict[str, str]:
    """Every embedding of every store."""
    found = {}
    for manifest in (folder / "home").rglob("manifest.json"):
        store = EmbeddingStore.open(manifest.parent)
        assert not store.verify()
        for key in store.known:
            found[key.hex()] = digest(store.gather([key])[0].numpy().tobytes())
    return found


def _reported(folder: Path) -> dict[str, str]:
    """Every table and figure."""
    out = folder / "out"
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix in (".csv", ".tex", ".png", ".pdf")]
    return {str(path.relative_to(out)): digest(path.read_bytes()) for path in files if not NAME.fullmatch(path.name)}


def _state(folder: Path) -> dict[str, str]:
    """The tensors of the user's state."""
    file = folder / "me.safetensors"
    if not file.is_file():
        return {}
    return {name: digest(tensor.numpy().tobytes()) for name, tensor in load_tensors(file)[0].items()}
