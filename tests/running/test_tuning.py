"""Tuning: what it tries, what it judges by, what it never touches, and what a run makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted_methods
import pytest
import torch
from small_runs import DATASET, POSTS, make_plan, registry_folder
from trained import measured

from prbench import cli, registry, results
from prbench import data as datasets
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Items, Message, PreferenceData
from prbench.protocol import selection, splits
from prbench.registry import methods as methods_module
from prbench.registry.schema import ProtocolEntry, SearchRange
from prbench.running import open_dataset, run, tuned, tuning_splits
from prbench.running import plan as plan_module
from prbench.running import study as searching
from prbench.running import tune as tuning
from prbench.running.tuned import Trial, TuningRecord

METHOD = """
title = "{name}"
target = "{target}"
family = "personalised parameters"
paper = ""
summary = "planted"
selection = "{selection}"
[params]
{params}
[search]
{search}
[style]
colour = "#000000"
"""

LORE = "steps = 30\nadapt_steps = 10\ndivisor = 1.0\nrate = {rate}"
ENTRIES = {
    # A step size at which nothing is learned.
    "absurd": ("prbench.methods.lore:LoRe", "last", LORE.format(rate=1e-9), "rate = {low = 0.001, high = 1.0, log = true}"),
    "early": (
        "prbench.methods.lore:LoRe",
        "validation",
        LORE.format(rate=0.1),
        "rate = {low = 0.001, high = 1.0, log = true}\nbases = {low = 1, high = 4}",
    ),
    "failing": ("planted_methods:FailsWithThree", "validation", "bases = 2", "bases = {choices = [2, 3, 4, 5]}"),
    "hopeless": ("planted_methods:FailsWithThree", "validation", "bases = 3", "bases = {choices = [3, 4]}"),
    "useless": ("planted_methods:Unsupported", "validation", "", "bases = {choices = [1, 2]}"),
    "ridge": ("prbench.methods.bt_ridge:BTRidge", "validation", "", "strengths = {choices = [[1.0, 0.1], [0.01, 0.001]]}"),
    "leak": ("planted_methods:Good", "last", "", "bases = {choices = [1, 2, 3]}"),
}  # fmt: skip


def write_entry(folder: Path, name: str, *, file: str = "", **changes: str) -> None:
    target, rule, params, search = ENTRIES[name]
    values = {"target": target, "selection": rule, "params": params, "search": search} | changes
    (folder / "methods" / f"{file or name}.toml").write_text(METHOD.format(name=name, **values))


@pytest.fixture
def entries(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """Small data sets and methods with a [search], in use."""
    folder = registry_folder(tmp_path / "registry")
    for name in ENTRIES:
        write_entry(folder, name)
    # Many users, many choices, little noise: what is learned shows.
    layout = POSTS.replace("comparisons = 24", "comparisons = 80").replace("posts = 40", "posts = 80")
    clear = DATASET.format(name="clear", users=30, layout=layout, seed=5).replace(
        "temperature = 0.3", "temperature = 0.05"
    )
    (folder / "datasets" / "clear.toml").write_text(clear)
    registry.reset()
    registry.use([folder])
    yield folder
    registry.reset()


@pytest.fixture
def out(entries: Path, tmp_path: Path) -> Path:
    """A folder of tuned parameters that is not there yet."""
    return tmp_path / "tuned"


def tune(out: Path, methods: str, dataset: str = "tiny", *, trials: int = 4, **options: Any) -> tuning.TuningPlan:
    options.setdefault("splits_", 2)
    plan = tuning.plan(methods.split(","), dataset.split(","), trials=trials, out=out, **options)
    tuning.execute(plan)
    return plan


def record_of(out: Path, method: str, dataset: str = "tiny") -> TuningRecord:
    return tuned.read(tuned.record_file(out, dataset, "own", method))


def timeless(record: TuningRecord) -> dict[str, Any]:
    table = record.model_dump(mode="json")
    for trial in table["trials"]:
        trial.pop("seconds")
    # Which methods a command names in which order is nothing that was found.
    table.pop("command")
    return table


def run_plan(out: Path, methods: str, wanted: str, dataset: str = "tiny", **options: Any) -> plan_module.Plan:
    options.setdefault("splits", 2)
    options.setdefault("out", out.parent / "runs")
    return make_plan(methods.split(","), [dataset], selection=wanted, tuned=out, **options)


# --- tuning splits -------------------------------------------------------------------------------------------------


def test_a_tuning_split_divides_the_training_side_alone(entries: Path) -> None:
    data = datasets.load(registry.get("datasets", "tiny"))
    protocol = ProtocolEntry()
    whole = splits.make_split(data, protocol, index=1_003, seed=7)
    split = tuning_splits.tuning_split(data, protocol, index=1_003, seed=7)
    assert sorted([*split.seen_train, *split.seen_test]) == sorted(whole.seen_train)
    assert sorted([*split.unseen_support, *split.unseen_test]) == sorted(whole.unseen_support)
    assert split.seen.tolist() == whole.seen.tolist()
    assert split.unseen.tolist() == whole.unseen.tolist()
    assert (split.index, split.seed) == (1_003, 1_010)
    for kept, aside, users in (
        (split.seen_train, split.seen_test, split.seen),
        (split.unseen_support, split.unseen_test, split.unseen),
    ):
        assert set(data.user[kept]) == set(users)
        assert set(data.user[aside]) <= set(users)
        assert 0.1 < len(aside) / (len(kept) + len(aside)) < 0.35
        for user in users:
            groups = [set(data.group[part[data.user[part] == user]]) for part in (kept, aside)]
            assert not groups[0] & groups[1]
    # What methods choose by is a third part, inside what is left.
    fit, inner = selection.validation_rows(data, split, protocol)
    assert sorted([*fit, *inner]) == sorted(split.seen_train)
    assert not set(inner) & set(split.seen_test)


def test_whole_blocks_are_set_aside_for_both_populations(entries: Path) -> None:
    data = datasets.load(registry.get("datasets", "tiny"))
    data = replace(data, block=data.group % 8)
    assert data.block is not None
    split = tuning_splits.tuning_split(data, ProtocolEntry(unit="block"), index=1_000, seed=0)
    aside = [set(data.block[part]) for part in (split.seen_test, split.unseen_test)]
    kept = [set(data.block[part]) for part in (split.seen_train, split.unseen_support)]
    assert aside[0] == aside[1] != set()
    assert not (aside[0] | aside[1]) & (kept[0] | kept[1])


def test_nothing_to_set_aside_is_refused(entries: Path) -> None:
    data = datasets.load(registry.get("datasets", "tiny"))
    first = np.unique(data.user, return_index=True)[1]
    # One group to train on and one to test on.
    keep = np.sort(np.concatenate([np.flatnonzero((data.user == u) & np.isin(data.group, np.unique(data.group[data.user == u])[:2])) for u in data.user[first]]))  # fmt: skip
    few = replace(
        data, user=data.user[keep], chosen=data.chosen[keep], rejected=data.rejected[keep], group=data.group[keep],
        truth=None,
    )  # fmt: skip
    with pytest.raises(InputError, match="tuning split 1000: no seen user has training choices in two groups"):
        tuning_splits.tuning_split(few, ProtocolEntry(), index=1_000, seed=0)


def test_reported_splits_never_reach_the_tuning_ones(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--methods", "good", "--dataset", "tiny", "--dry-run", "--out", str(out)]
    assert cli.main([*words, "--splits", "1001"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error == [
        "error: tiny: 1,001 splits reach into those from number 1,000 on, which are for tuning and never reported",
        "hint: --splits 1000 is the most",
    ]


# --- trials --------------------------------------------------------------------------------------------------------


def test_the_first_trials_are_published_and_the_others_in_the_space(out: Path) -> None:
    tune(out, "absurd,early", trials=6)
    last, early = record_of(out, "absurd").trials, record_of(out, "early").trials
    assert [(t.params, t.rule) for t in last[:2]] == [({"rate": 1e-9}, "last"), ({"rate": 1e-9}, "validation")]
    assert (early[0].params, early[0].rule) == ({"rate": 0.1, "bases": 5}, "validation")
    assert len(last) == len(early) == 6
    assert {t.rule for t in last[1:]} == {t.rule for t in early} == {"validation"}
    for trial in last[2:]:
        assert trial.params.keys() == {"rate"}
        assert 0.001 <= trial.params["rate"] <= 1.0
    for trial in early[1:]:
        assert trial.params["bases"] in (1, 2, 3, 4)
        assert type(trial.params["bases"]) is int
        assert 0.001 <= trial.params["rate"] <= 1.0
    assert len({t.params["rate"] for t in early}) == 6


def test_the_objective_is_the_accuracy_of_all_users_on_the_choices_set_aside(out: Path) -> None:
    """Trained together or one at a time, a split has the same bits, so no decision differs."""
    plan = tune(out, "early", trials=2)
    (study,) = plan.studies
    trial = study.record.trials[1]
    setting = study.setting
    comparisons = setting.comparisons()
    overall, seen, unseen = [], [], []
    for split in setting.splits:
        given = selection.fit_problem("validation", setting.data, comparisons, split, setting.entry.protocol)
        used = np.concatenate([given.train.row, given.validation.row])
        assert not set(used) & set(np.concatenate([split.seen_test, split.unseen_test]))
        method = methods_module.make_method(study.entry, setting.entry, trial.params)
        method.fit_seen(given.train, given.validation, rng=given.rng)
        states = method.adapt_unseen(comparisons.take(split.unseen_support), rng=given.rng.child("adapt"))
        per_user = []
        for known, rows in ((method.seen_users(), split.seen_test), (states, split.unseen_test)):
            test = comparisons.take(rows)
            right = (method.margins(known, test) > 0).numpy()
            per_user.append([right[test.user == user].mean() for user in np.unique(test.user)])
        seen.append(np.mean(per_user[0]))
        unseen.append(np.mean(per_user[1]))
        overall.append(np.mean(per_user[0] + per_user[1]))
    assert trial.splits == pytest.approx(overall)
    assert trial.objective == pytest.approx(np.mean(trial.splits))
    assert trial.seen == pytest.approx(np.mean(seen))
    assert trial.unseen == pytest.approx(np.mean(unseen))
    assert len(trial.chosen) == 2


def poison(setting: open_dataset.OpenDataset, split: splits.Split) -> None:
    """NaN in every item that only test rows of the split's tuning split show."""
    whole = splits.make_split(setting.data, setting.entry.protocol, index=split.index, seed=42)
    items = setting.comparisons().items
    rows = np.concatenate([whole.seen_test, whole.unseen_test])
    used = torch.from_numpy(np.concatenate([setting.data.chosen[rows], setting.data.rejected[rows]]))
    embedding = items.embedding.clone()
    embedding[used] = torch.nan
    poisoned = Items(embedding, items.reward, items.head, items.length, items.identity)
    setting._comparisons = setting.data.comparisons(poisoned)


@pytest.mark.parametrize("method", ["early", "ridge", "absurd"])
def test_test_rows_are_never_touched(out: Path, tmp_path: Path, method: str) -> None:
    """The same computation on the same numbers, twice in one process: test rows would be the only difference."""
    clean = tune(out, method, "own-prompts", splits_=1)
    plan = tuning.plan([method], ["own-prompts"], trials=4, splits_=1, out=tmp_path / "poisoned")
    poison(plan.studies[0].setting, plan.studies[0].setting.splits[0])
    tuning.execute(plan)
    assert clean.studies[0].record.failed == 0
    assert timeless(plan.studies[0].record) == timeless(clean.studies[0].record)


def test_a_method_that_looks_at_test_items_would_be_noticed(out: Path, entries: Path, tmp_path: Path) -> None:
    """The poison of the test before reaches what reads it."""
    write_entry(entries, "leak", target="planted_methods:Peeks")
    plan = tuning.plan(["leak"], ["own-prompts"], trials=2, splits_=1, out=out)
    poison(plan.studies[0].setting, plan.studies[0].setting.splits[0])
    tuning.execute(plan)
    assert plan.studies[0].record.failed == 2


def test_the_same_seed_gives_the_same_trials_and_another_others(out: Path, tmp_path: Path) -> None:
    """The same trials twice in one process; a split's bits do not depend on what was fitted before."""
    tune(out, "early,absurd")
    tune(tmp_path / "b", "absurd,early")
    tune(tmp_path / "c", "early", seed=43)
    for method in ("early", "absurd"):
        assert timeless(record_of(out, method)) == timeless(record_of(tmp_path / "b", method))
    first, other = record_of(out, "early"), record_of(tmp_path / "c", "early")
    assert first.trials[0].params == other.trials[0].params
    assert first.trials[1].params != other.trials[1].params
    assert first.trials[0].splits != other.trials[0].splits


def test_more_trials_go_on_where_fewer_stopped(out: Path, tmp_path: Path) -> None:
    """Proposals depend on the trials that are written down, and both searches are in one process."""
    tune(out, "early", trials=3)
    before = record_of(out, "early").trials
    tune(out, "early", trials=7)
    tune(tmp_path / "whole", "early", trials=7)
    assert timeless(record_of(out, "early")) == timeless(record_of(tmp_path / "whole", "early"))
    # Trials that were done were not done again: their times are still theirs.
    assert record_of(out, "early").trials[:3] == before


@pytest.mark.extras
def test_a_killed_search_resumes_to_the_same_record(entries: Path, tmp_path: Path) -> None:
    """Killed (SIGKILL) while the second method's third trial is being written.

    The killed process has as many threads as this one.
    """
    code = """
import os, signal, sys
from prbench import cli
from prbench.running import tuned
write, written = tuned.write_json, []
def dying(path, table):
    written.append(path)
    if len(written) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, table)
tuned.write_json = dying
sys.exit(cli.main(sys.argv[1:]))
"""
    words = ["tune", "--registry", entries, "--methods", "early,absurd", "--dataset", "tiny", "--trials", "4"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", code, *map(str, words), "--splits", "2", "--out", str(killed)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [len(record_of(killed, name).trials) for name in ("early", "absurd")] == [4, 2]
    with pytest.raises(InputError, match="the tuning of absurd stopped after 2 of 4 trials"):
        run_plan(killed, "absurd", "tuned")
    plan = tuning.plan(["early", "absurd"], ["tiny"], trials=4, splits_=2, out=killed)
    assert [study.left() for study in plan.studies] == [0, 2]
    tuning.execute(plan)
    tune(whole, "early,absurd")
    for name in ("early", "absurd"):
        assert timeless(record_of(killed, name)) == timeless(record_of(whole, name))


def test_an_interrupted_search_says_how_to_go_on(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate, done = searching._evaluate, []

    def interrupted(*arguments: Any) -> dict[str, Any]:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(searching, "_evaluate", interrupted)
    words = ["tune", "--methods", "early", "--dataset", "tiny", "--trials", "4", "--splits", "2", "--out", str(out)]
    assert cli.main(words) == 130
    assert "run the same command to go on" in capsys.readouterr().err
    assert len(record_of(out, "early").trials) == 2
    assert cli.main(words) == 0
    assert len(record_of(out, "early").trials) == 4


@pytest.fixture
def proposed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals go through the choices again and again, so that each of them is certain to come."""

    def propose(search: dict[str, SearchRange], trials: list[Trial], rng: Rng) -> dict[str, Any]:
        choices = search["bases"].choices
        assert choices is not None
        return {"bases": choices[len(trials) % len(choices)]}

    monkeypatch.setattr(searching, "propose", propose)


@pytest.mark.usefixtures("proposed_in_turn")
def test_failed_trials_are_recorded_and_count(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(out, "failing", trials=12)
    record = record_of(out, "failing")
    by_bases = {trial.params["bases"]: trial for trial in record.trials}
    assert len(record.trials) == 12
    assert by_bases[3].reason == "ZeroDivisionError: three [bases]"
    assert by_bases[4].reason.startswith("FloatingPointError: split 1000: ")
    assert by_bases[3].objective is by_bases[4].objective is None
    assert record.failed == sum(trial.params["bases"] in (3, 4) for trial in record.trials) == 6
    assert record.tuned is not None
    assert record.tuned.params["bases"] in (2, 5)
    assert "(bases=3) failed: ZeroDivisionError: three [bases]" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("proposed_in_turn")
def test_a_setting_proposed_again_is_not_fitted_again(out: Path) -> None:
    planted_methods.FITS.clear()
    tune(out, "failing", trials=12)
    record = record_of(out, "failing")
    fitted = [trial for trial in record.trials if trial.repeats is None]
    assert len({trial.params["bases"] for trial in fitted}) == len(fitted) == 4
    assert len(planted_methods.FITS) == 3  # the fit with three bases raises before it is counted
    for trial in record.trials:
        if trial.repeats is not None:
            first = record.trials[trial.repeats]
            assert first.repeats is None
            assert (trial.params, trial.splits, trial.reason) == (first.params, first.splits, first.reason)


def test_a_method_of_which_every_trial_fails(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "--methods", "hopeless,early", "--dataset", "tiny", "--trials", "2", "--splits", "1"]
    assert cli.main([*words, "--out", str(out)]) == 1
    assert "every trial failed: ZeroDivisionError" in " ".join(capsys.readouterr().out.split())
    assert record_of(out, "early").tuned is not None
    with pytest.raises(InputError, match="every trial of hopeless failed, the first with ZeroDivisionError"):
        run_plan(out, "hopeless", "tuned")


@pytest.mark.trained
def test_tuning_repairs_an_absurd_published_rate(out: Path) -> None:
    tune(out, "absurd", "clear", trials=12)
    record = record_of(out, "absurd", "clear")
    assert record.published is not None
    assert record.tuned is not None
    # The first two trials both have the published rate.
    published, stopped = (record.trials[i].objective or 0 for i in (0, 1))
    assert record.published.objective == published
    measured("gain", (record.tuned.objective or 0) - published, at_least=0.03, control=stopped - published)
    assert record.best == max(range(12), key=lambda i: record.trials[i].objective or 0)
    plan = run_plan(out, "absurd", "published,validation,tuned", "clear", splits=3)
    assert run.execute(plan).failed == 0
    found = results.load(plan.out).scores
    accuracy = {name: (part.margin > 0).mean() for name, part in found.groupby("selection", observed=True)}
    gain, stopped_gain = (accuracy[name] - accuracy["last"] for name in ("tuned", "validation"))
    measured("gain on reported splits", gain, at_least=0.03, control=stopped_gain)


def test_of_equals_the_first_is_best_and_a_published_setting_can_win() -> None:
    trials = [
        Trial(number=i, params={}, rule="validation", objective=value, reason="" if value is not None else "no")
        for i, value in enumerate([0.7, None, 0.6, 0.7])
    ]
    assert tuned.best_of(trials) == 0
    assert tuned.best_of(trials[1:2]) is None
    assert tuned.best_of(trials[2:]) == 3


def test_a_published_winner_keeps_the_published_rule(out: Path) -> None:
    tune(out, "leak", trials=1)
    (job,) = run_plan(out, "leak", "tuned").jobs
    assert (job.selection, job.rule) == ("tuned", "last")
    assert run.execute(run_plan(out, "leak", "tuned")).failed == 0
    (cell, _) = results.load(out.parent / "runs").cells
    assert cell.fit.rule == "last"
    assert cell.selection == "tuned"


# --- the search ----------------------------------------------------------------------------------------------------


@pytest.mark.trained
def test_proposals_stay_in_the_space_and_learn() -> None:
    search = {
        "rate": SearchRange(low=1e-4, high=1.0, log=True),
        "bases": SearchRange(low=1, high=8),
        "sizes": SearchRange(choices=[[1], [2, 3], None]),
    }
    trials: list[Trial] = [
        # Out of the space, and by another rule: neither may break a proposal.
        Trial(number=0, params={"rate": 5.0, "bases": 2, "sizes": [1]}, rule="validation", objective=0.9),
        Trial(number=1, params={"rate": 0.1, "bases": 2, "sizes": [1]}, rule="last", objective=0.9),
    ]
    for number in range(2, 45):
        params = searching.propose(search, trials, Rng("proposals", number))
        assert params == searching.propose(search, trials, Rng("proposals", number))
        assert 1e-4 <= params["rate"] <= 1.0
        assert params["bases"] in range(1, 9)
        assert type(params["bases"]) is int
        assert params["sizes"] in ([1], [2, 3], None)
        value = 1 - min(1.0, abs(np.log10(params["rate"]) + 2) / 2)
        trials.append(Trial(number=number, params=params, rule="validation", objective=float(value)))
    # Rates drawn at random, as the first ten are, have values that are uniform between 0 and 1.
    late = float(np.mean([t.objective or 0 for t in trials[-20:]]))
    measured("objective", late, at_least=0.6, control=0.5)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("low = 0.1", "give both low and high, or choices"),
        ("low = 0.1, high = 0.1", "low must be below high, both finite"),
        ("low = 2, high = inf", "low must be below high, both finite"),
        ("low = 0, high = 1, log = true", "a logarithmic range must start above 0"),
        ("choices = []", "choices must not be empty"),
        ("choices = [1], low = 1, high = 2", "give either low and high or choices"),
    ],
)
def test_a_search_space_that_is_none_is_refused(entries: Path, space: str, message: str) -> None:
    write_entry(entries, "early", search=f"rate = {{{space}}}")
    with pytest.raises(InputError, match=rf"early\.toml: search\.rate: {message}"):
        registry.get("methods", "early")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("rates = {low = 0.1, high = 1.0}", "early.toml: search.rates: early has no parameter 'rates'; did you mean rate"),
        ("bases = {choices = [2, 2.5]}", "early.toml: search.bases: "),
        ("rate = {low = -1.0, high = 1.0}", "early.toml: search.rate: "),
    ],
)  # fmt: skip
def test_a_search_that_the_method_cannot_take_is_refused(
    out: Path, entries: Path, capsys: pytest.CaptureFixture[str], search: str, message: str
) -> None:
    write_entry(entries, "early", search=search)
    assert cli.main(["tune", "--methods", "early", "--dataset", "tiny", "--trials", "2", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err.splitlines()[0]
    assert not out.exists()


# --- records and runs ----------------------------------------------------------------------------------------------


def test_what_has_nothing_to_tune_says_so(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tune(out, "good,useless,early", trials=2)
    # Nothing was tuned, and what its entry says needs no record.
    assert not tuned.record_file(out, "tiny", "own", "good").exists()
    assert record_of(out, "useless").untuned == "10 dimensions [are] too many"
    assert "useless on tiny is not tuned: 10 dimensions [are] too many" in capsys.readouterr().err
    plan = run_plan(out, "good,useless,early", "tuned")
    planned = {(cell["method"], cell["status"], cell["reason"]) for cell in plan.as_dict()["cells"]}
    assert planned == {
        ("good", "missing", "will be skipped: its entry has no [search], so there is nothing to tune"),
        ("useless", "missing", "will be skipped: 10 dimensions [are] too many"),
        ("early", "missing", ""),
    }
    assert "will be skipped: 10 dimensions [are] too many" in [row[-1] for row in plan.table().rows]
    outcome = run.execute(plan)
    states = {job.name: {(cell.state, cell.reason) for cell in job.cells} for job in outcome.plan.jobs}
    assert states == {
        "good": {("skipped", "its entry has no [search], so there is nothing to tune")},
        "useless": {("skipped", "10 dimensions [are] too many")},
        "early": {("done", "")},
    }


def test_a_tuned_cell_says_where_its_parameters_are_from(out: Path) -> None:
    tune(out, "early", trials=3)
    record = record_of(out, "early")
    assert record.tuned is not None
    plan = run_plan(out, "early", "tuned")
    run.execute(plan)
    cell = results.load(plan.out).cells[0]
    assert cell.selection == "tuned"
    assert cell.params.items() >= record.tuned.params.items()
    assert cell.method == "early"
    assert cell.tuned.trials == 3
    assert cell.tuned.model_extra["best"] == record.best
    assert cell.tuned.tuning_splits == [1_000, 1_001]
    assert cell.tuned.model_extra["objective"]["tuned"] == record.tuned.objective
    assert cell.fit.rule == "validation"
    assert not {cell.record.split for job in plan.jobs for cell in job.cells} & set(record.basis.splits)


def keys(plan: plan_module.Plan) -> dict[str, list[str]]:
    return {job.selection: [cell.record.key for cell in job.cells] for job in plan.jobs}


def test_cell_keys_hold_what_was_tuned_and_old_ones_stay(out: Path, entries: Path, tmp_path: Path) -> None:
    write_entry(entries, "early", params=LORE.format(rate=1e-9))
    tune(out, "early", "clear", trials=5)
    tune(tmp_path / "other" / "tuned", "early", "clear", trials=1)
    assert record_of(out, "early", "clear").best != record_of(tmp_path / "other" / "tuned", "early", "clear").best
    plain = keys(make_plan(["early"], ["clear"], splits=2, out=tmp_path / "runs"))
    several = keys(run_plan(out, "early", "published,tuned,test-oracle,validation,last", "clear"))
    assert list(several) == ["validation", "tuned", "test-oracle", "last"]
    assert plain == {"validation": several["validation"]}
    assert keys(run_plan(out, "early", "validation", "clear")) == plain
    other = keys(run_plan(tmp_path / "other" / "tuned", "early", "tuned", "clear"))
    everything = [*(key for some in several.values() for key in some), *other["tuned"]]
    assert len(set(everything)) == len(everything) == 10


def test_old_keys_are_a_hash_of_what_they_always_were(out: Path) -> None:
    """Finished results elsewhere are found by these keys: they may not change with what tuning adds."""
    from prbench.base.files import digest

    (job,) = make_plan(["length"], ["tiny"], splits=1, out=out).jobs
    record = job.cells[0].record
    parts = {
        "format": 1,
        "protocol_version": record.protocol_version,
        "data": record.data_fingerprint,
        "embedding": record.embedding_fingerprint,
        "protocol": {k: v for k, v in record.stored_protocol().items() if k != "splits"},
        "split": 0,
        "seed": 42,
        "target": "prbench.methods.length:Length",
        "params": record.params,
        "selection": job.entry.selection,
    }
    assert record.key == digest(parts, length=12)


def test_asking_for_several_selections() -> None:
    assert selection.parse_selections(None) == ["published"]
    assert selection.parse_selections("tuned, published,tuned") == ["tuned", "published"]
    with pytest.raises(InputError, match="unknown selection 'tunned'; did you mean tuned"):
        selection.parse_selections("published,tunned")
    with pytest.raises(InputError, match="--selection names nothing"):
        selection.parse_selections(" , ")


Damage = Callable[[Path, Path], object]


def rewrite(change: Callable[[dict[str, Any]], object]) -> Damage:
    """A damage that changes a record's values."""

    def damage(path: Path, _: Path) -> None:
        table = json.loads(path.read_text())
        del table["sha256"]
        change(table)
        path.write_text(json.dumps(table))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, _: path.unlink(), "early is not tuned on tiny with own: no "),
        (lambda path, _: path.write_text(path.read_text()[:200]), "early.json is unreadable: "),
        (lambda path, _: path.write_text("[]"), "early.json has tuning format None, this prbench reads format 1"),
        (rewrite(lambda t: t.update(format=2)), "early.json has tuning format 2, this prbench reads format 1"),
        (rewrite(lambda t: t.update(bests=1)), "unknown key 'bests'; did you mean best or"),
        (rewrite(lambda t: t.update(best=None)), "best is None, but the trials say "),
        (rewrite(lambda t: t["trials"].pop(0)), "the trials are not numbered 0, 1, ..."),
        (
            rewrite(lambda t: t["trials"][0].update(objective=None)),
            "trial 0 must have either an objective or a reason",
        ),
        (rewrite(lambda t: t["trials"][0].update(objective=1.5)), "trials.0.objective: "),
        (rewrite(lambda t: t.update(budget=2)), "there are 3 trials in a budget of 2"),
        (rewrite(lambda t: t.update(budget=5)), "the tuning of early stopped after 3 of 5 trials"),
        (rewrite(lambda t: t.update(method="bt")), "early.json is the record of bt on tiny with own"),
        (rewrite(lambda t: t["basis"].update(data_fingerprint="0")), "early.json rests on another data"),
        (rewrite(lambda t: t["trials"][1]["params"].update(nonsense=1)), "trial 1 are not those of the search"),
        (rewrite(lambda t: [trial["params"].update(rate="x") for trial in t["trials"]]), ": rate: "),
        (
            lambda _, entries: write_entry(entries, "early", params=LORE.format(rate=0.2)),
            "early.json rests on another published parameters",
        ),
        (
            lambda _, entries: write_entry(entries, "early", search="bases = {choices = [1]}"),
            "early.json rests on another search space",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_one_line(
    out: Path, entries: Path, capsys: pytest.CaptureFixture[str], damage: Damage, message: str
) -> None:
    tune(out, "early", trials=3, splits_=1)
    damage(tuned.record_file(out, "tiny", "own", "early"), entries)
    runs = out.parent / "runs"
    words = ["run", "--methods", "early", "--dataset", "tiny", "--selection", "tuned", "--tuned", str(out)]
    assert cli.main([*words, "--out", str(runs)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert len(lines) == 2
    assert lines[1].startswith("hint: ")
    assert not runs.exists()


def test_a_missing_record_names_the_command(out: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_plan(out, "early", "tuned")
    assert caught.value.hint == f"run `prbench tune --methods early --dataset tiny --trials N --out {out}`"


def test_unequal_budgets_do_not_share_a_run(out: Path) -> None:
    tune(out, "early", trials=3)
    tune(out, "ridge", trials=2)
    with pytest.raises(
        InputError, match="early was tuned with 3 trials on tuning splits 1000, 1001 of seed 42, ridge"
    ):
        run_plan(out, "early,ridge", "tuned")
    tune(out, "ridge", trials=3)
    assert len(run_plan(out, "early,ridge", "tuned").jobs) == 2


def test_a_tuned_method_takes_no_set(out: Path) -> None:
    tune(out, "early", trials=2)
    with pytest.raises(InputError, match=r"--set early.steps: a tuned method runs with its tuned parameters"):
        run_plan(out, "early", "published,tuned", overrides=["early.steps=10"])


def test_a_reported_split_that_was_tuned_on_is_refused(out: Path) -> None:
    tune(out, "early", trials=2)
    with pytest.raises(InputError, match="the split of seed 1042 would be reported, and early was tuned on it"):
        run_plan(out, "early", "tuned", seed=1_041)
    assert run_plan(out, "early", "tuned", seed=1_050).jobs


@pytest.mark.parametrize(
    ("again", "message"),
    [
        ({"trials": 2}, "holds 3 trials already, --trials asks for 2"),
        ({"trials": 3, "seed": 1}, "rests on another seed"),
        ({"trials": 3, "splits_": 3}, "rests on another tuning splits"),
    ],
)
def test_a_record_of_another_search_is_not_gone_on_with(out: Path, again: dict[str, Any], message: str) -> None:
    tune(out, "early", trials=3)
    before = record_of(out, "early")
    with pytest.raises(InputError, match=message):
        tune(out, "early", **again)
    assert record_of(out, "early") == before


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--methods", "earlly", "--dataset", "tiny", "--trials", "2"],
            "unknown method 'earlly'; did you mean early",
        ),
        (
            ["--methods", "early", "--dataset", "tinny", "--trials", "2"],
            "unknown data set 'tinny'; did you mean tiny",
        ),
        (["--methods", "early", "--dataset", "tiny"], "Missing option '--trials'"),
        (["--methods", "early", "--dataset", "tiny", "--trials", "0"], "--trials"),
        (["--methods", "early", "--dataset", "tiny", "--trials", "2", "--encoder", "minilm"], "cannot be encoded"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    out: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["tune", *words, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[0]
    assert len(captured.err.splitlines()) <= 2
    assert not out.exists()


def test_a_dry_run_only_says_what_is_left(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "--methods", "early,good", "--dataset", "tiny", "--splits", "2", "--out", str(out), "--json"]
    assert cli.main([*words, "--trials", "3", "--dry-run"]) == 0
    assert not out.exists()
    planned = json.loads(capsys.readouterr().out)["studies"]
    assert [(s["method"], s["trials"], s["budget"]) for s in planned] == [("early", 0, 3), ("good", 0, 3)]
    assert cli.main([*words, "--trials", "3"]) == 0
    (early, good) = json.loads(capsys.readouterr().out)["studies"]
    assert early["trials"] == 3
    assert early["tuned"] >= early["published"] >= 0
    assert early["params"].keys() == {"rate", "bases"}
    assert Path(early["file"]).is_file()
    assert good["untuned"].startswith("its entry has no [search]")


def test_the_table_says_what_to_make_of_it(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "--dataset", "tiny", "--trials", "4", "--splits", "1", "--out", str(out)]
    assert cli.main([*words, "--methods", "absurd,good,failing"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "chosen by validation, published: last" in text
    assert "its entry has no [search], so there is nothing to tune" in text
    assert "tuned is the best of all trials, so it flatters" in text


def test_a_search_without_effect_is_called_that(out: Path, entries: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Under rule validation a strength is chosen from `strengths`, whatever `strength` says.
    write_entry(entries, "ridge", search="strength = {low = 0.001, high = 1.0, log = true}")
    assert cli.main(["tune", "--methods", "ridge", "--dataset", "tiny", "--trials", "4", "--out", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "every setting scored the same" in text
    assert "its [search] has no effect" in text


def test_all_means_the_default_entries(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def plan(methods: list[str], *_: Any, **__: Any) -> Any:
        asked.append(methods)
        raise InputError("far enough")

    monkeypatch.setattr(tuning, "plan", plan)
    assert cli.main(["tune", "--methods", "all", "--dataset", "tiny", "--trials", "1", "--out", str(out)]) == 2
    assert asked == [[entry.name for entry in registry.load_all("methods") if entry.default]]


def _few(users: int = 2, groups: int = 4) -> PreferenceData:
    """`users` people with one choice in each of `groups` groups: few ways to divide them."""
    n = users * groups
    return PreferenceData(
        name="few",
        contexts=tuple((Message("user", f"question {i}"),) for i in range(n)),
        item_context=np.repeat(np.arange(n), 2),
        responses=tuple(f"reply {i}" for i in range(2 * n)),
        user_keys=tuple(map(str, range(users))),
        user=np.repeat(np.arange(users), groups),
        chosen=2 * np.arange(n),
        rejected=2 * np.arange(n) + 1,
        group=np.arange(n),
        counts={},
    )


def test_tuning_splits_that_repeat_one_another_count_once(capsys: pytest.CaptureFixture[str]) -> None:
    # Two of four groups train, one of them is set aside: 12 ordered ways for each person, and two orders of people.
    found = tuning_splits.tuning_splits(_few(), ProtocolEntry(), 2_000, seed=0)
    assert len({split.same_division() for split in found}) == len(found) == 2 * 12 * 12
    said = f"few: 2000 tuning splits were asked for, and {len(found)} different ones were found"
    assert said in " ".join(capsys.readouterr().err.split())
    assert len(tuning_splits.tuning_splits(_few(), ProtocolEntry(), 3, seed=0)) == 3
    assert not capsys.readouterr().err
