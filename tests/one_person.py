"""A run of LoRe on texts with the planted encoder, and states of two people, for tests of what serves a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from small_runs import make_plan, registry_folder, short

from prbench import registry
from prbench.loaders.user_file import import_table
from prbench.running import run
from prbench.user import UserModel

ENCODER = """
title = "planted"
target = "planted_encoder:Planted"
licence = ""
homepage = ""
summary = "numbers from the hash of a text"
[options]
revision = "1"
dim = 5
"""
METHOD = "lore[adapt_steps=20,bases=2,divisor=1.0,steps=30]"


class Place(NamedTuple):
    """Where things are: the registry, PRBENCH_HOME, the results, and the states of two people."""

    registry: Path
    home: Path
    runs: Path
    me: Path
    you: Path


def own_choices(turned: bool = False) -> list[dict[str, str]]:
    sides = ("rejected", "chosen") if turned else ("chosen", "rejected")
    return [{"prompt": f"What about {i}?", sides[0]: f"yes {i}", sides[1]: f"no {i}"} for i in range(6)]


@contextmanager
def made(folder: Path) -> Iterator[Place]:
    """All of it in `folder`; the second person chose the other side everywhere."""
    place = Place(
        folder / "registry", folder / "home", folder / "runs", folder / "me.safetensors", folder / "you.safetensors"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(place.home))
        registry_folder(place.registry)
        (place.registry / "encoders").mkdir()
        (place.registry / "encoders" / "planted.toml").write_text(ENCODER)
        registry.reset()
        registry.use([place.registry])
        rows = [
            {"user_id": f"w{u}", "prompt": f"q {p} {u}?", "chosen": f"a {p * 7 % 5} {p}{u}", "rejected": f"r {p} {u}"}
            for u in range(6)
            for p in range(6)
        ]
        file = folder / "choices.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        import_table(file, "texts")
        settings = [*short("lore"), "lore.bases=2", "lore.divisor=1.0"]
        plan = make_plan(["bt", "lore"], ["texts"], encoder="planted", splits=1, overrides=settings, out=place.runs)
        assert run.execute(plan).failed == 0
        model = UserModel.open(place.runs, METHOD)
        model.save(model.adapt(own_choices()), place.me)
        model.save(model.adapt(own_choices(turned=True)), place.you)
        yield place
        registry.reset()
