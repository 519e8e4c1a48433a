"""What a board says, in sentences that follow from its numbers by rules.

A sentence names its data set, encoder and number of splits, and its test where it rests on one. "Beats" and "falls
short of" are said only where a Holm-adjusted p-value of the corrected resampled t-test lies below the board's alpha;
sentences without a test are marked `measured`. Rows that lack splits or were chosen on test data take no part in
what is said of methods; they are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prbench.reporting.board import ORACLE, TUNED, Board, Pair, Row
from prbench.reporting.columns import baseline_name, selected_on
from prbench.reporting.grid import percent
from prbench.reporting.significance import STARTS_SAID, Verdict, rule, starts_mark
from prbench.reporting.verdict import FEW_FLIPS, PERSONALISED

Kind = Literal["tested", "measured", "missing"]
KindAndText = tuple[Kind, str]
Families = Mapping[tuple[str, str], str]
"""A row's key -> the family of its entry."""


@dataclass(frozen=True)
class Finding:
    """One sentence: `place` says where it holds, `text` what. `kind` is what it rests on."""

    kind: Kind
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}, {self.text}."


def findings(board: Board, families: Families) -> list[Finding]:
    """Every sentence about one board, the tested ones first.

    Where the board answers whether personalising pays (`verdict.sentences`), no sentence here answers it again
    by another family of tests; the tables hold these comparisons.
    """
    place = f"On {_setting(board)}"
    rules = (
        *(() if _answered(board) else (_against_baseline, _personal_gain)),
        _unpersonalised,
        _adapting,
        _leader,
        _few_flips,
        _bounds,
        _oracle,
        _missing,
    )
    sentences = [Finding(kind, place, text) for rule in rules for kind, text in rule(board, families)]
    return sorted(sentences, key=lambda finding: ("tested", "measured", "missing").index(finding.kind))


def _answered(board: Board) -> bool:
    """Whether the board says if personalising pays."""
    return board.answer is not None and bool(board.answer.asked) and board.answer.reference is not None


@dataclass(frozen=True)
class Question:
    """What is counted over several boards: who beats what, and the verdicts of one board that say so."""

    who: str
    what: str
    verdicts: Callable[[Board, Families], list[Verdict]]


def overview(boards: Sequence[Board], families: Mapping[tuple[str, str], Families]) -> list[Finding]:
    """Sentences over several boards: on how many of them personalisation pays. `families` by (data set, encoder)."""
    if len(boards) < 2:
        return []
    splits = sorted({board.splits for board in boards})
    counted = f"{splits[0]}" if len(splits) == 1 else f"{splits[0]} to {splits[-1]}"
    place = f"Over {len(boards)} settings of data set and encoder ({counted} splits each)"
    test = f"{rule('within each setting')}, p < {boards[0].alpha:g}"
    if all(_answered(board) for board in boards):
        return [Finding("tested", place, f"{_answers(boards)} ({test})")]
    baselines = {name for board in boards if (name := _baseline(board))}
    questions = (
        Question(
            "a personalised method", baselines.pop() if len(baselines) == 1 else "the baseline", _baseline_verdicts
        ),
        Question("the best personalised method", "the best method without personalisation", _gain),
    )
    answers = [_counted(question, boards, families) for question in questions]
    return [Finding("tested", place, f"{text} ({test})") for text in answers if text] + _adapting_overview(
        boards, place, test
    )


def _answers(boards: Sequence[Board]) -> str:
    """On how many boards a method gains, as each board's own answer has it."""
    pays = [board for board in boards if board.answer and board.answer.winners(board.alpha)]
    where = f": {listed([f'{b.dataset} ({b.encoder})' for b in pays])}" if pays else ""
    text = "personalising pays, by a method that beats both its own cold start and the reference without "
    return f"{text}personalisation, on {len(pays) or 'none'} of {len(boards)}{where}"


def _counted(question: Question, boards: Sequence[Board], families: Mapping[tuple[str, str], Families]) -> str:
    """On how many boards the question is answered with yes; "" where none can be tested."""
    tested, won, moved = [], [], []
    for board in boards:
        every = question.verdicts(board, families[board.dataset, board.encoder])
        verdicts = [verdict for verdict in every if not math.isnan(verdict.p)]
        winners = [verdict.pair.a for verdict in verdicts if verdict.sign(board.alpha) > 0]
        tested += [board] * bool(verdicts)
        won += [board] * bool(winners)
        moved += [board] * any(row.value("overall", "flip_rate") >= FEW_FLIPS for row in winners)
    if not tested:
        return ""
    where = f": {listed([f'{b.dataset} ({b.encoder})' for b in won])}" if won else ""
    whole = f"{len(tested)}" if len(tested) == len(boards) else f"the {len(tested)} that can be tested"
    if len(moved) < len(won):
        where += f", but one whose adaptation flips {FEW_FLIPS:.0%} of decisions or more "
        where += f"on {len(moved) or 'none'} of {whole}"
    return f"{question.who} beats {question.what} beyond noise on {len(won) or 'none'} of {whole}{where}"


def _adapting_overview(boards: Sequence[Board], place: str, test: str) -> list[Finding]:
    """On how many boards adapting raises a method's accuracy."""
    verdicts = {(b.dataset, b.encoder): [v for v in _adapting_verdicts(b) if not math.isnan(v.p)] for b in boards}
    tested = [b for b in boards if verdicts[b.dataset, b.encoder]]
    if not tested:
        return []
    parts = []
    for sign, verb in ((1, "raises"), (-1, "lowers")):
        phrases = [
            f"{b.dataset} ({b.encoder}: {count} of {len(board_verdicts)} {_noun(board_verdicts)})"
            for b in tested
            if (board_verdicts := verdicts[b.dataset, b.encoder])
            and (count := sum(v.sign(b.alpha) == sign for v in board_verdicts))
        ]
        whole = f"{len(tested)}" if len(tested) == len(boards) else f"the {len(tested)} that can be tested"
        parts.append(
            f"{verb} it on {len(phrases) or 'none'} of {whole}" + (f": {listed(phrases)}" if phrases else "")
        )
    text = "against the same method's cold start, adapting to a user's choices changes accuracy beyond noise: it "
    return [Finding("tested", place, f"{text}{parts[0]}; it {parts[1]} ({test})")]


def listed(names: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def signed_points(value: float) -> str:
    """A difference of fractions with its sign, such as "−0.3 points"."""
    size = points(value)
    # What rounds to nothing has no sign.
    nothing = float(size.partition(" ")[0]) == 0
    return ("" if nothing else "+" if value > 0 else "−") + size


def points(value: float) -> str:
    """The size of a difference of fractions, such as "6.3 points"; two digits where one would say 0."""
    text = f"{100 * abs(value):.1f}"
    return (f"{100 * abs(value):.2f}" if text == "0.0" and value else text) + " points"


def p_text(p: float, alpha: float) -> str:
    """Such as "p = 0.031"; with enough digits to see on which side of alpha it lies."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if abs(p - alpha) >= 0.0005 else f"p = {p:.5f}"


def _setting(board: Board) -> str:
    return f"{board.dataset} ({board.encoder}, {board.splits} split{'' if board.splits == 1 else 's'})"


def _flips(rows: Sequence[Row]) -> str:
    """Such as "A (0.0%) and B (0.3%)"."""
    return listed([f"{row.title} ({percent(row.value('overall', 'flip_rate'))}%)" for row in rows])


def _personalised(board: Board, families: Families) -> list[Row]:
    return [row for row in board.rows if row.rankable and row.counted and families.get(row.key) in PERSONALISED]


def _others(board: Board, families: Families) -> list[Row]:
    return [row for row in board.rows if row.rankable and row.counted and families.get(row.key) not in PERSONALISED]


def _baseline(board: Board) -> str:
    return baseline_name([base for base in board.baseline.values() if base])


def _table_verdict(board: Board, pair: Pair) -> Verdict:
    family = len(board.in_table())
    return Verdict(pair, pair.p_table, rule(f"over the table's {family} comparison{'s' * (family > 1)}"))


def _baseline_verdicts(board: Board, families: Families) -> list[Verdict]:
    """Personalised rows against their baseline, the best first."""
    pairs = [board.against_baseline(row) for row in _personalised(board, families)]
    verdicts = [_table_verdict(board, pair) for pair in pairs if pair]
    return sorted(verdicts, key=lambda v: -v.pair.result.difference)


def _gain(board: Board, families: Families) -> list[Verdict]:
    """The best personalised row against the best other one.

    Where that is its baseline, the table's test decides; else the test adjusted over all pairs, since both rows
    were picked by their results.
    """
    best = next(iter(_personalised(board, families)), None)
    other = next(iter(_others(board, families)), None)
    pair = board.pair(best, other, "overall") if best and other else None
    if best is None or pair is None:
        return []
    if board.baseline[best.key] is other:
        return [_table_verdict(board, pair)]
    family = sum(p.population == "overall" and p.counted for p in board.pairs)
    return [Verdict(pair, pair.p_all_pairs, rule(f"over all {family} pairs"))]


def _numbers(verdict: Verdict, alpha: float) -> str:
    """Interval and p-value, such as "95% interval −0.2 to +0.8; p = 0.410", and whether starts may explain it."""
    low, high = verdict.interval(alpha)
    ends = f"{100 * (1 - alpha):g}% interval {percent(low, signed=True)} to {percent(high, signed=True)}; "
    starts = f"; {STARTS_SAID}" if starts_mark(verdict.pair) else ""
    return ("" if math.isnan(low) else ends) + p_text(verdict.p, alpha) + starts


def _noun(verdicts: Sequence[Verdict]) -> str:
    """What the compared rows are: a method that was run under several settings has a row for each."""
    return "methods" if len({verdict.pair.a.method for verdict in verdicts}) == len(verdicts) else "rows"


def _by(verdicts: Sequence[Verdict], alpha: float) -> str:
    """Such as "A by 6.3 points (p < 0.001) and B by 1.2 points (p = 0.020)"."""
    return listed(
        [f"{v.pair.a.title} by {points(v.pair.result.difference)} ({_numbers(v, alpha)})" for v in verdicts]
    )


def _against_baseline(board: Board, families: Families) -> Iterator[KindAndText]:
    """Which personalised methods beat or fall short of the baseline."""
    if not _personalised(board, families):
        yield "missing", "no personalised method has results on all splits"
        return
    verdicts = _baseline_verdicts(board, families)
    if not verdicts:
        yield "missing", "there is no baseline to compare personalised methods with"
        return
    base = baseline_name([v.pair.b for v in verdicts])
    known = [v for v in verdicts if not math.isnan(v.p)]
    if not known:
        reason = "it needs two splits or more" if board.splits < 2 else "the differences do not vary over the splits"
        yield "missing", f"no difference from {base} can be tested (corrected resampled t-test: {reason})"
        return
    better = [v for v in known if v.sign(board.alpha) > 0]
    worse = [v for v in reversed(known) if v.sign(board.alpha) < 0]
    if not better:
        best = known[0]
        text = f"no personalised method beats {base} beyond noise: the best of {len(known)}, {best.pair.a.title}, "
        text += f"differs from it by {signed_points(best.pair.result.difference)} "
        yield "tested", text + f"({_numbers(best, board.alpha)}; {best.test})"
    for group, verb in ((better, "beat"), (worse, "fall")):
        if group:
            verb += "s" * (len(group) == 1) + " short of" * (verb == "fall")
            count = f"{len(group)} of {len(known)} personalised {_noun(known)} {verb} {base}"
            yield "tested", f"{count}: {_by(group, board.alpha)}; {group[0].test}"
    if empty := [v.pair.a for v in better if _before_adapting(v.pair)]:
        text = (
            f"the gain over {base} of {_flips(empty)} is not personalisation: nine tenths of it or more are there at "
        )
        yield "measured", text + "cold start, and adaptation flips but the shares of decisions in brackets"


def _before_adapting(pair: Pair) -> bool:
    """Whether a flips few decisions and has its gain over b before it adapts."""
    before = pair.a.value("overall", "cold_start") - pair.b.value("overall")
    few = pair.a.value("overall", "flip_rate") < FEW_FLIPS
    return few and before >= 0.9 * (pair.a.value("overall") - pair.b.value("overall"))


def _unpersonalised(board: Board, families: Families) -> Iterator[KindAndText]:
    """Other rows that differ from the baseline: what tuning alone does."""
    for row in _others(board, families):
        pair = board.against_baseline(row)
        if pair is None:
            continue
        verdict = _table_verdict(board, pair)
        sign = verdict.sign(board.alpha)
        if sign:
            verb = "beats" if sign > 0 else "falls short of"
            text = f"{row.title}, which does not personalise, {verb} {pair.b.title} by "
            text += f"{points(pair.result.difference)} ({_numbers(verdict, board.alpha)}; {verdict.test})"
            yield "tested", text


def _personal_gain(board: Board, families: Families) -> Iterator[KindAndText]:
    """The best personalised row against the best other one, unless that is its baseline and has been said."""
    for verdict in _gain(board, families):
        pair, sign = verdict.pair, verdict.sign(board.alpha)
        if math.isnan(verdict.p) or board.baseline[pair.a.key] is pair.b:
            continue
        a, b = f"the best personalised method, {pair.a.title},", f"the best without personalisation, {pair.b.title}"
        numbers = f"{_numbers(verdict, board.alpha)}; {verdict.test}"
        if sign:
            verb = "beats" if sign > 0 else "falls short of"
            yield "tested", f"{a} {verb} {b}, by {points(pair.result.difference)} ({numbers})"
        else:
            difference = signed_points(pair.result.difference)
            yield "tested", f"{a} does not differ from {b}, beyond noise: {difference} ({numbers})"


def _adapting(board: Board, families: Families) -> Iterator[KindAndText]:
    """Whether adapting helps: a method after it against itself before it."""
    verdicts = [v for v in _adapting_verdicts(board) if not math.isnan(v.p)]
    better = [v for v in verdicts if v.sign(board.alpha) > 0]
    worse = [v for v in reversed(verdicts) if v.sign(board.alpha) < 0]
    for group, verb in ((() if _answered(board) else better, "raises"), (worse, "lowers")):
        if group:
            of = f"{len(group)} of the {len(verdicts)} {_noun(verdicts)}" if len(verdicts) > 1 else "the one method"
            count = f"adapting to a user's choices {verb} the accuracy of {of} whose decisions it changes"
            yield "tested", f"{count}: {_by(group, board.alpha)}; {group[0].test}"
    if verdicts and not better and not _answered(board):
        most = verdicts[0]
        if most.pair.result.difference <= 0:
            if not worse:
                yield "tested", f"adapting to a user's choices raises no accuracy above cold start; {most.test}"
            return
        text = "adapting to a user's choices raises no accuracy above cold start beyond noise: the most is "
        text += f"{signed_points(most.pair.result.difference)}, {most.pair.a.title} "
        yield "tested", text + f"({_numbers(most, board.alpha)}; {most.test})"


def _adapting_verdicts(board: Board) -> list[Verdict]:
    """Rows against their own cold start, all users, the largest gain first."""
    pairs = [pair for pair in board.adapting if pair.population == "overall"]
    test = rule(f"over these {len(pairs)}" if len(pairs) > 1 else "")
    return [Verdict(pair, pair.p_table, test) for pair in pairs]


def _leader(board: Board, families: Families) -> Iterator[KindAndText]:
    rivals = board.best_and_rival("overall")
    pair = board.pair(*rivals, "overall") if rivals else None
    if pair is None or math.isnan(pair.p_table):
        return
    verdict = _table_verdict(board, pair)
    numbers = f"{_numbers(verdict, board.alpha)}; {verdict.test}"
    if verdict.sign(board.alpha) > 0:
        gap = points(pair.result.difference)
        yield "tested", f"{pair.a.title} leads, {gap} above the runner-up, {pair.b.title} ({numbers})"
    else:
        text = f"first place is not settled: {pair.a.title} and the runner-up, {pair.b.title}, are "
        yield "tested", text + f"{points(pair.result.difference)} apart, within noise ({numbers})"


def _few_flips(board: Board, families: Families) -> Iterator[KindAndText]:
    """Whose decisions adaptation changes."""
    rows = [row for row in _personalised(board, families) if not math.isnan(row.value("overall", "flip_rate"))]
    blank = [row for row in rows if row.undecided]
    rows = [row for row in rows if row not in blank]
    few = [row for row in rows if row.value("overall", "flip_rate") < FEW_FLIPS]
    many = [row for row in rows if row not in few]
    parts = []
    if few:
        parts.append(f"adaptation flips hardly any decision of {_flips(few)}")
    if many:
        most = max(many, key=lambda row: row.value("overall", "flip_rate"))
        share = percent(most.value("overall", "flip_rate"))
        parts.append(f"{'it' if few else 'adaptation'} flips the most for {most.title}, {share}%")
    if blank:
        parts.append(
            f"without a user's choices {listed([row.title for row in blank])} decide{'s' * (len(blank) == 1)} nothing"
        )
    if parts:
        yield "measured", "; ".join(parts) + " (means over splits, no test)"


def _bounds(board: Board, families: Families) -> Iterator[KindAndText]:
    ranks = board.ranked("overall")
    if not board.bounds or not ranks:
        return
    best = ranks[0][0]
    top, floor = board.bounds["ceiling"].value("overall"), board.bounds["floor"].value("overall")
    known = f"{percent(floor)}%, the best that is possible without personalisation"
    if best.value("overall") < floor:
        yield "measured", f"no method reaches {known}: the first, {best.title}, has {percent(best.value('overall'))}%"
    elif top > floor:
        share = (best.value("overall") - floor) / (top - floor)
        text = f"{best.title} goes {percent(share, digits=0)}% of the way from {known}, to {percent(top)}%, "
        yield "measured", text + "what the true rewards reach"


def _oracle(board: Board, families: Families) -> Iterator[KindAndText]:
    """What choosing on test data would have claimed, where the same splits were also run honestly."""
    for row in board.rows:
        # A tuned row has other parameters: its difference would not be the choice of the epoch.
        twins = [
            r
            for r in board.rows
            if r.method == row.method and r.selection not in (ORACLE, TUNED) and r.splits == row.splits
        ]
        if not row.oracle or not twins or math.isnan(row.value("overall")):
            continue
        honest = min(twins, key=lambda r: not r.published)
        gap = row.value("overall") - honest.value("overall")
        text = f"choosing {honest.title}'s epoch on test data would claim {percent(row.value('overall'))}%, "
        yield (
            "measured",
            text + f"{points(gap)} {'more' if gap >= 0 else 'less'} than chosen on {selected_on(honest)}",
        )


def _missing(board: Board, families: Families) -> Iterator[KindAndText]:
    for row in board.rows:
        if not row.splits:
            yield "missing", f"{row.title} has no results ({row.note})"
        elif len(row.splits) < board.splits:
            count = f"{len(row.splits)} of {board.splits} splits"
            yield "missing", f"{row.title} has {count} ({row.note}) and is not ranked"
        elif not row.complete and not row.oracle:
            yield "missing", f"{row.title} lacks a population of users and is not ranked"
