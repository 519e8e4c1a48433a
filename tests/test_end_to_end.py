"""The main job on the embedded data set: who should beat Bradley–Terry does, and nobody beats the truth."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from trained import measured

from prbench import cli, results
from prbench.results.record import DoneRecord

METHODS = ["reference", "bt", "bt-ridge", "lore-early", "mrm"]


@pytest.fixture(scope="module")
def leaderboard(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, results.Results]:
    folder: Path = tmp_path_factory.mktemp("end-to-end")
    runs, out = str(folder / "runs"), str(folder / "out")
    asked = ["--methods", ",".join(METHODS), "--dataset", "simulated", "--splits", "4", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRBENCH_HOME", str(folder / "home"))
        assert cli.main(["run", *asked, "--out", runs]) == 0
        assert cli.main(["report", "leaderboard", "--runs", runs, "--out", out]) == 0
    return pd.read_csv(folder / "out" / "leaderboard.csv").set_index("method"), results.load(Path(runs))


def test_every_method_has_a_complete_row(leaderboard: tuple[pd.DataFrame, results.Results]) -> None:
    board, _ = leaderboard
    assert sorted(board.index) == sorted(METHODS)
    assert (board["n_splits"] == 4).all()
    columns = ["seen", "unseen", "overall", "worst10", "worst20", "worst50", "flip_rate"]
    assert board[columns].notna().all(axis=None)
    assert (board["worst10"] <= board["worst50"]).all()


@pytest.mark.trained
def test_a_method_that_should_beat_bt_does_and_stays_under_the_ceiling(
    leaderboard: tuple[pd.DataFrame, results.Results],
) -> None:
    board, _ = leaderboard
    overall, flips = board["overall"], board["flip_rate"]
    # The personal part of the simulated preferences is worth 11 points; 20 splits give LoRe 6 of them over BT.
    gain, nothing_personal = (overall[name] - overall["bt"] for name in ("lore-early", "bt-ridge"))
    measured("lore-early over bt", gain, at_least=0.015, control=nothing_personal)
    measured("flips of lore-early", flips["lore-early"], at_least=0.05, control=flips["mrm"])
    measured("best under the ceiling", board["ceiling"].iloc[0] - overall.max(), at_least=0)


@pytest.mark.trained
def test_methods_without_personal_state_flip_nothing_and_stay_near_the_floor(
    leaderboard: tuple[pd.DataFrame, results.Results],
) -> None:
    board, _ = leaderboard
    floor, ceiling = board["floor"].iloc[0], board["ceiling"].iloc[0]
    for method in ("reference", "bt", "bt-ridge"):
        assert board["flip_rate"][method] == 0
        # The floor is the best that any score without the user can expect; four splits leave sampling noise.
        measured(f"{method} over the floor", board["overall"][method] - floor, at_most=0.02, control=ceiling - floor)
    # The published inner step moves each logit by 0.005, whatever the user chose.
    flips = board["flip_rate"]
    measured("flips of mrm", flips["mrm"], at_most=0.005, control=flips["lore-early"])


def test_every_cell_says_what_produced_it(leaderboard: tuple[pd.DataFrame, results.Results]) -> None:
    _, found = leaderboard
    assert len(found.cells) == 4 * len(METHODS)
    for cell in found.cells:
        assert isinstance(cell, DoneRecord)
        for key in ("entry", "params", "data_fingerprint", "embedding_fingerprint", "split", "seed", "versions"):
            assert key in cell.model_fields_set, key
        assert cell.fit.rule in ("", cell.selection)
        assert cell.counts.users == 60
