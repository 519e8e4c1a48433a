"""How the cells of a table were made, said below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_results import Fake, one_board, printed, written
from small_runs import make_plan, registry_folder

from prbench import registry
from prbench.protocol import sentences
from prbench.reporting import writers

ACCURACIES = {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.2}
COUNTS = {
    "seen_users": 3,
    "unseen_users": 2,
    "dropped_users_without_train_or_test": 15,
    "users_with_one_comparison": 15,
    "repeats": 4,
    "opposite_repeats": 1,
    "test_items": 10,
    "test_items_trained_on": 5,
    "test_pairs": 4,
    "test_pairs_trained_on": 1,
    "equal_vectors": 3,
}


def text(fake: Fake) -> list[str]:
    """The terminal's table and Markdown, on one line each."""
    return [" ".join(form.split()) for form in (printed(fake, width=200), written(fake, writers.markdown))]


def test_who_is_left_out_and_what_is_shared_stands_below_the_table() -> None:
    fake = Fake()
    for method in ("bt", "mrm"):
        fake.add(method, 0, ACCURACIES, counts=COUNTS)
    for said in text(fake):
        assert "15 of 20 people are left out (one choice each)." in said
        assert "4 comparisons repeat an earlier one of the same person and 1 choose its other side" in said
        assert "50% of the test items and 25% of the test pairs occur in training choices too" in said
        assert "3 test choices a split are between equal vectors" in said


def test_the_plan_says_how_the_data_are_divided(prbench_home: Path, tmp_path: Path) -> None:
    registry.reset()
    registry.use([registry_folder(tmp_path / "registry")])
    plan = make_plan(["length"], ["tiny"], out=tmp_path / "runs", splits=1)
    counts = plan.jobs[0].cells[0].record.counts.model_dump()
    share = 100 * counts["test_items_trained_on"] / counts["test_items"]
    assert plan.table().caption.startswith(f"tiny: {share:.0f}% of the test items and ")
    registry.reset()


def test_people_who_are_left_out_for_another_reason_have_it_named() -> None:
    other = COUNTS | {"users_with_one_comparison": 2}
    assert sentences.left_out([other]) == (
        "15 of 20 people are left out (they have nothing to train on or nothing to test)"
    )
    assert sentences.left_out([COUNTS | {"dropped_users_without_train_or_test": 0}]) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"versions": {"prbench": "0.1.0", "torch": "2.13"}}, "several versions of prbench: 0.1.0 (MRM); 0.2.0 (BT)"),
        ({"versions": {"prbench": "0.2.0", "torch": "2.0"}}, "several versions of torch: 2.0 (MRM); 2.13 (BT)"),
        ({"device": "NVIDIA H100"}, "several devices: NVIDIA H100 (MRM); cpu, 2 threads (BT)"),
    ],
)
def test_other_versions_and_devices_are_named(changes: dict[str, Any], said: str) -> None:
    same = {"versions": {"prbench": "0.2.0", "torch": "2.13"}, "device": "cpu, 2 threads"}
    fake = Fake()
    fake.add("bt", 0, ACCURACIES, **same)
    fake.add("mrm", 0, ACCURACIES, **(same | changes))
    for form in text(fake):
        assert f"Made with {said}." in form
    alike = Fake()
    for method in ("bt", "mrm"):
        alike.add(method, 0, ACCURACIES, **same)
    assert not [line for line in one_board(alike).makings if "Made with" in line]


def test_a_row_of_cells_made_under_both_rules_says_so() -> None:
    fake = Fake()
    for split in range(3):
        fake.add("bt", split, ACCURACIES, fit={"chosen": 5, "independent_of_batch": True})
        fits = {"chosen": 5} | ({"independent_of_batch": True} if split else {})
        fake.add("mrm", split, ACCURACIES, fit=fits)
    for form in text(fake):
        assert "MRM: 1 of its 3 splits were made when their rounding still depended on the splits" in form
        assert "BT: 1 of its" not in form


def test_the_share_that_rounding_changes_is_the_probes_before_the_entrys() -> None:
    fake = Fake()
    entry = {"name": "lore", "selection": "last", "style": {"colour": "#000000", "marker": "o", "line": "solid"}}
    for method, share in (("steady", 0.004), ("shaky", 0.071)):
        rounding = {"changed": share, "on": "convarg, minilm, splits 0 and 1"}
        fake.add(method, 0, ACCURACIES, entry=entry | {"name": method, "rounding": rounding}, selection="last")
    for form in text(fake):
        assert "of test decisions: SHAKY 7.1% (convarg, minilm, splits 0 and 1)." in form
        assert "STEADY" in form
    fake.rounding["convarg", "minilm", "shaky", "last"] = 0.02
    for form in text(fake):
        assert "of test decisions: SHAKY 2.0% (measured here)." in form
