"""What a plan would ask its judge model, found by running its methods against a reader that makes no call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from prbench.base.console import progress
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.judging.backend import LABELS, Answer, Request
from prbench.judging.reader import Reader
from prbench.protocol.selection import fit_problem
from prbench.running.described import described_jobs
from prbench.running.method_job import MethodJob
from prbench.running.open_dataset import adapt_rng, support_of
from prbench.running.plan import Plan

if TYPE_CHECKING:
    from prbench.base.layout import Sheet

NUMBERS = ("calls", "stored", "tokens_in", "tokens_out_at_most", "cost_at_most")


class DryReader(Reader):
    """Answers from the store where they are there; else makes an answer up, from a hash of the question, and counts.

    A made-up text is as long as it may be and chooses either reply with equal chances.
    """

    dry: ClassVar[bool] = True

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.entry, reader.backend, store=reader.store)
        self.stored: Counter[str] = Counter()
        self._made: dict[str, Answer] = {}

    def _beside(self, name: str) -> Reader:
        made = DryReader(super()._beside(name))
        made.tally, made.spent, made.stored = self.tally, self.spent, self.stored
        return made

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """As in `Reader`, without calls."""
        keys = [self.store.key(request) for request in requests]
        found = self.store.find(key for key in keys if key not in self._made)
        self.stored["answers"] += len(found)
        for key, request in zip(keys, requests, strict=True):
            if key not in found and key not in self._made:
                self._require_room(request)
                self._made[key] = self._make_up(key, request)
                self.spent.calls += 1
                asked = self.backend.tokens(request.messages)
                self.spent.tokens_in += asked
                self.spent.tokens_out += request.limit
                self.spent.cost += self.cost(asked, request.limit)
        self._made |= found
        return [self._made[key] for key in keys]

    @staticmethod
    def _make_up(key: str, request: Request) -> Answer:
        draw = Rng("made up", key).numpy()
        if request.labels:
            return Answer(logprobs=tuple(float(value) for value in -draw.exponential(size=len(request.labels)) - 0.1))
        reason = "word " * max(1, request.limit - 20)
        return Answer(text=f"<reason>{reason}</reason><choice>{LABELS[int(draw.integers(2))]}</choice>")


def estimates(plan: Plan) -> list[dict[str, Any]]:
    """Per method and data set that a judge model reads and that is not done: the calls that are left to make, the
    answers that are stored, tokens in and, at most, out, and what these cost at most.

    Every split is gone through with made-up answers: of methods whose questions depend on answers this is an
    estimate, of the others a count. Raises InputError for a prompt that is longer than the model's context.
    """
    jobs = [job for job in plan.jobs if job.setting.reader is not None and job.open() and not job.skip]
    found = []
    for name, dry in _describing(plan).items():
        found.append({"method": f"descriptions for {name[1]}", "dataset": name[0], **_counted(dry)})
    with progress() as display:
        bar = display.add_task("estimating", total=len(jobs))
        for job in jobs:
            found.append({"method": job.name, "dataset": job.setting.entry.name, **_estimated(job, plan.shots)})
            display.advance(bar)
    return found


def _estimated(job: MethodJob, shots: Sequence[int]) -> dict[str, Any]:
    setting = job.setting
    assert setting.reader is not None
    dry = DryReader(setting.reader)
    data = setting.comparisons()
    if data.items.text is not None and job.make().unsupported(data) is None:
        items = replace(data.items, text=replace(data.items.text, reader=dry))
        _ask_all(job, replace(data, items=items), shots)
    return _counted(dry)


def _describing(plan: Plan) -> dict[tuple[str, str], DryReader]:
    """By data set and encoder, what writing the descriptions of all splits would ask."""
    found: dict[tuple[str, str], DryReader] = {}
    for setting in described_jobs([job.setting for job in plan.jobs if job.open() and not job.skip]):
        assert setting.judge is not None
        name = setting.entry.name, setting.encoder.name
        setting.descriptions(found.setdefault(name, DryReader(setting.judge)))
    return found


def _counted(dry: DryReader) -> dict[str, Any]:
    spent = dry.spent
    values = (spent.calls, dry.stored["answers"], spent.tokens_in, spent.tokens_out, round(spent.cost, 6))
    return {
        **dict(zip(NUMBERS, values, strict=True)),
        "currency": dry.entry.currency,
        "tokens": "counted" if dry.backend.counts_tokens else "estimated from characters",
    }


def _ask_all(job: MethodJob, data: Comparisons, shots: Sequence[int]) -> None:
    """Everything that the job would ask."""
    setting = job.setting
    for split, fitted in zip(setting.splits, setting.fitting_splits(type(job.make())), strict=True):
        method, rng = job.make(), adapt_rng(setting, split, job.restart)
        problem = fit_problem(job.rule, setting.data, data, fitted, setting.entry.protocol, job.restart)
        method.fit_seen(problem.train, problem.validation, rng=problem.rng)
        test = data.take(split.seen_test)
        method.margins(method.seen_users(), test)
        method.margins(method.cold_start(split.seen, data.items, rng=rng), test)
        test = data.take(split.unseen_test)
        for k in shots:
            states = method.adapt_unseen(data.take(support_of(setting, split, k)), users=split.unseen, rng=rng)
            method.margins(states, test)
        method.margins(method.cold_start(split.unseen, data.items, rng=rng), test)


def table(found: Sequence[dict[str, Any]]) -> Sheet:
    """One row per method and data set."""
    from prbench.base.layout import Sheet

    header = ("method", "data set", "calls", "stored", "tokens in", "tokens out ≤", "cost ≤", "tokens are")
    rows = [
        [
            row["method"],
            row["dataset"],
            *(f"{row[name]:,}" for name in NUMBERS[:4]),
            f"{row['cost_at_most']:,.2f} {row['currency']}",
            row["tokens"],
        ]
        for row in found
    ]
    return Sheet(title="Calls to the judge model", header=header, rows=rows, right=frozenset(range(2, 7)), needed=7)
