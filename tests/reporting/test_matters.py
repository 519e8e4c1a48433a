"""The pieces of the report `matters`, from tables whose numbers are planted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from paper_results import Store, record

from prbench import registry
from prbench.base.seeds import Rng
from prbench.protocol.slopes import fifths, slope, slope_over_users
from prbench.registry.pieces import Piece, read_pieces
from prbench.reporting.matters.asking import q95
from prbench.reporting.matters.best_of_n import normalised, pool_gains, relation
from prbench.reporting.matters.noise import slopes
from prbench.reporting.matters.policy import agreement, shares
from prbench.reporting.matters.taxes import tax_of
from prbench.reporting.matters.tested import by_user, family
from prbench.reporting.matters.whose import exchanged_users, own_and_other
from prbench.results.probe_tables import POOLS, TABLES

WHERE = {"dataset": "convarg", "encoder": "minilm"}
PERSONAL = {"parameters": {"shared": 1, "per_user": 2}}


def piece(target: str, methods: list[str], name: str = "planted") -> Piece:
    return Piece(
        name=name,
        target=f"prbench.reporting.matters.{target}",
        title="Planted",
        shows="Planted.",
        methods=methods,
    )


def lines(method: str, split: int, rows: list[dict[str, Any]]) -> pd.DataFrame:
    entry = registry.get("methods", method)
    return pd.DataFrame(rows).assign(**WHERE, method=method, selection=entry.selection, split=split)


def test_the_report_lists_pieces_that_are_there_for_methods_that_are_there() -> None:
    entry = registry.get("reports", "matters")
    pieces = read_pieces(entry.options["pieces"], "reports/matters.toml")
    assert pieces[0].methods == registry.select("methods", "all")
    asked = {kind for one in pieces for kind in one.probes}
    assert asked == set(TABLES) - {"halves", "inference", "policy"}


def test_gains_over_strangers_are_means_of_strangers_then_of_users_then_of_splits() -> None:
    def row(user: int, stranger: int, own: float, other: float, cold: float) -> dict[str, Any]:
        return {
            "user": user,
            "comparison": 0,
            "stranger": stranger,
            "choices": 4,
            "own": own,
            "other": other,
            "cold": cold,
        }

    # User 0: stranger 0 has two test choices, own right and wrong, other wrong twice, cold tied: gains 0 and −½.
    # Stranger 1 has one: own right, other right, cold wrong: gains 1 and 1. Means over strangers: ½ and ¼.
    table = lines("lore", 0, [row(0, 0, 1, -1, 0), row(0, 0, -1, -1, 0), row(0, 1, 1, 1, -1), row(1, 0, 1, -1, -1)])
    found = own_and_other(table).set_index("user")
    assert found.loc[0, ["own", "other", "difference"]].tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert found.loc[1, ["own", "other", "difference"]].tolist() == pytest.approx([1, 0, 1])
    matrix = by_user(own_and_other(table), "difference")
    tests = family({"x": matrix}, ratio=1.0, alpha=0.05, resamples=0, axes=("t",))
    assert tests["x"].result.difference == pytest.approx((0.25 + 1) / 2)


def planted(kind: str, make: Any, methods: tuple[str, ...] = ("lore", "mrm"), splits: int = 6) -> Store:
    store = Store()
    users = dict.fromkeys(range(12), 0.7)
    for split in range(splits):
        for method in methods:
            store.add(method, users, split=split, cold=0.6, **PERSONAL)
    tables = [make(method, split) for method in methods for split in range(splits)]
    store.tables[kind] = pd.concat(tables, ignore_index=True)
    return store


def test_a_method_that_gains_as_much_from_strangers_is_said_to_lack_evidence() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        draw = Rng("planted", split).numpy()
        rows = []
        for user in range(6, 12):
            for test in range(20):
                right = bool(draw.random() < 0.9)
                strange = right if method == "mrm" else bool(draw.random() < 0.5)
                rows.append(
                    {
                        "user": user,
                        "comparison": test,
                        "stranger": 0,
                        "choices": 5,
                        "own": 1.0 if right else -1.0,
                        "other": 1.0 if strange else -1.0,
                        "cold": 0.0,
                    }
                )
        return lines(method, split, rows)

    made = planted("strangers", make).make(piece("whose:strangers", ["lore", "mrm"]))
    own, none = (record(made, method=method) for method in ("lore", "mrm"))
    assert own["difference"] == pytest.approx(0.4, abs=0.08)
    assert own["difference_p_holm"] < 0.05
    assert none["difference"] == 0
    assert none["own"] == pytest.approx(none["other"]) == pytest.approx(0.4, abs=0.06)
    yes, no = (str(finding) for finding in made.findings)
    assert "the gain comes from the user's own choices for LoRe (corrected" in yes
    assert "no evidence that the gain is the user's own for MRM" in no
    assert "LoRe" not in no


def test_exchanged_labels_show_who_follows_them_and_users_without_margins_are_left_out() -> None:
    def row(user: int, margin: float, exchanged: float, tossed: float, cold: float) -> dict[str, Any]:
        return {
            "user": user, "comparison": 0, "margin": margin, "exchanged": exchanged, "tossed": tossed, "cold": cold,
        }  # fmt: skip

    table = lines("lore", 0, [row(0, 1, -1, 0, 1), row(0, 1, 1, 1, -1), row(1, 0, 0, 1, 0), row(2, 0, 1, 0, 0)])
    users, dropped = exchanged_users(table)
    users = users.set_index("user")
    assert dropped == {("convarg", "minilm", "lore", registry.get("methods", "lore").selection): 1}
    assert users.index.tolist() == [0, 2]
    # User 0: one of two decisions changes; gains 0 and 1, exchanged −1 and 1, tossed −½ and 1.
    assert users.loc[0, ["changed", "gain", "exchanged", "tossed"]].tolist() == pytest.approx([0.5, 0.5, 0, 0.25])
    assert users.loc[2, ["changed", "gain"]].tolist() == pytest.approx([0.5, 0])

    def make(method: str, split: int) -> pd.DataFrame:
        draw = Rng("planted", split, method).numpy()
        right = draw.random((6, 30)) < 0.8
        turned = ~right if method == "lore" else right
        rows = [
            row(6 + u, 1.0 if right[u, t] else -1.0, 1.0 if turned[u, t] else -1.0, 1.0 if t % 2 else -1.0, 0.0)
            | {"comparison": t}
            for u in range(6)
            for t in range(30)
        ]
        return lines(method, split, rows)

    made = planted("exchange", make).make(piece("whose:exchange", ["lore", "mrm"]))
    follows, topic = (record(made, method=method) for method in ("lore", "mrm"))
    assert follows["changed"] == 1
    assert follows["exchanged"] == pytest.approx(-follows["gain"])
    assert topic["changed"] == 0
    assert topic["exchanged"] == pytest.approx(topic["gain"])
    (said,) = map(str, made.findings)
    assert "reversed labels take LoRe below the cold start" in said


def test_slopes_and_fifths_by_hand() -> None:
    assert slope(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 6.0])) == pytest.approx(2.5)
    assert np.isnan(slope(np.ones(3), np.arange(3.0)))
    assert fifths(np.arange(10.0)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    # Equal values share a fifth: the middle of the first six ranks of ten is 3, in the second fifth.
    assert fifths(np.array([0, 0, 0, 0, 0, 0, 1, 2, 3, 4.0])).tolist() == [1] * 6 + [3, 3, 4, 4]
    x = np.linspace(0, 1, 40)
    noise = Rng("noise").numpy().normal(0, 0.1, 40)
    found = slope_over_users(x, 2 * x + noise, rng=Rng("boot"), resamples=999)
    assert found.interval.low < 2 < found.interval.high
    assert found.interval.high - found.interval.low < 0.4


def test_a_gap_that_adapting_widens_is_found_and_one_that_it_leaves_is_not() -> None:
    store = Store()
    users = list(range(40))
    rate = {u: 0.4 + 0.01 * u for u in users}
    tables = []
    for split in range(4):
        draw = Rng("gap", split).numpy()
        cold = dict.fromkeys(users, 0.5)
        for method, gain in (("lore", 1.0), ("mrm", 0.0)):
            right = {
                u: float(np.clip(0.5 + 0.2 + gain * (rate[u] - 0.6) + draw.normal(0, 0.03), 0, 1)) for u in users
            }
            store.add(method, right, split=split, seen=0, cold=0.5, **PERSONAL)
            rows = [
                {"user": u, "seen": 0, "pairs": 4 if u == 39 else 9, "rate": rate[u], "planted": -1} for u in cold
            ]
            tables.append(lines(method, split, rows))
    store.tables["agreement"] = pd.concat(tables, ignore_index=True)
    # Every user is unseen, so that there is no overall population: rows are then not complete.
    for cell in store.cells:
        cell["status"] = "done"
    evidence = store.evidence()
    from prbench.reporting.matters.minority import averaged, rates

    found = rates(evidence.table("agreement", "convarg", "minilm", piece("minority:by_support", ["lore"])))
    assert found["known"].sum() == 4 * 39
    per_user = {}
    for method in ("lore", "mrm"):
        own = evidence.users[evidence.users["method"] == method]
        per_user[method] = averaged(own, found)
        assert len(per_user[method]) == 39
    slopes = {m: float(slope(f["rate"].to_numpy(), f["gain"].to_numpy())) for m, f in per_user.items()}
    assert slopes["lore"] == pytest.approx(1, abs=0.25)
    assert slopes["mrm"] == pytest.approx(0, abs=0.2)


def test_gains_of_a_pool_are_standardised_per_user_and_compared_with_the_oracle() -> None:
    # User 0: utilities 0, 1, 2 in a pool of three; the reward picks the worst. User 1: a pool of two, worth the same.
    rows = [
        {"kind": 0, "user": 0, "pool": 0, "item": i, "utility": float(i), "reward": -float(i), "cold": 0.0}
        for i in range(3)
    ] + [
        {"kind": 0, "user": 1, "pool": 1, "item": i, "utility": 5.0, "reward": float(i), "cold": 0.0}
        for i in range(2)
    ]
    found = pool_gains(lines("lore", 0, rows), [1, 2], "test")
    unit = np.std([0, 1, 2])
    # Picks of the reward among two: 0, 0, 1; of the oracle: 1, 2, 2; the mean is 1.
    assert found.gain[0] == pytest.approx([0, (1 / 3 - 1) / unit])
    assert found.oracle[0] == pytest.approx([0, (5 / 3 - 1) / unit])
    assert found.cold[0] == pytest.approx([0, 0])
    assert found.gain[1] == pytest.approx([0, 0])
    assert (found.disagree, found.constant) == (1.0, 1)
    assert normalised(found.gain, found.oracle)[1] == pytest.approx(-1)
    # A user without pools of that size takes no part in the sums.
    gain, oracle = np.array([[0.5], [np.nan]]), np.array([[1.0], [np.nan]])
    assert normalised(gain, oracle) == pytest.approx([0.5])


def test_the_relation_over_methods_resamples_users_for_both_numbers() -> None:
    skill = np.linspace(0, 1, 9)
    noise = Rng("relation").numpy().normal(0, 0.05, (9, 60))
    accuracy, oracle = skill[:, None] + noise, np.ones((9, 60))
    tau, interval = relation(accuracy, 0.5 * accuracy, oracle, Rng("a"), 0.05, 200)
    assert tau == 1
    assert interval.low > 0.8
    tau, interval = relation(accuracy, -accuracy, oracle, Rng("a"), 0.05, 200)
    assert tau == -1
    assert interval.high < -0.8


def test_the_piece_on_best_of_n_prints_no_relation_below_eight_methods() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        sign = 1.0 if method == "lore" else -1.0
        rows = [
            {"kind": 0, "user": u, "pool": u, "item": i, "utility": float(i), "reward": sign * i, "cold": 0.0}
            for u in range(6, 12)
            for i in range(4)
        ]
        return lines(method, split, rows)

    made = planted("best-of-n", make).make(piece("best_of_n:best_of_n", ["lore", "mrm"]))
    oracle, worst = (record(made, method=method) for method in ("lore", "mrm"))
    assert oracle["gain_4"] == oracle["gain_2"] == pytest.approx(1)
    assert (oracle["disagree"], worst["disagree"]) == (0, 1)
    assert worst["gain_4"] == pytest.approx(-1)
    assert oracle["pools"] == POOLS[0]
    (said,) = map(str, made.findings)
    assert "fewer than 8 methods" in said


def test_policy_accuracy_by_hand() -> None:
    def row(user: int, summed: float, per_token: float, reward: float, cold: float) -> dict[str, Any]:
        values = {"summed": summed, "per_token": per_token, "reward": reward, "cold": cold}
        return {"user": user, "comparison": 0, "model": "tiny (00000000)", **values}

    # d = summed + β · reward: −1 + β, right above β = 1 and a tie there; 1 − 2β, right below β = ½.
    table = lines("lore", 0, [row(6, -1, 2, 1, 0.5), row(6, 1, -3, -2, 3), row(7, -1, -1, 4, 0)])
    found = shares(table).set_index("user")
    assert found.loc[6, [f"summed {b}" for b in ("0", "0.25", "0.5", "1", "2", "4")]].tolist() == pytest.approx(
        [0.5, 0.5, 0.25, 0.25, 0.5, 0.5]
    )
    assert found.loc[6, [f"per_token {b}" for b in ("0", "1", "4")]].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert found.loc[6, ["reward", "cold"]].tolist() == pytest.approx([0.5, 0.5])
    assert found.loc[7, ["summed 0", "summed 0.25", "summed 0.5", "cold"]].tolist() == [0, 0.5, 1, 0]


def test_methods_agree_on_reward_and_policy_or_not_and_users_are_resampled() -> None:
    skill = np.linspace(0.4, 0.8, 9)
    reward = skill[:, None] + Rng("agreement").numpy().normal(0, 0.02, (9, 60))
    tau, interval = agreement(reward, 0.5 + reward / 2, Rng("a"), 0.05, 200)
    assert (tau, interval.high) == (1, 1)
    assert interval.low > 0.8
    tau, interval = agreement(reward, -reward, Rng("a"), 0.05, 200)
    assert (tau, interval.low) == (-1, -1)
    tau, interval = agreement(reward, np.tile(reward[:1], (9, 1)), Rng("a"), 0.05, 200)
    assert np.isnan(tau)
    assert np.isnan(interval.low)


def test_a_reward_that_helps_the_policy_is_told_from_one_that_does_not() -> None:
    methods = registry.select("methods", "all")[:8]

    def make(method: str, split: int) -> pd.DataFrame:
        draw = Rng("policy", split).numpy()
        skill = 0.5 + 0.06 * methods.index(method)
        rows = []
        for user in range(6, 12):
            for test in range(20):
                logs = 1.0 if draw.random() < 0.5 else -1.0
                reward = 2.0 if draw.random() < skill else -2.0
                values = {"summed": logs, "per_token": -logs, "reward": reward, "cold": 0.0}
                rows.append({"user": user, "comparison": test, "model": "tiny (00000000)", **values})
        return lines(method, split, rows)

    made = planted("policy", make, tuple(methods)).make(piece("policy:policy", methods))
    worst, best = (record(made, method=method) for method in (methods[0], methods[-1]))
    assert best["adds"] > 0.3
    assert best["adds_p"] < 0.05
    assert worst["adds_p"] > 0.05
    assert best["summed_0"] == pytest.approx(1 - best["per_token_0"])
    # Twice the spread of the other: the reward decides.
    assert best["summed_1"] == best["summed_4"] == best["reward"]
    relation_of = made.grids[-1]
    assert [row[1].text for row in relation_of.rows] == ["0", "¼", "½", "1", "2", "4"]
    assert relation_of.rows[0][2].text == "–"
    assert relation_of.rows[3][2].text.startswith("1.00 [")
    agree, said = map(str, made.findings)
    assert "under tiny (00000000) order the 8 methods alike with tau-b 1.00" in agree
    assert registry.get("methods", methods[-1]).title in said.split("raises its accuracy")[0]


def test_the_gain_of_the_last_choices_against_the_first_by_hand() -> None:
    def row(user: int, choices: int, last: int, margin: float) -> dict[str, Any]:
        return {
            "user": user, "comparison": 0, "choices": choices, "last": last, "margin": margin, "cold": 0.0,
            "seconds": 0.002,
        }  # fmt: skip

    def make(method: str, split: int) -> pd.DataFrame:
        rows = []
        for user in range(6, 12):
            # Of LoRe's users all are right by the last ten choices and all but one wrong by the first ten.
            late = 1.0 if method == "lore" else -1.0
            early = 1.0 if user == 6 else -1.0
            rows += [
                row(user, 10, 0, early),
                row(user, 20, 0, 0.0),
                row(user, 20, 10, late),
                row(user, 10, 10, early),
            ]
        return lines(method, split, rows)

    store = planted("updates", make)
    for cell in store.cells:
        cell["protocol"] = {**cell["protocol"], "name": "chronological"}
    made = store.make(piece("time:updates", ["lore", "mrm"]))
    lore, mrm = (record(made, method=method) for method in ("lore", "mrm"))
    assert lore["first_10"] == pytest.approx((0.5 - 5 * 0.5) / 6)
    assert lore["first_20"] == 0
    assert lore["last_10"] == pytest.approx(0.5)
    assert lore["difference"] == pytest.approx(5 / 6)
    assert lore["difference_low"] > 0
    assert mrm["difference"] == pytest.approx(-1 / 6)
    assert lore["milliseconds"] == pytest.approx(2)
    (said,) = map(str, made.findings)
    assert "better than the first 10 for LoRe and" in said


def test_the_gap_is_to_random_splits_of_the_same_comparisons() -> None:
    store = Store()
    counts = {"unseen_users": 3, "unseen_support": 30, "unseen_test": 60}
    for split in range(3):
        for name, protocol, right in (("convarg", "paper", 0.8), ("convarg-time", "chronological", 0.6)):
            store.add(
                "lore",
                dict.fromkeys(range(6), right),
                split=split,
                cold=0.5,
                dataset=name,
                protocol={"name": protocol, "unit": "group", "test_share": 0.5},
                counts=counts,
            )
    made = store.make(piece("time:gap", ["lore"]))
    found = record(made, dataset="convarg-time", method="lore")
    assert found["gap"] == pytest.approx(-0.2)
    assert (found["gain_time"], found["gain_random"]) == (pytest.approx(0.1), pytest.approx(0.3))
    assert found["support_time"] == 10
    (said,) = map(str, made.findings)
    assert "harder to foresee than random ones on convarg for LoRe" in said
    # Other comparisons are no partner.
    for cell in store.cells:
        if cell["dataset"] == "convarg":
            cell["data_fingerprint"] = "other"
    alone = store.make(piece("time:gap", ["lore"]))
    assert not len(alone.frame)
    assert any("random splits of the same comparisons" in phrase for phrase in alone.missing)


def test_q95_is_where_the_gain_stays_near_the_full_one() -> None:
    assert q95(np.array([0.96, 0.94, 0.95, 1.0]), 1.0) == 3
    assert q95(np.array([0.95, 0.96]), 1.0) == 1
    assert q95(np.array([0.5, 0.94]), 1.0) is None


def test_areas_are_compared_with_asking_at_random() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        noise = Rng("asked", method, split).numpy().normal(0, 0.004, 6)
        rows = []
        for user in range(6, 12):
            full = 0.2 if method == "lore" else 0.0
            rows.append(
                {"user": user, "rule": 0, "questions": -1, "accuracy": 0.5 + full + noise[user - 6], "cold": 0.5}
            )
            for rule in range(4):
                for q in (1, 2, 3, 4):
                    # Asking by margin reaches everything at once, at random by the third question.
                    reached = full if (rule == 1 or q >= 3) else 0.0
                    rows.append(
                        {
                            "user": user,
                            "rule": rule,
                            "questions": q,
                            "accuracy": 0.5 + reached + noise[user - 6],
                            "cold": 0.5,
                        }
                    )
        return lines(method, split, rows)

    made = planted("asking", make).make(piece("asking:asking", ["lore", "mrm"]))
    random, margin = (record(made, method="lore", rule=rule) for rule in ("random", "margin"))
    assert (random["q95"], margin["q95"]) == (3, 1)
    assert margin["over_random"] == pytest.approx(0.1)
    assert random["area"] == pytest.approx(0.1, abs=0.005)
    # Where the full support gains nothing there is no number of questions that reaches it.
    assert np.isnan(record(made, method="mrm", rule="random")["q95"])


def test_the_slope_is_in_points_per_ten_per_cent_of_wrong_labels() -> None:
    rates = np.array([0.0, 0.1, 0.2, 0.3])
    gain = (0.3 - 0.5 * rates)[None, None] * np.ones((2, 3, 1))
    assert slopes(rates, gain) == pytest.approx(np.full((2, 3), -0.05))

    def make(method: str, split: int) -> pd.DataFrame:
        rows = []
        for user in range(6, 12):
            for rate in (0.0, 0.1, 0.2):
                # LoRe: a tenth more of twenty test choices is wrong at each rate, with a little noise over splits.
                wrong = (2 * round(10 * rate) + (split + user) % 2) if method == "lore" else 3
                rows += [
                    {"user": user, "comparison": t, "rate": rate, "margin": -1.0 if t < wrong else 1.0, "cold": 0.0}
                    for t in range(20)
                ]
        return lines(method, split, rows)

    made = planted("mistakes", make).make(piece("noise:mistakes", ["lore", "mrm"]))
    lore, mrm = (record(made, method=method) for method in ("lore", "mrm"))
    assert lore["slope"] == pytest.approx(-0.1)
    assert mrm["slope"] == pytest.approx(0)
    assert lore["gain_0"] - lore["gain_20"] == pytest.approx(0.2)


def test_what_clicks_and_rejections_lose_by_hand() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        rows = []
        for user in range(6, 12):
            noise = split % 2
            # LoRe: of twenty choices 16 are right with both, 12 or 13 with clicks alone, 16 or 17 with rejections.
            right = {"both": 16, "clicks": 12 + noise, "rejections": 16 + noise} if method == "lore" else {}
            rows += [
                {"user": user, "comparison": t, "cold": 0.0, "clicks_false": 0.25, "rejections_false": np.nan}
                | {kind: 1.0 if t < right.get(kind, 10) else -1.0 for kind in ("both", "clicks", "rejections")}
                for t in range(20)
            ]
        return lines(method, split, rows)

    made = planted("one-sided", make).make(piece("feedback:one_sided", ["lore", "mrm"]))
    lore, mrm = (record(made, method=method) for method in ("lore", "mrm"))
    assert lore["gain_both"] == pytest.approx(0.3)
    assert lore["clicks_lost"] == pytest.approx(0.175, abs=0.02)
    assert lore["rejections_lost"] == pytest.approx(-0.025, abs=0.02)
    assert (mrm["clicks_lost"], mrm["rejections_lost"]) == (0, 0)
    assert lore["clicks_false"] == 0.25
    assert np.isnan(lore["rejections_false"])
    (said,) = map(str, made.findings)
    assert "a part of the gain is lost with clicks alone by LoRe (corrected" in said


def test_gaps_between_groups_are_one_family_and_rest_on_the_most_splits() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        p = 0.001 if method == "lore" else 0.5
        rows = [
            {
                "attribute": "device", "group": group, "users": 10, "splits": split + 1, "accuracy": 0.6 + 0.1 * i,
                "gain": 0.1, "gap": 0.1 if split == 5 else 0.9, "gap_p": 0.9, "gain_gap": 0.2, "gain_gap_p": p,
            }
            for i, group in enumerate(("phone", "laptop"))
        ]  # fmt: skip
        return lines(method, split, rows)

    made = planted("groups", make).make(piece("groups:groups", ["lore", "mrm"]))
    lore = record(made, method="lore")
    assert lore["gap"] == pytest.approx(0.1)
    assert lore["n_splits"] == 6
    assert lore["gain_gap_p_holm"] == pytest.approx(0.002)
    assert "laptop 70.0 (10)" in lore["groups"]
    (said,) = map(str, made.findings)
    assert "differs between groups of users for LoRe by device, of 2" in said


def test_attributes_that_states_tell_are_one_family() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        p = 0.002 if method == "lore" else 0.4
        rows = [
            {"attribute": name, "users": 24, "classes": 2, "auc": value, "p": p if name == "drink" else 0.6}
            for name, value in (("drink", 0.8 + 0.1 * (split % 2)), ("hand", 0.5))
        ]
        return lines(method, split, rows)

    made = planted("inference", make).make(piece("inference:attributes", ["lore", "mrm"]))
    lore = record(made, method="lore", attribute="drink")
    assert lore["auc"] == pytest.approx(0.85)
    # Twice the mean of p, then Holm over four lines.
    assert lore["p"] == pytest.approx(0.004)
    assert lore["p_holm"] == pytest.approx(0.016)
    assert record(made, method="mrm", attribute="hand")["p"] == 1
    (said,) = map(str, made.findings)
    assert (
        "tells an attribute that nobody gave it: LoRe the drink (labels permuted over users, Holm over the 4 lines"
        in said
    )


def test_membership_is_read_from_scores_of_the_support_and_identity_from_its_table() -> None:
    def make(method: str, split: int) -> pd.DataFrame:
        noise = Rng("halves", split, method).numpy().random(6) < 0.1
        rows = [
            {"user": 6 + u, "users": 6, "rank": 1.0, "first": float(method == "lore") * float(not noise[u])}
            for u in range(6)
        ]
        return lines(method, split, rows)

    store = planted("halves", make)
    for split in range(6):
        # Of ten support choices LoRe's margins are all 1; of ten test choices seven.
        store.probe("lore", dict.fromkeys(range(6, 12), 1.0), split=split, probe="support", restart=0)
    made = store.make(piece("privacy:membership", ["lore", "mrm"]))
    lore = record(made, method="lore")
    # 7/10 tie, 3/10 are below: 0.35 + 0.3.
    assert lore["value"] == pytest.approx(0.65)
    assert len(made.frame) == 1
    made = store.make(piece("privacy:identity", ["lore", "mrm"]))
    lore, mrm = (record(made, method=method) for method in ("lore", "mrm"))
    assert lore["value"] == pytest.approx(0.9, abs=0.1)
    assert lore["nothing"] == pytest.approx(1 / 6)
    assert mrm["value"] == pytest.approx(0)
    (said,) = map(str, made.findings)
    assert "found again by the state for LoRe of 2 methods" in said


def test_the_report_on_privacy_lists_pieces_that_are_there() -> None:
    entry = registry.get("reports", "privacy")
    assert [one.name for one in read_pieces(entry.options["pieces"], "reports/privacy.toml")] == [
        "accuracy",
        "membership",
        "re-identification",
        "attributes",
    ]


def test_the_tax_has_its_error_over_prompts_and_counts_only_beyond_tossed_labels() -> None:
    rows = [
        {"user": u, "prompt": p, "cold": 0.8, "adapted": a, "tossed": 0.7}
        for u, p, a in ((0, 0, 0.6), (0, 1, 0.8), (1, 0, 0.2), (1, 1, 0.4))
    ]
    found = tax_of(lines("lore", 0, rows))
    assert found["quality"] == pytest.approx(0.8)
    assert found["tax"] == pytest.approx(0.3)
    # Prompts lose 0.4 and 0.2.
    assert found["error"] == pytest.approx(np.std([0.4, 0.2], ddof=1) / np.sqrt(2))
    # The worst tenth of two users is one: 0.8 − 0.3.
    assert found["worst"] == pytest.approx(0.5)
    assert found["tossed"] == pytest.approx(0.1)

    def make(method: str, split: int) -> pd.DataFrame:
        noise = Rng("tax", method, split).numpy().normal(0, 0.01, (6, 4))
        lost = 0.2 if method == "lore" else 0.1
        rows = [
            {"user": 6 + u, "prompt": p, "cold": 0.8, "adapted": 0.8 - lost + noise[u, p], "tossed": 0.7}
            for u in range(6)
            for p in range(4)
        ]
        return lines(method, split, rows)

    made = planted("taxes", make).make(piece("taxes:taxes", ["lore", "mrm"]))
    lore, mrm = (record(made, method=method) for method in ("lore", "mrm"))
    assert lore["excess"] == pytest.approx(0.1, abs=0.01)
    assert mrm["excess"] == pytest.approx(0, abs=0.01)
    (said,) = map(str, made.findings)
    assert "share for LoRe and add to it for none" in said
