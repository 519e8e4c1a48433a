"""`prbench bench growth`: the choices it makes, what it measures, and what a slope is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prbench import cli
from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.timing import growth
from prbench.timing.growth import Stage, World

MIB = 2**20


def test_choices_recur_among_the_items_and_follow_their_quality() -> None:
    rows = list(World(4000, 400).rows())
    assert len(rows) == 4000
    assert len({row["user_id"] for row in rows}) == 200
    replies = {row[side] for row in rows for side in ("chosen", "rejected")}
    assert len(replies) == 400
    # A reply answers one prompt alone.
    assert len({(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")}) == 400

    def item(text: str) -> int:
        return int(text.split()[1].rstrip(":"))

    right = np.mean([growth.quality(item(r["chosen"])) > growth.quality(item(r["rejected"])) for r in rows])
    assert right == pytest.approx(0.75, abs=0.03)
    assert 250 < np.mean([len(text) for text in replies]) < 400


def test_the_planted_encoder_gives_an_item_its_numbers_whatever_it_is_read_with() -> None:
    encoder = growth.PlantedEncoder(dim=8)
    texts = [((Message("user", "Question 0:"),), f"Reply {i}: because") for i in (3, 9, 3)]
    rows = encoder.encode(texts, device="cpu").embedding
    assert (rows[0] == rows[2]).all()
    assert not (rows[0] == rows[1]).any()
    assert float(rows[1][0]) == pytest.approx(4 * growth.quality(9) - 2)


def test_slopes_by_hand() -> None:
    stages = [Stage("a", 1000, 2.0, 100 * MIB), Stage("a", 10_000, 20.0, 109 * MIB), Stage("b", 1000, 1.0, MIB)]
    (slope,) = growth.slopes(stages)
    assert (slope.stage, slope.before, slope.after) == ("a", 1000, 10_000)
    assert slope.exponent == pytest.approx(1)
    assert slope.microseconds == pytest.approx(2000)
    assert slope.bytes == pytest.approx(MIB / 1000)
    squared = growth.slopes([Stage("a", 10, 1.0, 0), Stage("a", 100, 100.0, 0)])
    assert squared[0].exponent == pytest.approx(2)


def test_a_command_that_fails_is_told_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "encoders").mkdir()
    with pytest.raises(InputError, match=r"list nonsense ended with 2: error: .*nonsense"):
        growth._measured(["--registry", str(tmp_path), "list", "nonsense"], tmp_path)


def test_the_peak_is_the_commands_own_and_not_that_of_whoever_started_it(tmp_path: Path) -> None:
    here = np.ones(2**26)
    seconds, peak = growth._measured(["version"], tmp_path)
    assert here.nbytes == 512 * MIB
    assert 8 * MIB < peak < 300 * MIB
    assert seconds > 0


@pytest.mark.extras
def test_the_three_commands_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", "growth", "--choices", "500,1000", "--items", "200", "--encoder", "none", "--device", "cpu"]
    assert cli.main([*args, "--folder", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(s["stage"], s["choices"]) for s in found["stages"]] == [
        (stage, n) for n in (500, 1000) for stage in ("data import", "embed", "run")
    ]
    assert all(s["seconds"] > 0 and s["peak"] > 50 * MIB for s in found["stages"])
    assert {s["stage"] for s in found["slopes"]} == {"data import", "embed", "run"}
    assert list(tmp_path.iterdir()) == []
