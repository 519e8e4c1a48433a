"""Single bits flipped in any file of a person's folders, and the commands that read it: none goes on in silence.

    PYTHONPATH=tests:tests/faults python tests/faults/damaged_commands.py 200

Files that a person may edit are left out: the entry of an imported data set, which has no digest.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import campaign
import flips
import programs
from stories import FOLDER, Story, digest, stories

TEXTS = '{"prompt": "x 1?", "response": "yes 1 x"}\n{"prompt": "x 2?", "response": "no 2"}\n'
FOUND = ("damaged", "unreadable", "not a readable", "does not match", "sha256", "corrupt", "holds no user states")


def damaged_commands(folder: Path, count: int, seed: int = 0, every: Sequence[Story] = ()) -> campaign.Figures:
    """Flip one bit of one file `count` times, and run what reads it.

    Without a story that adapts to a person, only imported data and embeddings are there to be damaged.
    """
    draw, figures = random.Random(seed), campaign.Figures("by commands")
    folder.mkdir(parents=True, exist_ok=True)
    by_name = {story.name: story for story in every or stories(folder / "bases")}
    base = (_base if "adapt" in by_name else _light_base)(by_name, folder / "base")
    files = sorted(path for path in base.rglob("*") if path.is_file() and _is_ours(path.relative_to(base)))
    kinds = sorted({_kind(path.relative_to(base)) for path in files})
    expected: dict[str, list[tuple[int, str, str]]] = {}
    found = without = 0
    for number in range(count):
        kind = kinds[number % len(kinds)]
        if kind not in expected:
            expected[kind] = [_said(words, base, folder / "try") for words in _commands(kind)]
        path = draw.choice([file for file in files if _kind(file.relative_to(base)) == kind])
        whole = path.read_bytes()
        changed, place = flips.flipped(whole, draw)
        path.write_bytes(changed)
        outcomes = [_said(words, base, folder / "try") for words in _commands(kind)]
        path.write_bytes(whole)
        what = f"{path.relative_to(base)}, {place}"
        told = False
        for (code, out, err), usual in zip(outcomes, expected[kind], strict=True):
            told = told or any(word in err or word in out for word in FOUND)
            if "Traceback" in out + err:
                figures.fault("traceback", f"{what}: {err}")
            elif (code, out) != usual[:2] and code == 0 and not told:
                figures.fault("silently different", f"{what}: {out}")
            elif code not in (0, 1, 2):
                figures.fault("another exit code", f"{what}: {code}, {err}")
        found, without = found + told, without + (not told)
        figures.tried += 1
    figures.note(f"found {found}, without effect on what the commands say {without}; kinds: {', '.join(kinds)}")
    return figures


def _base(by_name: dict[str, Story], folder: Path) -> Path:
    """A folder with an imported data set, its embeddings, a fit, a probe, a record of tuning and a person's state."""
    adapt = by_name["adapt"]
    words = adapt.start(folder)
    assert programs.done(words, folder).code == 0
    registry = ["--registry", f"{folder}/entries"]
    probe = [*registry, "probe", "--runs", f"{folder}/runs", "--support"]
    tune = [*by_name["tune"].words_in(folder)]
    for each in (probe, tune):
        ended = programs.done(each, folder)
        assert ended.code == 0, ended
    (folder / "texts.jsonl").write_text(TEXTS)
    return folder


def _light_base(by_name: dict[str, Story], folder: Path) -> Path:
    """A folder with an imported data set and its embeddings."""
    assert programs.done(by_name["embed"].start(folder), folder).code == 0
    return folder


def _is_ours(path: Path) -> bool:
    top = path.parts[0]
    return (
        (top in ("runs", "tuned", "home") or path.name == "me.safetensors")
        and path.suffix not in (".toml", ".lock", ".keys")
        and not path.name.startswith(".")
    )


def _kind(path: Path) -> str:
    if path.parts[0] == "home":
        return f"home {path.parts[1]} {path.suffix}"
    return f"{path.parts[0]} {'DONE' if path.name == 'DONE' else path.name.partition('-')[0].partition('.')[0]}"


def _commands(kind: str) -> list[list[str]]:
    """The commands that read such a file."""
    top = kind.partition(" ")[0]
    score = ["user", "score", "--state", f"{FOLDER}/me.safetensors", "--texts", f"{FOLDER}/texts.jsonl", "--json"]
    if top == "runs":
        return [["report", "leaderboard", "--runs", f"{FOLDER}/runs", "--out", f"{FOLDER}/out"], score]
    if top == "tuned":
        given = ["--methods", "searched,searched-2", "--dataset", "tiny", "--trials", "3", "--splits", "1"]
        return [["tune", *given, "--out", f"{FOLDER}/tuned", "--dry-run", "--json"]]
    if top == "home":
        run = ["--methods", "bt-ridge", "--dataset", "mine", "--encoder", "planted", "--splits", "1"]
        return [["data", "info", "mine", "--json"], ["run", *run, "--out", f"{FOLDER}/out"]]
    return [score]


def _said(words: Sequence[str], base: Path, folder: Path) -> tuple[int, str, str]:
    """Exit code, all that a command gives (printed, and the tables in its output folder), and what it tells."""
    shutil.copytree(base, folder)
    given = ["--registry", f"{folder}/entries", *(word.replace(FOLDER, str(folder)) for word in words)]
    ended = programs.done(given, folder)
    tables = [path for path in sorted((folder / "out").rglob("*")) if path.suffix in (".csv", ".parquet")]
    made = "\n".join(digest(path.read_bytes()) for path in tables)
    shutil.rmtree(folder)
    # A run says how long it took.
    printed = "" if words[0] == "run" else ended.out.replace(str(folder), "")
    return ended.code, f"{printed}\n{made}", ended.err


if __name__ == "__main__":
    campaign.main(damaged_commands)
