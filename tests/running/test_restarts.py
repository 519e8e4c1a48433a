"""Several random starts of every split: what is fitted, stored and read, and that the first is what it always was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from small_runs import registry_folder, scores, short

from prbench import cli, registry, results
from prbench.base.seeds import Rng
from prbench.protocol.selection import fit_rng
from prbench.results.key import CellKey

SETS = [word for text in short("lore") for word in ("--set", text)]
ROW = "lore[adapt_steps=20,steps=30]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registry_folder(tmp_path_factory.mktemp("entries") / "own")


@pytest.fixture(autouse=True)
def entries(prbench_home: Path, folder: Path) -> Iterator[Path]:
    yield folder
    registry.reset()


def words(folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--registry", str(folder), "run", "--methods", "lore,bt-ridge", "--dataset", "tiny", *SETS]
    return [*given, "--splits", "2", "--shots", "2,all", "--threads", "1", "--out", str(out), *more]


def folders(out: Path, method: str = ROW) -> list[str]:
    return sorted(path.name for path in (out / "tiny" / "own" / method).glob("split-*"))


def test_three_starts_end_to_end(entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, three = tmp_path / "one", tmp_path / "three"
    assert cli.main(words(entries, one)) == 0
    capsys.readouterr()
    assert cli.main(words(entries, three, "--restarts", "3", "--dry-run", "--json")) == 0
    planned = json.loads(capsys.readouterr().out)["cells"]
    assert [(c["method"], c["split"], c["restart"]) for c in planned] == [
        *((ROW, split, restart) for restart in range(3) for split in range(2)),
        *(("bt-ridge", split, 0) for split in range(2)),
    ]
    # A run from one start is the first of three: what it made is not made again.
    shutil.copytree(one, three)
    assert cli.main(words(entries, three, "--restarts", "3", "--json")) == 0
    keys = {c["restart"]: c["key"] for c in planned if c["method"] == ROW and c["split"] == 0}
    assert len(set(keys.values())) == 3
    assert [name for name in folders(three) if name.startswith("split-0")] == [
        f"split-0-{keys[0]}",
        f"split-0-restart-1-{keys[1]}",
        f"split-0-restart-2-{keys[2]}",
    ]
    assert folders(three, "bt-ridge") == folders(one, "bt-ridge"), "a method without a random start is fitted once"

    loaded = results.load(three).scores
    lore = loaded[(loaded["method"] == ROW) & (loaded["shots"] == -1)]
    margins = {r: part["margin"].to_numpy() for r, part in lore.groupby("restart")}
    assert sorted(margins) == [0, 1, 2]
    assert (margins[1] != margins[0]).mean() > 0.9, "another start"
    assert (margins[1] != margins[2]).mean() > 0.9

    assert cli.main(["report", "leaderboard", "--runs", str(three), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("method")
    assert table.loc[ROW, "starts"] == 3
    assert table.loc[ROW, "start_std"] > 0
    fits = _overall(loaded, ROW)
    assert table.loc[ROW, "overall"] == pytest.approx(sum(fits.values()) / 3)


def _overall(loaded: pd.DataFrame, method: str) -> dict[int, float]:
    """By restart, the mean over splits of the mean over users of the share of choices predicted."""
    own = loaded[(loaded["method"] == method) & (loaded["shots"] == -1)]
    right = own.assign(right=(own["margin"] > 0) + 0.5 * (own["margin"] == 0))
    users = right.groupby(["restart", "split", "user"])["right"].mean()
    return users.groupby(["restart", "split"]).mean().groupby("restart").mean().to_dict()


def test_workers_and_a_resumed_run_give_the_same_bits(entries: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(words(entries, one)) == 0
    assert cli.main(words(entries, two, "--restarts", "2", "--workers", "2")) == 0
    alone, among = scores(one), scores(two)
    assert alone.keys() < among.keys()
    for name, frame in alone.items():
        pd.testing.assert_frame_equal(frame, among[name], check_exact=True, obj=name)
    for name in folders(one):
        model = Path("tiny", "own", ROW, name, "model.safetensors")
        assert (one / model).read_bytes() == (two / model).read_bytes()
    # One lost cell of a further start is made again, as it was.
    (lost,) = (name for name in folders(two) if name.startswith("split-1-restart-1"))
    shutil.rmtree(two / "tiny" / "own" / ROW / lost)
    assert cli.main(words(entries, two, "--restarts", "2")) == 0
    again = scores(two)
    assert again.keys() == among.keys()
    for name, frame in among.items():
        pd.testing.assert_frame_equal(frame, again[name], check_exact=True, obj=name)


def test_probes_and_users_of_a_run_with_restarts(entries: Path, tmp_path: Path) -> None:
    from prbench.results import probes
    from prbench.user import fits

    out = tmp_path / "runs"
    assert cli.main(words(entries, out, "--restarts", "2")) == 0
    assert cli.main(["--registry", str(entries), "probe", "--runs", str(out), "--support", "--methods", "lore"]) == 0
    assert set(probes.load(out)["restart"]) == {0, 1}
    # Users are served by the first start.
    found = fits.from_results(out, ROW, fits.FitQuery(None, None, 0, None))
    assert "restart" not in found.file.parent.name


def test_a_start_has_streams_of_its_own() -> None:
    from types import SimpleNamespace
    from typing import Any

    data: Any = SimpleNamespace(name="tiny")
    split: Any = SimpleNamespace(seed=43, index=1)
    assert fit_rng(data, split).axes == (43, "tiny", "fit", 1)
    assert fit_rng(data, split, 2).axes == (43, "tiny", "fit", 1, "restart", 2)
    assert fit_rng(data, split, 2).child("adapt").seed != Rng(43, "tiny", "fit", 1, "adapt").seed


def test_the_key_holds_further_starts_only() -> None:
    from typing import Any

    values: dict[str, Any] = {"protocol_version": 1, "data": "d", "embedding": "e", "protocol": {}, "split": 0}
    values |= {"seed": 42, "target": "t", "params": {}, "selection": "last"}
    assert CellKey(**values, restart=0).digest() == CellKey(**values).digest()
    assert len({CellKey(**values, restart=r).digest() for r in range(3)}) == 3


def test_no_start_at_all_is_refused(entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(entries, tmp_path / "runs", "--restarts", "0")) == 2
    assert "--restarts" in capsys.readouterr().err
