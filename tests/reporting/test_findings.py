"""Every rule that makes a sentence: on boards with planted numbers, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from fake_results import one_board, population

from prbench.protocol import stats
from prbench.reporting.board import Board, Pair, Row
from prbench.reporting.page.findings import Finding, findings, listed, overview, p_text, points, signed_points

PERSONAL, NONE = "personalised parameters", "no personalisation"
NAN = math.nan
FAMILIES = {("lore", "validation"): PERSONAL, ("mrm", "validation"): PERSONAL, ("bt", "validation"): NONE,
            ("ridge", "validation"): NONE, ("mrm", "test-oracle"): PERSONAL}  # fmt: skip


def row(method: str, accuracy: float, *, flips: float = 0.2, cold: float = 0.6, **changes: Any) -> Row:
    """A row with this mean accuracy in every population."""
    values = {"accuracy": accuracy, "flip_rate": flips, "cold_start": cold}
    fields: dict[str, Any] = {
        "method": method,
        "selection": "validation",
        "title": method.upper(),
        "style": {},
        "splits": (0, 1, 2, 3),
        "complete": True,
        "mean": dict.fromkeys(("seen", "unseen", "overall"), values),
        "std": {},
    }
    return Row(**{**fields, **changes})


def pair(
    a: Row, b: Row, p: float, *, population: str = "overall", p_all: float | None = None, width: float = 0.02
) -> Pair:
    """a against b with a planted p-value after Holm: in the table, and over all pairs."""
    difference = a.value("overall") - b.value("overall")
    interval = stats.Interval(difference - width, difference + width) if not math.isnan(p) else stats.NO_INTERVAL
    test = stats.Significance(NAN, NAN)
    result = stats.Comparison(4, 20, difference, interval, test, stats.Significance(NAN, p), test, stats.NO_INTERVAL)
    return Pair(population, a, b, result, p_all_pairs=p if p_all is None else p_all, p_table=p)


def board(rows: list[Row], pairs: list[Pair], **changes: Any) -> Board:
    """A board whose baseline is the row `bt`, where there is one."""
    base = next((r for r in rows if r.method == "bt" and not r.oracle), None)
    baseline = {r.key: None if r is base or r.oracle else base for r in rows}
    fields: dict[str, Any] = {"dataset": "d", "encoder": "e", "ratio": 1.0, "splits": 4, "alpha": 0.05}
    return Board(rows=rows, baseline=baseline, pairs=pairs, **{**fields, **changes})


def said(b: Board, kind: str | None = None) -> list[str]:
    """The sentences, without their place."""
    found = findings(b, FAMILIES)
    assert all(f.place == f"On d (e, {b.splits} split{'' if b.splits == 1 else 's'})" for f in found)
    return [f.text for f in found if kind in (None, f.kind)]


def three(p_lore: float, p_mrm: float, *, lore: float = 0.70, mrm: float = 0.66, **changes: Any) -> Board:
    """LORE and MRM against BT (64%)."""
    a, b, c = row("lore", lore, **changes), row("mrm", mrm, **changes), row("bt", 0.64, flips=0.0)
    rows = sorted([a, b, c], key=lambda r: -r.value("overall"))
    return board(rows, [pair(a, c, p_lore), pair(b, c, p_mrm), pair(a, b, 0.9)])


def test_a_sentence_is_whole() -> None:
    assert str(Finding("tested", "On d (e, 4 splits)", "a beats b")) == "On d (e, 4 splits), a beats b."


def test_nothing_beats_the_baseline() -> None:
    text = said(three(0.4, 0.7), "tested")[0]
    assert text == (
        "no personalised method beats BT beyond noise: the best of 2, LORE, differs from it by +6.0 points "
        "(95% interval +4.0 to +8.0; p = 0.400; corrected resampled t-test, Holm over the table's 3 comparisons)"
    )
    assert not any("beats BT:" in s or "beat BT:" in s or "short of" in s for s in said(three(0.4, 0.7)))


def test_the_best_may_lie_below_the_baseline() -> None:
    text = said(three(0.4, 0.7, lore=0.62, mrm=0.635), "tested")[0]
    assert "the best of 2, MRM, differs from it by −0.5 points" in text


def test_one_beats_the_baseline() -> None:
    texts = said(three(0.004, 0.7), "tested")
    assert texts[0] == (
        "1 of 2 personalised methods beats BT: LORE by 6.0 points (95% interval +4.0 to +8.0; p = 0.004); corrected "
        "resampled t-test, Holm over the table's 3 comparisons"
    )
    assert not any("no personalised method" in s for s in texts)


def test_both_beat_the_baseline_the_better_first() -> None:
    text = said(three(0.03, 0.0001), "tested")[0]
    assert text.startswith(
        "2 of 2 personalised methods beat BT: LORE by 6.0 points (95% interval +4.0 to +8.0; p = 0.030) "
    )
    assert "and MRM by 2.0 points (95% interval 0.0 to +4.0; p < 0.001);" in text


def test_falling_short_is_said_too() -> None:
    texts = said(three(0.4, 0.01, mrm=0.60), "tested")
    assert texts[0].startswith("no personalised method beats BT beyond noise: the best of 2, LORE")
    assert texts[1].startswith("1 of 2 personalised methods falls short of BT: MRM by 4.0 points (")
    worst = said(three(0.01, 0.01, lore=0.62, mrm=0.60), "tested")[1]
    assert worst.startswith("2 of 2 personalised methods fall short of BT: MRM by 4.0 points")


def test_a_method_under_two_settings_is_two_rows() -> None:
    a, b, c = row("lore", 0.7), row("lore", 0.69, selection="tuned"), row("bt", 0.64)
    pairs = [pair(a, c, 0.01), pair(b, c, 0.5), pair(a, b, 0.9)]
    families = {**FAMILIES, ("lore", "tuned"): PERSONAL}
    texts = [f.text for f in findings(board([a, b, c], pairs), families)]
    assert texts[0].startswith("1 of 2 personalised rows beats BT: LORE by 6.0 points")


def test_at_alpha_is_not_below_alpha() -> None:
    assert said(three(0.05, 0.7), "tested")[0].startswith("no personalised method beats")
    strict = three(0.04, 0.7)
    assert said(Board(**{**vars(strict), "alpha": 0.01}), "tested")[0].startswith("no personalised method beats")
    assert "99% interval" in said(Board(**{**vars(strict), "alpha": 0.01}), "tested")[0]


def test_a_gain_without_flips_is_no_personalisation() -> None:
    texts = said(three(0.004, 0.7, flips=0.0004, cold=0.70), "measured")
    assert texts[0] == (
        "the gain over BT of LORE (0.0%) is not personalisation: nine tenths of it or more are there at cold start, "
        "and adaptation flips but the shares of decisions in brackets"
    )
    late = three(0.004, 0.7, flips=0.0004, cold=0.69)
    assert not any("is not personalisation" in s for s in said(late)), "a sixth of the gain came with adaptation"
    assert not any("is not personalisation" in s for s in said(three(0.004, 0.7, flips=0.01, cold=0.70)))
    nothing = three(0.4, 0.7, flips=0.0004, cold=0.70)
    assert not any("is not personalisation" in s for s in said(nothing)), "nothing was gained"


def test_a_cold_start_that_decides_nothing_is_not_said_to_flip() -> None:
    blank = row("mrm", 0.66, flips=0.49, cold=0.5)
    texts = said(board([row("lore", 0.7, flips=0.2), blank, row("bt", 0.64, flips=0.0)], []), "measured")
    assert texts == [
        "adaptation flips the most for LORE, 20.0%; without a user's choices MRM decides nothing (means over splits, no "
        "test)"
    ]


def test_nothing_can_be_tested() -> None:
    assert said(three(NAN, NAN), "missing") == [
        "no difference from BT can be tested (corrected resampled t-test: the differences do not vary over the splits)"
    ]
    one = Board(**{**vars(three(NAN, NAN)), "splits": 1})
    assert "it needs two splits or more" in said(one, "missing")[0]
    assert not any("beats" in s for s in said(one))


def test_no_baseline_and_no_personalised_method() -> None:
    assert said(board([row("lore", 0.7)], []), "missing") == [
        "there is no baseline to compare personalised methods with"
    ]
    assert said(board([row("bt", 0.7)], []), "missing") == ["no personalised method has results on all splits"]


def test_what_does_not_personalise_may_beat_the_baseline_too() -> None:
    ridge, bt, lore = row("ridge", 0.7), row("bt", 0.64), row("lore", 0.66)
    pairs = [pair(ridge, bt, 0.02), pair(lore, bt, 0.8), pair(ridge, lore, 0.9)]
    texts = said(board([ridge, lore, bt], pairs), "tested")
    assert any(s.startswith("RIDGE, which does not personalise, beats BT by 6.0 points (95% interval") for s in texts)
    short = said(
        board([bt, lore, row("ridge", 0.6)], [pair(row("ridge", 0.6), bt, 0.02), pair(lore, bt, 0.8)]), "tested"
    )
    assert any(s.startswith("RIDGE, which does not personalise, falls short of BT by 4.0 points") for s in short)


@pytest.mark.parametrize(
    ("lore", "p", "text"),
    [
        (0.75, 0.01, "the best personalised method, LORE, beats the best without personalisation, RIDGE, by 5.0 points ("),
        (0.65, 0.01, "the best personalised method, LORE, falls short of the best without personalisation, RIDGE, by 5.0"),
        (0.71, 0.3, "the best personalised method, LORE, does not differ from the best without personalisation, RIDGE, "
                    "beyond noise: +1.0 points ("),
    ],
)  # fmt: skip
def test_the_best_of_both_kinds(lore: float, p: float, text: str) -> None:
    a, ridge, bt = row("lore", lore), row("ridge", 0.70), row("bt", 0.64)
    # The table's own p-value is not the one that decides: both rows were picked by their results.
    pairs = [pair(a, ridge, 0.5, p_all=p), pair(a, bt, 0.5), pair(ridge, bt, 0.5)]
    rows = sorted([a, ridge, bt], key=lambda r: -r.value("overall"))
    texts = [s for s in said(board(rows, pairs), "tested") if s.startswith("the best personalised")]
    assert len(texts) == 1
    assert texts[0].startswith(text)
    assert texts[0].endswith("corrected resampled t-test, Holm over all 3 pairs)")


def test_the_best_of_both_kinds_is_not_said_twice() -> None:
    assert not any(s.startswith("the best personalised") for s in said(three(0.004, 0.7)))


def test_first_place() -> None:
    apart = [s for s in said(three(0.4, 0.7), "tested") if "first place" in s]
    assert apart == [
        "first place is not settled: LORE and the runner-up, MRM, are 4.0 points apart, within noise (95% interval +2.0 "
        "to +6.0; p = 0.900; corrected resampled t-test, Holm over the table's 3 comparisons)"
    ]
    a, b = row("lore", 0.7), row("mrm", 0.6)
    settled = said(board([a, b], [pair(a, b, 0.001)]), "tested")
    assert settled[0].startswith(
        "LORE leads, 10.0 points above the runner-up, MRM (95% interval +8.0 to +12.0; p = 0.001;"
    )


def own_gain(r: Row, p: float, *, cold: float = 0.6) -> Pair:
    """The row against its cold start."""
    return pair(r, replace(r, mean={q: {"accuracy": cold} for q in r.mean}), p)


def test_what_adapting_does() -> None:
    rows = [row("lore", 0.65), row("mrm", 0.61), row("gpo", 0.55), row("vpl", 0.5)]
    gains = [own_gain(r, p) for r, p in zip(rows, (0.001, 0.2, 0.04, 0.03), strict=True)]
    b = board(rows, [], adapting=gains)
    assert [text for text in said(b, "tested") if "adapting" in text] == [
        "adapting to a user's choices raises the accuracy of 1 of the 4 methods whose decisions it changes: LORE by 5.0 "
        "points (95% interval +3.0 to +7.0; p = 0.001); corrected resampled t-test, Holm over these 4",
        "adapting to a user's choices lowers the accuracy of 2 of the 4 methods whose decisions it changes: VPL by 10.0 "
        "points (95% interval −12.0 to −8.0; p = 0.030) and GPO by 5.0 points (95% interval −7.0 to −3.0; p = 0.040); "
        "corrected resampled t-test, Holm over these 4",
    ]
    tuned = [*gains, own_gain(row("lore", 0.65, selection="tuned"), 0.5)]
    assert said(board(rows, [], adapting=tuned), "tested")[0].startswith(
        "adapting to a user's choices raises the accuracy of 1 of the 5 rows whose decisions it changes"
    )
    assert said(board(rows[:1], [], adapting=gains[:1]), "tested")[0].startswith(
        "adapting to a user's choices raises the accuracy of the one method whose decisions it changes: LORE by 5.0"
    )
    b = board(rows[1:2], [], adapting=gains[1:2])
    assert [text for text in said(b, "tested") if "adapting" in text] == [
        "adapting to a user's choices raises no accuracy above cold start beyond noise: the most is +1.0 points, MRM "
        "(95% interval −1.0 to +3.0; p = 0.200; corrected resampled t-test)"
    ]
    assert not [text for text in said(board(rows, [], adapting=[own_gain(rows[0], NAN)])) if "adapting" in text]


def test_on_how_many_boards_adapting_helps() -> None:
    better, same, worse = (own_gain(row("lore", a), p) for a, p in ((0.65, 0.01), (0.61, 0.5), (0.5, 0.02)))
    boards = [
        board([better.a], [], adapting=[better], dataset="one"),
        board([same.a], [], adapting=[same], dataset="two"),
        board([worse.a], [], adapting=[worse], dataset="three"),
        board([same.a], [], dataset="four"),
    ]
    (found,) = [f.text for f in overview(boards, {(b.dataset, "e"): FAMILIES for b in boards}) if "cold" in f.text]
    assert found == (
        "against the same method's cold start, adapting to a user's choices changes accuracy beyond noise: it raises it "
        "on 1 of the 3 that can be tested: one (e: 1 of 1 methods); it lowers it on 1 of the 3 that can be tested: three "
        "(e: 1 of 1 methods) (corrected resampled t-test, Holm within each setting, p < 0.05)"
    )


def test_flips() -> None:
    a, b = row("lore", 0.62, flips=0.237, cold=0.683), row("mrm", 0.66, flips=0.0)
    texts = said(board([b, a], []), "measured")
    assert texts == [
        "adaptation flips hardly any decision of MRM (0.0%); it flips the most for LORE, 23.7% (means over splits, no "
        "test)"
    ]
    assert said(board([a], []), "measured")[0].startswith("adaptation flips the most for LORE, 23.7%")
    assert said(board([b], []), "measured") == [
        "adaptation flips hardly any decision of MRM (0.0%) (means over splits, no test)"
    ]


def bounds(floor: float, ceiling: float) -> dict[str, Row]:
    return {"floor": row("floor", floor), "ceiling": row("ceiling", ceiling)}


def test_ceiling_and_floor() -> None:
    texts = said(board([row("bt", 0.75)], [], bounds=bounds(0.7, 0.9)), "measured")
    assert texts == [
        "BT goes 25% of the way from 70.0%, the best that is possible without personalisation, to 90.0%, what the true "
        "rewards reach"
    ]
    below = said(board([row("bt", 0.65)], [], bounds=bounds(0.7, 0.9)), "measured")
    assert below == [
        "no method reaches 70.0%, the best that is possible without personalisation: the first, BT, has 65.0%"
    ]


def test_what_the_test_oracle_would_have_claimed() -> None:
    honest = row("mrm", 0.66)
    oracle = row("mrm", 0.68, selection="test-oracle", title="MRM (selected on test data)")
    texts = said(board([honest, oracle], []), "measured")
    assert "choosing MRM's epoch on test data would claim 68.0%, 2.0 points more than chosen on validation" in texts
    # Tuned, it is another setting: the difference would not be the epoch's.
    tuned = row("mrm", 0.72, selection="tuned", title="MRM (tuned)")
    assert texts == said(board([tuned, honest, oracle], []), "measured")
    # Over other splits the two means would not be of the same thing.
    other = row("mrm", 0.68, selection="test-oracle", splits=(0, 1))
    assert not any("would claim" in s for s in said(board([honest, other], [])))


def test_what_is_missing() -> None:
    bt = row("bt", 0.7)
    gone = row("mrm", 0.0, splits=(), complete=False, mean={}, note="skipped: no head")
    part = row("lore", 0.9, splits=(0, 1), complete=False, note="failed: out of memory")
    half = row("ridge", 0.9, complete=False)
    texts = said(board([bt, part, half, gone], [pair(part, bt, 0.001)]), "missing")
    assert texts == [
        "no personalised method has results on all splits",
        "LORE has 2 of 4 splits (failed: out of memory) and is not ranked",
        "RIDGE lacks a population of users and is not ranked",
        "MRM has no results (skipped: no head)",
    ]


def test_rows_that_may_not_rank_claim_nothing() -> None:
    bt = row("bt", 0.6)
    part = row("lore", 0.9, splits=(0, 1), complete=False, note="not run")
    oracle = row("mrm", 0.9, selection="test-oracle")
    texts = said(board([bt, part, oracle], [pair(part, bt, 0.0001), pair(oracle, bt, 0.0001)]))
    assert not any("beat" in s or "leads" in s for s in texts)


def test_tested_sentences_come_first() -> None:
    kinds = [f.kind for f in findings(three(0.004, 0.7, flips=0.0), FAMILIES)]
    assert kinds == sorted(kinds, key=("tested", "measured", "missing").index)
    assert len(set(kinds)) == 2


def test_overview_counts_the_settings() -> None:
    won, lost, untested = three(0.004, 0.7), three(0.4, 0.7), three(NAN, NAN)
    families = {("d", "e"): FAMILIES}
    assert overview([won], families) == []
    two = [f.text for f in overview([won, lost], families)]
    test = "(corrected resampled t-test, Holm within each setting, p < 0.05)"
    assert two == [
        f"a personalised method beats BT beyond noise on 1 of 2: d (e) {test}",
        f"the best personalised method beats the best method without personalisation beyond noise on 1 of 2: d (e) {test}",
    ]
    assert (
        overview([lost, lost], families)[0].text == f"a personalised method beats BT beyond noise on none of 2 {test}"
    )
    still = three(0.004, 0.7, flips=0.001)
    first = "a personalised method beats BT beyond noise on 2 of 2: d (e) and d (e), but one whose adaptation flips 1% of "
    assert overview([won, still], families)[0].text == first + f"decisions or more on 1 of 2 {test}"
    assert "1 of the 1 that can be tested" in overview([won, untested], families)[0].text
    assert overview([untested, untested], families) == []
    place = overview([won, Board(**{**vars(lost), "splits": 20})], families)[0].place
    assert place == "Over 2 settings of data set and encoder (4 to 20 splits each)"


def test_words() -> None:
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [points(v) for v in (0.0634, -0.02, 0.0001, 0.0)] == [
        "6.3 points",
        "2.0 points",
        "0.01 points",
        "0.0 points",
    ]
    assert [signed_points(v) for v in (0.013, -0.0001)] == ["+1.3 points", "−0.01 points"]
    assert p_text(0.0004, 0.05) == "p < 0.001"
    assert p_text(0.0312, 0.05) == "p = 0.031"
    assert p_text(0.04996, 0.05) == "p = 0.04996", "on which side of alpha must show"


def test_on_a_board_from_results() -> None:
    """The planted methods of test_reporting, end to end: only what has a star is said to beat."""
    fake = population({"bt": 0.0, "lore": 0.004, "mrm": 0.06})
    b = one_board(fake)
    families = {("bt", "validation"): NONE, ("lore", "validation"): PERSONAL, ("mrm", "validation"): PERSONAL}
    texts = [str(f) for f in findings(b, families)]
    assert texts[0].startswith("On convarg (minilm, 8 splits), 1 of 2 personalised methods beats BT: MRM by ")
    assert all(text.startswith("On convarg (minilm, 8 splits), ") for text in texts)
    single = one_board(population({"bt": 0.0, "mrm": 0.06}, splits=1))
    assert not any("beats" in str(f) for f in findings(single, families))
