"""What every column of a report's CSV files holds, and the formula of every test: `prbench report --columns`."""

from __future__ import annotations

from prbench.protocol import metrics
from prbench.reporting import columns

ROW = {
    "dataset": "data set",
    "encoder": "encoder of the embeddings",
    "method": "the method's name",
    "selection": "the rule that chose epochs and hyper-parameters",
}
POPULATION = {"population": "seen users (trained on), unseen users (adapted to), or overall (both)"}
PER_SPLIT = {
    "accuracy": "mean over users of the share of a user's test choices predicted, a tie counting one half",
    "cold_start": "the same before adaptation",
    "bt_loss": "mean over users of the Bradley–Terry loss in nats",
    "tie_rate": "share of test decisions that are ties",
    "flip_rate": "share of test decisions that adaptation changed from the cold start; a tie counts one half",
    **{f"worst{k}": f"mean accuracy of the {k}% of users with the lowest" for k in metrics.WORST},
}
COMPARISON = {name: f"{meaning}; accuracies as fractions" for name, (meaning, _) in columns.COMPARISON.items()}

STARTS = {
    "start_error": "uncertainty that random starts leave in the difference, a fraction; empty where it is not known",
    "within_starts": "whether the difference is below twice that",
}


def _in_the_file(name: str, shown: str) -> str:
    """What leaderboard.csv holds: fractions, of which tables show per cent and points (`shown` says what they do)."""
    if name in columns.COMPARISON:
        return f"{columns.COMPARISON[name][0]} (row minus baseline, all users)"
    text = f"share {shown.removeprefix('% ')}" if shown.startswith("% ") else shown
    text = text.replace(" in %", " (a fraction)").replace(", in points", " (a fraction)")
    return text.replace("{baseline}", "the baseline")


FILES: dict[str, dict[str, str]] = {
    "leaderboard.csv": {column.key: _in_the_file(column.key, column.help) for column in columns.COLUMNS},
    "splits.csv": {
        **ROW,
        "split": "number of the split",
        "restart": "number of the random start; 0 is the only one unless more were run",
        "shots": "support choices per unseen user, -1 for all there are",
        **POPULATION,
        **PER_SPLIT,
        "users": "users tested",
        "comparisons": "test choices of these users",
    },
    "comparisons.csv": {
        "dataset": ROW["dataset"],
        "encoder": ROW["encoder"],
        **POPULATION,
        "a": "one method",
        "a_selection": "its rule",
        "b": "the other method; differences are a minus b",
        "b_selection": "its rule",
        **COMPARISON,
        "p_holm": "p_corrected, Holm-adjusted over all pairs of the data set, encoder and population",
        "p_holm_table": "p_corrected, Holm-adjusted over the comparisons that the table prints; empty for the others",
        **STARTS,
    },
    "adapting.csv": {
        "dataset": ROW["dataset"],
        "encoder": ROW["encoder"],
        **POPULATION,
        "method": ROW["method"],
        "selection": ROW["selection"],
        "cold_start": "accuracy before adaptation",
        "adapted": "accuracy after adaptation",
        "flip_rate": PER_SPLIT["flip_rate"],
        **COMPARISON,
        "p_holm": "p_corrected, Holm-adjusted over the rows of the data set, encoder and population",
        **STARTS,
    },
    "calibration.csv": {
        **ROW,
        "margins": "those of the adapted method, or of its cold start",
        **POPULATION,
        "temperature": "none, or fitted on other users' test choices (the seen users', or the other half of them)",
        "log_temperature": "natural logarithm of the fitted temperature",
        "nll": "negative log-likelihood in nats; lower is better, 0.693 for always one half",
        "brier": "Brier score; lower is better, 0.25 for always one half",
        "error": "root mean squared calibration error over 15 bins of equal weight, corrected for bias; 0 is best",
        "error_plain": "the same, not corrected",
        "gap": "mean over users of confidence minus accuracy; positive is too sure",
        "excess_area": "excess area under the risk-coverage curve; 0 is the best order of a user's own choices",
        **{f"gap_{q}": f"{q}% quantile over users of a user's gap" for q in (10, 50, 90)},
        "n_splits": "splits with a value",
    },
    "properties.csv": {
        "dataset": ROW["dataset"],
        "encoder": ROW["encoder"],
        "disagreement": "chance that two different annotators of a pair differ, each pair counting once",
        "shared_pairs": "pairs that at least two people judged",
        "shared_votes": "judgements of these pairs",
        "majority": "accuracy of the majority of the others on those pairs, a bound without personalisation",
        "consistency": "chance that a person judges a pair the same way again",
        "repeats": "judgements that a person gave again",
        "repeaters": "people who repeated one",
        "consistency_bound": "the bound with personalisation that follows, where it is identified",
        **{f"choices_{which}": f"choices of the person with the {which}" for which in ("least", "median", "most")},
        "per_item": "judgements per item",
        "pairs_shared": "share of pairs that several people judged",
        "pairs_known": "share of test pairs that anybody trained on, mean over splits",
        "longer_wins": "share of pairs that the longer response wins",
        "world_gap": "of the pairs ordered by own taste and for the world, the share ordered the other way round",
        "ceiling": "overall accuracy of the true rewards of simulated users",
        "floor": "their best overall accuracy without personalisation",
        "room": "ceiling minus floor",
    },
    "budget.csv": {
        **ROW,
        "at_end": "fits that chose the last moment judged, or an end of the grid of strengths; 0 is good",
        "judged": "fits that chose",
        "untrained": "fits whose best validation value lies within two standard errors of one half; 0 is good",
        "measured": "fits with a curve and its errors",
        "unchanged": "share of unseen users none of whose test decisions adapting changes",
        "decisions": "median number of their test choices",
        "n_splits": "fits",
    },
    "worst-k.csv": {
        **ROW,
        "shots": "support choices per unseen user, -1 for all there are",
        **POPULATION,
        "k": "share of users in %",
        "accuracy": "mean over splits of the mean accuracy of the k% of users with the lowest",
        "accuracy_std": "its standard deviation over splits",
        "n_splits": "splits",
    },
}

# d: the J differences over splits; mean and s² theirs; ρ: the share of test choices that two splits have in common.
FORMULAS = {
    "user accuracy": "mean over users u of (right_u + ties_u / 2) / choices_u",
    "corrected resampled t-test": "t = mean(d) / sqrt((1/J + ρ/(1 − ρ)) · s²), J − 1 degrees of freedom, two-sided, "
    "d the J differences over splits, ρ the share of test choices that two splits have in common on average (Nadeau "
    "and Bengio 2003)",
    "its interval": "mean(d) ± t(J − 1; 1 − α/2) · sqrt((1/J + ρ/(1 − ρ)) · s²)",
    "plain paired t-test": "t = mean(d) / sqrt(s² / J), J − 1 degrees of freedom; takes overlapping splits for "
    "independent",
    "Wilcoxon's signed-rank test": "the smaller sum of ranks of |d|, exact over all 2^J signs",
    "bootstrap over users": "α/2 and 1 − α/2 quantiles, over users drawn with replacement, of the mean of their mean "
    "differences over splits",
    "Holm's adjustment": "p_(i) → max over k ≤ i of min(1, (m − k + 1) · p_(k)), p sorted, m tests in the family",
    "does personalising pay": "a method's p is the larger of its corrected tests against its own cold start and "
    "against bt-ridge (bt where that was not run), Holm-adjusted over the personalised methods asked",
}


def rows() -> list[dict[str, str]]:
    """A record for each file and column, then one for each formula."""
    records = [
        {"file": file, "column": name, "meaning": meaning}
        for file, meanings in FILES.items()
        for name, meaning in meanings.items()
    ]
    return records + [{"file": "formula", "column": name, "meaning": formula} for name, formula in FORMULAS.items()]
