"""Rows of judge models on the boards of embedding rows: what is shown of them, and what they are compared on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_results import Fake, population, report

from prbench.base.errors import InputError
from prbench.reporting.placing import SAMPLE_MARK, placed

PROTOCOL = {"name": "paper", "unit": "group", "test_share": 0.5, "splits": 20}
ACCURACIES = {user: 0.5 + 0.05 * (user % 6) for user in range(8)}


def judging(**overall: Any) -> dict[str, Any]:
    spent = {"asked": 40, "tokens_in": 4000, "tokens_out": 40, "seconds": 8.0, "cost": 0.4, "models": {"m-1": 40}}
    verdicts = {"failed_orders": 0.0, "contradicted": 0.2, "first_share": 0.6, "strict_accuracy": 0.55} | overall
    return {"judging": {"fit": {}, "test": spent, "verdicts": {"overall": verdicts}},
            "counts": {"seen_users": 4, "unseen_users": 4}}  # fmt: skip


def judged(fake: Fake, name: str = "judge", model: str = "small", splits: int = 2, **changes: Any) -> None:
    """Add a row of a judge model."""
    for split in range(splits):
        fake.add(name, split, ACCURACIES, seen=4, encoder=model, reader="judge",
                 **{"embedding_fingerprint": model, **judging(), **changes})  # fmt: skip


def both(**changes: Any) -> Fake:
    fake = Fake()
    for split in range(2):
        for name, gain in (("bt", 0.0), ("mrm", 0.1 * (1 + split))):
            fake.add(name, split, {user: value + gain for user, value in ACCURACIES.items()}, seen=4)
    judged(fake, **changes)
    return fake


def told(fake: Fake, out: Path) -> tuple[str, pd.DataFrame]:
    text, _ = report(fake, out, width=200)
    return text, pd.read_csv(out / "leaderboard.csv").set_index("method")


def test_a_judge_row_stands_on_each_board_of_its_data(tmp_path: Path) -> None:
    fake = both()
    for split in range(2):
        fake.add("bt", split, ACCURACIES, seen=4, encoder="other", embedding_fingerprint="emb2")
    _, table = told(fake, tmp_path)
    assert sorted(table.loc["judge", "encoder"]) == ["minilm", "other"]
    assert set(table.loc["judge", "reader"]) == {"small"}
    assert "| Read by |" in (tmp_path / "leaderboard.md").read_text()
    pairs = pd.read_csv(tmp_path / "comparisons.csv")
    there = pairs[pairs["encoder"] == "other"]
    assert {frozenset(pair) for pair in zip(there["a"], there["b"], strict=True)} == {frozenset(("bt", "judge"))}


def test_boards_without_judges_look_as_before(tmp_path: Path) -> None:
    fake = population({"bt": 0.0, "mrm": 0.05}, users=8, splits=2, tests=10)
    results = fake.results()
    assert [cell.record for cell in placed(results).cells] == results.cells
    assert placed(results).scores is results.scores
    text, table = told(fake, tmp_path)
    assert not {"reader", "failed_orders", "calls_per_user"} & set(table.columns)
    assert "Read by" not in text + (tmp_path / "leaderboard.md").read_text()


def test_what_calls_cost_is_shown_per_user(tmp_path: Path) -> None:
    _, table = told(both(), tmp_path)
    row = table.loc["judge"]
    # 40 requests, 4,040 tokens, 8 seconds and 0.4 for 8 users.
    assert (row["calls_per_user"], row["tokens_per_user"]) == (5, 505)
    assert (row["seconds_per_user"], row["cost_per_user"]) == (1.0, 0.05)
    assert (row["strict_accuracy"], row["contradicted"], row["first_share"]) == (0.55, 0.2, 0.6)
    assert table["calls_per_user"].isna()["bt"]
    assert "Tokens/user" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(("share", "flagged"), [(0.04, False), (0.06, True)])
def test_many_failures_are_flagged(share: float, flagged: bool, tmp_path: Path) -> None:
    text, _ = told(both(**judging(failed_orders=share)), tmp_path)
    assert ("(many)" in text) == flagged
    assert ("JUDGE: 6.0% of verdicts failed" in " ".join(text.split())) == flagged


def test_what_may_have_been_known_and_mixed_models_are_marked(tmp_path: Path) -> None:
    fake = both(known_before=True)
    fake.cells[-1]["judging"]["test"]["models"] = {"m-2": 40}
    text, table = told(fake, tmp_path)
    said = " ".join(text.split())
    assert "small*" in said
    assert "the data were public before small came out" in said
    assert "JUDGE: answers of several models under one name: m-1, m-2." in said
    assert bool(table.loc["judge", "known_before"])


def test_a_sampled_row_is_marked_and_never_ranked(tmp_path: Path) -> None:
    fake = Fake()
    protocol = {**PROTOCOL, "test_sample": {"users": 1.0, "choices": 0.5}}
    for split in range(2):
        fake.add("bt", split, ACCURACIES, tests=10, seen=4)
        fake.add("judge", split, dict.fromkeys(range(8), 1.0), tests=5, seen=4, encoder="small", reader="judge",
                 **{"embedding_fingerprint": "small", "protocol": protocol, **judging()})  # fmt: skip
    text, table = told(fake, tmp_path)
    assert f"JUDGE {SAMPLE_MARK}" in text
    assert table.loc["judge", "overall"] == 1.0
    assert table.loc["bt", "overall"] == pytest.approx(0.6, abs=0.02)
    # The fake's right answers come first: on the sampled half of the choices bt is as right as the judge.
    pairs = pd.read_csv(tmp_path / "comparisons.csv")
    assert pairs["difference"].tolist() == [0.0] * 3
    page = (tmp_path / "index.html").read_text()
    assert "on a sample of the test choices" in page


def test_two_samples_share_no_board() -> None:
    fake = Fake()
    for share, name in ((0.5, "judge"), (0.25, "judge-icl")):
        protocol = {**PROTOCOL, "test_sample": {"users": share, "choices": 1.0}}
        judged(fake, name, protocol=protocol)
    with pytest.raises(InputError, match="rows on convarg were tested on different samples"):
        placed(fake.results())
