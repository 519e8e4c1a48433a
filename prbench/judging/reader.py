"""A judge model as methods use it: answers from the store where they are there, else from calls within a budget."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from prbench.base.errors import InputError
from prbench.comparisons import Items
from prbench.judging.answers import AnswerStore, store_of
from prbench.judging.backend import Answer, Backend, Request
from prbench.registry.schema import JudgeEntry

MILLION = 1e6
SLACK = 32
"""Tokens that a chat template may add to what was counted."""


@dataclass
class Tally:
    """What was asked: every request of a piece of work, whether its answer was stored already or not.

    `calls` of these were made now. `seconds` is the sum of the answers' own, `failures` by kind, and `shortened`
    counts prompts with fewer examples than asked for, for want of room.
    """

    asked: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    shortened: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    days: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Tally:
        """As it stands now."""
        return replace(self, failures=Counter(self.failures), models=Counter(self.models), days=Counter(self.days))

    def since(self, before: Tally) -> dict[str, Any]:
        """What was added since, as plain values."""
        numbers = ("asked", "calls", "tokens_in", "tokens_out", "cost", "seconds", "shortened")
        found: dict[str, Any] = {name: getattr(self, name) - getattr(before, name) for name in numbers}
        found["cost"], found["seconds"] = round(found["cost"], 6), round(found["seconds"], 3)
        for name in ("failures", "models", "days"):
            counts = getattr(self, name) - getattr(before, name)
            found[name] = dict(sorted(counts.items()))
        return found


@dataclass(frozen=True)
class Budget:
    """The most that a run may call: 0 for no limit. Answers that are stored cost nothing."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0


class OutOfBudgetError(InputError):
    """The next call would go beyond the budget; everything answered so far is stored."""


class Reader:
    """A judge model with its store of answers, its budget and its count of what was asked."""

    # Whether answers are made up to count them: nothing is trained then.
    dry: ClassVar[bool] = False

    def __init__(
        self,
        entry: JudgeEntry,
        backend: Backend,
        *,
        store: AnswerStore | None = None,
        budget: Budget | None = None,
        watch: Callable[[Tally], None] | None = None,
    ) -> None:
        self.entry = entry
        self.backend = backend
        self.identity = backend.identity()
        # A verdict that others stored, or that a rule gives, needs no further store.
        kept = backend.reads_prompts and not backend.instant
        place = store_of(entry.name, self.identity) if kept else None
        self.store = store or AnswerStore(place, self.identity)
        self.budget = budget or Budget()
        self.tally = Tally()
        self.spent = Tally()
        self.watch = watch
        self._ready = False
        self._seconds: dict[str, Reader] = {}

    def second(self, name: str) -> Reader:
        """The judge model called `name`, for a method that asks two: one budget and one count hold for both.

        "" and this one's own name are this one. Raises InputError as `prbench.judging.judge_entry_for` and
        `build_backend`, and where the two have prices in different currencies.
        """
        if name in ("", self.entry.name):
            return self
        if name not in self._seconds:
            self._seconds[name] = self._beside(name)
        return self._seconds[name]

    def tuned(self, backend: Backend) -> Reader:
        """This judge model with what was trained on it, counted and limited together with it."""
        return self._sharing(self.entry, backend)

    def _sharing(self, entry: JudgeEntry, backend: Backend) -> Reader:
        made = Reader(entry, backend, budget=self.budget, watch=self.watch)
        made.tally, made.spent = self.tally, self.spent
        return made

    def _beside(self, name: str) -> Reader:
        from prbench.judging import build_backend, judge_entry_for

        entry = judge_entry_for(name, option="the second judge model")
        priced = [each for each in (self.entry, entry) if each.price_in or each.price_out]
        if len({each.currency for each in priced}) > 1:
            raise InputError(
                f"{self.entry.name} has prices in {self.entry.currency} and {name} in {entry.currency}",
                hint="give both entries prices in one currency: one budget holds for both",
            )
        return self._sharing(entry, build_backend(entry, device=self.backend.device))

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers, in the order of the requests. Equal requests are asked once.

        Raises OutOfBudgetError where the budget ends, InputError for a prompt that does not fit into the model's
        context and where no call can succeed. Nothing answered before is lost.
        """
        keys = [self.store.key(request) for request in requests]
        found = self.store.find(keys)
        missing: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in found:
                missing.setdefault(key, request)
        if missing:
            found |= self._call(missing)
        for key in keys:
            self._count(found[key])
        return [found[key] for key in keys]

    def fits(self, request: Request) -> bool:
        """Whether a request fits into the model's context."""
        room = self.backend.context
        return room is None or self.backend.tokens(request.messages) + request.limit + SLACK <= room

    def _require_room(self, request: Request) -> None:
        if not self.fits(request):
            needed = self.backend.tokens(request.messages) + request.limit + SLACK
            raise InputError(
                f"a prompt of {needed:,} tokens is longer than the {self.backend.context:,} of {self.entry.name}",
                hint="take a judge model with a longer context, or show fewer examples",
            )

    def _call(self, missing: dict[str, Request]) -> dict[str, Answer]:
        """Make the calls; each answer is stored when it comes."""
        for request in missing.values():
            self._require_room(request)
        if not self._ready:
            self.backend.prepare()
            self._ready = True
        keys, requests = list(missing), list(missing.values())
        found: dict[str, Answer] = {}

        def tell(number: int, answer: Answer) -> None:
            if not answer.day:
                answer = replace(answer, day=time.strftime("%Y-%m-%d", time.gmtime()))
            found[keys[number]] = answer
            if not answer.failure:
                self.store.add(keys[number], answer)
            self.spent.calls += 1
            self.spent.tokens_in += answer.tokens_in
            self.spent.tokens_out += answer.tokens_out
            self.spent.cost += self.cost(answer.tokens_in, answer.tokens_out)
            self.spent.failures[answer.failure] += bool(answer.failure)
            self.tally.calls += 1
            if self.watch:
                self.watch(self.spent)

        if not self._limited:
            self.backend.answer(requests, tell)
            return found
        # Within a budget calls go out in small groups, so that none is made beyond it.
        start = 0
        while start < len(requests):
            size = self._affordable(requests[start:])
            part = requests[start : start + size]
            offset = start
            self.backend.answer(part, lambda i, answer, offset=offset: tell(offset + i, answer))  # type: ignore[misc]
            start += size
        return found

    @property
    def _limited(self) -> bool:
        return bool(self.budget.calls or self.budget.tokens or self.budget.cost)

    def _affordable(self, requests: Sequence[Request]) -> int:
        """How many of the requests can be called now, each at its longest. Raises OutOfBudgetError for none."""
        calls, tokens, cost = self.spent.calls, self.spent.tokens_in + self.spent.tokens_out, self.spent.cost
        for i, request in enumerate(requests):
            asked = self.backend.tokens(request.messages)
            calls, tokens = calls + 1, tokens + asked + request.limit
            cost += self.cost(asked, request.limit)
            for said, spent, most in (
                ("--max-calls", calls, self.budget.calls),
                ("--max-tokens", tokens, self.budget.tokens),
                ("--max-cost", cost, self.budget.cost),
            ):
                if most and spent > most:
                    if i:
                        return i
                    raise OutOfBudgetError(
                        f"{said} {most:g} is reached after {self.spent.calls:,} calls, "
                        f"{self.spent.tokens_in + self.spent.tokens_out:,} tokens and "
                        f"{self.spent.cost:.4g} {self.entry.currency}",
                        hint="run again with a larger one: answers are stored, and none is asked for twice",
                    )
        return len(requests)

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What tokens cost, in the entry's currency."""
        return (tokens_in * self.entry.price_in + tokens_out * self.entry.price_out) / MILLION

    def _count(self, answer: Answer) -> None:
        self.tally.asked += 1
        self.tally.tokens_in += answer.tokens_in
        self.tally.tokens_out += answer.tokens_out
        self.tally.cost += self.cost(answer.tokens_in, answer.tokens_out)
        self.tally.seconds += answer.seconds if math.isfinite(answer.seconds) else 0.0
        for name, value in (("failures", answer.failure), ("models", answer.model), ("days", answer.day)):
            if value:
                getattr(self.tally, name)[value] += 1


def reader_of(items: Items) -> Reader:
    """The judge model that reads these items. Raises InputError where they have none."""
    reader = items.text.reader if items.text is not None else None
    if not isinstance(reader, Reader):
        raise InputError("these items have no judge model to read them", hint="add --judge NAME")
    return reader
