"""Numbers quoted from papers: what they contradict, and where they may stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from paper_results import Store, piece, record

from prbench import registry
from prbench.base.errors import InputError
from prbench.reporting import writers
from prbench.reporting.paper import printed_numbers
from prbench.reporting.paper.printed_numbers import Accuracy, PaperNumbers

MRM = printed_numbers.load("mrm")
TABLE = ["bt", "mrm"]


# arXiv 2601.18731, Table 1: seen, unseen, overall on PRISM / Reddit TL;DR with 100 / with 150 users.
TABLE_1 = {
    "Skywork V1": "59.5±0.5 59.5±0.4 59.5±0.5 / 62.6±0.8 62.6±0.8 62.6±0.8 / 62.6±0.8 62.6±0.8 62.6±0.8",
    "Skywork V2": "60.5±0.4 60.1±0.5 60.3±0.3 / 64.4±0.7 64.5±0.7 64.4±0.4 / 64.4±0.7 64.5±0.7 64.4±0.4",
    "BT": "64.3±0.5 64.2±0.6 64.4±0.3 / 67.8±1.1 67.8±0.8 67.8±0.8 / 68.1±1.1 68.2±0.8 68.1±0.8",
    "GPO": "64.2±1.1 64.2±1.0 64.2±1.0 / 68.0±1.1 68.0±1.2 68.0±0.5 / 68.5±1.1 68.6±1.2 68.6±0.6",
    "VPL": "64.6±1.0 64.0±1.2 64.3±1.1 / 67.6±1.1 67.7±1.0 67.6±1.0 / 67.7±1.2 67.9±1.0 67.8±1.0",
    "PAL": "61.7±1.0 61.4±0.8 61.5±0.8 / 65.8±1.0 65.9±1.1 64.5±0.7 / 66.3±1.2 66.7±0.9 66.5±0.7",
    "LoRe": "63.0±0.9 63.1±0.8 63.0±0.8 / 68.1±1.1 68.6±1.2 68.3±0.5 / 68.5±1.0 68.8±1.1 68.6±1.0",
    "SynthesizeMe (in context)": "63.9±1.2 63.4±1.2 63.7±1.2 / 66.6±2.2 66.3±2.2 66.5±2.0 / 66.7±2.2 66.3±2.3 66.5±2.3",
    "SynthesizeMe (fine-tuned)": "64.3±1.0 64.5±1.1 64.4±1.0 / 68.2±1.3 68.0±1.3 68.1±1.3 / 68.2±1.3 68.0±1.3 68.1±1.3",
    "MRM V1": "64.8±0.4 64.9±0.4 64.9±0.2 / 68.7±1.1 69.0±0.8 68.8±0.4 / 69.0±1.1 69.5±0.8 69.3±0.3",
    "MRM V2": "65.3±0.6 65.2±0.5 65.3±0.3 / 69.6±0.9 69.6±0.8 69.6±0.3 / 69.7±0.8 69.8±0.9 69.7±0.3",
}
# Table 2, on PRISM: overall, worst 10, 20 and 50% of seen / of unseen users.
TABLE_2 = {
    "MRM": "64.8±0.4 37.9±1.3 43.4±0.9 52.8±0.6 / 64.9±0.4 37.9±0.8 43.9±0.7 53.2±0.7",
    "MRM w/o meta-learning": "63.1±0.9 35.9±1.1 41.8±0.8 51.2±0.6 / 63.1±0.8 36.1±0.9 41.9±0.8 51.4±0.7",
    "MRM w/o RPO": "64.5±0.5 37.5±1.3 43.0±0.9 52.5±0.6 / 64.5±0.6 37.2±0.9 43.5±0.7 52.7±0.7",
    "MRM w/o basis combination": "63.8±0.4 37.1±1.4 42.8±1.0 52.3±0.6 / 63.8±0.6 37.2±0.9 42.8±0.7 52.5±0.6",
}


def spelled(means: list[float] | None, spreads: list[float] | None) -> str:
    assert means is not None
    assert spreads is not None
    return " ".join(f"{mean}±{spread}" for mean, spread in zip(means, spreads, strict=True))


def test_the_file_has_every_number_that_the_paper_prints() -> None:
    table_1 = {
        row.label: " / ".join(
            spelled(getattr(row, name), getattr(row, f"{name}_std")) for name in ("prism", "reddit100", "reddit150")
        )
        for row in MRM.accuracy
    }
    assert table_1 == TABLE_1
    table_2 = {
        row.label: f"{spelled(row.seen, row.seen_std)} / {spelled(row.unseen, row.unseen_std)}"
        for row in MRM.robustness
    }
    assert table_2 == TABLE_2


def row(**values: list[float]) -> PaperNumbers:
    only = Accuracy(label="A", method="bt", encoder="skywork-v1", **values)
    return PaperNumbers(title="t", source="s", splits=20, accuracy=[only])


def test_the_printed_table_contradicts_itself_in_exactly_two_places() -> None:
    found = [(wrong.label, wrong.dataset) for wrong in printed_numbers.contradictions(MRM)]
    assert found == [("BT", "prism"), ("PAL", "reddit100")]
    first, second = map(str, printed_numbers.contradictions(MRM))
    assert first == "BT on prism: overall 64.4 lies above both seen 64.3 and unseen 64.2"
    assert second == "PAL on reddit100: overall 64.5 lies below both seen 65.8 and unseen 65.9"


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ([64.0, 65.0, 64.5], False),
        ([64.0, 64.0, 64.0], False),
        # Each number is rounded: two that are 0.1 apart cannot be equal, nor the mixture lie outside.
        ([64.0, 64.0, 64.1], True),
        ([64.0, 64.0, 63.9], True),
        ([64.1, 64.0, 64.1], False),
    ],
)
def test_an_overall_accuracy_lies_between_seen_and_unseen(values: list[float], wrong: bool) -> None:
    assert bool(list(printed_numbers.contradictions(row(prism=values)))) is wrong


@pytest.mark.parametrize(
    ("dataset", "encoder"),
    [
        ("prism", "minilm"),
        ("prism", "own"),
        ("convarg", "skywork-v1"),
        ("sim-prism", "skywork-v1"),
        ("prism-published-code", "skywork-v1"),
        ("reddit100", "skywork-v3"),
        ("label", "skywork-v1"),
    ],
)
def test_no_number_applies_to_other_data_or_another_encoder(dataset: str, encoder: str) -> None:
    assert MRM.rows(dataset, encoder) == {}
    assert MRM.robustness_rows(dataset, encoder) == {}


def test_numbers_of_judge_models_name_the_judge_where_it_is_another() -> None:
    theirs = MRM.rows("prism", "minilm", judged=True)
    assert set(theirs) == {"synthesizeme", "synthesizeme-ft"}
    assert theirs["synthesizeme"].text(2, "llama-3_1-8b") == "63.7±1.2"
    assert theirs["synthesizeme"].text(2, "smollm2-135m") == "63.7±1.2 by llama-3_1-8b"
    assert theirs["synthesizeme"].judge in registry.names("judges")
    assert MRM.rows("convarg", "minilm", judged=True) == {}


def test_numbers_apply_to_their_own_data_and_encoder() -> None:
    assert MRM.rows("prism", "skywork-v1")["mrm"].means == [64.8, 64.9, 64.9]
    assert MRM.rows("prism", "skywork-v2")["mrm"].means == [65.3, 65.2, 65.3]
    assert "bt" not in MRM.rows("prism", "skywork-v2")
    assert MRM.rows("reddit150", "skywork-v1")["lore"].means == [68.5, 68.8, 68.6]
    assert MRM.robustness_rows("prism", "skywork-v1")["mrm-no-rpo"].unseen == [64.5, 37.2, 43.5, 52.7]
    assert printed_numbers.load("lore").rows("prism", "skywork-v1") == {}, "its sources name no encoder"


def two_splits(dataset: str, encoder: str) -> Store:
    """MRM at 60% and 80% of all users in two splits: mean 70%, standard deviation 14.14 points."""
    store = Store()
    for split, share in enumerate((0.6, 0.8)):
        for method in TABLE:
            store.add(method, dict.fromkeys(range(4), share), split=split, dataset=dataset, encoder=encoder)
    return store


def test_ours_stand_beside_theirs_with_the_difference_in_standard_deviations() -> None:
    made = two_splits("prism", "skywork-v1").make(piece("tables:accuracy", TABLE), published=[MRM])
    line = record(made, method="mrm")
    source = MRM.source
    assert line[f"published_overall: {source}"] == pytest.approx(0.649)
    # (70 − 64.9) / 14.142 and (70 − 64.8) / 14.142.
    assert line[f"in_sd_overall: {source}"] == pytest.approx(5.1 / 200**0.5)
    assert line[f"in_sd_seen: {source}"] == pytest.approx(5.2 / 200**0.5)
    (grid,) = made.grids
    cells = {cells[0].text: [cell.text for cell in cells] for cells in grid.rows}
    assert grid.header[-2:] == ("Cai et al. 2026", "Δ in SD")
    assert cells["MRM"][-2:] == ["64.9±0.2", "+0.4"]
    assert cells["BT"][-2:] == ["64.4±0.3 (as printed)", "+0.4"]
    assert line[f"published_overall_std: {source}"] == pytest.approx(0.002)
    assert any(note.startswith("As printed: the overall value of BT") for note in grid.notes)
    assert any(source in note for note in grid.notes)


def test_two_papers_are_told_apart() -> None:
    other = MRM.model_copy(update={"source": "Us 2027, Table 9"})
    (grid,) = two_splits("prism", "skywork-v1").make(piece("tables:accuracy", TABLE), published=[MRM, other]).grids
    columns = ("Cai et al. 2026", "Δ in SD, Cai et al. 2026", "Us 2027", "Δ in SD, Us 2027")
    assert grid.header[-4:] == columns
    assert writers.latex(grid).isascii()


@pytest.mark.parametrize(("dataset", "encoder"), [("convarg", "skywork-v1"), ("prism", "minilm")])
def test_elsewhere_no_published_number_is_printed(dataset: str, encoder: str) -> None:
    made = two_splits(dataset, encoder).make(piece("tables:accuracy", TABLE), published=[MRM])
    assert not [column for column in made.frame if "published" in column or "in_sd" in column]
    assert not [text for text in made.grids[0].header if "Cai" in text or "Δ" in text]
    said = [note for note in made.grids[0].notes if "Cai" in note]
    # Where the paper has this data set with other encoders, that is said; of other data sets there is nothing to say.
    assert ["only: none compares with minilm" in note for note in said] == ([True] if dataset == "prism" else [])


def test_a_number_for_another_encoder_only_is_said_in_its_place() -> None:
    (grid,) = two_splits("prism", "skywork-v2").make(piece("tables:accuracy", TABLE), published=[MRM]).grids
    cells = {cells[0].text: [cell.text for cell in cells] for cells in grid.rows}
    assert cells["BT"][-2:] == ["skywork-v1 only", "–"]
    assert cells["MRM"][-2].startswith("65.3")


def test_a_row_chosen_in_another_way_is_not_set_beside_theirs() -> None:
    store = two_splits("prism", "skywork-v1")
    for split in range(2):
        right = dict.fromkeys(range(4), 0.9)
        store.add("mrm", right, split=split, dataset="prism", encoder="skywork-v1", selection="test-oracle")
    asked = piece("tables:accuracy", TABLE, selections=["published", "test-oracle"])
    made = store.make(asked, published=[MRM])
    column = f"published_overall: {MRM.source}"
    assert record(made, method="mrm", selection="test-oracle")[column] != pytest.approx(0.649)


def test_ablations_stand_above_theirs_on_their_data_only() -> None:
    asked = piece("tables:ablation", ["mrm"])
    there = two_splits("prism", "skywork-v1").make(asked, published=[MRM]).grids[0]
    assert [cell.text for cell in there.rows[-1]] == [
        "MRM, published", "64.8±0.4", "37.9±1.3", "43.4±0.9", "52.8±0.6", "64.9±0.4", "37.9±0.8", "43.9±0.7",
        "53.2±0.7",
    ]  # fmt: skip
    assert there.rules == (1,)
    elsewhere = two_splits("convarg", "skywork-v1").make(asked, published=[MRM]).grids[0]
    assert [cells[0].text for cells in elsewhere.rows] == ["MRM"]


def test_malformed_numbers_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no published numbers 'nobody'"):
        printed_numbers.load("nobody")
    head = 'title = "t"\nsource = "s"\nsplits = 1\n'
    row = '[[accuracy]]\nlabel = "A"\nmethod = "bt"\nencoder = "skywork-v1"\n'
    texts = {
        "toml": ("title =", "Invalid value"),
        "unknown": (head + "colour = 1\n", "colour: extra inputs are not permitted"),
        "short": (head + row + "prism = [1.0, 2.0]\n", "accuracy.0.prism: list should have at least 3 items"),
    }
    folder = tmp_path / "reports" / "published"
    folder.mkdir(parents=True)
    registry.use([tmp_path])
    try:
        for name, (text, message) in texts.items():
            (folder / f"{name}.toml").write_text(text)
            with pytest.raises(InputError, match=message) as refused:
                printed_numbers.load(name)
            assert "\n" not in str(refused.value)
            assert f"{name}.toml" in str(refused.value)
    finally:
        registry.reset()
