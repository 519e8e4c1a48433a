"""The run loop: what it plans, does, leaves alone, records and refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted_methods
import pytest
import torch
from rich.console import Console
from small_runs import assert_same_scores, make_plan, registry_folder, scores, short

from prbench import cli, registry, results
from prbench import data as datasets
from prbench import protocol as protocol_module
from prbench.comparisons import Items
from prbench.method import load_tensors
from prbench.protocol import splits
from prbench.protocol.metrics import ALL_SHOTS
from prbench.results import cells as cells_module
from prbench.results.record import CellRecord, DoneRecord
from prbench.running import method_job, open_dataset
from prbench.running import run as runner


@pytest.fixture
def entries(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A registry of small data sets and planted methods, in use."""
    folder = registry_folder(tmp_path / "registry")
    registry.reset()
    registry.use([folder])
    planted_methods.FITS.clear()
    yield folder
    registry.reset()


@pytest.fixture
def out(entries: Path, tmp_path: Path) -> Path:
    """A results folder that is not there yet."""
    return tmp_path / "runs"


def run(out: Path, methods: str, dataset: str = "tiny", **options: Any) -> runner.Outcome:
    names = methods.split(",")
    options.setdefault("splits", 2)
    changes = [*short(*names), *options.pop("overrides", [])]
    return runner.execute(make_plan(names, dataset.split(","), overrides=changes, out=out, **options))


def states(plan: runner.Plan) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for job in plan.jobs:
        found.setdefault(job.name, []).extend(cell.state for cell in job.cells)
    return found


def record_of(out: Path, method: str, split: int = 0, dataset: str = "tiny") -> CellRecord:
    (folder,) = (out / dataset / "own" / method).glob(f"split-{split}-*")
    return cells_module.read_record(folder)


def test_a_plan_says_what_is_done_missing_failed_and_skipped_and_why(out: Path) -> None:
    run(out, "good", splits=1)
    run(out, "raises,unsupported", splits=2)
    plan = make_plan(["good", "raises", "unsupported"], ["tiny"], splits=2, out=out)
    assert states(plan) == {
        "good": ["done", "missing"],
        "raises": ["failed", "failed"],
        "unsupported": ["skipped", "skipped"],
    }
    reasons = {job.name: [cell.reason for cell in job.cells] for job in plan.jobs}
    assert reasons["good"] == ["", ""]
    assert reasons["raises"] == ["ZeroDivisionError: planted [failure] in two lines"] * 2
    assert reasons["unsupported"] == ["10 dimensions [are] too many"] * 2
    cells = plan.as_dict()["cells"]
    assert [(c["method"], c["split"], c["status"]) for c in cells[:3]] == [
        ("good", 0, "done"),
        ("good", 1, "missing"),
        ("raises", 0, "failed"),
    ]
    text = io.StringIO()
    Console(file=text, width=200).print(plan.table())
    # Brackets are text here, not rich's markup.
    assert "planted [failure] in two lines" in text.getvalue()
    assert "10 dimensions [are] too many" in text.getvalue()


def test_names_with_settings_survive_the_tables(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(out, "raises", splits=1, overrides=["raises.bases=3"])
    assert "raises[bases=3] failed on tiny: ZeroDivisionError: planted [failure]" in capsys.readouterr().err
    text = io.StringIO()
    Console(file=text, width=200).print(outcome.table())
    assert "raises[bases=3]" in text.getvalue()


def test_planning_writes_and_embeds_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_dataset, "embed", lambda *a, **k: pytest.fail("embedded"))
    assert cli.main(["run", "--methods", "good,mrm", "--dataset", "tiny", "--dry-run", "--out", str(out)]) == 0
    assert not out.exists()


def test_running_again_does_nothing(out: Path) -> None:
    run(out, "good")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    outcome = run(out, "good")
    assert planted_methods.FITS == ["Good 2"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert states(outcome.plan) == {"good": ["done", "done"]}


def test_a_killed_run_resumes_to_the_same_bits(entries: Path, tmp_path: Path) -> None:
    """Killed (SIGKILL) between the files of its fourth cell, the second of its second method.

    The killed process has as many threads as this one, which resumes it and makes the
    run to compare with; a split's bits do not depend on which others are fitted beside it.
    """
    code = """
import os, signal, sys
from pathlib import Path
from prbench import cli
from prbench.results import cells
write, written = cells.write_scores, []
def dying(path, columns):
    written.append(path)
    if len(written) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, columns)
cells.write_scores = dying
sys.exit(cli.main(sys.argv[1:]))
"""
    names = ["bt-ridge", "lore-early", "mrm"]
    sets = [word for text in short(*names) for word in ("--set", text)]
    words = ["run", "--registry", entries, "--methods", ",".join(names), "--dataset", "tiny", "--splits", "2", *sets]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", code, *map(str, words), "--out", str(killed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    stored = scores(killed)
    assert len(stored) == 3
    plan = make_plan(names, ["tiny"], splits=2, overrides=short(*names), out=killed)
    assert states(plan) == {
        "bt-ridge": ["done", "done"],
        "lore-early[steps=30]": ["done", "missing"],
        "mrm[epochs=4]": ["missing", "missing"],
    }
    # The half-written cell is invisible to readers too.
    assert len(results.load(killed).cells) == 3
    first_cell = next(killed.glob("*/*/*/split-0-*/DONE"))
    before = first_cell.stat().st_mtime_ns
    runner.execute(plan)
    assert first_cell.stat().st_mtime_ns == before
    run(whole, ",".join(names))
    assert len(scores(whole)) == 6
    assert_same_scores(killed, whole)


def test_a_set_parameter_makes_a_method_of_its_own(out: Path) -> None:
    run(out, "good", splits=1)
    run(out, "good", splits=1, overrides=["good.bases=3"])
    run(out, "good", splits=1, overrides=["good.steps=10", "good.bases=3"])
    found = results.load(out).scores
    assert set(found.method.unique()) == {"good", "good[bases=3]", "good[bases=3,steps=10]"}
    assert record_of(out, "good[bases=3]")["params"] == {"bases": 3, "steps": 40}
    assert record_of(out, "good")["params"] == {"bases": 2, "steps": 40}
    margins = [found[found.method == name].margin.to_numpy() for name in sorted(found.method.unique())]
    assert not np.allclose(margins[0], margins[1])
    assert not np.allclose(margins[1], margins[2])


def test_a_text_parameter_may_hold_a_path(out: Path) -> None:
    run(out, "bt-ridge", splits=1, overrides=["bt-ridge.strengths=[0.1, 0.01]"])
    assert record_of(out, "bt-ridge[strengths=[0.1,_0.01]]")["method"] == "bt-ridge[strengths=[0.1, 0.01]]"
    record: Any = SimpleNamespace(dataset="d", encoder="e", method="m[model=../a/b]", split=0, restart=0, key="k")
    assert cells_module.cell_folder(out, record) == out / "d" / "e" / "m[model=.._a_b]" / "split-0-k"
    record.method = "m" * 400
    long = cells_module.cell_folder(out, record)
    assert len(long.parent.name) < 255


def test_a_selection_rule_given_for_the_run_replaces_the_methods_own(out: Path) -> None:
    run(out, "lore-early,bt", splits=1, selection="last")
    for method in ("lore-early[steps=30]", "bt[steps=30]"):
        assert record_of(out, method)["selection"] == "last"
        assert record_of(out, method)["fit"] == {"rule": "last", "chosen": 30, "independent_of_batch": True}
    run(out, "lore-early", splits=1)
    found = results.load(out)
    assert sorted(cell.selection for cell in found.cells) == ["last", "last", "validation"]
    assert set(found.scores.selection.cat.categories) == {"last", "validation"}


def test_a_fit_that_chose_by_another_rule_is_no_result(out: Path) -> None:
    outcome = run(out, "ignorestherule", splits=1, selection="test-oracle")
    assert outcome.failed == 1
    assert "was to choose by test-oracle, but its fit says last" in record_of(out, "ignorestherule")["reason"]


@pytest.mark.parametrize("method", ["good", "mrm"])
def test_shots_nest_and_can_be_added_without_fitting_again(out: Path, tmp_path: Path, method: str) -> None:
    """Adapting starts from the stored model, whose bits are those in memory, in one process, at one number of threads."""
    later, together = out, tmp_path / "together"
    run(later, method)
    models = {path: path.stat().st_mtime_ns for path in later.rglob("model.safetensors")}
    fits = list(planted_methods.FITS)
    plan = make_plan([method], ["tiny"], splits=2, overrides=short(method), shots=[0, 2, 4], out=later)
    assert [cell.shots for job in plan.jobs for cell in job.cells] == [[0, 2, 4]] * 2
    run(later, method, shots=[0, 2, 4])
    assert fits == planted_methods.FITS
    assert {path: path.stat().st_mtime_ns for path in later.rglob("model.safetensors")} == models
    assert len(models) == 2
    run(together, method, shots=[4, 0, ALL_SHOTS, 2])
    assert len(scores(together)) == 2 * 4
    assert_same_scores(later, together)

    found = results.load(later).scores
    assert sorted(found.shots.unique()) == [-1, 0, 2, 4]
    assert set(found[found.shots >= 0].population.unique()) == {"unseen"}
    assert set(found[found.shots == ALL_SHOTS].population.unique()) == {"seen", "unseen"}
    keys = ["split", "user", "comparison"]
    cold = found[found.shots == 0].set_index(keys)
    everything = found[(found.shots == ALL_SHOTS) & (found.population == "unseen")].set_index(keys)
    assert len(cold) == len(everything) > 0
    # At zero shots nothing is known of a user: the margin is the cold start's, whatever the number of shots.
    assert (cold.margin == cold.cold_margin).all()
    for shots in (2, 4):
        some = found[found.shots == shots].set_index(keys).loc[cold.index]
        assert (some.cold_margin == cold.margin).all()
        assert not np.allclose(some.margin, cold.margin, atol=1e-7)
    assert (everything.loc[cold.index].cold_margin == cold.margin).all()


def test_shots_are_the_first_rows_of_each_users_support(out: Path) -> None:
    plan = make_plan(["good"], ["tiny"], splits=1, shots=[2, 4], out=out)
    setting = plan.jobs[0].setting
    split = setting.splits[0]
    two, four = (open_dataset.support_of(setting, split, k) for k in (2, 4))
    user = setting.data.user
    for number in split.unseen:
        support = split.unseen_support[user[split.unseen_support] == number]
        assert two[user[two] == number].tolist() == support[:2].tolist()
        assert four[user[four] == number].tolist() == support[:4].tolist()


def test_a_failing_method_is_recorded_and_retried_and_costs_the_others_nothing(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--methods", "raises,good", "--dataset", "tiny", "--splits", "2", "--out", str(out)]
    assert cli.main(words) == 1
    assert "raises failed on tiny: ZeroDivisionError: planted [failure] in two lines" in capsys.readouterr().err
    failed = record_of(out, "raises", 1)
    assert failed["status"] == "failed"
    assert failed["reason"] == "ZeroDivisionError: planted [failure] in two lines"
    assert "planted_methods.py" in failed["traceback"]
    assert record_of(out, "good")["status"] == "done"
    assert set(results.load(out).scores.method) == {"good"}
    monkeypatch.setattr(planted_methods.Raises, "broken", False)
    assert cli.main(words) == 0
    assert record_of(out, "raises", 1)["status"] == "done"
    assert "reason" not in record_of(out, "raises", 1)
    assert planted_methods.FITS == ["Good 2", "Raises 2"]


def test_a_split_that_fails_costs_the_other_splits_nothing(out: Path) -> None:
    outcome = run(out, "nanonsplit1", splits=3)
    assert states(outcome.plan) == {"nanonsplit1": ["done", "failed", "done"]}
    assert outcome.failed == 1
    assert record_of(out, "nanonsplit1", 1)["reason"].startswith("FloatingPointError: ")
    again = make_plan(["nanonsplit1"], ["tiny"], splits=3, out=out)
    assert states(again) == {"nanonsplit1": ["done", "failed", "done"]}


def test_shots_that_fail_are_failures_and_leave_the_result(out: Path) -> None:
    assert run(out, "fewshots").failed == 0
    outcome = run(out, "fewshots,good", shots=[1, 2])
    assert outcome.failed == 2
    assert states(outcome.plan)["good"] == ["done", "done"]
    assert record_of(out, "fewshots")["status"] == "done"
    again = make_plan(["fewshots"], ["tiny"], splits=2, shots=[1, 2], out=out)
    assert [(cell.state, cell.shots) for job in again.jobs for cell in job.cells] == [("done", [2])] * 2


def test_an_unsupported_method_is_skipped_with_its_reason(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out, "unsupported,good").failed == 0
    assert "unsupported is skipped on tiny: 10 dimensions [are] too many" in capsys.readouterr().err
    record = record_of(out, "unsupported")
    assert (record.status, record.reason) == ("skipped", "10 dimensions [are] too many")
    assert planted_methods.FITS == ["Good 2"]
    assert {c.method: c.status for c in results.load(out).cells} == {"good": "done", "unsupported": "skipped"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "goood", "--dataset", "tiny"], "unknown method 'goood'; did you mean good"),
        (["--methods", "good", "--dataset", "tinny"], "unknown data set 'tinny'; did you mean tiny"),
        (["--methods", "good", "--dataset", "tiny", "--set", "good.base=3"], "has no parameter 'base'"),
        (["--methods", "good", "--dataset", "tiny", "--set", "good.bases=two"], "good.bases: "),
        (["--methods", "good", "--dataset", "tiny", "--set", "lore.bases=3"], "--set lore: that method is not run"),
        (["--methods", "good", "--dataset", "tiny", "--shots", "500"], "have fewer than 500 support comparisons"),
        (["--methods", "good", "--dataset", "tiny", "--encoder", "minilm"], "cannot be encoded by minilm"),
        (["--methods", "good", "--dataset", "tiny,tiny2", "--shots", "0,13"], "fewer than 13 support"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    out: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["run", *words, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert message in lines[0]
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, so asking for one is not a mistake")
def test_a_gpu_that_is_not_there_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--methods", "good", "--dataset", "tiny", "--device", "cuda", "--out", str(out)]
    assert cli.main(words) == 2
    (error, hint) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --device cuda: the installed torch ")
    assert "--device cpu" in hint
    assert not out.exists()


def test_nothing_to_hold_out_is_refused_before_anything_runs(
    out: Path, entries: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two dialogues each: one to train on, one to test.
    few = (entries / "datasets" / "own-prompts.toml").read_text().replace("dialogues = 8", "dialogues = 2")
    (entries / "datasets" / "few.toml").write_text(few)
    words = ["run", "--methods", "good,mrm", "--dataset", "few", "--out", str(out)]
    assert cli.main(words) == 2
    assert "few, split 0: no seen user has training choices in two groups" in capsys.readouterr().err
    assert not out.exists()
    assert run(out, "good,mrm", "few", selection="last").failed == 0


def test_more_splits_keep_those_there_are(out: Path, tmp_path: Path) -> None:
    run(out, "bt-ridge,good", splits=3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file()}
    run(out, "bt-ridge,good", splits=5)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(scores(out)) == 2 * 5
    whole = tmp_path / "whole"
    run(whole, "bt-ridge,good", splits=5)
    first, second = (results.load(folder).scores for folder in (out, whole))
    # The first three were trained beside fewer others: the same up to rounding.
    np.testing.assert_allclose(first.margin, second.margin, atol=1e-3)


def test_test_rows_do_not_reach_the_fit(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every test choice turned round, every fitted method is the same, and every margin is negated.

    The fits are the same computation in one process.
    """
    names = ["bt", "bt-ridge", "lore-early", "mrm", "mrm-no-basis"]
    run(out, ",".join(names), "own-prompts", splits=1)
    load = datasets.load

    def turned(entry: Any) -> Any:
        data = load(entry)
        chosen, rejected = data.chosen.copy(), data.rejected.copy()
        split = splits.make_split(data, entry.protocol, index=0)
        test = np.concatenate([split.seen_test, split.unseen_test])
        chosen[test], rejected[test] = data.rejected[test], data.chosen[test]
        return replace(data, chosen=chosen, rejected=rejected)

    monkeypatch.setattr(datasets, "load", turned)
    other = tmp_path / "turned"
    run(other, ",".join(names), "own-prompts", splits=1)
    models = [
        {path.parents[1].name: load_tensors(path)[0] for path in folder.rglob("model.safetensors")}
        for folder in (out, other)
    ]
    assert len(models[0]) == len(names)
    for method, tensors in models[0].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, models[1][method][name]), (method, name)
    a, b = (results.load(folder).scores for folder in (out, other))
    assert (a.comparison == b.comparison).all()
    np.testing.assert_allclose(a.margin, -b.margin, atol=1e-6)


@pytest.mark.parametrize("name", ["bt", "bt-ridge", "lore", "lore-early", "mrm", "mrm-no-basis", "reference"])
def test_nan_in_test_items_does_not_reach_the_fit(out: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same computation on the same numbers, twice in one process: test items would be the only difference."""

    def fitted(poison: bool) -> dict[str, torch.Tensor]:
        plan = make_plan([name], ["own-prompts"], splits=1, overrides=short(name), out=out / str(poison))
        setting = plan.jobs[0].setting
        items, split = setting.comparisons().items, setting.splits[0]
        test = np.concatenate([split.seen_test, split.unseen_test])
        used = torch.from_numpy(np.concatenate([setting.data.chosen[test], setting.data.rejected[test]]))
        if poison:
            embedding, reward = items.embedding.clone(), items.reward
            assert reward is not None
            reward = reward.clone()
            embedding[used], reward[used] = torch.nan, torch.nan
            poisoned = Items(embedding, reward, items.head, items.length, items.identity)
            setting._comparisons = setting.data.comparisons(poisoned)
        one = {"population": np.array(["seen"]), "user": np.zeros(1, dtype=np.int64), "margin": np.zeros(1)}
        monkeypatch.setattr(
            "prbench.running.job.score_split", lambda *a: ({ALL_SHOTS: one}, {"adapt": 0.0, "score": 0.0}, {})
        )
        assert runner.execute(plan).failed == 0
        (model,) = (out / str(poison)).rglob("model.safetensors")
        return load_tensors(model)[0]

    clean, poisoned = fitted(False), fitted(True)
    assert clean.keys() == poisoned.keys()
    for tensor in clean:
        assert torch.equal(clean[tensor], poisoned[tensor]), tensor


def test_the_order_on_the_command_line_changes_nothing(out: Path, tmp_path: Path) -> None:
    """Streams are named by what they are for, and jobs share nothing: the same computations in one process, in another order."""
    run(out, "mrm,good,bt-ridge", "tiny,tiny2")
    run(tmp_path / "other", "bt-ridge,mrm,good", "tiny2,tiny")
    assert len(scores(out)) == 12
    assert_same_scores(out, tmp_path / "other")


def keys(out: Path, methods: str = "good", dataset: str = "tiny", **options: Any) -> dict[str, set[str]]:
    plan = make_plan(methods.split(","), dataset.split(","), splits=2, out=out, **options)
    return {job.name: {cell.record.key for cell in job.cells} for job in plan.jobs}


def test_a_cells_key_changes_with_what_changes_its_scores(
    out: Path, entries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = keys(out)["good"]
    assert len(plain) == 2
    assert keys(tmp_path / "elsewhere")["good"] == plain
    assert keys(out, "bt,good,lore")["good"] == plain
    assert keys(out, dataset="tiny", shots=[0, 2])["good"] == plain
    changed = [
        keys(out, overrides=["good.bases=3"])["good[bases=3]"],
        keys(out, seed=44)["good"],
        keys(out, dataset="tiny2")["good"],
        keys(out, selection="validation")["good"],
        keys(out, methods="fewshots")["fewshots"],
    ]
    entry = (entries / "datasets" / "tiny.toml").read_text()
    (entries / "datasets" / "more-splits.toml").write_text(entry.replace("splits = 3", "splits = 30"))
    assert keys(out, dataset="more-splits")["good"] == plain
    protocol = entry + "seen_share = 0.4\n"
    (entries / "datasets" / "other-protocol.toml").write_text(protocol)
    changed.append(keys(out, dataset="other-protocol")["good"])
    monkeypatch.setattr(method_job, "PROTOCOL_VERSION", protocol_module.PROTOCOL_VERSION + 1)
    changed.append(keys(out)["good"])
    everything = [*plain, *(key for some in changed for key in some)]
    assert len(set(everything)) == 2 * 8
    # Split 1 under seed 42 and split 0 under seed 43 draw from different streams.
    assert not plain & keys(out, seed=43)["good"]


def test_an_entry_renamed_keeps_its_scores_and_a_record_its_facts(out: Path) -> None:
    run(out, "mrm", splits=1)
    record = record_of(out, "mrm[epochs=4]")
    assert isinstance(record, DoneRecord)
    assert record.fit.rule == "validation"
    assert record.params["rate"] == 5e-3
    assert (record.parameters.shared, record.parameters.per_user) == (2 * 10 + 2, 2)
    assert record.counts.seen_users == record.counts.unseen_users == 5
    assert record.seed == 42
    assert record.trained_together == 1
    assert record.peak_memory_mb > 1
    assert min(record.seconds.fit, record.seconds.adapt, record.seconds.score) > 0
    assert record.encoder_fingerprint is None
    assert record.simulated is True
    assert record.truth is not None
    assert 0.5 < record.truth.unseen.floor < record.truth.unseen.ceiling < 1


def test_a_record_holds_the_command_that_plans_it_again(out: Path, entries: Path) -> None:
    changes = ["good.bases=3"]
    plan = make_plan(
        ["good", "unsupported"], ["tiny"], splits=2, seed=7, shots=[2], selection="last", device="cpu",
        overrides=changes, out=out,
    )  # fmt: skip
    command = plan.jobs[0].cells[0].record.command
    assert command == (
        f"prbench --registry {entries} run --methods good,unsupported --dataset tiny --splits 2 --seed 7 --shots all,2 --selection last "
        "--device cpu --set good.bases=3"
    )
    assert str(out) not in command
    assert cli.main([*shlex.split(command)[1:], "--out", str(out)]) == 0
    assert record_of(out, "good[bases=3]", 1)["command"] == command
    assert {cell.state for cell in make_plan(["good"], ["tiny"], splits=2, seed=7, shots=[2], selection="last",
                                               device="cpu", overrides=changes, out=out).jobs[0].cells} == {"done"}  # fmt: skip


def test_a_full_disk_is_one_line_and_leaves_no_half_cell(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    write, written = pq.write_table, []

    def full(table: Any, where: Path, **options: Any) -> None:
        written.append(where)
        if len(written) == 2:
            Path(where).write_bytes(b"PAR1 half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, where, **options)

    monkeypatch.setattr(pq, "write_table", full)
    words = ["run", "--methods", "good", "--dataset", "tiny", "--splits", "2", "--out", str(out)]
    assert cli.main(words) == 2
    # The progress display leaves an empty line where there is no terminal.
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("error: the disk is full: ")
    assert lines[1:] == ["hint: free some space and run again"]
    assert len(list(out.glob("*/*/*/*"))) == 1
    assert len(scores(out)) == 1
    assert cli.main(words) == 0
    assert len(scores(out)) == 2


def test_json_lists_the_cells_as_they_stand_after_the_run(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--methods", "good,raises", "--dataset", "tiny", "--splits", "1", "--out", str(out), "--json"]
    assert cli.main(words) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["failed"] == 1
    assert {cell["method"]: cell["status"] for cell in shown["cells"]} == {"good": "done", "raises": "failed"}
    assert all(Path(cell["folder"]).is_dir() for cell in shown["cells"])


def test_an_interrupted_run_keeps_what_is_finished(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planted_methods.Raises, "fit_splits", interrupted)
    words = ["run", "--methods", "good,raises", "--dataset", "tiny", "--splits", "1", "--out", str(out)]
    assert cli.main(words) == 130
    plan = make_plan(["good", "raises"], ["tiny"], splits=1, out=out)
    assert states(plan) == {"good": ["done"], "raises": ["missing"]}


def test_a_lower_precision_is_another_method_and_is_recorded(out: Path) -> None:
    before = torch.get_float32_matmul_precision()
    run(out, "bt")
    assert run(out, "bt", precision="medium").failed == 0
    assert torch.get_float32_matmul_precision() == before
    names = {cell.method: cell for cell in results.load(out).cells}
    assert {name.replace("steps=30", "..") for name in names} == {"bt[..]", "bt[precision=medium,..]"}
    lowered = next(cell for name, cell in names.items() if "medium" in name)
    assert lowered["precision"] == "medium"
    assert lowered["command"].endswith("--precision medium")
    assert "precision=medium" in lowered["title"]


def test_products_run_at_the_asked_precision(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[str] = []
    monkeypatch.setattr("prbench.running.job._run", lambda *_: met.append(torch.get_float32_matmul_precision()))
    run(out, "bt", precision="medium")
    run(out, "bt")
    assert met == ["medium", "highest"]
