"""`prbench.evaluate` gives what the command line writes, and a limit makes a data set of another name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import registry_folder

import prbench
from prbench import cli, data, registry
from prbench.errors import InputError


@pytest.fixture(autouse=True)
def _entries(prbench_home: Path, tmp_path: Path) -> Iterator[None]:
    registry.reset()
    registry.use([registry_folder(tmp_path / "registry")])
    yield
    registry.reset()


def test_the_frames_are_those_of_the_command_line(tmp_path: Path) -> None:
    evaluate: Any = prbench.evaluate
    found = evaluate(["bt", "good"], "tiny", splits=2, runs=tmp_path / "runs", resamples=199)
    words = ["--methods", "bt,good", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert (
        cli.main(["report", "leaderboard", *words, "--baseline", "bt", "--registry", str(tmp_path / "registry")]) == 0
    )
    # The intervals over users depend on the number of resamples.
    for name in ("leaderboard", "splits"):
        written = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        shared = [key for key in written.columns if not key.startswith("bootstrap")]
        frame = getattr(found, name)[shared].reset_index(drop=True)
        written = written[shared]
        for key in shared:
            if pd.api.types.is_numeric_dtype(frame[key]) and frame[key].dtype != bool:
                np.testing.assert_allclose(frame[key].astype(float), written[key].astype(float), rtol=1e-8)
    assert found.failed == 0
    assert set(found.leaderboard["method"]) == {"bt", "good"}
    # What else the folder holds takes no part.
    again = evaluate("bt", "tiny", splits=1, runs=tmp_path / "runs", resamples=199)
    assert list(again.leaderboard["method"]) == ["bt"]
    assert list(again.leaderboard["n_splits"]) == [1]
    with pytest.raises(InputError, match="unknown method"):
        evaluate("nothing", "tiny", runs=tmp_path / "runs")


def test_a_limit_is_marked_in_every_row_and_is_another_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "run",
        "--methods",
        "good",
        "--dataset",
        "tiny",
        "--splits",
        "1",
        "--out",
        str(tmp_path / "runs"),
        "--json",
    ]
    keys = {}
    for limit in ([], ["--limit", "8"]):
        assert cli.main([*words, *limit, "--registry", str(tmp_path / "registry")]) == 0
        [cell] = json.loads(capsys.readouterr().out)["cells"]
        keys[cell["dataset"]] = cell["key"]
        record = json.loads((Path(cell["folder"]) / "cell.json").read_text())
        assert ("--limit 8" in record["command"]) is bool(limit)
    assert set(keys) == {"tiny", "tiny[limit=8]"}
    assert len(set(keys.values())) == 2


def test_a_limit_keeps_whole_groups_of_every_user() -> None:
    whole = data.load(registry.get("datasets", "tiny"))
    small = whole.limited(9)
    counts = np.bincount(small.user)
    assert small.n_users == whole.n_users
    assert set(counts) == {9}
    # Groups are cut at most once for each user: all but one have the size they had.
    sizes = {group: int((whole.group == group).sum()) for group in np.unique(whole.group)}
    for user in range(small.n_users):
        own = small.group[small.user == user]
        cut = [g for g in np.unique(own) if (own == g).sum() < (whole.group[whole.user == user] == g).sum()]
        assert len(cut) <= 1
    assert sizes
    assert whole.limited(9).fingerprint == small.fingerprint != whole.fingerprint
