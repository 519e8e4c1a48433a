"""A registry with simulated texts, an encoder without a model and a scripted judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from prbench.encoders.base import Encoded, Encoder, Text

DATASET = """
extends = "sim-text"
encoder = "planted"
[options]
users = {users}
prompts = 40
pairs = 60
temperature = 0.0
minority = 0.0
careless = 0.0
quality = 0.0
majority = 0.0
repeats = 0.0
[protocol]
splits = {splits}
[expect]
users = {users}
comparisons = {comparisons}
items = 240
"""
ENCODER = """
title = "planted"
target = "judged_runs:Letters"
licence = ""
homepage = ""
summary = "no model"
"""
JUDGE = """
title = "{name}"
target = "{target}"
licence = ""
homepage = ""
summary = "scripted"
{rest}
"""


class Letters(Encoder):
    """Counts letters."""

    id = "letters"
    dim = 3
    has_reward = False

    def fingerprint(self) -> dict[str, str]:
        return {"id": self.id, "dtype": "float32"}

    def head(self) -> None:
        return None

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        rows = [[float(reply.count(letter)) for letter in "eta"] for _, reply in texts]
        return Encoded(torch.tensor(rows))


def judge_entry(folder: Path, name: str, target: str = "taste_judge:TasteJudge", rest: str = "") -> None:
    """Add a judge model to a registry folder."""
    (folder / "judges").mkdir(parents=True, exist_ok=True)
    (folder / "judges" / f"{name}.toml").write_text(JUDGE.format(name=name, target=target, rest=rest))


def registry_folder(folder: Path, *, users: int = 16, splits: int = 2) -> Path:
    """Entries taste-text (texts of users with a taste and nothing else), planted (encoder) and taste (judge)."""
    for kind in ("datasets", "encoders"):
        (folder / kind).mkdir(parents=True)
    text = DATASET.format(users=users, splits=splits, comparisons=60 * users)
    (folder / "datasets" / "taste-text.toml").write_text(text)
    (folder / "encoders" / "planted.toml").write_text(ENCODER)
    judge_entry(folder, "taste")
    return folder
