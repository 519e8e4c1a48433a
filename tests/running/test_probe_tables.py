"""Probes with tables of their own, from the command to the reader, on finished fits of a small data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import make_plan, registry_folder

from prbench import cli, registry, results
from prbench import data as datasets
from prbench.base.errors import InputError
from prbench.loaders.simulated import Simulated
from prbench.protocol.metrics import decisions
from prbench.results import cells, probe_tables, probes
from prbench.results.probe_tables import POOLS
from prbench.running import probe as probe_module
from prbench.running import run

KINDS = ("strangers", "exchange", "agreement", "best-of-n", "asking", "mistakes", "one-sided")
PERSONAL = ("asking", "one-sided")
"""Those that methods without personal state are not asked."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two splits of bt and bt-offset on a small simulated data set, and the registry that names it."""
    folder = tmp_path_factory.mktemp("fitted")
    registry.reset()
    registry.use([registry_folder(folder / "registry")])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PRBENCH_HOME", str(folder / "home"))
        run.execute(make_plan(["bt", "bt-offset"], ["tiny"], out=folder / "runs", splits=2))
    registry.reset()
    yield folder / "runs", folder / "registry"
    registry.reset()


@pytest.fixture
def runs(fitted: tuple[Path, Path], prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `fitted` of the test's own."""
    registry.reset()
    registry.use([fitted[1]])
    shutil.copytree(fitted[0], tmp_path / "runs")
    yield tmp_path / "runs"
    registry.reset()


def test_every_kind_is_made_once_and_read_back(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = probe_module.tasks(runs, kinds=KINDS)
    assert len(todo) == 4 * len(KINDS)
    made, failed = probe_module.execute(todo, device="cpu")
    # bt keeps nothing of a user: its two cells are asked nothing, by name.
    assert (made, failed) == (4 * len(KINDS) - 2 * len(PERSONAL), 0)
    assert capsys.readouterr().err.count("this method keeps nothing of a user") == 2 * len(PERSONAL)
    assert probe_module.execute(probe_module.tasks(runs, kinds=KINDS[:3]), device="cpu") == (0, 0)
    assert len(results.load(runs).scores)
    assert not len(probes.load(runs))
    scores = results.load(runs).scores
    for kind in KINDS:
        table = probe_tables.read(runs, kind)
        assert set(table["method"]) == ({"bt-offset"} if kind in PERSONAL else {"bt", "bt-offset"})
        assert set(table["split"]) == {0, 1}
    # The true labels' arm is the cell itself.
    exchange = probe_tables.read(runs, "exchange")
    keys = ["method", "split", "comparison"]
    joined = scores.astype({"method": str}).merge(exchange, on=keys, suffixes=("", "_probe"))
    assert len(joined) == len(exchange)
    for one, other in (("margin", "margin_probe"), ("cold_margin", "cold")):
        np.testing.assert_allclose(joined[one], joined[other], rtol=1e-4, atol=1e-5)
    # bt's decisions depend on no labels.
    assert (exchange.query("method == 'bt'")["exchanged"] == exchange.query("method == 'bt'")["margin"]).all()
    mistakes = probe_tables.read(runs, "mistakes")
    spared = mistakes[mistakes["rate"] == 0].merge(exchange, on=keys, suffixes=("", "_true"))
    np.testing.assert_allclose(spared["margin"], spared["margin_true"], rtol=1e-4, atol=1e-5)
    asked = probe_tables.read(runs, "asking")
    whole = asked[asked["questions"] == -1].set_index(["split", "user"])["accuracy"]
    own = exchange.query("method == 'bt-offset'").assign(right=lambda t: decisions(t["margin"]))
    np.testing.assert_allclose(whole, own.groupby(["split", "user"])["right"].mean().loc[whole.index], atol=1e-6)
    pools = probe_tables.read(runs, "best-of-n")
    assert set(pools["kind"]) == set(range(len(POOLS)))
    # All methods pick from the same candidates.
    same = ["kind", "split", "user", "pool", "item", "utility"]
    first, second = (pools[pools["method"] == m][same].reset_index(drop=True) for m in ("bt", "bt-offset"))
    assert first.equals(second)
    # The candidates of high reward are those that bt likes, out of the same prompts.
    bt = pools[pools["method"] == "bt"].groupby("kind")["reward"].mean()
    assert bt[POOLS.index("high reward")] > bt[POOLS.index("new")]


def test_pools_of_two_are_no_pools_and_shifts_need_bt(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in cells.folders(runs):
        if folder.parent.name == "bt":
            (folder / "DONE").unlink()
    todo = probe_module.tasks(runs, kinds=["best-of-n"], methods=["bt-offset"])
    assert probe_module.execute(todo, device="cpu") == (0, 0)
    assert "run bt first" in capsys.readouterr().err
    from prbench.running.probes import best_of_n

    monkeypatch.setattr(best_of_n, "LEAST", 4)
    assert probe_module.execute(todo, device="cpu") == (0, 0)
    assert "tiny has no pool of 4 and more candidates" in capsys.readouterr().err
    monkeypatch.setattr(best_of_n, "LEAST", 3)
    monkeypatch.delattr(Simulated, "candidates")
    assert probe_module.execute(todo, device="cpu") == (2, 0)
    assert set(probe_tables.read(runs, "best-of-n")["kind"]) == {0}


def test_groups_leave_as_groups_and_data_without_attributes_are_skipped(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = probe_module.tasks(runs, kinds=["groups"], methods=["bt-offset"])
    assert probe_module.execute(todo, device="cpu") == (0, 0)
    assert "tiny knows no attributes of its users" in capsys.readouterr().err
    from prbench.protocol import groups

    monkeypatch.setattr(groups, "LEAST", 2)
    values, load = ("left", "right") * 5, datasets.load
    monkeypatch.setattr(datasets, "load", lambda entry: replace(load(entry), attributes={"hand": values}))
    assert probe_module.execute(todo, device="cpu") == (2, 0)
    table = probe_tables.read(runs, "groups")
    assert set(table["group"]) == {"left", "right"}
    assert set(table["splits"]) == {2}
    scores = results.load(runs).scores
    mine = scores[(scores["method"] == "bt-offset") & (scores["population"] == "unseen")]
    right = mine.assign(right=decisions(mine["margin"])).groupby(["split", "user"], observed=True)["right"].mean()
    by_user = right.groupby("user").mean()
    left = by_user[[user for user in by_user.index if values[user] == "left"]]
    found = table[(table["group"] == "left") & (table["split"] == 0)].iloc[0]
    assert found["accuracy"] == pytest.approx(left.mean(), rel=1e-6)
    assert found["users"] == len(left)


def test_bad_kinds_and_damage_are_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", "--runs", str(runs), "--kinds", "stranger"]) == 2
    assert "did you mean strangers" in capsys.readouterr().err
    assert cli.main(["probe", "--runs", str(runs), "--kinds", " , "]) == 2
    capsys.readouterr()
    assert cli.main(["probe", "--runs", str(runs), "--kinds", "agreement", "--methods", "bt"]) == 0
    path = next(folder for folder in cells.folders(runs) if folder.parent.name == "bt") / "probe-agreement.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(InputError, match="is damaged"):
        probe_tables.read(runs, "agreement")
    (path.parent / "DONE").write_text('{"shots": [-1]}')
    with pytest.raises(InputError, match="is unreadable"):
        probe_tables.read(runs, "agreement")
