"""Probes: finished fits adapted again under other conditions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_runs import make_plan, registry_folder, short, without_digests

from prbench import cli, contract, registry, results
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.loaders import user_file
from prbench.method import Method
from prbench.results import cells, probes
from prbench.running import probe as probe_module
from prbench.running import run
from prbench.running.probes import conditions

ENCODER = """
title = "Planted"
target = "planted_encoder:Planted"
licence = "CC0-1.0"
homepage = ""
summary = "planted"
[options]
dim = 6
"""


@pytest.fixture
def runs(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """Two splits of bt and lore on a small simulated data set."""
    registry.reset()
    registry.use([registry_folder(tmp_path / "registry")])
    names = ["bt", "lore"]
    out = tmp_path / "runs"
    run.execute(make_plan(names, ["tiny"], overrides=short(*names), out=out, splits=2))
    yield out
    registry.reset()


def texts(folder: Path, name: str, users: int) -> None:
    draw = np.random.default_rng(users)
    lines = [
        {
            "user_id": f"worker-{user}",
            "prompt": f"{name} {number}",
            "chosen": f"good {draw.integers(1000)}",
            "rejected": f"bad {draw.integers(1000)}",
        }
        for user in range(users)
        for number in range(8)
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    user_file.import_table(file, name)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_label_or_every_label_is_flipped(share: float) -> None:
    data = contract.population()
    turned = conditions.flipped(data, share, Rng("x"))
    expected = (data.chosen, data.rejected) if share == 0 else (data.rejected, data.chosen)
    assert np.array_equal(turned.chosen, expected[0])
    assert np.array_equal(turned.rejected, expected[1])


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 99))
def test_flips_nest_and_follow_the_comparison_not_its_place(a: float, b: float, seed: int) -> None:
    data = contract.population()
    low, high = (conditions.flipped(data, share, Rng(seed)).chosen != data.chosen for share in sorted((a, b)))
    assert not (low & ~high).any()
    order = np.random.default_rng(seed).permutation(len(data))
    shuffled = conditions.flipped(data.take(order), max(a, b), Rng(seed))
    assert np.array_equal(shuffled.chosen != data.take(order).chosen, high[order])


def test_the_share_of_flips_is_as_asked() -> None:
    data = contract.population(users=200)
    flipped = conditions.flipped(data, 0.3, Rng(1)).chosen != data.chosen
    # 3.5 standard errors of a share of 0.3.
    assert abs(flipped.mean() - 0.3) < 3.5 * (0.21 / len(data)) ** 0.5


def test_no_noise_gives_the_stored_scores_and_all_noise_others(runs: Path) -> None:
    todo = probe_module.tasks(runs, noise=[1e-12, 1.0])
    assert probe_module.execute(todo) == (8, 0)
    found = probes.load(runs)
    stored = results.load(runs).scores
    for method in ("lore", "bt"):
        name = next(m for m in stored["method"].unique() if m.startswith(method))
        unseen = stored[(stored["method"] == name) & (stored["population"] == "unseen") & (stored["split"] == 1)]
        by_noise = {
            noise: part["margin"].to_numpy()
            for noise, part in found[(found["method"] == name) & (found["split"] == 1)].groupby("noise")
        }
        assert np.allclose(by_noise[1e-12], unseen["margin"], atol=1e-5)
        changed = not np.allclose(by_noise[1.0], unseen["margin"], atol=1e-3)
        assert changed == (method == "lore")


def test_scoring_the_support_tests_on_what_was_shown(runs: Path) -> None:
    probe_module.execute(probe_module.tasks(runs, support=True))
    found = probes.load(runs)
    assert set(found["probe"]) == {"support"}
    counts = {r.split: r.counts.unseen_support for r in results.load(runs).cells}
    rows = found[found["method"].str.startswith("bt")].groupby("split").size()
    assert rows.to_dict() == counts
    assert set(found["population"]) == {"unseen"}


def test_a_finished_probe_is_not_made_again(runs: Path) -> None:
    todo = probe_module.tasks(runs, support=True)
    assert probe_module.execute(todo) == (4, 0)
    todo[0].probe.file(todo[0].folder).unlink()
    assert probe_module.execute(todo) == (1, 0)
    assert probe_module.execute(todo) == (0, 0)


def test_probes_leave_the_results_as_they_were(runs: Path) -> None:
    before = results.load(runs).scores
    probe_module.execute(probe_module.tasks(runs, support=True, noise=[0.5]))
    pd.testing.assert_frame_equal(results.load(runs).scores, before)


def test_transfer_adapts_and_tests_on_the_other_data(prbench_home: Path, tmp_path: Path) -> None:
    folder = registry_folder(tmp_path / "registry")
    (folder / "encoders").mkdir()
    (folder / "encoders" / "planted.toml").write_text(ENCODER)
    registry.reset()
    registry.use([folder])
    texts(tmp_path, "mine", 6)
    texts(tmp_path, "other", 4)
    out = tmp_path / "runs"
    plan = make_plan(["bt"], ["mine", "tiny"], overrides=short("bt"), splits=2, out=out, encoder=None)
    assert {job.setting.encoder.name for job in plan.jobs} == {"minilm", "own"}
    plan = make_plan(["bt"], ["mine"], overrides=short("bt"), splits=2, out=out, encoder="planted")
    assert run.execute(plan).failed == 0
    todo = probe_module.tasks(out, transfer=["mine", "other", "tiny"])
    assert {task.probe.on for task in todo} == {"other"}
    probe_module.execute(todo)
    found = probes.load(out)
    assert set(found["on"]) == {"other"}
    assert set(found["dataset"]) == {"mine"}
    users = found.groupby("split")["user"].nunique()
    assert (users == 2).all()
    registry.reset()


def test_other_data_than_the_cells_are_refused(runs: Path) -> None:
    folder = next(cells.folders(runs))
    record = json.loads((folder / "cell.json").read_text())
    (without_digests(folder) / "cell.json").write_text(json.dumps({**record, "data_fingerprint": "other"}))
    with pytest.raises(Exception, match="was made with data fingerprint other"):
        probe_module.execute(probe_module.tasks(runs, support=True))
    assert not list(folder.glob("probe-*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing to probe"),
        (["--noise", "2"], "a share lies above 0"),
        (["--noise", "x"], "expected shares"),
        (["--noise", ","], "--noise names no share"),
        (["--noise", "", "--support"], "--noise names no share"),
        (["--support", "--methods", "lorre"], "lorre"),
        (["--support", "--methods", ""], "no method named"),
        (["--support", "--methods", "mrm"], "--methods mrm: "),
        (["--support", "--methods", "bt,mrm*"], "--methods mrm*: "),
        (["--support", "--dataset", "tiny2"], "--dataset tiny2: "),
        (["--transfer", "tiny2"], "can be tested on tiny2"),
        (["--transfer", ""], "no data set named"),
        (["--transfer", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(runs: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", "--runs", str(runs), *words]) == 2
    out, err = capsys.readouterr()
    error = err.splitlines()
    assert told in error[0]
    assert len(error) <= 2
    assert not out


@pytest.mark.parametrize("words", [["--support"], ["--noise", "0.2", "--methods", "bt"], ["--transfer", "tiny2"]])
def test_a_folder_without_fits_is_refused(
    runs: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path) -> str:
        assert cli.main(["probe", "--runs", str(folder), *words]) == 2
        return capsys.readouterr().err

    empty = tmp_path / "empty"
    assert f"there is no results folder {empty}" in refused(empty)
    empty.mkdir()
    assert f"{empty} holds no results\nhint: " in refused(empty)
    for folder in cells.folders(runs):
        record = json.loads((folder / "cell.json").read_text())
        (without_digests(folder) / "cell.json").write_text(json.dumps({**record, "selection": "test-oracle"}))
    assert "but those chosen on test data, which are not probed" in refused(runs)


def test_margins_are_made_as_exactly_as_the_cells(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in cells.folders(runs):
        record = json.loads((folder / "cell.json").read_text())
        if record["entry"]["name"] == "bt":
            (without_digests(folder) / "cell.json").write_text(json.dumps({**record, "precision": "medium"}))
        else:
            # As records were before they said so.
            del record["precision"]
            (without_digests(folder) / "cell.json").write_text(json.dumps(record))
    found: dict[str, set[str]] = {}
    inner = probe_module.unseen_margins

    def noted(method: Method, *rest: Any) -> Any:
        found.setdefault(type(method).__name__, set()).add(torch.get_float32_matmul_precision())
        return inner(method, *rest)

    monkeypatch.setattr(probe_module, "unseen_margins", noted)
    assert probe_module.execute(probe_module.tasks(runs, support=True)) == (4, 0)
    assert sorted(found.values(), key=str) == [{"highest"}, {"medium"}]
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_lost_model_and_a_broken_probe_say_what_makes_them_again(runs: Path) -> None:
    probe_module.execute(probe_module.tasks(runs, support=True, noise=[0.2]))
    folder = next(cells.folders(runs))
    for probe, command in ((probes.Probe("noise", noise=0.2), "--noise 0.2"), (probes.Probe("support"), "--support")):
        file = probe.file(folder)
        whole = file.read_bytes()
        without_digests(file.parent)
        file.write_bytes(whole[:-10])
        with pytest.raises(InputError, match=f"probe-{probe.name}.parquet is unreadable") as caught:
            probes.load(runs)
        assert caught.value.hint == f"delete this file and run `prbench probe {command}` again"
        file.unlink()
        assert probe_module.execute(probe_module.tasks(runs, support=True, noise=[0.2])) == (1, 0)
        assert file.read_bytes() == whole
        probes.load(runs)
    file.unlink()
    model = folder / "model.safetensors"
    without_digests(model.parent)
    model.write_bytes(model.read_bytes()[:50])
    with pytest.raises(InputError, match="is not a readable safetensors file") as caught:
        probe_module.execute(probe_module.tasks(runs, support=True))
    assert caught.value.hint == "delete this file and repeat the run: it makes this cell again"


def test_the_command_probes_and_counts(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["probe", "--runs", str(runs), "--noise", "0.2,0.4", "--support", "--json"]
    assert cli.main([*words, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": str(runs), "probes": 12, "missing": 12}
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 12
    assert len(list(runs.glob("*/*/*/split-*/probe-*.parquet"))) == 12


def test_a_failing_probe_is_told_and_the_others_are_made(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next(f for f in cells.folders(runs) if cells.read_record(f).entry.name == "bt")
    tensors = load_file(without_digests(folder) / "model.safetensors")
    save_file({name: torch.full_like(t, torch.nan) for name, t in tensors.items()}, folder / "model.safetensors")
    assert cli.main(["probe", "--runs", str(runs), "--support"]) == 1
    assert "not finite" in capsys.readouterr().err
    assert not list(folder.glob("probe-*"))
    assert len(list(runs.glob("*/*/*/split-*/probe-*.parquet"))) == 3
