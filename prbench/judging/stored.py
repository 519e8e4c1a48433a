"""Verdicts that were given before and published: a judge model that is read from files and never called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, digest
from prbench.base.texts import canonical_text
from prbench.comparisons import Context, as_context
from prbench.judging.backend import LABELS, Answer, Backend, Pair, Request, Tell
from prbench.loaders.json_lines import json_lines
from prbench.loaders.mt_bench import judged, response
from prbench.registry.schema import JudgeEntry

VERDICTS = {"first": 1, "second": -1, "tie": 0}
UNKNOWN = "unknown"


def _key(context: Context, one: str, other: str) -> tuple[bytes, bool]:
    """What names a pair whichever way round it is, and whether it is turned."""
    one, other = canonical_text(one), canonical_text(other)
    turned = one > other
    sides = [other, one] if turned else [one, other]
    said = [[message.role, canonical_text(message.content)] for message in context]
    return hashlib.sha256(canonical_json([said, sides]).encode()).digest(), turned


class StoredVerdicts(Backend):
    """Verdicts from a file of JSON lines with `context` (text or messages), `first`, `second` and `verdict`.

    A verdict is "first", "second" or "tie"; it holds whichever way round the pair is asked about, since the
    published ones were made of both orders. Several verdicts on one pair, as where two models
    gave the same reply, are averaged. A pair that the file does not have is a failure ("unknown"). `file` is looked
    for from the present folder.
    """

    reads_prompts: ClassVar[bool] = False
    writes: ClassVar[bool] = False

    def __init__(self, *, file: str) -> None:
        self.file = Path(file).expanduser()
        self._verdicts: dict[bytes, float] | None = None

    def found(self) -> Iterator[tuple[Context, str, str, str]]:
        """(context, first reply, second reply, verdict) of every line. Raises InputError naming a faulty one."""
        if not self.file.is_file():
            raise InputError(f"there is no file {self.file}", hint="options.file of the judge model's entry names it")
        for line, record in json_lines(self.file):
            where = f"{self.file}, line {line}"
            sides = [record.get(name) for name in ("first", "second")]
            if not all(isinstance(side, str) for side in sides) or not isinstance(record.get("context"), str | list):
                raise InputError(f"{where}: context, first or second is missing or not a text")
            verdict = record.get("verdict")
            if verdict not in VERDICTS:
                raise InputError(f"{where}: verdict is {str(verdict)[:40]!r}, expected {', '.join(VERDICTS)}")
            yield as_context(record["context"]), str(sides[0]), str(sides[1]), verdict

    def verdicts(self) -> Mapping[bytes, float]:
        """From 1 (the first in sorted order) to −1 by pair: the mean where a pair has several verdicts."""
        if self._verdicts is None:
            read: dict[bytes, list[int]] = {}
            for context, first, second, verdict in self.found():
                key, turned = _key(context, first, second)
                read.setdefault(key, []).append(-VERDICTS[verdict] if turned else VERDICTS[verdict])
            self._verdicts = {key: sum(values) / len(values) for key, values in read.items()}
        return self._verdicts

    def identity(self) -> dict[str, Any]:
        """The verdicts themselves."""
        known = sorted((key.hex(), value) for key, value in self.verdicts().items())
        return {"kind": "stored verdicts", "verdicts": digest(known)}

    def answer(self, requests: Sequence[Request], tell: Tell) -> None:
        """Look each pair up."""
        for number, request in enumerate(requests):
            tell(number, self._answer(request.pair))

    def _answer(self, pair: Pair | None) -> Answer:
        if pair is None:
            return Answer(failure=UNKNOWN)
        key, turned = _key(*pair)
        value = self.verdicts().get(key)
        if value is None:
            return Answer(failure=UNKNOWN)
        value = -value if turned else value
        # Odds of e^±1/2: a tie has the same odds for both letters.
        return Answer(
            text=LABELS[0] if value > 0 else LABELS[1] if value < 0 else "", logprobs=(value / 2, -value / 2)
        )


class MTBenchVerdicts(StoredVerdicts):
    """The verdicts on pairs of replies that the release of the MT-bench human judgments holds.

    Zheng et al. 2023, arXiv 2306.05685, section 4: each pair was asked about in both orders, and a verdict that the
    order decided is "tie (inconsistent)".
    """

    def __init__(self, *, entry: JudgeEntry) -> None:
        super().__init__(file="")
        self._entry = entry

    def found(self) -> Iterator[tuple[Context, str, str, str]]:
        """As in `StoredVerdicts`, from the release's files or the hub's."""
        from prbench.data.downloads import RawFiles

        for vote, sides in judged(RawFiles(self._entry)):
            first, second = (response(side, vote.turn) for side in sides)
            context = as_context(sides[0].questions[0])
            said = "tie" if vote.winner is None else ("first", "second")[vote.winner]
            yield context, first, second, said
