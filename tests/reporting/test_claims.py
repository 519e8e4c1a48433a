"""Published claims: verdicts come from cells, and only from those of the claim's own rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_results import Fake
from scipy.stats import t as student

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.reporting import claims as module
from prbench.reporting.claims import Outcome, outcomes, read_claims, verdict_of
from prbench.reporting.site import claims as page
from prbench.reporting.site.claims import examined, registered

ROW = {"dataset": "convarg", "reader": "minilm", "method": "bt", "measure": "accuracy", "printed": 70.0}
CLAIM = {"name": "one", "title": "Is it so?", "says": "It is so.", "source": "Somebody 2026"}


def claim(*checks: dict[str, Any], **changes: Any) -> Any:
    [read] = read_claims([{**CLAIM, "tests": list(checks), **changes}], "claims.toml")
    return read


def examine(fake: Fake, **changes: Any) -> Outcome:
    [found] = outcomes(claim({**ROW, **changes}), fake.results())
    return found


def accuracies(values: list[float], method: str = "bt", **changes: Any) -> Fake:
    """Two users in each split, both with the split's accuracy, on ten choices."""
    fake = Fake()
    for split, value in enumerate(values):
        published(fake.add(method, split, {0: value, 1: value}, **changes))
    return fake


def published(cell: dict[str, Any]) -> None:
    """Make a cell one of its method's published row."""
    cell["entry"] = {**cell["entry"], "name": cell["method"], "selection": "validation"}


def test_a_number_agrees_within_its_rounding_and_the_corrected_interval() -> None:
    values = [0.6, 0.7, 0.8, 0.7]
    # Nadeau and Bengio: variance (1/J + n_test/n_train) s², here with half of the choices in test.
    half = student.ppf(0.975, 3) * math.sqrt((1 / 4 + 1) * np.var(values, ddof=1))
    found = examine(accuracies(values))
    assert (found.value, found.splits) == (pytest.approx(0.7), 4)
    assert (found.low, found.high) == (pytest.approx(0.7 - half), pytest.approx(0.7 + half))
    end = 100 * (0.7 + half)
    assert examine(accuracies(values), printed=end + 0.04).verdict == "agrees"
    assert examine(accuracies(values), printed=end + 0.06).verdict == "differs"
    assert examine(accuracies(values), printed=end + 0.06, digits=0).verdict == "agrees"
    assert examine(accuracies(values[:1])).verdict == "open"


def test_agreement_counts_choices_and_leaves_ties_out() -> None:
    fake = Fake()
    for split in range(3):
        published(fake.add("bt", split, {0: 0.9, 1: 0.5}))
        # Of user 0's ten choices the first two, which were right, are ties.
        fake.frames[-1].loc[:1, "margin"] = 0.0
    fake.frames[-1].loc[2, "margin"] = -1.0
    found = examine(fake, measure="agreement", printed=66.7)
    assert found.value == pytest.approx((12 / 18 + 12 / 18 + 11 / 18) / 3)
    assert found.verdict == "agrees"
    assert examine(fake, measure="agreement", printed=90.0).verdict == "differs"


@pytest.mark.parametrize(
    ("other", "verdict"),
    [([0.5, 0.6, 0.5, 0.5], "agrees"), ([1.0, 1.0, 1.0, 0.9], "differs"), ([0.6, 0.9, 0.5, 0.8], "open")],
)
def test_a_gain_agrees_where_the_interval_is_above_zero(other: list[float], verdict: str) -> None:
    fake, more = accuracies([0.7, 0.8, 0.8, 0.7], "mrm"), accuracies(other)
    fake.cells += more.cells
    fake.frames += more.frames
    for number, cell in enumerate(fake.cells):
        cell["key"] = f"own{number}"
    found = examine(fake, method="mrm", measure="gain", over="bt")
    assert found.verdict == verdict
    assert found.value == pytest.approx(0.75 - np.mean(other))


def test_random_starts_explain_a_gap_or_do_not() -> None:
    fake = Fake()
    for split in range(2):
        for restart, value in enumerate((0.6, 0.8)):
            published(fake.add("lore", split, {0: value, 1: value}, restart=restart))
    found = examine(fake, method="lore", measure="starts", printed=8.0)
    spread = math.sqrt(2 * 0.1**2)
    assert (found.verdict, found.value) == ("agrees", pytest.approx(spread))
    reach = 100 * 2 * math.sqrt(2) * spread
    assert examine(fake, method="lore", measure="starts", printed=reach + 1).verdict == "differs"
    alone = examine(accuracies([0.6, 0.7], "lore"), method="lore", measure="starts", printed=8.0)
    assert (alone.verdict, "--restarts 3" in alone.why) == ("not run", True)


@pytest.mark.parametrize(
    "changes",
    [{"encoder": "skywork-v2"}, {"selection": "test-oracle"}, {"selection": "tuned"}, {"dataset": "prism"}],
)
def test_rows_of_others_test_nothing(changes: dict[str, str]) -> None:
    assert examine(accuracies([0.7, 0.7], **changes)).verdict == "not run"


def test_a_claim_rests_on_its_own_rows_alone() -> None:
    fake = accuracies([0.6, 0.7] * 4)
    far = {**ROW, "printed": 99.0}
    elsewhere = {**ROW, "dataset": "prism"}
    for checks, verdict in (
        ((ROW,), "agrees"),
        ((far,), "differs"),
        ((ROW, far), "1 of 2 agrees, 1 of 2 differs"),
        ((ROW, elsewhere), "1 of 2 agrees, 1 not run"),
        ((elsewhere, {**ROW, "related": True}), "not run here"),
        (({**ROW, "measure": "three classes"},), "not run here"),
    ):
        assert verdict_of(outcomes(claim(*checks, absent="out of reach"), fake.results())) == verdict
    assert examine(fake, dataset="rfm-users").why == "prbench has no data set rfm-users"


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ([{**CLAIM, "tests": [ROW], "verdict": "agrees"}], "claim one: verdict: extra inputs are not permitted"),
        ([{**CLAIM, "tests": []}], "claim one: tests: list should have at least 1 item"),
        ([{**CLAIM, "tests": [{**ROW, "over": "bt"}]}], "a gain, and nothing else, names another method"),
        ([{**CLAIM, "tests": [{**ROW, "printed": None}]}], "a test of accuracy needs `printed`"),
        ([{**CLAIM, "tests": [ROW]}] * 2, "two claims are called 'one'"),
        ({"one": 1}, "claims is not a list of tables"),
        ([3], "claim number 1: "),
    ],
)
def test_a_malformed_claim_is_one_line(tables: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"claims\.toml: ") as error:
        read_claims(tables, "claims.toml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_claims_at_hand_are_sound() -> None:
    names = [read.name for read in registered()]
    assert names == ["gpt-4-agrees-with-people", "lore-on-prism", "mrm-on-its-data", "p-ttt-rerun"]
    commands = [module.commands(read.tests) for read in registered()]
    assert commands[0] == ["prbench run --dataset mt-bench-human --methods judge --judge gpt-4-verdicts"]
    assert commands[1][-1] == "prbench run --dataset convarg --methods lore --encoder minilm --restarts 3"
    assert commands[2][0] == "prbench run --dataset prism --methods mrm,bt,gpo,vpl,pal,lore --encoder skywork-v2"
    # Of data or encoders that prbench does not have there is nothing to run.
    assert commands[3] == []
    # What prbench ships tests no claim about MRM on data of its own choice.
    tested = {check.dataset for read in registered() for check in read.tests if check.method == "mrm"}
    assert tested == {"prism", "reddit100", "reddit150", "uf-p-2", "uf-p-4", "personalllm"}
    assert set(module.MEASURES) == set(module.Measure.__args__)  # type: ignore[attr-defined]


def test_the_report_writes_what_was_and_was_not_run(tmp_path: Path) -> None:
    fake = accuracies([0.84, 0.86, 0.85], "judge", dataset="mt-bench-human", encoder="gpt-4-verdicts")
    tables = registry.get("reports", "claims").options["claims"]
    paths = page.claims(fake.results(), tmp_path, claims=tables)
    assert [path.name for path in paths] == ["claims.html", "claims.csv", "claims.md"]
    text = paths[0].read_text()
    assert text.index('id="gpt-4-agrees-with-people"') < text.index('id="p-ttt-rerun"')
    assert "Verdict: 1 of 2 agrees, 1 not run." in text
    assert text.count("Verdict: not run here.") == 3
    table = pd.read_csv(tmp_path / "claims.csv")
    assert len(table) == sum(len(read.tests) for read in registered())
    assert set(table.loc[table["dataset"] == "uf-p-4", "verdict"]) == {"not run"}
    assert "could not be reached" in " ".join(table.loc[table["claim"] == "mrm-on-its-data", "why"])


def test_a_hostile_source_stays_text() -> None:
    nasty = claim(ROW, source='<img src=x onerror="alert(1)">')
    assert "<img" not in page.page(examined([nasty], accuracies([0.7, 0.8]).results()), [])


def test_the_command_lists_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "reports"]) == 0
    assert "claims" in capsys.readouterr().out
