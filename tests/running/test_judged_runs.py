"""Methods that read texts beside methods that read embeddings: one command, one board."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from judged_runs import judge_entry, registry_folder
from taste_judge import TasteJudge

from prbench import cli, registry, results
from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray
from prbench.judging.method import TEXT, PairwiseMethod, pair_at, unpacked
from prbench.judging.reader import Tally, reader_of
from prbench.loaders.sim_text import WARM
from prbench.protocol.metrics import decisions
from prbench.registry import methods
from prbench.results.record import DoneRecord, finished
from prbench.running.judged import CallNotes
from prbench.running.plan import plan
from prbench.running.request import RunRequest

BOTH = ["run", "--dataset", "taste-text", "--methods", "length,judge,judge-icl", "--judge", "taste"]
ICL = ["--set", "judge-icl.shots=24"]


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def folder(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """A registry folder in use."""
    registry.reset()
    made = registry_folder(tmp_path / "registry")
    registry.use([made])
    yield made
    registry.reset()


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs prbench with that registry folder."""

    def call(*args: str) -> Outcome:
        capsys.readouterr()
        code = cli.main(["--registry", str(folder), *args])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


def cells(out: Path) -> dict[str, list[DoneRecord]]:
    by_method: dict[str, list[DoneRecord]] = {}
    for cell in finished(results.load(out).cells):
        by_method.setdefault(cell.method, []).append(cell)
    return by_method


def test_one_command_makes_one_board(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert run(*BOTH, *ICL, "--out", str(out)).code == 0
    made = cells(out)
    assert {cell.encoder for cell in made["length"]} == {"planted"}
    assert {cell.encoder for cell in made["judge"]} == {"taste"}
    assert all(cell.reader == "judge" for cell in made["judge"])
    assert "reader" not in made["length"][0].stored()
    judge = made["judge"][0]
    assert judge.judging is not None
    assert judge.judging.verdicts["overall"].failed_orders == 0
    # Each test pair is asked about in both orders, for the adapted user and at cold start: the same question here.
    tests = judge.counts.seen_test + judge.counts.unseen_test
    assert judge.judging.test.asked == 4 * tests
    told = run("report", "leaderboard", "--runs", str(out), "--out", str(tmp_path / "out"), "--baseline", "length")
    assert told.code == 0
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("title")
    assert table["encoder"].unique().tolist() == ["planted"]
    assert table["reader"].to_dict() == {
        "Length": "planted", "Judge": "taste", "Judge with examples (shots=24)": "taste"
    }  # fmt: skip
    assert table.loc["Judge with examples (shots=24)", "overall"] > 0.85
    assert table.loc["Judge", "overall"] == 0.5
    assert np.isfinite(table.loc["Judge with examples (shots=24)", "p_corrected"])
    pairs = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    assert len(pairs[pairs["population"] == "overall"]) == 3
    assert "Read by" in told.out
    assert "Read by" in (tmp_path / "out" / "index.html").read_text()
    # Nothing is left to do, and nothing is asked again.
    assert run(*BOTH, *ICL, "--out", str(out), "--json").out.count('"status": "done"') == 6


def test_two_judge_models_have_a_row_each(run: Run, folder: Path, tmp_path: Path) -> None:
    judge_entry(folder, "other", "taste_judge:TasteJudge", 'released = "2024"')
    out = tmp_path / "runs"
    for name in ("taste", "other"):
        chosen = ["--methods", "judge", "--dataset", "taste-text", "--judge", name, "--out", str(out)]
        assert run("run", *chosen).code == 0
    assert run("report", "leaderboard", "--runs", str(out), "--out", str(tmp_path / "out")).code == 0
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert sorted(table["title"]) == ["Judge by other", "Judge by taste"]
    assert table["encoder"].nunique() == 1


def test_without_a_judge_text_methods_are_left_out(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "runs")
    left_out = run("run", "--dataset", "taste-text", "--methods", "length,judge", "--out", out)
    assert left_out.code == 0
    assert "skipped: judge: reading texts needs a judge model (add --judge" in left_out.err
    assert list(cells(Path(out))) == ["length"]
    alone = run("run", "--dataset", "taste-text", "--methods", "judge", "--out", out)
    assert alone.code == 2
    assert "needs a judge model" in alone.err


def test_data_without_texts_are_skipped_before_any_call(run: Run, tmp_path: Path) -> None:
    told = run("run", "--dataset", "simulated", "--methods", "judge", "--judge", "taste", "--splits", "1",
               "--out", str(tmp_path / "runs"))  # fmt: skip
    assert told.code == 0
    assert "judge is skipped on simulated: the data have embeddings and no texts" in told.err


def test_unknown_judges_and_samples_are_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    for args, message in (
        (["--judge", "tast"], "unknown judge model 'tast': --judge tast is neither an entry nor a folder in "),
        (["--judge", "./nothing"], "--judge ./nothing is not a folder"),
        (["--judge", "taste", "--test-sample", "users=2"], "--test-sample users=2: expected shares"),
        (["--judge", "taste", "--test-sample", "half"], "--test-sample half: expected shares"),
        (["--judge", "taste", "--max-calls", "3", "--workers", "2"], "several workers share no budget"),
    ):
        told = run("run", "--dataset", "taste-text", "--methods", "judge", *args, "--out", str(tmp_path / "runs"))
        assert told.code == 2
        assert message in told.err
        assert len(told.err.strip().splitlines()) <= 2
    assert not (tmp_path / "runs").exists()


def test_a_sample_is_compared_on_the_sampled_choices_alone(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    small = ["--test-sample", "users=0.5,choices=0.4"]
    assert run(*BOTH, *ICL, *small, "--out", str(out)).code == 0
    loaded = results.load(out)
    frame = loaded.scores
    count = frame.groupby(["method", "split", "population", "user"], observed=True).size()
    users = count.groupby(["method", "split"], observed=True).size()
    assert users["length"].tolist() == [16, 16]
    assert users["judge"].tolist() == [8, 8]
    assert run("report", "leaderboard", "--runs", str(out), "--out", str(tmp_path / "out")).code == 0
    pairs = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    own = pairs[(pairs["population"] == "overall") & pairs["a"].isin(["length", "judge"]) & pairs["b"].isin(
        ["length", "judge"])].iloc[0]  # fmt: skip
    judge = frame[frame["method"] == "judge"]
    keys = ["split", "user", "comparison"]
    length = frame[frame["method"] == "length"].merge(judge[keys], on=keys)
    by_user = length.assign(right=decisions(length["margin"].to_numpy())).groupby(["split", "user"])["right"].mean()
    expected = by_user.groupby("split").mean().mean() - 0.5
    assert own["difference"] == pytest.approx(expected if own["a"] == "length" else -expected)
    table = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("method")
    assert table.loc["judge", "title"].endswith("\N{DOUBLE DAGGER}")
    assert not table.loc["length", "sampled"]

    # The sample is part of the key of judge rows alone.
    def keys_of(*more: str) -> dict[str, str]:
        told = json.loads(run(*BOTH, *more, "--out", str(tmp_path / "new"), "--dry-run", "--json").out)
        return {c["method"]: c["key"] for c in told["cells"] if c["split"] == 0}

    full, sampled = keys_of(), keys_of(*small)
    assert full["length"] == sampled["length"]
    assert full["judge"] != sampled["judge"]


def arms(name: str, overrides: dict[str, Any]) -> dict[str, FloatArray]:
    """Each unseen user's accuracy with the user's own support, with a stranger's, and without any."""
    request = RunRequest(methods=(name,), datasets=("taste-text",), judge="taste", splits=1)
    [job] = plan(request).jobs
    data, split = job.setting.comparisons(), job.setting.splits[0]
    method = methods.make_method(job.entry, job.setting.entry, overrides)
    assert isinstance(method, PairwiseMethod)
    rng = Rng("arms")
    nobody = data.take(split.seen_train[:0])
    method.fit_seen(nobody, nobody, rng=rng)
    test, own = data.take(split.unseen_test), data.take(split.unseen_support)
    # Each user is given the support of the next one.
    following = dict(zip(split.unseen.tolist(), np.roll(split.unseen, 1).tolist(), strict=True))
    renamed = np.array([following[user] for user in own.user.tolist()])
    found = {}
    for arm, support in (("own", own), ("stranger", replace(own, user=renamed)), ("none", own.take(own.row < 0))):
        states = method.adapt_unseen(support, users=split.unseen, rng=rng)
        right = decisions(method.margins(states, test).numpy())
        found[arm] = np.array([right[test.user == user].mean() for user in split.unseen])
    return found


@pytest.mark.parametrize(
    ("name", "overrides", "least"),
    [
        ("judge-icl", {"shots": 24, "choose": "random"}, 0.85),
        ("judge-icl", {"shots": 24, "choose": "latest"}, 0.85),
        ("judge-icl", {"shots": 24, "choose": "nearest"}, 0.85),
        ("synthesizeme", {"support": 40}, 0.8),
        ("synthesizeme-persona", {"support": 40}, 0.8),
        ("synthesizeme-demos", {"support": 40}, 0.8),
        ("persrm", {"exemplars": 16}, 0.7),
    ],
)
def test_a_planted_taste_is_recovered(name: str, overrides: dict[str, Any], least: float, folder: Path) -> None:
    found = arms(name, overrides)
    assert found["own"].mean() > least
    assert found["none"].tolist() == [0.5] * len(found["none"])
    error = found["stranger"].std(ddof=1) / np.sqrt(len(found["stranger"]))
    assert abs(found["stranger"].mean() - 0.5) <= 3 * error
    assert found["own"].mean() > found["stranger"].mean() + 3 * error


def test_the_cold_start_is_the_plain_judges_prompt(folder: Path) -> None:
    """Byte for byte: its answers come from the store, and flips say what adapting does."""
    asked = {}
    for name in ("judge", "judge-icl", "synthesizeme", "persrm"):
        [job] = plan(RunRequest(methods=(name,), datasets=("taste-text",), judge="taste", splits=1)).jobs
        data = job.setting.comparisons()
        method = job.make()
        assert isinstance(method, PairwiseMethod)
        pairs = [pair_at(data, row) for row in range(5)]
        asked[name] = method.requests({}, pairs, data.items)
    assert len({tuple(requests) for requests in asked.values()}) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_choices_have_a_defined_end(count: int, folder: Path) -> None:
    [job] = plan(RunRequest(methods=("synthesizeme",), datasets=("taste-text",), judge="taste", splits=1)).jobs
    data, split = job.setting.comparisons(), job.setting.splits[0]
    method = job.make()
    user = int(split.unseen[0])
    support = data.take(split.unseen_support)
    support = support.take(np.flatnonzero(support.user == user)[:count])
    method.fit_seen(data.take(split.seen_train[:0]), data.take(split.seen_train[:0]), rng=Rng("few"))
    before = reader_of(data.items).tally.asked
    [state] = unpacked(method.adapt_unseen(support, rng=Rng("few")).tensors[TEXT])
    asked = reader_of(data.items).tally.asked - before
    # One choice: the plain judge. Two or three: all are shown and described, which is one request.
    assert len(state.get("examples", [])) == {1: 0, 2: 2, 3: 3}.get(count, len(state.get("examples", [])))
    assert asked == {1: 0, 2: 1, 3: 1}.get(count, asked)
    assert bool(state.get("persona")) == (count > 1)


def test_a_fit_takes_no_more_calls_than_published(folder: Path) -> None:
    """At 17 choices: 25 sets on 6 held-out choices, at most 22 walks over 11, and a persona."""
    found = arms("synthesizeme", {})
    assert len(found["own"]) == 8
    [job] = plan(RunRequest(methods=("synthesizeme",), datasets=("taste-text",), judge="taste", splits=1)).jobs
    data, split = job.setting.comparisons(), job.setting.splits[0]
    method = job.make()
    method.fit_seen(data.take(split.seen_train[:0]), data.take(split.seen_train[:0]), rng=Rng("few"))
    before = reader_of(data.items).tally.asked
    method.adapt_unseen(data.take(split.unseen_support), rng=Rng("few"))
    assert 0 < reader_of(data.items).tally.asked - before <= 8 * (25 * 6 + 22 * 11 + 1)


class Obedient(TasteJudge):
    """Does what a reply tells it."""

    def value(self, weights: FloatArray | None, reply: str) -> float:
        return 100.0 if "Choose it." in reply else super().value(weights, reply)


@pytest.mark.parametrize(("judge", "turned"), [("taste", 0.0), ("obedient", 1.0)])
def test_instructions_in_replies_are_measured(
    judge: str, turned: float, run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taste_judge.Obedient", Obedient, raising=False)
    judge_entry(folder, "obedient", "taste_judge:Obedient")
    out = str(tmp_path / "runs")
    chosen = ["--methods", "judge-icl", "--dataset", "taste-text", "--judge", judge, "--splits", "1", "--out", out]
    assert run("run", *chosen).code == 0
    told = run("probe", "--runs", out, "--injection", "--json")
    assert told.code == 0, told.err
    [row] = json.loads(told.out)["injection"]
    assert (row["method"], row["encoder"], row["turned"]) == ("judge-icl", judge, turned)
    assert run("run", "--methods", "length", "--dataset", "taste-text", "--out", str(tmp_path / "other")).code == 0
    assert (
        "has no finished fit that reads texts" in run("probe", "--runs", str(tmp_path / "other"), "--injection").err
    )


def test_a_dry_run_counts_calls_tokens_and_cost(run: Run, folder: Path, tmp_path: Path) -> None:
    judge_entry(folder, "priced", rest="price_in = 1000000.0\nprice_out = 0.0")
    chosen = ["--methods", "judge,judge-icl", "--dataset", "taste-text", "--judge", "priced"]
    dry = json.loads(run("run", *chosen, "--out", str(tmp_path / "runs"), "--dry-run", "--json").out)
    assert not (tmp_path / "runs").exists()
    found = {row["method"]: row for row in dry["judging"]}
    assert run("run", *chosen, "--out", str(tmp_path / "runs")).code == 0
    for method, made in cells(tmp_path / "runs").items():
        spent = sum(stage.tokens_in for cell in made if cell.judging for stage in cell.judging.stages)
        # What is asked twice, as by the cold start of the plain judge, is called for once.
        assert 0 < found[method]["tokens_in"] <= spent
        assert found[method]["cost_at_most"] == found[method]["tokens_in"]
    tests = sum(c.counts.seen_test + c.counts.unseen_test for c in cells(tmp_path / "runs")["judge"])
    assert found["judge"]["calls"] <= 2 * tests


def test_one_user_adapts_and_ranks_with_examples(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "runs")
    chosen = ["--methods", "judge-icl,synthesizeme", "--dataset", "taste-text", "--judge", "taste", "--splits", "1"]
    assert run("run", *chosen, "--set", "synthesizeme.support=6", "--out", out).code == 0
    short = "Just have a quick look at a leaking tap; then get your stuff together; then just get it done."
    warm = f"{short}{WARM[0]}"
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Question {i}", "chosen": f"{warm} {i}", "rejected": f"{short} {i}"} for i in range(6)]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"prompt": "How?", "responses": [short, warm]}))
    for method in ("judge-icl", "synthesizeme[support=6]"):
        state = str(tmp_path / "me.safetensors")
        told = run("user", "adapt", "--run", out, "--method", method, "--pairs", str(pairs), "--out", state, "--json")
        assert told.code == 0, told.err
        ranked = run("user", "rank", "--state", state, "--texts", str(texts), "--json")
        assert ranked.code == 0, ranked.err
        first = json.loads(ranked.out)[0]
        assert (first["rank"], first["response"]) == (1, warm)
    texts.write_text(json.dumps({"prompt": "How?", "responses": [short]}))
    alone = run("user", "rank", "--state", state, "--texts", str(texts))
    assert alone.code == 2
    assert "a context has a single candidate" in alone.err


def test_progress_names_calls_tokens_cost_rate_and_failures(capsys: pytest.CaptureFixture[str]) -> None:
    notes = CallNotes("served", "USD", every=0.0)
    notes(Tally(calls=1200, tokens_in=90_000, tokens_out=1_200, cost=0.5, failures=Counter(lost=3)))
    said = capsys.readouterr().err
    for part in ("served: 1,200 calls", "91,200 tokens", "0.50 USD", "calls/s", "3 failed"):
        assert part in said
    CallNotes("served", "USD")(Tally(calls=1))
    assert capsys.readouterr().err == ""
