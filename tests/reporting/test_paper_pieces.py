"""The numbers of the paper's figures, planted and counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from paper_results import Store, piece, record

from prbench import registry
from prbench.commands import entries
from prbench.protocol import stats
from prbench.reporting.board import Board, Pair, Row
from prbench.reporting.paper import curves, personal, ranks
from prbench.reporting.paper.evidence import PieceResult

EVERYONE = range(4)


def split_by_split(store: Store, method: str, shares: list[float], **options: Any) -> Store:
    """All four users (two seen) at the same accuracy, one number per split."""
    for split, share in enumerate(shares):
        store.add(method, dict.fromkeys(EVERYONE, share), split=split, **options)
    return store


# --- curves


def test_the_worst_users_come_first() -> None:
    store = Store()
    for split, worst in enumerate((0.2, 0.4)):
        store.add("bt", {0: 0.8, 1: worst, 2: 0.6, 3: 1.0}, split=split)
    made = store.make(piece("curves:robustness", ["bt"]))
    assert len(made.frame) == 100
    first, half, everyone = (record(made, k=k) for k in (25, 50, 100))
    assert first["accuracy"] == pytest.approx(0.3)
    assert first["accuracy_std"] == pytest.approx(0.02**0.5)
    assert half["accuracy"] == pytest.approx((0.4 + 0.5) / 2)
    assert everyone["accuracy"] == pytest.approx((0.65 + 0.7) / 2)
    assert [cell.text for cell in made.grids[0].rows[0]][-1] == "67.5±3.5"


def test_values_that_rise_again_start_another_curve() -> None:
    methods = ["mrm-k1", "mrm", "mrm-k4", "bt", "lore-k2"]
    asked = piece("curves:sweep", methods, parameter="bases", values=[1.0, 2.0, 4.0, 1.0, 2.0])
    assert curves._runs_of(asked) == [[("mrm-k1", 1), ("mrm", 2), ("mrm-k4", 4)], [("bt", 1), ("lore-k2", 2)]]
    store = Store()
    for method, share in zip(methods, (0.5, 0.6, 0.7, 0.8, 0.9), strict=True):
        split_by_split(store, method, [share, share])
    made = store.make(asked)
    assert made.frame[["curve", "bases"]].to_numpy().tolist() == [[0, 1], [0, 2], [0, 4], [1, 1], [1, 2]]
    assert made.frame["overall"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert made.figure is not None
    assert [text.get_text() for text in made.figure.legends[0].get_texts()] == ["MRM", "LoRe"]


def test_a_sweep_of_one_value_is_not_drawn() -> None:
    asked = piece("curves:sweep", ["mrm", "mrm-gamma-1"], parameter="gamma", values=[0.5, 1.0])
    made = split_by_split(Store(), "mrm", [0.5, 0.6]).make(asked)
    assert made.figure is None
    assert not len(made.frame)
    assert made.missing == ["convarg (minilm), not run: mrm-gamma-1"]


def test_the_hard_filter_has_a_star() -> None:
    methods, values = ["mrm-gamma-0", "mrm-gamma-0_1", "mrm"], [0.0, 0.1, 0.5]
    store = Store()
    for method in methods:
        split_by_split(store, method, [0.5, 0.6])
    made = store.make(piece("curves:sweep", methods, parameter="gamma", values=values))
    assert made.figure is not None
    assert [label.get_text() for label in made.figure.axes[0].get_xticklabels()] == ["0*", "0.1", "0.5"]


def test_few_shots_rise_from_the_cold_start_to_all() -> None:
    store = split_by_split(Store(), "bt", [0.5, 0.5])
    for shots, shares in ((-1, [0.9, 0.8]), (10, [0.7, 0.8]), (0, [0.5, 0.4]), (2, [0.6, 0.6])):
        split_by_split(store, "lore", shares, shots=shots)
    asked = piece("curves:few_shot", ["bt", "lore"], shots=[0, 2, 10])
    made = store.make(asked)
    own = made.frame[made.frame["method"] == "lore"]
    assert own["shots"].tolist() == [0, 2, 10, -1]
    assert own["accuracy"].tolist() == pytest.approx([0.45, 0.6, 0.75, 0.85])
    assert made.figure is not None
    axes = made.figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2", "10", "all"]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert np.allclose(lines["BT"].get_ydata(), 50)
    assert np.allclose(lines["LoRe"].get_ydata(), [45, 60, 75, 85])


def test_shots_that_some_splits_lack_are_named_and_not_averaged() -> None:
    store = split_by_split(Store(), "lore", [0.9, 0.8])
    store.add("lore", dict.fromkeys(EVERYONE, 0.2), split=0, shots=5)
    split_by_split(store, "lore", [0.4, 0.5], shots=0)
    made = store.make(piece("curves:few_shot", ["lore"], shots=[0, 5]))
    assert made.frame["shots"].tolist() == [0, -1]
    assert made.missing == ["convarg (minilm), few shots: not for every split of lore"]


def test_without_few_shots_there_is_no_figure_and_it_is_said_what_to_run() -> None:
    made = split_by_split(Store(), "lore", [0.9, 0.8]).make(piece("curves:few_shot", ["lore"], shots=[0, 5]))
    assert not len(made.frame)
    assert made.missing == ["convarg (minilm): run with --shots 0,5,all"]


def test_noise_starts_from_the_stored_scores() -> None:
    store = split_by_split(Store(), "lore", [0.9, 0.8])
    split_by_split(store, "bt", [0.6, 0.6])
    for split in range(2):
        # The unseen users only: 2 and 3.
        store.probe("lore", {2: 0.5, 3: 0.7}, split=split, probe="noise", noise=0.2)
        store.probe("lore", {2: 0.3, 3: 0.3}, split=split, probe="noise", noise=0.4)
    made = store.make(piece("curves:noise", ["bt", "lore"], noise=[0.2, 0.4]))
    assert made.frame["method"].unique().tolist() == ["lore"]
    assert made.frame["noise"].tolist() == [0, 0.2, 0.4]
    assert made.frame["accuracy"].tolist() == pytest.approx([0.85, 0.6, 0.3])


def test_noise_without_probes_says_what_to_run() -> None:
    made = split_by_split(Store(), "lore", [0.9, 0.8]).make(piece("curves:noise", ["lore"], noise=[0.2, 0.4]))
    assert not len(made.frame)
    assert made.missing == ["label noise: run `prbench probe --noise 0.2,0.4`"]


# --- who personalises, and for whom


def test_flips_are_shares_of_test_decisions() -> None:
    store = Store()
    for split in range(2):
        store.add("lore", dict.fromkeys(EVERYONE, 0.8), split=split, cold=0.5)
        store.add("bt", dict.fromkeys(EVERYONE, 0.6), split=split)
    made = store.make(piece("personal:flips", ["bt", "lore"]))
    assert record(made, method="lore")["flip_rate"] == pytest.approx(0.3)
    assert record(made, method="lore")["cold_start"] == pytest.approx(0.5)
    assert record(made, method="bt")["flip_rate"] == 0


def test_gains_are_per_user_over_the_splits_that_tested_the_user() -> None:
    store = Store()
    store.add("bt", {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}, split=0)
    store.add("lore", {0: 0.6, 1: 0.4, 2: 0.5, 3: 0.9}, split=0)
    store.add("bt", {0: 0.5, 1: 0.5, 2: 0.5}, split=1, seen=1)
    store.add("lore", {0: 0.8, 1: 0.2, 2: 0.5}, split=1, seen=1)
    made = store.make(piece("personal:gains", ["lore"]))
    line = record(made, method="lore")
    # Users 0 to 3: (0.1 + 0.3) / 2, (−0.1 − 0.3) / 2, 0 and 0.4.
    assert line["users"] == 4
    assert line["mean"] == pytest.approx(0.1)
    assert line["median"] == pytest.approx(0.1)
    assert line["q1"] == pytest.approx(-0.05)
    assert line["p95"] == pytest.approx(0.4 - 0.15 * 0.2)
    assert (line["better"], line["worse"]) == (0.5, 0.25)


def test_gains_need_the_baseline() -> None:
    made = split_by_split(Store(), "lore", [0.6, 0.7]).make(piece("personal:gains", ["lore"]))
    assert not len(made.frame)
    assert made.missing == ["the baseline bt: nothing to compare with"]


def test_the_gap_is_between_support_and_test_of_unseen_users() -> None:
    store = split_by_split(Store(), "lore", [0.6, 0.7])
    for split in range(2):
        store.probe("lore", {2: 1.0, 3: 0.9}, split=split, probe="support")
    line = record(store.make(piece("personal:gap", ["lore"], support=True)), method="lore")
    assert line["support_accuracy"] == pytest.approx(0.95)
    assert line["test_accuracy"] == pytest.approx(0.65)
    assert line["gap"] == pytest.approx(0.3)


def test_probes_of_some_splits_only_are_named_and_not_drawn() -> None:
    store = split_by_split(Store(), "lore", [0.6, 0.7]).probe("lore", {2: 1.0, 3: 0.9}, probe="support")
    made = store.make(piece("personal:gap", ["lore"], support=True))
    assert not len(made.frame)
    assert made.missing == ["convarg (minilm), accuracy on the support: not for every split of lore"]


def test_reliability_counts_in_tenths_of_half_to_one() -> None:
    probability = np.array([0.5, 0.54, 0.56, 0.96, 1.0])
    bins = personal.reliability(probability, np.array([1.0, 0.0, 1.0, 1.0, 0.5]))
    assert [b["bin"] for b in bins] == pytest.approx([0.5, 0.55, 0.95])
    assert [b["probability"] for b in bins] == pytest.approx([0.52, 0.56, 0.98])
    assert [b["frequency"] for b in bins] == pytest.approx([0.5, 1.0, 0.75])
    assert [b["comparisons"] for b in bins] == [2, 1, 2]


def test_margins_that_mean_what_they_say_are_calibrated() -> None:
    store = Store()
    for split in range(2):
        # σ(log 4) = 0.8: eight of ten are right.
        store.add("bt", dict.fromkeys(EVERYONE, 0.8), split=split, margin=math.log(4))
    made = store.make(piece("personal:calibration", ["bt"]))
    assert record(made, method="bt")["frequency"] == pytest.approx(0.8)
    assert record(made, method="bt")["comparisons"] == 80
    assert [cell.text for cell in made.grids[0].rows[0]] == ["BT", "0.00", "0.00"]


# --- what may be claimed


def test_ties_share_their_ranks() -> None:
    store = split_by_split(Store(), "bt", [0.6, 0.6])
    split_by_split(store, "lore", [0.6, 0.7])
    split_by_split(store, "mrm", [0.5, 0.5])
    made = store.make(piece("ranks:ranks", ["bt", "lore", "mrm"]))
    mean_ranks = dict(zip(made.frame["method"], made.frame["mean_rank"], strict=True))
    # Split 0: bt and lore share ranks 1 and 2; split 1: lore 1, bt 2.
    assert mean_ranks == {"lore": 1.25, "bt": 1.75, "mrm": 3.0}
    assert made.frame["method"].tolist() == ["lore", "bt", "mrm"]


def planted_board(p: dict[tuple[int, int], float], count: int) -> tuple[Board, list[Row]]:
    """Rows 0, 1, ... of which the pairs named differ at a Holm-adjusted p."""
    rows = [Row(str(i), "last", str(i), {}, (0,), True, {}, {}) for i in range(count)]
    none = stats.compare(np.zeros((2, 2)), np.zeros((2, 2)), ratio=1, rng=None, resamples=0)  # type: ignore[arg-type]
    pairs = [Pair("overall", rows[a], rows[b], none, p_all_pairs=value) for (a, b), value in p.items()]
    return Board("d", "e", rows, dict.fromkeys((r.key for r in rows), None), pairs, 1.0, 1, 0.05), rows


@pytest.mark.parametrize(
    ("p", "runs"),
    [
        ({(0, 1): 0.5, (1, 2): 0.5, (0, 2): 0.5}, [(0, 1, 2)]),
        ({(0, 1): 0.5, (1, 2): 0.5, (0, 2): 0.01}, [(0, 1), (1, 2)]),
        ({(0, 1): 0.01, (1, 2): 0.5, (0, 2): 0.01}, [(1, 2)]),
        ({(0, 1): 0.01, (1, 2): 0.01, (0, 2): 0.01}, []),
        # The middle does not bridge: 0 and 1 differ from 3, 2 does not.
        ({(0, 1): 0.5, (1, 2): 0.5, (0, 2): 0.5, (0, 3): 0.01, (1, 3): 0.01, (2, 3): 0.5}, [(0, 1, 2), (2, 3)]),
        # Tests need not follow the ranks: 1 differs from both of its neighbours.
        ({(0, 1): 0.01, (1, 2): 0.01, (0, 2): 0.5}, [(0, 2)]),
        # Without a p nothing was tested.
        ({(0, 1): math.nan, (1, 2): 0.5, (0, 2): math.nan}, [(1, 2)]),
    ],
)
def test_bars_mark_groups_of_which_no_two_differ(
    p: dict[tuple[int, int], float], runs: list[tuple[int, int]]
) -> None:
    board, rows = planted_board(p, 1 + max(b for _, b in p))
    assert ranks.indistinguishable_groups(board, rows) == runs


def test_optimism_is_what_choosing_on_test_data_adds() -> None:
    store = split_by_split(Store(), "mrm", [0.6, 0.6])
    split_by_split(store, "mrm", [0.8, 0.7], selection="test-oracle")
    split_by_split(store, "bt", [0.6, 0.6])
    made = store.make(piece("optimism:oracle", ["bt", "mrm"], selections=["published", "test-oracle"]))
    assert record(made, method="mrm")["optimism"] == pytest.approx(0.15)
    assert math.isnan(record(made, method="bt")["optimism"])
    assert made.missing == ["convarg (minilm), run with --selection test-oracle: bt"]
    assert [cell.text for cell in made.grids[0].rows[1]] == ["MRM", "60.00", "75.00", "+15.00"]


def transferred() -> PieceResult:
    store = split_by_split(Store(), "lore", [0.6, 0.6])
    split_by_split(store, "lore", [0.9, 0.7], dataset="crowdrag")
    for split, share in enumerate((0.6, 0.5)):
        store.probe("lore", {10: share, 11: share}, split=split, probe="on", on="crowdrag", cold=0.4)
    return store.make(piece("transfer:transfer", ["lore"], transfer=True))


def test_transfer_stands_beside_the_fit_on_the_data_it_is_tested_on() -> None:
    line = record(transferred(), fitted_on="convarg", tested_on="crowdrag")
    assert line["accuracy"] == pytest.approx(0.55)
    assert line["cold_start"] == pytest.approx(0.4)
    assert line["fitted_there"] == pytest.approx(0.8)
    assert line["n_splits"] == 2


# --- what a population costs


def test_efficiency_is_per_split_per_user_and_per_second() -> None:
    store = Store()
    for split, (fit, adapt, score, users) in enumerate(((2.0, 0.5, 0.1, 10), (4.0, 1.5, 0.3, 20))):
        store.add(
            "lore",
            dict.fromkeys(EVERYONE, 0.6),
            split=split,
            seconds={"fit": fit, "adapt": adapt, "score": score},
            counts={"seen_test": 100 * (split + 1), "unseen_users": users},
            parameters={"shared": 50, "per_user": 5},
            trained_together=2,
            device="cpu, 1 threads",
        )
    made = store.make(piece("population:efficiency", ["bt", "lore"]))
    line = record(made, method="lore")
    assert line["fit_seconds"] == pytest.approx(3.0)
    # 0.5 s for 10 users and 1.5 s for 20: 50 and 75 ms.
    assert line["adapt_ms_per_user"] == pytest.approx(62.5)
    assert line["scored_per_second"] == pytest.approx(300 / 0.4)
    assert line["bytes_per_user"] == 20
    assert made.missing == ["convarg (minilm), not run: bt"]
    assert [cell.text for cell in made.grids[0].rows[0]] == ["LoRe", "3.00", "62.50", "750", "20", "50"]


def test_figure_7_counts_what_prbench_show_counts() -> None:
    methods = ["bt", "gpo", "vpl", "pal", "np", "lore", "pref", "rfm", "mrm"]
    methods = [name for name in methods if name in registry.names("methods")]
    made = split_by_split(Store(), "bt", [0.6, 0.7]).make(piece("population:parameters", methods))
    for name in methods:
        shown = entries.full(name, "methods")["parameter_count"]
        own = made.frame[made.frame["method"] == name].set_index("users")
        for users in (10, 100, 1_000, 10_000):
            fitted = registry.get("methods", name).family == "personalised parameters"
            assert own["trained"][users] == shown["shared"] + fitted * users * shown["per_user"]
    # The published formulas at d = 4,096 and 1,000 users: d, Kd + KU with K = 5, and Kd + K + KU with K = 2.
    trained = made.frame[made.frame["users"] == 1_000].set_index("method")["trained"]
    assert [trained[name] for name in ("bt", "lore", "mrm")] == [4_096, 25_480, 10_194]


def test_comparing_only_what_is_printed_changes_no_number() -> None:
    store = Store()
    for method, shares in (("bt", [0.6, 0.7]), ("lore", [0.7, 0.7]), ("mrm", [0.5, 0.7]), ("vpl", [0.6, 0.8])):
        for split, share in enumerate(shares):
            store.add(method, {0: share, 1: 0.3, 2: share, 3: 0.9}, split=split)
    asked = piece("tables:accuracy", ["bt", "lore", "mrm", "vpl"])
    evidence = store.evidence(asked)
    every, printed, none = (evidence.board("convarg", "minilm", asked, which) for which in ("all", "printed", "none"))
    assert (len(every.pairs), none.pairs) == (18, [])
    assert len(printed.in_table()) < len(printed.pairs)
    for one, other in zip(printed.pairs, every.pairs, strict=True):
        assert (one.a.key, one.b.key, one.population) == (other.a.key, other.b.key, other.population)
        assert one.p_table == pytest.approx(other.p_table, nan_ok=True)
        assert one.p_all_pairs == pytest.approx(other.p_all_pairs, nan_ok=True)
    shown = printed.in_table()
    assert not any(math.isnan(pair.result.bootstrap.low) for pair in shown)
    assert all(math.isnan(pair.result.bootstrap.low) for pair in printed.pairs if pair not in shown)
