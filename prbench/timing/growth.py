"""Time and memory of import, embedding and runs as the choices grow: `prbench bench growth`.

Simulated choices among distinct texts that recur are written to a file, and prbench's own commands read it, each in
a process of its own, whose seconds and peak memory count. The planted encoder costs next to nothing, so that the time
of embedding is prbench's own; what a real one adds follows from its rate on a few thousand of the same texts.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.reading import parse_json
from prbench.base.seeds import Rng
from prbench.comparisons import Message
from prbench.encoders import build_encoder
from prbench.encoders.base import Encoded, Encoder, Text, require_device, resolved_device

SIZES = (10_000, 100_000, 1_000_000)
ITEMS = 100_000
CHOICES_PER_USER = 20
REPLIES = 4
DIM = 384
PROMPT_LETTERS, REPLY_LETTERS = 120, 320
"""Characters of a text, about."""

FITTED = ("mrm.epochs=1", "lore.steps=20", "bt.steps=20")
"""Short recipes: a whole fit takes as many times longer as it has more epochs or steps."""

WORDS = "the of a river stone light and answer because under morning seven quiet build carry perhaps window north"


class Stage(NamedTuple):
    """One command at one number of choices: its seconds, and its process's most memory in bytes."""

    stage: str
    choices: int
    seconds: float
    peak: int


@dataclass(frozen=True)
class World:
    """How many choices there are, of how many users, among how many distinct texts."""

    choices: int
    items: int

    @property
    def users(self) -> int:
        """The number of users."""
        return max(20, self.choices // CHOICES_PER_USER)

    def rows(self) -> Iterator[dict[str, str]]:
        """The choices: anybody prefers the reply of the better quality three times in four."""
        generator = Rng("bench growth", self.choices, self.items).numpy()
        prompts = max(1, self.items // REPLIES)
        left = self.choices
        while left:
            n = min(left, 65_536)
            user, prompt = generator.integers(0, self.users, n), generator.integers(0, prompts, n)
            first = generator.integers(0, REPLIES, n)
            second = (first + generator.integers(1, REPLIES, n)) % REPLIES
            follows = generator.random(n) < 0.75
            for u, p, a, b, right in zip(
                *(column.tolist() for column in (user, prompt, first, second, follows)), strict=True
            ):
                one, other = p * REPLIES + a, p * REPLIES + b
                if (quality(one) > quality(other)) is not right:
                    one, other = other, one
                yield {
                    "user_id": f"u{u}",
                    "prompt": _text("Question", p, PROMPT_LETTERS),
                    "chosen": _text("Reply", one, REPLY_LETTERS),
                    "rejected": _text("Reply", other, REPLY_LETTERS),
                }
            left -= n


def quality(item: int) -> float:
    """What everybody likes about an item, between 0 and 1: the first coordinate of its embedding."""
    return (item * 2_654_435_761 % 2**32) / 2**32


@lru_cache(maxsize=2**18)
def _text(kind: str, number: int, letters: int) -> str:
    words = WORDS.split()
    said, k = [f"{kind} {number}:"], number
    length = len(said[0])
    while length < letters:
        k = (k * 1_103_515_245 + 12_345) % 2**31
        said.append(words[(k >> 16) % len(words)])
        length += 1 + len(said[-1])
    return " ".join(said)


class PlantedEncoder(Encoder):
    """Embeddings drawn from the number in a reply, with its quality as the first coordinate; for timing alone."""

    id = "planted"
    revision = "1"
    has_reward = False
    texts_at_once = 4096

    def __init__(self, *, dim: int = DIM) -> None:
        self.dim = dim

    def fingerprint(self) -> dict[str, Any]:
        """The name and the width."""
        return {"id": self.id, "revision": self.revision, "dim": self.dim, "dtype": "float32"}

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """See `Encoder.encode`. Raises ValueError for a text that is not of this benchmark."""
        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for row, (_, reply) in zip(rows, texts, strict=True):
            item = int(reply[len("Reply ") : reply.index(":")])
            row[:] = np.random.Generator(np.random.PCG64(item)).standard_normal(self.dim, dtype=np.float32)
            row[0] = 4 * quality(item) - 2
        return Encoded(torch.from_numpy(rows))


ENTRY = f"""title = "Planted numbers"
target = "{__name__}:PlantedEncoder"
licence = "CC0-1.0"
homepage = ""
summary = "for timing alone"

[options]
dim = {DIM}
"""


class Slope(NamedTuple):
    """How a stage grows from one number of choices to the next.

    `exponent` is p where seconds grow as choices to the power of p: 1 is linear, and start-up makes it less.
    `microseconds` and `bytes` are those of a further choice.
    """

    stage: str
    before: int
    after: int
    exponent: float
    microseconds: float
    bytes: float


def slopes(stages: Sequence[Stage]) -> list[Slope]:
    """The slope of each stage between one number of choices and the next larger one."""
    found = []
    for name in dict.fromkeys(stage.stage for stage in stages):
        own = sorted((stage for stage in stages if stage.stage == name), key=lambda stage: stage.choices)
        for a, b in pairwise(own):
            more = b.choices - a.choices
            found.append(
                Slope(
                    name,
                    a.choices,
                    b.choices,
                    math.log(b.seconds / a.seconds) / math.log(b.choices / a.choices),
                    1e6 * (b.seconds - a.seconds) / more,
                    (b.peak - a.peak) / more,
                )
            )
    return found


class Rate(NamedTuple):
    """A real encoder's texts per second on `texts` of this benchmark, and the seconds that `distinct` texts take."""

    encoder: str
    device: str
    texts: int
    per_second: float
    distinct: int
    seconds: float


def encoder_rate(name: str, texts: int, *, distinct: int = ITEMS, device: str = "auto") -> Rate:
    """Time a registered encoder on `texts` replies, weights loaded before. Raises InputError where it is not here."""
    device = resolved_device(device)
    require_device(device)
    encoder = build_encoder(registry.get("encoders", name), device=device)
    encoder.prepare(device)
    read = [
        ((Message("user", _text("Question", i // REPLIES, PROMPT_LETTERS)),), _text("Reply", i, REPLY_LETTERS))
        for i in range(texts)
    ]
    work = encoder.plan(read)
    start = time.perf_counter()
    for _ in work.run(device):
        pass
    rate = texts / (time.perf_counter() - start)
    return Rate(name, device, texts, rate, distinct, distinct / rate)


def growth(
    sizes: Sequence[int] = SIZES,
    *,
    items: int = ITEMS,
    folder: Path | None = None,
    told: Callable[[Stage], None] = lambda _: None,
) -> list[Stage]:
    """Import, embed and run at each number of choices; `told` hears of each stage as it ends.

    Files go below `folder`, by default a temporary one, and are removed at the end. Raises InputError where a command
    fails, with its last line, and on systems that do not tell of a process's memory.
    """
    if not hasattr(os, "wait4"):
        raise InputError("this system does not tell how much memory a process had", hint="run it on Linux or macOS")
    found = []
    with tempfile.TemporaryDirectory(prefix="prbench-growth-", dir=folder) as name:
        for choices in sizes:
            for stage in _stages(World(choices, items), Path(name) / str(choices)):
                found.append(stage)
                told(stage)
            shutil.rmtree(Path(name) / str(choices))
    return found


# The peak that a system tells of a process counts what its parent held when it was started: torch, here.
LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], stdout=sys.stderr).pid, 0)
print(json.dumps([time.perf_counter() - start, status, usage.ru_maxrss]))
"""


def _stages(world: World, folder: Path) -> Iterator[Stage]:
    entries = folder / "registry"
    (entries / "encoders").mkdir(parents=True)
    (entries / "encoders" / "planted.toml").write_text(ENTRY, encoding="utf-8")
    source = folder / "choices.jsonl"
    with source.open("w", encoding="utf-8") as file:
        for row in world.rows():
            file.write(json.dumps(row) + "\n")
    of_data = ["--dataset", "growth", "--encoder", "planted"]
    short = [part for setting in FITTED for part in ("--set", setting)]
    fitted = ["--methods", "bt,mrm,lore", "--selection", "last", "--splits", "1", "--device", "cpu", *short]
    commands = {
        "data import": ["data", "import", str(source), "--name", "growth"],
        "embed": ["embed", *of_data, "--device", "cpu"],
        "run": ["run", *of_data, *fitted, "--out", str(folder / "runs")],
    }
    for stage, command in commands.items():
        seconds, peak = _measured(["--registry", str(entries), *command], folder / "home")
        yield Stage(stage, world.choices, seconds, peak)


def _measured(command: Sequence[str], home: Path) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a prbench command in a process of its own."""
    environment = {**os.environ, "PRBENCH_HOME": str(home)}
    launcher = [sys.executable, "-S", "-c", LAUNCHER, sys.executable, "-m", "prbench", *command]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(launcher, stdout=subprocess.PIPE, stderr=said, env=environment)
        try:
            told, _ = process.communicate()
        except BaseException:
            for started in psutil.Process(process.pid).children(recursive=True):
                started.kill()
            process.kill()
            process.wait()
            raise
        seconds, status, peak = parse_json(told)
        code = os.waitstatus_to_exitcode(int(status))
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            line = next((line for line in lines if line.startswith("error: ")), lines[-1])
            raise InputError(f"prbench {' '.join(command[2:4])} ended with {code}: {line}")
    return float(seconds), int(peak) * (1 if sys.platform == "darwin" else 1024)
